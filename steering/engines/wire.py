"""A row's edits as bytes, for worker processes that have none of our memory."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from steering.vectors.interventions import Intervention

_SAID = ("amount", "layer", "site", "operation", "positions")
_TENSORS = ("basis", "reads", "offsets")


def pack_edits(edits: Sequence[Intervention]) -> tuple[str, bytes]:
    """What is said of each edit, as JSON, and the tensors of all, as safetensors."""
    said = [{name: getattr(edit, name) for name in _SAID} for edit in edits]
    tensors: dict[str, Tensor] = {
        f"{index}.{name}": value.contiguous()
        for index, edit in enumerate(edits)
        for name in _TENSORS
        if (value := getattr(edit, name)) is not None
    }
    return json.dumps(said), save(tensors)


def unpack_edits(said: str, tensors: bytes) -> tuple[Intervention, ...]:
    """The edits again."""
    held = load(tensors)
    edits: list[dict[str, Any]] = json.loads(said)
    for index, edit in enumerate(edits):
        edit |= {name: held.get(f"{index}.{name}") for name in _TENSORS}
    return tuple(Intervention(**edit) for edit in edits)


def at_every_token(edits: Sequence[Intervention]) -> tuple[Intervention, ...]:
    """The same edits for tokens that are known to be named by their positions."""
    return tuple(replace(edit, positions="all") for edit in edits)
