"""What a broken or hostile judge may reply, and which scores are right for it."""

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspect_ai.model import Logprob, Logprobs, ModelOutput, TopLogprob


@dataclass(frozen=True)
class JudgeReply:
    """A reply.

    Attributes:
        name: What is special about it.
        say: Returns it, or raises.
        allowed: Scores that are right for it.
        may_fail: Whether an unscored answer, with a reason, is right as well.
    """

    name: str
    say: Callable[[], ModelOutput | str]
    allowed: Sequence[float]
    may_fail: bool = True


def draw_reply(draw: random.Random) -> JudgeReply:
    """A random reply."""
    return draw.choice([_number, _weighed, _impossible, _split, _split, _text, _text, _error])(draw)


def _output(
    text: str, tokens: Mapping[str, float] | None = None, stop_reason: str = "stop"
) -> ModelOutput:
    """A reply whose first position has these log probabilities, by token."""
    output = ModelOutput.from_content("faults", text, stop_reason=stop_reason)  # type: ignore[arg-type]
    if tokens is not None:
        top = [TopLogprob(token=token, logprob=value) for token, value in tokens.items()]
        first = Logprob(token=top[0].token, logprob=top[0].logprob, top_logprobs=top)
        output.choices[0].logprobs = Logprobs(content=[first])
    return output


def _number(draw: random.Random) -> JudgeReply:
    """A plain number."""
    number = draw.choice([0, 100, draw.randrange(101)])
    text = draw.choice(["{}", " {}", "{}\n", "\t{} \n"]).format(number)
    return JudgeReply(f"plain {text!r}", lambda: text, [float(number)], may_fail=False)


def _weighed(draw: random.Random) -> JudgeReply:
    """Whole numbers as tokens, with other tokens beside them."""
    shares = {n: draw.random() for n in draw.sample(range(10, 101), draw.randrange(1, 6))}
    rest = draw.choice([0.0, 0.3])
    total = sum(shares.values()) / (1 - rest)
    chances = {str(number): share / total for number, share in shares.items()}
    text = max(chances, key=lambda token: chances[token])
    tokens = {token: math.log(chance) for token, chance in chances.items()}
    tokens = dict(sorted(tokens.items(), key=lambda item: -item[1]))
    tokens |= {"Sure": math.log(rest)} if rest else {}
    mean = sum(int(token) * p for token, p in chances.items()) / sum(chances.values())
    return JudgeReply(f"weighed {tokens}", lambda: _output(text, tokens), [mean], may_fail=False)


def _impossible(draw: random.Random) -> JudgeReply:
    """Log probabilities that are none."""
    number = draw.randrange(10, 101)
    value = draw.choice([math.inf, -math.inf, math.nan, 0.7, 20.0, 709.0, 710.0, 1e300])
    others = draw.choice([{}, {"12": -0.5}, {"12": value}])
    tokens = {str(number): value, **others}
    return JudgeReply(f"impossible {tokens}", lambda: _output(str(number), tokens), [float(number)])


def _split(draw: random.Random) -> JudgeReply:
    """A tokenizer that splits digits: the first token is no score."""
    number = draw.randrange(10, 101)
    digits = {str(number)[0]: -0.4, str(draw.randrange(10)): -1.5, str(draw.randrange(10)): -2.5}
    tail = draw.choice(["", "", ".", "/100", "%", "\nBecause it is.", " out of 100", ",000", ".5"])
    text = f"{number}{tail}"
    allowed = {",000": [], ".5": [number + 1.0]}.get(tail, [float(number)])
    stop = draw.choice(["stop", "stop", "max_tokens"])
    if stop == "max_tokens" and draw.random() < 0.5:
        text, allowed = str(number)[0], []
    return JudgeReply(
        f"split {text!r} {stop}",
        lambda: _output(text, digits, stop),
        [x for x in allowed if x <= 100],
    )


# Texts and the scores that are right for them; unscored is right for all.
_REPLIES: dict[str, list[float]] = {
    "": [], "  ": [], "REFUSAL": [], "CODE": [], "refusal": [], "I can't grade this.": [],
    "1,000": [], "8/10": [80.0], "-5": [], "101": [], "1e2": [100.0], "0x50": [], "٩٥": [95.0],
    "\uff19\uff15": [95.0], "²": [], "NaN": [], "inf": [], "Infinity": [], "true": [], "null": [],
    "85.5": [86.0], "+85": [85.0], "8 5": [], "9" * 5000: [], "[85]": [85.0], "085": [85.0],
    '{"score": 85}': [85.0], "85 or 90": [], "**85**": [85.0], "Score: 85": [85.0], "85!": [85.0],
    "99999999999999999999": [], "8\u200b5": [], "85\x00": [85.0], "\ud800": [], "85\ud800": [85.0],
    "<think>10</think>85": [85.0], "\x1b[31m85": [85.0], "x" * 200_000: [], "100.0": [100.0],
    "eighty": [80.0], "0": [0.0], "00": [0.0], "1,5": [], "85\u2028": [85.0],
}  # fmt: skip


def _text(draw: random.Random) -> JudgeReply:
    """A text that is not plainly a number, or not whole."""
    text = draw.choice(list(_REPLIES))
    allowed = _REPLIES[text]
    stop = draw.choice(["stop"] * 4 + ["content_filter", "max_tokens", "unknown"])
    form = draw.choice(["text", "text", "text", "no choices", "error", "no logprobs", "odd tokens"])

    def say() -> ModelOutput | str:
        if form == "no choices":
            return ModelOutput(model="faults", choices=[])
        output = _output(text, stop_reason=stop)
        if form == "error":
            output.error = "the server says no"
        if form == "no logprobs":
            output.choices[0].logprobs = Logprobs(content=[])
        if form == "odd tokens":
            output = _output(text, {"\ud800": -0.1, "": -3.0, "\x00": -4.0}, stop)
        return output

    return JudgeReply(f"text {text[:20]!r} {stop} {form}", say, allowed)


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


_ERRORS: list[Callable[[], BaseException]] = [
    lambda: RuntimeError("injected"), lambda: ValueError("injected"), lambda: TimeoutError(),
    lambda: OSError(28, "No space left on device"), lambda: KeyError("choices"),
    lambda: asyncio.CancelledError(), lambda: MemoryError(), lambda: RecursionError("injected"),
    lambda: StopIteration(), lambda: ConnectionResetError(), lambda: AssertionError(),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "injected"),
    lambda: RuntimeError("half \ud800 a character"), lambda: RuntimeError("\x1b[31mred\n\nlines"),
    lambda: RuntimeError("x" * 20_000), lambda: ExceptionGroup("two", [ValueError("a")]),
    lambda: _Unspeakable(),
]  # fmt: skip


def _error(draw: random.Random) -> JudgeReply:
    """The network raises."""
    error = draw.choice(_ERRORS)

    def say() -> Any:
        raise error()

    return JudgeReply(f"raises {type(error()).__name__}", say, [])
