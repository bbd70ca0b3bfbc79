"""Answers that do not depend on batch mates, whatever the precision.

The last bits of a product depend on the shapes of its factors, so on how many sequences are decoded
together and how far they are padded. In this mode no shape depends on other sequences. Each prompt
is read alone, without padding. Each decoding pass has `ROWS` rows, some of them dummies: few enough
to be one tile of a matrix product. Attention and steering take one sequence at a time.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steering.engines.cache import cache_of
from steering.vectors.batch import InterventionBatch, SiteKey, in_order
from steering.vectors.interventions import Intervention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 16
"""Rows of each decoding pass. Answers may depend on it, so it is no option."""
_NAME = "steering_one_row_at_a_time"


class _Pass(threading.local):
    """What the attention of the present pass goes by.

    Attributes:
        lengths: Tokens of each sequence of a decoding pass; None in other passes.
        calls: Calls of the attention so far.
    """

    lengths: Sequence[int] | None = None
    calls: int = 0


_pass = _Pass()


def rows_together(model: "PreTrainedModel") -> int:
    """How many sequences can be decoded together; prepares the model for it.

    It is 1 where shapes would depend on others all the same: in mixtures of experts, where the
    tokens of an expert are one product, and in models whose attention is not exchangeable.
    """
    if model.config._attn_implementation != "sdpa" or any(
        "expert" in name for name, _ in model.named_parameters()
    ):
        return 1
    ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, _mask)
    model.set_attn_implementation(_NAME)
    _pass.calls = 0
    tokens = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    with torch.inference_mode():
        cache = cache_of(model(input_ids=tokens, use_cache=True))
    if _pass.calls == sum(isinstance(layer, DynamicLayer) for layer in cache.layers):
        return ROWS
    model.set_attn_implementation("sdpa")
    return 1


@contextmanager
def decoding(lengths: Sequence[int] | None) -> Iterator[None]:
    """During a decoding pass, whose sequences have these many tokens, the new ones included.

    None leaves them to be decoded in the ordinary way.
    """
    _pass.lengths = lengths
    try:
        yield
    finally:
        _pass.lengths = None


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of each sequence to its own keys alone; zeros for the dummies."""
    _pass.calls += 1
    if _pass.lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    outputs = []
    for row, length in enumerate(_pass.lengths):
        # Copies, since even the address of a factor may decide how it is multiplied.
        one = slice(row, row + 1)
        q, k, v = (
            part[one, :, -length:].clone(memory_format=torch.contiguous_format)
            for part in (query, key, value)
        )
        mask = None if attention_mask is None else attention_mask[one, :, :, -length:]
        outputs.append(sdpa_attention_forward(module, q, k, v, mask, **options)[0])
    dummies = outputs[0].new_zeros((len(query) - len(outputs), *outputs[0].shape[1:]))
    return torch.cat([*outputs, dummies]), None


def _mask(*args: Any, **options: Any) -> Tensor | None:
    """The mask, which in decoding passes must not be left out if it happens to hide nothing."""
    if _pass.lengths is not None:
        options["allow_is_causal_skip"] = False
    return sdpa_mask(*args, **options)


class RowByRow:
    """The interventions of a batch, as `InterventionBatch`, each row steered by itself."""

    def __init__(
        self, interventions: Sequence[Sequence[Intervention]], device: torch.device | str
    ) -> None:
        self._rows = [InterventionBatch([row], device) for row in interventions]
        self.sites = in_order({key for row in self._rows for key in row.sites})
        self.visits = dict.fromkeys(self.sites, 0)

    @property
    def change(self) -> Tensor:
        """As of `InterventionBatch`."""
        return torch.cat([row.change for row in self._rows])

    def begin_decode(self) -> None:
        """As of `InterventionBatch`."""
        for row in self._rows:
            row.begin_decode()

    def keep(self, order: Sequence[int]) -> None:
        """As of `InterventionBatch`."""
        self._rows = [self._rows[index] for index in order]

    def apply(self, key: SiteKey, hidden: Tensor) -> Tensor:
        """As of `InterventionBatch`; `hidden` has further rows of dummies."""
        self.visits[key] += 1
        steered = [
            row.apply(key, part.clone()) if key in row.sites else part
            for row, part in zip(self._rows, hidden.split(1), strict=False)
        ]
        return torch.cat([*steered, hidden[len(steered) :]])
