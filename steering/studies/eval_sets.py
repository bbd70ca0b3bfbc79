"""Conditions through one Inspect eval-set, and what that costs.

All conditions of a model share an engine, so a study is one large batch; a run that was stopped
goes on where it was and repeats no answer. Knows model strings and options; nothing of vectors,
adapters or pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import steering
from steering.condition import choose_engine, resolve_condition, resolve_model
from steering.engines import release_engines
from steering.errors import SteeringError, no_such_option
from steering.judging.default_judge import (
    LOCAL_JUDGE,
    default_judge,
    require_key,
    usable_judge,
)
from steering.judging.rubric import OF_ALL, OF_MISALIGNED
from steering.judging.rubric_files import read_rubrics
from steering.judging.tasks import own_options
from steering.logs import each_header, local_path, task_of
from steering.questions import load_choices
from steering.spec import parse_options
from steering.studies.errors import StudyError
from steering.text import view_command

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.log import EvalLog

# The tasks stand beside the package, in a clone and in a wheel.
TASK = Path(steering.__file__).parents[1] / "evals" / "em_freeform.py"
CHOICE_TASK = TASK.with_name("em_choice.py")
# The option of em_choice, and its value that leaves em_choice out of a study or an audit.
CHOICES, NO_CHOICES = "choices", "none"
# For an estimate of the cost: answers of chat models to such questions have some 150 tokens, and a
# rubric, a question and an answer some 600.
_ANSWER_TOKENS = 150
_JUDGE_TOKENS = 600


@dataclass(frozen=True)
class StudyCondition:
    """One condition of a study: a model without `steered/`, its -M options, and the label."""

    model: str
    options: Mapping[str, Any]
    label: str

    @property
    def name(self) -> str:
        """As a log names it."""
        return f"steered/{self.model}[{self.label}]"


def make_condition(model: str, options: Mapping[str, Any]) -> StudyCondition:
    """A condition by its options, checked as far as it can be without weights.

    Raises:
        SteeringError: It is impossible.
    """
    spec = parse_options(options)
    condition = resolve_condition(resolve_model(model, spec), spec)
    return StudyCondition(model, options, condition.label)


@dataclass(frozen=True)
class EvalOptions:
    """What every condition is asked, and by whom it is judged.

    Attributes:
        task_args: As -T takes them.
        grader: The judge or judges, as --model-role grader= has it; None for the default one.
        seed: Of the answers; the same for each condition, so that their answers pair up.
        task: As `inspect eval` takes it.
        limit: Samples of it; None for all.
        metadata: Of the logs, besides the study's name.
        name: Of the task, as logs have it.
    """

    task_args: Mapping[str, Any] = field(default_factory=dict)
    grader: str | None = None
    seed: int = 0
    task: str = f"{TASK}@{TASK.stem}"
    limit: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    name: str = TASK.stem

    def asks(self, condition: StudyCondition) -> bool:
        """Whether the task can be run of a condition: vLLM can't score given answers."""
        is_choice = self.task.startswith(str(CHOICE_TASK))
        return not is_choice or choose_engine(parse_options(condition.options)) != "vllm"


def choice_options(task: Mapping[str, Any], seed: int = 0) -> EvalOptions | None:
    """em_choice beside the judged answers of the same conditions; None where it is left out.

    Args:
        task: As -T takes them; `choices` is the set of pairs, and `none` leaves em_choice out.
        seed: Of the answers.
    """
    choices = str(task.get(CHOICES, "core"))
    if choices == NO_CHOICES:
        return None
    spec = f"{CHOICE_TASK}@{CHOICE_TASK.stem}"
    return EvalOptions({CHOICES: choices}, seed=seed, task=spec, name=CHOICE_TASK.stem)


def num_choices(options: EvalOptions | None, *, toy: bool) -> int:
    """How many prompts with written answers em_choice has; 0 where it is left out.

    Raises:
        QuestionError: There is no such set of pairs.
    """
    return len(load_choices(options.task_args[CHOICES], toy=toy).samples) if options else 0


def run_conditions(
    study: str,
    conditions: Sequence[StudyCondition],
    tasks: Sequence[EvalOptions],
    logs: Path,
    *,
    display: str | None = None,
) -> list[Path]:
    """Run those conditions that have not been run, one model after the other, each task in turn.

    The logs, in the folder `logs`, bear the name of the study; `display` is as Inspect's.

    Returns:
        The logs of these conditions, earlier and new ones; the folder may hold others.

    Raises:
        StudyError: A condition did not finish.
    """
    paths: list[Path] = []
    for model in dict.fromkeys(condition.model for condition in conditions):
        if paths:
            release_engines()
        group = [condition for condition in conditions if condition.model == model]
        for options in tasks:
            asked = [condition for condition in group if options.asks(condition)]
            paths += _run_model(study, asked, options, logs, display) if asked else []
    return paths


def _run_model(
    study: str,
    conditions: Sequence[StudyCondition],
    options: EvalOptions,
    logs: Path,
    display: str | None,
) -> list[Path]:
    from inspect_ai import eval_set
    from inspect_ai.model import get_model

    models = [
        get_model(f"steered/{condition.model}", memoize=False, **condition.options)
        for condition in conditions
    ]
    success, headers = eval_set(
        options.task,
        log_dir=str(logs),
        model=models,
        task_args=dict(options.task_args),
        model_roles=judge_roles(options.grader),
        metadata={"study": study, **options.metadata},
        seed=options.seed,
        limit=options.limit,
        display=display,  # type: ignore[arg-type]
        log_dir_allow_dirty=True,
        # What fails here fails again: a local model has no bad moments.
        retry_attempts=1,
    )
    finished = {header.eval.model for header in headers if header.status == "success"}
    failed = [str(model) for model in models if str(model) not in finished]
    # An eval-set that was interrupted reports success.
    if failed or not success:
        raise StudyError(
            f"{len(failed)} of {len(conditions)} conditions did not finish "
            f"({', '.join(failed[:3])}). See why with: {view_command(logs)}. The same "
            "command goes on from here"
        )
    return [Path(local_path(header.location)) for header in headers]


def unfinished(
    conditions: Sequence[StudyCondition], options: EvalOptions, logs: Path
) -> list[StudyCondition]:
    """The conditions that have no finished run of this task in a folder of logs."""
    conditions = [condition for condition in conditions if options.asks(condition)]
    if not logs.is_dir():
        return conditions
    rubrics = read_rubrics(options.task_args.get("dimensions"))
    digests = {rubric.score: rubric.sha256 for rubric in rubrics}
    finished = {
        header.eval.model
        for _, _, header in each_header(logs)
        if header.status == "success"
        and task_of(header) == options.name
        and header.eval.config.limit == options.limit
        and header.eval.task_args_passed == dict(options.task_args)
        and header.plan.config.seed == options.seed
        and _is_judged_by(header, digests)
    }
    return [condition for condition in conditions if condition.name not in finished]


def _is_judged_by(header: "EvalLog", digests: Mapping[str, str]) -> bool:
    """Whether a log's dimensions are those of some rubrics, whose files may have changed since."""
    logged = (header.eval.metadata or {}).get("dimensions", {})
    same = logged.keys() == digests.keys()
    return same and all(digests[key].startswith(text) for key, text in logged.items())


@dataclass(frozen=True)
class Cost:
    """What a condition costs; with `leak`, misaligned answers are judged once more.

    `num_dimensions` more calls judge each answer in dimensions of the user's own; `num_choices`
    prompts have written answers that em_choice scores.
    """

    num_answers: int
    max_tokens: int
    leak: bool
    num_choices: int = 0
    num_dimensions: int = 0

    def summary(self, num_conditions: int) -> str:
        """In words, for so many conditions."""
        if not self.num_answers and not self.num_choices:
            return f"{num_conditions} conditions to run."
        if not self.num_answers:
            return (
                f"{num_conditions} conditions to run. No answers are written; em_choice scores "
                f"written answers to {self.num_choices} prompts in each."
            )
        answers = num_conditions * self.num_answers
        calls, more = (len(OF_ALL) + self.num_dimensions) * answers, len(OF_MISALIGNED) + self.leak
        of_misaligned = f", and {more} more for each misaligned answer" if more else ""
        choices = ""
        if self.num_choices:
            choices = f" em_choice scores written answers to {self.num_choices} prompts in each."
        return (
            f"{num_conditions} conditions to run, {self.num_answers} answers each: {answers:,} "
            f"answers of at most {self.max_tokens} tokens, {calls:,} calls of each judge"
            f"{of_misaligned}. At {_ANSWER_TOKENS} tokens an answer, about "
            f"{answers * _ANSWER_TOKENS:,} tokens to generate and "
            f"{calls * _JUDGE_TOKENS:,} for each judge to read.{choices}"
        )


def cost_of(options: EvalOptions) -> Cost:
    """What a condition of em_freeform costs.

    Raises:
        StudyError: The task has no such option.
        SteeringError: An option's value is impossible.
    """
    task = load_task(options)
    return Cost(
        num_answers=len(task.dataset) * (task.epochs or 1),
        max_tokens=task.config.max_tokens or 0,
        leak=options.task_args.get("leak") is not None,
        num_dimensions=len((task.metadata or {}).get("dimensions", ())),
    )


def load_task(options: EvalOptions) -> "Task":
    """The task em_freeform with its questions, checked.

    Raises:
        StudyError: The task has no such option.
        SteeringError: An option's value is impossible.
    """
    spec = spec_from_file_location(TASK.stem, TASK)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    allowed = own_options(module.em_freeform)
    for name in options.task_args:
        if name not in allowed:
            raise StudyError(f"-T {no_such_option(name, allowed, f'of {TASK.stem}')}")
    try:
        return module.em_freeform(**options.task_args)
    except Exception as error:
        # The task wraps our errors for Inspect's command line; here they are ours again.
        if isinstance(error.__cause__, SteeringError):
            raise error.__cause__ from None
        raise


def check_judges(options: EvalOptions, *, toy: bool) -> None:
    """Make sure that there is a judge, before anything is trained; a toy has one of its own.

    Raises:
        JudgingError: A judge can't be used.
        StudyError: `options.grader` can't be read.
    """
    remedy = "give a judge as --grader <provider>/<model>"
    if options.grader is None:
        if not toy:
            default_judge(f"{remedy}, a local model as --grader {LOCAL_JUDGE}")
        return
    judges = judge_roles(options.grader)["grader"]
    for judge in judges if isinstance(judges, list) else [judges]:
        if isinstance(judge, str):
            usable_judge(judge, f"the judge {judge}", remedy)


def judge_roles(grader: str | None) -> dict[str, Any]:
    """The grader role, as Inspect's own command line reads it.

    Raises:
        MissingKeyError: The key of a judge that is named with options is not set.
        StudyError: It can't be read.
    """
    if grader is None:
        return {}
    from inspect_ai._cli.util import parse_model_role_cli_args

    try:
        return dict(parse_model_role_cli_args((f"grader={grader}",)))
    except Exception as error:
        require_key(error, f"the judge {grader}", "give another judge")
        raise StudyError(
            f"--grader {grader} can't be read ({' '.join(str(error).split())[:200]}): write "
            "<provider>/<model>, several with commas, or {model: <provider>/<model>, ...}"
        ) from None
