"""Lines of series along an axis: build seeds thin with their band, places side by side."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from steering.reports.pictures.style import draw_series, pale, percent_axis, series_style
from steering.results.seed_figures import over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the distance of two neighbouring places, and of the whole axis, that two series lie apart.
_DODGE, _MOST_DODGE = 0.1, 0.014


@dataclass(frozen=True)
class Line:
    """A series along an axis.

    Attributes:
        name: In a legend.
        points: A row a place, with figures and bounds; over all build seeds where there are
            several.
        seeds: Of each build seed a row a place, where there are several.
    """

    name: str
    points: pd.DataFrame
    seeds: Sequence[pd.DataFrame] = ()


@dataclass(frozen=True)
class Panel:
    """A part of a figure.

    Attributes:
        label: Of its vertical axis.
        columns: What is drawn, with a name for each.
        factor: What figures are multiplied by.
        is_percent: Whether its axis goes from 0 to 100.
    """

    label: str
    columns: Mapping[str, str]
    factor: float = 1.0
    is_percent: bool = True


def line_of(
    name: str,
    series: pd.DataFrame,
    axis: str,
    means: pd.DataFrame | None = None,
    columns: Sequence[str] = (),
) -> Line:
    """The line of a series.

    Args:
        name: In a legend.
        series: Conditions that differ in the axis and the build seed alone, a row each.
        axis: A column.
        means: As `theme_means` gives them; needed where there are several build seeds.
        columns: That are drawn.
    """
    ordered = series.sort_values(axis, kind="stable")
    seeds = [rows for _, rows in ordered.groupby("build_seed", dropna=False)]
    if means is None or len(seeds) == 1:
        return Line(name, ordered)
    return Line(name, over_seeds(ordered, means, axis, columns), seeds)


def places_of(lines: Sequence[Line], axis: str, base: Mapping[Any, Any] | None) -> list[float]:
    """All places of some lines, and 0 where a baseline stands there."""
    places = {float(place) for line in lines for place in line.points[axis]}
    return sorted(places | ({0.0} if base is not None else set()))


def draw_lines(
    axes: "Axes",
    panel: Panel,
    lines: Sequence[Line],
    axis: str,
    *,
    base: Mapping[Any, Any] | None = None,
    evenly: bool = False,
) -> None:
    """Draw the lines of a panel; with several lines, or several columns, side by side.

    Args:
        axes: Where.
        panel: What.
        lines: At most `MOST_SERIES`.
        axis: A column.
        base: Figures at the place 0, where every line begins.
        evenly: Whether places stand at equal distances.
    """
    places = places_of(lines, axis, base)
    position = {place: float(n) if evenly else place for n, place in enumerate(places)}
    curves = [(line, column) for line in lines for column in panel.columns]
    step = _step(sorted(position.values()))
    for number, (line, column) in enumerate(curves):
        offset = (number - (len(curves) - 1) / 2) * step
        name = line.name if len(lines) > 1 else panel.columns[column]
        style = _number(panel, number, len(lines))

        def at(rows: Sequence[Mapping[Any, Any]], offset: float = offset) -> list[float]:
            return [position[0.0 if row is base else float(row[axis])] + offset for row in rows]

        points = list(_records(line.points, base))
        if not line.seeds:
            draw_series(axes, at(points), points, column, name, style, panel.factor)
            continue
        looks = series_style(style)
        for seed in line.seeds:
            rows = list(_records(seed, base))
            values = [panel.factor * row[column] for row in rows]
            thin = {"color": looks["color"], "linewidth": 0.7, "alpha": 0.5}
            axes.plot(at(rows), values, **thin)
        low, high = (
            panel.factor * np.array([row[f"{column}_{end}"] for row in points], dtype=float)
            for end in ("low", "high")
        )
        if panel.is_percent:
            low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
        axes.fill_between(at(points), low, high, color=looks["color"], alpha=0.13, linewidth=0)
        axes.plot(at(points), [panel.factor * r[column] for r in points], label=name, **looks)
    if panel.is_percent:
        percent_axis(axes, panel.label)
    else:
        axes.axhline(0, linewidth=0.8, **pale())
        axes.set_ylabel(panel.label)


def _number(panel: Panel, number: int, num_lines: int) -> int:
    """Style of a curve: coherence and relevance differ from both rules."""
    is_score = num_lines == 1 and "coherent" in panel.columns
    return number + 2 * is_score


def _records(rows: pd.DataFrame, base: Mapping[Any, Any] | None) -> Iterator[Mapping[Any, Any]]:
    if base is not None:
        yield base
    yield from rows.to_dict("records")


def _step(positions: Sequence[float]) -> float:
    """How far two series lie apart, so that neither hides the other's bars."""
    if len(positions) < 2:
        return 0.02
    nearest = min(b - a for a, b in pairwise(positions))
    return min(_DODGE * nearest, _MOST_DODGE * (positions[-1] - positions[0]))


def counts_text(lines: Sequence[Line]) -> str:
    """How many answers, or pairs, stand behind a point, and of how many build seeds."""
    column, what = ("n", "answers")
    if any("n" not in line.points for line in lines):
        column, what = ("num_pairs", "pairs")
    text = number_text({int(n) for line in lines for n in line.points[column]})
    seeds = max(len(line.seeds) for line in lines)
    return f"n = {text} {what} a point" + (f" of {seeds} build seeds" if seeds > 1 else "")


def number_text(numbers: Collection[int]) -> str:
    """One number, or from which to which."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
