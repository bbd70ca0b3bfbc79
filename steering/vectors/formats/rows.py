"""Directions by block, and what is said of them, as a steering vector.

The last step of reading every format of another tool: which blocks are taken, at which site, and
what the provenance says. Knows no layouts.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steering.vectors.errors import VectorError
from steering.vectors.steering_vector import SteeringVector
from steering.vocabulary import Convention, Operation, Site

Layers = int | Sequence[int] | Literal["all"] | None
"""Layers to take of a file that has a direction for each of many."""

_MODEL_KEYS = ("model", "model_name", "model_id", "model_hint", "base_model")


@dataclass(frozen=True)
class Statement:
    """What the user says of a vector that its file does not say itself.

    Attributes:
        layer: The block or blocks to take, or `all`; where a single direction acts.
        site: Where in the block.
        convention: What the rows of a two-dimensional tensor are.
        operation: What it is meant for.
        depth: Number of blocks of the model that it is for.
        file: The file, for the command that an error names; None for an object of Python.
    """

    layer: Layers = None
    site: Site | None = None
    convention: Convention | None = None
    operation: Operation | None = None
    depth: int | None = None
    file: Path | None = None

    def remedy(self, **missing: str) -> str:
        """How to say what is missing, with examples of values."""
        if self.file is None:
            values = ", ".join(
                f"{name}={value if value.isdecimal() else repr(value)}"
                for name, value in missing.items()
            )
            return f"`steering.read_vector(vector, {values})`"
        out = f"{self.file.stem}-converted.safetensors"
        options = " ".join(f"--{name} {value}" for name, value in missing.items())
        return f"`steering convert {shlex.quote(str(self.file))} {shlex.quote(out)} {options}`"


@dataclass(frozen=True)
class Rows:
    """Directions [width] by block, and what is known of them.

    Attributes:
        tool: Whose layout it is.
        rows: By block.
        site: Where they act; None if the layout leaves it open.
        depth: Blocks of the model, if known.
        together: Whether they steer together; else one of several is meant to be chosen.
        notes: What reading them assumed or left out.
    """

    tool: str
    rows: Mapping[int, Tensor]
    site: Site | None = None
    depth: int | None = None
    together: bool = False
    notes: tuple[str, ...] = ()


def vector_of_rows(
    read: Rows, statement: Statement, operation: Operation | None, facts: Mapping[str, Any]
) -> SteeringVector:
    """The vector of directions by block; the facts go into its provenance.

    Raises:
        VectorError: One layer of several must be named, or what is said contradicts the file.
    """
    widths = sorted({len(row) for row in read.rows.values()})
    if len(widths) > 1:
        raise VectorError(f"its directions have the widths {widths}; one width is needed")
    if read.site is not None and statement.site not in (None, read.site):
        raise VectorError(
            f"it acts at {read.site}, and {statement.site} is said: leave the site out here; "
            f"-M site={statement.site} steers there instead"
        )
    # Front ends write zeros for the layers that they leave alone.
    rows = {layer: row for layer, row in read.rows.items() if row.any()} or dict(read.rows)
    zeros = [str(layer) for layer in sorted(read.rows) if layer not in rows]
    notes = list(read.notes)
    if zeros:
        notes.append(f"the directions of the layers {', '.join(zeros)} are zero and left out")
    rows, choice = (rows, {}) if read.together else _choose(rows, statement)
    layers = tuple(sorted(rows))
    # Of the file's own word for the operation the meaning is kept.
    facts = {key: value for key, value in facts.items() if key != "operation"}
    provenance = {**facts, **choice, "imported_from": read.tool}
    if notes:
        provenance["notes"] = notes
    if operation not in (None, "add"):
        provenance["operation"] = operation
    model = next((facts[key] for key in _MODEL_KEYS if isinstance(facts.get(key), str)), "")
    return SteeringVector(
        directions=torch.stack([rows[layer] for layer in layers])[:, None],
        layers=layers,
        site=read.site or statement.site or "resid_post",
        depth=read.depth,
        model=model,
        provenance=provenance,
    )


def _choose(
    rows: dict[int, Tensor], statement: Statement
) -> tuple[dict[int, Tensor], dict[str, Any]]:
    """Of directions for many layers, of which one is meant to be steered, those that are named."""
    layer = statement.layer
    if layer == "all" or len(rows) == 1:
        return rows, {"chosen_layers": "all"} if len(rows) > 1 else {}
    layers = [] if layer is None else [layer] if isinstance(layer, int) else list(layer)
    if not layers or not set(layers) <= set(rows):
        problem = "and none is chosen" if layer is None else f"and {layer!r} is none of them"
        example = str(sorted(rows)[len(rows) // 2])
        raise VectorError(
            f"it has a direction for each of the layers {', '.join(map(str, sorted(rows)))}, "
            f"{problem}: name the one to steer, as in {statement.remedy(layer=example)}, or all at "
            "once with --layer all"
        )
    choice = {"chosen_layers": layers} if len(layers) > 1 else {}
    return {number: rows[number] for number in layers}, choice


def direction(name: str, value: Any) -> Tensor:
    """A tensor as float32 [width].

    Raises:
        VectorError: It is no direction; the error calls it `name`.
    """
    tensor = tensor_in(value)
    if (
        not isinstance(tensor, Tensor)
        or tensor.layout != torch.strided
        or tensor.device.type == "meta"
        or not tensor.is_floating_point()
        or not 0 < tensor.numel() == max(tensor.shape, default=0)
    ):
        raise VectorError(f"its {name} is {kind_of(value)}; a tensor [width] is needed")
    return tensor.detach().cpu().float().reshape(-1).clone()


def tensor_in(value: Any) -> Any:
    """An array of numbers as a tensor; any other value as it is."""
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind == "f":
        native = np.float64 if value.dtype.itemsize == 8 else np.float32
        return torch.from_numpy(value.astype(native))
    return value


def number(key: str, value: Any) -> float:
    """A number, or a tensor with one.

    Raises:
        VectorError: It is none.
    """
    if isinstance(value, (Tensor, np.generic, np.ndarray)) and np.size(value) == 1:
        value = value.item()
    if type(value) not in (int, float):
        raise VectorError(f"its {key} is {shown(value)}; a number is needed")
    return float(value)


def facts_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says beside its tensors, in JSON values."""
    return {
        key: shown(value)
        for key, value in values.items()
        if not isinstance(tensor_in(value), Tensor) or not value.ndim
    }


def shown(value: Any) -> Any:
    """A JSON value that describes `value`."""
    if isinstance(value, (Tensor, np.generic, np.ndarray)) and np.size(value) == 1:
        value = value.item()
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): shown(item) for key, item in value.items()}
    return kind_of(value)


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype} {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in list(value)[:4])
        return f"a dict with the keys {keys}" if value else "an empty dict"
    return f"a {type(value).__name__}"
