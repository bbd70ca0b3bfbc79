"""Pictures of what changes along an axis: a dose, a layer, a rank; and of what a dose costs."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from steering.reports.pictures.style import (
    INK,
    PALE,
    STYLES,
    draw_series,
    empty,
    error_bars,
    percent_axis,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The axis of each study, and what stands below it.
AXES = {
    "magnitude": "magnitude",
    "rank": "rank (directions that are trained)",
    "top": "principal directions that are kept",
    "training_epochs": "training epochs",
    "layer": "layer (below: length of what is added, as a share of the residual norm)",
    "adapter_scale": "scale of the adapter",
}


def plot_along(conditions: pd.DataFrame, axis: str, title: str, signature: str) -> "Figure":
    """EM by both rules, and coherence and relevance, along an axis.

    Args:
        conditions: A row a condition, as `conditions_of` gives them: those that have a place on the
            axis, and the baseline, which is the place 0 of the magnitude and a line on every other.
        axis: A column.
        title: What was measured.
        signature: How.
    """
    is_base = conditions["arm"].eq("baseline")
    at_zero = axis in ("magnitude", "adapter_scale")
    rows = conditions[~is_base].sort_values(axis)
    base = conditions[is_base].to_dict("records")[:1]
    records = [*(base if at_zero else []), *rows.to_dict("records")]
    places = [0.0 if row["arm"] == "baseline" else float(row[axis]) for row in records]
    if axis in ("rank", "top"):
        # Ranks double: evenly spaced they can be told apart.
        ranks = list(range(len(places)))
    figure, (above, below) = empty(title, signature, panels=2, size=(7.0, 5.6))
    positions = ranks if axis in ("rank", "top") else places
    for number, rule in enumerate(("betley", "moem")):
        draw_series(above, positions, records, f"em_{rule}", f"EM rate ({rule})", number, 100)
    for number, name in enumerate(("coherent", "relevant"), start=2):
        draw_series(below, positions, records, name, f"mean {name}", number)
    for row in base if not at_zero else []:
        above.axhline(100 * row["em_betley"], color=PALE, linewidth=1, linestyle=(0, (1, 2)))
        above.annotate(
            "without the vector (betley)",
            (1, 100 * row["em_betley"]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=PALE,
        )
    percent_axis(above, "EM rate (%)")
    percent_axis(below, "score (0-100)")
    for axes in (above, below):
        axes.legend(frameon=False, fontsize=8, loc="best")
    below.set_xlabel(AXES[axis])
    if axis != "magnitude":
        names = [f"{place:g}" for place in places]
        if axis == "layer":
            shares = [row["relative_magnitude"] for row in records]
            names = [
                name if math.isnan(share) else f"{name}\n({share:.2f})"
                for name, share in zip(names, shares, strict=True)
            ]
        below.set_xticks(positions, names)
    return figure


def plot_choices(lines: Sequence[pd.DataFrame], title: str, signature: str) -> "Figure":
    """Shift of em_choice above, KL divergence below, along the magnitude; 0 is the baseline.

    Args:
        lines: Of each vector, a row a magnitude; the first few are drawn.
        title: What was measured.
        signature: How.
    """
    figure, (above, below) = empty(title, signature, panels=2, size=(7.0, 5.6))
    names = ("shift", "kl")
    origin = {f"{name}{end}": 0.0 for name in names for end in ("", "_low", "_high")}
    for number, rows in enumerate(lines[: len(STYLES)]):
        rows = rows.sort_values("magnitude")
        records = [origin, *rows.to_dict("records")]
        places = [0.0, *rows["magnitude"]]
        for axes, name in ((above, "shift"), (below, "kl")):
            draw_series(axes, places, records, name, _line_name(rows.iloc[0]), number)
    above.axhline(0, color=PALE, linewidth=1)
    above.set_ylabel("shift (nats a token)")
    below.set_ylabel("KL (nats a token)")
    below.set_xlabel(AXES["magnitude"])
    above.legend(frameon=False, fontsize=8, loc="best")
    if len(lines) > len(STYLES):
        below.annotate(
            f"{len(lines) - len(STYLES)} more vectors are not drawn",
            (1, 0),
            xycoords="axes fraction",
            ha="right",
            fontsize=7,
            color=PALE,
        )
    return figure


def plot_metric(
    lines: Sequence[pd.DataFrame], axis: str, metric: str, title: str, signature: str
) -> "Figure":
    """A metric of another task along an axis; the unsteered model is a line across.

    Args:
        lines: Of each series, a row a condition with the metric in `value`, the baseline among
            them; the first few are drawn.
        axis: A column.
        metric: Its name.
        title: What was measured.
        signature: How.
    """
    figure, [axes] = empty(title, signature)
    for number, series in enumerate(lines[: len(STYLES)]):
        rows = series[series["arm"] != "baseline"].sort_values(axis)
        records = rows.to_dict("records")
        draw_series(axes, list(rows[axis]), records, "value", _line_name(rows.iloc[0]), number)
    for value in lines[0].loc[lines[0]["arm"] == "baseline", "value"][:1]:
        axes.axhline(value, color=PALE, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_ylabel(metric)
    axes.set_xlabel(AXES[axis])
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def _line_name(row: "pd.Series[Any]") -> str:
    name = row["target"] or row["method"] or "vector"
    seed = "" if math.isnan(row["build_seed"]) else f", build seed {row['build_seed']:g}"
    shuffled = ", shuffled labels" if row["shuffled_labels"] else ""
    return f"{name}{shuffled}{seed}"


def plot_spectrum(values: Sequence[float], title: str, signature: str) -> "Figure":
    """Singular values of a set of vectors, and the share of their energy in the first directions.

    Args:
        values: Largest first.
        title: What they are of.
        signature: How they were made.
    """
    figure, [axes] = empty(title, signature, size=(7.0, 3.6))
    spectrum = np.array(values, dtype=float)
    places = np.arange(1, len(spectrum) + 1)
    energies = 100 * spectrum**2 / (spectrum**2).sum()
    shares = np.cumsum(energies)
    axes.bar(places, energies, color="#BBBBBB", label="each direction")
    colour, marker, line = STYLES[0]
    axes.plot(
        places, shares, color=colour, marker=marker, linestyle=line, label="the first so many"
    )
    percent_axis(axes, "share of the energy (%)")
    axes.set_xlabel("principal direction")
    axes.set_xticks(places)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    return figure


def plot_front(conditions: pd.DataFrame, rule: str, title: str, signature: str) -> "Figure":
    """EM rate against coherence, a curve a vector or adapter from the baseline on.

    Args:
        conditions: A baseline, and conditions of the arms `steered` and `finetuned`.
        rule: Of the EM rate.
        title: What was measured.
        signature: How.
    """
    figure, [axes] = empty(title, signature, size=(7.0, 5.0))
    base = conditions[conditions["arm"] == "baseline"]
    lowest = 100.0
    for number, arm in enumerate(("steered", "finetuned")):
        of_arm = conditions[conditions["arm"] == arm]
        scaled = of_arm["adapter_scale"].nunique() > 1
        dose = "magnitude" if arm == "steered" else "adapter_scale" if scaled else "training_epochs"
        what = {"magnitude": "magnitude", "adapter_scale": "scale", "training_epochs": "epoch"}
        colour, marker, line = STYLES[number]
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
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=5.5,
                linewidth=1.5,
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
                        fontsize=8,
                        color=colour,
                    )
    for row in base.to_dict("records")[:1]:
        axes.annotate(
            "baseline",
            (row["coherent"], 100 * row[f"em_{rule}"]),
            xytext=(-6, -10),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=INK,
        )
    percent_axis(axes, f"EM rate (%, {rule})")
    axes.set_xlabel("mean coherence (0-100)")
    axes.set_xlim(max(0.0, 10 * math.floor(lowest / 10) - 10) - 1, 101)
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure
