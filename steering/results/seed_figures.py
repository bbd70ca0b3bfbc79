"""Figures over several build seeds: their mean at each place of an axis, with its interval.

Build seeds are a level of their own: an interval counts the spread of the themes and that of the
vectors (`steering.stats.trends`), as the means of themes have them.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from steering.results.context_columns import plain_rows
from steering.results.schema import KEYS
from steering.stats.trends import effect

_COUNTS = ("n", "num_pairs")


def theme_means(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means of the plain answers, or of pairs, to each theme under each condition.

    Args:
        frame: Of answers or of choices.
        columns: Whose means.
    """
    return plain_rows(frame).groupby([*KEYS, "theme"], sort=False)[[*columns]].mean().reset_index()


def over_seeds(
    series: pd.DataFrame, means: pd.DataFrame, axis: str, columns: Sequence[str]
) -> pd.DataFrame:
    """A row a place of the axis: the mean of its build seeds' figures, with a 95% interval.

    The width of the interval is that of themes that weigh alike and have a figure under each seed.
    Where nothing spreads the bounds are the lowest and the highest of the build seeds' own.

    Args:
        series: Conditions that differ in the axis and the build seed alone, a row each.
        means: As `theme_means` gives them, with their conditions.
        axis: Column of the places.
        columns: Of `means`.

    Returns:
        The first condition of each place, with its answers or pairs added up, and the columns with
        their bounds.
    """
    # Of a vector from elsewhere nothing says the seed: that is a value, too.
    series = series.assign(build_seed=series["build_seed"].fillna(-1))
    of_series = series[[*KEYS, axis, "build_seed"]].merge(means, on=KEYS)
    rows = []
    for place, conditions in series.groupby(axis, sort=True):
        at_place = of_series[of_series[axis] == place]
        row: dict[Any, Any] = conditions.iloc[0].to_dict()
        row |= {name: int(conditions[name].sum()) for name in _COUNTS if name in row}
        for column in columns:
            table = at_place.pivot_table(index="build_seed", columns="theme", values=column)
            known = table.reindex(conditions["build_seed"].unique()).dropna(axis=1)
            mean = effect(known.to_numpy())
            value, half = conditions[column].mean(), (mean.high - mean.low) / 2
            low, high = value - half, value + half
            if not half > 0:  # nothing spreads, which does not make a figure exact
                low, high = conditions[f"{column}_low"].min(), conditions[f"{column}_high"].max()
            row |= {column: value, f"{column}_low": low, f"{column}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)
