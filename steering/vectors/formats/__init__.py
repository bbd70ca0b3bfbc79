"""File formats of steering vectors: ours and those of other tools; two of them are written.

Owns the format of each suffix, and the block, the site and the magnitude 1 of a foreign file. Never
executes code in a file. An imported vector has no residual norms; its provenance has
`imported_from`.
"""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

from steering.vectors.steering_vector import SteeringVector, VectorError

__all__ = ["READ", "WRITTEN", "notes_on", "read_layers", "read_vector", "write_vector"]

READ = (".safetensors", ".gguf", ".pt", ".pth")
"""Suffixes of the files that `read_vector` reads."""
WRITTEN = (".safetensors", ".gguf")
"""Suffixes of the files that `write_vector` writes."""


def read_vector(
    path: Path, layer: "int | Sequence[int] | Literal['all'] | None" = None
) -> SteeringVector:
    """Read a steering vector in the format of the suffix.

    `.safetensors` files are ours. `.gguf` files are control vectors. `.pt` and `.pth` files were
    written by other tools with torch.save; see `formats/torch_files.py`. The provenance of an
    imported vector has the name of the format under `imported_from`, the file's digest under
    `imported_sha256`, and its other metadata.

    Args:
        path: The file.
        layer: The block or blocks to take of a file with a direction for each of many, of which
            one is meant to be steered (persona_vectors, dicts and lists of tensors): it must be
            named there, or be `all`. It also says where a file with a single tensor acts.

    Raises:
        VectorError: The file is missing, damaged, of an unknown format, contains code, or a vector
            that can't be represented here; or its layer must be named and is not.
    """
    if not path.is_file():
        raise VectorError(f"{path} is not a file: give a steering vector ({', '.join(READ)})")
    suffix = path.suffix.lower()
    if suffix not in READ:
        raise VectorError(f"{path} has an unknown format. Allowed: {', '.join(READ)}")
    if suffix in (".pt", ".pth"):
        from steering.vectors.formats.torch_files import read_torch

        return read_torch(path, layer)
    vector: SteeringVector
    vector = SteeringVector.load(path) if suffix == ".safetensors" else _gguf().read_gguf(path)
    if isinstance(layer, Sequence) and layer != "all" and set(layer) != set(vector.layers):
        raise VectorError(
            f"{path} steers the layers {', '.join(map(str, vector.layers))} together: several of "
            "them can't be taken out; name one, or all"
        )
    return vector


def read_layers(text: str) -> "int | tuple[int, ...] | Literal['all']":
    """Layers as they are typed: `16`, `12,16` or `all`.

    Raises:
        VectorError: The text is none of these.
    """
    if text.strip() == "all":
        return "all"
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,6}", part) for part in parts):
        raise VectorError(f"layer {text!r} is none: give a block, as 16, several, as 12,16, or all")
    return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))


def write_vector(vector: SteeringVector, path: Path) -> tuple[str, ...]:
    """Write a steering vector in the format of the suffix, atomically; replaces an existing file.

    Returns:
        Notes for the user on how other tools treat the file.

    Raises:
        VectorError: The format is not supported or can't represent the vector, or the file can't be
            written.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        raise VectorError(f"{path} can't be written: give a name in {' or '.join(WRITTEN)}")
    try:
        if suffix == ".safetensors":
            vector.save(path)
            return ()
        notes: tuple[str, ...] = _gguf().write_gguf(vector, path)
        return notes
    except OSError as error:
        raise VectorError(f"{path} can't be written ({error.strerror})") from None


def notes_on(vector: SteeringVector) -> tuple[str, ...]:
    """Notes on what the import of a vector left out or assumed."""
    notes = vector.provenance.get("notes", ())
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def _gguf() -> ModuleType:
    """The module for GGUF, whose library is imported where it is needed."""
    return import_module("steering.vectors.formats.gguf")
