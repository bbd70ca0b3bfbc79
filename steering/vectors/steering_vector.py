"""A steering vector and its file.

Owns what is needed to apply a vector anywhere (directions, layers, site, norms, provenance) and the
safetensors file that carries it. Knows no engines, options or methods of building.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from steering.files import write_whole
from steering.vectors.errors import VectorError
from steering.vectors.packed import pack, unpack
from steering.vocabulary import RESIDUAL_NORM, Site

FORMAT = "steering-vector/2"
OLD_NORMS = (
    "its residual norms are of an earlier version, over all tokens with attention sinks, and are "
    "left out: build the vector again to use unit=residual"
)
_DIRECTION, _MAP = "direction", "low-rank map"
# The tensors of each form.
_FORMS = {_DIRECTION: {"directions"}, _MAP: {"directions", "reads", "offsets"}}


@dataclass(frozen=True)
class LowRankMap:
    """Makes what a vector adds depend on the activations h: h + B^T (A h + b).

    B are the vector's directions, which the map writes. The form is DiReFT's (arXiv 2404.03592).

    Attributes:
        reads: A, float32 [layers, rank, width].
        offsets: b, float32 [layers, rank].
        lengths: Mean L2 norm of B^T (A h + b) at each layer, over the tokens of the residual norm.
            It corresponds to the length of a plain vector.
    """

    reads: Tensor
    offsets: Tensor
    lengths: tuple[float, ...]


@dataclass(frozen=True)
class SteeringVector:
    """Direction(s) in activation space with all that is needed to apply them.

    At magnitude 1, a vector adds the sum of a layer's directions to the activations there; a
    low-rank map adds a function of the activations.

    Attributes:
        directions: Float32 [layers, rank, width].
        layers: Blocks, from 0, ascending: one for each entry of `directions`.
        site: Where in the block.
        residual_norms: Mean L2 norm of the residual stream at the site of each layer, over answer
            tokens, attention sinks left out (`steering.vectors.norms`); what `unit=residual` is a
            multiple of.
        map: The rest of a low-rank map; None for a plain vector.
        model: Name of the model that it was built on; empty if unknown.
        depth: Number of blocks of that model, if known.
        provenance: How the vector was built (method, target, recipe, ...); JSON values.
    """

    directions: Tensor
    layers: tuple[int, ...]
    site: Site
    residual_norms: tuple[float, ...] | None = None
    map: LowRankMap | None = None
    model: str = ""
    depth: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_tensor("directions", self.directions, 3)
        if self.site not in get_args(Site):
            raise VectorError(
                f"site {self.site!r} is unknown. Allowed: {', '.join(get_args(Site))}"
            )
        layers = self.layers
        if not all(type(layer) is int and layer >= 0 for layer in layers):
            raise VectorError(f"layers {list(layers)} are not blocks: blocks are numbered from 0")
        if list(layers) != sorted(set(layers)) or len(layers) != len(self.directions):
            raise VectorError(
                f"layers {list(layers)} are not {len(self.directions)} blocks in ascending order"
            )
        if not isinstance(self.model, str):
            raise VectorError(f"model {self.model!r} is not a name")
        if self.depth is not None and (type(self.depth) is not int or layers[-1] >= self.depth):
            raise VectorError(f"layer {layers[-1]} is not in a model of {self.depth!r} blocks")
        if self.residual_norms is not None:
            _check_lengths("residual norm", self.residual_norms, len(layers))
        if self.map is not None:
            _check_tensor("reads", self.map.reads, 3, self.directions.shape)
            _check_tensor("offsets", self.map.offsets, 2, self.directions.shape[:2])
            _check_lengths("length", self.map.lengths, len(layers))
        if not isinstance(self.provenance, Mapping):
            raise VectorError(f"provenance is {self.provenance!r}; a mapping is needed")

    @property
    def rank(self) -> int:
        """Number of directions a layer."""
        return self.directions.shape[1]

    @property
    def width(self) -> int:
        """Width of the residual stream that the vector belongs to."""
        return self.directions.shape[2]

    @property
    def lengths(self) -> tuple[float, ...]:
        """L2 norm of what magnitude 1 adds to the activations at each layer."""
        if self.map is not None:
            return self.map.lengths
        total = self.directions.double().sum(1)
        return tuple(torch.linalg.vector_norm(total, dim=-1).tolist())

    def at(self, layer: int) -> "SteeringVector":
        """The part of the vector that acts on one layer.

        Raises:
            VectorError: It has no such layer.
        """
        if layer not in self.layers:
            raise VectorError(
                f"the vector does not act on layer {layer}: its layers are "
                f"{', '.join(map(str, self.layers))}"
            )
        index = self.layers.index(layer)
        here = slice(index, index + 1)
        norms, full = self.residual_norms, self.map
        if full is not None:
            full = LowRankMap(full.reads[here], full.offsets[here], full.lengths[here])
        return replace(
            self,
            directions=self.directions[here],
            layers=(layer,),
            residual_norms=None if norms is None else norms[here],
            map=full,
        )

    def without_zeros(self) -> "SteeringVector":
        """The vector without the layers whose directions are zero, unless all of them are."""
        rows = [index for index, row in enumerate(self.directions) if row.any()]
        if len(rows) in (0, len(self.layers)):
            return self
        zeros = [str(self.layers[i]) for i in range(len(self.layers)) if i not in rows]
        norms, full = self.residual_norms, self.map
        if full is not None:
            lengths = tuple(full.lengths[i] for i in rows)
            full = LowRankMap(full.reads[rows], full.offsets[rows], lengths)
        notes = self.provenance.get("notes")
        note = f"the directions of the layers {', '.join(zeros)} are zero and left out"
        return replace(
            self,
            directions=self.directions[rows],
            layers=tuple(self.layers[i] for i in rows),
            residual_norms=None if norms is None else tuple(norms[i] for i in rows),
            map=full,
            provenance={
                **self.provenance,
                "notes": [*(notes if isinstance(notes, list) else []), note],
            },
        )

    def scaled(self, magnitude: float) -> "SteeringVector":
        """The vector that does at magnitude 1 what this one does at `magnitude`.

        Raises:
            VectorError: The magnitude is not above 0.
        """
        if not 0 < magnitude < math.inf:
            raise VectorError(f"magnitude {magnitude:g} can't be folded in: give one above 0")
        full = self.map
        if full is not None:
            full = replace(full, lengths=tuple(magnitude * length for length in full.lengths))
        return replace(
            self,
            directions=magnitude * self.directions,
            map=full,
            provenance=dict(self.provenance) | {"scaled": magnitude},
        )

    def check_fits(self, *, width: int, num_layers: int, model: str) -> None:
        """Refuse a model of another width or depth.

        Raises:
            VectorError: It names both values.
        """
        remedy = "it is of another model. Give a vector of this model, or the vector's model"
        if self.width != width:
            raise VectorError(
                f"the vector has width {self.width}, {model} has width {width}: {remedy}"
            )
        if self.layers[-1] >= num_layers:
            raise VectorError(
                f"the vector is for layer {self.layers[-1]}, {model} has {num_layers} blocks "
                f"(0-{num_layers - 1}): {remedy}"
            )
        if self.depth not in (None, num_layers):
            raise VectorError(
                f"the vector is for a model of {self.depth} blocks, {model} has {num_layers}: "
                f"{remedy}"
            )

    def header(self) -> dict[str, Any]:
        """The file's content beside the tensors, in JSON values."""
        return {
            "model": self.model,
            "depth": self.depth,
            "width": self.width,
            "layers": list(self.layers),
            "site": self.site,
            "rank": self.rank,
            "form": _DIRECTION if self.map is None else _MAP,
            "lengths": list(self.lengths),
            "residual_norms": None if self.residual_norms is None else list(self.residual_norms),
            "norm_kind": None if self.residual_norms is None else RESIDUAL_NORM,
            "provenance": dict(self.provenance),
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file atomically."""
        tensors = {"directions": self.directions}
        if self.map is not None:
            tensors |= {"reads": self.map.reads, "offsets": self.map.offsets}
        write_whole(Path(path), pack(FORMAT, self.header(), tensors))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "SteeringVector":
        """Read a file that `save` wrote. Never executes code.

        `steering.read_vector` reads those of other tools too.

        Raises:
            VectorError: The file is missing, damaged, or not a steering vector.
        """
        path = Path(path)
        if not path.is_file():
            raise VectorError(
                f"{path} is not a file: give the path of a .safetensors steering vector"
            )
        header, tensors = unpack(FORMAT, path)
        try:
            form, low_rank_map = header["form"], None
            norms, provenance = norms_in(header)
            if form not in _FORMS or set(tensors) - _FORMS[form]:
                raise VectorError(
                    f"form {form!r} with the tensors {', '.join(sorted(tensors))} is unknown. "
                    f"Allowed: {', '.join(_FORMS)}"
                )
            if form == _MAP:
                lengths = tuple(header["lengths"])
                low_rank_map = LowRankMap(tensors["reads"], tensors["offsets"], lengths)
            return cls(
                directions=tensors["directions"],
                layers=tuple(header["layers"]),
                site=header["site"],
                residual_norms=norms,
                map=low_rank_map,
                model=header["model"],
                depth=header["depth"],
                provenance=provenance,
            )
        except KeyError as error:
            raise VectorError(f"{path} has no {error.args[0]} in its header") from None
        except (VectorError, TypeError) as error:
            raise VectorError(f"{path} can't be used as a steering vector: {error}") from None


def norms_in(header: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, Mapping[str, Any]]:
    """The residual norms in a file's header, and its provenance.

    Norms of another kind are left out, since `unit=residual` would mean another length; the
    provenance then has a note that says so. The vector itself is as good as before.
    """
    norms, provenance = header["residual_norms"], header["provenance"]
    if norms is None:
        return None, provenance
    if header.get("norm_kind") == RESIDUAL_NORM:
        return tuple(norms), provenance
    if isinstance(provenance, dict):
        notes = provenance.get("notes")
        notes = notes if isinstance(notes, list) else []
        provenance = provenance | {"notes": [*notes, OLD_NORMS]}
    return None, provenance


def _check_tensor(name: str, tensor: Tensor, ndim: int, shape: "torch.Size | None" = None) -> None:
    """Refuse anything but a finite float32 tensor of this shape."""
    wanted = "[layers, rank, width]" if ndim == 3 else "[layers, rank]"
    wrong = tensor.dtype != torch.float32 or tensor.ndim != ndim or 0 in tensor.shape
    if wrong or (shape is not None and tensor.shape != shape):
        of = "" if shape is None else f" of {list(shape)}"
        raise VectorError(
            f"{name} are {tensor.dtype} {list(tensor.shape)}; float32 {wanted}{of} is needed"
        )
    if not torch.isfinite(tensor).all():
        raise VectorError(f"the {name} contain NaN or infinity: build the vector again")


def _check_lengths(name: str, values: tuple[float, ...], count: int) -> None:
    """Refuse anything but a positive number for each layer."""
    good = len(values) == count and all(
        isinstance(value, (int, float)) and 0 < value < math.inf for value in values
    )
    if not good:
        raise VectorError(
            f"the {name} is {list(values)}; a positive number for each layer is needed"
        )
