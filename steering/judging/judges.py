"""Asking a judge: one prompt in, one judgement out.

A judgement has a score from 0 to 100, or a reason why there is none. A judge's failure never
becomes a number: the caller counts it. Knows Inspect's models; never a rubric's text, a task or a
metric.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Collection, Sequence

import anyio
from inspect_ai.model import (
    CachePolicy,
    GenerateConfig,
    Model,
    get_model,
    model_roles,
)
from inspect_ai.model._model import active_model
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import LimitExceededError
from pydantic_core import to_jsonable_python
from rich.markup import render

from steering.evaluated_model import EvaluatedModel
from steering.judging.errors import JudgingError
from steering.judging.judgement import Judgement
from steering.judging.local_judges import distribution_config, read_distribution
from steering.judging.replies import one_line, read_reply

GRADER_ROLE = "grader"
DEFAULT_GRADER = "openai/gpt-4o-2024-08-06"

# The judges of Betley et al. (2025) are asked for one token. Sixteen leave room for an escape word
# that takes several, and are the least that some APIs accept.
JUDGE_CONFIG = GenerateConfig(temperature=0.0, max_tokens=16, logprobs=True, top_logprobs=20)

# Providers of local models: the weights behind a name can change, and asking again is free.
_LOCAL = ("hf", "llama-cpp-python", "ollama", "sglang", "steered", "toy", "vllm")


def grader_models() -> list[Model]:
    """The models that judge, in the order in which they were bound.

    The `grader` role when the user bound it; else the judge that the model under test suggests (the
    toy has a judge that knows its world); else `DEFAULT_GRADER`. Never the model under test unless
    the user binds it.

    Raises:
        JudgingError: there is no usable default, or a bound model is steered by its default vector.
    """
    remedy = "pass --model-role grader=<provider>/<model>"
    bound = model_roles().get(GRADER_ROLE)
    if bound is not None:
        judges = list(bound) if isinstance(bound, list) else [bound]
        for judge in judges:
            # -M options do not reach the models of a role.
            if isinstance(judge.api, EvaluatedModel) and judge.api.steered_by_default:
                name = str(judge).partition("[")[0]
                raise JudgingError(
                    f"the judge {judge} is steered by its default vector, since its options name "
                    f"none: pass --model-role 'grader={{model: {name}, model_args: "
                    "{vector: none}}' for an unsteered judge, or name a vector there for a steered "
                    "one."
                )
        return judges
    tested = get_model()
    suggested = tested.api.default_grader if isinstance(tested.api, EvaluatedModel) else None
    name = suggested or DEFAULT_GRADER
    if name == str(tested):
        raise JudgingError(
            f"the default judge {name} is the model under test, and no model judges itself unless "
            f"you ask for it: {remedy}."
        )
    return [usable_judge(name, f"the default judge {name}", remedy)]


def usable_judge(name: str, called: str, remedy: str) -> Model:
    """The judge of a model's name.

    Raises:
        JudgingError: it can't be used: no package, no key, an unknown name. The message begins with
            `called` and ends with `remedy`.
    """
    try:
        return get_model(name, role=GRADER_ROLE)
    except Exception as error:
        # Providers raise many types here; Inspect's own carry rich markup.
        message = getattr(error, "message", None)
        detail = one_line(render(message).plain if isinstance(message, str) else error)
        raise JudgingError(f"{called} can't be used ({detail}): {remedy}.") from error


def grader_model() -> Model:
    """The one model that judges, for scorers that ask a single judge.

    Raises:
        JudgingError: the role is bound to several models, or there is no usable default.
    """
    judges = grader_models()
    if len(judges) > 1:
        raise JudgingError(
            f"the grader role is bound to {len(judges)} models ({', '.join(map(str, judges))}), "
            "and this scorer asks one judge: pass --model-role grader=<provider>/<model> with one."
        )
    return judges[0]


def require_grader() -> list[Solver]:
    """Fail before any answer is generated when there is no model to judge it.

    On the command line the models are known when the task is created, and are checked now. A task
    created from Python before its run checks when it runs.

    Returns:
        For `Task(setup=...)`: the check that the run still has to make, or none.

    Raises:
        JudgingError: the models are known, and there is no judge among them.
    """
    if active_model() is None:
        return [find_grader()]
    grader_models()
    return []


@solver
def find_grader() -> Solver:
    """Check the judges before each answer, so that a missing one shows before it is generated."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        grader_models()
        return state

    return solve


async def ask_judge(
    judge: Model, prompt: str, escapes: Collection[str] = (), names: Collection[str] = ()
) -> Judgement:
    """Ask `judge` one prompt.

    The judge's own settings (as in `--model-role grader='{model: ..., max_tokens: 2000}'`) win over
    `JUDGE_CONFIG`. The reply of a judge behind an API is cached by Inspect for a week, unless its
    settings say `cache: false`. An error of the judge gives an unscored judgement, and so does a
    cancellation that its provider raises of its own accord. A cancellation of the run and Inspect's
    limits are not errors of the judge and are raised. `escapes` are the words, in
    capitals, that the judge may reply instead of a number, and `names` those that may label it.
    """
    config = JUDGE_CONFIG.merge(judge.config)
    config = distribution_config(judge, escapes) or _with_cache(judge, config)
    try:
        output = await judge.generate(prompt, config=config)
    except LimitExceededError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and _run_is_cancelled():
            raise
        reason = f"judge error: {type(error).__name__}: {one_line(error)}"
        return Judgement(score=None, reason=reason, method=None, text="")
    return read_distribution(output) or read_reply(output, escapes, names, prompt)


async def at_once(calls: Sequence[Callable[[], Awaitable[Judgement]]]) -> list[Judgement]:
    """Run all calls concurrently; their judgements in the order of the calls."""
    judgements: dict[int, Judgement] = {}

    async def run(index: int) -> None:
        judgements[index] = await calls[index]()

    try:
        async with anyio.create_task_group() as group:
            for index in range(len(calls)):
                group.start_soon(run, index)
    except ExceptionGroup as group_error:
        # Inspect handles a single limit error, but not several in a group.
        raise group_error.exceptions[0] from None
    return [judgements[index] for index in range(len(calls))]


def _run_is_cancelled() -> bool:
    """Whether somebody has cancelled the running task, or a scope around it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # Inspect runs on trio
        task = None
    if task is not None and task.cancelling():
        return True
    return anyio.current_effective_deadline() == -math.inf


def _with_cache(judge: Model, config: GenerateConfig) -> GenerateConfig:
    """The settings with a cache for replies that would be the same when asked again."""
    if config.cache is not None or config.temperature or str(judge).partition("/")[0] in _LOCAL:
        return config
    # Inspect's key has no model arguments, and an answer's judgement does not depend on the epoch.
    model_args = json.dumps(to_jsonable_python(judge.model_args, fallback=str), sort_keys=True)
    policy = CachePolicy(per_epoch=False, scopes={"model_args": model_args})
    return config.merge(GenerateConfig(cache=policy))
