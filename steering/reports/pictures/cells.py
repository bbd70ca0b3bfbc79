"""Tables of cells that are the darker the more: the colours, and the texts in them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the light that a colour gives, from which on dark letters stand out better.
_LIGHT = 0.5
_LIGHT_OF = (0.299, 0.587, 0.114)
# Width of a digit, of its height.
_DIGIT = 0.62
_POINTS = 72


def draw_cells(axes: "Axes", values: NDArray[Any]) -> Any:
    """A cell a value from 0 to 100, [rows, columns], the first row at the top; NaN stays empty.

    Drawn as areas and not as an image, so that it is sharp at every size.
    """
    rows, columns = values.shape
    axes.grid(False)
    mesh = axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(values),
        vmin=0,
        vmax=100,
        edgecolors="face",
        linewidth=0.2,
    )
    axes.set_ylim(rows - 0.5, -0.5)
    return mesh


def write_cells(
    axes: "Axes", mesh: Any, values: NDArray[Any], texts: Sequence[Sequence[str]]
) -> None:
    """A text in each cell, dark on light or light on dark."""
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        light = 1.0 if np.isnan(value) else np.dot(mesh.to_rgba(value)[:3], _LIGHT_OF)
        axes.text(
            column,
            row,
            texts[row][column],
            ha="center",
            va="center",
            fontsize="x-small",
            color="black" if light > _LIGHT else "white",
        )


def fits(letters: int, width: float) -> bool:
    """Whether so many letters fit into a cell of this width in inches."""
    from matplotlib import rcParams

    # The size `x-small`.
    return letters * _DIGIT * 0.694 * rcParams["font.size"] / _POINTS < width
