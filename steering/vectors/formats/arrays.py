"""Files of plain numbers: NumPy's .npy and .npz, CSV, and the .safetensors of other tools.

Nothing is unpickled. What a header declares is held against the size of the file before any memory
is taken.
"""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy_format
from torch import Tensor

from steering.errors import raised_as
from steering.foreign import LIMITS, check_zip, read_bytes, read_text, size_text
from steering.vectors.errors import VectorError
from steering.vectors.packed import read_tensors

_LAYER = "layer"
# Columns of a CSV of lm-evaluation-harness, which names features of sparse models.
_OF_SPARSE_MODELS = {"sparse_model", "feature_index"}


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        VectorError: It is damaged, or holds Python objects.
    """
    with raised_as(VectorError):
        return _array(read_bytes(path, "vector"), path)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name.

    Raises:
        VectorError: It is damaged, too large, or holds Python objects.
    """
    with raised_as(VectorError), path.open("rb") as file:
        archive = check_zip(file, path, "vector")
        parts = archive.namelist()
        if sum(each.file_size for each in archive.infolist()) > LIMITS["vector"].unpacked:
            most = size_text(LIMITS["vector"].unpacked)
            raise VectorError(f"{path} unpacks to more than {most}: save the directions alone")
        try:
            contents = {name.removesuffix(".npy"): archive.read(name) for name in parts}
        # Damage can raise any error.
        except Exception:
            raise VectorError(f"{path} is damaged: save it again with numpy.savez") from None
        return {name: _array(content, path) for name, content in contents.items()}


def _array(content: bytes, path: Path) -> np.ndarray:
    stream = io.BytesIO(content)
    try:
        version = npy_format.read_magic(stream)
        read_header = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read_header(stream)
        size = math.prod(shape) * dtype.itemsize
    # The header is Python's syntax, and damage to it can raise any error.
    except Exception:
        raise VectorError(f"{path} can't be read as a .npy file: it is damaged") from None
    if dtype.kind not in "fiu":
        raise VectorError(
            f"{path} holds {dtype.name} {list(shape)}: numbers are needed, saved by numpy.save "
            "without pickle"
        )
    data = content[stream.tell() :]
    if len(data) != size:
        raise VectorError(f"{path} is damaged: it holds {len(data)} bytes of {size}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def read_csv(path: Path) -> Tensor | dict[int, Tensor]:
    """The numbers of a CSV file.

    Returns:
        [width] of one row or column, else [rows, width]; by layer where the first column is headed
        `layer`.

    Raises:
        VectorError: A cell is no number, or the rows differ in length.
    """
    with raised_as(VectorError):
        text = read_text(path, "table")
    if text.count(",") + text.count("\n") > LIMITS["table"].items:
        raise VectorError(f"{path} has more than {LIMITS['table'].items} cells: save it as .npy")
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise VectorError(f"{path} can't be read as CSV ({error})") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if set(header) >= _OF_SPARSE_MODELS:
        raise VectorError(
            f"{path} names features of sparse models and holds no vectors: save their decoder "
            "directions with torch.save, as {layer: tensor}"
        )
    by_layer = header[:1] == [_LAYER]
    if by_layer:
        del rows[0]
    lines = range(1 + by_layer, len(rows) + 1 + by_layer)
    numbers = [_numbers(row, path, line) for row, line in zip(rows, lines, strict=True)]
    if not numbers or len({len(row) for row in numbers}) > 1:
        raise VectorError(f"{path} is no table of numbers: rows of one length are needed")
    table = torch.tensor(numbers, dtype=torch.float64)
    if not by_layer:
        return table.reshape(-1) if 1 in table.shape else table
    layers = table[:, 0].tolist()
    if not all(layer.is_integer() for layer in layers) or len(set(layers)) < len(layers):
        raise VectorError(f"{path}: its column layer must name a block a row, each once")
    return {int(layer): row[1:] for layer, row in zip(layers, table, strict=True)}


def _numbers(row: list[str], path: Path, line: int) -> list[float]:
    try:
        return [float(cell) for cell in row]
    except ValueError as error:
        raise VectorError(
            f"{path}, line {line}: {error}. Give rows of numbers, with a header only where its "
            "first column is layer"
        ) from None


def read_other_safetensors(path: Path) -> dict[str, Any]:
    """The tensors of another tool's .safetensors file by name, and its metadata by key.

    Raises:
        VectorError: It is damaged, or a name stands for both.
    """
    metadata, tensors = read_tensors(path)
    return {key: value for key, value in metadata.items() if key != "format"} | tensors
