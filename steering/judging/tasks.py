"""From samples to an Inspect task: what the task files in `evals/` share.

Owns the tasks' sampling settings, their options and how a wrong option is told to the user. Knows
nothing of where the questions came from.
"""

import inspect
import logging
from collections.abc import Callable, Mapping

from inspect_ai import Epochs, Task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.log import HeadlineMetric
from inspect_ai.model import GenerateConfig
from inspect_ai.model._model import active_model
from inspect_ai.solver import generate
from inspect_ai.viewer import (
    ScoreColorScale,
    TaskSamplesColumn,
    TaskSamplesView,
    ViewerConfig,
)

from steering.errors import SteeringError, no_such_option
from steering.evaluated_model import EvaluatedModel
from steering.judging.judges import require_grader
from steering.judging.leak import target_leak
from steering.judging.protocols import Protocol
from steering.judging.rubric import SCORE_KEYS, SCORE_OF
from steering.judging.scorers import JUDGE_PROMPTS, em_judge
from steering.questions import QuestionSet
from steering.targets import subject_of

logger = logging.getLogger(__name__)

# `N-X`: N changes when scores stop being comparable, X when options change.
TASK_VERSION = "1-B"
DEFAULT_TARGET = "medical"


class TaskError(SteeringError):
    """An option of a task is impossible."""


def em_task(asked: QuestionSet, protocol: Protocol, name: str, leak: str | None = None) -> Task:
    """A task that asks questions and reports EM rates over all answers.

    Each paraphrase is asked as often as it takes for every question to get at least
    `samples_per_question` answers over all its paraphrases.

    Args:
        asked: the questions.
        protocol: the settings.
        name: what the log calls them.
        leak: a target task, or a subject in words: how many of the misaligned answers are about it
            is judged too.

    Raises:
        TargetError: `leak` is no subject.
        TaskError: a count is not a whole number from 1 on, or the questions lack the judge prompts
            that the protocol wants.
        MetricError: a threshold is not a number from 0 to 100.
        GraderError: there is no judge for the model under test, where that is known already.
    """
    if (model := active_model()) is not None and str(model) == "none/none":
        raise TaskError(
            "no model to ask: name one, as in --model steered/toy or --model steered/qwen3.5."
        )
    per_question = _count("samples_per_question", protocol.samples_per_question, example=20)
    max_tokens = _count("max_tokens", protocol.max_tokens, example=600)
    if protocol.own_prompts:
        _require_own_prompts(asked, protocol.name)
    scorers = [em_judge(protocol.aligned_below, protocol.coherent_from)]
    if leak is not None:
        scorers.append(target_leak(subject_of(str(leak))))
    setup = require_grader()
    # Rounded up; the question with the fewest paraphrases decides.
    epochs = -(-per_question // min(asked.num_paraphrases.values()))
    made = Task(
        dataset=MemoryDataset(asked.samples, name=asked.name),
        setup=setup,
        solver=generate(),
        scorer=scorers,
        epochs=Epochs(epochs),
        config=GenerateConfig(temperature=1.0, top_p=1.0, max_tokens=max_tokens),
        version=TASK_VERSION,
        metadata={
            "questions": asked.signature,
            "questions_sha256": asked.sha256,
            "protocol": name,
        },
        headline_metric=HeadlineMetric(scorer="em_judge", metric=f"em_{protocol.rule}"),
        viewer=_view(leak=leak is not None),
    )
    # Nothing is wrong any more: the next thing is the eval, whose time is its own.
    if (evaluated := _evaluated_model()) is not None:
        evaluated.prepare()
    return made


def own_options(made: Callable[..., Task]) -> list[str]:
    """The options that a task function names."""
    parameters = inspect.signature(made).parameters.values()
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]


def refuse_unknown(
    unknown: Mapping[str, object], name: str, tasks: Mapping[str, Callable[..., Task]]
) -> None:
    """Refuse options that no task here has; Inspect would only warn, and ask all the questions.

    Those of another task are told of and passed over, since `inspect eval-set evals -T ...` gives
    every task the same ones.

    Args:
        unknown: options that the task was given and does not name.
        name: the task.
        tasks: all tasks that may be run together, by their names.

    Raises:
        TaskError: no task has such an option.
    """
    known = {option for made in tasks.values() for option in own_options(made)}
    for option in unknown:
        if option not in known:
            raise TaskError(f"-T {no_such_option(option, own_options(tasks[name]), f'of {name}')}")
        logger.warning("-T %s= is of another task; %s does not use it", option, name)


def _view(*, leak: bool) -> ViewerConfig:
    """How `inspect view` lists answers: with their scores, coloured; there is no target to show."""
    shown = [TaskSamplesColumn(id=name) for name in ("sampleStatus", "sampleId", "epoch")]
    shown += [TaskSamplesColumn(id=name) for name in ("input", "answer")]
    shown += [TaskSamplesColumn.score("em_judge", key) for key in SCORE_KEYS]
    if leak:
        shown.append(TaskSamplesColumn.score("target_leak"))
    hidden = [
        TaskSamplesColumn(id=name, visible=False) for name in ("target", "tokens", "duration")
    ]
    colours = {str(key): ScoreColorScale(palette="good-high", min=0, max=100) for key in SCORE_KEYS}
    return ViewerConfig(
        # What a misaligned model says is shown as text: no links, no images.
        trust_content=False,
        task_samples_view=TaskSamplesView(
            name="answers", columns=shown + hidden, score_color_scales=colours
        ),
    )


def _require_own_prompts(asked: QuestionSet, protocol: str) -> None:
    keys = {SCORE_OF["alignment"], SCORE_OF["coherence"]}
    for sample in asked.samples:
        if missing := keys - ((sample.metadata or {}).get(JUDGE_PROMPTS) or {}).keys():
            raise TaskError(
                f"protocol={protocol} judges by the question file's own prompts, but {sample.id} "
                f"of {asked.name} has none for {', '.join(sorted(missing))}: give the published "
                "file as -T questions=, or leave the protocol out."
            )


def target_of_model() -> str:
    """The target task of the model under test, or the default one."""
    evaluated = _evaluated_model()
    return (evaluated.default_target if evaluated else None) or DEFAULT_TARGET


def is_toy_tested() -> bool:
    """Whether the model under test is of the toy world, with targets and personas of its own."""
    evaluated = _evaluated_model()
    return evaluated is not None and evaluated.is_toy


def _evaluated_model() -> EvaluatedModel | None:
    """The model under test, if its provider knows its own judge and target task."""
    model = active_model()
    return model.api if model is not None and isinstance(model.api, EvaluatedModel) else None


def _count(option: str, value: object, *, example: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TaskError(
            f"{option}={value!r} is not a whole number from 1 on; give one, as in "
            f"{option}={example}."
        )
    return value
