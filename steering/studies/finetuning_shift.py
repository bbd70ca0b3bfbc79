"""What finetuning does to the residual stream, beside what a steering vector does to it.

The same tokens run through the base model, the finetuned one and the one that is steered at
magnitude 1; what the last two change, block by block, is compared. Runs on the model's thread.
Knows no files and no tables.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.engines._nnsight import Session
from steering.errors import SteeringError
from steering.models import LoadedModel
from steering.models.adapters import Adapter
from steering.training.examples import Batch, Tokens
from steering.training.probe import ModelProbe, chunks
from steering.vectors import SteeringVector
from steering.vectors.interventions import resolve

# Below this share of the longest, a direction of a basis is rounding.
_ROUNDING = 1e-6


class ShiftError(SteeringError):
    """There is nothing to compare."""


@dataclass(frozen=True)
class BlockShift:
    """What finetuning and a vector do to the residual stream after one block.

    Lengths are of mean shifts, in units of the residual stream's mean norm there. Cosines are NaN
    where one side has no shift, or no one direction.

    Attributes:
        layer: Block, from 0.
        finetuned: Length of the finetuned model's mean shift.
        steered: Length of the steered model's.
        steered_cosine: Cosine of the two.
        vector_cosine: Cosine of the finetuned mean shift and what the vector itself adds; NaN for a
            low-rank map, which adds no one direction.
        mean_explained: Share of the finetuned mean shift's energy inside the vector's subspace.
        tokens_explained: The same of the shifts of single tokens.
    """

    layer: int
    finetuned: float
    steered: float
    steered_cosine: float
    vector_cosine: float
    mean_explained: float
    tokens_explained: float


def measure_shift(
    loaded: LoadedModel,
    session: Session,
    items: Sequence[Tokens],
    adapter: Adapter,
    vectors: Mapping[str, SteeringVector],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, list[BlockShift]]:
    """Compare an adapter with vectors, block by block.

    Each exchange counts alike, whatever its length. Of an exchange the answer's tokens are looked
    at, without the end token; of one without an answer the prompt's last token.

    Args:
        loaded: The model.
        session: Its nnsight session.
        items: The exchanges that are read.
        adapter: What was finetuned.
        vectors: By name; they have the model's width.
        progress: Told how many exchanges of how many are done.

    Returns:
        For each vector a row a block, all of them.

    Raises:
        ShiftError: There is no exchange, or the adapter moves nothing.
    """
    if not items:
        raise ShiftError("there is nothing to read: give a target with examples, or questions")
    bench = ModelProbe(loaded, session, 0, "resid_post")
    edits = {name: resolve(vector) for name, vector in vectors.items()}
    sums = _Sums(loaded.shape.num_layers, vectors)
    done = 0
    for chunk in chunks(items):
        batch = bench.batch(chunk)
        tokens = _looked_at(batch, len(items))
        base = bench.residual_streams(batch)
        finetuned = bench.residual_streams(batch, adapter=adapter)
        sums.add_finetuned(base, finetuned, tokens)
        for name in vectors:
            sums.add_steered(name, base, bench.residual_streams(batch, edits[name]), tokens)
        done += len(chunk)
        progress(done, len(items))
    if not sums.energy.any():
        raise ShiftError("the adapter changes no activation at these tokens")
    return {name: sums.rows(name) for name in vectors}


@dataclass(frozen=True)
class _LookedAt:
    """Tokens of a batch: their places, and how much each counts [tokens] float64."""

    rows: Tensor
    columns: Tensor
    weights: Tensor


def _looked_at(batch: Batch, num_items: int) -> _LookedAt:
    """Padding is to the right, so a token's column is its position."""
    rows: list[int] = []
    columns: list[int] = []
    weights: list[float] = []
    for row, item in enumerate(batch.items):
        start = len(item.prompt) if item.answer else len(item.prompt) - 1
        stop = max(len(item) - 1, start + 1)
        rows += [row] * (stop - start)
        columns += range(start, stop)
        weights += [1 / ((stop - start) * num_items)] * (stop - start)
    device = batch.tokens.device
    return _LookedAt(
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(weights, dtype=torch.float64, device=device),
    )


class _Sums:
    """Weighted means over all tokens, float64 on the CPU."""

    def __init__(self, num_layers: int, vectors: Mapping[str, SteeringVector]) -> None:
        width = next(iter(vectors.values())).width
        self._layers = range(num_layers)
        self._vectors = vectors
        self._bases = {
            name: [_basis(vector, layer) for layer in self._layers]
            for name, vector in vectors.items()
        }
        self.energy = torch.zeros(num_layers, dtype=torch.float64)
        self._norms = torch.zeros_like(self.energy)
        self._finetuned = torch.zeros(num_layers, width, dtype=torch.float64)
        self._steered = {name: torch.zeros_like(self._finetuned) for name in vectors}
        self._inside = {name: torch.zeros_like(self.energy) for name in vectors}

    def add_finetuned(self, base: Tensor, finetuned: Tensor, tokens: _LookedAt) -> None:
        """Streams are [blocks, rows, tokens, width]; a block at a time, since float64 is large."""
        for layer in self._layers:
            before = base[layer, tokens.rows, tokens.columns].double()
            shift = finetuned[layer, tokens.rows, tokens.columns].double() - before
            self._norms[layer] += (tokens.weights @ before.norm(dim=-1)).cpu()
            self.energy[layer] += (tokens.weights @ shift.square().sum(-1)).cpu()
            self._finetuned[layer] += (tokens.weights @ shift).cpu()
            for name, bases in self._bases.items():
                inside = (shift @ bases[layer].to(shift.device).T).square().sum(-1)
                self._inside[name][layer] += (tokens.weights @ inside).cpu()

    def add_steered(self, name: str, base: Tensor, steered: Tensor, tokens: _LookedAt) -> None:
        """The same of a steered model."""
        for layer in self._layers:
            at = (layer, tokens.rows, tokens.columns)
            shift = steered[at].double() - base[at].double()
            self._steered[name][layer] += (tokens.weights @ shift).cpu()

    def rows(self, name: str) -> list[BlockShift]:
        """What came of a vector, a row a block."""
        vector = self._vectors[name]
        found = []
        for layer in self._layers:
            mean, steered = self._finetuned[layer], self._steered[name][layer]
            inside = (self._bases[name][layer] @ mean).square().sum()
            found.append(
                BlockShift(
                    layer,
                    finetuned=float(mean.norm() / self._norms[layer]),
                    steered=float(steered.norm() / self._norms[layer]),
                    steered_cosine=_cosine(mean, steered),
                    vector_cosine=_cosine(mean, _added(vector, layer)),
                    mean_explained=_share(inside, mean.square().sum()),
                    tokens_explained=_share(self._inside[name][layer], self.energy[layer]),
                )
            )
        return found


def _nearest(vector: SteeringVector, layer: int) -> SteeringVector:
    """The part of a vector that acts last up to a block; below all of them the first."""
    return vector.at(max((own for own in vector.layers if own <= layer), default=vector.layers[0]))


def _basis(vector: SteeringVector, layer: int) -> Tensor:
    """Orthonormal basis of the subspace of what the vector adds, float64 [rank, width]."""
    directions = _nearest(vector, layer).directions[0].double()
    _, lengths, basis = torch.linalg.svd(directions, full_matrices=False)
    return basis[lengths > _ROUNDING * lengths.max()]


def _added(vector: SteeringVector, layer: int) -> Tensor:
    """The one direction that a plain vector adds, float64 [width]; zeros for a low-rank map."""
    near = _nearest(vector, layer)
    moved = near.directions[0].double().sum(0)
    return moved if near.map is None else torch.zeros_like(moved)


def _cosine(one: Tensor, other: Tensor) -> float:
    lengths = one.norm() * other.norm()
    return float(one @ other / lengths) if lengths else math.nan


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole else math.nan
