"""Everything that speaks to nnsight: wrap a model once, run it with a plan.

Written against nnsight 0.8. A model runs on one thread only (nnsight's workers are greenlets of the
thread that runs the model), and a run without edits goes past nnsight altogether.
"""

import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from steering.engines import EngineError
from steering.engines.adapters import Adapters
from steering.engines.blocks import Blocks
from steering.models import LoadedModel
from steering.vectors.batch import InterventionBatch, SiteKey

_first = "nnsight" not in sys.modules
from nnsight import TransformersModel  # noqa: E402
from nnsight._c import unmount  # noqa: E402

if _first and unmount is not None and hasattr(object, "save"):
    # nnsight gives every object of the process a `save` method, on which anyio, and so Inspect,
    # trips when it defines classes later. We don't use it; whoever imported nnsight before us may.
    unmount("save")

# An open loop over steps always ends on a step that the run did not make. The filter is the
# process's, since setting one for a while is not safe beside other threads.
warnings.filterwarnings("ignore", message=".*was never reached.*")

T = TypeVar("T")


class Edits(Protocol):
    """What a session asks in each forward pass: where to act, and what comes of it there."""

    @property
    def sites(self) -> tuple[SiteKey, ...]:
        """(layer, site), in the order in which a forward pass meets them."""
        ...

    def apply(self, key: SiteKey, hidden: torch.Tensor) -> torch.Tensor:
        """The activations that go on, given those that came."""
        ...


class Session:
    """One loaded model, and the one edit that steers it by whatever plan is current.

    Attributes:
        adapters: Those that rows of the model may carry.
    """

    def __init__(self, loaded: LoadedModel, stopping: threading.Event) -> None:
        """Wrap the model. Once `stopping` is set, nothing more is run on it."""
        self._stopping = stopping
        self.adapters = Adapters(loaded.model)
        self._wrapped = TransformersModel(loaded.model, tokenizer=loaded.tokenizer)
        self._blocks = Blocks(loaded.model, loaded.blocks, self._wrapped)
        self._placeholder = torch.zeros((1, 1), dtype=torch.long, device=loaded.model.device)
        self._edits: Edits = InterventionBatch([])
        self._num_blocks = loaded.shape.num_layers
        self._num_skipped = 0
        self._unused = range(0)
        self._skipped_to: torch.Tensor | None = None
        self._install()

    def _install(self) -> None:
        """The persistent edit: nnsight keeps the block's source and replays it in every run.

        The loop over `iter[:]` makes it act in every forward pass; without it nnsight would act in
        the first one only, without a word.
        """
        session = self
        blocks = self._blocks
        with self._wrapped.edit(inplace=True) as tracer:
            for _ in tracer.iter[:]:
                for layer in range(session._num_skipped):
                    blocks[layer].skip(session._skipped_to)
                hidden = session._skipped_to
                for key in session._edits.sites:
                    place, site = session._place(key), key[1]
                    came = place.input if site == "resid_pre" else place.output
                    hidden = session._edits.apply(key, _activations(came))
                    if site == "resid_pre":
                        place.input = hidden
                    else:
                        place.output = _with_activations(came, hidden)
                for layer in session._unused:
                    blocks[layer].skip(hidden)

    def _place(self, key: SiteKey) -> Any:
        """The module at whose input or output a site is."""
        layer, site = key
        return self._blocks.mlp(layer) if site == "mlp_out" else self._blocks[layer]

    def check_running(self) -> None:
        """Raise when the program is ending; a long run asks before each pass."""
        if self._stopping.is_set():
            raise EngineError("the program is ending")

    def run(
        self,
        work: Callable[[], T],
        edits: Edits,
        below: tuple[int, torch.Tensor] | None = None,
        *,
        only_up_to_edits: bool = False,
    ) -> T:
        """Run `work`, which calls the model any number of times, steered by `edits`.

        An edit with nothing to ask for would wait for ever, so without any `work` runs plainly.

        Args:
            work: What to run.
            edits: Where to act and how.
            below: Number of blocks, from the first, that do not run, and the activations
                [rows, tokens, width] that the last of them would have given.
            only_up_to_edits: Leave out the blocks above the last edit too. What the model gives is
                then of no use; what the edits saw is.
        """
        self.check_running()
        if not edits.sites and below is None:
            return work()
        self._edits = edits
        self._num_skipped, self._skipped_to = below or (0, None)
        first_unused = edits.sites[-1][0] + 1 if only_up_to_edits else self._num_blocks
        self._unused = range(first_unused, self._num_blocks)
        outcome: list[T] = []
        try:
            self._wrapped.trace(
                self._placeholder, fn=lambda *_, **__: outcome.append(work()), trace=False
            )
        finally:
            self._skipped_to = None
        return outcome[0]


def _activations(came: Any) -> torch.Tensor:
    """The activations among what a module gives; of several things (GPT-OSS), the first."""
    hidden = came if isinstance(came, torch.Tensor) else came[0]
    if hidden.ndim != 3:
        raise EngineError(
            f"activations of {hidden.ndim} dimensions {tuple(hidden.shape)} can't be steered: a "
            "residual stream has rows, tokens and width. This architecture is not supported"
        )
    return hidden


def _with_activations(came: Any, hidden: torch.Tensor) -> Any:
    """What a module gives, with other activations."""
    return hidden if isinstance(came, torch.Tensor) else (hidden, *came[1:])
