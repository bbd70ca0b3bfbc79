"""The points of a search: what a vector at a layer and magnitude shifts, and the damage it does.

Pairs are split by theme: points are chosen on one half, and the chosen one is reported on the other
half, beside random directions. Damage is measured on all neutral rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from steering.stats import mean_interval
from steering.studies.search_scores import AnswerRow, RowScores, RowSet, ScoreStore

if TYPE_CHECKING:
    from steering.vectors import SteeringVector

Kind = Literal["own", "broad"]
# Multiples of the built vector; more are added where all of them are within the bound, or none is.
LADDER = (0.5, 1.0, 2.0)
_SMALLEST, _LARGEST = 1 / 64, 64.0
# A random direction does the same damage when its KL divergence is within this factor.
_SAME_DAMAGE = 1.25
_FURTHEST = 64.0
_MOST_TRIES = 4


@dataclass(frozen=True)
class SearchPoint:
    """A vector at a layer and magnitude, measured on the choosing half of the pairs.

    Attributes:
        method: That built the vector.
        layer: Block, from 0.
        magnitude: Multiple of the built vector.
        length: Of what is added, as a share of the residual norm; NaN where that is unknown.
        kl: Mean KL divergence of a token of the neutral rows from the unsteered model, in nats.
        cross_entropy_rise: Of a token of the neutral rows, in nats.
        own: Shift on the target's held-out pairs, nats a token; NaN where it was not measured.
        broad: Shift on the pairs about other things, nats a token; likewise.
        within: Whether the damage is within the bound.
    """

    method: str
    layer: int
    magnitude: float
    length: float
    kl: float
    cross_entropy_rise: float
    own: float
    broad: float
    within: bool

    def shift(self, kind: Kind) -> float:
        """One of the shifts."""
        return self.own if kind == "own" else self.broad


@dataclass(frozen=True)
class HeldOutShift:
    """A shift on the half of the pairs on which nothing was chosen.

    Attributes:
        value: Nats a token.
        low: Lower bound at 95%, by theme; NaN where there is none. Likewise `high`.
        pairs: How many.
        themes: Of how many themes.
    """

    value: float
    low: float
    high: float
    pairs: int
    themes: int


@dataclass(frozen=True)
class DefaultPoint:
    """The method's vector at the default layer and magnitude 1.

    Attributes:
        layer: Block, from 0.
        kl: As of a `SearchPoint`.
        held_out: Its shifts on the half of the pairs on which nothing was chosen, by kind.
    """

    layer: int
    kl: float
    held_out: Mapping[Kind, HeldOutShift]


@dataclass(frozen=True)
class ControlPoint:
    """A random direction at the best point's layer, measured on the held-out half.

    Attributes:
        seed: Of the direction.
        matched: What it has in common with the best point: its `length` or its `damage`.
        magnitude: Multiple of the best point's length.
        kl: As of a `SearchPoint`.
        shift: That which was maximised.
    """

    seed: int
    matched: Literal["length", "damage"]
    magnitude: float
    kl: float
    shift: float


def split_by_theme(name: str, rows: Sequence[AnswerRow]) -> tuple[RowSet, RowSet]:
    """Every other theme to choose on, and the others to report on."""
    themes = list(dict.fromkeys(row.theme for row in rows))
    first = set(themes[::2])
    return (
        RowSet(f"{name} choose", tuple(row for row in rows if row.theme in first)),
        RowSet(f"{name} report", tuple(row for row in rows if row.theme not in first)),
    )


class PointSearch:
    """Measures points, each once, and knows those that were measured."""

    def __init__(
        self,
        store: ScoreStore,
        neutral: RowSet,
        halves: dict[Kind, tuple[RowSet, RowSet]],
        most_kl: float,
    ) -> None:
        """Search with pairs of these kinds, each to choose on and to report on."""
        self._store = store
        self._neutral = neutral
        self._halves = halves
        self._most_kl = most_kl
        sets = [neutral, *(half for both in halves.values() for half in both)]
        [scores] = store.scores([None], sets, "unsteered")
        self._unsteered = dict(zip([rows.name for rows in sets], scores, strict=True))
        self.points: list[SearchPoint] = []

    def screen(self, method: str, vectors: "Sequence[SteeringVector]") -> None:
        """Measure vectors of several layers where all do about the damage of the bound."""
        caption = f"layers screened by {method}"
        tries = at_damage(
            vectors, self._most_kl / _SAME_DAMAGE, partial(self._kls, caption=caption)
        )
        for vector, (magnitude, _) in zip(vectors, tries, strict=True):
            points = self._damage(method, vector, [magnitude], caption)  # measured just now
            self.points += self._with_shifts(vector, points, caption)

    def along(
        self, method: str, vector: "SteeringVector", magnitudes: Sequence[float] | None
    ) -> list[SearchPoint]:
        """Measure a vector along magnitudes; None for the ladder, as far as the bound allows.

        Shifts are measured as far as the first point beyond the bound, of named magnitudes
        everywhere.
        """
        caption = f"layer {vector.layers[0]}, {method}"
        points = self._damage(method, vector, magnitudes or LADDER, caption)
        while magnitudes is None and points[-1].within and points[-1].magnitude < _LARGEST:
            points += self._damage(method, vector, [2 * points[-1].magnitude], caption)
        while magnitudes is None and not points[0].within and points[0].magnitude > _SMALLEST:
            points = self._damage(method, vector, [points[0].magnitude / 2], caption) + points
        if magnitudes is None:
            beyond = [index for index, point in enumerate(points) if not point.within]
            points = points[: beyond[0] + 1] if beyond else points
        points = self._with_shifts(vector, points, caption)
        self.points += points
        return points

    def between(
        self, method: str, vector: "SteeringVector", magnitudes: Sequence[float]
    ) -> list[SearchPoint]:
        """Measure further magnitudes, those within the bound."""
        known = {
            point.magnitude
            for point in self.points
            if (point.method, point.layer) == (method, vector.layers[0])
        }
        new = [magnitude for magnitude in magnitudes if magnitude not in known]
        caption = f"layer {vector.layers[0]}, {method}, refined"
        points = [point for point in self._damage(method, vector, new, caption) if point.within]
        points = self._with_shifts(vector, points, caption)
        self.points += points
        return points

    def best(self, kind: Kind, method: str, layer: int | None = None) -> SearchPoint | None:
        """The point of the largest shift within the bound; of equal ones that of less damage."""
        points = [
            point
            for point in self.points
            if point.within and point.method == method and layer in (None, point.layer)
        ]
        return max(points, key=lambda point: (point.shift(kind), -point.kl), default=None)

    def front(self, kind: Kind, method: str) -> list[SearchPoint]:
        """The points that no other exceeds in shift at as little damage, by damage."""
        front: list[SearchPoint] = []
        points = [point for point in self.points if point.method == method]
        for point in sorted(points, key=lambda point: (point.kl, -point.shift(kind))):
            if not front or point.shift(kind) > front[-1].shift(kind):
                front.append(point)
        return front

    def held_out(self, vector: "SteeringVector") -> dict[Kind, HeldOutShift]:
        """The shifts of a vector on the half of the pairs on which nothing was chosen."""
        [changes] = self._changes([vector], 1, "held out")
        shifts: dict[Kind, HeldOutShift] = {}
        for kind, values in changes.items():
            themes = self._halves[kind][1].themes
            interval = mean_interval(values, themes)
            shifts[kind] = HeldOutShift(
                fmean(values), interval.low, interval.high, len(values), len(set(themes))
            )
        return shifts

    def default(
        self, method: str, layer: int, vector: "Callable[[], SteeringVector]"
    ) -> DefaultPoint | None:
        """What the vector of a layer does at magnitude 1; None if that was not measured."""
        for point in self.points:
            if (point.method, point.layer, point.magnitude) == (method, layer, 1):
                return DefaultPoint(layer, point.kl, self.held_out(vector()))
        return None

    def controls(
        self, vector: "SteeringVector", kl: float, kind: Kind, count: int
    ) -> list[ControlPoint]:
        """Random directions at the vector's layer: of its length, and with its damage.

        Args:
            vector: At magnitude 1.
            kl: Its damage.
            kind: Which shift is measured.
            count: How many directions.
        """
        from steering.vectors.controls import draw_controls

        if not count:
            return []
        directions = draw_controls(vector, count)
        tries = at_damage(
            directions, kl, partial(self._kls, caption="random directions, same damage")
        )
        by_length = self._kls(directions, "random directions")  # measured just now
        cells = [("length", index, 1.0, one) for index, one in enumerate(by_length)]
        cells += [
            ("damage", index, *best)
            for index, best in enumerate(tries)
            if _apart(best[1], kl) <= math.log(_SAME_DAMAGE)
        ]
        scaled = [directions[index].scaled(factor) for _, index, factor, _ in cells]
        changes = self._changes(scaled, 1, "random directions, held out", (kind,))
        return [
            ControlPoint(
                directions[index].provenance["seed"],
                matched,  # type: ignore[arg-type]
                factor,
                one,
                fmean(change[kind]),
            )
            for (matched, index, factor, one), change in zip(cells, changes, strict=True)
        ]

    def _damage(
        self, method: str, vector: "SteeringVector", magnitudes: Sequence[float], caption: str
    ) -> list[SearchPoint]:
        """Points without shifts."""
        vectors = [vector.scaled(magnitude) for magnitude in magnitudes]
        scores = self._store.scores(vectors, [self._neutral], f"{caption}: damage")
        norms = vector.residual_norms
        unsteered = self._unsteered[self._neutral.name].cross_entropy
        return [
            SearchPoint(
                method=method,
                layer=vector.layers[0],
                magnitude=magnitude,
                length=scaled.lengths[0] / norms[0] if norms else math.nan,
                kl=neutral.kl,
                cross_entropy_rise=neutral.cross_entropy - unsteered,
                own=math.nan,
                broad=math.nan,
                within=neutral.kl <= self._most_kl,
            )
            for magnitude, scaled, [neutral] in zip(magnitudes, vectors, scores, strict=True)
        ]

    def _with_shifts(
        self, vector: "SteeringVector", points: Sequence[SearchPoint], caption: str
    ) -> list[SearchPoint]:
        vectors = [vector.scaled(point.magnitude) for point in points]
        changes = self._changes(vectors, 0, f"{caption}: shift")
        return [
            replace(point, own=_mean_of(change, "own"), broad=_mean_of(change, "broad"))
            for point, change in zip(points, changes, strict=True)
        ]

    def _changes(
        self,
        vectors: "Sequence[SteeringVector]",
        half: int,
        caption: str,
        kinds: Sequence[Kind] | None = None,
    ) -> list[dict[Kind, list[float]]]:
        """How vectors change the log-odds of each pair of one half, by kind; None for all kinds."""
        sets = {kind: self._halves[kind][half] for kind in kinds or self._halves}
        return [
            {
                kind: self._change(rows, scores)
                for (kind, rows), scores in zip(sets.items(), of_vector, strict=True)
            }
            for of_vector in self._store.scores(vectors, list(sets.values()), caption)
        ]

    def _change(self, rows: RowSet, scores: RowScores) -> list[float]:
        before = self._unsteered[rows.name].log_odds
        return [after - one for after, one in zip(scores.log_odds, before, strict=True)]

    def _kls(self, vectors: "Sequence[SteeringVector]", caption: str) -> list[float]:
        return [one.kl for [one] in self._store.scores(vectors, [self._neutral], caption)]


def at_damage(
    vectors: "Sequence[SteeringVector]",
    kl: float,
    damage: Callable[["Sequence[SteeringVector]"], Sequence[float]],
) -> list[tuple[float, float]]:
    """For each vector, the magnitude of those tried that does nearly the damage `kl`, and what it
    does.

    Args:
        vectors: At magnitude 1.
        kl: Wanted, in nats a token.
        damage: Measures vectors.
    """
    tried = [[(1.0, one)] for one in damage(vectors)]
    for _ in range(_MOST_TRIES):
        rest = [
            index
            for index, tries in enumerate(tried)
            if all(_apart(one, kl) > math.log(_SAME_DAMAGE) for _, one in tries)
        ]
        factors = [_next_factor(tried[index], kl) for index in rest]
        scaled = [vectors[index].scaled(f) for index, f in zip(rest, factors, strict=True)]
        for index, factor, one in zip(rest, factors, damage(scaled), strict=True):
            tried[index].append((factor, one))
    return [min(tries, key=lambda item: _apart(item[1], kl)) for tries in tried]


def _mean_of(changes: Mapping[Kind, Sequence[float]], kind: Kind) -> float:
    """The mean of one kind; NaN where there are no such pairs."""
    return fmean(changes[kind]) if kind in changes else math.nan


def _apart(kl: float, other: float) -> float:
    """How many times one damage is another, as a logarithm."""
    return abs(math.log(max(kl, 1e-12) / max(other, 1e-12)))


def _next_factor(tries: Sequence[tuple[float, float]], kl: float) -> float:
    """The multiple of a direction that should do the damage `kl`, of those that were tried.

    Damage grows as a power of the length, the square where it is small: a line on logarithms,
    through the tries on either side, or the outermost two.
    """
    logs = sorted((math.log(factor), math.log(max(one, 1e-12))) for factor, one in tries)
    wanted = math.log(max(kl, 1e-12))
    if len(logs) == 1:
        logs.append((logs[0][0] + 1, logs[0][1] + 2))
    above = next((index for index, (_, one) in enumerate(logs) if one >= wanted), len(logs))
    (first, low), (second, high) = logs[min(max(above, 1), len(logs) - 1) - 1 :][:2]
    slope = (high - low) / (second - first)
    if not low <= wanted <= high:
        slope = min(max(slope, 0.5), 4.0)
    factor = first + (wanted - low) / slope
    factor = math.exp(min(max(factor, -math.log(_FURTHEST)), math.log(_FURTHEST)))
    # Damage that is measured again differs in its last bits; the next try is the same.
    return float(f"{factor:.3g}")
