"""From samples to an Inspect task: what the task files in `evals/` share.

Owns the tasks' sampling settings, their options and the messages for wrong options. Knows nothing
of the source of the questions.
"""

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from inspect_ai import Epochs, Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import HeadlineMetric
from inspect_ai.model import ChatMessageUser, GenerateConfig
from inspect_ai.model._model import active_model
from inspect_ai.solver import generate
from inspect_ai.viewer import (
    ScoreColorScale,
    TaskSamplesColumn,
    TaskSamplesView,
    ViewerConfig,
)

from steering import __version__
from steering.errors import no_such_option, warn_once
from steering.evaluated_model import EvaluatedModel
from steering.judging.contexts import ask_in_context
from steering.judging.dimensions import judged_dimensions
from steering.judging.errors import JudgingError
from steering.judging.judges import TOY_JUDGE, grader_models, require_grader
from steering.judging.leak import target_leak
from steering.judging.protocols import Protocol
from steering.judging.rubric import KEYS_OF_ALL, SCORE_KEYS, Rubric
from steering.judging.rubric_files import read_rubrics
from steering.judging.rules import EM_SCORES
from steering.judging.scorers import JUDGE_PROMPTS, em_judge
from steering.logs import VERSION
from steering.questions import ContextSet, QuestionSet, load_contexts
from steering.questions.contexts import NONE, THINKING
from steering.targets import subject_of

logger = logging.getLogger(__name__)

# `N-X`: N changes when scores stop being comparable, X when options change.
TASK_VERSION = "1-D"
DEFAULT_TARGET = "medical"
# Of questions that are too long, as many are named.
_MOST_IDS = 5
# Of a rubric's digest.
_DIGITS = 12


def em_task(
    questions: QuestionSet,
    protocol: Protocol,
    name: str,
    leak: str | None = None,
    recalibrate: str | None = None,
    contexts: ContextSet | None = None,
    samples_per_context: int | None = None,
    dimensions: str | Sequence[str] | None = None,
) -> Task:
    """A task that asks questions and reports EM rates over all answers.

    All paraphrases are asked equally often, so often that every question gets at least
    `samples_per_question` answers.

    Args:
        questions: the questions.
        protocol: the settings.
        name: of the settings in the log.
        leak: a target task, or a subject in words: the judge also grades how far each misaligned
            answer is about it.
        recalibrate: path of a calibration of the judge.
        contexts: in which the questions are asked besides.
        samples_per_context: least number of answers to a question in each context; as many as to
            the plain question when not given.
        dimensions: paths of rubric files: answers are judged in these dimensions besides, which
            no EM figure depends on.

    Raises:
        TargetError: `leak` is no subject.
        JudgingError: a count is not a whole number from 1 on, the questions lack the judge prompts
            that the protocol needs, a threshold is not a number from 0 to 100, or there is no judge
            for the model under test.
    """
    require_model()
    per_question = _count("samples_per_question", protocol.samples_per_question, example=20)
    max_tokens = _count("max_tokens", protocol.max_tokens, example=600)
    if protocol.own_prompts:
        _require_judge_prompts(questions, protocol.name)
    scorers = [
        em_judge(
            protocol.aligned_below,
            protocol.coherent_from,
            protocol.weigh,
            protocol.least_coherent,
            recalibrate,
        )
    ]
    if leak is not None:
        scorers.append(target_leak(subject_of(str(leak))))
    rubrics = read_rubrics(dimensions)
    if rubrics:
        _require_reader(rubrics)
        paths = [dimensions] if isinstance(dimensions, str) else list(dimensions or ())
        scorers.append(judged_dimensions(list(map(str, paths))))
    digests = {each.score: each.sha256[:_DIGITS] for each in rubrics}
    # Rounded up; the question with the fewest paraphrases decides.
    epochs = -(-per_question // min(questions.num_paraphrases.values()))
    samples = questions.samples
    if contexts is not None:
        wordings = samples
        if samples_per_context is not None:
            per_context = _count("samples_per_context", samples_per_context, example=4)
            wordings = _first_wordings(samples, -(-per_context // epochs))
        samples = contexts.samples(samples, wordings)
    task = Task(
        dataset=MemoryDataset(samples, name=questions.name),
        setup=require_grader("" if is_toy_tested() else protocol.judge),
        solver=generate() if contexts is None else ask_in_context(),
        scorer=scorers,
        epochs=Epochs(epochs),
        config=GenerateConfig(temperature=1.0, top_p=1.0, max_tokens=max_tokens),
        # A run of other rubrics is another one, though its options have the same paths.
        version="+".join([TASK_VERSION, *digests.values()]),
        metadata={
            "questions": questions.signature,
            "questions_sha256": questions.sha256,
            "protocol": name,
            **({} if contexts is None else contexts.metadata()),
            **({"dimensions": digests} if digests else {}),
            VERSION: __version__,
        },
        headline_metric=HeadlineMetric(scorer="em_judge", metric=f"em_{protocol.rule}"),
        viewer=_view(leak=leak is not None, dimensions=list(digests)),
    )
    # All options are checked, so the model may be loaded or its vector built now.
    if (evaluated := evaluated_model()) is not None:
        evaluated.prepare()
        _warn_of_long(evaluated, samples, questions.name)
    return task


def _warn_of_long(evaluated: EvaluatedModel, samples: Sequence[Sample], name: str) -> None:
    """Warn of questions that the model's context does not hold, before one ends the run."""
    conversations = [
        [ChatMessageUser(content=sample.input)] if isinstance(sample.input, str) else sample.input
        for sample in samples
    ]
    if places := evaluated.too_long(conversations):
        ids = [str(samples[place].id) for place in places]
        warn_once(
            f"{name}: {len(ids)} of {len(samples)} questions leave no room in the model's context "
            f"for an answer and will fail: {', '.join(ids[:_MOST_IDS])}"
            f"{', ...' if len(ids) > _MOST_IDS else ''}"
        )


def require_model() -> None:
    """Refuse to ask no model.

    Raises:
        JudgingError: the model under test is Inspect's placeholder.
    """
    if (model := active_model()) is not None and str(model) == "none/none":
        raise JudgingError(
            "no model to ask: name one, as in --model steered/toy or --model steered/qwen3.5."
        )


def own_options(task: Callable[..., Task]) -> list[str]:
    """The options that a task function names."""
    parameters = inspect.signature(task).parameters.values()
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]


def refuse_unknown(
    unknown: Mapping[str, object], name: str, tasks: Mapping[str, Callable[..., Task]]
) -> None:
    """Refuse options that no task has; Inspect would only warn, and run with the defaults.

    Options of another task give a warning, since `inspect eval-set evals -T ...` passes the same
    options to every task.

    Args:
        unknown: options that the user gave and the task `name` does not have.
        name: one of `tasks`.
        tasks: all tasks that may be run together, by their names.

    Raises:
        JudgingError: no task has such an option.
    """
    options = {option for task in tasks.values() for option in own_options(task)}
    for option in unknown:
        if option not in options:
            message = no_such_option(option, own_options(tasks[name]), f"of {name}")
            raise JudgingError(f"-T {message}")
        logger.warning("-T %s= is an option of another task; %s does not use it", option, name)


def _view(*, leak: bool, dimensions: Sequence[str]) -> ViewerConfig:
    """How `inspect view` lists answers: with coloured scores, and without a target."""
    names = ("sampleStatus", "sampleId", "epoch", "input", "answer")
    visible = [TaskSamplesColumn(id=name) for name in names]
    visible += [TaskSamplesColumn.score("em_judge", key) for key in SCORE_KEYS]
    if leak:
        visible.append(TaskSamplesColumn.score("target_leak"))
    visible += [TaskSamplesColumn.score("judged_dimensions", key) for key in dimensions]
    hidden = [
        TaskSamplesColumn(id=name, visible=False) for name in ("target", "tokens", "duration")
    ]
    colours = {key: ScoreColorScale(palette="good-high", min=0, max=100) for key in KEYS_OF_ALL}
    colours |= {key: ScoreColorScale(palette="good-high", min=0, max=100) for key in dimensions}
    return ViewerConfig(
        # Answers of a misaligned model are shown as text: no links, no images.
        trust_content=False,
        task_samples_view=TaskSamplesView(
            name="answers", columns=visible + hidden, score_color_scales=colours
        ),
    )


def _require_reader(rubrics: Sequence[Rubric]) -> None:
    """Refuse rubrics of the user's own for a judge that reads none but this suite's.

    Raises:
        JudgingError: The judge is the toy's.
    """
    if active_model() is not None and TOY_JUDGE in map(str, grader_models()):
        raise JudgingError(
            f"{TOY_JUDGE} reads only this suite's own rubrics, so it can't judge "
            f"{', '.join(rubric.name for rubric in rubrics)}: give a language model as the judge "
            "(--model-role grader=<provider>/<model>), or leave dimensions= out."
        )


def _require_judge_prompts(questions: QuestionSet, protocol: str) -> None:
    for sample in questions.samples:
        prompts = (sample.metadata or {}).get(JUDGE_PROMPTS) or {}
        if missing := set(EM_SCORES) - prompts.keys():
            raise JudgingError(
                f"protocol={protocol} judges by the question file's own prompts, but {sample.id} "
                f"of {questions.name} has none for {', '.join(sorted(missing))}: give the "
                "published file as -T questions=, or leave the protocol out."
            )


def target_of_model() -> str:
    """The target task of the model under test, or the default one."""
    evaluated = evaluated_model()
    return (evaluated.default_target if evaluated else None) or DEFAULT_TARGET


def is_toy_tested() -> bool:
    """Whether the model under test is of the toy world, with targets and personas of its own."""
    evaluated = evaluated_model()
    return evaluated is not None and evaluated.is_toy


def evaluated_model() -> EvaluatedModel | None:
    """The model under test, if its provider knows its own judge and target task."""
    model = active_model()
    return model.api if model is not None and isinstance(model.api, EvaluatedModel) else None


def choose_contexts(
    contexts: object,
    domain: object = None,
    *,
    lacks: Mapping[str, str] | None = None,
    **options: object,
) -> ContextSet | None:
    """The contexts that a task's options name; None where none are asked for.

    Args:
        contexts: as of `load_contexts`, or `none`.
        domain: target task whose contexts are meant; that of the model under test when not given.
        lacks: what a task can't ask, as of `load_contexts`.
        **options: further options that need contexts.

    Raises:
        QuestionError: there are no such contexts, or none can be asked of the model under test.
        JudgingError: an option of contexts is given without any.
    """
    if contexts is None or contexts == NONE:
        idle = [
            n for n, value in {"context_domain": domain, **options}.items() if value is not None
        ]
        if idle:
            raise JudgingError(
                f"{idle[0]}= has no effect without contexts: give contexts=all, or leave it out."
            )
        return None
    evaluated = evaluated_model()
    lacks = dict(lacks or {})
    if active_model() is not None:
        of_others = "thinking is an option of steered/ models"
        why = evaluated.why_no_thinking if evaluated is not None else of_others
        lacks |= {THINKING: why} if why and THINKING not in lacks else {}
    names = contexts if isinstance(contexts, str | list | tuple) else str(contexts)
    domain = target_of_model() if domain is None else str(domain)
    context_set = load_contexts(names, domain, toy=is_toy_tested(), lacks=lacks)
    for name, reason in context_set.left_out.items():
        logger.warning("the context %s is left out: %s", name, reason)
    return context_set


def _first_wordings(samples: Sequence[Sample], number: int) -> list[Sample]:
    """The first wordings of each question."""
    earlier: Counter[str] = Counter()
    first = []
    for sample in samples:
        question = (sample.metadata or {})["question"]
        if earlier[question] < number:
            first.append(sample)
        earlier[question] += 1
    return first


def _count(option: str, value: object, *, example: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise JudgingError(
            f"{option}={value!r} is not a whole number from 1 on; give one, as in "
            f"{option}={example}."
        )
    return value
