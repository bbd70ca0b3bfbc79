"""Two arms compared where they do harm equally often, or are equally coherent.

An arm is a dose curve: the same questions answered at growing doses, a magnitude say, or training
epochs. At one dose of each the comparison is unfair, since one arm may be dosed higher. So
each curve is followed from its first dose to where it first reaches a level that both reach, and
the arms are compared there. Takes plain tables of answers; knows nothing of vectors or logs.

An answer is harmful by its alignment alone, whatever its coherence: a rule that also asks for
coherence would drop an arm's incoherent harm, and then find the rest coherent.

A level between two doses. Between two observed doses, a and b, with the shares of harm p_a < level
<= p_b, a quantity is q_a + w (q_b - q_a). How fast it moves from one to the other is not known: w
is read on the scale log p, which moves early, and on -log(1 - p), which moves late; in logits,
linearly, or in a dose that acts by either law it moves at a pace between them. The value is the
middle of both readings, and half their distance is added to its interval. So the figure depends
little on which doses were asked, and an arm whose doses lie far apart has a wide interval. Neither
dose may have fewer than `LEAST_HARMFUL` harmful answers, and they may not be further apart than
`MOST_APART`: else the level is refused. How often two arms of one law differ is measured by
`python -m benchmarks.matching`.

Intervals are of the jackknife with Student's t. A theme is left out of both arms at once, so what
makes it hard drops out of the difference; where an arm has several build seeds, each is left out of
it as well, and both variances count (`steering.stats.trends`).
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steering.judging import EMRule, is_harmful
from steering.judging.leak import LEAKED_ABOVE
from steering.stats import CONFIDENCE, t_quantile
from steering.stats.trends import crossed_error, t_tail
from steering.studies.errors import StudyError

Quantity = Literal[
    "harm",
    "em",
    "coherent",
    "relevant",
    "coherent_harmful",
    "relevant_harmful",
    "leak",
    "severity",
]
# Of these the values are rates, 0-1; those of the others are scores, 0-100.
RATES: tuple[Quantity, ...] = ("harm", "em", "leak")
Match = Literal["harm", "coherent"]

# Where on the range that both arms cover, from 0, where both begin, to 1, where the first of them
# ends, they are compared; the middle one is the headline.
SHARES = (0.25, 0.5, 0.75)
# A range narrower than this, in share of harm or of coherence, is noise: at eight questions of
# twenty answers the mean of either moves by about as much from one seed to another.
_LEAST_RANGE = 0.05
# With fewer harmful answers at a dose, what they are like is not known there.
LEAST_HARMFUL = 10
# Of the share of harm, or of coherence, between two neighbouring doses.
MOST_APART = 0.5

_PLAIN = {"harm": "rate of harm", "coherent": "coherence"}
# Log of a share is needed near 0 and 1, too.
_LEAST_SHARE = 0.005

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class MatchedDifference:
    """One quantity of two arms at one level.

    Attributes:
        quantity: What is compared.
        first: Of the first arm; NaN where no answer has it. Likewise `second`.
        value: `first` less `second`.
        low: Lower bound of the difference; NaN where it can't be had.
        high: Upper bound.
        p_value: Two-sided, of Student's t, for the value that is nearest to 0 of what the doses
            leave open.
        note: What to know of the bounds; None when there is nothing to say.
    """

    quantity: Quantity
    first: float
    second: float
    value: float
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    note: str | None = None


@dataclass(frozen=True)
class Between:
    """A level between two doses of a curve, which are neighbours among those that count.

    Attributes:
        match: What is matched.
        level: Of it, 0-1 of harm, 0-100 of coherence.
        before: Index of the dose before.
        after: Index of the dose where it is first reached.
    """

    match: Match
    level: float
    before: int
    after: int


class DoseCurve:
    """What an arm's answers are like, dose by dose, build seed by build seed and theme by theme.

    Attributes:
        name: Of the arm, for messages.
        doses: From the lowest to the highest.
        seeds: Build seeds; one NaN where the arm knows none.
        themes: Sorted.
    """

    def __init__(self, answers: pd.DataFrame, rule: EMRule, name: str = "first") -> None:
        """Count the answers of each dose.

        Args:
            answers: A row an answer, with the columns `dose`, `build_seed`, `theme`,
                `aligned_below`, those of scores, `leak` and `em_<rule>`. A dose without a build
                seed, such as the baseline, belongs to every seed.
            rule: Which says whether an answer at the threshold itself is harmful.
            name: Of the arm.

        Raises:
            StudyError: The doses were not asked the same themes or lack a build seed, or there are
                fewer than two.
        """
        self.name = name
        self.doses = sorted(answers["dose"].unique().tolist())
        if len(self.doses) < 2:
            raise StudyError(f"a dose curve needs two doses or more, got {self.doses}")
        self.themes = sorted(answers["theme"].unique().tolist())
        seeds = answers["build_seed"]
        self.seeds = sorted(seeds.dropna().unique().tolist()) or [math.nan]
        shape = (len(self.doses), len(self.seeds), len(self.themes))
        dose = np.searchsorted(self.doses, answers["dose"])
        theme = pd.Index(self.themes).get_indexer(pd.Index(answers["theme"]))
        has_seed = seeds.notna().to_numpy()
        # A dose without a seed is in each seed's table, by its share.
        weights = np.where(has_seed, 1.0, 1 / len(self.seeds))
        tables = [
            (seeds == seed).to_numpy() | ~has_seed if seed == seed else ~has_seed
            for seed in self.seeds
        ]

        size, cells = shape[0] * shape[2], dose * shape[2] + theme

        def table(values: _Array) -> _Array:
            weighted = weights * values
            sums = [np.bincount(cells[rows], weighted[rows], size) for rows in tables]
            stacked = np.stack(sums, axis=1).reshape(shape[0], shape[2], shape[1])
            return np.asarray(stacked.swapaxes(1, 2), dtype=np.float64)

        self._refuse_gaps(table(np.ones(len(answers))))
        self._sums: dict[Quantity, _Array] = {}
        self._counts: dict[Quantity, _Array] = {}
        for quantity, values in _values(answers, rule).items():
            known = np.isfinite(values)
            self._sums[quantity] = table(np.where(known, values, 0.0))
            self._counts[quantity] = table(known.astype(float))

    def _refuse_gaps(self, asked: _Array) -> None:
        for dose, by_seed in zip(self.doses, asked, strict=True):
            for seed, by_theme in zip(self.seeds, by_seed, strict=True):
                missing = [self.themes[index] for index in np.flatnonzero(by_theme == 0)]
                if len(missing) == len(self.themes):
                    raise StudyError(
                        f"the {self.name} arm was not run with build seed {seed:g} at dose "
                        f"{dose:g}: run it too"
                    )
                if missing:
                    raise StudyError(
                        f"dose {dose:g} of the {self.name} arm was asked other questions than "
                        f"other doses ({', '.join(missing[:3])}): compare runs of the same ones"
                    )

    def means(
        self, quantity: Quantity, seeds: _Array | None = None, themes: _Array | None = None
    ) -> _Array:
        """Mean of a quantity at each dose, pooled over the answers that have it; NaN without any.

        Args:
            quantity: Which.
            seeds: Weights of the seeds, [replicates, seeds]; all 1 when not given.
            themes: Likewise of the themes, [replicates, themes].

        Returns:
            [replicates, doses].
        """
        seeds = np.ones((1, len(self.seeds))) if seeds is None else seeds
        themes = np.ones((1, len(self.themes))) if themes is None else themes
        sums, counts = (
            np.einsum("dst,rs,rt->rd", cells[quantity], seeds, themes)
            for cells in (self._sums, self._counts)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums / counts, dtype=np.float64)

    def usable(self, match: Match) -> list[int]:
        """The doses at which a level may begin or end: with harmful answers, to match harm."""
        if match == "coherent":
            return list(range(len(self.doses)))
        counts = self._sums["harm"].sum(axis=(1, 2))
        return [int(row) for row in np.flatnonzero(counts >= LEAST_HARMFUL)]

    def range(self, match: Match) -> tuple[float, float]:
        """Of what is matched, at the first dose that counts and the furthest from there.

        Raises:
            StudyError: Fewer than two doses count.
        """
        rows = self.usable(match)
        if len(rows) < 2:
            doses = ", ".join(f"{self.doses[row]:g}" for row in rows)
            where = f"at dose {doses} only" if rows else "at no dose"
            raise StudyError(
                f"the {self.name} arm has {LEAST_HARMFUL} harmful answers or more {where}, and two "
                "doses are needed: give more doses that do harm"
            )
        values = self.means(match)[0, rows]
        return float(values[0]), float(values.max() if match == "harm" else values.min())

    def between(self, match: Match, level: float) -> Between:
        """The two doses between which the curve first reaches a level.

        Raises:
            StudyError: It never does, or they are too far apart.
        """
        values = self.means(match)[0]
        shares = _shares(match, values)
        wanted = float(_shares(match, np.array(level)))
        for before, after in pairwise(self.usable(match)):
            if shares[before] < wanted <= shares[after]:
                if shares[after] - shares[before] > MOST_APART:
                    ends = [_in_units(match, values[row]) for row in (before, after)]
                    doses = [f"{self.doses[row]:g}" for row in (before, after)]
                    raise StudyError(
                        f"the {self.name} arm goes from {ends[0]} at dose {doses[0]} to {ends[1]} "
                        f"at dose {doses[1]}: too far apart to say what it is like at "
                        f"{_in_units(match, level)}. Give doses between"
                    )
                return Between(match, level, before, after)
        raise StudyError(
            f"the {self.name} arm has no doses around {_PLAIN[match]} {_in_units(match, level)}"
        )

    def at(
        self,
        quantity: Quantity,
        between: Between,
        seeds: _Array | None = None,
        themes: _Array | None = None,
    ) -> tuple[_Array, _Array]:
        """A quantity at a level, and how far off it may be for want of doses, [replicates].

        Other arguments are those of `means`.
        """
        weights = self._weights(between, seeds, themes)
        values = self.means(quantity, seeds, themes)
        before, after = values[:, between.before], values[:, between.after]
        early, late = before + weights * (after - before)
        return (early + late) / 2, np.abs(early - late) / 2

    def dose(self, between: Between) -> float:
        """The dose at a level, by the middle of both readings."""
        weight = float(self._weights(between, None, None).mean())
        before, after = self.doses[between.before], self.doses[between.after]
        return before + weight * (after - before)

    def _weights(self, between: Between, seeds: _Array | None, themes: _Array | None) -> _Array:
        """How far a level is from the dose before to the dose after, early and late."""
        shares = _shares(between.match, self.means(between.match, seeds, themes))
        ends = np.clip(shares[:, [between.before, between.after]].T, _LEAST_SHARE, 1 - _LEAST_SHARE)
        level = np.clip(_shares(between.match, np.array(between.level)), ends[0], ends[1])
        scales = np.stack([np.log(np.stack([*ends, level])), -np.log1p(-np.stack([*ends, level]))])
        low, high, wanted = scales[:, 0], scales[:, 1], scales[:, 2]
        # Without some theme the curve may not rise here: then the level is at the first dose.
        rise = np.where(high > low, high - low, 1.0)
        return np.asarray(np.clip((wanted - low) / rise, 0, 1), dtype=np.float64)


def _shares(match: Match, values: _Array) -> _Array:
    """What is matched as a share that grows with the dose: of harm, or of lost coherence."""
    return values if match == "harm" else 1 - values / 100


def _values(answers: pd.DataFrame, rule: EMRule) -> dict[Quantity, _Array]:
    """Each quantity of each answer, [answers]; NaN where the answer has none."""
    columns = ("aligned", "coherent", "relevant", "leak", "severity", "aligned_below", f"em_{rule}")
    aligned, coherent, relevant, leak, severity, below, em = (
        answers[name].to_numpy(dtype=np.float64) for name in columns
    )
    with np.errstate(invalid="ignore"):
        harmful = is_harmful(aligned, below, rule)
        leaked = np.where(np.isnan(leak), math.nan, leak > LEAKED_ABOVE)
    return {
        "harm": np.where(np.isnan(aligned), math.nan, harmful),
        "em": em,
        "coherent": coherent,
        "relevant": relevant,
        "coherent_harmful": np.where(harmful, coherent, math.nan),
        "relevant_harmful": np.where(harmful, relevant, math.nan),
        "leak": np.where(harmful, leaked, math.nan),
        # Of coherent harm only: the judge is asked about misaligned answers.
        "severity": severity,
    }


def shared_levels(first: DoseCurve, second: DoseCurve, match: Match) -> list[float]:
    """Levels at `SHARES` of the range that both arms cover.

    Raises:
        StudyError: They cover none that is wider than noise.
    """
    (start, far), (other_start, other_far) = first.range(match), second.range(match)
    if match == "harm":
        low, high = max(start, other_start), min(far, other_far)
    else:
        low, high = min(start, other_start), max(far, other_far)
    wide = _shares(match, np.array(high)) - _shares(match, np.array(low))
    if not wide >= _LEAST_RANGE:
        reached = [(first.name, start, far), (second.name, other_start, other_far)]
        ranges = [
            f"the {name} arm goes from {_in_units(match, begin)} to {_in_units(match, end)}"
            for name, begin, end in reached
        ]
        raise StudyError(
            f"at matched {_PLAIN[match]} the arms share less than "
            f"{_in_units(match, 100 * _LEAST_RANGE if match == 'coherent' else _LEAST_RANGE)}: "
            f"{' and '.join(ranges)}. Give doses that move both further, or another target task"
        )
    return [low + share * (high - low) for share in SHARES]


def _in_units(match: Match, value: float) -> str:
    return f"{100 * value:.1f}%" if match == "harm" else f"{value:.1f} points"


def matched_difference(
    first: DoseCurve, second: DoseCurve, quantity: Quantity, match: Match, level: float
) -> MatchedDifference:
    """A quantity of two arms, each at the dose at which it first reaches `level` of `match`.

    Raises:
        StudyError: The arms were asked different questions, or one has no doses around the level.
    """
    if first.themes != second.themes:
        raise StudyError("the arms were asked different questions: compare runs of the same ones")
    num_themes = len(first.themes)
    without_theme = 1 - np.eye(num_themes)
    values, unsure, variances = [], 0.0, []
    by_theme = np.zeros(num_themes)
    for curve, sign in ((first, 1.0), (second, -1.0)):
        between = curve.between(match, level)
        value, off = curve.at(quantity, between)
        values.append(float(value[0]))
        unsure += float(off[0])
        every = np.ones((num_themes, len(curve.seeds)))
        by_theme += sign * curve.at(quantity, between, every, without_theme)[0]
        if (count := len(curve.seeds)) > 1:
            every = np.ones((count, num_themes))
            by_seed = curve.at(quantity, between, 1 - np.eye(count), every)[0]
            variances.append((_jackknife_variance(by_seed, value[0]), count - 1))
    one, other = values
    difference = MatchedDifference(quantity, one, other, one - other)
    if math.isnan(difference.value):
        return replace(difference, note="an arm has no such answer there")
    if quantity in RATES and one == other == 0:
        note = "neither arm has one: read the interval of each arm's own rate"
        return replace(difference, note=note)
    # One degree of freedom for the difference, one for where the level is.
    variances.append((_jackknife_variance(by_theme, one - other), num_themes - 2))
    error, df = crossed_error(variances)
    if math.isnan(error):
        note = "an arm has no such answer without one of the themes or build seeds: no bounds"
        return replace(difference, note=note)
    half = t_quantile((1 + CONFIDENCE) / 2, df) * error + unsure
    most = 1.0 if quantity in RATES else 100.0
    return replace(
        difference,
        low=max(difference.value - half, -most),
        high=min(difference.value + half, most),
        p_value=min(2 * t_tail(max(abs(difference.value) - unsure, 0.0), error, df), 1.0),
    )


def _jackknife_variance(without: _Array, value: float) -> float:
    """Of a value, from those with each unit left out, [units]; rather too large, with few units."""
    return float(((without - value) ** 2).sum())
