"""Exact tests in strata against brute force, scipy's Fisher test and a drawn permutation."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import fisher_exact

from steering.stats.stratified import (
    stratified_p_value,
    stratum_law,
    sum_law,
    tarone_holm,
)


@pytest.mark.parametrize(
    ("cases", "number", "reference_cases", "reference"),
    [(6, 6, 0, 6), (3, 15, 1, 15), (0, 9, 4, 12), (45, 45, 44, 45), (1, 1, 0, 20)],
)
def test_one_stratum_is_fishers_exact_test(
    cases: int, number: int, reference_cases: int, reference: int
) -> None:
    table = [[cases, number - cases], [reference_cases, reference - reference_cases]]
    expected = fisher_exact(table, alternative="greater").pvalue
    p_value = stratified_p_value([cases], [number], [reference_cases], [reference])
    assert p_value == pytest.approx(expected, rel=1e-10)


def test_several_strata_equal_the_count_over_all_relabellings() -> None:
    """Every way of dealing the answers of each stratum to the two arms, counted one by one."""
    arm = [[1, 1, 0], [1, 0], [0, 1, 1]]
    reference = [[0, 1], [0, 0, 1], [0, 0]]
    observed = sum(map(sum, arm))
    sums = {0: 1}
    for ours, theirs in zip(arm, reference, strict=True):
        pool = ours + theirs
        counts = [sum(pool[i] for i in rows) for rows in combinations(range(len(pool)), len(ours))]
        merged: dict[int, int] = {}
        for total, ways in sums.items():
            for count in counts:
                merged[total + count] = merged.get(total + count, 0) + ways
        sums = merged
    expected = sum(w for total, w in sums.items() if total >= observed) / sum(sums.values())
    p_value = stratified_p_value(
        [sum(each) for each in arm],
        [len(each) for each in arm],
        [sum(each) for each in reference],
        [len(each) for each in reference],
    )
    assert p_value == pytest.approx(expected, rel=1e-12)


def test_tails_far_below_rounding_are_right() -> None:
    # All 30 of 30 in each of 8 strata against none of 30: a single deal of each.
    p_value = stratified_p_value([30] * 8, [30] * 8, [0] * 8, [30] * 8)
    assert p_value == pytest.approx((1 / comb(60, 30)) ** 8, rel=1e-9)


def test_the_smallest_p_is_that_of_the_most_extreme_deal() -> None:
    law = sum_law([stratum_law(3, 5, 5), stratum_law(2, 5, 5)])
    assert law.smallest == pytest.approx(comb(5, 3) / comb(10, 3) * comb(5, 2) / comb(10, 2))
    assert law.tail(5) == pytest.approx(law.smallest)
    assert law.tail(0) == pytest.approx(1)


def test_a_hypothesis_that_cannot_pass_costs_the_others_nothing() -> None:
    # By Holm over all six, .05 / 6 = .0083 would be wanted.
    rejected = tarone_holm([0.02, *[1.0] * 5], [0.001, *[0.5] * 5], 0.05)
    assert rejected.tolist() == [True, *[False] * 5]


def test_where_every_hypothesis_can_pass_it_is_holms_procedure() -> None:
    # Holm: .0100 <= .05 / 4, .0160 <= .05 / 3, .0300 > .05 / 2.
    rejected = tarone_holm([0.03, 0.016, 0.01, 0.04], [0.0] * 4, 0.05)
    assert rejected.tolist() == [False, True, True, False]


def test_nothing_to_test_rejects_nothing() -> None:
    assert tarone_holm([], [], 0.05).tolist() == []


def test_the_family_wise_error_is_kept_over_discrete_tests() -> None:
    """Two arms alike in 20 strata, tested one by one and together: 2,000 runs."""
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(2000):
        rates = rng.beta(1, 9, size=20)
        arm, reference = (rng.binomial(12, rates) for _ in range(2))
        laws = [stratum_law(int(x + y), 12, 12) for x, y in zip(arm, reference, strict=True)]
        counts = [*map(int, arm), int(arm.sum())]
        laws.append(sum_law(laws))
        p_values = [law.tail(count) for law, count in zip(laws, counts, strict=True)]
        wrong += tarone_holm(p_values, [law.smallest for law in laws], 0.05).any()
    assert wrong / 2000 <= 0.05
