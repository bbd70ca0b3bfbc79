"""Pictures of figures: each function returns a matplotlib figure and saves nothing.

Colours are those of Okabe and Ito (2008), told apart by colour-blind eyes, and every series has a
marker of its own, so that a grey print can be read.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
_INK = "#333333"


@dataclass(frozen=True)
class FrontPoint:
    """A condition on the trade-off front.

    Attributes:
        dose: Written beside it; may be empty.
        em: EM rate with its interval's bounds, 0-1.
        coherent: Mean coherence with its interval's bounds, 0-100.
    """

    dose: str
    em: tuple[float, float, float]
    coherent: tuple[float, float, float]


def plot_front(arms: Mapping[str, Sequence[FrontPoint]], title: str, signature: str) -> "Figure":
    """EM rate against coherence, a curve an arm: what an arm pays for its EM.

    Args:
        arms: Points of each arm, from its lowest dose to its highest.
        title: What was measured.
        signature: How the figures were made; printed small below.
    """
    figure, axes = _empty(title, signature)
    # Doses of neighbouring arms are written on either side of their points.
    sides = cycle((-1, 1))
    for (name, points), (colour, marker), side in zip(arms.items(), _STYLES, sides, strict=False):
        across = [point.coherent[0] for point in points]
        up = [100 * point.em[0] for point in points]
        axes.errorbar(
            across,
            up,
            xerr=_arms_of([point.coherent for point in points], 1),
            yerr=_arms_of([point.em for point in points], 100),
            color=colour,
            marker=marker,
            markersize=6,
            linewidth=1.5,
            elinewidth=0.7,
            label=name,
        )
        for point, x, y in zip(points, across, up, strict=True):
            axes.annotate(
                point.dose,
                (x, y),
                xytext=(side * 6, 5),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                fontsize=8,
                color=colour,
            )
    axes.set_xlabel("mean coherence (0-100)")
    axes.set_ylabel("EM rate (%)")
    lowest = min(point.coherent[0] for points in arms.values() for point in points)
    axes.set_xlim(max(0, 10 * math.floor(lowest / 10) - 10), 105)
    axes.set_ylim(-2, 102)
    axes.legend(frameon=False, loc="best")
    return figure


def save_figure(figure: "Figure", path: Path) -> list[Path]:
    """Write a figure as PNG and as SVG, each whole or not at all.

    Args:
        figure: What to write.
        path: Without an ending.
    """
    from matplotlib import rc_context

    written = []
    for kind in ("png", "svg"):
        buffer = io.BytesIO()
        # The same figure gives the same file.
        with rc_context({"svg.hashsalt": "steering"}):
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
        target = path.with_name(f"{path.name}.{kind}")
        write_whole(target, buffer.getvalue())
        written.append(target)
    return written


def _empty(title: str, signature: str) -> "tuple[Figure, Any]":
    # Not pyplot, which keeps every figure and looks for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.supxlabel(signature, fontsize=6, color="#777777")
    return figure, axes


def _arms_of(bounds: Sequence[tuple[float, float, float]], factor: float) -> list[list[float]]:
    """Lengths of the error bars below and above; none where there are no bounds."""
    below = [factor * max(0.0, value - low) for value, low, _ in bounds]
    above = [factor * max(0.0, high - value) for value, _, high in bounds]
    return [[0.0 if length != length else length for length in side] for side in (below, above)]
