"""Intervals for the rate of an outcome, such as EM, among answers to questions of several themes.

A theme is a question with all its wordings and formats. A rate has two intervals, and they answer
two questions. `stratified_interval`, *on these questions*: how far can the rate be from what these
very questions would show with any number of answers? The themes are fixed and answers are the
sample. `cluster_interval`, *on questions like these*: how far can it be from the rate over all the
themes of which these are a sample? It is the wider one, since answers to a theme resemble each
other.

Both hold the true rate in at least 92% of simulated runs at every point of a grid of 4 to 64
themes, 1 to 100 answers to a theme, rates of 0.01 to 0.5 and correlations of 0 to 0.5, and where a
theme either fails at 0.8 or not at all (benchmarks/results/coverage.md).

**On these questions.** The variance of the rate is v = sum over themes of w^2 p (1 - p) / n, with
each theme's p shrunk by two answers at the pooled rate: a few answers that agree don't show that
all would. Clopper and Pearson's beta quantile with p (1 - p) / v answers in place of their number.
The upper bound adds one event where it would weigh most (Fay and Feuer 1997, Statistics in Medicine
16), so that themes with few answers can't hide one. With equal numbers and equal rates it is
nearly Clopper and Pearson's own interval.

**On questions like these.** The union of two intervals, since each alone fails somewhere on the
grid:

- Bayesian, of a beta-binomial model of the themes' counts. The prior of the correlation rho within
  a theme: answers are independent (30%), rho follows beta(1/2, 3) (65%), themes are all or nothing
  (5%). The mean rate mu has the improper priors 1 / (1 - mu) for the upper and
  1 / mu for the lower bound, which give Clopper and Pearson's interval where each theme has one
  answer. None of C themes misaligned: the upper bound stays at about 3 / C, however many the
  answers, since a theme that breaks may not be among them.
- Wilson's with the effective number of answers p (1 - p) / v, v the variance between themes as of a
  ratio, and Student's t with C - 1 degrees of freedom (Korn and Graubard 1998, Survey Methodology
  24). It assumes no shape: where most themes are at 0 and a few near 1 the model is wrong.

Everything here takes plain sequences and knows nothing of judges, rules or Inspect.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

_Array = NDArray[np.float64]

# A theme's rate is shrunk towards the pooled one by so many answers.
_SHRINK = 2.0

# The grid of the posterior. Mean rate: its logit, finer where rates of real runs are. Correlation:
# independent, the squares of midpoints of [0, 1], on which the beta(1/2, 3) prior has the weight
# (1 - rho)^2, and all or nothing. Without the last the interval fails where one theme in 16 or 32
# breaks; without the first it is up to three times as wide where answers are independent.
_LOGITS = np.concatenate(
    [np.arange(-14, -6, 0.2), np.arange(-6, 6, 0.04), np.arange(6, 14 + 1e-9, 0.2)]
)
_RATES = 1 / (1 + np.exp(-_LOGITS))
_RHO = np.concatenate([[1e-6], ((np.arange(20) + 0.5) / 20) ** 2, [0.995]])


def correlation_prior(independent: float, power: float, all_or_nothing: float) -> _Array:
    """Weights of the grid of correlations: a beta(1/2, `power`) prior between two extremes."""
    between = (1 - _RHO[1:-1]) ** (power - 1)
    share = 1 - independent - all_or_nothing
    return np.concatenate([[independent], share * between / between.sum(), [all_or_nothing]])


_PRIOR = correlation_prior(0.3, 3, 0.05)


@dataclass(frozen=True)
class Interval:
    """Bounds at the requested confidence; NaN where there are none.

    `note` says what the bounds do not cover, or why there are none; else None.
    """

    low: float
    high: float
    note: str | None = None


@dataclass(frozen=True)
class _Themes:
    """Counts by theme, [themes] each; the weights add up to 1."""

    true: _Array
    total: _Array
    weights: _Array

    @property
    def rates(self) -> _Array:
        return self.true / self.total

    @property
    def rate(self) -> float:
        """The weighted mean of the themes' rates, exact where all of them are 0 or all are 1."""
        ends = {0.0: 0.0, 1.0: 1.0}
        return ends.get(self.true.sum() / self.total.sum(), float(self.weights @ self.rates))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN without values."""
    return math.fsum(values) / len(values) if values else math.nan


def stratified_interval(
    outcomes: Sequence[float],
    strata: Sequence[Hashable],
    confidence: float = CONFIDENCE,
    weights: Sequence[float] | None = None,
) -> Interval:
    """Interval for the share of True *on these questions*: the strata are fixed.

    Args:
        outcomes: one for each answer: True or False, or a share of either.
        strata: the theme (or question) of each answer.
        confidence: of the interval, two-sided.
        weights: of each answer, the rate being the weighted mean; all equal when not given.
    """
    if not outcomes:
        return Interval(math.nan, math.nan, "nothing to count")
    themes = _by_theme(outcomes, strata, weights)
    other = _Themes(themes.total - themes.true, themes.total, themes.weights)
    tail = (1 - confidence) / 2
    return Interval(1 - _stratified_bound(other, tail), _stratified_bound(themes, tail))


def stratified_upper_bound(
    true: NDArray[np.int64], total: NDArray[np.int64], error: float
) -> float:
    """Upper bound on these questions, from counts; each stratum weighs the same.

    Args:
        true: How often the outcome is True, [strata].
        total: Outcomes, at least one each, [strata].
        error: One-sided.
    """
    weights = np.full(len(total), 1 / len(total))
    return _stratified_bound(_Themes(true.astype(float), total.astype(float), weights), error)


def cluster_interval(
    outcomes: Sequence[float],
    clusters: Sequence[Hashable],
    confidence: float = CONFIDENCE,
    weights: Sequence[float] | None = None,
) -> Interval:
    """Interval for the share of True *on questions like these*: the clusters are a sample.

    With a single cluster the variation between clusters is unknown: there are no bounds, and the
    note says so. Arguments as of `stratified_interval`.
    """
    if not outcomes:
        return Interval(math.nan, math.nan, "nothing to count")
    themes = _by_theme(outcomes, clusters, weights)
    if len(themes.total) == 1:
        return Interval(math.nan, math.nan, "one theme: no bounds on questions like these")
    tail = (1 - confidence) / 2
    lows, highs = _bounds(themes, np.array([tail, 1 - tail]))
    return Interval(float(lows[0]), float(highs[1]))


def cluster_bounds(
    outcomes: Sequence[float], clusters: Sequence[Hashable], levels: _Array
) -> tuple[_Array, _Array]:
    """All one-sided bounds for the share of True *on questions like these*.

    Args:
        outcomes: as of `cluster_interval`.
        clusters: at least two different ones.
        levels: between 0 and 1, rising; [levels].

    Returns:
        Lower bounds, each passed with the probability of its level, and upper bounds, each held
        with it; [levels] both. `cluster_interval` has the ends of either.
    """
    return _bounds(_by_theme(outcomes, clusters, None), levels)


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> Interval:
    """Student's t interval for the pooled mean of values that come in clusters.

    The standard error is `cluster_standard_error`, with C - 1 degrees of freedom. The interval of
    equal values has width 0. Arguments as of `cluster_interval`.
    """
    if not values:
        return Interval(math.nan, math.nan, "nothing to count")
    num_clusters = len(set(clusters))
    if num_clusters == 1:
        return Interval(math.nan, math.nan, "one theme: no bounds on questions like these")
    centre = mean(values)
    quantile = t_quantile((1 + confidence) / 2, num_clusters - 1)
    half = quantile * cluster_standard_error(values, clusters)
    return Interval(centre - half, centre + half)


def cluster_standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the pooled mean of values in clusters; NaN for fewer than two clusters.

    Equals the cluster-robust error of a regression on a constant, with its usual C / (C - 1).
    """
    sums: dict[Hashable, float] = {}
    centre = mean(values)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + (value - centre)
    if len(sums) < 2:
        return math.nan
    factor = len(sums) / (len(sums) - 1)
    return math.sqrt(factor * math.fsum(s * s for s in sums.values())) / len(values)


def design_effect(outcomes: Sequence[bool], clusters: Sequence[Hashable]) -> float:
    """Number of outcomes over the effective number: the price of answers that resemble each other.

    At least 1; NaN with fewer than two clusters, which don't show it.
    """
    themes = _by_theme(outcomes, clusters, None) if outcomes else None
    if themes is None or len(themes.total) < 2:
        return math.nan
    return float(themes.total.sum() / _effective_number(themes))


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t with `df` degrees of freedom."""
    # Imported here: scipy takes a third of a second to import, and only finished runs need it.
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def _by_theme(
    outcomes: Sequence[float], themes: Sequence[Hashable], weights: Sequence[float] | None
) -> _Themes:
    positions = {theme: position for position, theme in enumerate(dict.fromkeys(themes))}
    codes = np.array([positions[theme] for theme in themes])
    values = np.ones(len(codes)) if weights is None else np.asarray(weights, dtype=float)
    true, total, shares = (
        np.bincount(codes, each).astype(np.float64)
        for each in (np.asarray(outcomes, dtype=float), np.ones(len(codes)), values)
    )
    return _Themes(true, total, shares / values.sum())


def _stratified_bound(themes: _Themes, tail: float) -> float:
    """Upper bound on these questions, passed with probability `tail`."""
    from scipy.special import betaincinv

    rate, total = themes.rate, themes.total
    if rate == 1:
        return 1.0
    shrunk = (themes.true + _SHRINK * rate) / (total + _SHRINK)
    # One more event, where it would weigh most.
    most = float((themes.weights / total).max())
    variance = float((themes.weights**2 * shrunk * (1 - shrunk) / total).sum())
    variance += (1 - rate) * most**2
    raised = rate + (1 - rate) * most
    number = raised * (1 - raised) / variance + 1
    return float(betaincinv(rate * number + 1, (1 - rate) * number, 1 - tail))


def _bounds(themes: _Themes, levels: _Array) -> tuple[_Array, _Array]:
    """Lower and upper bounds at each level: the union of both kinds."""
    low, high = _posterior_bounds(themes, levels)
    other = _variance_bounds(themes, levels)
    return np.minimum(low, other), np.maximum(high, other)


def _variance_bounds(themes: _Themes, levels: _Array) -> _Array:
    """Wilson's bounds with the effective number of answers and Student's t, [levels]."""
    from scipy.special import stdtrit

    quantiles = stdtrit(len(themes.total) - 1, levels)
    return _wilson(themes.rate, _effective_number(themes), quantiles)


def _effective_number(themes: _Themes) -> float:
    """The number of independent outcomes with as much information about the rate.

    At most the number of outcomes: with few themes an apparent gain from clustering is chance.
    """
    rate, num_themes, total = themes.rate, len(themes.total), float(themes.total.sum())
    residuals = themes.weights * (themes.rates - rate)
    variance = num_themes / (num_themes - 1) * float(residuals @ residuals)
    # Equal rates in all themes leave rounding noise rather than an exact zero.
    if rate in (0.0, 1.0) or variance < 1e-18:
        return total
    return min(rate * (1 - rate) / variance, total)


def _wilson(p: float, n: float, quantiles: _Array) -> _Array:
    """Wilson's lower bounds for quantiles below 0, and upper ones above."""
    k = quantiles * quantiles / n
    centre = (p + k / 2) / (1 + k)
    half = np.sqrt(k * p * (1 - p) + k * k / 4) / (1 + k)
    bounds = np.clip(centre + np.sign(quantiles) * half, 0.0, 1.0)
    # Wilson's bounds are exactly 0 at p = 0 and 1 at p = 1; rounding must not say otherwise.
    if p == 0:
        bounds[quantiles <= 0] = 0.0
    if p == 1:
        bounds[quantiles >= 0] = 1.0
    return np.asarray(bounds)


def _posterior_bounds(themes: _Themes, levels: _Array) -> tuple[_Array, _Array]:
    """Bounds of the mean rate of the beta-binomial model, each under its own prior, [levels]."""
    pairs = Counter(zip(themes.true.tolist(), themes.total.tolist(), strict=True))
    likelihood = sum(count * _theme_likelihood(*pair) for pair, count in pairs.items())
    density = np.exp(likelihood - np.max(likelihood)) @ _PRIOR
    # By the logit the prior 1 / mu leaves the factor 1 - mu, and the other one mu.
    low, high = np.zeros(len(levels)), np.ones(len(levels))
    if themes.rate > 0:
        low = _quantiles(density * (1 - _RATES), levels)
    if themes.rate < 1:
        high = _quantiles(density * _RATES, levels)
    return low, high


@lru_cache(maxsize=1024)
def _theme_likelihood(true: float, total: float) -> _Array:
    """Log likelihood of a theme's counts under the beta-binomial law, [rates, correlations]."""
    from scipy.special import betaln

    spread = 1 / _RHO - 1
    a, b = np.outer(_RATES, spread), np.outer(1 - _RATES, spread)
    return np.asarray(betaln(true + a, total - true + b) - betaln(a, b))


def _quantiles(density: _Array, levels: _Array) -> _Array:
    """Quantiles of a density on the grid of logits, [levels]."""
    areas = (density[1:] + density[:-1]) / 2 * np.diff(_LOGITS)
    cumulative = np.concatenate([[0.0], np.cumsum(areas)])
    logits = np.interp(levels * cumulative[-1], cumulative, _LOGITS)
    return np.asarray(1 / (1 + np.exp(-logits)))
