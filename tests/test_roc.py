"""ROC figures against scipy, against the formulas written out, and by simulation."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from steering.stats import t_quantile
from steering.stats.roc import cross_fitted_alarms, roc_curve, separation, threshold_at


def drawn(seed: int, themes: int = 12, a_theme: int = 6) -> tuple[Any, Any, Any]:
    """Rounded scores, so that some are equal, of answers whose themes differ in both."""
    rng = np.random.default_rng(seed)
    theme = np.repeat(np.arange(themes), a_theme)
    level = rng.normal(size=themes)[theme]
    positive = rng.random(len(theme)) < 1 / (1 + np.exp(-level))
    scores = np.round(positive + level + rng.normal(size=len(theme)), 1)
    return scores, positive, theme


@pytest.mark.parametrize("seed", range(4))
def test_the_area_is_that_of_the_rank_test(seed: int) -> None:
    scores, positive, theme = drawn(seed)
    result = separation(scores, positive, theme)
    u = mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert result.auroc == pytest.approx(u / (positive.sum() * (~positive).sum()), abs=1e-12)
    assert (result.positives, result.negatives) == (positive.sum(), (~positive).sum())
    x, y = roc_curve(scores, positive)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(result.auroc, abs=1e-12)


def obuchowski(scores: Any, positive: Any, theme: Any) -> tuple[float, float]:
    """Area and variance as in the paper, equation by equation, pair by pair."""

    def kernel(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    xs = [(s, t) for s, p, t in zip(scores, positive, theme, strict=True) if p]
    ys = [(s, t) for s, p, t in zip(scores, positive, theme, strict=True) if not p]
    m, n = len(xs), len(ys)
    area = sum(kernel(x, y) for (x, _), (y, _) in itertools.product(xs, ys)) / (m * n)
    v10 = [(sum(kernel(x, y) for y, _ in ys) / n, t) for x, t in xs]
    v01 = [(sum(kernel(x, y) for x, _ in xs) / m, t) for y, t in ys]
    themes = sorted(set(theme))
    d10 = {k: sum(v - area for v, t in v10 if t == k) for k in themes}
    d01 = {k: sum(v - area for v, t in v01 if t == k) for k in themes}
    i, j, k = len({t for _, t in xs}), len({t for _, t in ys}), len(themes)
    s10 = i / ((i - 1) * m) * sum(d10[t] ** 2 for t in themes)
    s01 = j / ((j - 1) * n) * sum(d01[t] ** 2 for t in themes)
    s11 = k / (k - 1) * sum(d10[t] * d01[t] for t in themes)
    return area, s10 / m + s01 / n + 2 * s11 / (m * n)


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_is_obuchowskis_on_log_odds(seed: int) -> None:
    scores, positive, theme = drawn(seed)
    area, variance = obuchowski(scores, positive, theme)
    themes = min(len(set(theme[positive])), len(set(theme[~positive])))
    width = t_quantile(0.975, themes - 1) * math.sqrt(variance) / (area * (1 - area))
    expected = [1 / (1 + math.exp(-(math.log(area / (1 - area)) + s * width))) for s in (-1, 1)]
    interval = separation(scores, positive, theme).interval
    assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-9)


def test_independent_answers_have_delongs_variance() -> None:
    """Each answer a theme: variances of the two placements, each over its number."""
    scores, positive, _ = drawn(5, a_theme=5)
    x, y = scores[positive], scores[~positive]
    over = (x[:, None] > y).astype(float) + 0.5 * (x[:, None] == y)
    delong = over.mean(1).var(ddof=1) / len(x) + over.mean(0).var(ddof=1) / len(y)
    _, variance = obuchowski(scores, positive, np.arange(len(scores)))
    assert variance == pytest.approx(delong, rel=1e-9)


def test_intervals_hold_the_truth() -> None:
    """Scores and outcomes that both depend on the theme; the area by itself, of many themes."""
    many = drawn(0, themes=40_000, a_theme=6)
    truth = separation(*many).auroc
    held = 0
    runs = 400
    for seed in range(runs):
        interval = separation(*drawn(seed + 1, themes=20)).interval
        held += interval.low <= truth <= interval.high
    assert 0.92 < held / runs < 0.98


@pytest.mark.parametrize("flipped", [False, True])
def test_a_perfect_score_is_as_sure_as_its_themes(flipped: bool) -> None:
    positive = np.array([True, False] * 6)
    theme = np.repeat(np.arange(6), 2)
    interval = separation(positive * (-1.0 if flipped else 1.0), positive, theme).interval
    # No failure in six: Clopper and Pearson's bound by hand.
    assert (interval.high if flipped else interval.low) == pytest.approx(
        1 - 0.5407 if flipped else 0.5407, abs=1e-4
    )


def test_without_both_kinds_in_two_themes_there_is_no_interval() -> None:
    assert math.isnan(separation([1, 2], [True, True], ["a", "b"]).auroc)
    assert math.isnan(separation([1, 2, 3], [True, False, False], ["a", "b", "c"]).interval.low)


def test_a_threshold_keeps_its_share_of_false_alarms() -> None:
    scores = [float(value) for value in range(1, 41)]
    assert threshold_at(scores, 0.05) == 38  # 39 and 40 are above
    assert threshold_at([5.0] * 40, 0.05) == 5
    assert math.isnan(threshold_at(scores[:19], 0.05))
    assert threshold_at(scores[:20], 0.05) == 19


def test_thresholds_meet_only_themes_that_they_were_not_chosen_on() -> None:
    """One half's scores are all higher: its threshold catches nothing in the other."""
    themes = [theme for theme in "abcd" for _ in range(50)]
    outcomes = [index % 2 == 0 for index in range(200)]
    alarms = cross_fitted_alarms([0.0] * 200, outcomes, themes, 0.05)
    assert alarms is not None
    assert not any(alarms.caught)
    halves = {
        theme: cross_fitted_alarms(
            [100.0 * (t == theme) + i % 50 for i, t in enumerate(themes)], outcomes, themes, 0.05
        )
        for theme in "abcd"
    }
    for theme, alarms in halves.items():
        assert alarms is not None
        # The half with the higher scores: all of that theme are above the other half's threshold.
        of_theme = [a for a, t in zip(alarms.false, alarms.false_themes, strict=True) if t == theme]
        assert all(of_theme)
        assert max(alarms.thresholds) >= 100 > min(alarms.thresholds)
    again = cross_fitted_alarms([0.0] * 200, outcomes, themes, 0.05, seed=0)
    assert again == cross_fitted_alarms([0.0] * 200, outcomes, themes, 0.05)
    few = cross_fitted_alarms([0.0] * 20, outcomes[:20], themes[:10] + themes[-10:], 0.05)
    assert few is None
