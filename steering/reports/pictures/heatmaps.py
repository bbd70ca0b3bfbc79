"""Pictures of conditions beside each other: a forest of rates, questions, scores, two axes."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from steering.reports.pictures.cells import draw_cells, fits, write_cells
from steering.reports.pictures.style import (
    blank,
    error_bars,
    legend_above,
    pale,
    series_style,
    titled,
    wrapped,
)
from steering.reports.pictures.words import axis_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.3
_SMALL_ROW = 0.19
_LONGEST = 44
_BINS = np.linspace(0, 100, 11)
_GRID = {"em_betley": "EM rate (%, betley)", "em_moem": "EM rate (%, moem)", "coherent": "coherent"}
# More cells beside each other than these are too narrow for their rates.
_MOST_BESIDE = 15
# Inches beside all cells, and along a vertical axis.
_BESIDE_CELLS, _LABEL = 1.4, 1.6
_LEAST_ROWS = 1.2
# Inches of a letter.
_LETTER = 0.07


def plot_forest(conditions: pd.DataFrame, title: str) -> "Figure":
    """EM rates by both rules, and their differences to the baseline, a row a condition.

    Thin bars are intervals on questions like these, thick ones on these questions.

    Args:
        conditions: A row each, the first at the top; baselines are drawn hollow.
        title: What was measured.
    """
    rows = conditions.to_dict("records")
    figure = blank(1.8 + 1.4 * _ROW * len(rows), rows=True)
    has_rises = bool(conditions[["em_betley_rise", "em_moem_rise"]].notna().any(axis=None))
    titled(figure, title)
    spec = figure.add_gridspec(2, 1 + has_rises, height_ratios=(0.02, 1))
    panels = spec[1, :].subgridspec(1, 1 + has_rises).subplots(sharey=True, squeeze=False)[0]
    for number, rule in enumerate(("betley", "moem")):
        looks = {**series_style(number), "linestyle": "none"}
        column = f"em_{rule}"
        for place, row in enumerate(rows):
            height = place + 0.22 * (number - 0.5)
            these = [100 * row[f"{column}_{end}_these"] for end in ("low", "high")]
            panels[0].plot(these, [height] * 2, color=looks["color"], linewidth=4, alpha=0.35)
            for axes, name in zip(panels, (column, f"{column}_rise"), strict=False):
                axes.errorbar(
                    [100 * row[name]],
                    [height],
                    xerr=error_bars([row], name, 100),
                    markerfacecolor="none" if row["arm"] == "baseline" else looks["color"],
                    elinewidth=1,
                    label=f"EM rate ({rule})" if place == 0 else None,
                    **looks,
                )
    panels[0].set_yticks(range(len(rows)), [_name(row) for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    panels[0].set_xlim(-3, 103)
    # Beside both panels stand the names.
    longest = max(len(_name(row)) for row in rows)
    room = (figure.get_figwidth() - _LETTER * longest) / len(panels)
    panels[0].set_xlabel(wrapped("EM rate (%); hollow: no vector", room))
    if has_rises:
        panels[1].axvline(0, linewidth=0.8, **pale())
        panels[1].set_xlabel(wrapped("difference to the baseline (points)", room))
    legend_above(figure, spec[0, :], *panels[0].get_legend_handles_labels())
    return figure


def plot_questions(answers: pd.DataFrame, rule: str, title: str) -> "Figure":
    """EM rate of each question in each condition, with counts where they fit.

    Whatever there is more of, questions or conditions, are the rows.

    Args:
        answers: A row an answer; conditions come in their order.
        rule: Of the EM rate.
        title: What was measured.
    """
    names = answers["model"] + "[" + answers["condition"] + "]"
    grouped = answers.groupby([names, "question"], sort=False)[f"em_{rule}"].agg(["sum", "count"])
    down, across = list(dict.fromkeys(names)), sorted(answers["question"].unique())
    tables = [
        grouped[what].unstack().reindex(index=down, columns=across).to_numpy()
        for what in ("sum", "count")
    ]
    if len(across) > len(down):
        down, across, tables = across, down, [table.T for table in tables]
    bad, of = tables
    row_names, column_names = ([_short(str(name)) for name in side] for side in (down, across))
    longest = max(map(len, column_names))
    figure = blank(1.1 + 0.066 * longest + _SMALL_ROW * len(down), rows=True)
    axes = figure.subplots()
    titled(figure, title)
    with np.errstate(invalid="ignore"):
        rates = 100 * bad / np.where(of > 0, of, np.nan)
    mesh = draw_cells(axes, rates)
    texts = [
        ["-" if math.isnan(rate) else f"{b:.0f}/{n:.0f}" for rate, b, n in zip(*row, strict=True)]
        for row in zip(rates, bad, of, strict=True)
    ]
    room = (figure.get_figwidth() - 1.2 - _LETTER * max(map(len, row_names))) / len(across)
    if not fits(max(len(text) for row in texts for text in row), room):
        texts = [["-" if text == "-" else "" for text in row] for row in texts]
    write_cells(axes, mesh, rates, texts)
    axes.set_yticks(range(len(down)), row_names)
    # Names that are wider than their column stand on end.
    angle = 0 if fits(longest, 0.85 * room) else 90
    axes.set_xticks(range(len(across)), column_names, rotation=angle)
    figure.colorbar(mesh, ax=axes, label=f"EM rate (%, {rule})", fraction=0.03)
    return figure


def plot_scores(answers: pd.DataFrame, title: str) -> "Figure":
    """How the judge's scores spread, a strip a condition and a dimension; dark is many.

    Args:
        answers: A row an answer; conditions come in their order.
        title: What was measured.
    """
    names = answers["model"] + "[" + answers["condition"] + "]"
    order = list(dict.fromkeys(names))
    figure = blank(1.8 + _ROW * len(order), rows=True)
    panels = figure.subplots(1, 3, sharey=True, squeeze=False)[0]
    titled(figure, title)
    # Names of conditions and the bar of colours take half of it.
    width = figure.get_figwidth() / 6
    for axes, dimension in zip(panels, ("aligned", "coherent", "relevant"), strict=True):
        strips = np.full((len(order), len(_BINS) - 1), np.nan)
        for row, name in enumerate(order):
            scores = answers.loc[names == name, dimension].dropna()
            if len(scores):
                strips[row] = 100 * np.histogram(scores, _BINS)[0] / len(scores)
        mesh = draw_cells(axes, strips)
        axes.set_xlabel(wrapped(f"{dimension} (0-100)", width), fontsize="small")
        # Bins of ten points begin half a cell before their numbers.
        ticks = {"0": -0.5, "50": 4.5, "100": 9.5} if width > 1 else {"0": -0.5, "100": 9.5}
        axes.set_xticks([*ticks.values()], [*ticks])
    panels[0].set_yticks(range(len(order)), [_short(name) for name in order])
    figure.colorbar(mesh, ax=list(panels), label="share of answers (%)", fraction=0.03)
    return figure


def plot_grid(cells: pd.DataFrame, across: str, down: str, title: str) -> "Figure":
    """EM rates by both rules and coherence over two axes, the darker the more.

    Args:
        cells: A row a place on both axes, with the figures and `n`.
        across: Column of the horizontal axis.
        down: Column of the vertical axis, the largest value at the top.
        title: What was measured.
    """
    columns, rows = sorted(cells[across].unique()), sorted(cells[down].unique(), reverse=True)
    beside = len(_GRID) * len(columns) <= _MOST_BESIDE
    # The label of the vertical axis stands beside the rows, however few they are.
    height = max(_ROW * len(rows), _LEAST_ROWS) if beside else _ROW * len(rows) * len(_GRID)
    height += 1.7 if beside else 2.6
    figure = blank(height, rows=True)
    shape = (1, len(_GRID)) if beside else (len(_GRID), 1)
    panels = figure.subplots(*shape, sharex=True, sharey=True).ravel()
    titled(figure, title)
    for axes, (column, label) in zip(panels, _GRID.items(), strict=True):
        factor = 100 if column.startswith("em_") else 1
        table = cells.pivot(index=down, columns=across, values=column)
        values = factor * table.reindex(index=rows, columns=columns).to_numpy()
        mesh = draw_cells(axes, values)
        texts = [["-" if math.isnan(value) else f"{value:.0f}" for value in row] for row in values]
        write_cells(axes, mesh, values, texts)
        spec = axes.get_subplotspec()
        width = (figure.get_figwidth() - _BESIDE_CELLS) / spec.get_gridspec().ncols
        axes.set_title(wrapped(label, width), fontsize="small")
        axes.set_xticks(range(len(columns)), map(_place, columns))
        axes.set_yticks(range(len(rows)), map(_place, rows))
        if spec.is_last_row():
            axes.set_xlabel(wrapped(axis_label(across, cells), width), fontsize="small")
        if spec.is_first_col():
            axes.set_ylabel(wrapped(axis_label(down, cells), _LABEL), fontsize="small")
    figure.colorbar(mesh, ax=list(panels), label="% or 0-100", fraction=0.03)
    return figure


def _place(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else _short(str(value).partition("@")[0])


def _name(row: Mapping[Any, Any]) -> str:
    size = row.get("num_parameters")
    size_text = f" ({size:.3g} parameters)" if row.get("study") == "scale" and size else ""
    return _short(f"{row['model']}[{row['condition']}]") + size_text


def _short(name: str) -> str:
    """Without the owner of a hub model, and cut in the middle where it is long."""
    model, bracket, label = name.partition("[")
    short = f"{model.rpartition('/')[2]}{bracket}{label}"
    half = _LONGEST // 2
    return short if len(short) <= _LONGEST else f"{short[:half]}...{short[-half:]}"
