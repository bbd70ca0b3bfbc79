"""Judging: rubrics, judges, scorers and EM rules. Nothing in this room imports torch."""

from steering.judging.judge_failures import Failures, judge_failures
from steering.judging.judgement import JudgedAnswer, shortened
from steering.judging.metrics import (
    Estimate,
    Provenance,
    answer_shares,
    em_rate,
    judged_answer,
    mean_scores,
    question_rates,
    theme_rates,
)
from steering.judging.protocols import choose_protocol
from steering.judging.rubric import DIMENSIONS, KEYS_OF_ALL, KEYS_OF_MISALIGNED, SCORE_KEYS
from steering.judging.rules import EM_RULES, EMRule, Thresholds, is_harmful
from steering.judging.scorers import em_judge
from steering.judging.tasks import em_task
