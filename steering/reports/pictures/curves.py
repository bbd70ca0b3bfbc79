"""Pictures of what changes along an axis: a dose, a layer, a rank; and of what a dose costs."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from steering.reports.pictures.lines import Line, Panel, draw_lines, places_of
from steering.reports.pictures.style import (
    blank,
    error_bars,
    legend_above,
    pale,
    panels_below,
    percent_axis,
    series_style,
    titled,
    wrapped,
)
from steering.reports.pictures.words import axis_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = ("em_betley", "em_moem", "coherent", "relevant")
"""What is drawn along an axis."""
CHOICE_FIGURES = ("shift", "kl")
# Here the baseline is a place, and on every other axis a line.
_FROM_ZERO = ("magnitude", "adapter_scale")
# They double: evenly spaced they can be told apart.
_EVENLY = ("rank", "top")
# Inches beside a panel.
_MARGIN = 0.7
# Height of one of two panels, as a share of the figure's.
_PANEL = 0.3
_RULES = {"em_betley": "EM rate (betley)", "em_moem": "EM rate (moem)"}
_SCORES = {"coherent": "mean coherent", "relevant": "mean relevant"}


def plot_along(
    lines: Sequence[Line], axis: str, title: str, base: Mapping[Any, Any] | None = None
) -> "Figure":
    """EM by both rules, and coherence and relevance, along an axis.

    Of one series in two panels, of several in four.

    Args:
        lines: At most `MOST_SERIES`.
        axis: A column.
        title: What was measured.
        base: The baseline, which is the place 0 of the magnitude and a line on every other axis.
    """
    if len(lines) == 1:
        panels = [Panel("EM rate (%)", _RULES, 100), Panel("score (0-100)", _SCORES)]
        figure, axes = panels_below(title, 2, 5.6)
    else:
        figure = blank(5.8)
        titled(figure, title)
        height = _PANEL * figure.get_figheight()
        panels = [
            Panel(wrapped(f"{name} (%)", height), {key: name}, 100) for key, name in _RULES.items()
        ]
        panels += [
            Panel(wrapped(f"{name} (0-100)", height), {key: name}) for key, name in _SCORES.items()
        ]
        spec = figure.add_gridspec(3, 2, height_ratios=(0.05, 1, 1))
        axes = list(spec[1:, :].subgridspec(2, 2).subplots(sharex=True, squeeze=False).ravel())
    at_zero = base if axis in _FROM_ZERO else None
    for place, panel in zip(axes, panels, strict=True):
        draw_lines(place, panel, lines, axis, base=at_zero, evenly=axis in _EVENLY)
        if base is not None and at_zero is None:
            column, name = next(iter(panel.columns.items()))
            of = f" ({name.removeprefix('mean ')})" if len(lines) == 1 else ""
            place.axhline(
                panel.factor * base[column],
                linewidth=1,
                linestyle=(0, (1, 2)),
                label=f"without the vector{of}",
                **pale(),
            )
        if len(lines) == 1:
            place.legend(loc="best")
    _finish(figure, axes, lines, axis, at_zero)
    if len(lines) > 1:
        legend_above(figure, spec[0, :], *axes[0].get_legend_handles_labels())
    return figure


def plot_choices(lines: Sequence[Line], title: str) -> "Figure":
    """Shift of em_choice above, KL divergence below, along the magnitude; 0 is the baseline.

    Args:
        lines: Of each vector, at most `MOST_SERIES`.
        title: What was measured.
    """
    figure = blank(5.6)
    titled(figure, title)
    spec = figure.add_gridspec(3, 1, height_ratios=(0.05, 1, 1))
    axes = list(spec[1:, :].subgridspec(2, 1).subplots(sharex=True, squeeze=False).ravel())
    base = {f"{name}{end}": 0.0 for name in CHOICE_FIGURES for end in ("", "_low", "_high")}
    panels = [
        Panel("shift (nats a token)", {"shift": "shift"}, is_percent=False),
        Panel("KL (nats a token)", {"kl": "damage"}, is_percent=False),
    ]
    for place, panel in zip(axes, panels, strict=True):
        draw_lines(place, panel, lines, "magnitude", base=base)
    _finish(figure, axes, lines, "magnitude", base)
    if len(lines) > 1:
        legend_above(figure, spec[0, :], *axes[0].get_legend_handles_labels())
    return figure


def plot_metric(
    lines: Sequence[Line],
    axis: str,
    metric: str,
    title: str,
    base: Mapping[Any, Any] | None = None,
) -> "Figure":
    """A metric of another task along an axis.

    Args:
        lines: Of each series, with the metric in `value`; at most `MOST_SERIES`.
        axis: A column.
        metric: Its name.
        title: What was measured.
        base: The baseline, which is the place 0 of the magnitude and a line on every other axis.
    """
    figure, axes = panels_below(title)
    at_zero = base if axis in _FROM_ZERO else None
    panel = Panel(metric, {"value": metric}, is_percent=False)
    draw_lines(axes[0], panel, lines, axis, base=at_zero, evenly=axis in _EVENLY)
    if base is not None and at_zero is None:
        looks = {"linestyle": (0, (1, 2)), **pale()}
        axes[0].axhline(base["value"], linewidth=1, label="without the vector", **looks)
    _finish(figure, axes, lines, axis, at_zero)
    axes[0].legend(loc="best")
    return figure


def _finish(
    figure: "Figure",
    axes: "Sequence[Axes]",
    lines: Sequence[Line],
    axis: str,
    base: Mapping[Any, Any] | None,
) -> None:
    """The horizontal axis: its places, and its unit."""
    shares = _shares(lines) if axis == "layer" else {}
    points = pd.concat([line.points for line in lines])
    label = axis_label(axis, points, has_shares=bool(shares))
    places = places_of(lines, axis, base)
    for each in axes:
        spec = each.get_subplotspec()
        if spec is not None and spec.is_last_row():
            width = figure.get_figwidth() / spec.get_gridspec().ncols - _MARGIN
            each.set_xlabel(wrapped(label, width))
        if axis not in _FROM_ZERO:
            positions = range(len(places)) if axis in _EVENLY else places
            each.set_xticks(positions, [f"{place:g}{shares.get(place, '')}" for place in places])


def _shares(lines: Sequence[Line]) -> dict[float, str]:
    """Of each layer the length of what is added, where it is one length."""
    points = [rows for line in lines for rows in line.seeds or [line.points]]
    shares = pd.concat(points).dropna(subset="relative_magnitude")
    by_layer = shares.groupby("layer")["relative_magnitude"]
    texts = {place: {f"{share:.2f}" for share in values} for place, values in by_layer}
    if any(len(each) > 1 for each in texts.values()):
        return {}
    return {float(place): f"\n({next(iter(each))})" for place, each in texts.items()}


def plot_spectrum(values: Sequence[float], title: str) -> "Figure":
    """Singular values of a set of vectors, and the share of their energy in the first directions.

    Args:
        values: Largest first.
        title: What they are of.
    """
    figure, [axes] = panels_below(title, height=3.6)
    spectrum = np.array(values, dtype=float)
    places = np.arange(1, len(spectrum) + 1)
    energies = 100 * spectrum**2 / (spectrum**2).sum()
    shares = np.cumsum(energies)
    axes.bar(places, energies, color="#BBBBBB", label="each direction")
    axes.plot(places, shares, label="the first so many", **series_style(0))
    percent_axis(axes, "share of the energy (%)")
    axes.set_xlabel("principal direction")
    axes.set_xticks(places)
    axes.legend(loc="center right")
    return figure


def plot_front(conditions: pd.DataFrame, rule: str, title: str) -> "Figure":
    """EM rate against coherence, a curve a vector or adapter from the baseline on.

    Args:
        conditions: A baseline, and conditions of the arms `steered` and `finetuned`.
        rule: Of the EM rate.
        title: What was measured.
    """
    figure, [axes] = panels_below(title, height=5.0)
    base = conditions[conditions["arm"] == "baseline"]
    lowest = 100.0
    for number, arm in enumerate(("steered", "finetuned")):
        of_arm = conditions[conditions["arm"] == arm]
        scaled = of_arm["adapter_scale"].nunique() > 1
        dose = "magnitude" if arm == "steered" else "adapter_scale" if scaled else "training_epochs"
        what = {"magnitude": "magnitude", "adapter_scale": "scale", "training_epochs": "epoch"}
        looks = series_style(number)
        # A curve a build seed; the doses are written at the first.
        for other, (_, of_seed) in enumerate(of_arm.groupby("build_seed", dropna=False)):
            rows = [*base.to_dict("records"), *of_seed.sort_values(dose).to_dict("records")]
            across = [row["coherent"] for row in rows]
            up = [100 * row[f"em_{rule}"] for row in rows]
            lowest = min([lowest, *(value for value in across if not math.isnan(value))])
            axes.errorbar(
                across,
                up,
                xerr=error_bars(rows, "coherent"),
                yerr=error_bars(rows, f"em_{rule}", 100),
                **looks,
                elinewidth=0.6,
                alpha=0.4 if other else 1.0,
                label="" if other else f"{arm} ({what[dose]})",
            )
            # Doses of neighbouring arms are written on either side of their points.
            side = -1 if number == 0 else 1
            for row, x, y in zip(rows, across, up, strict=True):
                if row["arm"] != "baseline" and not other:
                    axes.annotate(
                        f"{row[dose]:g}",
                        (x, y),
                        xytext=(side * 6, 5),
                        textcoords="offset points",
                        ha="left" if side > 0 else "right",
                        fontsize="small",
                        color=looks["color"],
                    )
    for row in base.to_dict("records")[:1]:
        axes.annotate(
            "baseline",
            (row["coherent"], 100 * row[f"em_{rule}"]),
            xytext=(-6, -10),
            textcoords="offset points",
            ha="right",
            fontsize="small",
        )
    percent_axis(axes, f"EM rate (%, {rule})")
    axes.set_xlabel("mean coherence (0-100)")
    axes.set_xlim(max(0.0, 10 * math.floor(lowest / 10) - 10) - 1, 101)
    axes.legend(loc="best")
    return figure
