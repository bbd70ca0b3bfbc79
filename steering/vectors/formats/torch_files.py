"""Files that other tools wrote with torch.save, read without executing any code in them.

| format | content | read as |
|---|---|---|
| moem | dict steering_vector [width], layer_idx, d_model, alpha | mlp_out, alpha * vector |
| persona_vectors | tensor [blocks + 1, width] over transformers' hidden_states | resid_post |
| steering-vectors | that package's SteeringVector | resid_post or mlp_out |
| dict | dict of block to tensor [width] | resid_post |
| tensor | one tensor [width] | resid_post |

moem is the `steering_vector.pt` of model-organisms-for-EM (arXiv 2602.07852), which is added to the
output of `mlp.down_proj`; persona_vectors is arXiv 2507.21509.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

import torch
from torch import Tensor

from steering.errors import SteeringError, raised_as
from steering.files import file_digest
from steering.foreign import (
    LIMITS,
    check_file,
    check_pickle,
    check_zip,
    in_child,
    size_text,
)
from steering.vectors.steering_vector import SteeringVector, VectorError
from steering.vocabulary import Site

_KNOWN = (
    "known are model-organisms-for-EM's steering_vector.pt, persona_vectors' tensor "
    "[blocks + 1, width], steering-vectors' SteeringVector, and a "
    "dict of block to tensor [width]"
)
_ALLOWED = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.serialization._get_layout",
    "_codecs.encode",
    "steering_vectors.steering_vector.SteeringVector",
    f"{__name__}._TheirVector",
}
_OF_TORCH = re.compile(r"torch\.([A-Za-z0-9]+Storage|b?float\d+)")
_SITES: dict[str, Site] = {"decoder_block": "resid_post", "mlp": "mlp_out"}

Layers = int | Sequence[int] | Literal["all"] | None
"""Layers to take of a file that has a direction for each of many."""


class _TheirVector:
    """Stand-in for the class of the package steering-vectors, whose code is never imported."""

    layer_activations: Any = None
    layer_type: Any = None


_THEIRS = (_TheirVector, "steering_vectors.steering_vector.SteeringVector")


def read_torch(path: Path, layer: Layers = None) -> SteeringVector:
    """Read a steering vector that another tool saved; `layer` as of `formats.read_vector`.

    Raises:
        VectorError: The file is damaged, contains code, has an unknown format, or has a choice of
            layers and none is named.
    """
    with raised_as(VectorError):
        content = _content(path)
        try:
            vector = _from_content(content, path, layer)
        except VectorError as error:
            raise VectorError(f"{path} can't be used as a steering vector: {error}") from None
    provenance = {**vector.provenance, "imported_sha256": file_digest(path)}
    return replace(vector, provenance=provenance)


def _from_content(content: Any, path: Path, layer: Layers) -> SteeringVector:
    """The vector that an object from a file represents."""
    if isinstance(content, _TheirVector):
        return _steering_vectors(content)
    if isinstance(content, Tensor):
        return _persona(content, layer) if content.ndim == 2 else _one_direction(content, layer)
    if isinstance(content, dict) and "steering_vector" in content:
        return _moem(content)
    if isinstance(content, dict) and content and all(type(key) is int for key in content):
        return _by_layer(content, layer)
    raise VectorError(f"it holds {_kind(content)}; {_KNOWN}")


def _content(path: Path) -> Any:
    """The object in the file; tensors, numbers, texts and containers only."""
    check_file(path, "vector")
    with path.open("rb") as file:
        # As torch itself decides.
        is_zip = file.read(4) == b"PK\3\4"
        file.seek(0)
        if is_zip:
            archive = check_zip(file, path, "vector")
            _check_archive(archive, path)
            file.seek(0)
            return _loaded(file, path)
        _check_legacy(file, path)
    # The sizes of its tensors stand among the operations, and torch asks for the memory first.
    limits = LIMITS["vector"]
    content = in_child(
        _modern, path, memory=4 * limits.unpacked, seconds=limits.seconds, where=path
    )
    return _loaded(io.BytesIO(content), path)


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse damage, and a pickle that does more than torch.save needs."""
    # Torch does not verify its checksums, and returns uninitialised memory for a part that is
    # marked as a folder.
    try:
        damaged = archive.testzip() or any(part.external_attr & 0x10 for part in archive.infolist())
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        stream = io.BytesIO(archive.read(pickles[0])) if len(pickles) == 1 else None
    # Damage can raise any error.
    except Exception:
        damaged = True
    if damaged or stream is None:
        raise _unreadable(path)
    try:
        check_pickle(stream, path, "vector", _is_allowed)
    except SteeringError as error:
        raise _unreadable(path, error) from None


def _check_legacy(file: IO[bytes], path: Path) -> None:
    """The same for the format of torch before 1.6: five pickles, then the numbers."""
    try:
        magic = check_pickle(file, path, "vector", _is_allowed)
        if torch.serialization.MAGIC_NUMBER not in magic:
            raise _unreadable(path)
        for _ in range(4):
            check_pickle(file, path, "vector", _is_allowed)
    except SteeringError as error:
        raise _unreadable(path, error) from None


def _modern(path: Path) -> bytes:
    """A legacy file in the format of today."""
    with path.open("rb") as file:
        content = _loaded(file, path)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _loaded(file: IO[bytes], path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([_TheirVector, _THEIRS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    # Damage can raise any error. Torch's message is left out: it explains how to run the code.
    except Exception:
        raise _unreadable(path) from None
    _check_values(content, path)
    return content


def _unreadable(path: Path, reason: SteeringError | None = None) -> VectorError:
    detail = "" if reason is None else f" ({reason})"
    return VectorError(
        f"{path} is damaged, or contains more than tensors, numbers, texts, lists and dicts, "
        f"which can't be read without running its code{detail}: save only these with torch.save"
    )


def _is_allowed(name: str) -> bool:
    """What torch.save names for tensors, their storages and dtypes, texts and dicts."""
    return name in _ALLOWED or _OF_TORCH.fullmatch(name) is not None


def _check_values(content: Any, path: Path) -> None:
    """Refuse an object that is too deep or too large to be walked through; not recursive.

    A view can have many times the elements of its storage, and an object may occur many times.
    """
    limits = LIMITS["vector"]
    level, count, size = [content], 0, 0
    for _ in range(limits.depth):
        below: list[Any] = []
        for value in level:
            if isinstance(value, Tensor):
                size += 4 * value.numel()
            elif isinstance(value, _TheirVector):
                below += vars(value).values()
            elif isinstance(value, dict):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | set):
                below += value
            if count + len(below) > limits.items or size > limits.unpacked:
                raise VectorError(
                    f"{path} stands for more than {limits.items} values or "
                    f"{size_text(limits.unpacked)} of numbers: save the directions alone"
                )
        count += len(below)
        level = below
        if not level:
            return
    raise VectorError(f"{path} is nested more than {limits.depth} levels deep")


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


def _persona(content: Tensor, layer: Layers) -> SteeringVector:
    """Rows are those of transformers' hidden_states: the embedding, then the block outputs.

    The last of the hidden_states is the output of the final norm, so the last row is not a
    direction of the residual stream.
    """
    if len(content) < 3:
        raise VectorError(f"it is a tensor {list(content.shape)}; [blocks + 1, width] is needed")
    depth = len(content) - 1
    rows = {block: _direction(f"row {block + 1}", content[block + 1]) for block in range(depth - 1)}
    note = (
        f"the tensor has {depth + 1} rows, read as those of persona_vectors for a model of {depth} "
        f"blocks: row 0 (embedding) and row {depth} (behind the final norm) are not the output of "
        "a block and are left out, row i is layer i - 1"
    )
    facts = {"shape": list(content.shape), "left_out_rows": [0, depth]}
    directions, choice = _choose(rows, layer)
    return _vector(
        "persona_vectors", directions, "resid_post", depth=depth, facts=facts | choice, note=note
    )


def _one_direction(content: Tensor, layer: Layers) -> SteeringVector:
    """A single tensor, as refusal_direction's direction.pt: its layer stands elsewhere."""
    if content.ndim != 1:
        raise VectorError(f"it is a tensor {list(content.shape)}; {_KNOWN}")
    if not isinstance(layer, int):
        raise VectorError(
            f"it is a tensor {list(content.shape)}, and no layer: name the block to whose output "
            "it is added, as in `steering convert IN OUT --layer 2`"
        )
    note = (
        f"the file does not say where its direction acts: it is added to the output of block "
        f"{layer} (site resid_post)"
    )
    rows = {layer: _direction("tensor", content)}
    return _vector("tensor", rows, "resid_post", facts={}, note=note)


def _choose(
    rows: Mapping[int, Tensor], layer: Layers
) -> tuple[Mapping[int, Tensor], dict[str, Any]]:
    """Of directions for many layers, of which one is meant to be steered, those that are named."""
    if layer == "all" or (layer is None and len(rows) == 1):
        return rows, {"chosen_layers": "all"} if len(rows) > 1 else {}
    layers = [] if layer is None else [layer] if isinstance(layer, int) else list(layer)
    if not layers or not set(layers) <= set(rows):
        problem = "and none is chosen" if layer is None else f"and {layer!r} is none of them"
        raise VectorError(
            f"it has a direction for each of the layers {', '.join(map(str, sorted(rows)))}, "
            f"{problem}: name the one to steer, as in `steering convert IN OUT --layer "
            f"{sorted(rows)[len(rows) // 2]}`, or all at once with `--layer all`"
        )
    choice = {"chosen_layers": layers} if len(layers) > 1 else {}
    return {number: rows[number] for number in layers}, choice


def _steering_vectors(content: _TheirVector) -> SteeringVector:
    kind, rows = content.layer_type, content.layer_activations
    if not isinstance(kind, str) or kind not in _SITES:
        raise VectorError(f"its layer_type is {_shown(kind)}; {' or '.join(_SITES)} is needed")
    if not isinstance(rows, dict) or not rows or not all(type(key) is int for key in rows):
        raise VectorError("its layer_activations are not a dict of block to tensor [width]")
    directions = {layer: _direction(f"layer {layer}", row) for layer, row in rows.items()}
    return _vector("steering-vectors", directions, _SITES[kind], facts={"layer_type": kind})


def _by_layer(content: Mapping[int, Any], layer: Layers) -> SteeringVector:
    rows = {block: _direction(f"layer {block}", row) for block, row in content.items()}
    note = (
        "the file has only numbers and tensors: they are read as blocks, numbered from 0, and "
        "directions that are added to their outputs (site resid_post)"
    )
    directions, choice = _choose(rows, layer)
    return _vector("dict", directions, "resid_post", facts=choice, note=note)


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
