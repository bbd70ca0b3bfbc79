"""The default engine: transformers models on one machine, steered through nnsight.

One worker thread a model. Rows that wait join the running batch as others end; a row that has ended
leaves at once. It receives token ids and resolved edits, and knows neither chat templates nor
Inspect.
"""

import atexit
import copy
import gc
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from steering.engines import Request, RequestOutput, Telemetry
from steering.engines._nnsight import Session
from steering.engines.decoder import Decoder
from steering.engines.memory import free_cached_memory
from steering.engines.scheduler import Scheduler
from steering.engines.sequences import Sequence, fail, settle
from steering.models import LoadedModel, ModelSource, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
_LAST_PASS_S = 30


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
        self._scheduler: Scheduler[Sequence] = Scheduler(max_rows=1)
        self._calls: list[_Call] = []
        self._inbox: queue.SimpleQueue[Sequence | _Call] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._decoder: Decoder | None = None

    def submit(self, row: Request) -> "Future[RequestOutput]":
        """Queue a row; see `Engine.submit`."""
        live = Sequence(row, Future())
        self._send(live)
        return live.future

    def call(self, work: "Callable[[LoadedModel, Session], T]") -> "Future[T]":
        """Run work alone on the model's thread; see `Engine.call`."""
        call = _Call(work, Future())
        self._send(call)
        return call.future

    def tokenizer(self) -> "Future[PreTrainedTokenizerBase]":
        """A tokenizer of one's own; see `Engine.tokenizer`."""
        return self.call(lambda loaded, _: copy.deepcopy(loaded.tokenizer))

    def allow_batch(self, rows: int) -> None:
        """Let that many rows be decoded together; see `Engine.allow_batch`."""
        self._scheduler.max_rows = max(rows, self._scheduler.max_rows)

    def telemetry(self) -> Telemetry:
        """What was done so far; see `Engine.telemetry`."""
        waiting = len(self._scheduler) + self._inbox.qsize()
        return self._decoder.telemetry(waiting) if self._decoder else Telemetry(waiting=waiting)

    def release(self) -> None:
        """Give the memory back; see `Engine.release`."""
        self._stop()
        self._decoder = self._thread = None
        self._stopping = threading.Event()
        # What was loaded was frozen, and a model holds itself in circles.
        gc.unfreeze()
        gc.collect()
        free_cached_memory()

    def _send(self, item: "Sequence | _Call") -> None:
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
        while not self._stopping.is_set():
            taken: list[Sequence] = []
            try:
                self._turn(taken)
            except Exception as error:
                self._fail_all(error, taken)

    def _turn(self, taken: list[Sequence]) -> None:
        """Do what waits, then decode until more does; rows let in are added to `taken`."""
        if not self._calls and not (self._decoder and self._decoder.rows):
            self._wait()
        decoder = self._decoder = self._decoder or self._made()
        while self._calls:
            call = self._calls.pop(0)
            settle(call.future, partial(call.work, decoder.loaded, decoder.session))
        taken += self._scheduler.take([row.num_columns for row in decoder.rows])
        decoder.admit(taken, self._scheduler.max_rows)
        decoder.run(self._is_wanted)
        self._retreat(decoder)

    def _made(self) -> Decoder:
        decoder = Decoder(self._load(), self._stopping)
        self._scheduler.set_budget(*decoder.room())
        # What was imported and loaded stays: looking through it again and again for garbage would
        # stop the whole process, and Inspect's event loop, for half a second each time.
        gc.freeze()
        return decoder

    def _is_wanted(self) -> bool:
        """Whether the running batch is to be interrupted; asked after each pass."""
        assert self._decoder is not None
        while not self._inbox.empty():
            self._sort_in(self._inbox.get())
        waiting = self._scheduler.lets_in([row.num_columns for row in self._decoder.rows])
        return bool(self._calls) or waiting

    def _retreat(self, decoder: Decoder) -> None:
        """Start rows again that a failed pass has thrown out, fewer at a time."""
        rows, decoder.thrown_out = decoder.thrown_out, []
        if not rows:
            return
        if decoder.out_of_memory:
            self._scheduler.halve([row.num_columns for row in rows])
        self._scheduler.put_back([(row, row.num_columns) for row in rows])

    def _wait(self) -> None:
        """Wait for something to do, then for the rest of its burst."""
        if not len(self._scheduler):
            self._sort_in(self._inbox.get())
        began = time.monotonic()
        while not self._calls and (window := self._scheduler.window(time.monotonic() - began)):
            try:
                self._sort_in(self._inbox.get(timeout=window))
            except queue.Empty:
                return

    def _sort_in(self, item: "Sequence | _Call") -> None:
        if isinstance(item, _Call):
            self._calls.append(item)
        else:
            self._scheduler.add(item, item.num_columns)

    def _fail_all(self, error: Exception, taken: list[Sequence]) -> None:
        """Tell everybody what went wrong: nobody is to wait for ever."""
        for call in self._calls:
            fail(call.future, error)
        self._calls.clear()
        if self._decoder:
            self._decoder.fail(error)
        while len(self._scheduler):
            taken += self._scheduler.take()
        for row in taken:
            if not row.future.done():  # by another start of the same row
                row.fail(error)
