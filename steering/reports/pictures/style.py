"""How all pictures look, and how they are written.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart. Every series
has a marker and a line style too, so that a grey print can be read.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour, marker and line of each series.
STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
)
INK = "#333333"
PALE = "#777777"
_DPI = 144
# Of a signature, which is printed small: letters to an inch, and inches to a line.
_LETTERS, _LINE = 18.0, 0.12


def empty(
    title: str, signature: str, *, panels: int = 1, size: tuple[float, float] = (7.0, 4.2)
) -> "tuple[Figure, list[Axes]]":
    """A figure with panels below each other that share their horizontal axis.

    Args:
        title: What was measured.
        signature: How the figures were made; printed small below.
        panels: How many.
        size: Of the whole without the signature, in inches.
    """
    figure = signed(signature, size)
    panel_axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    panel_axes[0].set_title(title, loc="left", fontsize=11, color=INK)
    for axes in panel_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, list(panel_axes)


def signed(signature: str, size: tuple[float, float]) -> "Figure":
    """A figure of this size in inches, with room below it for its signature."""
    # Not pyplot, which keeps every figure and looks for a screen.
    from matplotlib.figure import Figure

    width, height = size
    lines = textwrap.wrap(signature.replace("|", " | "), int(_LETTERS * width))
    figure = Figure(figsize=(width, height + _LINE * len(lines)), layout="constrained")
    figure.supxlabel("\n".join(lines), fontsize=6, color=PALE)
    return figure


def draw_series(
    axes: "Axes",
    places: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    column: str,
    label: str,
    number: int,
    factor: float = 1.0,
) -> None:
    """A line through a column's figures with their intervals.

    Args:
        axes: Where.
        places: Horizontal place of each row.
        rows: With the column and its bounds `_low` and `_high`; NaN leaves a gap.
        column: What is drawn.
        label: In the legend.
        number: Which style.
        factor: What figures are multiplied by.
    """
    colour, marker, line = STYLES[number % len(STYLES)]
    values = factor * np.array([row[column] for row in rows], dtype=float)
    axes.errorbar(
        places,
        values,
        yerr=error_bars(rows, column, factor),
        color=colour,
        marker=marker,
        linestyle=line,
        markersize=5.5,
        linewidth=1.5,
        elinewidth=0.8,
        capsize=2,
        label=label,
    )


def error_bars(rows: Sequence[Mapping[str, Any]], column: str, factor: float = 1.0) -> Any:
    """Lengths of the bars below and above, [2, rows]; none where there are no bounds."""
    values, low, high = (
        np.array([row[f"{column}{end}"] for row in rows], dtype=float)
        for end in ("", "_low", "_high")
    )
    return factor * np.nan_to_num(np.maximum(0, np.vstack([values - low, high - values])))


def percent_axis(axes: "Axes", label: str) -> None:
    """The vertical axis from 0 to 100, with room for what lies on its ends."""
    axes.set_ylabel(label)
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))


def render(figure: "Figure", kind: str) -> bytes:
    """The figure as the content of a `png` or `svg` file; the same figure gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    buffer = io.BytesIO()
    # Names are texts of others: two $ in one are no formula.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    # Ticks get their texts while they are drawn.
    with rc_context({"svg.hashsalt": "steering", "text.parse_math": False}):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()
