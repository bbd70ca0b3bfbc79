"""Exchange of steering vectors with other tools: files of any known format in, two formats out.

Owns which suffix is which format, and what a foreign file means in our terms: which block, which
site, what magnitude 1 is. Never executes code that a file holds. A vector from elsewhere has no
residual norms, and its provenance begins with `imported_from`.
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
    """Read a steering vector in any known format.

    `.safetensors` files are ours. `.gguf` files are control vectors. `.pt` and `.pth` files are
    what other tools leave with torch.save; see `formats/torch_files.py`.

    Args:
        path: The file; its suffix says its format.

    Returns:
        The vector. What was read from a foreign format has the format's name in its provenance
        under `imported_from`, all else that the file says, and its digest under `imported_sha256`.

    Raises:
        VectorError: The file is missing, damaged, of no known format, wants to run code, or holds
            a vector that has no like here.
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
    raise VectorError(f"{path} is of no format that is known here: {', '.join(READ)} are read")


def write_vector(vector: SteeringVector, path: Path) -> tuple[str, ...]:
    """Write a steering vector in the format that the suffix names, whole or not at all.

    Args:
        vector: What to write.
        path: The file; one that is there is replaced.

    Returns:
        What others will do with the file that a user should know.

    Raises:
        VectorError: No such format is written, the format can't hold the vector, or the file can't
            be written.
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
    """What the import of a vector left out or took for granted; empty if nothing."""
    notes = vector.provenance.get("notes", ())
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def _gguf() -> ModuleType:
    """The module that speaks GGUF, whose library is an extra."""
    try:
        return import_module("steering.vectors.formats.gguf")
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise VectorError(
            "GGUF files need the gguf package: pip install 'steering[gguf]'"
        ) from None
