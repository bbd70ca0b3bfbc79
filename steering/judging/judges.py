"""Asking a judge: one prompt in, one judgement out.

A judgement has a score from 0 to 100, or a reason why there is none. A judge's failure never
becomes a number: the caller counts it. Knows Inspect's models; never a rubric's text, a task or a
metric.
"""

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import cache
from typing import Any

import anyio
from inspect_ai.model import (
    CachePolicy,
    GenerateConfig,
    Model,
    get_model,
    model_roles,
)
from inspect_ai.model._model import ModelGenerateError, active_model
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import LimitExceededError
from pydantic_core import to_jsonable_python

from steering.evaluated_model import EvaluatedModel
from steering.judging.default_judge import (
    GRADER_ROLE,
    LOCAL_JUDGE,
    default_judge,
    usable_judge,
)
from steering.judging.errors import JudgingError
from steering.judging.judge_failures import remedy
from steering.judging.judgement import Judgement, is_about_answer, reason_kind, shortened
from steering.judging.local_judges import distribution_config, read_distribution
from steering.judging.register import (
    judge_settings,
    register_settings,
    warn_of_retirement,
)
from steering.judging.replies import one_line, read_reply

logger = logging.getLogger(__name__)

TOY_JUDGE = "toy/judge"
# Providers of local models: the weights behind a name can change, and asking again is free.
_LOCAL = ("hf", "llama-cpp-python", "ollama", "sglang", "steered", "toy", "vllm")


def grader_models() -> list[Model]:
    """The models that judge, in the order in which they were bound.

    The `grader` role when the user bound it; else the judge that the model under test suggests (the
    toy has a judge that knows its world); else the first default of the register that can be had.
    Never the model under test unless the user binds it.

    Raises:
        JudgingError: there is no usable default, or a bound model is steered by its default vector.
    """
    judges = _bound_judges() or [_unbound_judge()]
    for judge in judges:
        warn_of_retirement(str(judge))
        tested = active_model()
        if str(judge) == TOY_JUDGE and tested is not None and not _suits_toy_judge(tested):
            _warn_of_toy_judge(str(tested))
    return judges


def _suits_toy_judge(tested: Model) -> bool:
    """Whether the toy's judge can read what a model answers: a toy, or nothing at all."""
    is_toy = isinstance(tested.api, EvaluatedModel) and tested.api.is_toy
    return is_toy or str(tested) == "none/none"


@cache
def _warn_of_toy_judge(tested: str) -> None:
    """Say once that the toy's judge can't read the answers of a model."""
    logger.warning(
        "The judge %s knows only the toy's world, and %s is no toy: no rate by this judge shows "
        "anything. Choose another judge: --model-role grader=<provider>/<model>.",
        TOY_JUDGE,
        tested,
    )


def _bound_judges() -> list[Model]:
    """The models that the user bound to the grader role."""
    bound = model_roles().get(GRADER_ROLE)
    judges = [] if bound is None else list(bound) if isinstance(bound, list) else [bound]
    for judge in judges:
        # -M options do not reach the models of a role.
        require_named_vector(judge, "pass --model-role 'grader=%s'")
    return judges


def require_named_vector(judge: Model, remedy: str) -> None:
    """Refuse a judge that its default vector steers.

    Args:
        judge: its model.
        remedy: how to name an unsteered one; %s stands for the model with its options.

    Raises:
        JudgingError: its options name no vector, and the default one steers it.
    """
    if isinstance(judge.api, EvaluatedModel) and judge.api.steered_by_default:
        unsteered = f"{{model: {str(judge).partition('[')[0]}, model_args: {{vector: none}}}}"
        raise JudgingError(
            f"the judge {judge} is steered by its default vector, since its options name none: "
            f"{remedy % unsteered} for an unsteered judge, or name a vector there for a steered "
            "one."
        )


def _unbound_judge() -> Model:
    """The judge where the user bound none."""
    name_one = "pass --model-role grader=<provider>/<model>"
    tested = get_model()
    suggested = tested.api.default_grader if isinstance(tested.api, EvaluatedModel) else None
    if suggested is None:
        name_one += f", a local model as --model-role 'grader={LOCAL_JUDGE[1:]}"
        return default_judge(name_one, (str(tested), tested.canonical_name()))
    if suggested == str(tested):
        raise JudgingError(
            f"the default judge {suggested} is the model under test, and no model judges itself "
            f"unless you ask for it: {name_one}."
        )
    return usable_judge(suggested, f"the default judge {suggested}", name_one)


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


def require_grader(published: str = "") -> list[Solver]:
    """Fail before any answer is generated when there is no model to judge it.

    On the command line the models are known when the task is created, and are checked now. A task
    created from Python before its run checks when it runs.

    Args:
        published: Inspect's name of the judge of the protocol that the task follows, if it has one.

    Returns:
        For `Task(setup=...)`: the check that the run still has to make, or none.

    Raises:
        JudgingError: the models are known, and there is no judge among them.
    """
    if active_model() is None:
        return [find_grader(published)]
    _check_graders(published)
    return []


@solver
def find_grader(published: str = "") -> Solver:
    """Check the judges before each answer, so that a missing one shows before it is generated."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        _check_graders(published)
        return state

    return solve


def _check_graders(published: str) -> None:
    """Make sure that there is a judge, and say so where it is not that of a published protocol."""
    judges = grader_models()
    if published and GRADER_ROLE not in model_roles():
        _warn_of_substitute(published, str(judges[0]))


@cache
def _warn_of_substitute(published: str, judge: str) -> None:
    """Say once that another judge stands in for that of the protocol."""
    # A snapshot is the judge that its name without a date names.
    if judge != published and not judge.startswith(f"{published}-20"):
        logger.warning(
            "The protocol's judge is %s. It can't be had here (no key, no package, or ended), so "
            "%s judges instead, and every signature says so. Rates by two judges are not "
            "comparable: to follow the protocol, pass --model-role grader=%s.",
            published,
            judge,
            published,
        )


async def ask_judge(
    judge: Model, prompt: str, escapes: Collection[str] = (), names: Collection[str] = ()
) -> Judgement:
    """Ask `judge` one prompt.

    Its settings are those of the register (`judge_settings`), over which the user's own win, as in
    `--model-role grader='{model: ..., max_tokens: 2000}'`. The reply of a judge behind an API is
    cached by Inspect for a week, unless its settings say `cache: false`. An error of the judge
    gives an unscored judgement, and so does a cancellation that its provider raises of its own
    accord. A cancellation of the run and Inspect's limits are not errors of the judge and are
    raised. `escapes` are the words, in capitals, that the judge may reply instead of a number, and
    `names` those that may label it.
    """
    config = distribution_config(judge, escapes) or _with_cache(judge, judge_settings(judge))
    try:
        output = await judge.generate(prompt, config=config)
    except LimitExceededError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and _run_is_cancelled():
            raise
        # Inspect's own error begins with the whole request.
        cause = error.__cause__ if isinstance(error, ModelGenerateError) else None
        shown = cause or error
        reason = f"judge error: {type(shown).__name__}: {one_line(shown)}"
        judgement = Judgement(score=None, reason=reason, method=None, text="")
    else:
        judgement = read_distribution(output) or read_reply(output, escapes, names, prompt)
    if judgement.reason and not is_about_answer(judgement.reason):
        _warn_of_failure(str(judge), judgement.reason)
    return judgement


def judge_sampling(judge: Model) -> dict[str, Any]:
    """The generation settings of `ask_judge`; none for a judge that generates nothing."""
    return {} if distribution_config(judge, ()) else register_settings(judge)


_WARNED: set[tuple[str, str]] = set()


def _warn_of_failure(judge: str, reason: str) -> None:
    """Say while the run can still be stopped that a judge fails, once for each kind of failure."""
    if (judge, reason_kind(reason)) not in _WARNED:
        _WARNED.add((judge, reason_kind(reason)))
        logger.warning(
            "The judge %s failed on an answer: %s. Remedy: %s. Further failures of this kind are "
            "only counted.",
            judge,
            shortened(reason),
            remedy(judge, reason),
        )


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
