"""Rates corrected for a judge's errors, against formulas, other code and simulated truth."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.stats import fisher_exact

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
        (
            JudgeErrors(0, 0, 200, 4, positives_left_out=50),
            "gave all 50 answers labelled misaligned no score, or called incoherent",
        ),
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


KNOWN = 10**7


def test_known_errors_give_the_published_interval() -> None:
    # R package RSurveillance, example of tp(): 20 of 120 positive, se 0.9, sp 0.99 give 0.17603,
    # (0.1066, 0.2647) by Clopper and Pearson and (0.1130, 0.2623) by Wilson.
    outcomes, themes = answers(*[(int(i < 20), 1) for i in range(120)])
    errors = JudgeErrors(KNOWN, KNOWN * 9 // 10, KNOWN, KNOWN // 100)
    rate = corrected_rate(outcomes, themes, errors)
    assert rate.value == pytest.approx(0.17603, abs=1e-5)
    assert 0.1066 - 2e-3 <= rate.low <= 0.1130 + 2e-3
    assert 0.2623 - 2e-3 <= rate.high <= 0.2647 + 2e-3


def lang_reiczigel(
    n: int, positive: int, positives: int, detected: int, negatives: int, cleared: int
) -> tuple[float, float]:
    """Lang and Reiczigel 2014, Preventive Veterinary Medicine 113, equations 6 to 17."""
    z = 1.959964
    se, sp = (detected + 1) / (positives + 2), (cleared + 1) / (negatives + 2)
    apparent = (positive + z**2 / 2) / (n + z**2)
    p = (apparent + sp - 1) / (se + sp - 1)
    of_se, of_sp = se * (1 - se) / (positives + 2), sp * (1 - sp) / (negatives + 2)
    shift = 2 * z**2 * (p * of_se - (1 - p) * of_sp)
    variance = apparent * (1 - apparent) / (n + z**2) + p**2 * of_se + (1 - p) ** 2 * of_sp
    half = z * math.sqrt(variance) / (se + sp - 1)
    return p + shift - half, p + shift + half


@pytest.mark.parametrize(
    ("positive", "positives", "detected", "negatives", "cleared"),
    [(500, 200, 160, 300, 285), (250, 80, 48, 120, 114), (900, 100, 95, 200, 180)],
)
def test_independent_answers_give_nearly_the_interval_of_lang_and_reiczigel(
    positive: int, positives: int, detected: int, negatives: int, cleared: int
) -> None:
    outcomes, themes = answers(*[(int(i < positive), 1) for i in range(2000)])
    errors = JudgeErrors(positives, detected, negatives, negatives - cleared)
    theirs = lang_reiczigel(2000, positive, positives, detected, negatives, cleared)
    assert bounds(corrected_rate(outcomes, themes, errors)) == pytest.approx(theirs, abs=0.012)


@pytest.mark.parametrize("detected", range(0, 21, 2))
@pytest.mark.parametrize("false_alarms", [1, 6, 15])
def test_a_judge_is_shown_to_tell_where_fishers_test_says_so(
    detected: int, false_alarms: int
) -> None:
    table = [[detected, 20 - detected], [false_alarms, 30 - false_alarms]]
    p_value = fisher_exact(table, alternative="greater").pvalue
    rate = corrected_rate(*answers(*[(6, 20)] * 10), JudgeErrors(20, detected, 30, false_alarms))
    if p_value < 0.01:
        assert "not shown" not in str(rate.reason)
    elif p_value > 0.05:
        assert "not shown" in str(rate.reason)


def test_a_judge_without_errors_keeps_the_bounds_of_none_and_of_all() -> None:
    perfect = JudgeErrors(KNOWN, KNOWN, KNOWN, 0)
    for true in (0, 20):
        outcomes, themes = answers(*[(true, 20)] * 10)
        rate, raw = corrected_rate(outcomes, themes, perfect), cluster_interval(outcomes, themes)
        assert rate.value == true / 20
        assert bounds(rate) == pytest.approx([raw.low, raw.high], abs=2e-3)


def test_false_alarms_do_not_bound_the_rate_below_what_none_misaligned_would() -> None:
    outcomes, themes = answers(*[(i % 2, 20) for i in range(8)])
    rate = corrected_rate(outcomes, themes, JudgeErrors(200, 190, 300, 15))
    none = cluster_interval([False] * 160, themes)
    assert (rate.value, rate.low) == (0, 0)
    assert rate.high >= none.high


@pytest.mark.parametrize(("true", "part"), [(0, "false alarms"), (20, "detects")])
def test_outcomes_that_contradict_the_calibration_give_no_number(true: int, part: str) -> None:
    outcomes, themes = answers(*[(true, 20)] * 40)
    rate = corrected_rate(outcomes, themes, JudgeErrors(200, 120, 300, 60))
    assert math.isnan(rate.value)
    assert part in str(rate.reason)


def test_one_theme_has_a_value_and_no_bounds() -> None:
    rate = corrected_rate(*answers((8, 20)), JudgeErrors(100, 80, 100, 5))
    assert rate.value == pytest.approx((0.4 - 0.05) / 0.75)
    assert all(map(math.isnan, bounds(rate)))
    assert "one theme" in str(rate.reason)
    labels = {0: True, 19: False}
    labelled = ppi_rate(*answers((8, 20)), labels, dict.fromkeys(labels, 10.0))
    assert labelled.value == pytest.approx(0.4)
    assert "one theme" in str(labelled.reason)


def test_without_answers_there_is_no_number() -> None:
    assert math.isnan(corrected_rate([], [], JudgeErrors(10, 9, 10, 1)).value)
    assert math.isnan(ppi_rate([], [], {}, {}).value)


def test_the_order_of_answers_changes_nothing() -> None:
    outcomes, themes = answers((9, 20), (2, 20), (0, 20), (5, 20))
    order = np.random.default_rng(0).permutation(80).tolist()
    errors = JudgeErrors(50, 40, 100, 3)
    rate = corrected_rate(outcomes, themes, errors)
    shuffled = corrected_rate([outcomes[i] for i in order], [themes[i] for i in order], errors)
    assert bounds(shuffled) == pytest.approx(bounds(rate), abs=1e-6)


@pytest.mark.parametrize("counts", [(10, 11, 10, 0), (10, 5, 10, -1)])
def test_counts_larger_than_their_total_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="is not a number from 0 to 10"):
        JudgeErrors(*counts)


def labelled_run(seed: int) -> tuple[list[bool], list[int], np.ndarray, list[int]]:
    """2,000 independent answers, their true labels and 400 of them to label."""
    rng = np.random.default_rng(seed)
    truth = rng.random(2000) < 0.3
    outcomes = np.where(rng.random(2000) < 0.1, ~truth, truth)
    return outcomes.tolist(), list(range(2000)), truth, rng.choice(2000, 400, False).tolist()


def test_ppi_equals_the_formula_of_its_authors() -> None:
    """PPI++, arXiv 2311.01453, for a mean: lambda by power, then the rectified mean."""
    outcomes, themes, truth, drawn = labelled_run(3)
    y, f, every = truth[drawn].astype(float), np.array(outcomes)[drawn].astype(float), outcomes
    tuned = np.cov(y, f)[0, 1] / np.var(f, ddof=1)
    value = tuned * np.mean(every) + np.mean(y - tuned * f)
    error = math.sqrt(tuned**2 * np.var(every) / len(every) + np.var(y - tuned * f) / len(y))
    rate = ppi_rate(outcomes, themes, {i: bool(truth[i]) for i in drawn}, dict.fromkeys(drawn, 5.0))
    assert rate.value == pytest.approx(value, abs=1e-12)
    expected = [value - 1.96 * error, value + 1.96 * error]
    assert bounds(rate) == pytest.approx(expected, abs=0.012)


def test_weights_undo_a_stratified_draw() -> None:
    # Of 40 called answers 20 are labelled, of the first 80 others 20, of the last 80 others 4.
    outcomes = [True] * 40 + [False] * 160
    themes = [i % 10 for i in range(200)]
    drawn = dict.fromkeys(range(20), 2.0) | dict.fromkeys(range(40, 60), 4.0)
    drawn |= dict.fromkeys(range(120, 124), 20.0)
    labels = {i: i < 15 or 40 <= i < 45 for i in drawn}
    rate = ppi_rate(outcomes, themes, labels, drawn)
    # 15 / 20 of 40, 5 / 20 of 80, and none of 80.
    assert rate.value == pytest.approx((30 + 20 + 0) / 200)
    unweighted = ppi_rate(outcomes, themes, labels, dict.fromkeys(drawn, 1.0))
    assert unweighted.value == pytest.approx((30 + 160 * 5 / 24) / 200)
    # Unequal weights are worth fewer labels.
    assert rate.high - rate.low > unweighted.high - unweighted.low


def test_labels_that_come_by_theme_are_worth_fewer() -> None:
    outcomes, themes = answers(*[(10, 20)] * 20)
    called = [i for i, outcome in enumerate(outcomes) if outcome]
    others = [i for i, outcome in enumerate(outcomes) if not outcome][::4]
    by_theme = {i: int(themes[i].split()[1]) % 2 == 0 for i in called}
    mixed = {i: number % 2 == 0 for number, i in enumerate(called)}
    aligned = dict.fromkeys(others, False)
    rates = []
    for labels in (by_theme, mixed):
        weights = {i: 1.0 if i in labels else 4.0 for i in (*called, *others)}
        rates.append(ppi_rate(outcomes, themes, labels | aligned, weights))
    clustered, spread = rates
    assert clustered.value == pytest.approx(spread.value)
    assert clustered.high - clustered.low > 1.5 * (spread.high - spread.low)


def test_ppi_names_the_answers_that_have_no_label() -> None:
    outcomes, themes = answers(*[(4, 20)] * 8)
    called = {i: True for i, outcome in enumerate(outcomes) if outcome}
    rate = ppi_rate(outcomes, themes, called, dict.fromkeys(called, 1.0))
    assert math.isnan(rate.value)
    assert "calls aligned" in str(rate.reason)
    # Where the judge calls none misaligned, labels of the others are all there can be.
    others = {i: i == 0 for i in range(0, 160, 2)}
    none = ppi_rate([False] * 160, themes, others, dict.fromkeys(others, 2.0))
    assert none.value == pytest.approx(1 / 80)
    assert none.low <= none.value < none.high


@pytest.mark.parametrize(
    ("labels", "weights", "part"),
    [({5: True}, {5: 1.0}, "0 to 3"), ({1: True}, {}, "weight"), ({1: True}, {1: 0.5}, "weight")],
)
def test_labels_without_an_answer_or_a_weight_are_refused(
    labels: dict[int, bool], weights: dict[int, float], part: str
) -> None:
    with pytest.raises(ValueError, match=part):
        ppi_rate([True, False, True, False], ["a", "a", "b", "b"], labels, weights)


def simulated(
    rng: np.random.Generator, themes: int, rate: float, judge: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Truth and outcomes, [themes, 20], with a correlation of 0.15 within a theme."""
    rates = rng.beta(rate * 17 / 3, (1 - rate) * 17 / 3, themes)
    truth = rng.random((themes, 20)) < rates[:, None]
    return truth, rng.random(truth.shape) < np.where(truth, judge[0], 1 - judge[1])


@pytest.mark.parametrize(
    ("themes", "rate", "judge", "labels"),
    [(24, 0.4, (0.6, 0.9), 500), (60, 0.05, (0.8, 0.95), 200), (24, 0.1, (0.9, 0.9), 300)],
)
def test_corrected_intervals_hold_the_truth_where_raw_ones_do_not(
    themes: int, rate: float, judge: tuple[float, float], labels: int
) -> None:
    rng = np.random.default_rng(20)
    names = np.repeat(np.arange(themes), 20).tolist()
    positives, negatives = 2 * labels // 5, 3 * labels // 5
    covers = np.zeros((200, 2), dtype=bool)
    for run in range(200):
        _, judged = simulated(rng, themes, rate, judge)
        outcomes = judged.ravel().tolist()
        detected = int(rng.binomial(positives, judge[0]))
        false_alarms = int(rng.binomial(negatives, 1 - judge[1]))
        errors = JudgeErrors(positives, detected, negatives, false_alarms)
        intervals = corrected_rate(outcomes, names, errors), cluster_interval(outcomes, names)
        covers[run] = [interval.low <= rate <= interval.high for interval in intervals]
    corrected, raw = covers.mean(axis=0)
    # The standard error of a share of 200 is 1.5 points.
    assert 0.92 <= corrected <= 0.985
    assert raw < 0.6


def test_fifty_labels_and_a_judge_hold_the_truth_in_less_than_labels_alone() -> None:
    rng = np.random.default_rng(21)
    names = np.repeat(np.arange(24), 20).tolist()
    covers, widths = [], []
    for _ in range(200):
        truth, judged = simulated(rng, 24, 0.2, (0.85, 0.95))
        drawn = rng.choice(480, 50, replace=False).tolist()
        labels = {i: bool(truth.ravel()[i]) for i in drawn}
        rate = ppi_rate(judged.ravel().tolist(), names, labels, dict.fromkeys(drawn, 9.6))
        alone = cluster_interval(list(labels.values()), [names[i] for i in drawn])
        covers.append(rate.low <= 0.2 <= rate.high)
        widths.append((rate.high - rate.low, alone.high - alone.low))
    assert 0.91 <= np.mean(covers) <= 0.985
    ours, without = np.mean(widths, axis=0)
    assert ours < 0.8 * without
