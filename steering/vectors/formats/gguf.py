"""GGUF control vectors, the format of llama.cpp, repeng and others.

A file has one direction a layer, added to the output of the block of that index (our `resid_post`;
llama.cpp's generator writes what it took behind block i as i + 1, and there it is added),
and the metadata `controlvector.model_hint` and `controlvector.layer_count`, the number of
directions. Facts without a place in the format (residual norms, provenance, depth) are written
under keys of our own, with a digest of the whole content, so that a vector survives the round trip
and damage is detected; other readers ignore these keys.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from steering.errors import raised_as
from steering.files import file_digest, write_whole
from steering.foreign import (
    LIMITS,
    GGUFHeader,
    GGUFTensor,
    check_file,
    parse_json,
    read_gguf_header,
    size_text,
)
from steering.vectors.errors import VectorError
from steering.vectors.formats.places import operation_in
from steering.vectors.formats.rows import Rows, Statement, vector_of_rows
from steering.vectors.steering_vector import FORMAT, SteeringVector, norms_in

ARCHITECTURE = "controlvector"
_ARCHITECTURE_KEY = "general.architecture"
_MODEL_KEY = f"{ARCHITECTURE}.model_hint"
_COUNT_KEY = f"{ARCHITECTURE}.layer_count"
_EASYSTEER_KEY, _EASYSTEER_COMPONENT = f"{ARCHITECTURE}.easysteer", "hidden_states"
# Codes of NumPy by type.
_CODES: Mapping[int, str] = {
    GGMLQuantizationType.F32: "f4",
    GGMLQuantizationType.F16: "f2",
    GGMLQuantizationType.BF16: "u2",
}
_OURS = "steering."
_FORMAT_KEY, _HEADER_KEY, _DIGEST_KEY = (
    f"{_OURS}{name}" for name in ("format", "header", "sha256")
)

Directions = dict[int, np.ndarray]
"""Float32 [width] by layer."""


def read_gguf(path: Path, statement: Statement) -> SteeringVector:
    """Read a control vector: one of ours as it was written, any other as an import.

    Raises:
        VectorError: The file is damaged or not a control vector.
    """
    metadata, directions = _content(path)
    try:
        if any(key.startswith(_OURS) for key in metadata):
            return _own_vector(metadata, directions)
        rows = {layer: torch.from_numpy(row) for layer, row in directions.items()}
        facts = {
            **metadata,
            "model": str(metadata.get(_MODEL_KEY, "")),
            "imported_sha256": file_digest(path),
        }
        stated = {key.removeprefix(f"{ARCHITECTURE}."): value for key, value in metadata.items()}
        operation = statement.operation or operation_in(stated, strict=True)
        read = Rows("gguf", rows, "resid_post", together=True)
        return vector_of_rows(read, statement, operation, facts)
    except VectorError as error:
        raise VectorError(f"{path} can't be used as a steering vector: {error}") from None


def write_gguf(vector: SteeringVector, path: Path) -> tuple[str, ...]:
    """Write a plain vector of rank 1 at the output of its blocks; see `formats.write_vector`."""
    _check_holds(vector)
    directions = {
        layer: row.detach().cpu().numpy()
        for layer, row in zip(vector.layers, vector.directions[:, 0], strict=True)
    }
    texts = {
        _MODEL_KEY: vector.model,
        _FORMAT_KEY: FORMAT,
        _HEADER_KEY: json.dumps(vector.header(), sort_keys=True),
    }
    metadata = {_ARCHITECTURE_KEY: ARCHITECTURE, _COUNT_KEY: len(directions), **texts}
    texts[_DIGEST_KEY] = _digest(metadata, directions)
    with TemporaryDirectory() as folder:
        writer = GGUFWriter(Path(folder) / "vector.gguf", ARCHITECTURE)
        writer.add_uint32(_COUNT_KEY, len(directions))
        for key, text in texts.items():
            # `add_string` omits an empty text, and repeng needs the model hint.
            writer.add_key_value(key, text, GGUFValueType.STRING)
        for layer, direction in directions.items():
            writer.add_tensor(f"direction.{layer}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_whole(path, (Path(folder) / "vector.gguf").read_bytes())
    if 0 not in vector.layers:
        return ()
    return (
        "llama.cpp refuses a control vector with a direction for layer 0, as this one has: leave "
        "it out if the file is for llama.cpp",
    )


def _check_holds(vector: SteeringVector) -> None:
    if vector.map is not None:
        content = f"a low-rank map of rank {vector.rank}"
    elif vector.rank != 1:
        content = f"a vector of rank {vector.rank}"
    elif vector.site != "resid_post":
        content = f"a vector for the site {vector.site}"
    else:
        return
    raise VectorError(
        f"{content} can't be written as GGUF, which holds plain vectors of rank 1 for the site "
        "resid_post only: write .safetensors"
    )


def _content(path: Path) -> tuple[dict[str, Any], Directions]:
    """The file's metadata, and its directions in the order of their layers."""
    with raised_as(VectorError):
        size = check_file(path, "vector")
        with path.open("rb") as file:
            header = read_gguf_header(file, size, path, "vector")
            _check_kind(path, header)
            directions = {
                layer: _direction(path, file, size, header.order, tensor)
                for layer, tensor in zip(_layers(path, header), header.tensors, strict=True)
            }
    widths = sorted({len(direction) for direction in directions.values()})
    if len(widths) != 1:
        content = f"widths {widths}" if widths else "no directions"
        raise VectorError(f"{path} holds {content}: directions of one width are needed")
    return header.metadata, dict(sorted(directions.items()))


def _check_kind(path: Path, header: GGUFHeader) -> None:
    """Refuse what is no control vector of the residual stream, or a larger one than is read."""
    architecture = header.metadata.get(_ARCHITECTURE_KEY)
    if architecture != ARCHITECTURE:
        raise VectorError(
            f"{path} has {_ARCHITECTURE_KEY}={architecture!r}: a control vector "
            f"({_ARCHITECTURE_KEY}={ARCHITECTURE!r}) is needed"
        )
    # EasySteer names the part of the block in JSON.
    if (easysteer := header.metadata.get(_EASYSTEER_KEY)) is not None:
        facts = parse_json(str(easysteer), f"{path}: {_EASYSTEER_KEY}", "vector")
        component = facts.get("component") if isinstance(facts, dict) else None
        if component not in (None, _EASYSTEER_COMPONENT):
            raise VectorError(
                f"{path} has the component {component!r} of EasySteer: only "
                f"{_EASYSTEER_COMPONENT}, the residual stream, can be steered here"
            )
    most = LIMITS["vector"].unpacked
    if 4 * sum(tensor.num_values for tensor in header.tensors) > most:
        raise VectorError(f"{path} has directions of more than {size_text(most)}: split it")


def _layers(path: Path, header: GGUFHeader) -> list[int]:
    layers = []
    for tensor in header.tensors:
        match = re.fullmatch(r"direction\.(0|[1-9][0-9]{0,8})", tensor.name)
        if match is None:
            raise VectorError(f"{path} holds {tensor.name!r}: only direction.<layer> is allowed")
        layers.append(int(match[1]))
    return layers


def _direction(
    path: Path, file: IO[bytes], size: int, order: str, tensor: GGUFTensor
) -> np.ndarray:
    """Float32 [width], in this machine's order of bytes."""
    code = _CODES.get(tensor.type)
    if code is None or len(tensor.shape) != 1:
        names = {each.value: each.name for each in GGMLQuantizationType}
        name = names.get(tensor.type, f"type {tensor.type}")
        raise VectorError(
            f"{path} holds {tensor.name} as {name} {list(tensor.shape)}: F32, F16 or BF16 [width] "
            "is needed"
        )
    length = int(code[1]) * tensor.num_values
    end = tensor.offset + length
    if end > size:
        raise VectorError(f"{path} is cut short: it ends at byte {size}, before its byte {end}")
    file.seek(tensor.offset)
    data = np.frombuffer(file.read(length), dtype=f"{order}{code}")
    if tensor.type == GGMLQuantizationType.BF16:
        # BF16 is the upper half of F32.
        return (data.astype(np.uint32) << 16).view(np.float32)
    return data.astype(np.float32)


def _own_vector(metadata: Mapping[str, Any], directions: Directions) -> SteeringVector:
    """The vector of a file that `write_gguf` wrote."""
    if metadata.get(_FORMAT_KEY) != FORMAT:
        raise VectorError(f"its format is {metadata.get(_FORMAT_KEY)!r}; {FORMAT} is needed")
    digest, expected = _digest(metadata, directions), str(metadata.get(_DIGEST_KEY))
    if digest != expected:
        raise VectorError(
            f"it is damaged or was changed: its content has the digest {digest[:12]}, its metadata "
            f"says {expected[:12]}. Download or convert it again"
        )
    try:
        with raised_as(VectorError):
            header = parse_json(str(metadata[_HEADER_KEY]), "its header", "vector")
        norms, provenance = norms_in(header)
        return SteeringVector(
            directions=_stacked(directions),
            layers=tuple(directions),
            site=header["site"],
            residual_norms=norms,
            model=header["model"],
            depth=header["depth"],
            provenance=provenance,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise VectorError(f"its header is invalid ({error!r})") from None


def _stacked(directions: Directions) -> torch.Tensor:
    """Float32 [layers, 1, width]."""
    return torch.from_numpy(np.stack(list(directions.values())))[:, None]


def _digest(metadata: Mapping[str, Any], directions: Directions) -> str:
    """SHA-256 of the content of a file without the digest itself."""
    rest = {key: value for key, value in metadata.items() if key != _DIGEST_KEY}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for layer, direction in directions.items():
        digest.update(f"\0{layer} {len(direction)}\0".encode())
        digest.update(np.asarray(direction, dtype="<f4").tobytes())
    return digest.hexdigest()
