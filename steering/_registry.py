"""What Inspect finds through the entry point. Imports nothing heavy."""

from collections.abc import Callable
from functools import wraps

from inspect_ai import Task, task
from inspect_ai.model import ModelAPI, modelapi

from evals import TASKS
from steering.judging.calibration.task import calibration
from steering.judging.dimensions import judged_dimensions
from steering.judging.leak import target_leak
from steering.judging.scorers import coherence, em_judge, misalignment, relevance


@modelapi(name="steered")
def steered() -> type[ModelAPI]:
    """`steered/<name>`: a local model, steered."""
    from steering.provider.api import SteeredAPI

    return SteeredAPI


@modelapi(name="toy")
def toy() -> type[ModelAPI]:
    """`toy/judge`: the toy world's own judge."""
    from steering.toy.judge import ToyJudgeAPI

    return ToyJudgeAPI


def _under_this_package(function: Callable[..., Task]) -> Callable[..., Task]:
    """A task of `evals/` under this package's name: `inspect eval steering/<task>`, anywhere."""

    @wraps(function)
    def named_task(*args: object, **options: object) -> Task:
        return function(*args, **options)

    named_task.__module__ = __name__  # Inspect names a task by the package of its module
    return task(named_task)


globals().update({name: _under_this_package(function) for name, function in TASKS.items()})

__all__ = [
    "calibration",
    "coherence",
    "em_judge",
    "judged_dimensions",
    "misalignment",
    "relevance",
    "steered",
    "target_leak",
    "toy",
]
__all__ += TASKS
