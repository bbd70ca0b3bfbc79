"""EM rates of a stratum as one table, place by place, build seed by build seed, theme by theme.

What the rules of the claims read. Knows the columns of the frame of answers; no rule and no log.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steering.judging import EMRule
from steering.results.series import baseline_of
from steering.stats.trends import max_p_values
from steering.studies.errors import StudyError

# An effect is described (its shape over doses, layers or sizes) from this on: a shape has parts,
# and each has to differ from others by the least effect that matters.
LEAST_TO_DESCRIBE = 0.1
# Smaller than that of the claims: where nothing happens, hardly any shape is to be described.
LEVEL_OF_EFFECT = 0.01

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """EM rates of one model, steered at several places of an axis.

    Attributes:
        places: On the axis, ascending.
        rates: [places, seeds, themes], 0-1.
        baseline: [themes].
        unscored: Themes without a scored answer in some condition; they are not in the table.
    """

    places: tuple[Any, ...]
    rates: _Array
    baseline: _Array
    unscored: tuple[str, ...] = ()

    @property
    def differences(self) -> _Array:
        """From the baseline, [places, seeds, themes]."""
        return self.rates - self.baseline


def has_effect(*readings: Reading) -> bool:
    """Whether somewhere in some readings there is an effect to describe.

    By the test of the maximum over all places of all readings together, at `LEVEL_OF_EFFECT`.
    """
    means = np.concatenate([reading.differences.mean(axis=(1, 2)) for reading in readings])
    p_values = max_p_values(*(reading.differences for reading in readings))
    return bool(((p_values <= LEVEL_OF_EFFECT) & (means >= LEAST_TO_DESCRIBE)).any())


def read_rates(rows: pd.DataFrame, axis: str, rule: EMRule, arm: str = "steered") -> Reading:
    """The table of a stratum of one model.

    Args:
        rows: Answers of the baseline and of conditions that differ in the axis and the build seed.
        axis: Column of the places.
        rule: Of the EM rates.
        arm: Whose conditions.

    Raises:
        StudyError: There is no baseline or no condition beside it, or a place lacks a build seed.
    """
    baseline, steered = baseline_of(rows), rows[rows["arm"] == arm]
    if not len(baseline) or not len(steered):
        raise StudyError("a baseline and a steered condition are needed")
    places, place = _codes(steered[axis])
    seeds, seed = _codes(steered["build_seed"])
    themes, theme = _codes(pd.concat([baseline["theme"], steered["theme"]]))
    table = _means([place, seed, theme[len(baseline) :]], steered[f"em_{rule}"],
                   (len(places), len(seeds), len(themes)))  # fmt: skip
    of_baseline = _means([theme[: len(baseline)]], baseline[f"em_{rule}"], (len(themes),))
    for row, column in np.argwhere(np.isnan(table).all(axis=2)):
        if len(seeds) > 1:
            missing = f"build seed {seeds[column]:g} at {axis} {places[row]}"
            raise StudyError(f"{missing} was not run: run it too, or leave that seed out")
    known = ~np.isnan(table).any(axis=(0, 1)) & ~np.isnan(of_baseline)
    if not known.any():
        raise StudyError("no theme has scored answers in all conditions")
    unscored = tuple(theme for theme, has in zip(themes, known, strict=True) if not has)
    return Reading(tuple(places), table[..., known], of_baseline[known], unscored)


def _codes(values: "pd.Series[Any]") -> tuple[list[Any], NDArray[np.intp]]:
    # A vector from elsewhere has no build seed, an ablation no magnitude: these are values, too.
    codes, uniques = pd.factorize(values, sort=True, use_na_sentinel=False)
    return list(uniques), codes


def _means(
    codes: Sequence[NDArray[np.intp]], values: "pd.Series[float]", shape: tuple[int, ...]
) -> _Array:
    """Mean of the values in each cell; NaN where there is none."""
    numbers = values.to_numpy(dtype=np.float64)
    known = ~np.isnan(numbers)
    cells = np.ravel_multi_index([each[known] for each in codes], shape)
    size = int(np.prod(shape))
    counts = np.bincount(cells, minlength=size)
    sums = np.bincount(cells, numbers[known], minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums / counts).reshape(shape)


def by_value(
    rows: pd.DataFrame, column: str, rule: EMRule, order: Sequence[str] = ()
) -> Iterator[tuple[Any, Reading]]:
    """A reading along the magnitude for each value of a column, of models or of targets.

    Args:
        rows: Answers of a stratum.
        column: Whose values.
        rule: Of the EM rates.
        order: Columns to sort by before it.

    Raises:
        StudyError: As `read_rates`.
    """
    steered = rows[rows["arm"] == "steered"]
    keys = [*order, column] if order else column
    for key, of_value in steered.groupby(keys, sort=True, observed=True):
        baseline = rows[(rows["arm"] == "baseline") & rows["model"].isin(of_value["model"])]
        yield key, read_rates(pd.concat([baseline, of_value]), "magnitude", rule)
