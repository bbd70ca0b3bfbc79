"""Judging: rubrics, judges, scorers and EM rules. Nothing in this room imports torch."""

from steering.judging.errors import JudgingError
from steering.judging.judge_failures import Failures, judge_failures
from steering.judging.judgement import JudgedAnswer, Judgement, shortened
from steering.judging.judges import (
    DEFAULT_GRADER,
    ask_judge,
    grader_model,
    require_grader,
)
from steering.judging.metrics import (
    EM_RULES,
    EMRule,
    Estimate,
    Provenance,
    Thresholds,
    answer_shares,
    em_rate,
    judged_answer,
    mean_scores,
    question_rates,
)
from steering.judging.protocols import PROTOCOLS, Protocol, choose_protocol
from steering.judging.rubric import (
    DIMENSIONS,
    SCORE_KEYS,
    Rubric,
    load_rubric,
)
from steering.judging.scorers import coherence, em_judge, misalignment, relevance
from steering.judging.tasks import em_task

__all__ = [
    "DEFAULT_GRADER",
    "DIMENSIONS",
    "EM_RULES",
    "PROTOCOLS",
    "SCORE_KEYS",
    "EMRule",
    "Estimate",
    "Failures",
    "JudgedAnswer",
    "Judgement",
    "JudgingError",
    "Protocol",
    "Provenance",
    "Rubric",
    "Thresholds",
    "answer_shares",
    "ask_judge",
    "choose_protocol",
    "coherence",
    "em_judge",
    "em_rate",
    "em_task",
    "grader_model",
    "judge_failures",
    "judged_answer",
    "load_rubric",
    "mean_scores",
    "misalignment",
    "question_rates",
    "relevance",
    "require_grader",
    "shortened",
]
