"""Results: logs in, one frame of answers out, and the figures of its conditions."""

from steering.results.conditions import (
    ConditionResult,
    condition_results,
    conditions_of,
    judged_answers,
    read_frame,
    write_frames,
)
from steering.results.frame import LeftOut, ResultError, left_out, read_answers
from steering.results.schema import FrameError, check_answers, check_conditions
from steering.results.settings import differing_settings

__all__ = [
    "ConditionResult",
    "FrameError",
    "LeftOut",
    "ResultError",
    "check_answers",
    "check_conditions",
    "condition_results",
    "conditions_of",
    "differing_settings",
    "judged_answers",
    "left_out",
    "read_answers",
    "read_frame",
    "write_frames",
]
