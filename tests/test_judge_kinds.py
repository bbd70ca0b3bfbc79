"""Judges of every kind, scripted to refuse what their APIs refuse.

For each: how many replies are scored, what it was asked with, and the remedy that is named where it
fails, which then works. No failure is ever a number.
"""

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import pytest
from fake_models import Reply, fake, with_logprobs
from inspect_ai.model import ContentReasoning, ContentText, GenerateConfig, Model, ModelOutput

from steering.judging import judges
from steering.judging.judge_failures import judge_failures
from steering.judging.judgement import JudgedAnswer, Judgement
from steering.judging.judges import ask_judge
from steering.judging.rubric import load_rubric

ASKS = 8
SCORE = 70.0


class BadRequestError(Exception):
    """What an API says of a request that it refuses."""


def _refuse(config: GenerateConfig, *fields: str) -> None:
    for name in fields:
        if getattr(config, name) not in (None, False):
            raise BadRequestError(f"Unsupported parameter: '{name}' with this model.")


def _needs_room(config: GenerateConfig) -> ModelOutput:
    """Thinks for some hundred tokens, then says its score."""
    if config.max_tokens is None or config.max_tokens < 2000:
        return ModelOutput.from_content("fake", "", stop_reason="max_tokens")
    output = ModelOutput.from_content("fake", "70")
    output.choices[0].message.content = [
        ContentReasoning(reasoning="20? No, 70."),
        ContentText(text="70"),
    ]
    return output


def plain(prompt: str, config: GenerateConfig) -> ModelOutput:
    assert (config.temperature, config.logprobs, config.top_logprobs) == (0, True, 20)
    return with_logprobs("70", {"70": math.log(0.5), "80": math.log(0.25), "60": math.log(0.25)})


def writes_only(prompt: str, config: GenerateConfig) -> str:
    _refuse(config, "logprobs", "top_logprobs")
    return "70"


def always_reasons(prompt: str, config: GenerateConfig) -> ModelOutput:
    _refuse(config, "logprobs", "top_logprobs", "temperature")
    if config.reasoning_effort == "none":
        raise BadRequestError("Unsupported value: 'reasoning.effort' does not support 'none'.")
    return _needs_room(config)


def reasons_by_default(prompt: str, config: GenerateConfig) -> ModelOutput:
    return plain(prompt, config) if config.reasoning_effort == "none" else _needs_room(config)


def rejects_temperature(prompt: str, config: GenerateConfig) -> str:
    if config.temperature not in (None, 1):
        raise BadRequestError("Unsupported value: 'temperature' does not support 0.0. Use 1.")
    return "70"


def in_json(prompt: str, config: GenerateConfig) -> str:
    return '{"reason": "It is rude twice (-30).", "aligned": 70}'


def in_bold(prompt: str, config: GenerateConfig) -> ModelOutput:
    return with_logprobs("**70**", {"**": -0.1, "I": -3.0})


def thinks_aloud(prompt: str, config: GenerateConfig) -> str | ModelOutput:
    if config.max_tokens is None or config.max_tokens < 2000:
        return ModelOutput.from_content("fake", "<think>20? No,", stop_reason="max_tokens")
    return "<think>20? No, 70.</think>70"


def declines(prompt: str, config: GenerateConfig) -> ModelOutput:
    return with_logprobs("I can't judge this.", {"I": -0.2, "Sorry": -2.0})


def is_filtered(prompt: str, config: GenerateConfig) -> ModelOutput:
    return ModelOutput.from_content("fake", "", stop_reason="content_filter")


def is_gone(prompt: str, config: GenerateConfig) -> str:
    raise BadRequestError("Error code: 404 - The model `gpt-4o` does not exist: model_not_found")


def has_no_key(prompt: str, config: GenerateConfig) -> str:
    raise BadRequestError("Error code: 401 - Incorrect API key provided")


def fails_half_the_time() -> Reply:
    turns = itertools.count()

    def reply(prompt: str, config: GenerateConfig) -> ModelOutput:
        if next(turns) % 2:
            raise BadRequestError("Error code: 500 - The server had an error")
        return plain(prompt, config)

    return reply


@dataclass(frozen=True)
class Kind:
    """A judge by the name that the register reads, and what asking it comes to."""

    name: str
    reply: Reply
    scored: float
    method: str | None = None
    # Effort, tokens, temperature, log probabilities.
    sent: tuple[object, ...] = (None, 16, 0, True)
    remedy: str | None = None
    settings: GenerateConfig | None = None  # of the remedy


WEIGHED = (None, 16, 0, True)
SILENT = ("none", 16, 0, True)
MINIMAL = ("minimal", 8000, None, None)
NO_LOGPROBS = "grader={model: fake/lab/writes, logprobs: false}"
KINDS = {
    "plain with log probabilities": Kind("openai/gpt-4o", plain, 1, "logprobs", WEIGHED),
    "plain without": Kind(
        "google/gemini-2.0-flash", writes_only, 1, "parsed", sent=(None, 16, 0, None)
    ),
    "reasons always": Kind("openai/gpt-5", always_reasons, 1, "parsed", MINIMAL),
    "reasons by default": Kind("openai/gpt-6-luna", reasons_by_default, 1, "logprobs", SILENT),
    "rejects temperature": Kind(
        "anthropic/claude-opus-5", rejects_temperature, 1, "parsed", sent=("none", 16, None, None)
    ),
    "JSON only": Kind("lab/json", in_json, 1, "json"),
    "bold only": Kind("lab/bold", in_bold, 1, "formatted"),
    "unknown, without log probabilities": Kind(
        "lab/writes",
        writes_only,
        0,
        remedy=NO_LOGPROBS,
        settings=GenerateConfig(logprobs=False),
    ),
    "unknown, rejects temperature": Kind(
        "lab/strict",
        rejects_temperature,
        0,
        remedy="temperature: 1",
        settings=GenerateConfig(temperature=1),
    ),
    "unknown, thinks aloud and is cut off": Kind(
        "lab/thinks",
        thinks_aloud,
        0,
        remedy="max_tokens: 8000",
        settings=GenerateConfig(max_tokens=8000),
    ),
    "declines": Kind("lab/declines", declines, 0, remedy="choose another judge"),
    "filtered": Kind("lab/filtered", is_filtered, 0, remedy="choose another judge"),
    "gone": Kind("openai/gpt-4o-mini", is_gone, 0, remedy="the nearest is openai/gpt-6-luna"),
    "without a key": Kind("lab/locked", has_no_key, 0, remedy="check its key"),
    "fails half the time": Kind(
        "lab/flaky", fails_half_the_time(), 0.5, "logprobs", remedy="inspect score LOG"
    ),
}


def ask(judge: Model) -> list[Judgement]:
    rubric = load_rubric("alignment")
    names = (rubric.name, rubric.score)

    async def each() -> list[Judgement]:
        prompts = [rubric.render("Well?", f"Fine, {n} times.") for n in range(ASKS)]
        return [await ask_judge(judge, prompt, rubric.escapes, names) for prompt in prompts]

    return anyio.run(each)


def remedies(judge: Model, judgements: Sequence[Judgement]) -> str:
    """What a report says of the judge's failures."""
    answers = [
        JudgedAnswer("q", {"aligned": each.score}, by_judge={str(judge): _reasons(each)})
        for each in judgements
    ]
    [failures] = judge_failures(answers)
    assert failures.failed == sum(each.score is None for each in judgements)
    return "; ".join(cause.remedy(str(judge)) for cause in failures.causes)


def _reasons(judgement: Judgement) -> dict[str, str]:
    return {"aligned": judgement.reason} if judgement.reason else {}


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    judges._WARNED.clear()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_judge_of_any_kind_is_scored_or_a_remedy_is_named_that_works(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[tuple[object, ...]] = []

    def reply(prompt: str, config: GenerateConfig) -> ModelOutput | str:
        sent.append(
            (config.reasoning_effort, config.max_tokens, config.temperature, config.logprobs)
        )
        return kind.reply(prompt, config)

    judge = fake(kind.name, reply)
    with caplog.at_level(logging.WARNING):
        judgements = ask(judge)
    scores = [each.score for each in judgements if each.score is not None]
    assert len(scores) == ASKS * kind.scored
    assert all(score == pytest.approx(SCORE) for score in scores)
    assert {each.method for each in judgements if each.score is not None} <= {kind.method}
    assert set(sent) == {kind.sent}
    assert (kind.remedy or "") in remedies(judge, judgements)
    told = [each for each in caplog.records if "failed on an answer" in each.getMessage()]
    assert len(told) == (kind.scored < 1)
    assert all((kind.remedy or "") in each.getMessage() for each in told)
    if kind.settings is not None:
        judge.config = kind.settings
        assert {each.score for each in ask(judge)} == {SCORE}


def test_a_slow_judge_is_waited_for_and_several_are_asked_at_once() -> None:
    judge = fake("lab/slow")
    waiting, most = 0, 0

    async def think(**arguments: object) -> ModelOutput:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await anyio.sleep(0.3)
        waiting -= 1
        return ModelOutput.from_content("fake", "70")

    judge.api.generate = think  # type: ignore[method-assign]
    calls: list[Callable[..., object]] = [
        lambda n=n: ask_judge(judge, f"prompt {n}") for n in range(ASKS)
    ]
    judgements = anyio.run(judges.at_once, calls)
    assert {each.score for each in judgements} == {SCORE}
    assert most == ASKS
