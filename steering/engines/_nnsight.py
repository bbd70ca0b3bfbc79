"""All calls to nnsight for transformers models: wrap a model once, run it with interventions.

Written against nnsight 0.8. A model runs on one thread only (nnsight's workers are greenlets of the
thread that runs the model), and a run without interventions bypasses nnsight.
"""

import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import torch

from steering.engines import EngineError
from steering.engines.adapters import Adapters
from steering.engines.blocks import Blocks
from steering.engines.sequences import RELEASED
from steering.models import LoadedModel
from steering.vectors.batch import InterventionBatch, SiteKey

_first = "nnsight" not in sys.modules
from nnsight import TransformersModel  # noqa: E402
from nnsight._c import unmount  # noqa: E402

if _first and unmount is not None and hasattr(object, "save"):
    # nnsight gives every object of the process a `save` method, which breaks class definitions in
    # anyio, and so in Inspect. This suite doesn't use it; code that imported nnsight earlier may.
    unmount("save")

# An open loop over steps always ends on a step that the run did not make. The filter is global,
# since a temporary one is not safe beside other threads.
warnings.filterwarnings("ignore", message=".*was never reached.*")

T = TypeVar("T")


class Interventions(Protocol):
    """What a session needs in each forward pass: where to act, and the activations there."""

    @property
    def sites(self) -> tuple[SiteKey, ...]:
        """(layer, site), in the order in which a forward pass meets them."""
        ...

    def apply(self, key: SiteKey, hidden: torch.Tensor) -> torch.Tensor:
        """The activations that replace `hidden` at a site."""
        ...


class Visited(Protocol):
    """Interventions that count how often each of their sites was met."""

    @property
    def visits(self) -> dict[SiteKey, int]: ...


class Session:
    """One loaded model with one persistent nnsight edit, which applies the current interventions.

    Attributes:
        adapters: The adapters of the model.
    """

    def __init__(self, loaded: LoadedModel, stopping: threading.Event) -> None:
        """Wrap the model. Once `stopping` is set, no further pass runs."""
        self._stopping = stopping
        self.adapters = Adapters(loaded.model)
        self._model, self._path = loaded.model, loaded.blocks
        # Of an image-text model nnsight would load the processor, with whatever code it brings.
        self._wrapped = TransformersModel(
            loaded.model, tokenizer=loaded.tokenizer, task="text-generation"
        )
        self._blocks = Blocks(loaded.model, loaded.blocks, self._wrapped, loaded.mlp)
        self._placeholder = torch.zeros((1, 1), dtype=torch.long, device=loaded.model.device)
        self._interventions: Interventions = InterventionBatch([])
        self._num_blocks = loaded.shape.num_layers
        self._num_skipped = 0
        self._unused = range(0)
        self._skipped_to: torch.Tensor | None = None
        self._output_sizes: dict[int, int] = {}
        self._install()

    def _install(self) -> None:
        """Install the persistent edit: nnsight keeps its source and replays it in every run.

        The loop over `iter[:]` makes it act in every forward pass; without it nnsight acts in the
        first one only, and gives no warning.
        """
        session = self
        blocks = self._blocks
        with self._wrapped.edit(inplace=True) as tracer:
            for _ in tracer.iter[:]:
                for layer in range(session._num_skipped):
                    blocks[layer].skip(session._as_output(layer, session._skipped_to))
                hidden = session._skipped_to
                for key in session._interventions.sites:
                    layer, site = key
                    module = blocks.mlp(layer) if site == "mlp_out" else blocks[layer]
                    value = module.input if site == "resid_pre" else module.output
                    hidden = session._interventions.apply(key, _activations(value))
                    if site == "resid_pre":
                        module.input = hidden
                    else:
                        module.output = _with_activations(value, hidden)
                for layer in session._unused:
                    blocks[layer].skip(session._as_output(layer, hidden))

    def _read_output_sizes(self) -> dict[int, int]:
        """How many items the tuple has that each block returns; 0 of a block without a tuple."""
        sizes: dict[int, int] = {}
        hooks = [
            block.register_forward_hook(
                lambda _, __, output, layer=layer: sizes.__setitem__(
                    layer, len(output) if isinstance(output, tuple) else 0
                )
            )
            for layer, block in enumerate(self._model.get_submodule(self._path).children())
        ]
        try:
            with torch.no_grad():
                self._model(input_ids=self._placeholder, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return sizes

    def _as_output(self, layer: int, hidden: torch.Tensor | None) -> Any:
        """What the block of a layer would return with these activations."""
        size = self._output_sizes[layer]
        return (hidden, *[None] * (size - 1)) if size else hidden

    @property
    def is_stopping(self) -> bool:
        """Whether the model is being released."""
        return self._stopping.is_set()

    def check_running(self) -> None:
        """Raise once the model is being released; a long run calls this before each pass."""
        if self.is_stopping:
            raise EngineError(RELEASED)

    def run(
        self,
        work: Callable[[], T],
        interventions: Interventions,
        below: tuple[int, torch.Tensor] | None = None,
        *,
        up_to_last_site: bool = False,
    ) -> T:
        """Run `work`, which calls the model any number of times, with interventions.

        Without interventions and skipped blocks `work` runs without nnsight, whose edit would wait
        for ever.

        Args:
            work: Calls the model.
            interventions: Where to act and how.
            below: Number of blocks, from the first, that do not run, and the activations
                [rows, tokens, width] that replace the output of the last of them.
            up_to_last_site: Skip the blocks above the last site too. The logits are then invalid;
                only the activations that `interventions` receives are meaningful.
        """
        self.check_running()
        if not interventions.sites and below is None:
            return work()
        self._interventions = interventions
        self._num_skipped, self._skipped_to = below or (0, None)
        first_unused = interventions.sites[-1][0] + 1 if up_to_last_site else self._num_blocks
        self._unused = range(first_unused, self._num_blocks)
        if (self._num_skipped or self._unused) and not self._output_sizes:
            self._output_sizes = self._read_output_sizes()
        outcome: list[T] = []
        try:
            self._wrapped.trace(
                self._placeholder, fn=lambda *_, **__: outcome.append(work()), trace=False
            )
        finally:
            self._skipped_to = None
        return outcome[0]

    def read(self, work: Callable[[], T], readers: Interventions) -> T:
        """Run `work` while `readers` see the activations at their sites and replace none of them.

        Plain hooks do that without nnsight, which would cost time at every module of the model.
        """
        self.check_running()
        with ExitStack() as stack:
            for key in readers.sites:
                stack.callback(self._watch(key, readers).remove)
            return work()

    def _watch(self, key: SiteKey, readers: Interventions) -> Any:
        """Show `readers` the activations at a site; the handle of the hook."""
        layer, site = key
        module = self._blocks.module(layer, site)
        if site == "resid_pre":

            def before(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
                value = args[0] if args else next(iter(options.values()))
                readers.apply(key, _activations(value))

            return module.register_forward_pre_hook(before, with_kwargs=True)

        def behind(_: Any, __: Any, value: Any) -> None:
            readers.apply(key, _activations(value))

        return module.register_forward_hook(behind)


def check_visits(interventions: Visited, passes: int) -> None:
    """Make sure that each pass so far met each steered site."""
    if any(visits != passes for visits in interventions.visits.values()):
        raise EngineError(
            f"the model ran {passes} times but was steered {interventions.visits} times: nnsight "
            "did not reach every pass"
        )


def _activations(value: Any) -> torch.Tensor:
    """The activations in a module's input or output; the first item of a tuple (GPT-OSS)."""
    hidden = value if isinstance(value, torch.Tensor) else value[0]
    if hidden.ndim != 3:
        raise EngineError(
            f"activations of {hidden.ndim} dimensions {tuple(hidden.shape)} can't be steered: "
            "rows, tokens and width are needed. Choose another site, such as site=resid_post; if "
            "that is refused too, this architecture is not supported"
        )
    return hidden


def _with_activations(value: Any, hidden: torch.Tensor) -> Any:
    """A module's output with other activations."""
    return hidden if isinstance(value, torch.Tensor) else (hidden, *value[1:])
