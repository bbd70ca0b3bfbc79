"""Results: logs in, one frame of answers and one of choices out, and the figures of conditions."""

from steering.results.choices import (
    ChoiceResult,
    choice_conditions_of,
    choice_results,
    read_choices,
    read_results,
)
from steering.results.conditions import (
    ConditionResult,
    condition_results,
    conditions_of,
)
from steering.results.contexts import choice_contexts_of, contexts_of
from steering.results.frame import LeftOut, ResultError, left_out, read_answers
from steering.results.frame_check import FrameError
from steering.results.frame_files import read_frame, write_frames
from steering.results.judged_rows import judged_answers
from steering.results.labels import Label, LabelError, read_labels
from steering.results.schema import check_answers, check_choices, check_conditions
from steering.results.settings import differing_settings
from steering.results.task_metrics import metrics_of
from steering.results.task_scores import read_all_results, read_scores

__all__ = [
    "ChoiceResult",
    "ConditionResult",
    "FrameError",
    "Label",
    "LabelError",
    "LeftOut",
    "ResultError",
    "check_answers",
    "check_choices",
    "check_conditions",
    "choice_conditions_of",
    "choice_contexts_of",
    "choice_results",
    "condition_results",
    "conditions_of",
    "contexts_of",
    "differing_settings",
    "judged_answers",
    "left_out",
    "metrics_of",
    "read_all_results",
    "read_answers",
    "read_choices",
    "read_frame",
    "read_labels",
    "read_results",
    "read_scores",
    "write_frames",
]
