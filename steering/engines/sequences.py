"""A row on its way through an engine: it owns its tokens, its text and how it ends."""

import time
from collections import abc
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from steering.engines import (
    EngineError,
    Request,
    RequestOutput,
    StopReason,
    TokenLogprob,
)

if TYPE_CHECKING:
    from steering.vectors.interventions import Intervention

T = TypeVar("T")
Decode = Callable[[abc.Sequence[int]], str]
# Tokens before a stop string that are decoded with it: a character may be several tokens, and what
# a tokenizer makes of a token may depend on the one before.
_CONTEXT = 8
# Prompts are read this many tokens at a time at the most, so that activations stay small.
_PREFILL_TOKENS = 8192


@dataclass
class Sequence:
    """One answer while it is generated.

    Attributes:
        row: What was asked for.
        future: What its result goes to.
        arrived: Time of its coming, on the clock of `time.monotonic`.
        told: Whether the future has been told how it ended.
    """

    row: Request
    future: "Future[RequestOutput]"
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stop_reason: StopReason | None = None
    num_generated: int = 0
    change: float = 0.0
    failure: Exception | None = None
    cut: str | None = None
    cancelled: bool = False
    told: bool = False

    def __post_init__(self) -> None:
        # Asking the future takes its lock, in every pass.
        self.future.add_done_callback(self._see)

    def _see(self, future: "Future[RequestOutput]") -> None:
        self.cancelled = future.cancelled()

    @property
    def num_columns(self) -> int:
        """Tokens that it takes in the end, its longest answer included."""
        return len(self.row.prompt) + self.row.max_tokens

    def acting(self, when: str) -> "list[Intervention]":
        """Its edits that act on the prompt (`on_prompt`) or on the response (`on_response`)."""
        return [edit for edit in self.row.edits if getattr(edit, when)]

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.stop_reason is not None or self.failure is not None or self.cancelled

    def fresh(self) -> "Sequence":
        """The same row, to be started again; what it draws is the same, since its seed is."""
        return Sequence(self.row, self.future, self.arrived, self.started)

    def settle(self, decode: Decode) -> None:
        """Tell the future what became of the row."""
        self.told = True
        settle(self.future, partial(self.result, decode))

    def fail(self, error: Exception) -> None:
        """Tell the future what went wrong, if it has not been told how the row ended."""
        if not self.told:
            self.told = True
            fail(self.future, error)

    def note(
        self, token: int, end_tokens: abc.Sequence[int], context_length: int | None, decode: Decode
    ) -> None:
        """Take in the token that was drawn and see whether the row ends with it."""
        self.num_generated += 1
        if token in end_tokens:
            self.stop_reason = "stop"
            return
        self.tokens.append(token)
        if self.row.stop and self._stopped(decode):
            self.stop_reason = "stop"
        elif self.num_generated >= self.row.max_tokens:
            self.stop_reason = "max_tokens"
        elif context_length and len(self.row.prompt) + self.num_generated >= context_length:
            self.stop_reason = "model_length"

    def _stopped(self, decode: Decode) -> bool:
        """Whether a stop string has appeared; if so the text ends before it.

        Only the last tokens are decoded, so that a long answer costs no more a token than a short
        one: a token is a byte at least, so a stop string has no more tokens than bytes.
        """
        longest = max(len(string.encode()) for string in self.row.stop)
        recent = decode(self.tokens[-longest - _CONTEXT :])
        if not any(string in recent for string in self.row.stop):
            return False
        text = decode(self.tokens)
        found = [at for string in self.row.stop if (at := text.find(string)) >= 0]
        self.cut = text[: min(found)] if found else None
        return bool(found)

    def result(self, decode: Decode) -> RequestOutput:
        """What became of the row.

        Raises:
            EngineError: It failed.
            EngineError: Steering did nothing to it.
        """
        if self.failure is not None:
            raise self.failure
        assert self.stop_reason is not None
        self.row.check_change(self.change, self.num_generated)
        return RequestOutput(
            tokens=self.tokens,
            text=decode(self.tokens) if self.cut is None else self.cut,
            stop_reason=self.stop_reason,
            num_generated=self.num_generated,
            change=self.change if self.row.edits else None,
            logprobs=self.logprobs,
            waited_s=self.started - self.arrived,
            took_s=time.monotonic() - self.started,
        )


def in_chunks(rows: abc.Sequence[Sequence]) -> list[list[list[Sequence]]]:
    """Rows by prompt, and prompts by passes.

    Rows that read the same prompt by the same adapter and steered by the same edits, samples of one
    question say, read it once. Prompts of like length share a pass.
    """
    prompts: dict[tuple[Any, ...], list[Sequence]] = {}
    for row in rows:
        edits = (id(edit) for edit in row.acting("on_prompt"))
        prompts.setdefault((row.row.prompt, row.row.adapter, *edits), []).append(row)
    chunks: list[list[list[Sequence]]] = []
    for served in sorted(prompts.values(), key=lambda same: len(same[0].row.prompt)):
        width = len(served[0].row.prompt)
        if not chunks or (len(chunks[-1]) + 1) * width > _PREFILL_TOKENS:
            chunks.append([])
        chunks[-1].append(served)
    return chunks


def broken() -> EngineError:
    """Of a row whose logits are not numbers."""
    return EngineError(
        "the model's logits are NaN: its precision does not hold what steering made of it. Lower "
        "the magnitude or use -M dtype=float32"
    )


def settle(future: "Future[T]", work: Callable[[], T]) -> None:
    """Do the work for a future, unless it was cancelled; who waits for it is told of that too."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def fail(future: "Future[Any]", error: Exception) -> None:
    """Tell a future that nobody has cancelled what went wrong."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
