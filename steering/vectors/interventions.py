"""The arithmetic of steering: one intervention on one sequence, and what each operation computes.

Hidden states are [rows, tokens, width]. Owns the operations and the units; `steering.vectors.batch`
owns which rows and tokens of a batch they act on. Never knows engines, tokenizers or files.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.vectors.errors import VectorError
from steering.vectors.steering_vector import SteeringVector
from steering.vocabulary import Operation, Positions, Site, Unit

# Directions of length 1 that differ by less than this differ by rounding alone.
_SAME_DIRECTION = 1e-5


@dataclass(frozen=True)
class Intervention:
    """One operation at one site, with all units resolved.

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
        offsets: Float32 [rank], what a low-rank map adds to what it reads.
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
        """Whether activations that stay as they are show a fault."""
        return self.operation in ("ablate", "clamp") or (
            self.operation == "add" and self.amount != 0
        )


def check_width(vector: int, model: int) -> None:
    """Raise a VectorError for a vector that is not as wide as the residual stream."""
    if vector != model:
        raise VectorError(
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
    """Turn a vector and the options of one condition into an intervention for each of its layers.

    Args:
        vector: The vector.
        magnitude: Multiplier, in `unit`.
        unit: `raw`: of the stored vector; `norm`: of the vector scaled to length 1; `residual`: of
            the residual norm at the site.
        operation: As in `Intervention`.
        positions: As in `Intervention`.
        layer: The one layer to act on: of a vector with several, one of them; a vector with a
            single layer may be moved to any.
        site: Site to act on, if not the vector's own.

    Raises:
        VectorError: The vector is zero, has a rank that the operation can't use, has directions
            that depend on each other, lacks the norm that the unit needs at the place where it
            acts, or has several layers and not that one.
    """
    if layer is not None and len(vector.layers) > 1:
        vector = vector.at(layer)
    if operation in ("clamp", "cap") and (vector.rank != 1 or vector.map is not None):
        content = "a low-rank map" if vector.map is not None else f"{vector.rank} directions"
        raise VectorError(
            f"operation={operation} takes one direction, this vector holds {content}: "
            "use operation=ablate or add, or a vector of rank 1"
        )
    _check_not_zero(vector)
    if unit == "residual" and vector.residual_norms is None:
        raise VectorError(
            "unit=residual needs the residual norm, which this vector's file does not hold (those "
            "of files of earlier versions, over all tokens, are left out): measure it with "
            "`steering convert IN OUT --model NAME`, build the vector again, or use unit=raw or "
            "unit=norm"
        )
    if unit == "residual" and (
        site not in (None, vector.site) or layer not in (None, *vector.layers)
    ):
        layers = ", ".join(map(str, vector.layers))
        raise VectorError(
            f"unit=residual is known only where the vector was built, layer {layers} "
            f"{vector.site}: use unit=raw or unit=norm elsewhere"
        )
    interventions = []
    norms = vector.residual_norms
    for index, own_layer in enumerate(vector.layers):
        directions, length = vector.directions[index], vector.lengths[index]
        # Length, in the residual stream's own units, that a magnitude of 1 stands for.
        of_unit = {"raw": length, "norm": 1.0, "residual": norms[index] if norms else 0.0}[unit]
        amount = magnitude if unit == "raw" else magnitude * of_unit / length
        basis, reads, offsets = directions, None, None
        if operation != "add":
            basis, amount = _orthonormal(directions), magnitude * of_unit
        elif vector.map is None:
            basis = directions.sum(0, keepdim=True)
        else:
            reads, offsets = vector.map.reads[index], vector.map.offsets[index]
        interventions.append(
            Intervention(
                basis=basis,
                amount=amount,
                layer=own_layer if layer is None else layer,
                site=vector.site if site is None else site,
                operation=operation,
                positions=positions,
                reads=reads,
                offsets=offsets,
            )
        )
    return tuple(interventions)


def _check_not_zero(vector: SteeringVector) -> None:
    moves = [
        bool(length) and bool(directions.any())
        for length, directions in zip(vector.lengths, vector.directions, strict=True)
    ]
    if all(moves):
        return
    layers = [layer for layer, moved in zip(vector.layers, moves, strict=True) if moved]
    if not layers:
        raise VectorError("the vector is zero: it would steer nothing. Build it again")
    zeros = [str(layer) for layer in vector.layers if layer not in layers]
    raise VectorError(
        f"the vector is zero at the layers {', '.join(zeros)}: name another with -M "
        f"layer={layers[0]}, or leave them out with `steering convert IN OUT --layer {layers[0]}`"
    )


def _orthonormal(directions: Tensor) -> Tensor:
    """Orthonormal basis of the span, [rank, width]; a single direction keeps its sign."""
    if directions.shape[0] == 1:
        return (directions.double() / torch.linalg.vector_norm(directions.double())).float()
    units = torch.nn.functional.normalize(directions.double(), dim=1)
    dimensions = int(torch.linalg.matrix_rank(units, rtol=_SAME_DIRECTION))
    if dimensions < len(units):
        raise VectorError(
            f"the vector's {len(units)} directions span only {dimensions} dimensions, and the rest "
            f"of its basis would be arbitrary: build it with rank {dimensions}"
        )
    return torch.linalg.qr(units.T)[0].T.float()


# What is added to activations h is strengths times the basis, s B. The strengths s [rows, tokens,
# rank] follow from the amount and from p: h B^T, of a low-rank map A h + b, of a plain addition 1.
OPERATIONS: dict[Operation, Callable[[Tensor, Tensor], Tensor]] = {
    # h + amount * v (Turner et al., arXiv 2308.10248); of a map h + amount * B^T (A h + b) (DiReFT,
    # arXiv 2404.03592).
    "add": lambda p, amount: amount * p,
    # h - B^T B h, B orthonormal (Arditi et al., arXiv 2406.11717).
    "ablate": lambda p, amount: -p,
    # h + (amount - u.h) u: the projection becomes the amount.
    "clamp": lambda p, amount: amount - p,
    # h + min(amount - u.h, 0) u: the projection becomes at most the amount (arXiv 2601.10387).
    "cap": lambda p, amount: (amount - p).clamp(max=0),
}


def change(
    operation: Operation,
    hidden: Tensor,
    basis: Tensor,
    amount: Tensor,
    reads: Tensor | None,
    offsets: Tensor | None,
) -> Tensor:
    """What an operation adds to activations.

    Args:
        operation: What is done.
        hidden: Float32 [rows, tokens, width].
        basis: [rows, rank, width].
        amount: [rows].
        reads: [rows, rank, width], what the activations are projected on; None for a plain
            addition, which does not depend on them.
        offsets: [rows, rank], added to the projections of a low-rank map.

    Returns:
        Float32 [rows, tokens, width]; of a plain addition [rows, 1, width].
    """
    amount = amount[:, None, None]
    projection = torch.ones_like(amount) if reads is None else hidden @ reads.transpose(1, 2)
    if offsets is not None:
        projection = projection + offsets[:, None]
    return OPERATIONS[operation](projection, amount) @ basis
