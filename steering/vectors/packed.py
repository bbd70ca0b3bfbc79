"""Safetensors files: those of this project, with a header and a digest, and those of others."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from steering.errors import SteeringError, raised_as
from steering.foreign import decode, parse_json, read_bytes
from steering.vectors.errors import VectorError


def pack(format: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Content of a safetensors file: tensors, a JSON header, and a digest of both.

    `format` is the name and version of the format; the tensors may be on any device.
    """
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header, sort_keys=True)
    metadata = {"format": format, "header": text, "sha256": _digest(text, arrays)}
    return _sorted_header(save(arrays, metadata))


def unpack(format: str, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and tensors of a file with the content of `pack`.

    Raises:
        VectorError: It is not such a file, or any bit of it has changed.
    """
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != format:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        other = f"the format {metadata['format']}" if metadata.get("format") else "no format"
        raise VectorError(
            f"{path} has {other}; {format} is needed. It holds {shapes or 'nothing'}: if another "
            "tool wrote it, import it with `steering convert`"
        )
    text, expected = str(metadata.get("header")), str(metadata.get("sha256"))
    digest = _digest(text, tensors)
    if digest != expected:
        raise VectorError(
            f"{path} is damaged: its content has the digest {digest[:12]}, its header says "
            f"{expected[:12]}. Download or build it again"
        )
    with raised_as(VectorError):
        header = parse_json(text, f"the header of {path}", "vector")
    if not isinstance(header, dict):
        raise VectorError(f"{path} has the header {text[:40]}; a JSON object is needed")
    return header, tensors


def is_packed(path: Path) -> bool:
    """Whether a .safetensors file has the marks of `pack`, whatever their values.

    Raises:
        VectorError: As of `read_tensors`.
    """
    metadata, _ = read_tensors(path)
    is_named = metadata.get("format", "").startswith("steering-")
    return is_named or {"header", "sha256"} <= set(metadata)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and tensors of any .safetensors file.

    Raises:
        VectorError: It is damaged, or another kind of file.
    """
    with raised_as(VectorError):
        content = read_bytes(path, "vector")
    try:
        # The library has no bound on the number of tensors.
        length = int.from_bytes(content[:8], "little")
        head = parse_json(decode(content[8 : 8 + length], path), path, "vector")
        tensors = load(content)
        return head.get("__metadata__") or {}, tensors
    except (SafetensorError, SteeringError, KeyError, ValueError) as error:
        raise VectorError(
            f"{path} can't be read as .safetensors: it is truncated, damaged, or another kind of "
            f"file ({error}). Download or build it again"
        ) from None


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sorted_header(content: bytes) -> bytes:
    """The same safetensors file with a sorted header.

    The library writes metadata in a random order, but the same vector must have the same digest.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the format keeps tensors aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + content[end:]
