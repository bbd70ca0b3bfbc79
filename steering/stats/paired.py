"""Comparisons of two conditions that were asked the same questions, paired by question.

A question's difficulty affects both conditions and cancels in the difference, so the statistics use
one difference for each question. Input is plain mappings from question to rate; nothing here knows
of judges, rules or Inspect.

Which interval: Student's t of `paired_difference`. Simulated (benchmarks/results/coverage.md) with
8 and 24 questions of 20 answers, it holds the true difference in 92 to 97% of runs, and in up to
100% where both rates are near 0. The p-value of the sign flips assumes no shape of the
distribution, and is exact with few questions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from steering.stats.intervals import CONFIDENCE, mean, mean_interval, t_quantile

POWER = 0.8

# All 2^16 sign flips are computed; for more questions as many are drawn.
_MAX_EXACT = 16
_DRAWS = 2**16

TOLERANCE = 1e-9
"""Means (0-1) that differ by less count as equal: adding in another order gives rounding errors."""


@dataclass(frozen=True)
class Difference:
    """A difference between two conditions, paired by question.

    Attributes:
        value: mean over questions of the paired differences; NaN without questions.
        low: lower bound (Student's t over the questions' differences); NaN if they are all equal.
        high: upper bound.
        p_value: two-sided, by flipping signs of the questions' differences; NaN without questions.
        exact: whether all flips were computed rather than drawn.
        num_questions: number of questions for which both conditions have a number.
        left_out: questions that only one of them has, or that are NaN in one.
        note: why there are no bounds, or None.
    """

    value: float
    low: float
    high: float
    p_value: float
    exact: bool
    num_questions: int
    left_out: tuple[str, ...]
    note: str | None = None


def means_by_theme(values: Sequence[float], themes: Sequence[str]) -> dict[str, float]:
    """Mean of each theme, as `paired_difference` takes them."""
    of_theme: dict[str, list[float]] = {}
    for theme, value in zip(themes, values, strict=True):
        of_theme.setdefault(theme, []).append(value)
    return {theme: mean(of_one) for theme, of_one in of_theme.items()}


def paired_difference(
    rates: Mapping[str, float],
    reference: Mapping[str, float],
    confidence: float = CONFIDENCE,
    *,
    largest: float = 1.0,
) -> Difference:
    """Compare two conditions question by question: `rates` minus `reference`.

    The p-value is that of the sign-flip permutation test on the mean difference: exact up to
    16 shared questions, from 65,536 seeded draws beyond. With C questions it can't fall below
    2 / 2^C, so fewer than six can't reach 0.05.

    Args:
        rates: question id to rate; NaN where the question has no rate.
        reference: the same for the condition to compare with.
        confidence: of the interval, two-sided.
        largest: the largest difference there can be, which no bound exceeds: 1 of rates, infinity
            of numbers without bounds.
    """
    shared = sorted(
        q for q in rates.keys() & reference.keys() if not math.isnan(rates[q] - reference[q])
    )
    left_out = tuple(sorted((rates.keys() | reference.keys()) - set(shared)))
    differences = np.array([rates[q] - reference[q] for q in shared], dtype=np.float64)
    count = len(differences)
    if count == 0:
        none = "no question has a number in both"
        return Difference(math.nan, math.nan, math.nan, math.nan, True, 0, left_out, none)
    interval = mean_interval(differences.tolist(), range(count), confidence)
    low, high, note = interval.low, interval.high, interval.note
    if count > 1 and np.ptp(differences) <= TOLERANCE:
        # Student's t would be an interval of no width, whatever the number of answers.
        low = high = math.nan
        note = f"the difference is the same in all {count} themes, so it has no spread"
    low, high = np.clip([low, high], -largest, largest)
    return Difference(
        value=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=sign_flip_p_value(differences),
        exact=count <= _MAX_EXACT,
        num_questions=count,
        left_out=left_out,
        note=note,
    )


def sign_flip_p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value of the mean of [questions] by flipping their signs; NaN without any."""
    if not len(differences):
        return math.nan
    means = np.abs(sign_flipped_means(differences[None]))
    return float((means >= means[0] - TOLERANCE).mean())


def sign_flipped_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over questions with the questions' signs flipped: the null distribution of a mean.

    A question's sign is flipped in all rows at once. All 2^C flips of up to 16 questions, else
    65,536 seeded draws behind the data's own signs, which are one of the draws (Phipson and Smyth
    2010). `scipy.stats.permutation_test` does not flip several rows together.

    Args:
        values: [rows, questions].

    Returns:
        [flips, rows]; the first flip is the values as they are.
    """
    count = values.shape[1]
    return _signs(count) @ values.T / count


# 30 MB for 56 questions, which a study needs again and again.
@lru_cache(maxsize=2)
def _signs(count: int) -> NDArray[np.float64]:
    if count <= _MAX_EXACT:
        flipped = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        draws = np.random.default_rng(0).integers(0, 2, size=(_DRAWS, count))
        flipped = np.vstack([np.zeros((1, count), dtype=draws.dtype), draws])
    return np.asarray(1.0 - 2.0 * flipped, dtype=np.float64)


def minimum_detectable_difference(
    num_questions: int,
    samples_per_question: float,
    base_rate: float,
    *,
    between_sd: float,
    power: float = POWER,
    confidence: float = CONFIDENCE,
) -> float:
    """The smallest true difference that a paired comparison detects with probability `power`.

    It is the d that solves d = delta * sd(d) / sqrt(C), for C questions of m samples, rates p in
    the reference and q = p + d in the other condition (q = p - d where p is above one half):

    - delta is the noncentrality at which a two-sided paired t test with C - 1 degrees of freedom
      has the requested power (Cohen 1988, Statistical Power Analysis, chapter 2)
    - sd(d)^2 = between_sd^2 + V / m, with V = p (1 - p) + q (1 - q)

    It assumes that the questions' rates are equal within a condition, which gives a larger
    difference than pairs that are correlated need.

    Args:
        num_questions: number of questions in both conditions.
        samples_per_question: number of answers that count, in each condition.
        base_rate: rate of the reference, 0 to 1.
        between_sd: standard deviation over questions of the true differences, 0 or more.
        power: probability that the interval excludes 0, at that difference.
        confidence: of the interval, two-sided.

    Returns:
        The difference, positive; NaN with fewer than two questions, or where even the largest
        possible difference is detected less often.

    Raises:
        ValueError: an argument is outside its range.
    """
    for name, value, low, high in (
        ("samples_per_question", samples_per_question, 1, math.inf),
        ("base_rate", base_rate, 0, 1),
        ("between_sd", between_sd, 0, 1),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}={value!r} is not a number from {low} to {high}")
    if num_questions < 2:
        return math.nan
    # Imported here: scipy costs a third of a second, and only comparisons need it.
    from scipy.optimize import brentq

    room = max(base_rate, 1 - base_rate)
    sign = 1 if base_rate <= 0.5 else -1
    scale = noncentrality(num_questions - 1, power, confidence) / math.sqrt(num_questions)

    def missing(difference: float) -> float:
        other = base_rate + sign * difference
        variance = base_rate * (1 - base_rate) + max(other * (1 - other), 0.0)
        return difference - scale * math.sqrt(between_sd**2 + variance / samples_per_question)

    # Near 0 the required difference is larger than d; at the far end it must not be.
    if missing(room) < 0:
        return math.nan
    return float(brentq(missing, 1e-12, room))


def noncentrality(df: int, power: float = POWER, confidence: float = CONFIDENCE) -> float:
    """Noncentrality at which a two-sided t test has the requested power."""
    from scipy.special import ncfdtrinc

    critical = t_quantile((1 + confidence) / 2, df)
    # The square of a noncentral t is a noncentral F with 1 and df degrees of freedom.
    return math.sqrt(float(ncfdtrinc(1, df, 1 - power, critical**2)))


def between_question_sd(
    difference_sd: float, rate: float, reference: float, samples: float
) -> float:
    """Standard deviation of questions' true differences: the observed one without sampling noise.

    `rate` and `reference` are the rates of both conditions, `samples` the answers to a question.
    """
    noise = (rate * (1 - rate) + reference * (1 - reference)) / samples
    return math.sqrt(max(difference_sd**2 - noise, 0.0))
