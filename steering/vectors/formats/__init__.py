"""File formats of steering vectors: ours and those of other tools; two of them are written.

Owns the format of each suffix, and the block, the site and the magnitude 1 of a foreign file. Never
executes code in a file. An imported vector has no residual norms; its provenance has
`imported_from`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from steering.errors import raised_as
from steering.files import file_digest
from steering.foreign import parse_json, read_text
from steering.vectors.errors import VectorError
from steering.vectors.formats.rows import Layers, Statement
from steering.vectors.packed import is_packed
from steering.vectors.steering_vector import SteeringVector
from steering.vocabulary import VECTOR_FILES, Convention, Operation, Site

__all__ = [
    "WRITTEN",
    "notes_on",
    "read_layers",
    "read_vector",
    "vector_digest",
    "vector_in",
    "write_vector",
]

WRITTEN = (".safetensors", ".gguf")
"""Suffixes of the files that `write_vector` writes."""
_DIRECTION, _METADATA = "direction.pt", "direction_metadata.json"


def read_vector(
    path: str | PathLike[str],
    layer: Layers = None,
    *,
    site: Site | None = None,
    convention: Convention | None = None,
    operation: Operation | None = None,
    depth: int | None = None,
) -> SteeringVector:
    """Read a steering vector, ours or another tool's, in the format of the suffix.

    The table of formats is docs/how-to/vectors.md. What a file does not say must be said. The
    provenance of an imported vector has the name of the format under `imported_from`, the file's
    digest under `imported_sha256`, and its other metadata.

    Args:
        path: The file, or a folder of refusal_direction.
        layer: The block or blocks to take of a file with a direction for each of many, of which
            one is meant to be steered: it must be named there, or be `all`. It also says where a
            single direction acts that has no block beside it.
        site: Where in the block, if the file leaves it open; its output by default.
        convention: What the rows of a tensor [rows, width] are; see `steering.vocabulary`.
        operation: What the vector is meant for, where the file says it in no known word.
        depth: Number of blocks of the model that it is for, if known.

    Raises:
        VectorError: The file is missing, damaged, of an unknown format, contains code, or a vector
            that can't be represented here; or something that it leaves open is not said.
    """
    path = Path(path)
    statement = Statement(layer, site, convention, operation, depth, path)
    if path.is_dir():
        vector = _vector_in_folder(path, statement)
    elif not path.is_file():
        raise VectorError(
            f"{path} is not a file: give a steering vector ({', '.join(VECTOR_FILES)})"
        )
    elif path.suffix.lower() not in VECTOR_FILES:
        raise VectorError(f"{path} has an unknown format. Allowed: {', '.join(VECTOR_FILES)}")
    else:
        vector = _vector_in_file(path, statement)
    if isinstance(layer, Sequence) and layer != "all" and set(layer) != set(vector.layers):
        raise VectorError(
            f"{path} steers the layers {', '.join(map(str, vector.layers))} together: several of "
            "them can't be taken out; name one, or all"
        )
    return vector


def _vector_in_file(path: Path, statement: Statement) -> SteeringVector:
    suffix = path.suffix.lower()
    if suffix == ".safetensors" and is_packed(path):
        return _with_operation(SteeringVector.load(path), statement)
    if suffix == ".gguf":
        vector: SteeringVector = _gguf().read_gguf(path, statement)
        return vector
    if path.name == _DIRECTION and (path.parent / _METADATA).is_file():
        return _vector_in_folder(path.parent, statement)
    return _read_content(_content(path, suffix), path, statement)


def _content(path: Path, suffix: str) -> Any:
    """What a file of another tool holds: tensors or arrays, and facts."""
    if suffix in (".pt", ".pth"):
        from steering.vectors.formats.torch_files import read_torch

        return read_torch(path)
    from steering.vectors.formats import arrays

    readers = {".npy": arrays.read_npy, ".npz": arrays.read_npz, ".csv": arrays.read_csv}
    return readers.get(suffix, arrays.read_other_safetensors)(path)


def _vector_in_folder(folder: Path, statement: Statement) -> SteeringVector:
    """A direction of refusal_direction: it is that of a block's input."""
    direction, metadata = folder / _DIRECTION, folder / _METADATA
    if not direction.is_file() or not metadata.is_file():
        raise VectorError(
            f"{folder} is a folder without {_DIRECTION} and {_METADATA}, as refusal_direction "
            f"writes them: give a file ({', '.join(VECTOR_FILES)})"
        )
    with raised_as(VectorError):
        facts = parse_json(read_text(metadata, "config"), metadata, "config")
    if not isinstance(facts, dict) or type(facts.get("layer")) is not int:
        raise VectorError(f"{metadata} has no layer: the number of a block is needed")
    content = {
        **facts,
        "vector": _content(direction, ".pt"),
        "site": "resid_pre",
        "imported_from": "refusal_direction",
    }
    return _read_content(content, direction, statement)


def _read_content(content: Any, path: Path, statement: Statement) -> SteeringVector:
    from steering.vectors.formats.contents import vector_of

    try:
        vector = vector_of(content, statement)
    except VectorError as error:
        raise VectorError(f"{path} can't be used as a steering vector: {error}") from None
    provenance = {**vector.provenance, "imported_sha256": file_digest(path)}
    return replace(vector, provenance=provenance)


def _with_operation(vector: SteeringVector, statement: Statement) -> SteeringVector:
    """A vector of ours with the operation that is said of it."""
    if statement.site not in (None, vector.site):
        raise VectorError(
            f"{statement.file or 'the vector'} acts at {vector.site}, and {statement.site} is "
            f"said: leave the site out here; -M site={statement.site} steers there instead"
        )
    if statement.operation is None:
        return vector
    return replace(vector, provenance={**vector.provenance, "operation": statement.operation})


def vector_in(
    value: Any,
    layer: Layers = None,
    *,
    site: Site | None = None,
    convention: Convention | None = None,
    operation: Operation | None = None,
    depth: int | None = None,
) -> SteeringVector:
    """The vector that an object of Python stands for.

    Args:
        value: A vector, a tensor or array, tensors by block ({2: tensor}), or a mapping with
            `vector` and `layer`.
        layer: As of `read_vector`, with all that follow.
        site: As there.
        convention: As there.
        operation: As there.
        depth: As there.

    Raises:
        VectorError: It stands for none, or something that it leaves open is not said.
    """
    statement = Statement(layer, site, convention, operation, depth)
    if isinstance(value, SteeringVector):
        return _with_operation(value, statement)
    from steering.vectors.formats.contents import vector_of

    try:
        return vector_of(value, statement)
    except VectorError as error:
        raise VectorError(f"vector= can't be used as a steering vector: {error}") from None


def vector_digest(path: str | PathLike[str]) -> str:
    """SHA-256 of a vector's file, in hex; of a folder, of the files in it that are read."""
    path = Path(path)
    if not path.is_dir():
        return file_digest(path)
    digests = [file_digest(path / name) for name in (_DIRECTION, _METADATA)]
    return sha256(" ".join(digests).encode()).hexdigest()


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


def write_vector(vector: SteeringVector, path: str | PathLike[str]) -> tuple[str, ...]:
    """Write a steering vector in the format of the suffix, atomically; replaces an existing file.

    Returns:
        Notes for the user on how other tools treat the file.

    Raises:
        VectorError: The format is not supported or can't represent the vector, or the file can't be
            written.
    """
    path = Path(path)
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
