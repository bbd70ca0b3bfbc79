"""The default engine: transformers models on one machine, steered through nnsight.

One worker thread a model gathers rows, prefills them together, and decodes them together until each
has ended; finished rows leave at once. It receives token ids and resolved edits, and knows neither
chat templates nor Inspect.
"""

import atexit
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from steering.engines import EngineError, Row, RowResult, StopReason, TokenLogprob, UnsteeredError
from steering.engines._nnsight import Session
from steering.engines.sampling import Sampler
from steering.engines.scheduler import Scheduler
from steering.interventions import Plan
from steering.models import LoadedModel, ModelSource, load_model

T = TypeVar("T")
_LAST_PASS_S = 30


@dataclass
class _Live:
    """A row on its way: owns everything about it."""

    row: Row
    future: "Future[RowResult]"
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    cut: str | None = None
    stop_reason: StopReason | None = None
    num_generated: int = 0
    change: float = 0.0
    failure: EngineError | None = None

    @property
    def over(self) -> bool:
        ended = self.stop_reason is not None or self.failure is not None
        return ended or self.future.cancelled()


@dataclass
class _Call:
    """Work that wants the model for itself."""

    work: Callable[[LoadedModel, Session], Any]
    future: "Future[Any]"


class HFEngine:
    """Rows in, tokens out, on a transformers model."""

    def __init__(self, source: ModelSource, *, dtype: str = "auto", device: str = "auto") -> None:
        """Take note of the model. Weights load on the worker thread, with the first request."""
        self._load = lambda: load_model(source, dtype=dtype, device=device)
        self._scheduler: Scheduler[_Live] = Scheduler(max_rows=1)
        self._calls: list[_Call] = []
        self._inbox: queue.SimpleQueue[_Live | _Call] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def submit(self, row: Row) -> "Future[RowResult]":
        """Queue a row; see `Engine.submit`."""
        live = _Live(row, Future())
        self._send(live)
        return live.future

    def call(self, work: "Callable[[LoadedModel, Session], T]") -> "Future[T]":
        """Run work alone on the model's thread; see `Engine.call`."""
        call = _Call(work, Future())
        self._send(call)
        return call.future

    def allow_batch(self, rows: int) -> None:
        """Let that many rows be decoded together; see `Engine.allow_batch`."""
        self._scheduler.max_rows = max(rows, self._scheduler.max_rows)

    def _send(self, item: "_Live | _Call") -> None:
        self._inbox.put(item)
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="steering", daemon=True)
                self._thread.start()
                atexit.register(self._stop)

    def _stop(self) -> None:
        """End the work in hand at its next pass: torch aborts a process that is cut off in one."""
        self._stopping.set()
        if self._thread is not None:
            self._inbox.put(_Call(lambda *_: None, Future()))
            self._thread.join(timeout=_LAST_PASS_S)

    def _work(self) -> None:
        """Life of the worker thread."""
        decoder: _Decoder | None = None
        while not self._stopping.is_set():
            self._receive()
            try:
                decoder = decoder or _Decoder(self._load(), self._stopping)
            except Exception as error:
                self._fail_waiting(error)
                continue
            while self._calls:
                call = self._calls.pop(0)
                _settle(call.future, partial(call.work, decoder.loaded, decoder.session))
            batch = [live for live in self._scheduler.take() if not live.over]
            if batch:
                decoder.run(batch)

    def _receive(self) -> None:
        """Wait for something to do, then for the rest of its burst."""
        if not len(self._scheduler):
            self._sort_in(self._inbox.get())
        deadline = time.monotonic() + self._scheduler.window()
        while not self._calls and self._scheduler.window():
            try:
                self._sort_in(self._inbox.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                return

    def _sort_in(self, item: "_Live | _Call") -> None:
        if isinstance(item, _Call):
            self._calls.append(item)
        else:
            self._scheduler.add(item)

    def _fail_waiting(self, error: Exception) -> None:
        futures = [call.future for call in self._calls]
        self._calls.clear()
        while len(self._scheduler):
            futures += [live.future for live in self._scheduler.take()]
        for future in futures:
            _fail(future, error)


def _settle(future: "Future[T]", work: Callable[[], T]) -> None:
    """Do the work for a future that nobody has cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _fail(future: "Future[Any]", error: Exception) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


class _Decoder:
    """The decode loop of one loaded model."""

    def __init__(self, loaded: LoadedModel, stopping: threading.Event) -> None:
        self.loaded = loaded
        self.session = Session(loaded, stopping)
        self._device = loaded.model.device
        self._takes_positions = loaded.accepts("position_ids")
        # Only the last position's logits are read; all would cost rows x tokens x vocabulary.
        self._last_only = {"logits_to_keep": 1} if loaded.accepts("logits_to_keep") else {}
        pad = loaded.tokenizer.pad_token_id
        self._pad = loaded.end_tokens[0] if pad is None else pad

    def run(self, batch: Sequence[_Live]) -> None:
        """Generate a batch; halve it when memory is short. Every future is settled in the end."""
        try:
            plan = Plan([live.row.edits for live in batch], self._device)
            with torch.inference_mode():
                self.session.run(lambda: self._decode(list(batch), plan), plan)
        except torch.OutOfMemoryError as error:
            rest = [live for live in batch if not live.future.done()]
            if len(rest) == 1:
                _fail(rest[0].future, error)
                return
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
                self.run([_Live(live.row, live.future) for live in half])
        except Exception as error:
            for live in batch:
                if not live.future.done():
                    _fail(live.future, error)

    def _decode(self, rows: list[_Live], plan: Plan) -> None:
        """Prefill, then one token a row a pass. A row is settled as soon as it has ended."""
        sampler = Sampler([live.row.sampling for live in rows])
        tokens, mask = self._pad_left([live.row.prompt for live in rows])
        plan.begin_prefill(mask)
        cache, passes = None, 0
        while True:
            self.session.check_running()
            output = self._forward(tokens, mask, cache)
            passes += 1
            _check_reached(plan, passes)
            drawn = sampler.draw(output.logits[:, -1], [live.tokens for live in rows])
            self._note(rows, drawn, output.logits[:, -1])
            if passes <= 2:
                for live, change in zip(rows, plan.change.tolist(), strict=True):
                    live.change = change
            for live in rows:
                if live.over:
                    _settle(live.future, partial(self._result, live))
            left = [index for index, live in enumerate(rows) if not live.over]
            if not left:
                return
            cache = output.past_key_values
            if len(left) < len(rows):
                rows = [rows[index] for index in left]
                order = torch.tensor(left, device=self._device)
                cache.reorder_cache(order)
                sampler.keep(left)
                plan.keep(order)
                mask, drawn = mask[order], drawn[order]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            tokens = drawn[:, None]
            plan.begin_decode()

    def _pad_left(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask, both [rows, longest prompt]."""
        longest = max(len(prompt) for prompt in prompts)
        tokens = [[self._pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(tokens, device=self._device), torch.tensor(mask, device=self._device)

    def _forward(self, tokens: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
        """One pass. Positions are counted from the mask, so padding moves none of them."""
        options: dict[str, Any] = dict(self._last_only)
        if self._takes_positions:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            options["position_ids"] = positions[:, -tokens.shape[1] :]
        return self.loaded.model(
            input_ids=tokens,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **options,
        )

    def _note(self, rows: Sequence[_Live], drawn: torch.Tensor, logits: torch.Tensor) -> None:
        """Write the drawn tokens into their rows and end those that are done."""
        logprobs = None
        if any(live.row.top_logprobs is not None for live in rows):
            logprobs = logits.float().log_softmax(-1)
        limit = self.loaded.shape.context_length
        broken = logits.isnan().any(-1).tolist()
        for index, (live, token) in enumerate(zip(rows, drawn.tolist(), strict=True)):
            if broken[index]:
                live.failure = EngineError(
                    "the model's logits are NaN: its precision does not hold what steering made "
                    "of it. Lower the magnitude or use -M dtype=float32"
                )
                continue
            live.num_generated += 1
            if token in self.loaded.end_tokens:
                live.stop_reason = "stop"
                continue
            live.tokens.append(token)
            if logprobs is not None and live.row.top_logprobs is not None:
                live.logprobs.append(_logprob(token, logprobs[index], live.row.top_logprobs))
            if live.row.stop and self._stop_at(live):
                live.stop_reason = "stop"
            elif live.num_generated >= live.row.max_tokens:
                live.stop_reason = "max_tokens"
            elif limit and len(live.row.prompt) + live.num_generated >= limit:
                live.stop_reason = "model_length"

    def _stop_at(self, live: _Live) -> bool:
        """Whether a stop string has appeared; if so the text ends before it."""
        text = self._text(live.tokens)
        found = [at for string in live.row.stop if (at := text.find(string)) >= 0]
        live.cut = text[: min(found)] if found else None
        return bool(found)

    def _text(self, tokens: Sequence[int]) -> str:
        # Special tokens in the middle of an answer are kept: hiding them would hide incoherence.
        text = self.loaded.tokenizer.decode(list(tokens), skip_special_tokens=False)
        assert isinstance(text, str)
        return text

    def _result(self, live: _Live) -> RowResult:
        if live.failure is not None:
            raise live.failure
        assert live.stop_reason is not None
        row = live.row
        decoded = live.num_generated > 1
        acted = any(edit.positions != "response" or decoded for edit in row.edits)
        if acted and live.change == 0 and any(edit.must_change for edit in row.edits):
            raise UnsteeredError(
                "steering changed no activation of this row: the vector is too small for the "
                "model's precision, or was not applied. Raise the magnitude or use -M dtype=float32"
            )
        return RowResult(
            tokens=live.tokens,
            text=self._text(live.tokens) if live.cut is None else live.cut,
            stop_reason=live.stop_reason,
            num_generated=live.num_generated,
            change=live.change if row.edits else None,
            logprobs=live.logprobs,
        )


def _check_reached(plan: Plan, passes: int) -> None:
    """Make sure that each pass so far met each steered site."""
    if any(visits != passes for visits in plan.visits.values()):
        raise UnsteeredError(
            f"the model ran {passes} times but was steered {plan.visits} times: nnsight did not "
            "reach every pass"
        )


def _logprob(token: int, logprobs: torch.Tensor, num_top: int) -> TokenLogprob:
    top = logprobs.topk(num_top)
    return TokenLogprob(
        token=token,
        logprob=logprobs[token].item(),
        top=tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
    )
