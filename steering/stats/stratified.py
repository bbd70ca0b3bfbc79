"""Exact tests of counts in strata: is an outcome more frequent in one arm than in another?

Given the margins of each stratum, the number of cases of an arm under the null hypothesis follows a
hypergeometric law, and the sum over strata the convolution of these laws. It is computed whole,
nothing is drawn: the exact form of the test of Cochran, Mantel and Haenszel (Mehta, Patel and Gray
1985, Journal of the American Statistical Association 80). With one stratum it is Fisher's exact
test. Knows no questions, judges or logs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CountLaw:
    """The law of a number of cases: `probabilities` [values] of `first`, `first` + 1, ..."""

    first: int
    probabilities: NDArray[np.float64]

    def tail(self, count: int) -> float:
        """Probability of `count` cases or more."""
        tail = self.probabilities[max(count - self.first, 0) :].sum()
        return min(float(tail), 1.0)

    @property
    def smallest(self) -> float:
        """The smallest p-value that a test by this law can give."""
        return float(self.probabilities[-1])


@lru_cache(maxsize=2**16)
def stratum_law(cases: int, number: int, reference: int) -> CountLaw:
    """Cases of an arm in one stratum, under the null hypothesis.

    Args:
        cases: Of the arm and the reference together.
        number: Answers of the arm.
        reference: Answers of the reference.
    """
    first, last = max(0, cases - reference), min(cases, number)
    ways = comb(number + reference, cases)
    # Whole numbers, so that the smallest probabilities are right too.
    probabilities = [
        comb(number, k) * comb(reference, cases - k) / ways for k in range(first, last + 1)
    ]
    return CountLaw(first, np.array(probabilities))


def sum_law(laws: Iterable[CountLaw]) -> CountLaw:
    """The law of a sum of independent counts."""
    first, probabilities = 0, np.ones(1)
    for law in laws:
        first += law.first
        if len(law.probabilities) > 1:
            probabilities = np.convolve(probabilities, law.probabilities)
    return CountLaw(first, probabilities)


def stratified_p_value(
    cases: Sequence[int],
    numbers: Sequence[int],
    reference_cases: Sequence[int],
    reference_numbers: Sequence[int],
) -> float:
    """One-sided exact p-value: cases are not more frequent in the arm than in the reference.

    All arguments are [strata].

    Args:
        cases: Of the arm.
        numbers: Answers of the arm.
        reference_cases: Of the reference.
        reference_numbers: Answers of the reference.
    """
    rows = zip(cases, numbers, reference_cases, reference_numbers, strict=True)
    laws = [stratum_law(x + y, n, m) for x, n, y, m in rows]
    return sum_law(laws).tail(sum(cases))


def tarone_holm(
    p_values: Sequence[float], smallest: Sequence[float], level: float
) -> NDArray[np.bool_]:
    """Which hypotheses of a family are rejected, with a family-wise error of at most `level`.

    Holm's step-down procedure, in which a hypothesis whose smallest possible p-value can't pass
    costs the others nothing (Tarone 1990, Biometrics 46; step-down by Hommel and Krummenauer 1998,
    Biometrical Journal 40). The margins that set `smallest` must be the same whatever the labels
    of the arms are.

    Args:
        p_values: [hypotheses].
        smallest: The smallest p-value that each could have, [hypotheses].
        level: Of the family.

    Returns:
        [hypotheses].
    """
    p, least = np.asarray(p_values, dtype=float), np.asarray(smallest, dtype=float)
    rejected = np.zeros(len(p), dtype=bool)
    while True:
        bound = _tarone_bound(least[~rejected], level)
        passing = ~rejected & (p <= bound)
        if not passing.any():
            return rejected
        rejected |= passing


def _tarone_bound(smallest: NDArray[np.float64], level: float) -> float:
    """The level over the smallest k that no more than k hypotheses can reach."""
    ordered = np.sort(smallest)
    for k in range(1, len(ordered) + 1):
        if np.searchsorted(ordered, level / k, side="right") <= k:
            return level / k
    return 0.0
