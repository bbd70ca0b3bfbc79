"""Tasks of anybody: found as Inspect finds them, and created before a model is loaded.

A task is named as for `inspect eval`: a file with one task, `file@task`, or the registered name of
an installed package. To count its samples the file is run, as Inspect runs it.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError, no_such_option, one_line
from steering.judging.tasks import own_options
from steering.logs import SCORER
from steering.results.task_scores import MODEL_GRADED
from steering.studies.errors import StudyError
from steering.studies.eval_sets import EvalOptions

if TYPE_CHECKING:
    from inspect_ai import Task

_REMEDY = "give FILE.py, FILE.py@TASK, or PACKAGE/TASK of an installed package"


@dataclass(frozen=True)
class OtherTask:
    """A task that is asked besides or instead of this suite's own.

    Attributes:
        options: What every condition is asked.
        num_answers: Of each condition.
        scorers: Names of its scorers.
    """

    options: EvalOptions
    num_answers: int
    scorers: Sequence[str]

    @property
    def is_judged(self) -> bool:
        """Whether its answers are judged by this suite, which needs a judge."""
        return SCORER in self.scorers

    def lines(self) -> list[str]:
        """What it costs each condition, and who grades its answers where nobody was named."""
        name, number = self.options.name, self.num_answers
        lines = [f"{name}: {number:,} answer{'s' * (number != 1)} under each condition."]
        graded = [name for name in self.scorers if name in MODEL_GRADED]
        if graded and self.options.grader is None:
            lines.append(
                f"{name}: {graded[0]} asks the model under test where the task names "
                "no judge, so that each condition would grade itself: give a judge as --grader."
            )
        return lines


def read_task(
    name: str,
    task_args: Mapping[str, Any],
    *,
    grader: str | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> OtherTask:
    """A task by its name, created with its options.

    Args:
        name: As for `inspect eval`.
        task_args: As -T takes them.
        grader: As of `EvalOptions`; likewise `seed` and `limit`.
        seed: See there.
        limit: See there.

    Raises:
        StudyError: There is no such task, there are several, it has no such option or no scorer,
            or it can't be created.
    """
    from inspect_ai import Task
    from inspect_ai.util import registry_info

    file, at, function = name.rpartition("@") if "@" in name else (name, "", "")
    path = Path(file)
    if path.suffix == ".py" or path.exists():
        spec, task = _from_file(path, function if at else None, task_args)
    else:
        spec, task = name, _from_registry(name, task_args)
    if not isinstance(task, Task):
        raise StudyError(f"{spec} gives a {type(task).__name__} and not a Task of Inspect")
    if not task.scorer:
        raise StudyError(f"{spec} has no scorer, so that no condition would have a figure: add one")
    scorers = [registry_info(scorer).name.rpartition("/")[2] for scorer in task.scorer]
    logged = task.name.removeprefix("steering/")
    options = EvalOptions(dict(task_args), grader, seed, spec, limit, name=logged)
    number = len(task.dataset) if limit is None else min(limit, len(task.dataset))
    return OtherTask(options, number * (task.epochs or 1), scorers)


def _from_file(path: Path, name: str | None, task_args: Mapping[str, Any]) -> tuple[str, "Task"]:
    from inspect_ai import list_tasks

    if path.suffix != ".py" or not path.is_file():
        what = "is no Python file" if path.exists() else "does not exist"
        raise StudyError(f"the task file {path} {what}: {_REMEDY}")
    whole = path.resolve()
    with _errors_of(path):
        names = [each.name for each in list_tasks(whole.name, root_dir=whole.parent)]
    if not names:
        raise StudyError(f"{path} defines no task: mark a function that returns a Task with @task")
    if name is None and len(names) > 1:
        listed = ", ".join(names)
        raise StudyError(
            f"{path} defines {len(names)} tasks ({listed}): name one, as {path}@{names[0]}"
        )
    name = names[0] if name is None else name
    if name not in names:
        raise StudyError(f"{path} defines no task {name}: it defines {', '.join(names)}")
    with _errors_of(path), _beside(whole):
        spec = spec_from_file_location(whole.stem, whole)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        task = _task_in(vars(module).values(), name)
    if task is None:
        raise StudyError(f"{path} defines no task {name} once it is run")
    allowed = own_options(task)
    for option in task_args:
        if option not in allowed and not _takes_any(task):
            raise StudyError(f"-T {no_such_option(option, allowed, f'of {name}')}")
    with _errors_of(path), _beside(whole):
        return f"{path}@{name}", task(**task_args)


def _task_in(values: Any, name: str) -> "Callable[..., Task] | None":
    """The task function of a name, among what a module defines."""
    from inspect_ai.util import registry_info

    for value in values:
        try:
            info = registry_info(value)
        except ValueError:
            continue
        if info.type == "task" and info.name.rpartition("/")[2] == name:
            return value
    return None


def _takes_any(task: "Callable[..., Task]") -> bool:
    import inspect

    parameters = inspect.signature(task).parameters.values()
    return any(each.kind is each.VAR_KEYWORD for each in parameters)


def _from_registry(name: str, task_args: Mapping[str, Any]) -> "Task":
    from inspect_ai.util import registry_create

    try:
        with _errors_of(name):
            return registry_create("task", name, **task_args)
    except LookupError:
        raise StudyError(
            f"there is no task {name}, neither a file nor registered by a package: {_REMEDY}"
        ) from None


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Run code of a file as Inspect does: from its folder, whose modules it may import."""
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        with chdir(folder):
            yield
    finally:
        sys.path.remove(folder)


@contextmanager
def _errors_of(name: object) -> Iterator[None]:
    """Raise what the code of a task raises as an error of the study."""
    try:
        yield
    except SteeringError:
        raise
    # The code of a task may raise anything.
    except Exception as error:
        # Inspect's own, of a name that is not registered.
        if type(error) is LookupError:
            raise
        # A task of this suite wraps our errors for Inspect's command line.
        if isinstance(error.__cause__, SteeringError):
            raise error.__cause__ from None
        words = one_line(f"{type(error).__name__}: {error}")
        raise StudyError(
            f"the task {name} can't be created ({words}): run it with inspect eval first"
        ) from error
