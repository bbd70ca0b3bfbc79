"""Everything that speaks to nnsight about vLLM: what runs in its worker processes.

vLLM packs the tokens of all requests of a step into one tensor [tokens, width], whole prompts and
single tokens side by side. A step has one plan, with a row a token, and one nnsight worker applies
it, whatever the number of requests. Written against nnsight 0.8 and vLLM's V1 model runner; with
tensor parallelism every process does the same.
"""

from collections.abc import Callable, Sequence
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
from steering.engines.wire import at_every_token, unpack_edits
from steering.models import find_blocks
from steering.vectors.batch import InterventionBatch, SiteKey
from steering.vectors.interventions import Intervention

_Edits = tuple[Intervention, ...]


class _Registered:
    """Edits by the tokens on which they act."""

    def __init__(self, edits: _Edits) -> None:
        self.prompt = at_every_token([e for e in edits if e.positions in ("all", "prompt")])
        self.last = at_every_token([e for e in edits if e.on_prompt])
        self.response = at_every_token([e for e in edits if e.on_response])

    def of(self, first: int, count: int, prompt: int) -> list[_Edits]:
        """What is done to each of `count` tokens of a row.

        Args:
            first: Place of the first of them in the row.
            count: How many they are.
            prompt: Tokens of the row's prompt.
        """
        last = prompt - 1
        return [
            self.prompt if place < last else self.last if place == last else self.response
            for place in range(first, first + count)
        ]


class _Step(Mediator):
    """nnsight's worker of one step, which serves every row of it."""

    def __init__(self, steering: "_Steering") -> None:
        super().__init__(None, {}, {})
        self._steering = steering
        self.row = 0

    def _run(self) -> None:
        self._steering.act()
        self.flush()


class _Steering:
    """The steering of one worker process.

    Attributes:
        plan: Of the present step; None when no token of it is steered.
    """

    def __init__(self, model: torch.nn.Module, envoy: Any, num_layers: int, device: Any) -> None:
        self._blocks = Blocks(model, find_blocks(model, num_layers), envoy)
        self._device = device
        self._registered: dict[str, _Registered] = {}
        self._laid_out: list[_Edits] = []
        self._owners: list[str] = []
        self._told: dict[str, tuple[float, str]] = {}
        self._fresh = False
        self.plan: InterventionBatch | None = None

    def register(self, key: str, said: str, tensors: bytes) -> None:
        """Keep edits, to be named by requests."""
        self._registered[key] = _Registered(unpack_edits(said, tensors))

    def begin(self, rows: Sequence[tuple[str, str | None, int, int, int]]) -> None:
        """Lay out a step.

        Args:
            rows: Of each row its name, the key of its edits, the place of its first token of this
                step, how many follow, and the tokens of its prompt.
        """
        tokens: list[_Edits] = []
        self._owners = []
        for name, key, first, count, prompt in rows:
            own = self._registered[key].of(first, count, prompt) if key else [()] * count
            tokens += own
            self._owners += [name] * count
        if not any(tokens):
            self.plan = None
            self._laid_out = []
            return
        self._fresh = len(tokens) != len(self._laid_out) or any(
            new is not old for new, old in zip(tokens, self._laid_out, strict=True)
        )
        if self._fresh or self.plan is None:
            self.plan, self._laid_out = InterventionBatch(tokens, self._device), tokens
        self.plan.visits = dict.fromkeys(self.plan.sites, 0)
        self.plan.begin_decode()

    def act(self) -> None:
        """Go through the places of a forward pass, on nnsight's worker."""
        assert self.plan is not None
        for place, keys in groupby(self.plan.sites, key=_place):
            layer, kind = place
            block = self._blocks[layer]
            if kind == "input":
                block.inputs = _with_stream(block.inputs, self._added(list(keys)))
            elif kind == "mlp":
                mlp = self._blocks.mlp(layer)
                mlp.output = _with_stream(mlp.output, self._added(list(keys)))
            else:
                block.output = _with_stream(block.output, self._added(list(keys)))

    def _added(self, keys: Sequence[SiteKey]) -> Callable[[torch.Tensor], torch.Tensor]:
        """What steering adds to float32 activations [tokens, width] at one place."""

        def added(hidden: torch.Tensor) -> torch.Tensor:
            assert self.plan is not None
            # Models that vLLM takes from transformers have rows too, one that holds all tokens.
            tokens = hidden.reshape(-1, hidden.shape[-1])
            # What stands behind the step's tokens fills up a recorded graph.
            count = len(self._laid_out)
            steered = tokens[:count, None]
            for key in keys:
                steered = self.plan.apply(key, steered)
            more = steered[:, 0] - tokens[:count]
            return torch.nn.functional.pad(more, (0, 0, 0, len(tokens) - count)).view_as(hidden)

        return added

    def end(self, failure: BaseException | None) -> None:
        """Note what came of a step for each of its steered rows."""
        if self.plan is None:
            return
        missed = [key for key, visits in self.plan.visits.items() if visits != 1]
        wrong = ""
        if failure is not None:
            wrong = " ".join(f"{type(failure).__name__}: {failure}".split())[:500]
        elif missed:
            wrong = f"vLLM did not run nnsight's worker at {missed}"
        if not (wrong or self._fresh):
            return
        changes = self.plan.change.tolist()
        for name, change, edits in zip(self._owners, changes, self._laid_out, strict=True):
            if edits:
                before, told = self._told.get(name, (0.0, ""))
                self._told[name] = max(before, change), told or wrong

    def report(self, names: Sequence[str]) -> list[tuple[float, str]]:
        """Of each row, the largest change of its activations, and what went wrong; told once."""
        return [self._told.pop(name, (0.0, "")) for name in names]


def _place(key: SiteKey) -> tuple[int, str]:
    """Where a site is met: what a block takes is what the one before it gives."""
    layer, site = key
    if site == "resid_pre":
        return (layer - 1, "output") if layer else (0, "input")
    return layer, "mlp" if site == "mlp_out" else "output"


def _with_stream(given: Any, added: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """What a module takes or gives, with something added to the residual stream in it.

    Most of vLLM's blocks hand on the stream in two parts, of which it is the sum: what the last
    module gave, and the rest. What is added goes to the first part.
    """
    if isinstance(given, torch.Tensor):
        return (given.float() + added(given.float())).to(given.dtype)
    flat, spec = tree_flatten(given)
    floats = [
        index
        for index, value in enumerate(flat)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    first = flat[floats[0]]
    parts = [flat[index] for index in floats[:2] if flat[index].shape == first.shape]
    stream = torch.stack([part.float() for part in parts]).sum(0)
    flat[floats[0]] = (first.float() + added(stream)).to(first.dtype)
    return tree_unflatten(flat, spec)


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
        rows = []
        for request in self.input_batch.req_ids:
            if request in counts:
                state = self.requests[request]
                said = state.sampling_params.extra_args or {}
                rows.append(
                    (
                        said.get("steering_row", ""),
                        said.get("steering_edits"),
                        state.num_computed_tokens,
                        counts[request],
                        state.num_prompt_tokens,
                    )
                )
        self.steering.begin(rows)
        self._step = None
        if self.steering.plan is not None:
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


class _Told:
    """What the engine asks of every worker process, by name."""

    model_runner: Any

    def steering_register(self, key: str, said: str, tensors: bytes) -> None:
        self.model_runner.steering.register(key, said, tensors)

    def steering_parameters(self) -> int:
        model = self.model_runner.get_model()
        return sum(weights.numel() for weights in model.parameters())

    def steering_report(self, names: list[str]) -> list[tuple[float, str]]:
        return self.model_runner.steering.report(names)


if current_platform.is_cpu():
    # nnsight knows vLLM on GPUs only; the CPU's runner is a GPU's underneath.
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner, _set_torch_accelerator_to_noop
    from vllm.v1.worker.cpu_worker import CPUWorker

    _set_torch_accelerator_to_noop()

    class _SteeredCPURunner(_SteeredRunner, CPUModelRunner):
        """The CPU's."""

    class SteeredWorker(_Told, CPUWorker):
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

    class SteeredWorker(_Told, NNsightGPUWorker):  # type: ignore[no-redef]
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
        """What traces are written against, which we write none of; only taps are resolved on it."""
        return super()._load_meta(*args, **kwargs) if self.taps else torch.nn.Module()

    def _resolve_taps(self, module: torch.nn.Module) -> tuple[str, ...]:
        """Where recorded graphs are opened: behind every block, and before the first."""
        path = f"model.{find_blocks(module, self.num_blocks)}"
        behind = [f"{path}.{layer}.output" for layer in range(self.num_blocks)]
        return (f"{path}.0.input", *behind)
