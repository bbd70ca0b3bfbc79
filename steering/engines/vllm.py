"""The engine for models that need vLLM's throughput or tensor parallelism, steered by nnsight.

vLLM runs in processes of its own, schedules, batches and samples; its workers apply the
interventions of each token's request (`_vllm`). Here requests are submitted to it and its outputs
converted. vLLM pins another version of transformers, so it needs an environment of its own.
"""

import asyncio
import atexit
import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from itertools import count
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
from steering.engines.hf import HFEngine
from steering.engines.sequences import NAN_LOGITS, RELEASED, as_error, fail
from steering.engines.vllm_requests import (
    failure_of,
    in_one_line,
    lora_rank,
    lora_request,
    make_output,
    pack_request,
    read_by_monitor,
    sampling_params,
)
from steering.models import (
    LoadedModel,
    ModelSource,
    check_unchanged,
    commit_of,
    end_tokens,
    family_of,
    load_config,
    load_tokenizer,
    read_shape,
)
from steering.models.adapters import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
_LAST_REQUEST_S = 30
_LOOK_S = 0.1
# Most adapters that are active in one step.
_MOST_ADAPTERS = 4


class VLLMEngine(Engine):
    """Requests in, tokens out, on vLLM."""

    def __init__(
        self,
        source: ModelSource,
        *,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        cuda_graphs: bool = False,
        weights: str | None = None,
    ) -> None:
        """Remember the model. Its weights, of the digest `weights`, load with the first request."""
        self._source = source
        self._weights = weights
        self._dtype = dtype
        self._tensor_parallel_size = tensor_parallel_size
        self._cuda_graphs = cuda_graphs
        self._max_sequences = 1
        self._names = count()
        self._start = threading.Lock()
        self._previous: threading.Thread | None = None
        self._reset()

    def _reset(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._outstanding: set[Future[Any]] = set()
        self._llm: Any = None
        self._transformers: HFEngine | None = None
        self._broken: EngineError | None = None
        self._max_rank = 0
        self._running = 0
        self._registered: dict[tuple[int, int], tuple[Any, str]] = {}
        self._abandoned: list[str] = []
        self._adapters: dict[str, Any] = {}
        self._telemetry = Telemetry()
        self._began = 0.0

    def submit(self, request: Request) -> "Future[RequestOutput]":
        return self._send(self._guarded(request))

    def score(self, request: ScoreRequest) -> "Future[ScoreOutput]":
        raise EngineError("engine=vllm can't score given answers: use -M engine=hf")

    def call(self, work: "Callable[[LoadedModel, Any], T]") -> "Future[T]":
        """Run work on the model as transformers loads it; see `Engine.call`.

        vLLM has no gradients and gives no access to activations. One machine rarely has memory for
        two copies of the model: vLLM frees its copy first, and loads it for the next request.
        """
        return self._send(self._on_transformers(work))

    def tokenizer(self) -> "Future[PreTrainedTokenizerBase]":
        return self._send(asyncio.to_thread(load_tokenizer, self._source))

    def allow_batch(self, size: int) -> None:
        """Allow larger batches; has an effect only before weights load."""
        self._max_sequences = max(size, self._max_sequences)

    def telemetry(self) -> Telemetry:
        busy = self._telemetry.busy_s
        if self._running:
            busy += time.monotonic() - self._began
        return dataclasses.replace(
            self._telemetry,
            busy_s=busy,
            occupancy=min(1.0, self._running / self._max_sequences),
            waiting=max(0, self._running - self._max_sequences),
        )

    def release(self) -> None:
        if threading.current_thread() is self._thread:
            # Which can't wait for its own end.
            threading.Thread(target=self.release, name="steering-vllm-release").start()
            return
        with self._start:
            if self._loop is None or self._thread is None:
                return
            self._ending.set()
            if self._transformers is not None:
                self._transformers.release()
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            self._thread.join(timeout=_LAST_REQUEST_S)
            # It still loads: nobody waits for that.
            for future in list(self._outstanding):
                fail(future, EngineError(RELEASED))
            self._previous = self._thread
            self._reset()

    async def _end(self) -> None:
        """Cancel the running tasks, then stop the loop."""
        await asyncio.sleep(0)  # A task must have begun to tell of its end.
        loop = asyncio.get_running_loop()
        tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._unload()
        finally:
            loop.stop()

    def _send(self, work: "Coroutine[Any, Any, T]") -> "Future[T]":
        with self._start:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._lock = asyncio.Lock()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="steering-vllm", daemon=True
                )
                self._thread.start()
                atexit.register(self.release)
            future = asyncio.run_coroutine_threadsafe(
                _until_released(work, self._ending, self._previous), self._loop
            )
            self._outstanding.add(future)
            future.add_done_callback(self._outstanding.discard)
            return future

    async def _on_transformers(self, work: "Callable[[LoadedModel, Any], T]") -> T:
        async with self._lock:
            if self._transformers is None:
                await self._unload()
                self._transformers = HFEngine(
                    self._source, dtype=self._dtype, weights=self._weights
                )
            return await asyncio.wrap_future(self._transformers.call(work))

    async def _guarded(self, request: Request) -> RequestOutput:
        """Answer a request with an engine that may fail as a whole.

        An engine that failed before its first answer would fail again: it is not loaded again.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await self._answer(request)
        except EngineDeadError as error:
            self._llm = None
            self._registered.clear()
            failure = failure_of("vLLM broke down", error)
            if not self._telemetry.requests:
                self._broken = failure
            raise failure from error

    async def _answer(self, request: Request) -> RequestOutput:
        from vllm.exceptions import VLLMClientError

        arrived = time.monotonic()
        async with self._lock:
            if self._broken is not None:
                raise self._broken
            await self._ready(request.adapter)
            key = await self._register(request)
            self._count(1)
        name = f"request-{next(self._names)}"
        params = sampling_params(request, self._end_tokens, name, key)
        started = time.monotonic()
        try:
            outputs = self._llm.generate(
                {"prompt_token_ids": list(request.prompt)},
                params,
                name,
                lora_request=self._adapters.get(request.adapter.name) if request.adapter else None,
            )
            async for partial_output in outputs:
                final = partial_output
            change, fault, readings = 0.0, "", b""
            if key:
                names = [name, *self._abandoned]
                self._abandoned.clear()
                reports = await self._of_workers("steering_report", names)
                # Those of the first request on the first worker.
                change, fault, readings = reports[0][0]
        except asyncio.CancelledError:
            # The workers forget it with the next report.
            self._abandoned.append(name)
            raise
        except (ValueError, VLLMClientError) as error:
            raise EngineError(f"vLLM refuses a request: {in_one_line(error)}") from None
        finally:
            self._count(-1)
        if not math.isfinite(change):
            raise EngineError(NAN_LOGITS)
        if fault:
            raise EngineError(f"a request was not steered or read as it asks: {fault}")
        output = make_output(request, final.outputs[0], self._tokenizer, self._end_tokens)
        output.readings = read_by_monitor(request, readings, output.num_generated)
        output.waited_s, output.took_s = started - arrived, time.monotonic() - started
        if request.interventions:
            output.change = change
            request.check_change(change, output.num_generated)
        self._telemetry = dataclasses.replace(
            self._telemetry,
            requests=self._telemetry.requests + 1,
            tokens=self._telemetry.tokens + output.num_generated,
        )
        return output

    async def _of_workers(self, name: str, *args: Any) -> list[Any]:
        """The reply of each worker to a call of one of its methods.

        vLLM's own call waits for ever if a worker dies during it.
        """
        llm = self._llm
        call = asyncio.ensure_future(llm.collective_rpc(name, args=args))
        while not call.done():
            await asyncio.wait([call], timeout=_LOOK_S)
            if llm.errored and not call.done():
                call.cancel()
                raise llm.dead_error
        return list(call.result())

    def _count(self, more: int) -> None:
        """Change the number of running requests by `more`."""
        now = time.monotonic()
        if self._running:
            busy = self._telemetry.busy_s + now - self._began
            self._telemetry = dataclasses.replace(self._telemetry, busy_s=busy)
        self._began = now
        self._running += more

    async def _ready(self, adapter: Adapter | None) -> None:
        """Load the model, with support for the adapter's rank."""
        rank = lora_rank(adapter) if adapter else 0
        if self._llm is None or rank > self._max_rank:
            # vLLM fixes the largest rank when it loads.
            await self._unload()
            await self._load(max(rank, self._max_rank))
        if adapter and adapter.name not in self._adapters:
            self._adapters[adapter.name] = lora_request(adapter, len(self._adapters) + 1)

    async def _load(self, max_rank: int) -> None:
        # vLLM's messages while it loads would bury ours.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from steering.engines._vllm import SteeredVLLM

        if self._weights is not None:
            check_unchanged(self._source, self._weights)
        self._tokenizer = load_tokenizer(self._source)
        self._end_tokens = end_tokens(self._source, self._tokenizer)
        config = load_config(self._source).get_text_config()
        options: dict[str, Any] = {}
        if max_rank:
            options |= {"enable_lora": True, "max_lora_rank": max_rank, "max_loras": _MOST_ADAPTERS}
        SteeredVLLM.num_blocks = config.num_hidden_layers
        try:
            model = SteeredVLLM(
                self._source.location,
                revision=None if self._source.local else commit_of(self._source),
                trust_remote_code=self._source.trust_remote_code,
                dispatch=True,
                mode="async",
                dtype=self._dtype,
                tensor_parallel_size=self._tensor_parallel_size,
                max_num_seqs=self._max_sequences,
                # As long as the memory allows.
                max_model_len=-1,
                # Interventions go by the index of a token, so a prompt may be read in parts.
                enable_chunked_prefill=True,
                # The cache of one condition's prompt is wrong for another's.
                enable_prefix_caching=False,
                # Load only the language model of a multimodal checkpoint.
                language_model_only=True,
                # Any entry makes nnsight call `_resolve_taps`: recorded graphs are split there.
                taps=["blocks"] if self._cuda_graphs else [],
                **options,
            )
        except Exception as error:
            self._broken = failure_of(f"vLLM can't load {self._source.name}", error)
            raise self._broken from error
        if self._weights is not None:
            check_unchanged(self._source, self._weights)
        self._llm = model.vllm_entrypoint
        self._max_rank = max_rank
        family, linear = family_of(config)
        self._telemetry = dataclasses.replace(
            self._telemetry,
            engine="vllm",
            cuda_graphs=self._cuda_graphs,
            attention="vllm",
            kernels=True if linear else None,
            family=family,
            # Norms and biases, which every process has, are negligible beside the rest.
            parameters=sum(await self._of_workers("steering_parameters")),
        )

    async def _unload(self) -> None:
        """Free the weights of either engine, once running requests have ended."""
        while self._running > 0:
            await asyncio.sleep(_LOOK_S)
        if self._llm is not None:
            self._llm.shutdown()
        if self._transformers is not None:
            self._transformers.release()
        self._llm = self._transformers = None
        self._registered.clear()

    async def _register(self, request: Request) -> str:
        """Give the workers what is done and read; returns its key, empty if that is nothing."""
        parts = request.interventions, request.monitor
        if not any(parts):
            return ""
        identity = id(parts[0]), id(parts[1])
        if identity not in self._registered:
            key, *packed = pack_request(request, read_shape(self._source).width)
            await self._of_workers("steering_register", key, *packed)
            # With a reference to them, since an id is unique only among living objects.
            self._registered[identity] = (parts, key)
        return self._registered[identity][1]


async def _until_released(
    work: "Coroutine[Any, Any, T]", ending: threading.Event, previous: threading.Thread | None
) -> T:
    """Do the work once a previous thread has freed its weights; a release ends it by an error."""
    try:
        if previous is not None:
            await asyncio.to_thread(previous.join)
        return await work
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and not ending.is_set():
            raise
        raise (EngineError(RELEASED) if ending.is_set() else as_error(error)) from None
    finally:
        work.close()
