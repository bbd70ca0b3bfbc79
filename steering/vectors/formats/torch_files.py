"""Files that other tools wrote with torch.save, read without executing any code in them.

| format | content | read as |
|---|---|---|
| moem | dict steering_vector [width], layer_idx, d_model, alpha | mlp_out, alpha * vector |
| persona_vectors | tensor [blocks + 1, width] over transformers' hidden_states | resid_post |
| steering-vectors | that package's SteeringVector | resid_post or mlp_out |
| dict | dict of block to tensor [width] | resid_post |

moem is the `steering_vector.pt` of model-organisms-for-EM (arXiv 2602.07852), which is added to the
output of `mlp.down_proj`; persona_vectors is arXiv 2507.21509.
"""

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steering.files import file_digest
from steering.vectors.steering_vector import SteeringVector, VectorError
from steering.vocabulary import Site

_KNOWN = (
    "known are model-organisms-for-EM's steering_vector.pt, persona_vectors' tensor "
    "[blocks + 1, width], steering-vectors' SteeringVector and a dict of block to tensor [width]"
)
_SITES: dict[str, Site] = {"decoder_block": "resid_post", "mlp": "mlp_out"}


class _TheirVector:
    """Stand-in for the class of the package steering-vectors, whose code is never imported."""

    layer_activations: Any = None
    layer_type: Any = None


def read_torch(path: Path) -> SteeringVector:
    """Read a steering vector that another tool saved.

    Raises:
        VectorError: The file is damaged, contains code, or has an unknown format.
    """
    content = _content(path)
    try:
        vector = _from_content(content)
    except VectorError as error:
        raise VectorError(f"{path} can't be used as a steering vector: {error}") from None
    provenance = {**vector.provenance, "imported_sha256": file_digest(path)}
    return replace(vector, provenance=provenance)


def _from_content(content: Any) -> SteeringVector:
    """The vector that an object from a file represents."""
    if isinstance(content, _TheirVector):
        return _steering_vectors(content)
    if isinstance(content, Tensor):
        return _persona(content)
    if isinstance(content, dict) and "steering_vector" in content:
        return _moem(content)
    if isinstance(content, dict) and content and all(type(key) is int for key in content):
        return _by_layer(content)
    raise VectorError(f"it holds {_kind(content)}; {_KNOWN}")


def _content(path: Path) -> Any:
    """The object in the file; tensors, numbers, texts and containers only."""
    theirs = (_TheirVector, "steering_vectors.steering_vector.SteeringVector")
    try:
        # Torch does not verify its checksums, and returns uninitialised memory for a part that is
        # marked as a folder.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts = archive.infolist()
                if archive.testzip() or any(part.external_attr & 0x10 for part in parts):
                    raise ValueError("a part of the archive is damaged")
        with torch.serialization.safe_globals([theirs]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # Damage can raise any error. Torch's message is left out: it explains how to run the code.
    except Exception:
        raise VectorError(
            f"{path} is damaged, or contains more than tensors, numbers, texts, lists and dicts, "
            "which can't be read without running its code: save only these with torch.save"
        ) from None


def _moem(content: Mapping[str, Any]) -> SteeringVector:
    """Their hook adds alpha * vector to the output of down_proj."""
    direction = _direction("steering_vector", content["steering_vector"])
    layer, alpha = content.get("layer_idx"), content.get("alpha", 1.0)
    width = content.get("d_model", len(direction))
    if type(layer) is not int:
        raise VectorError(f"its layer_idx is {_shown(layer)}; the number of a block is needed")
    if type(alpha) not in (int, float):
        raise VectorError(f"its alpha is {_shown(alpha)}; a number is needed")
    if type(width) is not int or width != len(direction):
        raise VectorError(
            f"its d_model is {_shown(width)}, its steering_vector has width {len(direction)}: they "
            "must be the same"
        )
    facts = {str(key): _shown(value) for key, value in content.items() if key != "steering_vector"}
    return _vector("moem", {layer: alpha * direction}, "mlp_out", facts=facts)


def _persona(content: Tensor) -> SteeringVector:
    """Rows are those of transformers' hidden_states: the embedding, then the block outputs.

    The last of the hidden_states is the output of the final norm, so the last row is not a
    direction of the residual stream.
    """
    if content.ndim != 2 or len(content) < 3:
        raise VectorError(f"it is a tensor {list(content.shape)}; [blocks + 1, width] is needed")
    depth = len(content) - 1
    rows = {layer: _direction(f"row {layer + 1}", content[layer + 1]) for layer in range(depth - 1)}
    note = (
        f"the tensor has {depth + 1} rows, read as those of persona_vectors for a model of {depth} "
        f"blocks: row 0 (embedding) and row {depth} (behind the final norm) are not the output of "
        "a block and are left out, row i is layer i - 1"
    )
    facts = {"shape": list(content.shape), "left_out_rows": [0, depth]}
    return _vector("persona_vectors", rows, "resid_post", depth=depth, facts=facts, note=note)


def _steering_vectors(content: _TheirVector) -> SteeringVector:
    kind, rows = content.layer_type, content.layer_activations
    if not isinstance(kind, str) or kind not in _SITES:
        raise VectorError(f"its layer_type is {_shown(kind)}; {' or '.join(_SITES)} is needed")
    if not isinstance(rows, dict) or not rows or not all(type(key) is int for key in rows):
        raise VectorError("its layer_activations are not a dict of block to tensor [width]")
    directions = {layer: _direction(f"layer {layer}", row) for layer, row in rows.items()}
    return _vector("steering-vectors", directions, _SITES[kind], facts={"layer_type": kind})


def _by_layer(content: Mapping[int, Any]) -> SteeringVector:
    directions = {layer: _direction(f"layer {layer}", row) for layer, row in content.items()}
    note = (
        "the file has only numbers and tensors: they are read as blocks, numbered from 0, and "
        "directions that are added to their outputs (site resid_post)"
    )
    return _vector("dict", directions, "resid_post", facts={}, note=note)


def _vector(
    source: str,
    directions: Mapping[int, Tensor],
    site: Site,
    *,
    facts: Mapping[str, Any],
    depth: int | None = None,
    note: str = "",
) -> SteeringVector:
    """The vector of these directions [width] by layer."""
    widths = sorted({len(direction) for direction in directions.values()})
    if len(widths) > 1:
        raise VectorError(f"its directions have the widths {widths}; one width is needed")
    layers = tuple(sorted(directions))
    notes = {"notes": [note]} if note else {}
    return SteeringVector(
        directions=torch.stack([directions[layer] for layer in layers])[:, None],
        layers=layers,
        site=site,
        depth=depth,
        provenance={**facts, **notes, "imported_from": source},
    )


def _direction(name: str, value: Any) -> Tensor:
    """Float32 [width]."""
    if (
        not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or not value.is_floating_point()
        or value.numel() != max(value.shape, default=0)
    ):
        raise VectorError(f"its {name} is {_kind(value)}; a tensor [width] is needed")
    return value.detach().float().reshape(-1).clone()


def _shown(value: Any) -> Any:
    """A JSON value that describes `value`."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _shown(item) for key, item in value.items()}
    return _kind(value)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype} {list(value.shape)}"
    if isinstance(value, dict):
        keys = ", ".join(repr(key) for key in list(value)[:4])
        return f"a dict with the keys {keys}" if value else "an empty dict"
    return f"a {type(value).__name__}"
