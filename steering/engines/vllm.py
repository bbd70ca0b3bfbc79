"""The engine for models that want more than transformers gives: vLLM, steered through nnsight.

vLLM runs in processes of its own, schedules, batches and samples; its workers steer each token as
its row asks (`_vllm`). Here rows become requests and outputs become results. vLLM pins
another transformers than the default engine's, so it lives in an environment of its own.
"""

import asyncio
import atexit
import dataclasses
import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from steering.engines import (
    EngineError,
    Request,
    RequestOutput,
    Telemetry,
)
from steering.engines.hf import HFEngine
from steering.engines.sequences import broken
from steering.engines.vllm_requests import lora_rank, lora_request, make_result, sampling_params
from steering.engines.wire import pack_edits
from steering.models import (
    LoadedModel,
    ModelSource,
    commit_of,
    end_tokens,
    family_of,
    load_config,
    load_tokenizer,
    read_shape,
)
from steering.models.adapters import Adapter
from steering.vectors.interventions import check_width

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
_LAST_REQUEST_S = 30
_LOOK_S = 0.1
# Adapters that act in one step.
_MOST_ADAPTERS = 4


class VLLMEngine:
    """Rows in, tokens out, on vLLM."""

    def __init__(
        self,
        source: ModelSource,
        *,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        cuda_graphs: bool = False,
    ) -> None:
        """Take note of the model. Weights load with the first request."""
        self._source = source
        self._dtype = dtype
        self._tensor_parallel_size = tensor_parallel_size
        self._cuda_graphs = cuda_graphs
        self._max_rows = 1
        self._names = count()
        self._start = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._llm: Any = None
        self._transformers: HFEngine | None = None
        self._broken: EngineError | None = None
        self._max_rank = 0
        self._running = 0
        self._registered: dict[int, tuple[Any, str]] = {}
        self._adapters: dict[str, Any] = {}
        self._telemetry = Telemetry()
        self._began = 0.0

    def submit(self, row: Request) -> "Future[RequestOutput]":
        """Queue a row; see `Engine.submit`."""
        return self._send(self._guarded(row))

    def call(self, work: "Callable[[LoadedModel, Any], T]") -> "Future[T]":
        """Run work on the model as transformers loads it; see `Engine.call`.

        vLLM has no gradients and shows no activations. One machine rarely has room for the model
        twice: vLLM gives it back before the work, and takes it again with the next row.
        """
        return self._send(self._on_transformers(work))

    def tokenizer(self) -> "Future[PreTrainedTokenizerBase]":
        """A tokenizer of one's own; see `Engine.tokenizer`."""
        return self._send(asyncio.to_thread(load_tokenizer, self._source))

    def allow_batch(self, rows: int) -> None:
        """Let that many rows be decoded together; what counts is said before weights load."""
        self._max_rows = max(rows, self._max_rows)

    def telemetry(self) -> Telemetry:
        """What was done so far; see `Engine.telemetry`."""
        busy = self._telemetry.busy_s
        if self._running:
            busy += time.monotonic() - self._began
        return dataclasses.replace(
            self._telemetry,
            busy_s=busy,
            occupancy=min(1.0, self._running / self._max_rows),
            waiting=max(0, self._running - self._max_rows),
        )

    def release(self) -> None:
        """Give the memory back; see `Engine.release`."""
        with self._start:
            if self._transformers is not None:
                self._transformers.release()
            if self._loop is not None and self._thread is not None:
                self._loop.call_soon_threadsafe(self._end)
                self._thread.join(timeout=_LAST_REQUEST_S)
            self._reset()

    def _end(self) -> None:
        """Cancel what runs, then let the loop stop."""
        loop = asyncio.get_running_loop()
        tasks = list(asyncio.all_tasks(loop))
        for task in tasks:
            task.cancel()

        async def leave() -> None:
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._unload()
            loop.stop()

        self._leaving = loop.create_task(leave())

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
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _on_transformers(self, work: "Callable[[LoadedModel, Any], T]") -> T:
        async with self._lock:
            if self._transformers is None:
                await self._unload()
                self._transformers = HFEngine(self._source, dtype=self._dtype)
            return await asyncio.wrap_future(self._transformers.call(work))

    async def _guarded(self, row: Request) -> RequestOutput:
        """A row of a vLLM that may break down.

        One that has never answered would break down again: it is not loaded for the rows that wait.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await self._answer(row)
        except EngineDeadError as error:
            self._llm = None
            self._registered.clear()
            broken_down = _failed("vLLM broke down", error)
            if not self._telemetry.rows:
                self._broken = broken_down
            raise broken_down from error

    async def _answer(self, row: Request) -> RequestOutput:
        """One request, from its coming to its result."""
        from vllm.exceptions import VLLMClientError

        arrived = time.monotonic()
        async with self._lock:
            if self._broken is not None:
                raise self._broken
            await self._ready(row.adapter)
            edits = await self._key_of(row)
            self._count(1)
        name = f"row-{next(self._names)}"
        params = sampling_params(row, self._end_tokens, name, edits)
        started = time.monotonic()
        try:
            outputs = self._llm.generate(
                {"prompt_token_ids": list(row.prompt)},
                params,
                name,
                lora_request=self._adapters.get(row.adapter.name) if row.adapter else None,
            )
            async for output in outputs:
                final = output
            change, wrong = await self._report(name) if edits else (0.0, "")
        except (ValueError, VLLMClientError) as error:
            raise EngineError(f"vLLM refuses a row: {_in_one_line(error)}") from None
        finally:
            self._count(-1)
        if not math.isfinite(change):
            raise broken()
        if wrong:
            raise EngineError(f"a row was not steered as it asks: {wrong}")
        result = make_result(row, final.outputs[0], self._tokenizer, self._end_tokens)
        result.waited_s, result.took_s = started - arrived, time.monotonic() - started
        if row.edits:
            result.change = change
            row.check_change(change, result.num_generated)
        self._telemetry = dataclasses.replace(
            self._telemetry,
            rows=self._telemetry.rows + 1,
            tokens=self._telemetry.tokens + result.num_generated,
        )
        return result

    async def _report(self, name: str) -> tuple[float, str]:
        """What the workers tell of a row: its largest change, and what went wrong."""
        [told, *_] = await self._of_workers("steering_report", [name])
        change, wrong = told[0]
        return change, wrong

    async def _of_workers(self, name: str, *args: Any) -> list[Any]:
        """What each worker says to a question of ours.

        One that dies meanwhile leaves vLLM's own call waiting for ever.
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
        """One request more or less is under way."""
        now = time.monotonic()
        if self._running:
            busy = self._telemetry.busy_s + now - self._began
            self._telemetry = dataclasses.replace(self._telemetry, busy_s=busy)
        self._began = now
        self._running += more

    async def _ready(self, adapter: Adapter | None) -> None:
        """Have the model loaded, with room for the adapter."""
        rank = lora_rank(adapter) if adapter else 0
        if self._llm is None or rank > self._max_rank:
            # vLLM makes room for adapters when it loads.
            await self._unload()
            await self._load(max(rank, self._max_rank))
        if adapter and adapter.name not in self._adapters:
            self._adapters[adapter.name] = lora_request(adapter, len(self._adapters) + 1)

    async def _load(self, max_rank: int) -> None:
        # What vLLM says while it loads would drown what we say.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from steering.engines._vllm import SteeredVLLM

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
                dispatch=True,
                mode="async",
                dtype=self._dtype,
                tensor_parallel_size=self._tensor_parallel_size,
                max_num_seqs=self._max_rows,
                # As long as the memory has room for.
                max_model_len=-1,
                # Edits go by the place of a token, so a prompt may be read in parts.
                enable_chunked_prefill=True,
                # What is cached of one condition's prompt is wrong for another's.
                enable_prefix_caching=False,
                # A checkpoint that sees too has no use for its eyes here.
                language_model_only=True,
                # Any entry makes nnsight ask for ours, where recorded graphs are opened.
                taps=["blocks"] if self._cuda_graphs else [],
                **options,
            )
        except Exception as error:
            self._broken = _failed(f"vLLM can't load {self._source.name}", error)
            raise self._broken from error
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
            # What processes hold alike, norms and biases, counts for nothing beside the rest.
            parameters=sum(await self._of_workers("steering_parameters")),
        )

    async def _unload(self) -> None:
        """Give the weights back, whoever holds them; rows that run end first."""
        while self._running:
            await asyncio.sleep(_LOOK_S)
        if self._llm is not None:
            self._llm.shutdown()
        if self._transformers is not None:
            self._transformers.release()
        self._llm = self._transformers = None
        self._registered.clear()

    async def _key_of(self, row: Request) -> str:
        """The name under which the workers hold the row's edits; empty when it has none."""
        if not row.edits:
            return ""
        held = self._registered.get(id(row.edits))
        if held is None:
            width = read_shape(self._source).width
            for edit in row.edits:
                check_width(edit.basis.shape[-1], width)
            said, tensors = pack_edits(row.edits)
            key = hashlib.sha256(said.encode() + tensors).hexdigest()[:16]
            await self._of_workers("steering_register", key, said, tensors)
            # The edits are held too: their id is theirs as long as they live.
            held = self._registered[id(row.edits)] = (row.edits, key)
        return held[1]


def _failed(what: str, error: Exception) -> EngineError:
    """That vLLM itself failed, with a way to see more and one around it."""
    return EngineError(
        f"{what} ({_in_one_line(error)}). VLLM_LOGGING_LEVEL=INFO shows all that it says; "
        "-M engine=hf goes without it"
    )


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
