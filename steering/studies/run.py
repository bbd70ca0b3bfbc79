"""A study's points through one Inspect eval-set, and back from its logs.

All points share an engine, so a study is one big batch; what a stopped run has answered is not
asked again. Knows model strings and options; nothing of vectors, adapters or pictures.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

import steering
from steering.errors import SteeringError
from steering.judging.judges import DEFAULT_GRADER, usable_judge
from steering.report.results import Result, read_complete_results

Arm = Literal["baseline", "steered", "finetuned"]
# The tasks stand beside the package, in a clone and in a wheel.
TASK = Path(steering.__file__).parents[1] / "evals" / "em_freeform.py"


class StudyError(SteeringError):
    """A study can't be run, or its logs are not those of its points."""


@dataclass(frozen=True)
class Point:
    """One condition of a study.

    Attributes:
        arm: What is done to the model.
        dose: How much of it: a magnitude, a training epoch, an adapter's scale; 0 for the baseline.
        options: As -M takes them.
        label: The condition's, as logs and tables have it.
    """

    arm: Arm
    dose: float
    options: Mapping[str, Any]
    label: str


@dataclass(frozen=True)
class Asked:
    """What every point of a study is asked, and by whom it is judged.

    Attributes:
        task_args: As -T takes them.
        grader: The judge or judges, as --model-role grader= has it; None for the default one.
        seed: Of the answers; the same for each point, so that points pair up.
    """

    task_args: Mapping[str, Any] = field(default_factory=dict)
    grader: str | None = None
    seed: int = 0


def run_points(
    model: str, points: Sequence[Point], asked: Asked, logs: Path, *, display: str | None = None
) -> list[Path]:
    """Run what is missing of a study.

    Args:
        model: Name of the model, without `steered/`.
        points: The conditions.
        asked: What they are asked.
        logs: The study's folder of logs.
        display: As Inspect's --display.

    Returns:
        The logs of the points, those that were there before and those that are new; the folder may
        hold others, of other questions say.

    Raises:
        StudyError: A point did not come to its end.
    """
    from inspect_ai import eval_set
    from inspect_ai.model import get_model

    models = [get_model(f"steered/{model}", memoize=False, **point.options) for point in points]
    done, found = eval_set(
        f"{TASK}@{TASK.stem}",
        log_dir=str(logs),
        model=models,
        task_args=dict(asked.task_args),
        model_roles=_roles(asked.grader),
        seed=asked.seed,
        display=display,  # type: ignore[arg-type]
        log_dir_allow_dirty=True,
        # What fails here fails again: a local model has no bad moments.
        retry_attempts=1,
    )
    finished = {log.eval.model for log in found if log.status == "success"}
    left = [str(made) for made in models if str(made) not in finished]
    # An eval-set that was interrupted calls itself done.
    if left or not done:
        raise StudyError(
            f"{len(left)} of {len(points)} conditions did not finish ({', '.join(left[:3])}): the "
            f"same command goes on from here; what went wrong shows inspect view --log-dir {logs}"
        )
    return [Path(url2pathname(urlparse(log.location).path)) for log in found]


def num_answers(asked: Asked) -> int:
    """Answers that each point is asked for.

    Raises:
        StudyError: The task has no such option.
        SteeringError: An option's value is impossible.
    """
    spec = spec_from_file_location(TASK.stem, TASK)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    options = list(inspect.signature(module.em_freeform).parameters)
    for name in asked.task_args:
        if name not in options:
            raise StudyError(
                f"-T {name}= is not an option of {TASK.stem}: it has {', '.join(options)}"
            )
    try:
        task = module.em_freeform(**asked.task_args)
    except Exception as error:
        # The task dresses our errors for Inspect's command line; here they are ours again.
        if isinstance(error.__cause__, SteeringError):
            raise error.__cause__ from None
        raise
    return len(task.dataset) * (task.epochs or 1)


def check_judges(asked: Asked, *, toy: bool) -> None:
    """Make sure that there is a judge, before anything is trained.

    Args:
        asked: Says who judges.
        toy: Whether the model is the toy, which brings a judge of its own.

    Raises:
        GraderError: A judge can't be used.
        StudyError: What names the judges can't be read.
    """
    remedy = "give a judge as --grader <provider>/<model>"
    if asked.grader is None:
        if not toy:
            usable_judge(DEFAULT_GRADER, f"the default judge {DEFAULT_GRADER}", remedy)
        return
    named = _roles(asked.grader)["grader"]
    for judge in named if isinstance(named, list) else [named]:
        if isinstance(judge, str):
            usable_judge(judge, f"the judge {judge}", remedy)


def _roles(grader: str | None) -> dict[str, Any]:
    """The grader role, as Inspect's own command line reads it."""
    if grader is None:
        return {}
    from inspect_ai._cli.util import parse_model_role_cli_args

    try:
        return dict(parse_model_role_cli_args((f"grader={grader}",)))
    except Exception as error:
        raise StudyError(
            f"--grader {grader} can't be read ({' '.join(str(error).split())[:200]}): write "
            "<provider>/<model>, several with commas, or {model: <provider>/<model>, ...}"
        ) from None


def read_points(points: Sequence[Point], logs: Sequence[Path]) -> list[tuple[Point, Result]]:
    """Each point with its answers.

    Args:
        points: The conditions.
        logs: As `run_points` returned them.

    Raises:
        StudyError: A point has no log, or more than one.
        ReportError: A run is incomplete.
    """
    results: dict[str, list[Result]] = {}
    for result in (found for log in logs for found in read_complete_results(log)):
        results.setdefault(_label(result), []).append(result)
    found = []
    for point in points:
        of_point = results.get(point.label, [])
        if len(of_point) != 1:
            raise StudyError(
                f"there are {len(of_point)} runs of [{point.label}], and one is needed: give the "
                "study a new folder as --log-dir"
            )
        found.append((point, of_point[0]))
    return found


def doses_of(found: Sequence[tuple[Point, Result]], arm: Arm) -> dict[float, Result]:
    """An arm's results by dose; the baseline is dose 0 of every arm."""
    return {point.dose: result for point, result in found if point.arm in ("baseline", arm)}


def _label(result: Result) -> str:
    return result.condition.partition("[")[2].removesuffix("]")
