"""File formats of steering vectors: ours and those of other tools; two of them are written.

Owns the format of each suffix, and the block, the site and the magnitude 1 of a foreign file. Never
executes code in a file. An imported vector has no residual norms; its provenance has
`imported_from`.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from steering.vectors.steering_vector import SteeringVector, VectorError

__all__ = ["READ", "WRITTEN", "notes_on", "read_vector", "write_vector"]

READ = (".safetensors", ".gguf", ".pt", ".pth")
"""Suffixes of the files that `read_vector` reads."""
WRITTEN = (".safetensors", ".gguf")
"""Suffixes of the files that `write_vector` writes."""


def read_vector(path: Path) -> SteeringVector:
    """Read a steering vector in the format of the suffix.

    `.safetensors` files are ours. `.gguf` files are control vectors. `.pt` and `.pth` files were
    written by other tools with torch.save; see `formats/torch_files.py`. The provenance of an
    imported vector has the name of the format under `imported_from`, the file's digest under
    `imported_sha256`, and its other metadata.

    Raises:
        VectorError: The file is missing, damaged, of an unknown format, contains code, or a vector
            that can't be represented here.
    """
    if not path.is_file():
        raise VectorError(f"{path} is not a file: give a steering vector ({', '.join(READ)})")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return SteeringVector.load(path)
    if suffix == ".gguf":
        vector: SteeringVector = _gguf().read_gguf(path)
        return vector
    if suffix in READ:
        from steering.vectors.formats.torch_files import read_torch

        return read_torch(path)
    raise VectorError(f"{path} has an unknown format. Allowed: {', '.join(READ)}")


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
    """The module for GGUF, whose library is an extra."""
    try:
        return import_module("steering.vectors.formats.gguf")
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise VectorError(
            "GGUF files need the gguf package: pip install 'steering[gguf]'"
        ) from None
