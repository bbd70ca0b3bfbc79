"""A steering vector and its file.

Owns what is needed to apply a vector anywhere (directions, layer, site, norms, provenance) and the
safetensors file that carries it. Knows nothing of engines, options or how a vector is built.
"""

import hashlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from steering.errors import SteeringError
from steering.vocabulary import Site

FORMAT = "steering-vector/1"


class VectorError(SteeringError):
    """A vector's file is missing, not ours, damaged, or does not fit the model."""


@dataclass(frozen=True)
class SteeringVector:
    """Direction(s) in activation space with all that is needed to apply them.

    Attributes:
        directions: Float32, shape [rank, width].
        layer: Index of the block, from 0.
        site: Where in the block.
        residual_norm: Mean L2 norm of the residual stream at the site, over the tokens that the
            vector was built on; what `unit=residual` is a multiple of.
        provenance: How the vector was made (method, model, target, recipe, ...); JSON values.
    """

    directions: torch.Tensor
    layer: int
    site: Site
    residual_norm: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or not self.rank or self.directions.dtype != torch.float32:
            shape, dtype = list(self.directions.shape), self.directions.dtype
            raise VectorError(f"directions are {dtype} {shape}; float32 [rank, width] is needed")
        if not torch.isfinite(self.directions).all():
            raise VectorError("the directions hold NaN or infinity: the vector must be built again")
        if self.site not in get_args(Site):
            raise VectorError(
                f"site {self.site!r} is not known; known: {', '.join(get_args(Site))}"
            )
        if self.layer < 0:
            raise VectorError(f"layer {self.layer} is no block: blocks are counted from 0")
        norm: object = self.residual_norm
        if norm is not None and not (isinstance(norm, (int, float)) and 0 < norm < math.inf):
            raise VectorError(f"the residual norm is {norm!r}; a positive number or none is needed")
        if not isinstance(self.provenance, Mapping):
            raise VectorError(f"provenance is {self.provenance!r}; a mapping is needed")

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.directions.shape[0]

    @property
    def width(self) -> int:
        """Width of the residual stream that the vector belongs to."""
        return self.directions.shape[1]

    def check_fits(self, *, width: int, num_layers: int, model: str) -> None:
        """Refuse a model of another width or depth.

        Raises:
            VectorError: It names both values.
        """
        if self.width != width:
            raise VectorError(
                f"the vector has width {self.width}, {model} has width {width}: "
                "it was built on another model. Build one on this model"
            )
        if self.layer >= num_layers:
            raise VectorError(
                f"the vector is for layer {self.layer}, {model} has {num_layers} blocks "
                f"(0-{num_layers - 1}): it was built on another model. Build one on this model"
            )

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        metadata = {
            "format": FORMAT,
            "layer": str(self.layer),
            "site": self.site,
            "residual_norm": json.dumps(self.residual_norm),
            "provenance": json.dumps(dict(self.provenance), sort_keys=True),
        }
        content = save({"directions": self.directions.detach().cpu().contiguous()}, metadata)
        write_whole(path, _sorted_header(content))

    @classmethod
    def load(cls, path: Path) -> "SteeringVector":
        """Read a file that `save` wrote. Never executes code.

        Raises:
            VectorError: The file is missing, is no safetensors file, or holds something else.
        """
        if not path.is_file():
            raise VectorError(
                f"vector={path} is not a file. Give the path of a .safetensors steering vector, "
                "or leave vector= out to have the target's default vector built"
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    found = metadata.get("format", "no format")
                    raise VectorError(f"{path} holds {found}; {FORMAT} is needed")
                directions = file.get_tensor("directions")
        except (SafetensorError, OSError) as error:
            raise VectorError(f"{path} can't be read as a steering vector ({error})") from None
        try:
            return cls(
                directions=directions,
                layer=int(metadata["layer"]),
                site=metadata["site"],
                residual_norm=json.loads(metadata["residual_norm"]),
                provenance=json.loads(metadata["provenance"]),
            )
        except KeyError as error:
            raise VectorError(f"{path} does not say its {error.args[0]}") from None
        except (ValueError, VectorError) as error:
            raise VectorError(f"{path} can't be used as a steering vector: {error}") from None


def _sorted_header(content: bytes) -> bytes:
    """The same safetensors file with its header in order.

    The library writes metadata in a random order, and a vector's file is known by its digest.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the format keeps tensors aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header + content[end:]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` so that the file is there whole or not at all, whoever is killed when."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since only within one file system is a move all or nothing.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
