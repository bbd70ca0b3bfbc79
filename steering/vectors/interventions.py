"""The arithmetic of steering: what one edit of one row is, and what each operation computes.

Hidden states are [rows, tokens, width]. Owns the operations and the units; which rows and tokens of
a batch they act on is `steering.vectors.batch`'s. Never knows engines, tokenizers or files.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import SteeringError
from steering.vectors.steering_vector import SteeringVector
from steering.vocabulary import Operation, Positions, Site, Unit

# Directions that differ by less, relative to length 1, differ by rounding alone.
_SAME_DIRECTION = 1e-5


class InterventionError(SteeringError):
    """A vector can't be applied in the way that was asked for."""


@dataclass(frozen=True)
class Intervention:
    """One edit of one row at one site, with all units resolved.

    Attributes:
        basis: Float32 [rank, width]. For `add` the one direction, or what a low-rank map writes;
            else an orthonormal basis.
        amount: Multiplier of the direction or map for `add`; target projection for `clamp`, bound
            for `cap`, both in the residual stream's own units; unused by `ablate`.
        layer: Block, from 0.
        site: Where in the block.
        operation: What is done.
        positions: Which tokens.
        reads: Float32 [rank, width], what a low-rank map reads; None for all else.
        offsets: Float32 [rank], what it adds to that.
    """

    basis: Tensor
    amount: float
    layer: int
    site: Site
    operation: Operation
    positions: Positions
    reads: Tensor | None = None
    offsets: Tensor | None = None

    @property
    def on_prompt(self) -> bool:
        """Whether it acts while the prompt is read."""
        return self.positions != "response"

    @property
    def on_response(self) -> bool:
        """Whether it acts on generated tokens."""
        return self.positions in ("all", "response")

    @property
    def must_change(self) -> bool:
        """Whether an edit that leaves the activations as they are would be a fault."""
        return self.operation in ("ablate", "clamp") or (
            self.operation == "add" and self.amount != 0
        )


def check_width(vector: int, model: int) -> None:
    """Refuse a vector that is not as wide as the residual stream.

    Raises:
        InterventionError: It names both widths.
    """
    if vector != model:
        raise InterventionError(
            f"a vector of width {vector} can't steer a residual stream of width {model}"
        )


def resolve(
    vector: SteeringVector,
    *,
    magnitude: float = 1.0,
    unit: Unit = "raw",
    operation: Operation = "add",
    positions: Positions = "all",
    layer: int | None = None,
    site: Site | None = None,
) -> tuple[Intervention, ...]:
    """Turn a vector and the options of one condition into an edit for each of its layers.

    Args:
        vector: The vector.
        magnitude: Multiplier, in `unit`.
        unit: `raw`: of the stored vector; `norm`: of the vector scaled to length 1; `residual`: of
            the mean residual norm at the site.
        operation: What is done.
        positions: Which tokens.
        layer: The one layer to act on: of a vector with several, one of them; a vector with a
            single layer may be moved to any.
        site: Site to act on, if not the vector's own.

    Raises:
        InterventionError: The vector is zero, has a rank that the operation can't use, has
            directions that depend on each other, or lacks the norm that the unit needs at the
            place where it acts.
        VectorError: A vector of several layers has nothing for that one.
    """
    if layer is not None and len(vector.layers) > 1:
        vector = vector.at(layer)
    if operation in ("clamp", "cap") and (vector.rank != 1 or vector.map is not None):
        held = "a low-rank map" if vector.map is not None else f"{vector.rank} directions"
        raise InterventionError(
            f"operation={operation} takes one direction, this vector holds {held}: "
            "use operation=ablate or add, or a vector of rank 1"
        )
    if not all(vector.lengths) or not vector.directions.flatten(1).any(1).all():
        raise InterventionError("the vector is zero: it would steer nothing. Build it again")
    if unit == "residual" and vector.residual_norms is None:
        raise InterventionError(
            "unit=residual needs the mean residual norm, which this vector's file does not hold: "
            "use unit=raw or unit=norm"
        )
    if unit == "residual" and (
        site not in (None, vector.site) or layer not in (None, *vector.layers)
    ):
        layers = ", ".join(map(str, vector.layers))
        raise InterventionError(
            f"unit=residual is known only where the vector was built, layer {layers} "
            f"{vector.site}: use unit=raw or unit=norm elsewhere"
        )
    return tuple(
        _resolve_layer(vector.at(own), magnitude, unit, operation, positions, layer, site)
        for own in vector.layers
    )


def _resolve_layer(
    vector: SteeringVector,
    magnitude: float,
    unit: Unit,
    operation: Operation,
    positions: Positions,
    layer: int | None,
    site: Site | None,
) -> Intervention:
    """The edit of a vector of one layer."""
    [length], [directions] = vector.lengths, vector.directions
    [residual_norm] = vector.residual_norms or (0.0,)
    # Length, in the residual stream's own units, that a magnitude of 1 stands for.
    of_unit = {"raw": length, "norm": 1.0, "residual": residual_norm}[unit]
    amount = magnitude if unit == "raw" else magnitude * of_unit / length
    reads = offsets = None
    if operation != "add":
        basis, amount = _orthonormal(directions), magnitude * of_unit
    elif vector.map is None:
        basis = directions.sum(0, keepdim=True)
    else:
        basis, [reads], [offsets] = directions, vector.map.reads, vector.map.offsets
    return Intervention(
        basis=basis,
        amount=amount,
        layer=vector.layers[0] if layer is None else layer,
        site=vector.site if site is None else site,
        operation=operation,
        positions=positions,
        reads=reads,
        offsets=offsets,
    )


def _orthonormal(directions: Tensor) -> Tensor:
    """Orthonormal basis of the span, [rank, width]; a single direction keeps its sign."""
    if directions.shape[0] == 1:
        return (directions.double() / torch.linalg.vector_norm(directions.double())).float()
    units = torch.nn.functional.normalize(directions.double(), dim=1)
    spanned = int(torch.linalg.matrix_rank(units, rtol=_SAME_DIRECTION))
    if spanned < len(units):
        raise InterventionError(
            f"the vector's {len(units)} directions span only {spanned} dimensions, and the rest of "
            f"its basis would be arbitrary: build it with rank {spanned}"
        )
    return torch.linalg.qr(units.T)[0].T.float()


def _add(hidden: Tensor, basis: Tensor, amount: Tensor) -> Tensor:
    """h + amount * v (Turner et al., arXiv 2308.10248)."""
    return hidden + amount[:, None, None] * basis[:, :1]


def _ablate(hidden: Tensor, basis: Tensor, amount: Tensor) -> Tensor:
    """h - U^T U h, U orthonormal (Arditi et al., arXiv 2406.11717)."""
    return hidden - _projection(hidden, basis) @ basis


def _clamp(hidden: Tensor, basis: Tensor, amount: Tensor) -> Tensor:
    """h + (amount - u.h) u: the projection becomes `amount`."""
    return hidden + (amount[:, None, None] - _projection(hidden, basis)) @ basis


def _cap(hidden: Tensor, basis: Tensor, amount: Tensor) -> Tensor:
    """h + min(amount - u.h, 0) u: the projection becomes at most `amount` (arXiv 2601.10387)."""
    return hidden + (amount[:, None, None] - _projection(hidden, basis)).clamp(max=0) @ basis


def low_rank_map(
    hidden: Tensor, basis: Tensor, amount: Tensor, reads: Tensor, offsets: Tensor
) -> Tensor:
    """h + amount * B^T (A h + b): `reads` is A, `offsets` b (DiReFT, arXiv 2404.03592)."""
    return hidden + amount[:, None, None] * (_projection(hidden, reads) + offsets[:, None]) @ basis


def _projection(hidden: Tensor, basis: Tensor) -> Tensor:
    return hidden @ basis.transpose(1, 2)


# (hidden [rows, tokens, width], basis [rows, rank, width], amount [rows]) -> hidden, in float32
OPERATIONS: dict[Operation, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "add": _add,
    "ablate": _ablate,
    "clamp": _clamp,
    "cap": _cap,
}
