"""How well a score tells positive answers from negative ones: ROC, its area, and a threshold.

The area under the curve is the probability that a positive has a higher score than a negative, ties
counting half. Its variance is that of Obuchowski (1997, Biometrics 53), DeLong's for answers that
come in themes: answers to a theme resemble each other. The interval is taken on the scale of log
odds, with Student's t for as many themes as hold fewer of the two kinds. Where each positive is
above each negative, or below, the variance is 0 and shows nothing: the far bound is then that of
as many themes, Clopper and Pearson's for no failure among them.

Scores and outcomes are of one condition: between conditions they may differ for other reasons.
"""

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steering.stats.intervals import CONFIDENCE, Interval, t_quantile

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """The area under a ROC curve.

    Attributes:
        auroc: The area; NaN without both kinds of answers.
        interval: At 95%, on themes like these.
        positives: Number of positive answers.
        negatives: Number of negative answers.
        positive_themes: Themes with a positive answer.
        negative_themes: Themes with a negative answer.
    """

    auroc: float
    interval: Interval
    positives: int
    negatives: int
    positive_themes: int
    negative_themes: int


@dataclass(frozen=True)
class Alarms:
    """What a threshold does to answers that it was not chosen on.

    Attributes:
        caught: Of each positive answer whether its score is above.
        caught_themes: The theme of each.
        false: Of each negative answer whether its score is above.
        false_themes: The theme of each.
        thresholds: The thresholds; each is for the themes that the other was chosen on.
    """

    caught: tuple[bool, ...]
    caught_themes: tuple[Hashable, ...]
    false: tuple[bool, ...]
    false_themes: tuple[Hashable, ...]
    thresholds: tuple[float, float]


def separation(
    scores: Sequence[float],
    outcomes: Sequence[bool],
    themes: Sequence[Hashable],
    confidence: float = CONFIDENCE,
) -> Separation:
    """The area under the ROC curve, with an interval that clusters by theme.

    Args:
        scores: One an answer.
        outcomes: Whether it is a positive.
        themes: The theme of each.
        confidence: Of the interval.
    """
    values, positive = np.asarray(scores, dtype=float), np.asarray(outcomes, dtype=bool)
    codes = {theme: code for code, theme in enumerate(dict.fromkeys(themes))}
    theme = np.array([codes[each] for each in themes], dtype=int)
    m, n = int(positive.sum()), int((~positive).sum())
    num_positive, num_negative = len(set(theme[positive])), len(set(theme[~positive]))
    counts = (m, n, num_positive, num_negative)
    if not m or not n:
        none = Interval(math.nan, math.nan, "needs answers of both kinds")
        return Separation(math.nan, none, *counts)
    # Of each answer the share of the other kind that it is on the right side of.
    of_positive = _share_below(values[positive], values[~positive])
    of_negative = 1 - _share_below(values[~positive], values[positive])
    area = float(of_positive.mean())
    size = len(codes)
    residual_p = np.bincount(theme[positive], of_positive - area, size)
    residual_n = np.bincount(theme[~positive], of_negative - area, size)
    interval = Interval(math.nan, math.nan, "needs two themes with each kind of answer")
    if min(num_positive, num_negative) > 1:
        variance = (
            _scaled(num_positive) * (residual_p @ residual_p) / m**2
            + _scaled(num_negative) * (residual_n @ residual_n) / n**2
            + 2 * _scaled(size) * (residual_p @ residual_n) / (m * n)
        )
        interval = _bounds(area, float(variance), min(num_positive, num_negative), confidence)
    return Separation(area, interval, *counts)


def roc_curve(
    scores: Sequence[float], outcomes: Sequence[bool]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of negatives and of positives above each threshold, from none of them to all."""
    values, positive = np.asarray(scores, dtype=float), np.asarray(outcomes, dtype=bool)
    cuts = np.concatenate([[np.inf], np.unique(values)[::-1]])
    above = values[None, :] >= cuts[:, None]
    return above[:, ~positive].mean(1), above[:, positive].mean(1)


def threshold_at(scores: Sequence[float], false_alarms: float) -> float:
    """The lowest of the scores of negatives that at most a share `false_alarms` of them is above.

    NaN where so few negatives can't show such a share: one of them is a larger one.
    """
    if not scores or len(scores) * false_alarms < 1:
        return math.nan
    ordered = np.sort(np.asarray(scores, dtype=float))
    above = len(ordered) - np.searchsorted(ordered, ordered, side="right")
    return float(ordered[above <= len(ordered) * false_alarms + 1e-9][0])


def cross_fitted_alarms(
    scores: Sequence[float],
    outcomes: Sequence[bool],
    themes: Sequence[Hashable],
    false_alarms: float,
    seed: int = 0,
) -> Alarms | None:
    """What thresholds catch on themes that they were not chosen on.

    The themes fall into two halves by the seed. The threshold of each half, at a share of
    `false_alarms` of its negatives, is applied to the other half.

    Returns:
        None where either half has too few negatives for a threshold.
    """
    names = sorted(set(themes), key=str)
    random.Random(seed).shuffle(names)
    first = set(names[: len(names) // 2])
    rows = list(zip(scores, map(bool, outcomes), themes, strict=True))
    of_first, of_second = (
        threshold_at(
            [s for s, positive, theme in rows if not positive and (theme in first) is half],
            false_alarms,
        )
        for half in (True, False)
    )
    if math.isnan(of_first) or math.isnan(of_second):
        return None
    alarms = [
        (score > (of_second if theme in first else of_first), positive, theme)
        for score, positive, theme in rows
    ]
    return Alarms(
        caught=tuple(alarm for alarm, positive, _ in alarms if positive),
        caught_themes=tuple(theme for _, positive, theme in alarms if positive),
        false=tuple(alarm for alarm, positive, _ in alarms if not positive),
        false_themes=tuple(theme for _, positive, theme in alarms if not positive),
        thresholds=(of_first, of_second),
    )


def _share_below(values: _Array, others: _Array) -> _Array:
    """Of each value the share of the others below it; one that is equal counts half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(others)), dtype=float)


def _scaled(themes: int) -> float:
    return themes / (themes - 1)


def _bounds(area: float, variance: float, themes: int, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    if area in (0.0, 1.0):
        far = tail ** (1 / themes)
        return Interval(far, 1.0) if area else Interval(0.0, 1 - far)
    width = t_quantile(1 - tail, themes - 1) * math.sqrt(max(variance, 0)) / (area * (1 - area))
    middle = math.log(area / (1 - area))
    low, high = (1 / (1 + math.exp(-(middle + side * width))) for side in (-1, 1))
    return Interval(low, high)
