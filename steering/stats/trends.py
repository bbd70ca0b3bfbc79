"""Effects and trends in tables of EM rates by build seed and theme.

A value is known for each build seed and each theme: the answers to a theme resemble each other, so
do all answers under one vector, and the same themes are asked under every vector. So themes and
seeds are crossed samples, each with a variance of its own, and an effect's error counts both:

    v = var(means by theme) / T  +  sum over sets of seeds of var(means by seed) / S

with Satterthwaite's degrees of freedom. Either term holds the noise of the answers, so v is a
little too large rather than too small (Cameron, Gelbach and Miller 2011 would take the noise off
once; with three seeds that can fall below what the seeds alone do). With one seed the first term is
all there is, and an effect is that of one vector.

Where the data choose (the best dose, the peak), either the test is of the maximum over all choices,
or each value is measured at the place that the other themes and the other seeds choose. Input is
plain arrays; nothing here knows of studies, claims or logs. Rates and effects are 0-1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steering.stats.intervals import t_quantile
from steering.stats.paired import TOLERANCE, sign_flipped_means

LEVEL = 0.05

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """A mean over themes and build seeds.

    Attributes:
        value: The mean.
        low: Lower bound of its interval, Student's t; NaN with one theme.
        high: Upper bound.
        p_value: One-sided, that the mean is not above 0 (`max_p_values`).
        num_themes: How many themes.
    """

    value: float
    low: float
    high: float
    p_value: float
    num_themes: int

    def __str__(self) -> str:
        """In points, with the interval."""
        value, low, high = (100 * part for part in (self.value, self.low, self.high))
        return f"{value:+.0f} points [{low:.0f}, {high:.0f}]"


def crossed_error(variances: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a mean over crossed samples.

    Args:
        variances: Of the mean, by each sample, with its degrees of freedom.

    Returns:
        The root of their sum, and Satterthwaite's degrees of freedom (those of the last sample
        where there is no variance).
    """
    total = math.fsum(variance for variance, _ in variances)
    if total == 0:
        return 0.0, float(variances[-1][1])
    df = total**2 / math.fsum(variance**2 / df for variance, df in variances if variance)
    return math.sqrt(total), df


def t_tail(value: float, error: float, df: float) -> float:
    """One-sided p of Student's t for a value with a standard error, which may be 0."""
    # Imported here: scipy costs a third of a second, and only comparisons need it.
    from scipy.special import stdtr

    return float(stdtr(df, -value / error)) if error else float(value <= TOLERANCE)


def effect(*values: _Array, confidence: float = 1 - LEVEL) -> Effect:
    """The mean of the sum of some arrays, with a two-sided interval.

    Args:
        *values: [seeds, themes], or [themes] for one seed. They share the themes; the seeds of
            each are its own, as of two arms or several models.
        confidence: Of the interval.
    """
    tables = [np.atleast_2d(np.asarray(table, dtype=np.float64)) for table in values]
    by_theme = np.sum([table.mean(axis=0) for table in tables], axis=0)
    count = len(by_theme)
    if count == 0:
        return Effect(math.nan, math.nan, math.nan, math.nan, 0)
    value = float(by_theme.mean())
    [flipped] = _flip_p_values(by_theme[None])
    if count == 1:
        return Effect(value, math.nan, math.nan, float(flipped), 1)
    error, df = _error(tables, by_theme)
    half = t_quantile((1 + confidence) / 2, df) * error
    p_value = max(float(flipped), t_tail(value, error, df) if _several(tables) else 0.0)
    return Effect(value, value - half, value + half, p_value, count)


def _several(tables: Sequence[_Array]) -> bool:
    return any(len(table) > 1 for table in tables)


def _error(tables: Sequence[_Array], by_theme: _Array) -> tuple[float, float]:
    variances = [
        (float(table.mean(axis=1).var(ddof=1)) / len(table), len(table) - 1)
        for table in tables
        if len(table) > 1
    ]
    return crossed_error([*variances, (float(by_theme.var(ddof=1)) / len(by_theme),
                                       len(by_theme) - 1)])  # fmt: skip


def max_p_values(*values: _Array) -> _Array:
    """One-sided p of each row's mean being above 0, corrected for the choice among the rows.

    The test of the maximum: the signs of a theme's values are flipped in all rows at once, and a
    row's p is the share of flips whose largest mean is as large as its own (Westfall and Young
    1993, single step). Exact up to 16 themes; beyond, from 65,536 seeded draws. With C themes it
    can't fall below 1 / 2^C. Flips take the vectors as they are, so with several build seeds p is
    the larger of this and of Student's t with both variances, by Bonferroni over the rows.

    Args:
        *values: [rows, seeds, themes], or [rows, themes] for one seed. Several tables, each with
            rows and seeds of its own, share the themes; where they don't, each is tested by itself
            and all by Bonferroni.

    Returns:
        [rows of all tables].
    """
    tables = [rows if rows.ndim == 3 else rows[:, None] for rows in values]
    by_theme = [rows.mean(axis=1) for rows in tables]
    if len({rows.shape[1] for rows in by_theme}) == 1:
        p_values = _flip_p_values(np.concatenate(by_theme))
    else:
        each = np.concatenate([_flip_p_values(rows) for rows in by_theme])
        p_values = np.minimum(len(tables) * each, 1.0)
    tails = [
        t_tail(float(means.mean()), *_error([row], means)) if len(row) > 1 else 0.0
        for table, of_theme in zip(tables, by_theme, strict=True)
        for row, means in zip(table, of_theme, strict=True)
    ]
    return np.maximum(p_values, np.minimum(len(tails) * np.array(tails), 1.0))


def _flip_p_values(values: _Array) -> _Array:
    means = sign_flipped_means(values)
    return np.asarray((means.max(axis=1, keepdims=True) >= means[0] - TOLERANCE).mean(axis=0))


def upper_bound(values: _Array, tests: int = 1) -> float:
    """Upper bound of the largest true mean of [rows, ..., themes], at 95% for all rows together.

    With `tests`, for so many such tables together.
    """
    confidence = 1 - LEVEL / len(values) / tests
    return max(effect(row, confidence=confidence).high for row in values)


def chosen_by_others(table: _Array, sign: float = 1.0) -> NDArray[np.intp]:
    """For each value, the row that is the largest over all other themes and, if any, other seeds.

    So no value is measured at a place that its own theme's or its own vector's random error has
    chosen.

    Args:
        table: [rows, seeds, themes], or [rows, themes] for one seed.
        sign: -1 for the smallest.

    Returns:
        Row indices, [seeds, themes] or [themes].
    """
    others = table.sum(axis=-1, keepdims=True) - table
    if table.ndim == 3 and table.shape[1] > 1:
        others = others.sum(axis=1, keepdims=True) - others
    return np.argmax(np.round(sign * others, 9), axis=0)


def at_rows(table: _Array, rows: NDArray[np.intp]) -> _Array:
    """Each value in its row of `rows`, [seeds, themes] or [themes]."""
    return np.take_along_axis(table, rows[None], axis=0)[0]


def slope_weights(places: Sequence[float]) -> _Array:
    """Weights of the rows of a table in its least-squares rise from the first place to the last.

    `places` says where each row stands on the axis, ascending; [rows].
    """
    centred = np.asarray(places, dtype=np.float64) - np.mean(places)
    return np.asarray(centred / (centred**2).sum() * (places[-1] - places[0]))
