"""The subspace that a set of steering vectors spans: how many directions it has, and which.

Owns the arithmetic on sets of vectors: their directions as rows [n, width], cosines, spectrum,
principal directions, projections. All in float64. Nothing is centred: the origin is the unsteered
model, and centring would remove the direction that the vectors share. Knows no files, models or
engines; its results are `SteeringVector`s again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from steering.vectors.errors import VectorError
from steering.vectors.steering_vector import LowRankMap, SteeringVector

# Relative to a length. Vectors are stored in float32: anything smaller is rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Stack:
    """The directions of a set of vectors, a row each.

    Attributes:
        rows: Float64 [n, width], as they are stored in the vectors.
        names: Name of each row.
        vectors: By name.
        digests: SHA-256 of the vectors' files by name, of those that are known.
    """

    rows: Tensor
    names: tuple[str, ...]
    vectors: Mapping[str, SteeringVector]
    digests: Mapping[str, str] = field(default_factory=dict)

    def scaled(self, normalise: bool) -> Tensor:
        """The rows, scaled to length 1 if `normalise` says so."""
        return torch.nn.functional.normalize(self.rows, dim=1, eps=0) if normalise else self.rows


def stack(vectors: Mapping[str, SteeringVector], digests: Mapping[str, str] | None = None) -> Stack:
    """Stack the directions of all vectors, layer by layer.

    A low-rank map gives a row for each direction that it writes; the directions that it reads are
    left out.

    Args:
        vectors: By name. A row has its vector's name, with its layer and the number of its
            direction where the vector has several.
        digests: As in `Stack`.

    Raises:
        VectorError: There are none, they are not of one model, or a direction is zero.
    """
    if not vectors:
        raise VectorError("there are no vectors: give one at least")
    checked: dict[str, SteeringVector] = {}
    for name, vector in vectors.items():
        _check_alike(checked, name, vector)
        checked[name] = vector
    names = [name for owner, vector in vectors.items() for name in _row_names(owner, vector)]
    rows = torch.cat([vector.directions.flatten(0, 1) for vector in vectors.values()]).double()
    for name, row in zip(names, rows, strict=True):
        if not row.any():
            raise VectorError(f"{name} is zero and has no direction: leave it out")
    return Stack(rows, tuple(names), checked, dict(digests or {}))


@dataclass(frozen=True)
class Spectrum:
    """How the energy (sum of squares) of a stack is spread over its principal directions.

    Attributes:
        values: Singular values, float64 [min(n, width)], largest first.
    """

    values: Tensor

    @cached_property
    def shares(self) -> Tensor:
        """Share of the energy along each principal direction."""
        return self.values.square() / self.values.square().sum()

    @cached_property
    def cumulative(self) -> Tensor:
        """Share of the energy within the first principal directions, 1 to all."""
        return self.shares.cumsum(0)

    @property
    def dimensions(self) -> int:
        """Number of directions that are more than rounding."""
        return int((self.values > _ROUNDING * self.values[0]).sum())

    def needed(self, share: float) -> int:
        """The fewest principal directions that hold this share of the energy."""
        return min(int((self.cumulative < share - _ROUNDING).sum()) + 1, len(self.values))


def spectrum(stack: Stack, normalise: bool = True) -> Spectrum:
    """Singular values of the rows, uncentred.

    With `normalise` each row has length 1, so that long vectors weigh no more than short ones.
    """
    return Spectrum(torch.linalg.svdvals(stack.scaled(normalise)))


def cosines(stack: Stack) -> Tensor:
    """Cosines between all rows, float64 [n, n]."""
    units = stack.scaled(True)
    return (units @ units.T).clamp(-1, 1).fill_diagonal_(1)


@dataclass(frozen=True)
class Basis:
    """The first principal directions of a stack.

    Attributes:
        directions: Float64 [k, width], orthonormal, the one with the most energy first.
        shares: Share of the stack's energy along each, float64 [k].
        stack: The rows that it was computed from.
        normalise: Whether the stack's rows were scaled to length 1.
    """

    directions: Tensor
    shares: Tensor
    stack: Stack
    normalise: bool

    @property
    def rank(self) -> int:
        return len(self.directions)

    def facts(self) -> dict[str, Any]:
        """The vectors that it was computed from, in JSON values, for the provenance of results."""
        names, digests = self.stack.vectors, self.stack.digests
        return {
            "top": self.rank,
            "of": [{"name": name, "sha256": digests.get(name)} for name in names],
            "rows": "scaled to length 1" if self.normalise else "as stored",
        }

    def vector(self) -> SteeringVector:
        """The basis as a vector of rank k: `operation=ablate` removes the whole subspace.

        Its directions have length 1 and are the same at every layer that the stack's vectors have.
        Its residual norms are the means of the vectors', if all of them have residual norms.

        Raises:
            VectorError: The stack's vectors are for several sites.
        """
        vectors = self.stack.vectors
        sites = {vector.site: name for name, vector in vectors.items()}
        if len(sites) > 1:
            places = ", ".join(f"{name} at {site}" for site, name in sites.items())
            raise VectorError(
                f"the vectors are for several sites ({places}), and a basis has one: give vectors "
                "of one site"
            )
        members = list(vectors.values())
        layers = tuple(sorted({layer for vector in members for layer in vector.layers}))
        targets = {vector.provenance.get("target") for vector in members}
        target = {"target": targets.pop()} if len(targets) == 1 and None not in targets else {}
        facts = self.facts() | {"energy_shares": self.shares.tolist()}
        return SteeringVector(
            directions=self.directions.float().expand(len(layers), -1, -1),
            layers=layers,
            site=members[0].site,
            residual_norms=_norms(members, layers),
            model=next((vector.model for vector in members if vector.model), ""),
            depth=next((vector.depth for vector in members if vector.depth is not None), None),
            provenance={"method": "principal directions", **target, "principal": facts},
        )


def principal(stack: Stack, k: int, normalise: bool = True) -> Basis:
    """The k orthonormal directions that hold the most of the rows' energy.

    The sign of each is the one at which most rows project positively; in a tie, the one at which
    the sum of the projections is positive. Directions of equal energy are any basis of their span.
    `normalise` is as for `spectrum`.

    Raises:
        VectorError: The rows span fewer dimensions.
    """
    _, values, axes = torch.linalg.svd(stack.scaled(normalise), full_matrices=False)
    spectrum = Spectrum(values)
    if not 1 <= k <= spectrum.dimensions:
        raise VectorError(
            f"there are no top {k} directions: the vectors' {len(stack.rows)} directions span "
            f"{spectrum.dimensions} dimensions. Ask for 1 to {spectrum.dimensions}"
        )
    axes = axes[:k] * _signs(axes[:k], stack.scaled(True))[:, None]
    return Basis(axes, spectrum.shares[:k], stack, normalise)


def kept_energy(vector: SteeringVector, basis: Basis) -> float:
    """Share of the squared length of a vector's directions that lies in the basis's span.

    A random direction has k / width on average. The n rows that a basis was computed from keep
    k / n or more of their energy on average, related or not.

    Raises:
        VectorError: The vector is not of the basis's model, or it is zero.
    """
    return _kept(vector.directions.double(), _projection(vector, basis))


def project(vector: SteeringVector, basis: Basis) -> SteeringVector:
    """The vector with each of its directions replaced by its projection on the basis's span.

    Layers, site and residual norms stay. The provenance gets the basis and the share of energy that
    was kept, under `projected`; the digest of the vector's recipe moves there too, since that
    recipe no longer builds the vector. Of a low-rank map, the directions that it writes are
    projected.

    Raises:
        VectorError: The vector is not of the basis's model; it has no part in the span at one of
            its layers; or it is a low-rank map of several directions that would change, since the
            length of the result can be measured only on the model.
    """
    directions = vector.directions.double()
    projected = _projection(vector, basis)
    energy = _kept(directions, projected)
    for layer, before, after in zip(vector.layers, directions, projected, strict=True):
        moved = after if vector.map is not None else after.sum(0)
        if moved.norm() <= _ROUNDING * before.norm():
            raise VectorError(
                f"the vector has no part in the {basis.rank} directions at layer {layer}: it is "
                "orthogonal to them. Project on more directions"
            )
    low_rank_map = None if vector.map is None else _projected_map(vector.map, directions, projected)
    provenance = dict(vector.provenance)
    facts = basis.facts() | {"kept_energy": energy}
    for key, new_key in (("recipe", "recipe"), ("projected", "earlier")):
        if key in provenance:
            facts[new_key] = provenance.pop(key)
    provenance["projected"] = facts
    return replace(vector, directions=projected.float(), map=low_rank_map, provenance=provenance)


def truncate(basis: Basis) -> dict[str, SteeringVector]:
    """Each of the vectors that a basis was computed from, by name, projected on it.

    Raises:
        VectorError: As for `project`; it names the vector.
    """
    projections = {}
    for name, vector in basis.stack.vectors.items():
        try:
            projections[name] = project(vector, basis)
        except VectorError as error:
            raise VectorError(f"{name}: {error}") from None
    return projections


def _check_alike(others: Mapping[str, SteeringVector], name: str, vector: SteeringVector) -> None:
    """Refuse a vector of another model than the others'."""
    for other_name, other in others.items():
        facts = {
            "width": (other.width, vector.width),
            "depth": (other.depth, vector.depth),
            "model": (other.model, vector.model),
        }
        # One model may have several names: an alias, its hub id, a folder.
        weights = other.provenance.get("weights")
        if weights is not None and weights == vector.provenance.get("weights"):
            del facts["model"]
        for what, values in facts.items():
            if values[0] != values[1] and all(values):
                raise VectorError(
                    f"{other_name} has {what} {values[0]}, {name} has {what} {values[1]}: "
                    "activations of two models can't be compared. Give vectors of one model"
                )


def _row_names(owner: str, vector: SteeringVector) -> list[str]:
    layers = [f" layer {layer}" if len(vector.layers) > 1 else "" for layer in vector.layers]
    numbers = [f" direction {number}" if vector.rank > 1 else "" for number in range(vector.rank)]
    return [f"{owner}{layer}{number}" for layer in layers for number in numbers]


def _signs(axes: Tensor, units: Tensor) -> Tensor:
    """1 or -1 for each axis [k, width]: a vote of the rows [n, width] of length 1."""
    along = axes @ units.T
    along[along.abs() < _ROUNDING] = 0
    total = along.sum(1)
    total[total.abs() < _ROUNDING] = 0
    # Decides where the rows leave a tie.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))[:, 0]
    votes = along.sign().sum(1)
    votes = torch.where(votes == 0, total, votes)
    return torch.where(votes == 0, largest, votes).sign()


def _norms(vectors: Sequence[SteeringVector], layers: Sequence[int]) -> tuple[float, ...] | None:
    """Mean residual norm at each layer; None if a vector has none."""
    norms: dict[int, list[float]] = {layer: [] for layer in layers}
    for vector in vectors:
        if vector.residual_norms is None:
            return None
        for layer, norm in zip(vector.layers, vector.residual_norms, strict=True):
            norms[layer].append(norm)
    return tuple(sum(values) / len(values) for values in norms.values())


def _projection(vector: SteeringVector, basis: Basis) -> Tensor:
    """Float64 [layers, rank, width]; a projection within rounding of zero is zero."""
    _check_alike(basis.stack.vectors, "the vector", vector)
    directions = vector.directions.double()
    projected = directions @ basis.directions.T @ basis.directions
    # Otherwise a user could scale rounding errors up to a direction.
    nothing = projected.norm(dim=-1) <= _ROUNDING * directions.norm(dim=-1)
    return projected.masked_fill(nothing[..., None], 0)


def _kept(directions: Tensor, projected: Tensor) -> float:
    energy = directions.square().sum()
    if not energy:
        raise VectorError("the vector is zero: there is nothing to keep. Build it again")
    return min(float(projected.square().sum() / energy), 1.0)


def _projected_map(full: LowRankMap, before: Tensor, after: Tensor) -> LowRankMap:
    """The map with its new length, where that follows from the directions."""
    if before.shape[1] == 1:
        shares = (after.norm(dim=-1) / before.norm(dim=-1))[:, 0].tolist()
        lengths = [length * share for length, share in zip(full.lengths, shares, strict=True)]
        return replace(full, lengths=tuple(lengths))
    if ((after - before).norm(dim=-1) > _ROUNDING * before.norm(dim=-1)).any():
        raise VectorError(
            f"a low-rank map of rank {before.shape[1]} does not lie in the subspace, and how far "
            "its projection moves activations can be measured only on the model: build it with a "
            "lower rank instead, or write the basis alone (--basis-only)"
        )
    return full
