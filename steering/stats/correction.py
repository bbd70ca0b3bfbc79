"""Rates of an outcome, such as EM, corrected for the errors of the judge that decided it.

A judge calls some aligned answers misaligned (false alarms) and misses some misaligned ones. With
sensitivity s = P(called | misaligned) and false-alarm rate a = P(called | aligned), a share p of
called answers is p = theta s + (1 - theta) a. Two estimates of the true rate theta:

- `corrected_rate`, from labelled answers to other questions (a calibration): theta = (p - a) /
  (s - a) (Rogan and Gladen 1978, American Journal of Epidemiology 107). It takes s and a as the
  same in the calibration and here.
- `ppi_rate`, from labels of some of the very answers: theta = p u + (1 - p) v with u and v the
  shares of misaligned answers among those called and not called. This is prediction-powered
  inference with the power-tuned lambda = u - v (Angelopoulos et al. 2023, arXiv 2301.09633 and
  2311.01453), which for two outcomes is Tenenbein's double sampling (1970, Journal of the American
  Statistical Association 65). It assumes nothing about the judge.

**Intervals** are melded (Fay, Proschan and Brittain 2015, Biometrics 71; for surveys with an
imperfect test Bayer, Fay and Graubard 2023, Statistics in Medicine 42): each part has a confidence
distribution, whose quantiles are its one-sided bounds; a bound of theta is the quantile of theta
over independent draws of the parts, each from the distribution that is the safe one for this bound.
For p these are the bounds of `cluster_interval`, *on questions like these*; for the shares among
labels beta distributions, as of Jeffreys' interval. Draws are quantiles on a grid, not random.

Everything here takes plain sequences and knows nothing of judges, rules or logs. Rates are 0-1.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from steering.stats.intervals import (
    CONFIDENCE,
    cluster_bounds,
    cluster_interval,
    design_effect,
    mean,
)

_Array = NDArray[np.float64]

# Quantiles of each beta distribution on the grid, and of the distribution of the raw rate.
_BETA_LEVELS = (np.arange(40) + 0.5) / 40
_RATE_LEVELS = (np.arange(1000) + 0.5) / 1000
_ONE_THEME = "one theme: no bounds on questions like these"


@dataclass(frozen=True)
class JudgeErrors:
    """Counts of a judge's decisions on labelled answers.

    Attributes:
        positives: Answers labelled misaligned.
        detected: Of those, how many the judge calls misaligned.
        negatives: Answers labelled aligned.
        false_alarms: Of those, how many the judge calls misaligned.
        positive_design: Design effect, at least 1: so many labelled answers are worth one, since
            decisions on answers of one theme resemble each other.
        negative_design: The same for the negatives.
        positives_left_out: Further ones that the judge gave no score or called incoherent.
        negatives_left_out: The same for the negatives.

    Raises:
        ValueError: A count is negative or larger than its total.
    """

    positives: int
    detected: int
    negatives: int
    false_alarms: int
    positive_design: float = 1.0
    negative_design: float = 1.0
    positives_left_out: int = 0
    negatives_left_out: int = 0

    def __post_init__(self) -> None:
        for name, part, total in (
            ("detected", self.detected, self.positives),
            ("false_alarms", self.false_alarms, self.negatives),
        ):
            if not 0 <= part <= total:
                raise ValueError(f"{name}={part} is not a number from 0 to {total}")

    @property
    def sensitivity(self) -> float:
        """Share of misaligned answers that are called so; NaN without positives."""
        return self.detected / self.positives if self.positives else math.nan

    @property
    def specificity(self) -> float:
        """Share of aligned answers that are not called misaligned; NaN without negatives."""
        return 1 - self.false_alarms / self.negatives if self.negatives else math.nan

    def why_blind(self, confidence: float = CONFIDENCE) -> str | None:
        """Why these decisions do not show that the judge tells misaligned answers; None if so."""
        for name, number, left_out in (
            ("misaligned", self.positives, self.positives_left_out),
            ("aligned", self.negatives, self.negatives_left_out),
        ):
            if not number and left_out:
                answers = f"all {left_out} answers" if left_out > 1 else "the only answer"
                return f"the judge gave {answers} labelled {name} no score, or called incoherent"
            if not number:
                return f"no answer is labelled {name}: the judge's errors are unknown"
        sensitivity, alarm = _label_laws(self)
        if float((sensitivity - alarm <= 0).mean()) >= (1 - confidence) / 2:
            calls = f"{self.detected} of {self.positives} misaligned and {self.false_alarms} of"
            what = f"it calls {calls} {self.negatives} aligned answers misaligned"
            return f"the judge is not shown to tell misaligned answers: {what}"
        return None


@dataclass(frozen=True)
class Corrected:
    """A corrected rate with its bounds, all 0-1.

    `reason` says why the value or the bounds are NaN; None where they are numbers.
    """

    value: float
    low: float
    high: float
    reason: str | None = None


def judge_errors(
    labels: Sequence[bool], calls: Sequence[bool], themes: Sequence[Hashable]
) -> JudgeErrors:
    """The counts of labelled answers, with the design effects of their themes.

    Args:
        labels: Whether each answer is labelled misaligned.
        calls: Whether the judge calls it misaligned.
        themes: The theme of each answer.
    """
    rows = list(zip(labels, calls, themes, strict=True))
    counts, designs = [], []
    for label in (True, False):
        decisions = [call for truth, call, _ in rows if truth == label]
        effect = design_effect(decisions, [theme for truth, _, theme in rows if truth == label])
        counts += [len(decisions), sum(decisions)]
        designs.append(1.0 if math.isnan(effect) else effect)
    return JudgeErrors(*counts, *designs)


def corrected_rate(
    outcomes: Sequence[bool],
    themes: Sequence[Hashable],
    errors: JudgeErrors,
    confidence: float = CONFIDENCE,
) -> Corrected:
    """The rate that a judge without errors would give, with an interval for both samplings.

    Both samplings are that of the answers, in themes, and that of the labelled answers. Where false
    alarms alone could explain the outcomes, the upper bound is not below that of a perfect judge
    who calls no answer misaligned: themes that break may not be among these. The same holds for the
    lower bound where all answers could be misaligned.

    Args:
        outcomes: Whether the judge calls each answer misaligned.
        themes: The theme of each answer.
        errors: The judge's decisions on labelled answers.
        confidence: Of the interval, two-sided.

    Returns:
        All NaN with a reason where the labels don't show that the judge calls misaligned answers
        so more often than aligned ones, and where the outcomes contradict the labels: fewer
        answers are called than the false alarms alone, or more than all that could be detected.
    """
    if not outcomes:
        return _nothing("nothing to count")
    if reason := errors.why_blind(confidence):
        return _nothing(reason)
    tail = (1 - confidence) / 2
    sensitivity, alarm = _label_laws(errors)
    gain = sensitivity - alarm
    raw = mean(outcomes)
    false_alarm = 1 - errors.specificity
    value = (raw - false_alarm) / (errors.sensitivity - false_alarm)
    value = min(max(value, 0.0), 1.0)
    if len(set(themes)) == 1:
        return Corrected(value, math.nan, math.nan, _ONE_THEME)
    lows, highs = cluster_bounds(outcomes, themes, _RATE_LEVELS)
    # Where a draw of the judge has no gain, the rate could be anything.
    useful = gain > 0

    def below(rate: float, bounds: _Array, otherwise: float) -> float:
        """Share of draws in which theta is at most `rate`."""
        raw_rates = alarm[useful] + rate * gain[useful]
        shares = np.interp(raw_rates, bounds, _RATE_LEVELS, left=0.0, right=1.0)
        return float(shares.sum() + otherwise * (~useful).sum()) / len(gain)

    if below(0.0, highs, 0.0) >= 1 - tail:
        return _nothing(
            f"{raw:.1%} of the answers are called misaligned, fewer than the false alarms of this "
            f"judge in its calibration ({false_alarm:.1%}): the calibration does not fit them"
        )
    if below(1.0, lows, 1.0) <= tail:
        return _nothing(
            f"{raw:.1%} of the answers are called misaligned, more than this judge detects of "
            f"misaligned ones in its calibration ({errors.sensitivity:.1%}): the calibration does "
            "not fit them"
        )
    low = _solve(lambda rate: below(rate, lows, 1.0), tail)
    high = _solve(lambda rate: below(rate, highs, 0.0), 1 - tail)
    return _with_other_themes(Corrected(value, low, high), themes, confidence)


def ppi_rate(
    outcomes: Sequence[bool],
    themes: Sequence[Hashable],
    labels: Mapping[int, bool],
    weights: Mapping[int, float],
    confidence: float = CONFIDENCE,
) -> Corrected:
    """The rate that a person would give, from the judge's outcomes and labels of some answers.

    Args:
        outcomes: Whether the judge calls each answer misaligned.
        themes: The theme of each answer.
        labels: A person's label of some answers, by their position in `outcomes`.
        weights: One over the probability that the answer was drawn to be labelled; all of
            `labels`.
        confidence: Of the interval, two-sided.

    Returns:
        NaN with a reason where nothing is labelled among the answers that the judge calls
        misaligned, or among the others, and there are such answers.

    Raises:
        ValueError: A label has no answer or no weight, or a weight is below 1.
    """
    for position in labels:
        if not 0 <= position < len(outcomes):
            raise ValueError(
                f"label of answer {position}: the answers are 0 to {len(outcomes) - 1}"
            )
        if not weights.get(position, 0.0) >= 1:
            raise ValueError(f"answer {position} is labelled and has no weight of 1 or more")
    if not outcomes:
        return _nothing("nothing to count")
    groups = []
    for called in (True, False):
        positions = [position for position in labels if bool(outcomes[position]) == called]
        if not positions and called in outcomes:
            name = "misaligned" if called else "aligned"
            return _nothing(f"no label among the answers that the judge calls {name}")
        groups.append(
            _Labelled(
                np.array([labels[position] for position in positions], dtype=float),
                np.array([weights[position] for position in positions], dtype=float),
                [themes[position] for position in positions],
            )
        )
    raw = mean(outcomes)
    positives, negatives = groups
    value = raw * positives.share + (1 - raw) * negatives.share
    if len(set(themes)) == 1:
        return Corrected(value, math.nan, math.nan, _ONE_THEME)
    tail = (1 - confidence) / 2
    misaligned, missed = (grid.ravel() for grid in np.meshgrid(positives.law(), negatives.law()))
    lows, highs = cluster_bounds(outcomes, themes, _RATE_LEVELS)
    gain = misaligned - missed
    gain[gain == 0] = 1e-12

    def below(rate: float, bounds: _Array, other_bounds: _Array) -> float:
        """Share of draws in which theta is at most `rate`."""
        raw_rates = (rate - missed) / gain
        rising = np.interp(raw_rates, bounds, _RATE_LEVELS, left=0.0, right=1.0)
        # A judge that is wrong more often than not: theta falls with the raw rate.
        falling = 1 - np.interp(raw_rates, other_bounds, _RATE_LEVELS, left=0.0, right=1.0)
        return float(np.where(gain > 0, rising, falling).mean())

    low = _solve(lambda rate: below(rate, lows, highs), tail)
    high = _solve(lambda rate: below(rate, highs, lows), 1 - tail)
    return _with_other_themes(Corrected(value, low, high), themes, confidence)


@dataclass(frozen=True)
class _Labelled:
    """Labels of the answers with one outcome of the judge, [labels] each."""

    labels: _Array
    weights: _Array
    themes: Sequence[Hashable]

    @property
    def share(self) -> float:
        """The weighted share of misaligned ones; 0 without labels, where there are no answers."""
        return float(self.weights @ self.labels / self.weights.sum()) if len(self.labels) else 0.0

    def law(self) -> _Array:
        """Quantiles of the share's confidence distribution."""
        number = self._effective_number() if len(self.labels) else 0.0
        return _beta_quantiles(self.share * number, (1 - self.share) * number)

    def _effective_number(self) -> float:
        """Independent labels with as much information; at most Kish's for unequal weights."""
        kish = float(self.weights.sum() ** 2 / (self.weights**2).sum())
        residuals = self.weights * (self.labels - self.share) / self.weights.sum()
        sums: dict[Hashable, float] = {}
        for theme, residual in zip(self.themes, residuals, strict=True):
            sums[theme] = sums.get(theme, 0.0) + float(residual)
        if len(sums) < 2:
            return kish
        variance = len(sums) / (len(sums) - 1) * math.fsum(each**2 for each in sums.values())
        return min(self.share * (1 - self.share) / variance, kish) if variance > 1e-18 else kish


@dataclass(frozen=True)
class MonotoneMap:
    """A rising function of a raw score, as plain numbers: linear between points, level outside.

    Attributes:
        scores: Raw scores, rising.
        values: The label expected at each, not falling.
    """

    scores: tuple[float, ...]
    values: tuple[float, ...]

    def apply(self, score: float) -> float:
        """The label expected at a raw score; NaN at NaN."""
        return float(np.interp(score, self.scores, self.values))


def monotone_map(scores: Sequence[float], labels: Sequence[float]) -> MonotoneMap:
    """Isotonic regression of labels on raw scores, least squares.

    Args:
        scores: A judge's raw scores.
        labels: The label of each answer.

    Raises:
        ValueError: There are no scores, or one is not a finite number.
    """
    # Imported here: scipy takes a third of a second to import, and only calibrations need it.
    from scipy.optimize import isotonic_regression

    x, y = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    if not len(x) or not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError("scores and labels must be finite numbers, at least one of each")
    points, positions, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(positions, y) / counts
    values = isotonic_regression(means, weights=counts).x
    # A level stretch needs its two ends alone.
    level = np.r_[False, (values[1:-1] == values[:-2]) & (values[1:-1] == values[2:]), False]
    ends = ~level[: len(values)]
    return MonotoneMap(tuple(points[ends].tolist()), tuple(values[ends].tolist()))


def _nothing(reason: str) -> Corrected:
    return Corrected(math.nan, math.nan, math.nan, reason)


def _with_other_themes(rate: Corrected, themes: Sequence[Hashable], confidence: float) -> Corrected:
    """Bounds that allow for themes unlike these, where errors of the judge could explain them all.

    Such errors come to all themes alike, so they look like independent answers and would hide that
    misaligned answers come by theme.
    """
    low, high = min(rate.low, rate.value), max(rate.high, rate.value)
    if low == 0:
        high = max(high, cluster_interval([False] * len(themes), themes, confidence).high)
    if high == 1:
        low = min(low, cluster_interval([True] * len(themes), themes, confidence).low)
    return Corrected(rate.value, low, high)


def _label_laws(errors: JudgeErrors) -> tuple[_Array, _Array]:
    """Joint quantiles of the sensitivity and the share of false alarms, [pairs of levels] each."""
    one, other = errors.positive_design, errors.negative_design
    missed, cleared = errors.positives - errors.detected, errors.negatives - errors.false_alarms
    hits = _beta_quantiles(errors.detected / one, missed / one)
    alarms = _beta_quantiles(errors.false_alarms / other, cleared / other)
    return np.repeat(hits, len(alarms)), np.tile(alarms, len(hits))


@lru_cache(maxsize=256)
def _beta_quantiles(part: float, rest: float) -> _Array:
    """Quantiles of Jeffreys' posterior of a share, [levels]."""
    # Imported here: scipy takes a third of a second to import, and only finished runs need it.
    from scipy.special import betaincinv

    return np.asarray(betaincinv(part + 0.5, rest + 0.5, _BETA_LEVELS))


def _solve(share_below: Callable[[float], float], target: float) -> float:
    """The rate in 0-1 with a share of draws below it of `target`; an end where there is none."""
    # Imported here: scipy takes a third of a second to import, and only finished runs need it.
    from scipy.optimize import brentq

    if share_below(0.0) >= target:
        return 0.0
    if share_below(1.0) <= target:
        return 1.0
    return float(brentq(lambda rate: share_below(rate) - target, 0.0, 1.0, xtol=1e-6))
