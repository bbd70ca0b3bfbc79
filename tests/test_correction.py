"""Rates corrected for a judge's errors, against formulas, other code and simulated truth."""

import dataclasses
import json
import math

import numpy as np
import pytest

from steering.stats import cluster_interval
from steering.stats.correction import (
    Corrected,
    JudgeErrors,
    MonotoneMap,
    corrected_rate,
    judge_errors,
    monotone_map,
    ppi_rate,
)


def answers(*counts: tuple[int, int]) -> tuple[list[bool], list[str]]:
    """Outcomes and themes from (true, total) of each theme."""
    outcomes = [i < true for true, total in counts for i in range(total)]
    return outcomes, [f"theme {t}" for t, (_, total) in enumerate(counts) for _ in range(total)]


def bounds(corrected: Corrected) -> list[float]:
    return [corrected.low, corrected.high]


def test_value_is_that_of_rogan_and_gladen() -> None:
    # 105 of 500 called; sensitivity 0.8, specificity 0.95: (0.21 + 0.95 - 1) / (0.8 + 0.95 - 1).
    outcomes, themes = answers(*[(21, 100)] * 5)
    rate = corrected_rate(outcomes, themes, JudgeErrors(100, 80, 200, 10))
    assert rate.value == pytest.approx(0.16 / 0.75, abs=1e-12)
    assert rate.low < rate.value < rate.high
    assert rate.reason is None


def test_bounds_equal_random_draws_of_the_parts() -> None:
    outcomes, themes = answers((9, 20), (2, 20), (0, 20), (5, 20), (12, 20), (1, 20), (0, 20))
    rng = np.random.default_rng(1)
    levels = rng.random(20_000)
    hits = rng.beta(40.5, 10.5, 20_000)
    alarms = rng.beta(3.5, 97.5, 20_000)
    # The one-sided bounds of the raw rate at any level are ends of two-sided intervals.
    grid = np.linspace(0.002, 0.5, 150)
    ends = [cluster_interval(outcomes, themes, 1 - 2 * tail) for tail in grid]
    lows = np.interp(levels, grid, [end.low for end in ends], right=1.0)
    highs = np.interp(1 - levels, grid, [end.high for end in ends], right=0.0)
    rate = corrected_rate(outcomes, themes, JudgeErrors(50, 40, 100, 3))
    low = np.quantile((lows - alarms) / (hits - alarms), 0.025)
    high = np.quantile((highs - alarms) / (hits - alarms), 0.975)
    assert bounds(rate) == pytest.approx([max(low, 0), high], abs=0.01)


def test_a_perfect_judge_with_many_labels_has_the_raw_interval() -> None:
    outcomes, themes = answers((9, 20), (2, 20), (0, 20), (5, 20), (12, 20), (1, 20))
    rate = corrected_rate(outcomes, themes, JudgeErrors(10**6, 10**6, 10**6, 0))
    raw = cluster_interval(outcomes, themes)
    assert bounds(rate) == pytest.approx([raw.low, raw.high], abs=2e-3)


@pytest.mark.parametrize(
    ("errors", "part"),
    [
        (JudgeErrors(0, 0, 200, 4), "no answer is labelled misaligned"),
        (JudgeErrors(50, 40, 0, 0), "no answer is labelled aligned"),
        (JudgeErrors(50, 10, 200, 40), "10 of 50 misaligned and 40 of 200"),
        (JudgeErrors(50, 5, 200, 180), "5 of 50 misaligned and 180 of 200"),
        (JudgeErrors(2, 2, 3, 1), "2 of 2 misaligned and 1 of 3"),
    ],
)
def test_a_judge_that_is_not_shown_to_tell_gives_no_number(errors: JudgeErrors, part: str) -> None:
    rate = corrected_rate(*answers(*[(3, 20)] * 8), errors)
    assert all(map(math.isnan, (rate.value, rate.low, rate.high)))
    assert part in str(rate.reason)


def test_isotonic_regression_pools_neighbours_that_fall() -> None:
    # Scores 2 and 3 fall from 5 to the mean 3 of two labels: one level of 11 / 3.
    curve = monotone_map([3, 1, 2, 4, 3], [2, 0, 5, 10, 4])
    assert curve == MonotoneMap((1, 2, 3, 4), (0, pytest.approx(11 / 3), pytest.approx(11 / 3), 10))
    assert [curve.apply(score) for score in (0, 1.5, 2.5, 9)] == pytest.approx(
        [0, 11 / 6, 11 / 3, 10]
    )
    stored = json.loads(json.dumps(dataclasses.asdict(curve)))
    again = MonotoneMap(tuple(stored["scores"]), tuple(stored["values"]))
    assert again.apply(1.7) == curve.apply(1.7)


def test_labels_of_every_answer_give_their_own_rate() -> None:
    outcomes, themes = answers(*[(4, 20)] * 10)
    truth = [called ^ (i % 10 == 9) for i, called in enumerate(outcomes)]
    everything = dict(enumerate(truth))
    rate = ppi_rate(outcomes, themes, everything, dict.fromkeys(everything, 1.0))
    assert rate.value == pytest.approx(np.mean(truth), abs=1e-12)
    plain = cluster_interval(truth, themes)
    assert bounds(rate) == pytest.approx([plain.low, plain.high], abs=0.02)


def test_design_effects_of_labels_widen_the_interval() -> None:
    # Of four themes of positives, three are all detected and one is not: worth four labels.
    labels = [True] * 40 + [False] * 100
    calls = [True] * 30 + [False] * 10 + [i % 20 == 0 for i in range(100)]
    themes = [f"theme {i // 10}" for i in range(140)]
    errors = judge_errors(labels, calls, themes)
    assert (errors.positives, errors.detected) == (40, 30)
    assert (errors.negatives, errors.false_alarms) == (100, 5)
    assert errors.positive_design > 5
    answered = answers(*[(3, 20)] * 12)
    plain = dataclasses.replace(errors, positive_design=1.0, negative_design=1.0)
    clustered, independent = (corrected_rate(*answered, each) for each in (errors, plain))
    assert clustered.value == independent.value
    assert clustered.high - clustered.low > 1.05 * (independent.high - independent.low)
