"""The default engine: transformers models on one machine, steered through nnsight.

Each model has one worker thread. Requests that wait join the running batch as sequences end; a
sequence that has ended leaves at once. Receives token ids and resolved interventions; knows neither
chat templates nor Inspect.
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

from steering.engines import Engine, Request, RequestOutput, Telemetry
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
    """Work that runs on the model between passes."""

    work: Callable[[LoadedModel, Session], Any]
    future: "Future[Any]"


class HFEngine(Engine):
    """Requests in, tokens out, on a transformers model."""

    def __init__(self, source: ModelSource, *, dtype: str = "auto", device: str = "auto") -> None:
        """Remember the model. Its weights load on the worker thread, with the first request."""
        self._load = lambda: load_model(source, dtype=dtype, device=device)
        self._scheduler: Scheduler[Sequence] = Scheduler(max_sequences=1)
        self._calls: list[_Call] = []
        self._inbox: queue.SimpleQueue[Sequence | _Call] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._decoder: Decoder | None = None

    def submit(self, request: Request) -> "Future[RequestOutput]":
        sequence = Sequence(request, Future())
        self._send(sequence)
        return sequence.future

    def call(self, work: "Callable[[LoadedModel, Session], T]") -> "Future[T]":
        call = _Call(work, Future())
        self._send(call)
        return call.future

    def tokenizer(self) -> "Future[PreTrainedTokenizerBase]":
        return self.call(lambda loaded, _: copy.deepcopy(loaded.tokenizer))

    def allow_batch(self, size: int) -> None:
        self._scheduler.max_sequences = max(size, self._scheduler.max_sequences)

    def telemetry(self) -> Telemetry:
        waiting = len(self._scheduler) + self._inbox.qsize()
        return self._decoder.telemetry(waiting) if self._decoder else Telemetry(waiting=waiting)

    def release(self) -> None:
        self._stop()
        self._decoder = self._thread = None
        self._stopping = threading.Event()
        # The loaded objects were frozen, and a model has reference cycles.
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
        """End the work at its next pass: torch aborts a process that exits during one."""
        self._stopping.set()
        if self._thread is not None:
            self._inbox.put(_Call(lambda *_: None, Future()))
            self._thread.join(timeout=_LAST_PASS_S)

    def _work(self) -> None:
        """The worker thread's loop."""
        while not self._stopping.is_set():
            admitted: list[Sequence] = []
            try:
                self._turn(admitted)
            except Exception as error:
                self._fail_all(error, admitted)

    def _turn(self, admitted: list[Sequence]) -> None:
        """Run the calls, admit sequences (into `admitted` too), decode until more work waits."""
        if not self._calls and not (self._decoder and self._decoder.sequences):
            self._wait()
        decoder = self._decoder = self._decoder or self._load_decoder()
        while self._calls:
            call = self._calls.pop(0)
            settle(call.future, partial(call.work, decoder.loaded, decoder.session))
        admitted += self._scheduler.take([item.num_columns for item in decoder.sequences])
        decoder.admit(admitted, self._scheduler.max_sequences)
        decoder.run(self._is_interrupted)
        # What a failed pass has preempted starts again, fewer sequences at a time.
        preempted, decoder.preempted = decoder.preempted, []
        if preempted:
            if decoder.out_of_memory:
                self._scheduler.halve([item.num_columns for item in preempted])
            self._scheduler.put_back([(item, item.num_columns) for item in preempted])

    def _load_decoder(self) -> Decoder:
        decoder = Decoder(self._load(), self._stopping)
        self._scheduler.set_budget(*decoder.memory_budget())
        # Imported and loaded objects stay: searching them again and again for garbage would stop
        # the whole process, and Inspect's event loop, for half a second each time.
        gc.freeze()
        return decoder

    def _is_interrupted(self) -> bool:
        """Whether calls or newcomers interrupt the running batch; asked after each pass."""
        assert self._decoder is not None
        while not self._inbox.empty():
            self._sort_in(self._inbox.get())
        admits = self._scheduler.admits([item.num_columns for item in self._decoder.sequences])
        return bool(self._calls) or admits

    def _wait(self) -> None:
        """Wait for work, then for the rest of its burst."""
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

    def _fail_all(self, error: Exception, admitted: list[Sequence]) -> None:
        """Give every future the error, so that none waits for ever."""
        for call in self._calls:
            fail(call.future, error)
        self._calls.clear()
        if self._decoder:
            self._decoder.fail(error)
        while len(self._scheduler):
            admitted += self._scheduler.take()
        for sequence in admitted:
            if not sequence.future.done():  # by another start of the same request
                sequence.fail(error)
