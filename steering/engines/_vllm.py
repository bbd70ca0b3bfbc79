"""All calls to nnsight for vLLM: the code that runs in its worker processes.

vLLM packs the tokens of all requests of a step into one tensor [tokens, width], whole prompts and
single tokens side by side. A step has one `InterventionBatch`, with a row a token, and one nnsight
worker applies it, whatever the number of requests; a `MonitorBatch` of the same rows reads answers.
Written against nnsight 0.8 and vLLM's V1 model runner; with tensor parallelism every process does
the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from nnsight.intervention.interleaver import Mediator
from nnsight.modeling.vllm import VLLM
from nnsight.modeling.vllm.model_runners.GPUModelRunner import NNsightGPUModelRunner
from nnsight.modeling.vllm.workers.GPUWorker import NNsightGPUWorker
from torch.utils._pytree import tree_flatten, tree_unflatten
from vllm.platforms import current_platform

from steering.engines.blocks import Blocks
from steering.engines.vllm_readings import Place, Readings
from steering.engines.vllm_requests import Packed, unpack
from steering.models import find_blocks
from steering.vectors.batch import InterventionBatch, SiteKey
from steering.vectors.interventions import Intervention, check_width
from steering.vectors.monitor import Applied, Direction, Monitor

_Interventions = tuple[Intervention, ...]


class _Registered:
    """What is done to a request and read of it, by its tokens.

    Each row of the step's batch is a token that interventions act on, so they have `positions=all`
    there.
    """

    def __init__(self, interventions: _Interventions, monitor: Monitor) -> None:
        self.monitor = monitor
        here = [replace(item, positions="all") for item in interventions]
        pairs = list(zip(interventions, here, strict=True))
        self.prompt = tuple(new for item, new in pairs if item.positions in ("all", "prompt"))
        self.last = tuple(new for item, new in pairs if item.on_prompt)
        self.response = tuple(new for item, new in pairs if item.on_response)

    def by_token(self, first: int, count: int, prompt: int) -> list[_Interventions]:
        """The interventions of each of `count` tokens of a request.

        Args:
            first: Index of the first of them in prompt and response.
            count: Number of tokens.
            prompt: Number of tokens of the prompt.
        """
        last = prompt - 1
        return [
            self.prompt if index < last else self.last if index == last else self.response
            for index in range(first, first + count)
        ]


class _Step(Mediator):
    """nnsight's worker of one step, which serves every request of it."""

    def __init__(self, steering: "_Steering") -> None:
        super().__init__(None, {}, {})
        self._steering = steering
        self.row = 0

    def _run(self) -> None:
        self._steering.apply()
        self.flush()


_UNTOUCHED = _Registered((), ())


class _Steering:
    """The steering of one worker process, and its monitors.

    Attributes:
        batch: The interventions of the present step, a row a token; None if it has none and
            nothing is read in it.
    """

    def __init__(self, model: torch.nn.Module, envoy: Any, num_layers: int, device: Any) -> None:
        self._blocks = Blocks(model, find_blocks(model, num_layers), envoy)
        self._device = device
        self._registered: dict[str, _Registered] = {}
        self._by_token: list[_Interventions] = []
        self._monitors: list[Monitor] = []
        self._places: list[Place] = []
        self._readings = Readings(device)
        self._reports: dict[str, tuple[float, str]] = {}
        self._visits: dict[SiteKey, int] = {}
        self._is_new = False
        # The batch, or what reads on either side of it.
        self._applied: Applied | None = None
        self.batch: InterventionBatch | None = None

    def register(self, key: str, interventions: Packed, monitor: Packed) -> None:
        """Store interventions and a monitor under the key by which requests name them."""
        directions = unpack(Direction, monitor)
        self._registered[key] = _Registered(
            unpack(Intervention, interventions),
            tuple(replace(item, unit=item.unit.to(self._device)) for item in directions),
        )

    def begin(self, requests: Sequence[tuple[str, str | None, int, int, int]]) -> None:
        """Make the batch of a step.

        Args:
            requests: Of each request its name, the key of what is done and read, the index of its
                first token in this step, the number of its tokens, and that of its prompt's tokens.
        """
        by_token: list[_Interventions] = []
        self._monitors, self._places = [], []
        for name, key, first, count, prompt in requests:
            registered = self._registered[key] if key else _UNTOUCHED
            by_token += registered.by_token(first, count, prompt)
            positions = range(first - prompt, first - prompt + count)
            self._monitors += [registered.monitor if index >= 0 else () for index in positions]
            self._places += [(name, index) for index in positions]
        if not any(by_token) and not any(self._monitors):
            self._readings.end()
            self.batch = self._applied = None
            self._by_token = []
            return
        self._is_new = len(by_token) != len(self._by_token) or any(
            new is not old for new, old in zip(by_token, self._by_token, strict=True)
        )
        if self._is_new or self.batch is None:
            self.batch, self._by_token = InterventionBatch(by_token, self._device), by_token
        self.batch.begin_decode()
        reader = self._readings.begin(self._monitors, self._places, self.batch)
        self._applied = reader or self.batch
        self._visits = dict.fromkeys(self._applied.sites, 0)

    def apply(self) -> None:
        """Steer and read at each site in the order of a forward pass, on nnsight's worker."""
        assert self._applied is not None
        for place, keys in groupby(self._applied.sites, key=_place):
            layer, kind = place
            module = self._blocks.mlp(layer) if kind == "mlp" else self._blocks[layer]
            name = "inputs" if kind == "input" else "output"
            value = getattr(module, name)
            steered = self._steered(value, list(keys))
            if steered is not value:
                setattr(module, name, steered)

    def _steered(self, value: Any, keys: Sequence[SiteKey]) -> Any:
        """A module's input or output, steered at these sites, or itself if nothing is added.

        Most of vLLM's blocks pass the residual stream as two parts, of which it is the sum: the
        output of the last module, and the rest. What is added goes to the first part.
        """
        for key in keys:
            self._visits[key] += 1
        flat, spec = tree_flatten(value)
        floats = [
            index
            for index, item in enumerate(flat)
            if isinstance(item, torch.Tensor) and item.is_floating_point()
        ]
        first = flat[floats[0]]
        added = self._addition(keys)
        is_read = self._applied is not self.batch
        # The first step of a batch measures what steering changes, too.
        if added is None or is_read or self._is_new:
            parts = [flat[index] for index in floats[:2] if flat[index].shape == first.shape]
            stream = parts[0].float()
            for part in parts[1:]:
                stream = stream + part.float()
            change = self._change(keys, stream.reshape(-1, first.shape[-1]))
            # The same bits are added whether or not the stream is read too.
            added = change if added is None else added
        if added is None:
            return value
        # Models that vLLM takes from transformers have a row dimension, of size 1.
        tokens = first.numel() // first.shape[-1]
        check_width(added.shape[-1], first.shape[-1])
        if len(added) < tokens:  # further ones are padding of a recorded graph
            added = torch.nn.functional.pad(added, (0, 0, 0, tokens - len(added)))
        flat[floats[0]] = (first.float() + added.view_as(first)).to(first.dtype)
        return tree_unflatten(flat, spec)

    def _addition(self, keys: Sequence[SiteKey]) -> torch.Tensor | None:
        """What is added at one site whatever its activations are, float32 [tokens, width].

        None where that depends on them, or where nothing or more than one site is steered.
        """
        assert self.batch is not None
        steered = [key for key in keys if key in self.batch.visits]
        return self.batch.addition(steered[0]) if len(steered) == 1 else None

    def _change(self, keys: Sequence[SiteKey], stream: torch.Tensor) -> torch.Tensor | None:
        """What steering adds to float32 activations [tokens, width].

        None where it adds nothing: what is only read must stay as it is, to the bit.
        """
        assert self._applied is not None
        steered = before = stream[: len(self._by_token), None]
        for key in keys:
            steered = self._applied.apply(key, steered)
        return None if steered is before else (steered - before)[:, 0]

    def end(self, failure: BaseException | None) -> None:
        """Record the change of a step, or its fault, for each request that it steers or reads."""
        if self.batch is None:
            return
        missed = [key for key, visits in self._visits.items() if visits != 1]
        fault = ""
        if failure is not None:
            fault = " ".join(f"{type(failure).__name__}: {failure}".split())[:500]
        elif missed:
            fault = f"vLLM did not run nnsight's worker at {missed}"
        if not (fault or self._is_new):
            return
        if fault:
            self._readings.drop()
        changes = self.batch.change.tolist()
        rows = zip(self._places, changes, self._by_token, self._monitors, strict=True)
        for (name, _), change, interventions, monitor in rows:
            if interventions or monitor:
                largest, earlier_fault = self._reports.get(name, (0.0, ""))
                self._reports[name] = max(largest, change), earlier_fault or fault

    def report(self, names: Sequence[str]) -> list[tuple[float, str, bytes]]:
        """Largest change, fault and readings of each request, which are then forgotten."""
        return [
            (*self._reports.pop(name, (0.0, "")), readings)
            for name, readings in zip(names, self._readings.take(names), strict=True)
        ]


def _place(key: SiteKey) -> tuple[int, str]:
    """The module at which a site is steered: a block's input is the output of the one before."""
    layer, site = key
    if site == "resid_pre":
        return (layer - 1, "output") if layer else (0, "input")
    return layer, "mlp" if site == "mlp_out" else "output"


class _SteeredRunner(NNsightGPUModelRunner):
    """A model runner that steers."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        self.steering = _Steering(
            self.get_model(),
            self.nnsight_model,
            self.vllm_config.model_config.hf_text_config.num_hidden_layers,
            self.device,
        )
        self._step: _Step | None = None

    def _update_states(self, scheduler_output: Any) -> Any:
        result = super()._update_states(scheduler_output)
        counts = scheduler_output.num_scheduled_tokens
        requests = []
        for request in self.input_batch.req_ids:
            if request in counts:
                state = self.requests[request]
                extra = state.sampling_params.extra_args or {}
                requests.append(
                    (
                        extra.get("steering_request", ""),
                        extra.get("steering_key"),
                        state.num_computed_tokens,
                        counts[request],
                        state.num_prompt_tokens,
                    )
                )
        self.steering.begin(requests)
        self._step = None
        if self.steering.batch is not None:
            self._step = _Step(self.steering)
            interleaver = self.nnsight_model.interleaver
            self._step.start(interleaver)
            interleaver.mediators = [self._step, *interleaver.mediators]
            interleaver.reindex()
        return result

    def execute_model(self, *args: Any, **kwargs: Any) -> Any:
        output = super().execute_model(*args, **kwargs)
        if self._step is not None:
            self.steering.end(self._step.exception)
            self._step = None
        return output


class _Worker:
    """Methods of a worker process that the engine calls by name."""

    model_runner: Any

    def steering_register(self, key: str, interventions: Packed, monitor: Packed) -> None:
        self.model_runner.steering.register(key, interventions, monitor)

    def steering_parameters(self) -> int:
        model = self.model_runner.get_model()
        return sum(weights.numel() for weights in model.parameters())

    def steering_report(self, names: list[str]) -> list[tuple[float, str, bytes]]:
        return self.model_runner.steering.report(names)


if current_platform.is_cpu():
    # nnsight supports vLLM on GPUs only; the CPU's runner is derived from the GPU's.
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner, _set_torch_accelerator_to_noop
    from vllm.v1.worker.cpu_worker import CPUWorker

    _set_torch_accelerator_to_noop()

    class _SteeredCPURunner(_SteeredRunner, CPUModelRunner):
        """A model runner that steers, on the CPU."""

    class SteeredWorker(_Worker, CPUWorker):
        """A vLLM worker that steers, on the CPU."""

        collect_nnsight = NNsightGPUWorker.collect_nnsight
        nnsight_request_count = NNsightGPUWorker.nnsight_request_count
        nnsight_register = NNsightGPUWorker.nnsight_register
        nnsight_clear_registered = NNsightGPUWorker.nnsight_clear_registered

        def init_device(self) -> None:
            super().init_device()
            assert type(self.model_runner) is CPUModelRunner
            self.model_runner.__class__ = _SteeredCPURunner

else:

    class SteeredWorker(_Worker, NNsightGPUWorker):  # type: ignore[no-redef]
        """A vLLM worker that steers, on a GPU."""

        def init_device(self) -> None:
            super().init_device()
            self.model_runner.__class__ = _SteeredRunner


class SteeredVLLM(VLLM):
    """nnsight's vLLM, whose workers are ours.

    Attributes:
        num_blocks: Depth of the model.
    """

    num_blocks: int
    _WORKER_CLS = f"{SteeredWorker.__module__}.{SteeredWorker.__qualname__}"

    def _load_meta(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        """The meta model, which only traces and taps need; no trace is written here."""
        return super()._load_meta(*args, **kwargs) if self.taps else torch.nn.Module()

    def _resolve_taps(self, module: torch.nn.Module) -> tuple[str, ...]:
        """Where recorded graphs are split: behind every block, and before the first."""
        path = f"model.{find_blocks(module, self.num_blocks)}"
        behind = [f"{path}.{layer}.output" for layer in range(self.num_blocks)]
        return (f"{path}.0.input", *behind)
