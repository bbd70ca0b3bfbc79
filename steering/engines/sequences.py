"""A request on its way through an engine: a sequence owns its tokens, its text and how it ends."""

import time
from collections import abc
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from steering.engines import EngineError, Request, RequestOutput, StopReason, TokenLogprob

if TYPE_CHECKING:
    from torch import Tensor

    from steering.vectors.interventions import Intervention

T = TypeVar("T")
Decode = Callable[[abc.Sequence[int]], str]
# Tokens before a stop string that are decoded with it: a character may be several tokens, and the
# text of a token may depend on the one before.
_CONTEXT = 8
NAN_LOGITS = (
    "the model's logits are NaN or infinite: the steered activations exceed the range of its "
    "precision. Lower the magnitude or use -M dtype=float32"
)
"""The error of a sequence whose logits are NaN or infinite."""
RELEASED = "the model was released while this waited or ran. Submit it again: the model loads anew"
"""The error of whatever a release has ended."""
# Most prompt tokens of one pass, so that activations stay small.
_PREFILL_TOKENS = 8192


@dataclass
class Sequence:
    """A request while its answer is generated.

    Attributes:
        request: The request.
        future: Receives the output.
        arrived: When the request was submitted, on the clock of `time.monotonic`.
        started: When its prompt was read, on the same clock.
        tokens: Ids generated so far, without the end token.
        logprobs: One entry a token, if the request asks for them.
        stop_reason: Why it ended; None while it runs.
        num_generated: Tokens generated so far, the end token included.
        change: Largest absolute change that steering made to its activations.
        readings: What its monitor has read, in parts; see `MonitorBatch.collect`.
        failure: Why no further token can be drawn.
        text_before_stop: Its text, where a stop string ended it.
        cancelled: Whether the future was cancelled.
        settled: Whether the future has its output or error.
    """

    request: Request
    future: "Future[RequestOutput]"
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stop_reason: StopReason | None = None
    num_generated: int = 0
    change: float = 0.0
    readings: "list[Tensor]" = field(default_factory=list)
    failure: Exception | None = None
    text_before_stop: str | None = None
    cancelled: bool = False
    settled: bool = False

    def __post_init__(self) -> None:
        # A callback, since to ask the future in every pass would take its lock each time.
        self.future.add_done_callback(self._note_cancellation)

    def _note_cancellation(self, future: "Future[RequestOutput]") -> None:
        self.cancelled = future.cancelled()

    @property
    def num_columns(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.request.prompt) + self.request.max_tokens

    @property
    def on_prompt(self) -> "list[Intervention]":
        """Interventions that act on the prompt."""
        return [item for item in self.request.interventions if item.on_prompt]

    @property
    def on_response(self) -> "list[Intervention]":
        """Interventions that act on generated tokens."""
        return [item for item in self.request.interventions if item.on_response]

    @property
    def finished(self) -> bool:
        """Whether it needs no further pass."""
        return self.stop_reason is not None or self.failure is not None or self.cancelled

    def restarted(self) -> "Sequence":
        """The same request from its beginning. Its seed is fixed, so its tokens are the same."""
        return Sequence(self.request, self.future, self.arrived, self.started)

    def settle(self, decode: Decode) -> None:
        """Give the future the output."""
        self.settled = True
        settle(self.future, partial(self.output, decode))

    def fail(self, error: Exception) -> None:
        """Give the future an error, unless it has its output already."""
        if not self.settled:
            self.settled = True
            fail(self.future, error)

    def append(
        self, token: int, end_tokens: abc.Sequence[int], context_length: int | None, decode: Decode
    ) -> None:
        """Append the token that was drawn, and set `stop_reason` if the sequence ends with it."""
        self.num_generated += 1
        if token in end_tokens:
            self.stop_reason = "stop"
            return
        self.tokens.append(token)
        if self.request.stop and self._has_stop_string(decode):
            self.stop_reason = "stop"
        elif self.num_generated >= self.request.max_tokens:
            self.stop_reason = "max_tokens"
        elif context_length and len(self.request.prompt) + self.num_generated >= context_length:
            self.stop_reason = "model_length"

    def _has_stop_string(self, decode: Decode) -> bool:
        """Whether a stop string has appeared; if so, sets the text before it.

        Only the last tokens are decoded, so that the cost of a token does not grow with the answer.
        A token is at least a byte, so a stop string has no more tokens than bytes.
        """
        longest = max(len(string.encode()) for string in self.request.stop)
        recent = decode(self.tokens[-longest - _CONTEXT :])
        if not any(string in recent for string in self.request.stop):
            return False
        self.text_before_stop = before_stop(decode(self.tokens), self.request.stop)
        return self.text_before_stop is not None

    def output(self, decode: Decode) -> RequestOutput:
        """The output of a sequence that has ended.

        Raises:
            EngineError: It failed, or steering changed nothing in it.
        """
        if self.failure is not None:
            raise self.failure
        assert self.stop_reason is not None
        self.request.check_change(self.change, self.num_generated)
        text = self.text_before_stop
        return RequestOutput(
            tokens=self.tokens,
            text=decode(self.tokens) if text is None else text,
            stop_reason=self.stop_reason,
            num_generated=self.num_generated,
            change=self.change if self.request.interventions else None,
            logprobs=self.logprobs,
            readings=self._readings(),
            waited_s=self.started - self.arrived,
            took_s=time.monotonic() - self.started,
        )

    def _readings(self) -> "Tensor | None":
        """What its monitor has read at each of its tokens but the last."""
        monitor = self.request.monitor
        if not monitor:
            return None
        import torch

        read = torch.cat([torch.empty((0, len(monitor), 2, 2)), *self.readings])
        if len(read) != self.num_generated - 1:
            raise EngineError(
                f"the monitor read {len(read)} of the {self.num_generated - 1} tokens that the "
                "model read: nnsight did not reach every pass"
            )
        return read


def in_chunks(sequences: abc.Sequence[Sequence]) -> list[list[list[Sequence]]]:
    """Sequences by prompt, and prompts by passes.

    Sequences with the same prompt, adapter and interventions on it (samples of one question) share
    its prefill. Prompts of similar length share a pass.
    """
    prompts: dict[tuple[Any, ...], list[Sequence]] = {}
    for sequence in sequences:
        request, steering = sequence.request, map(id, sequence.on_prompt)
        prompts.setdefault((request.prompt, request.adapter, *steering), []).append(sequence)
    chunks: list[list[list[Sequence]]] = []
    for sharing in sorted(prompts.values(), key=lambda sharing: len(sharing[0].request.prompt)):
        width = len(sharing[0].request.prompt)
        if not chunks or (len(chunks[-1]) + 1) * width > _PREFILL_TOKENS:
            chunks.append([])
        chunks[-1].append(sharing)
    return chunks


def before_stop(text: str, stop: abc.Sequence[str]) -> str | None:
    """The text before the first stop string; None if it contains none."""
    starts = [start for string in stop if (start := text.find(string)) >= 0]
    return text[: min(starts)] if starts else None


def settle(future: "Future[T]", work: Callable[[], T]) -> None:
    """Set the result of `work`, or its exception, unless the future was cancelled or is settled."""
    if not _takes_outcome(future):
        return
    with suppress(InvalidStateError):
        try:
            result = work()
        except BaseException as error:
            future.set_exception(as_error(error))
        else:
            future.set_result(result)


def fail(future: "Future[Any]", error: Exception) -> None:
    """Set the exception unless the future was cancelled or is settled."""
    if future.running() or _takes_outcome(future):
        with suppress(InvalidStateError):
            future.set_exception(error)


def as_error(error: BaseException) -> Exception:
    """An error that a future can hold for whoever waits, without ending the waiter's thread too."""
    if isinstance(error, Exception):
        return error
    return EngineError(
        f"the work on the model was broken off ({type(error).__name__}: {error}). Submit it again"
    )


def _takes_outcome(future: "Future[Any]") -> bool:
    """Whether nobody has cancelled or settled it; those who wait learn of a cancellation."""
    if future.done() and not future.cancelled():
        return False
    try:
        return future.set_running_or_notify_cancel()
    except RuntimeError:  # a release has settled it just now
        return False
