"""Judging: rubrics, judges, scorers, EM rules with their intervals, and question files.

Question files become samples (`questions`), answers go to a judge that follows a rubric (`rubric`,
`judges`, `scorers`), and scores add up to rates (`metrics`, `intervals`, `comparison`). Nothing in
this room imports torch.
"""

from steering.judging.comparison import (
    Difference,
    between_question_sd,
    minimum_detectable_difference,
    paired_bootstrap,
    paired_difference,
)
from steering.judging.failures import Failures, judge_failures
from steering.judging.intervals import (
    Interval,
    bootstrap_interval,
    cluster_interval,
    cluster_standard_error,
    design_effect,
    mean_interval,
)
from steering.judging.judges import (
    DEFAULT_GRADER,
    GraderError,
    ask_judge,
    grader_model,
    require_grader,
)
from steering.judging.metrics import (
    EM_RULES,
    Bounds,
    EMRule,
    Estimate,
    MetricError,
    Provenance,
    answer_shares,
    em_rate,
    judged_answer,
    mean_scores,
    question_rates,
)
from steering.judging.protocols import PROTOCOLS, Protocol, choose_protocol
from steering.judging.questions import (
    QuestionError,
    QuestionSet,
    held_out_questions,
    load_questions,
)
from steering.judging.rubric import (
    DIMENSIONS,
    SCORE_KEYS,
    Dimension,
    Rubric,
    RubricError,
    ScoreKey,
    load_rubric,
)
from steering.judging.scorers import coherence, em_judge, misalignment, relevance
from steering.judging.tasks import em_task
from steering.judging.verdicts import JudgedAnswer, Verdict, shortened

__all__ = [
    "DEFAULT_GRADER",
    "DIMENSIONS",
    "EM_RULES",
    "PROTOCOLS",
    "SCORE_KEYS",
    "Bounds",
    "Difference",
    "Dimension",
    "EMRule",
    "Estimate",
    "Failures",
    "GraderError",
    "Interval",
    "JudgedAnswer",
    "MetricError",
    "Protocol",
    "Provenance",
    "QuestionError",
    "QuestionSet",
    "Rubric",
    "RubricError",
    "ScoreKey",
    "Verdict",
    "answer_shares",
    "ask_judge",
    "between_question_sd",
    "bootstrap_interval",
    "choose_protocol",
    "cluster_interval",
    "cluster_standard_error",
    "coherence",
    "design_effect",
    "em_judge",
    "em_rate",
    "em_task",
    "grader_model",
    "held_out_questions",
    "judge_failures",
    "judged_answer",
    "load_questions",
    "load_rubric",
    "mean_interval",
    "mean_scores",
    "minimum_detectable_difference",
    "misalignment",
    "paired_bootstrap",
    "paired_difference",
    "question_rates",
    "relevance",
    "require_grader",
    "shortened",
]
