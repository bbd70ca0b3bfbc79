"""Files that other tools wrote with torch.save, read without executing any code in them."""

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from steering.errors import SteeringError, raised_as
from steering.foreign import (
    LIMITS,
    check_file,
    check_pickle,
    check_zip,
    in_child,
    size_text,
)
from steering.vectors.errors import VectorError

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


class _TheirVector:
    """Stand-in for the class of the package steering-vectors, whose code is never imported."""

    layer_activations: Any = None
    layer_type: Any = None


_THEIRS = (_TheirVector, "steering_vectors.steering_vector.SteeringVector")


def read_torch(path: Path) -> Any:
    """What torch.save wrote: tensors, numbers, texts and containers.

    An object of steering-vectors is given as a dict of its attributes.

    Raises:
        VectorError: The file is damaged, too large, or contains code.
    """
    with raised_as(VectorError):
        content = _content(path)
    return vars(content) if isinstance(content, _TheirVector) else content


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
