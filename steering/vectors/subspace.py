"""The subspace that a set of steering vectors spans: how many directions it has, and which.

Owns the arithmetic on sets of vectors: their directions as rows [n, width], cosines, spectrum,
principal directions, projections. All in float64. Nothing is centred: the origin is the unsteered
model, and centring would take out the very direction that the vectors share. Knows no files, models
or engines; what is made here is a `SteeringVector` again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from steering.errors import SteeringError
from steering.vectors.steering_vector import LowRankMap, SteeringVector

# Of a length. Vectors are stored in float32: what is smaller than this is rounding.
_ROUNDING = 1e-6


class SubspaceError(SteeringError):
    """Vectors can't be laid side by side, or lack what is asked of their subspace."""


@dataclass(frozen=True)
class Stack:
    """The directions of a set of vectors, a row each.

    Attributes:
        rows: Float64 [n, width], as they are stored in the vectors.
        names: Name of each row.
        owners: Name of the vector that each row is of.
        vectors: By name.
        digests: SHA-256 of the vectors' files by name, of those that are known.
    """

    rows: Tensor
    names: tuple[str, ...]
    owners: tuple[str, ...]
    vectors: Mapping[str, SteeringVector]
    digests: Mapping[str, str] = field(default_factory=dict)

    def scaled(self, normalise: bool) -> Tensor:
        """The rows, scaled to length 1 if `normalise` says so."""
        return torch.nn.functional.normalize(self.rows, dim=1, eps=0) if normalise else self.rows


def stack(vectors: Mapping[str, SteeringVector], digests: Mapping[str, str] | None = None) -> Stack:
    """Lay the directions of all vectors below each other, layer by layer.

    A low-rank map gives a row for each direction that it writes; what it reads is left out.

    Args:
        vectors: By name. A row bears its vector's name, with its layer and the number of its
            direction where the vector has several.
        digests: Of the vectors' files, by name, to be told in what is made of them.

    Raises:
        SubspaceError: There are none, they are not of one model, or a direction is zero.
    """
    if not vectors:
        raise SubspaceError("there are no vectors: give one at least")
    known: dict[str, SteeringVector] = {}
    for name, vector in vectors.items():
        _check_alike(known, name, vector)
        known[name] = vector
    names = [(owner, row) for owner, vector in vectors.items() for row in _row_names(owner, vector)]
    rows = torch.cat([vector.directions.flatten(0, 1) for vector in vectors.values()]).double()
    for (_, name), row in zip(names, rows, strict=True):
        if not row.any():
            raise SubspaceError(f"{name} is zero and has no direction: leave it out")
    return Stack(
        rows=rows,
        names=tuple(row for _, row in names),
        owners=tuple(owner for owner, _ in names),
        vectors=known,
        digests=dict(digests or {}),
    )


@dataclass(frozen=True)
class Spectrum:
    """How the energy (sum of squares) of a stack spreads over its principal directions.

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
    def effective_rank(self) -> float:
        """exp(-sum p log p), p the shares of energy: k for k directions of equal energy.

        After Roy & Vetterli (The effective rank, EUSIPCO 2007), whose p are shares of the singular
        values themselves. Shares of energy give weak directions less weight, so that this figure is
        the lower of the two.
        """
        return float(torch.special.entr(self.shares).sum().exp())

    @property
    def participation_ratio(self) -> float:
        """1 / sum p^2, p the shares of energy: k for k directions of equal energy."""
        return float(1 / self.shares.square().sum())

    @property
    def dimensions(self) -> int:
        """Number of directions that are more than rounding."""
        return int((self.values > _ROUNDING * self.values[0]).sum())

    def needed(self, share: float) -> int:
        """The fewest principal directions that hold this share of the energy."""
        return min(int((self.cumulative < share - _ROUNDING).sum()) + 1, len(self.values))


def spectrum(stack: Stack, normalise: bool = True) -> Spectrum:
    """Singular values of the rows, uncentred.

    Args:
        stack: The rows.
        normalise: Scale each row to length 1 first, so that long vectors don't drown short ones.
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
        stack: What it is the basis of.
        normalise: Whether the stack's rows were scaled to length 1.
    """

    directions: Tensor
    shares: Tensor
    stack: Stack
    normalise: bool

    @property
    def rank(self) -> int:
        """Number of directions."""
        return len(self.directions)

    def facts(self) -> dict[str, Any]:
        """What it was made of, in JSON values, for the provenance of what is made with it."""
        names, digests = self.stack.vectors, self.stack.digests
        return {
            "top": self.rank,
            "of": [{"name": name, "sha256": digests.get(name)} for name in names],
            "rows": "scaled to length 1" if self.normalise else "as stored",
        }

    def vector(self) -> SteeringVector:
        """The basis as a vector of rank k: with `operation=ablate`, the whole subspace goes.

        Its directions have length 1 and stand at every layer that the stack's vectors have, the
        same at each, with the mean of the vectors' residual norms there if all of them know theirs.

        Raises:
            SubspaceError: The stack's vectors stand at several sites.
        """
        vectors = self.stack.vectors
        sites = {vector.site: name for name, vector in vectors.items()}
        if len(sites) > 1:
            places = ", ".join(f"{name} at {site}" for site, name in sites.items())
            raise SubspaceError(
                f"the vectors stand at several sites ({places}), and a basis has one: give vectors "
                "of one site"
            )
        held = list(vectors.values())
        layers = tuple(sorted({layer for vector in held for layer in vector.layers}))
        targets = {vector.provenance.get("target") for vector in held}
        told = {"target": targets.pop()} if len(targets) == 1 and None not in targets else {}
        facts = self.facts() | {"energy_shares": self.shares.tolist()}
        return SteeringVector(
            directions=self.directions.float().expand(len(layers), -1, -1),
            layers=layers,
            site=held[0].site,
            residual_norms=_norms(held, layers),
            model=next((vector.model for vector in held if vector.model), ""),
            depth=next((vector.depth for vector in held if vector.depth is not None), None),
            provenance={"method": "principal directions", **told, "principal": facts},
        )


def principal(stack: Stack, k: int, normalise: bool = True) -> Basis:
    """The k orthonormal directions that hold the most of the rows' energy.

    Each points to where most rows project positively; where as many do as don't, to where the sum
    of the projections is positive. Directions of equal energy are any basis of their span.

    Args:
        stack: The rows.
        k: How many, from 1.
        normalise: As for `spectrum`.

    Raises:
        SubspaceError: The rows span fewer dimensions.
    """
    _, values, axes = torch.linalg.svd(stack.scaled(normalise), full_matrices=False)
    found = Spectrum(values)
    if not 1 <= k <= found.dimensions:
        raise SubspaceError(
            f"there are no top {k} directions: the vectors' {len(stack.rows)} directions span "
            f"{found.dimensions} dimensions. Ask for 1 to {found.dimensions}"
        )
    axes = axes[:k] * _signs(axes[:k], stack.scaled(True))[:, None]
    return Basis(axes, found.shares[:k], stack, normalise)


def kept_energy(vector: SteeringVector, basis: Basis) -> float:
    """Share of the squared length of a vector's directions that lies in the basis's span.

    A random direction has k / width on average. The vectors that the basis was made of have more
    for that reason alone: see `held_out_energies`.

    Raises:
        SubspaceError: The vector is not of the basis's model, or it is zero.
    """
    return _kept(vector.directions.double(), _projection(vector, basis))


def held_out_energies(stack: Stack, k: int, normalise: bool = True) -> dict[str, float | None]:
    """For each vector, what the top k directions of all the others keep of its energy.

    Near k / width for unrelated vectors, whereas the top k of their own n rows keep k / n of them
    or more on average. None where the others span fewer than k dimensions.
    """
    left, values, _ = torch.linalg.svd(stack.rows, full_matrices=False)
    # The rows in a basis of their own span: the same inner products at n coordinates or fewer.
    rows = replace(stack, rows=left * values)
    found: dict[str, float | None] = {}
    for name in stack.vectors:
        mine = torch.tensor([owner == name for owner in stack.owners])
        others = replace(rows, rows=rows.rows[~mine])
        found[name] = None
        if len(others.rows):
            _, values, axes = torch.linalg.svd(others.scaled(normalise), full_matrices=False)
            if Spectrum(values).dimensions >= k:
                held = rows.rows[mine]
                found[name] = _kept(held, held @ axes[:k].T @ axes[:k])
    return found


def project(vector: SteeringVector, basis: Basis) -> SteeringVector:
    """The vector with each of its directions replaced by its projection on the basis's span.

    Layers, site and residual norms stay; the provenance also tells of the basis and of the energy
    that was kept, under `projected`, where the digest of the vector's recipe goes, since the recipe
    no longer builds it. Of a low-rank map, what it writes is projected.

    Raises:
        SubspaceError: The vector is not of the basis's model; nothing of it lies in the span at one
            of its layers; or it is a low-rank map of several directions that is changed, since only
            the model could tell how long the outcome is.
    """
    directions = vector.directions.double()
    projected = _projection(vector, basis)
    energy = _kept(directions, projected)
    for layer, before, after in zip(vector.layers, directions, projected, strict=True):
        moved = after if vector.map is not None else after.sum(0)
        if moved.norm() <= _ROUNDING * before.norm():
            raise SubspaceError(
                f"nothing of the vector is left at layer {layer}: it is orthogonal to the "
                f"{basis.rank} directions. Project on more of them"
            )
    made = None if vector.map is None else _projected_map(vector.map, directions, projected)
    told = dict(vector.provenance)
    facts = basis.facts() | {"kept_energy": energy}
    for key, kept_as in (("recipe", "recipe"), ("projected", "earlier")):
        if key in told:
            facts[kept_as] = told.pop(key)
    told["projected"] = facts
    return replace(vector, directions=projected.float(), map=made, provenance=told)


def truncate(stack: Stack, k: int, normalise: bool = True) -> dict[str, SteeringVector]:
    """Each of the stack's vectors, by name, as far as it lies in the top k directions of them all.

    Args:
        stack: The vectors.
        k: How many directions.
        normalise: As for `spectrum`.

    Raises:
        SubspaceError: As for `principal` and `project`.
    """
    basis = principal(stack, k, normalise)
    made = {}
    for name, vector in stack.vectors.items():
        try:
            made[name] = project(vector, basis)
        except SubspaceError as error:
            raise SubspaceError(f"{name}: {error}") from None
    return made


def _check_alike(known: Mapping[str, SteeringVector], name: str, vector: SteeringVector) -> None:
    """Refuse a vector whose coordinates are not those of the vectors that are known."""
    for other, held in known.items():
        facts = {
            "width": (held.width, vector.width),
            "depth": (held.depth, vector.depth),
            "model": (held.model, vector.model),
        }
        # One model may be known by several names: an alias, its hub id, a folder.
        weights = held.provenance.get("weights")
        if weights is not None and weights == vector.provenance.get("weights"):
            del facts["model"]
        for what, values in facts.items():
            if values[0] != values[1] and all(values):
                raise SubspaceError(
                    f"{other} has {what} {values[0]}, {name} has {what} {values[1]}: activations "
                    "of two models have no coordinates in common. Give vectors of one model"
                )


def _row_names(owner: str, vector: SteeringVector) -> list[str]:
    layers = [f" layer {layer}" if len(vector.layers) > 1 else "" for layer in vector.layers]
    numbers = [f" direction {number}" if vector.rank > 1 else "" for number in range(vector.rank)]
    return [f"{owner}{layer}{number}" for layer in layers for number in numbers]


def _signs(axes: Tensor, units: Tensor) -> Tensor:
    """1 or -1 for each axis [k, width], as the rows [n, width] of length 1 vote."""
    along = axes @ units.T
    along[along.abs() < _ROUNDING] = 0
    total = along.sum(1)
    total[total.abs() < _ROUNDING] = 0
    # So that there is an answer even where the rows have none.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))[:, 0]
    votes = along.sign().sum(1)
    votes = torch.where(votes == 0, total, votes)
    return torch.where(votes == 0, largest, votes).sign()


def _norms(vectors: Sequence[SteeringVector], layers: Sequence[int]) -> tuple[float, ...] | None:
    means = []
    for layer in layers:
        known = [vector.at(layer).residual_norms for vector in vectors if layer in vector.layers]
        norms = [norm for found in known if found for norm in found]
        if len(norms) < len(known):
            return None
        means.append(sum(norms) / len(norms))
    return tuple(means)


def _projection(vector: SteeringVector, basis: Basis) -> Tensor:
    """Float64 [layers, rank, width]; what is rounding alone is zero."""
    _check_alike(basis.stack.vectors, "the vector", vector)
    directions = vector.directions.double()
    projected = directions @ basis.directions.T @ basis.directions
    # Or somebody would scale it up and take it for a direction.
    nothing = projected.norm(dim=-1) <= _ROUNDING * directions.norm(dim=-1)
    return projected.masked_fill(nothing[..., None], 0)


def _kept(directions: Tensor, projected: Tensor) -> float:
    energy = directions.square().sum()
    if not energy:
        raise SubspaceError("the vector is zero: there is nothing to keep. Build it again")
    return min(float(projected.square().sum() / energy), 1.0)


def _projected_map(made: LowRankMap, before: Tensor, after: Tensor) -> LowRankMap:
    """The map with the length that it has now, where that can be told."""
    if before.shape[1] == 1:
        shares = (after.norm(dim=-1) / before.norm(dim=-1))[:, 0].tolist()
        lengths = [length * share for length, share in zip(made.lengths, shares, strict=True)]
        return replace(made, lengths=tuple(lengths))
    if ((after - before).norm(dim=-1) > _ROUNDING * before.norm(dim=-1)).any():
        raise SubspaceError(
            f"a low-rank map of rank {before.shape[1]} does not lie in the subspace, and how far "
            "its projection moves activations can be measured only on the model: build it with a "
            "lower rank instead, or write the basis alone (--basis-only)"
        )
    return made
