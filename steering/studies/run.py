"""A study's points through one Inspect eval-set, and back from its logs.

All points share an engine, so a study is one big batch; what a stopped run has answered is not
asked again. Knows model strings and options; nothing of vectors, adapters or pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import steering
from steering.engines import release_engines
from steering.errors import SteeringError, no_such_option
from steering.judging import DIMENSIONS
from steering.judging.judges import DEFAULT_GRADER, usable_judge
from steering.judging.tasks import own_options
from steering.logs import each_header, local_path
from steering.studies.grid import Point, StudyError

# The tasks stand beside the package, in a clone and in a wheel.
TASK = Path(steering.__file__).parents[1] / "evals" / "em_freeform.py"
# For a guess at the cost: answers of chat models to such questions have some 150 tokens, and a
# rubric, a question and an answer some 600.
_ANSWER_TOKENS = 150
_JUDGE_TOKENS = 600


@dataclass(frozen=True)
class Asked:
    """What every point of a study is asked, and by whom it is judged.

    Attributes:
        task_args: As -T takes them.
        grader: The judge or judges, as --model-role grader= has it; None for the default one.
        seed: Of the answers; the same for each point, so that points pair up.
        task: As `inspect eval` takes it.
        limit: Samples of it; None for all.
    """

    task_args: Mapping[str, Any] = field(default_factory=dict)
    grader: str | None = None
    seed: int = 0
    task: str = f"{TASK}@{TASK.stem}"
    limit: int | None = None


def run_points(
    study: str, points: Sequence[Point], asked: Asked, logs: Path, *, display: str | None = None
) -> list[Path]:
    """Run what is missing of a study, one model after the other.

    Args:
        study: Its factor, which the logs bear.
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
    of_models: dict[str, list[Point]] = {}
    for point in points:
        of_models.setdefault(point.model, []).append(point)
    found: list[Path] = []
    for number, group in enumerate(of_models.values()):
        if number:
            release_engines()
        found += _run_model(study, group, asked, logs, display)
    return found


def _run_model(
    study: str, points: Sequence[Point], asked: Asked, logs: Path, display: str | None
) -> list[Path]:
    from inspect_ai import eval_set
    from inspect_ai.model import get_model

    models = [
        get_model(f"steered/{point.model}", memoize=False, **point.options) for point in points
    ]
    done, found = eval_set(
        asked.task,
        log_dir=str(logs),
        model=models,
        task_args=dict(asked.task_args),
        model_roles=_roles(asked.grader),
        metadata={"study": study},
        seed=asked.seed,
        limit=asked.limit,
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
    return [Path(local_path(log.location)) for log in found]


def unfinished(points: Sequence[Point], asked: Asked, logs: Path) -> list[Point]:
    """The points that have no finished run of these questions in a folder of logs."""
    if not logs.is_dir():
        return list(points)
    done = {
        header.eval.model
        for _, _, header in each_header(logs)
        if header.status == "success"
        and header.eval.task_args_passed == dict(asked.task_args)
        and header.plan.config.seed == asked.seed
    }
    return [point for point in points if point.name not in done]


@dataclass(frozen=True)
class Cost:
    """What conditions cost.

    Attributes:
        answers: Of each condition.
        max_tokens: Of an answer.
        leak: Whether misaligned answers are judged once more.
    """

    answers: int
    max_tokens: int
    leak: bool

    def told(self, conditions: int) -> str:
        """In words, for so many conditions."""
        answers = conditions * self.answers
        again = ", and one more for each misaligned answer" if self.leak else ""
        tokens = answers * _ANSWER_TOKENS, len(DIMENSIONS) * answers * _JUDGE_TOKENS
        return (
            f"{conditions} conditions to run, {self.answers} answers each: {answers:,} answers of "
            f"{self.max_tokens} tokens at the most, {len(DIMENSIONS) * answers:,} calls of each "
            f"judge{again}. At {_ANSWER_TOKENS} tokens an answer, about {tokens[0]:,} tokens to "
            f"generate and {tokens[1]:,} for each judge to read."
        )


def cost_of(asked: Asked) -> Cost:
    """What a condition costs.

    Raises:
        StudyError: The task has no such option.
        SteeringError: An option's value is impossible.
    """
    spec = spec_from_file_location(TASK.stem, TASK)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    options = own_options(module.em_freeform)
    for name in asked.task_args:
        if name not in options:
            raise StudyError(f"-T {no_such_option(name, options, f'of {TASK.stem}')}")
    try:
        task = module.em_freeform(**asked.task_args)
    except Exception as error:
        # The task dresses our errors for Inspect's command line; here they are ours again.
        if isinstance(error.__cause__, SteeringError):
            raise error.__cause__ from None
        raise
    return Cost(
        answers=len(task.dataset) * (task.epochs or 1),
        max_tokens=task.config.max_tokens or 0,
        leak=asked.task_args.get("leak") is not None,
    )


def check_judges(asked: Asked, *, toy: bool) -> None:
    """Make sure that there is a judge, before anything is trained.

    Args:
        asked: Says who judges.
        toy: Whether the model is the toy, which brings a judge of its own.

    Raises:
        JudgingError: A judge can't be used.
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
