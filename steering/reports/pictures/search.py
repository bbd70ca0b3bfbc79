"""The picture of a search: shift against damage, a line a layer."""

from typing import TYPE_CHECKING

import pandas as pd

from steering.reports.pictures.style import pale, panels_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {"own": "shift, its own task", "broad": "shift, other questions"}
_MARKERS = "osD^vP"


def plot_search(
    points: pd.DataFrame,
    controls: pd.DataFrame,
    maximised: str,
    most_kl: float,
    title: str,
) -> "Figure":
    """Shifts of the log-odds against damage, both in nats a token.

    Args:
        points: A row a point, with the columns of `SearchPoint` and `best`.
        controls: A row a random direction, with the columns of `ControlPoint`; may be empty.
        maximised: The shift that was maximised, `own` or `broad`.
        most_kl: The bound on damage.
        title: What was searched.
    """
    from matplotlib import colormaps, rcParams
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    kinds = [kind for kind in ("broad", "own") if points[kind].notna().any()]
    kinds.sort(key=lambda kind: kind != maximised)
    figure, panels = panels_below(title, len(kinds), 3.2 + 2.2 * len(kinds))
    layers = sorted(points["layer"].unique())
    methods = list(points["method"].unique())
    for axes, kind in zip(panels, kinds, strict=True):
        axes.axhline(0, linewidth=0.8, **pale())
        axes.axvline(most_kl, linewidth=1, linestyle=(0, (4, 2)), **pale())
        for (method, layer), rows in points.groupby(["method", "layer"], sort=False):
            place = layers.index(layer) / max(1, len(layers) - 1)
            of_method = "" if len(methods) == 1 else f", {method}"
            axes.plot(
                rows["kl"],
                rows[kind],
                color=colormaps["viridis"](0.9 * place),
                marker=_MARKERS[layers.index(layer) % len(_MARKERS)],
                markersize=4.5,
                linewidth=1.3,
                linestyle="-" if method == methods[-1] else ":",
                label=f"layer {layer}{of_method}",
            )
        if len(controls) and kind == maximised:
            axes.plot(
                controls["kl"],
                controls["shift"],
                marker="x",
                markersize=4,
                linestyle="none",
                label="random, other half of the pairs",
                **pale(),
            )
        best = points[points["best"]]
        axes.plot(
            best["kl"],
            best[kind],
            color=rcParams["text.color"],
            marker="*",
            markersize=13,
            markerfacecolor="none",
            linestyle="none",
            label="best within the bound",
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(f"{_LABELS[kind]}\n(nats a token)")
    panels[0].legend(fontsize="x-small", loc="best", ncols=2)
    panels[-1].set_xlabel("damage: KL from the unsteered model on neutral answers (nats a token)")
    return figure
