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
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from steering.engines import (
    Engine,
    EngineError,
    Request,
    RequestOutput,
    ScoreOutput,
    ScoreRequest,
    Telemetry,
)
from steering.engines._nnsight import Session
from steering.engines.decoder import Decoder
from steering.engines.memory import free_cached_memory
from steering.engines.scheduler import Scheduler
from steering.engines.score_rows import Scoring
from steering.engines.scoring import Scorer
from steering.engines.sequences import RELEASED, Sequence, as_error, fail, settle
from steering.models import LoadedModel, ModelSource, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
# How long a release waits for the pass, or for the loading, that runs.
_LAST_PASS_S = 30


@dataclass
class _Call:
    """Work that runs on the model between passes."""

    work: Callable[[LoadedModel, Session], Any]
    future: "Future[Any]"


class HFEngine(Engine):
    """Requests in, tokens out, on a transformers model."""

    def __init__(
        self,
        source: ModelSource,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_invariant: bool = False,
        weights: str | None = None,
    ) -> None:
        """Remember the model. Its weights load on the worker thread, with the first request.

        They must have the digest `weights`, if it is given.
        """
        self._load = lambda: load_model(source, dtype=dtype, device=device, weights=weights)
        self._batch_invariant = batch_invariant
        self._lock = threading.Lock()
        self._max_sequences = 1
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._worker: _Worker | None = None
        self._released: _Worker | None = None

    def submit(self, request: Request) -> "Future[RequestOutput]":
        sequence = Sequence(request, Future())
        self._send(sequence)
        return sequence.future

    def score(self, request: ScoreRequest) -> "Future[ScoreOutput]":
        scoring = Scoring(request, Future())
        self._send(scoring)
        return scoring.future

    def call(self, work: "Callable[[LoadedModel, Session], T]") -> "Future[T]":
        call = _Call(work, Future())
        self._send(call)
        return call.future

    def tokenizer(self) -> "Future[PreTrainedTokenizerBase]":
        return self.call(lambda loaded, _: self._copied_tokenizer(loaded))

    def allow_batch(self, size: int) -> None:
        with self._lock:
            self._max_sequences = max(size, self._max_sequences)
            if self._worker is not None:
                self._worker.allow(self._max_sequences)

    def telemetry(self) -> Telemetry:
        worker = self._worker
        return Telemetry() if worker is None else worker.telemetry()

    def release(self) -> None:
        with self._lock:
            worker, self._worker = self._worker or self._released, None
            self._released = worker
        if worker is not None:
            worker.stop()

    def _copied_tokenizer(self, loaded: LoadedModel) -> "PreTrainedTokenizerBase":
        # Copied once, on the model's thread: a large vocabulary takes half a second, during which
        # nothing is decoded, and each condition of a study asks for it.
        if self._tokenizer is None:
            self._tokenizer = copy.deepcopy(loaded.tokenizer)
        return self._tokenizer

    def _send(self, item: "Sequence | Scoring | _Call") -> None:
        with self._lock:
            if self._worker is None or not self._worker.put(item):
                self._worker = _Worker(
                    self._load, self._max_sequences, self._batch_invariant, self._released
                )
                self._worker.put(item)


class _Worker:
    """The thread of one loaded model, from its first request to its release."""

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        max_sequences: int,
        batch_invariant: bool,
        previous: "_Worker | None",
    ) -> None:
        """Start the thread. It loads the weights once those of the previous worker are freed."""
        self._batch_invariant = batch_invariant
        self._most_rows: int | None = None
        self.scheduler: Scheduler[Sequence] = Scheduler(max_sequences)
        self._load = load
        self._previous = previous
        self._calls: list[_Call] = []
        self._scorings: list[Scoring] = []
        self._inbox: queue.SimpleQueue[Sequence | Scoring | _Call | None] = queue.SimpleQueue()
        self._outstanding: set[Future[Any]] = set()
        self._decoder: Decoder | None = None
        self._scorer: Scorer | None = None
        self._stopping = threading.Event()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="steering", daemon=True)
        self._thread.start()
        # Torch aborts a process that exits during a pass.
        atexit.register(self.stop)

    def allow(self, max_sequences: int) -> None:
        """Decode as many sequences together as that, and as the mode allows."""
        self.scheduler.max_sequences = min(max_sequences, self._most_rows or max_sequences)

    def put(self, item: "Sequence | Scoring | _Call") -> bool:
        """Queue an item; False if the worker takes no more."""
        with self._closing:
            if self._closed:
                return False
            self._outstanding.add(item.future)
            item.future.add_done_callback(self._outstanding.discard)
            self._inbox.put(item)
            return True

    def telemetry(self) -> Telemetry:
        """Counts and times so far."""
        decoder, scorer = self._decoder, self._scorer
        waiting = len(self.scheduler) + len(self._scorings) + self._inbox.qsize()
        if decoder is None or scorer is None:
            return Telemetry(waiting=waiting)
        counts = decoder.telemetry(waiting)
        return replace(
            counts,
            requests=counts.requests + scorer.num_requests,
            scored_tokens=scorer.num_tokens,
            scoring_s=scorer.seconds,
        )

    def stop(self) -> None:
        """End the thread at its next pass, and every future: may be called again, by any thread."""
        self._stopping.set()
        self._close()
        self._inbox.put(None)
        if threading.current_thread() is self._thread:
            return  # which ends with its present turn
        self._thread.join(timeout=_LAST_PASS_S)
        # It still loads, or hangs: nobody waits for that.
        self._fail_outstanding(EngineError(RELEASED))

    def _close(self) -> None:
        """Take no more items."""
        with self._closing:
            self._closed = True

    def _work(self) -> None:
        """The thread's loop."""
        error: Exception = EngineError(RELEASED)
        try:
            if self._previous is not None:
                self._previous._thread.join()
                self._previous = None
            while not self._stopping.is_set():
                admitted: list[Sequence] = []
                try:
                    self._turn(admitted)
                except BaseException as fault:
                    self._fail_all(as_error(fault), admitted)
        except BaseException as fault:
            error = as_error(fault)
        finally:
            self._end(error)

    def _end(self, error: Exception) -> None:
        """End every future and free the model's memory."""
        self._close()
        with suppress(BaseException):  # a fault must not keep the others from their error
            while not self._inbox.empty():
                self._sort_in(self._inbox.get())
            self._fail_all(error, [])
        self._fail_outstanding(error)
        self._decoder = self._scorer = None
        atexit.unregister(self.stop)
        # The loaded objects were frozen, and a model has reference cycles.
        gc.unfreeze()
        gc.collect()
        free_cached_memory()

    def _turn(self, admitted: list[Sequence]) -> None:
        """Run calls, score, admit sequences (into `admitted` too), decode until more work waits."""
        if not self._calls and not self._scorer and not (self._decoder and self._decoder.sequences):
            self._wait()
        while not self._inbox.empty():
            self._sort_in(self._inbox.get())
        if self._stopping.is_set():
            return
        decoder = self._decoder = self._decoder or self._load_decoder()
        scorer = self._scorer = Scorer(decoder) if self._scorer is None else self._scorer
        while self._calls and not self._stopping.is_set():
            call = self._calls.pop(0)
            settle(call.future, partial(call.work, decoder.loaded, decoder.session))
        scorer.add(self._scorings)
        self._scorings.clear()
        if scorer and not self._stopping.is_set():
            scorer.run(self.scheduler.max_sequences)
        admitted += self.scheduler.take([item.num_columns for item in decoder.sequences])
        decoder.admit(admitted, self.scheduler.max_sequences)
        decoder.run(self._is_interrupted)
        # What a failed pass has preempted starts again, fewer sequences at a time.
        preempted, decoder.preempted = decoder.preempted, []
        if preempted:
            if decoder.out_of_memory:
                self.scheduler.halve([item.num_columns for item in preempted])
            self.scheduler.put_back([(item, item.num_columns) for item in preempted])

    def _load_decoder(self) -> Decoder:
        decoder = Decoder(self._load(), self._stopping, batch_invariant=self._batch_invariant)
        self._most_rows = decoder.most_rows
        self.allow(self.scheduler.max_sequences)
        self.scheduler.set_budget(*decoder.memory_budget())
        # Imported and loaded objects stay: searching them again and again for garbage would stop
        # the whole process, and Inspect's event loop, for half a second each time.
        gc.freeze()
        return decoder

    def _is_interrupted(self) -> bool:
        """Whether calls or newcomers interrupt the running batch; asked after each pass."""
        assert self._decoder is not None
        while not self._inbox.empty():
            self._sort_in(self._inbox.get())
        admits = self.scheduler.admits([item.num_columns for item in self._decoder.sequences])
        return bool(self._calls or self._scorings or self._scorer) or admits

    def _wait(self) -> None:
        """Wait for work, then for the rest of its burst."""
        if not len(self.scheduler) and not self._scorings:
            self._sort_in(self._inbox.get())
        began = time.monotonic()
        while not (self._calls or self._stopping.is_set() or self._fills_a_pass()) and (
            window := self.scheduler.window(time.monotonic() - began)
        ):
            try:
                self._sort_in(self._inbox.get(timeout=window))
            except queue.Empty:
                return

    def _fills_a_pass(self) -> bool:
        """Whether enough answers wait to be scored."""
        answers = sum(len(item.request.answers) for item in self._scorings)
        return answers >= self.scheduler.max_sequences

    def _sort_in(self, item: "Sequence | Scoring | _Call | None") -> None:
        if isinstance(item, _Call):
            self._calls.append(item)
        elif isinstance(item, Scoring):
            self._scorings.append(item)
        elif item is not None:
            if self._batch_invariant and item.request.adapter is not None:
                # The sequences that share an adapter are one product: from now on each is alone.
                self._most_rows = 1
                self.allow(1)
            self.scheduler.add(item, item.num_columns)

    def _fail_all(self, error: Exception, admitted: list[Sequence]) -> None:
        """Give every future but those in the inbox the error, so that none waits for ever."""
        for call in self._calls:
            fail(call.future, error)
        self._calls.clear()
        for scoring in self._scorings:
            fail(scoring.future, error)
        self._scorings.clear()
        if self._scorer is not None:
            self._scorer.fail(error)
        if self._decoder:
            self._decoder.fail(error)
        while len(self.scheduler):
            for sequence in self.scheduler.take():
                sequence.fail(error)
        for sequence in admitted:
            if not sequence.future.done():  # by another start of the same request
                sequence.fail(error)

    def _fail_outstanding(self, error: Exception) -> None:
        for future in list(self._outstanding):
            fail(future, error)
