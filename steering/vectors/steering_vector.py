"""A steering vector and its file.

Owns what is needed to apply a vector anywhere (directions, layers, site, norms, provenance) and the
safetensors file that carries it. Knows nothing of engines, options or how a vector is built.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from steering.errors import SteeringError
from steering.files import write_whole
from steering.vocabulary import Site

FORMAT = "steering-vector/2"
_DIRECTION, _MAP = "direction", "low-rank map"
# The tensors that a file of each form holds.
_FORMS = {_DIRECTION: {"directions"}, _MAP: {"directions", "reads", "offsets"}}


class VectorError(SteeringError):
    """A vector's file is missing, not ours, damaged, or does not fit the model."""


@dataclass(frozen=True)
class LowRankMap:
    """What makes a vector's directions answer to the activations h: h + B^T (A h + b).

    B are the vector's directions, what the map writes. The form is DiReFT's (arXiv 2404.03592).

    Attributes:
        reads: A, float32 [layers, rank, width].
        offsets: b, float32 [layers, rank].
        lengths: Mean L2 norm of B^T (A h + b) at each layer, over the tokens that the map was built
            on: the length that a plain vector has by itself.
    """

    reads: Tensor
    offsets: Tensor
    lengths: tuple[float, ...]


@dataclass(frozen=True)
class SteeringVector:
    """Direction(s) in activation space with all that is needed to apply them.

    Added at magnitude 1, a vector moves the activations at each of its layers by the sum of the
    layer's directions; a low-rank map by what it makes of the activations.

    Attributes:
        directions: Float32 [layers, rank, width].
        layers: Blocks, from 0, ascending: one for each entry of `directions`.
        site: Where in the block.
        residual_norms: Mean L2 norm of the residual stream at the site of each layer, over the
            tokens that the vector was built on; what `unit=residual` is a multiple of.
        map: What makes a low-rank map of the directions; None for a plain vector.
        model: Name of the model that it was built on; empty if nobody knows.
        depth: Number of blocks of that model, if known.
        provenance: How the vector was made (method, target, recipe, ...); JSON values.
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
                f"site {self.site!r} is not known; known: {', '.join(get_args(Site))}"
            )
        layers = self.layers
        if not all(type(layer) is int and layer >= 0 for layer in layers):
            raise VectorError(f"layers {list(layers)} are not blocks: blocks are counted from 0")
        if list(layers) != sorted(set(layers)) or len(layers) != len(self.directions):
            raise VectorError(
                f"layers {list(layers)} do not name {len(self.directions)} blocks in their order"
            )
        if not isinstance(self.model, str):
            raise VectorError(f"model {self.model!r} is no name")
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
        """How far magnitude 1 moves the activations at each layer, in L2 norm."""
        if self.map is not None:
            return self.map.lengths
        moved = self.directions.double().sum(1)
        return tuple(torch.linalg.vector_norm(moved, dim=-1).tolist())

    def at(self, layer: int) -> "SteeringVector":
        """The part of the vector that acts on one layer.

        Raises:
            VectorError: It has no such layer.
        """
        if layer not in self.layers:
            raise VectorError(
                f"the vector has nothing for layer {layer}: its layers are "
                f"{', '.join(map(str, self.layers))}"
            )
        index = self.layers.index(layer)
        here = slice(index, index + 1)
        norms, made = self.residual_norms, self.map
        return replace(
            self,
            directions=self.directions[here],
            layers=(layer,),
            residual_norms=None if norms is None else norms[here],
            map=None
            if made is None
            else LowRankMap(made.reads[here], made.offsets[here], made.lengths[here]),
        )

    def check_fits(self, *, width: int, num_layers: int, model: str) -> None:
        """Refuse a model of another width or depth.

        Raises:
            VectorError: It names both values.
        """
        again = "it was built on another model. Build one on this model"
        if self.width != width:
            raise VectorError(
                f"the vector has width {self.width}, {model} has width {width}: {again}"
            )
        if self.layers[-1] >= num_layers:
            raise VectorError(
                f"the vector is for layer {self.layers[-1]}, {model} has {num_layers} blocks "
                f"(0-{num_layers - 1}): {again}"
            )
        if self.depth not in (None, num_layers):
            raise VectorError(
                f"the vector is for a model of {self.depth} blocks, {model} has {num_layers}: "
                f"{again}"
            )

    def header(self) -> dict[str, Any]:
        """All that the file says beside the tensors, in JSON values."""
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
            "provenance": dict(self.provenance),
        }

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        tensors = {"directions": self.directions}
        if self.map is not None:
            tensors |= {"reads": self.map.reads, "offsets": self.map.offsets}
        write_whole(path, pack(FORMAT, self.header(), tensors))

    @classmethod
    def load(cls, path: Path) -> "SteeringVector":
        """Read a file that `save` wrote. Never executes code.

        Raises:
            VectorError: The file is missing, damaged, or holds something else.
        """
        if not path.is_file():
            raise VectorError(
                f"vector={path} is not a file. Give the path of a .safetensors steering vector, "
                "or leave vector= out to have the target's default vector built"
            )
        header, tensors = unpack(FORMAT, path)
        try:
            form, norms, made = header["form"], header["residual_norms"], None
            if form not in _FORMS or set(tensors) - _FORMS[form]:
                raise VectorError(
                    f"form {form!r} with the tensors {', '.join(sorted(tensors))} is not known; "
                    f"known: {', '.join(_FORMS)}"
                )
            if form == _MAP:
                lengths = tuple(header["lengths"])
                made = LowRankMap(tensors["reads"], tensors["offsets"], lengths)
            return cls(
                directions=tensors["directions"],
                layers=tuple(header["layers"]),
                site=header["site"],
                residual_norms=None if norms is None else tuple(norms),
                map=made,
                model=header["model"],
                depth=header["depth"],
                provenance=header["provenance"],
            )
        except KeyError as error:
            raise VectorError(f"{path} does not say its {error.args[0]}") from None
        except (VectorError, TypeError) as error:
            raise VectorError(f"{path} can't be used as a steering vector: {error}") from None


def _check_tensor(name: str, tensor: Tensor, ndim: int, shape: "torch.Size | None" = None) -> None:
    """Refuse what is no finite float32 tensor of this form."""
    wanted = "[layers, rank, width]" if ndim == 3 else "[layers, rank]"
    wrong = tensor.dtype != torch.float32 or tensor.ndim != ndim or 0 in tensor.shape
    if wrong or (shape is not None and tensor.shape != shape):
        of = "" if shape is None else f" of {list(shape)}"
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise VectorError(f"{name} are {found}; float32 {wanted}{of} is needed")
    if not torch.isfinite(tensor).all():
        raise VectorError(f"the {name} hold NaN or infinity: the vector must be built again")


def _check_lengths(name: str, values: tuple[float, ...], count: int) -> None:
    """Refuse what is not a positive number a layer."""
    good = len(values) == count and all(
        isinstance(value, (int, float)) and 0 < value < math.inf for value in values
    )
    if not good:
        raise VectorError(f"the {name} is {list(values)}; a positive number a layer is needed")


def pack(format: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of ours: its format, a JSON header, tensors, and a digest of it all.

    Args:
        format: Name and number of the format.
        header: JSON values.
        tensors: On any device.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header, sort_keys=True)
    metadata = {"format": format, "header": text, "sha256": _digest(text, kept)}
    return _sorted_header(save(kept, metadata))


def unpack(format: str, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and tensors of a file that `pack` made.

    Raises:
        VectorError: It is no such file, or a single bit of it has changed.
    """
    try:
        content = path.read_bytes()
        tensors = load(content)
        head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = head.get("__metadata__", {})
    except (SafetensorError, OSError, ValueError) as error:
        raise VectorError(
            f"{path} can't be read as {format}: it is cut off, damaged, or something else "
            f"({error}). Get it again, or build it again"
        ) from None
    if metadata.get("format") != format:
        found = metadata.get("format", "no format")
        raise VectorError(f"{path} holds {found}; {format} is needed")
    text, said = str(metadata.get("header")), str(metadata.get("sha256"))
    found = _digest(text, tensors)
    if found != said:
        raise VectorError(
            f"{path} is damaged: its content has the digest {found[:12]}, its header says "
            f"{said[:12]}. Get it again, or build it again"
        )
    try:
        header = json.loads(text)
    except ValueError as error:
        raise VectorError(f"{path} has a header that is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise VectorError(f"{path} has the header {text[:40]}; a JSON object is needed")
    return header, tensors


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sorted_header(content: bytes) -> bytes:
    """The same safetensors file with its header in order.

    The library writes metadata in a random order, and a vector's file is known by its digest.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the format keeps tensors aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + content[end:]
