"""The evaluations: what Inspect lists and runs. One file a task."""

from evals.em_freeform import em_freeform
from evals.em_target import em_target
from evals.judge_calibration import judge_calibration

TASKS = {task.__name__: task for task in (em_freeform, em_target, judge_calibration)}

__all__ = ["TASKS", "em_freeform", "em_target", "judge_calibration"]
