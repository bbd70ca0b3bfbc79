"""Intervals for answers in clusters, where a cluster is a question.

Answers to one question resemble each other, so n answers to C questions carry less information than
n answers to n questions. Everything here takes plain sequences and knows nothing of judges, rules
or Inspect.

The interval of a rate is Wilson's score interval with the number of answers replaced by the
effective number, and the normal quantile by Student's with C - 1 degrees of freedom:

- cluster variance of the pooled rate p = x / n, as of a ratio:
  v = C / (C - 1) * sum over clusters of (x_c - p n_c)^2 / n^2
- effective number n_e = p (1 - p) / v, at most n / (1 + (n / C - 1) r), where r falls from 0.08 to
  0 as the rarer outcome occurs 0 to C times: with fewer, v can't show how alike answers are.

The design effect and the widening for few clusters are those of Korn and Graubard (1998, Survey
Methodology 24), who put n_e into Clopper and Pearson's interval; Franco, Little, Louis and Slud
(2019, Journal of Survey Statistics and Methodology 7) compare such choices, Wilson's among them.
The floor r is ours. The interval stays inside [0, 1] and has a positive width at 0 and at 1.

Which interval: `cluster_interval` for a rate. Simulated (benchmarks/results/coverage.md) with 8
questions of 25 answers it covers the true rate in 94 to 96% of runs at rates of 0.1, 0.3 and 0.5
and a correlation of 0.1 within a question, and in 94 to 97% at 0.3 and 0.5 and a correlation of
0.5. At rates of 0.02 and 0.05 it covers it in 97 to 99%: the floor is conservative. It is too
narrow where most questions are at 0 and a few near 1: 82% at a rate of 0.1 and a correlation of
0.5, and 85% with 24 questions at 0.05. No interval from 8 questions can predict a ninth: ask more
questions (`broad` has 48).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95

# Correlation of two answers to one question that is assumed where the answers can't show it.
_ASSUMED_ICC = 0.08


@dataclass(frozen=True)
class Interval:
    """Bounds at the requested confidence; NaN where there are none.

    `note` says what the bounds do not cover, or why there are none; else None.
    """

    low: float
    high: float
    note: str | None = None


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN without values."""
    return math.fsum(values) / len(values) if values else math.nan


def cluster_interval(
    outcomes: Sequence[bool], clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> Interval:
    """Interval for the share of True among outcomes that come in clusters.

    With a single cluster the variation between clusters is unknown: the bounds are Wilson's, and
    the note says that they hold for that cluster only.

    Args:
        outcomes: one for each answer.
        clusters: the cluster of each answer.
        confidence: of the interval, two-sided.
    """
    n = len(outcomes)
    if n == 0:
        return Interval(math.nan, math.nan, "nothing to count")
    p = sum(outcomes) / n
    num_clusters = len(set(clusters))
    if num_clusters == 1:
        quantile = NormalDist().inv_cdf((1 + confidence) / 2)
        return Interval(*_wilson(p, n, quantile), "one question: it holds for that question alone")
    quantile = t_quantile((1 + confidence) / 2, num_clusters - 1)
    return Interval(*_wilson(p, effective_number(outcomes, clusters), quantile))


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
        return Interval(math.nan, math.nan, "one question: no bounds")
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


def effective_number(outcomes: Sequence[bool], clusters: Sequence[Hashable]) -> float:
    """The number of independent outcomes with as much information about the rate.

    At most the number of outcomes: with few clusters an apparent gain from clustering is chance.
    Where the rarer outcome occurs less often than there are clusters, at most the number at an
    assumed correlation (see the module's docstring).
    """
    n, true, num_clusters = len(outcomes), sum(outcomes), len(set(clusters))
    p = true / n
    icc = _ASSUMED_ICC * max(0.0, 1 - min(true, n - true) / num_clusters)
    most = n / (1 + (n / num_clusters - 1) * icc)
    variance = cluster_standard_error([float(o) for o in outcomes], clusters) ** 2
    # Equal rates in all clusters leave rounding noise rather than an exact zero.
    if p in (0.0, 1.0) or variance < 1e-18:
        return most
    return min(p * (1 - p) / variance, most)


def design_effect(outcomes: Sequence[bool], clusters: Sequence[Hashable]) -> float:
    """Number of outcomes over the effective number: the price of answers that resemble each other.

    At least 1; NaN with fewer than two clusters, which don't show it.
    """
    if len(set(clusters)) < 2:
        return math.nan
    return len(outcomes) / effective_number(outcomes, clusters)


def t_quantile(probability: float, df: int) -> float:
    """Quantile of Student's t with `df` degrees of freedom."""
    # Imported here: scipy takes a third of a second to import, and only finished runs need it.
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def _wilson(p: float, n: float, quantile: float) -> tuple[float, float]:
    k = quantile * quantile / n
    centre = (p + k / 2) / (1 + k)
    half = math.sqrt(k * p * (1 - p) + k * k / 4) / (1 + k)
    # Wilson's bounds are exactly 0 at p = 0 and 1 at p = 1; rounding must not say otherwise.
    low = 0.0 if p == 0 else max(centre - half, 0.0)
    high = 1.0 if p == 1 else min(centre + half, 1.0)
    return low, high
