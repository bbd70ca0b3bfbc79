"""Intervals of means, design effects and power, pinned by scipy, statsmodels and simulation."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.power import TTestPower

from steering.stats import (
    between_question_sd,
    cluster_interval,
    design_effect,
    mean_interval,
    minimum_detectable_difference,
    paired_difference,
)
from steering.stats.paired import noncentrality


def test_mean_interval_equals_a_regression_s_with_student_s_t() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(9), rng.integers(1, 12, 9))
    values = 50 + 20 * rng.standard_normal(9)[clusters] + rng.standard_normal(len(clusters))
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True
    )
    ours = mean_interval(values.tolist(), clusters.tolist())
    assert (ours.low, ours.high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert mean_interval([], []).note == "nothing to count"
    assert "one theme" in (mean_interval([1.0, 2.0], ["a", "a"]).note or "")


def test_design_effects_worked_out_by_hand() -> None:
    # All or nothing in 4 of 8 questions of 10: v = 8/7 * 8 * 25 / 6400 = 1/28, n_e = 7.
    split = [n < 4 for n in range(8) for _ in range(10)]
    clusters = [n for n in range(8) for _ in range(10)]
    assert design_effect(split, clusters) == pytest.approx(80 / 7)
    # Half of each question: nothing is lost.
    assert design_effect([i < 5 for _ in range(8) for i in range(10)], clusters) == 1
    # None at all, or two in two questions: no more alike than chance would have it.
    assert design_effect([False] * 80, clusters) == 1
    two = [i == 0 and n < 2 for n in range(8) for i in range(10)]
    assert design_effect(two, clusters) == 1
    assert math.isnan(design_effect([True, False], ["a", "a"]))


def test_a_rate_near_0_narrows_as_more_is_seen_and_not_by_leaps() -> None:
    """From no misaligned answer to one in each of 8 questions, a question at a time."""
    clusters = [n for n in range(8) for _ in range(25)]
    highs = [
        cluster_interval([i == 0 and n < count for n in range(8) for i in range(25)], clusters).high
        for count in range(10)
    ]
    steps = np.diff(highs[:9])
    # The first one speaks against themes that are all or nothing, which zeros leave open: the one
    # leap, downwards, that docs/explanation/intervals.md tells of.
    assert -0.2 < steps[0] < 0
    assert np.abs(steps[1:]).max() < 0.02


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("questions", [3, 8, 24, 300])
def test_noncentrality_equals_statsmodels_power_of_a_paired_test(
    questions: int, power: float
) -> None:
    effect = TTestPower().solve_power(
        nobs=questions, power=power, alpha=0.05, alternative="two-sided"
    )
    ours = noncentrality(questions - 1, power) / math.sqrt(questions)
    assert ours == pytest.approx(effect, rel=1e-3)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_noncentrality_of_two_questions_has_its_power_by_scipy(power: float) -> None:
    """Where statsmodels finds no solution or a wrong one."""
    critical = stats.t.ppf(0.975, 1)
    assert stats.nct.sf(critical, 1, noncentrality(1, power)) == pytest.approx(power, abs=1e-3)


def detected(base: np.ndarray, other: np.ndarray, samples: int) -> float:
    """How often the interval of simulated differences [runs, questions] leaves 0 out."""
    rng = np.random.default_rng(11)
    differences = (rng.binomial(samples, other) - rng.binomial(samples, base)) / samples
    half = stats.t.ppf(0.975, differences.shape[1] - 1) * stats.sem(differences, axis=1)
    return float((np.abs(differences.mean(1)) > half).mean())


@pytest.mark.parametrize(("questions", "sd"), [(8, 0.1), (24, 0.1), (24, 0.0)])
def test_the_detectable_difference_at_a_known_spread_is_found_four_times_in_five(
    questions: int, sd: float
) -> None:
    difference = minimum_detectable_difference(questions, 20, 0.3, between_sd=sd)
    other = 0.3 + difference + sd * np.random.default_rng(5).standard_normal((4000, questions))
    assert detected(np.full(other.shape, 0.3), np.clip(other, 0, 1), 20) == pytest.approx(
        0.8, abs=0.03
    )


def test_the_detectable_difference_at_a_high_rate_is_that_of_the_low_one() -> None:
    low = minimum_detectable_difference(24, 20, 0.1, between_sd=0.1)
    assert minimum_detectable_difference(24, 20, 0.9, between_sd=0.1) == pytest.approx(low)


def test_more_questions_and_samples_find_smaller_differences() -> None:
    differences = [
        minimum_detectable_difference(questions, samples, 0.0, between_sd=0.1)
        for questions, samples in ((8, 5), (8, 20), (24, 20), (100, 20))
    ]
    assert differences == sorted(differences, reverse=True)
    assert 0 < differences[-1] < differences[0] < 1
    assert math.isnan(minimum_detectable_difference(1, 20, 0.1, between_sd=0.1))
    # Two questions: t(0.975, 1) = 12.7, too wide for any difference of rates.
    assert math.isnan(minimum_detectable_difference(2, 1, 0.5, between_sd=1.0))


def test_between_question_spread_is_what_sampling_leaves_over() -> None:
    # 0.3 * 0.7 / 10 + 0.1 * 0.9 / 10 = 0.03 of the variance is sampling.
    assert between_question_sd(0.2, 0.3, 0.1, 10) == pytest.approx(0.1)
    assert between_question_sd(0.1, 0.3, 0.1, 10) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"between_sd": -0.1}, "between_sd=-0.1"),
        ({"between_sd": math.nan}, "between_sd=nan"),
        ({"base_rate": 1.5}, "base_rate=1.5"),
        ({"samples_per_question": 0}, "samples_per_question=0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    options: dict = {"num_questions": 8, "samples_per_question": 20, "base_rate": 0.1}
    options |= {"between_sd": 0.1, **arguments}
    with pytest.raises(ValueError, match=message):
        minimum_detectable_difference(**options)


def test_differences_are_of_the_questions_that_both_conditions_have() -> None:
    rates, reference = {"a": 0.6, "b": 0.2, "x": 0.9}, {"b": 0.1, "a": 0.2, "y": 0.9}
    difference = paired_difference(rates, reference)
    assert difference.value == pytest.approx(0.25)
    assert difference.left_out == ("x", "y")


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_differences_that_are_all_equal_leave_no_interval_of_no_width(rate: float) -> None:
    """Two conditions without a misaligned answer are not known to be equal."""
    names = [f"q{number}" for number in range(8)]
    difference = paired_difference(dict.fromkeys(names, rate), dict.fromkeys(names, 0.0))
    assert difference.value == pytest.approx(rate)
    assert math.isnan(difference.low)
    assert math.isnan(difference.high)
    assert "the same in all 8 themes" in (difference.note or "")
