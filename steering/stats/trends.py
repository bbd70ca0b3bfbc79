"""Effects and trends in tables of per-question EM rates.

Everything is paired by question, since answers to one question resemble each other: a statistic is
computed for each question, and the questions' values are tested. Where the data choose (the best
dose, the peak), either the test is of the maximum over all choices, or each question is measured at
the place that the other questions choose. Input is plain tables [conditions, questions]; nothing
here knows of studies, claims or logs. Rates and effects are 0-1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steering.stats.intervals import mean_interval
from steering.stats.paired import TOLERANCE, sign_flipped_means

LEVEL = 0.05

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """A mean over questions.

    Attributes:
        value: The mean.
        low: Lower bound of its interval, Student's t over the questions; NaN with one question.
        high: Upper bound.
        p_value: One-sided, that the mean is not above 0, by flipping the questions' signs.
        num_questions: How many questions.
    """

    value: float
    low: float
    high: float
    p_value: float
    num_questions: int

    def __str__(self) -> str:
        """In points, with the interval."""
        value, low, high = (100 * part for part in (self.value, self.low, self.high))
        return f"{value:+.0f} points [{low:.0f}, {high:.0f}]"


def question_table(answers: pd.DataFrame, column: str, by: str = "condition") -> pd.DataFrame:
    """Mean of a column for each condition and question, [conditions, questions].

    Questions for which some condition has no figure are left out of all conditions. The answers are
    as `read_answers` gives them; the column `by` names the condition.
    """
    means = answers.groupby([by, "question"])[column].mean().unstack()
    return means.dropna(axis="columns")


def effect(values: "_Array | pd.Series[float]", confidence: float = 1 - LEVEL) -> Effect:
    """The mean of one value a question, [questions], with a two-sided interval."""
    array = np.asarray(values, dtype=float)
    count = len(array)
    if count == 0:
        return Effect(math.nan, math.nan, math.nan, math.nan, 0)
    interval = mean_interval(array.tolist(), range(count), confidence)
    [p_value] = max_p_values(array[None])
    return Effect(float(array.mean()), interval.low, interval.high, float(p_value), count)


def max_p_values(values: _Array) -> _Array:
    """One-sided p of each row's mean being above 0, corrected for the choice among the rows.

    The test of the maximum: the signs of a question's values are flipped in all rows at once, and
    a row's p is the share of flips whose largest mean is as large as its own (Westfall and Young
    1993, single step). Exact up to 16 questions, from 65,536 seeded draws beyond; with C questions
    it can't fall below 1 / 2^C.

    Args:
        values: [rows, questions].

    Returns:
        [rows].
    """
    means = sign_flipped_means(values)
    return (means.max(axis=1, keepdims=True) >= means[0] - TOLERANCE).mean(axis=0)


def upper_bound(values: _Array) -> float:
    """Upper bound of the largest true mean of [rows, questions], at 95% for all rows together."""
    confidence = 1 - LEVEL / len(values)
    return max(effect(row, confidence).high for row in values)


def chosen_by_others(table: _Array, sign: float = 1.0) -> NDArray[np.intp]:
    """For each question, the row that is the largest over all the other questions.

    So no question is measured at a place that its own random error has chosen.

    Args:
        table: [rows, questions].
        sign: -1 for the smallest.

    Returns:
        Row indices [questions].
    """
    others = table.sum(axis=1, keepdims=True) - table
    return np.argmax(sign * others, axis=0)


def at_rows(table: _Array, rows: NDArray[np.intp]) -> _Array:
    """Each question's value in its row of `rows`, [questions]."""
    return table[rows, np.arange(table.shape[1])]


def slope(table: _Array, places: Sequence[float]) -> _Array:
    """Each question's least-squares rise from the first place to the last, [questions].

    `table` is [rows, questions]; `places` says where each row stands on the axis, ascending.
    """
    centred = np.asarray(places, dtype=float) - np.mean(places)
    weights = centred / (centred**2).sum()
    return weights @ table * (places[-1] - places[0])
