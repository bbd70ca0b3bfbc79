"""How all pictures look, and how they are written.

The look is a style sheet of matplotlib, `steering.mplstyle`, on which a reader's own goes. Figures
are made and rendered inside `drawn_in`. Sizes are for a figure of `WIDTH` inches with text of 10
points; at another width or size of text heights follow, and text stays as large as it is.
"""

import difflib
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steering.errors import SteeringError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0
FORMATS = ("pdf", "svg", "png")
"""What `render` writes: both kinds of drawings have their text as text."""
# Of a paper, whose captions have text of about this size.
_IN_PRINT = {"font.size": 8, "lines.markersize": 4, "lines.linewidth": 1.2}
_HOUSE = Path(__file__).with_name("steering.mplstyle")
# Of a signature, which is printed small: letters to an inch, and inches to a line.
_LETTERS, _LINE = 17.0, 0.12
_LETTERS_OF_TITLES = 11.0
_WIDEST = 40.0
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MOST_SERIES = len(_MARKERS)
"""More lines in one picture can't be told apart."""
_FAMILIES = ("serif", "sans-serif", "monospace")
# Whatever a style sheet says: names are texts of others, two $ in one are no formula, and LaTeX
# would run them as commands. Type 3 fonts are refused by many publishers.
_FIXED = {
    "text.usetex": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "steering",
    "pdf.fonttype": 42,
}


@contextmanager
def drawn_in(
    *, width: float | None = None, font: str = "", style: str | Path = ""
) -> Iterator[None]:
    """Figures that are made and rendered inside look alike.

    Args:
        width: Of figures for print, in inches; their text has 8 points unless the style says
            otherwise. None for a page, with 7 inches and 10 points.
        font: Family of the text, which must be installed, or `serif`, `sans-serif`, `monospace`.
        style: Name of a style of matplotlib, or path of a style sheet.

    Raises:
        SteeringError: There is no such font or style, or the width is none.
    """
    from matplotlib import style as styles

    if width is not None and not 1 <= width <= _WIDEST:
        raise SteeringError(f"width={width:g} is out of range: give 1 to {_WIDEST:g} inches")
    settings: dict[str, Any] = {}
    if width is not None:
        settings |= _IN_PRINT
    settings |= _read_style(style) if style else {}
    if width is not None:
        settings["figure.figsize"] = (width, width * 0.6)
    if font:
        settings["font.family"] = [_installed(font), "DejaVu Sans"]
    with styles.context([_HOUSE, settings, _FIXED], after_reset=True):
        yield


def _read_style(style: str | Path) -> Mapping[Any, Any]:
    import matplotlib
    from matplotlib import style as styles

    path = Path(style)
    if path.is_file():
        try:
            return matplotlib.rc_params_from_file(path, True, use_default_template=False)
        except (ValueError, OSError) as error:
            raise SteeringError(f"{path} is no style sheet of matplotlib: {error}") from None
    # By name only: matplotlib would also load a style from a network address.
    if str(style) in styles.library:
        return styles.library[str(style)]
    near = difflib.get_close_matches(str(style), styles.library, 3, 0.3) or styles.available[:3]
    raise SteeringError(
        f"there is no style {str(style)!r}: give the path of a style sheet (.mplstyle) or a name "
        f"of matplotlib.style.available, such as {', '.join(near)}"
    )


def _installed(font: str) -> str:
    from matplotlib import font_manager

    if font in _FAMILIES:
        return font
    names = sorted({entry.name for entry in font_manager.fontManager.ttflist})
    if font in names:
        return font
    near = difflib.get_close_matches(font, names, 3, 0.3) or names[:3]
    raise SteeringError(
        f"the font {font!r} is not installed: give one that is, such as {', '.join(near)}, or "
        f"{', '.join(_FAMILIES)}"
    )


def series_style(number: int) -> dict[str, Any]:
    """Colour, marker and line of a series, counted from 0, so that a grey print can be read too.

    Whatever of these a style sheet's cycle sets is as it has it.
    """
    from matplotlib import rcParams

    cycle = rcParams["axes.prop_cycle"].by_key()
    styles = {"marker": _MARKERS, "linestyle": _LINES} | cycle
    return {name: values[number % len(values)] for name, values in styles.items()}


def pale() -> dict[str, Any]:
    """Of a text or line that stands back."""
    from matplotlib import rcParams

    return {"color": rcParams["text.color"], "alpha": 0.75}


def panels_below(title: str, panels: int = 1, height: float = 4.2) -> "tuple[Figure, list[Axes]]":
    """A figure with panels below each other that share their horizontal axis.

    Args:
        title: What was measured.
        panels: How many.
        height: As of `blank`.
    """
    figure = blank(height)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    titled(figure, title)
    return figure, list(axes)


def blank(height: float, *, rows: bool = False) -> "Figure":
    """A figure as wide as figures are.

    Args:
        height: In inches, of a figure of `WIDTH` inches with text of 10 points.
        rows: Whether it follows the size of the text alone, as that of a list does.
    """
    # Not pyplot, which keeps every figure and looks for a screen.
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    width, text = rcParams["figure.figsize"][0], rcParams["font.size"] / 10
    factor = text if rows else math.sqrt(text * width / WIDTH)
    return Figure(figsize=(width, height * factor), layout="constrained")


def legend_above(figure: "Figure", spec: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend in a row of its own: constrained layout puts one of a figure over other texts."""
    from matplotlib import rcParams

    row = figure.add_subplot(spec)
    row.set_axis_off()
    letters = max(map(len, names), default=1) + 5
    room = _LETTERS_OF_TITLES * figure.get_figwidth() * 12 / rcParams["font.size"]
    columns = max(1, min(len(names), int(room / letters)))
    row.legend(handles, names, loc="upper left", ncols=columns, borderaxespad=0)


def wrapped(label: str, length: float) -> str:
    """A label of an axis in lines of a length in inches."""
    from matplotlib import rcParams

    letters = int(_LETTERS_OF_TITLES * 1.15 * length * 10 / rcParams["font.size"])
    return "\n".join(textwrap.wrap(label, max(letters, 8)))


def titled(figure: "Figure", title: str) -> None:
    """The title of a figure, in as many lines as it needs."""
    from matplotlib import rcParams

    letters = int(_LETTERS_OF_TITLES * figure.get_figwidth() * 10 / rcParams["font.size"])
    lines = [text for line in title.splitlines() for text in textwrap.wrap(line, letters)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize="large")


def breakable(signature: str) -> str:
    """A signature that lines can end in."""
    return signature.replace("|", " | ")


def sign(figure: "Figure", signature: str) -> None:
    """Write below a figure how it was made, small; the figure grows by that."""
    from matplotlib import rcParams

    width, height = figure.get_size_inches()
    text = rcParams["font.size"] / 10
    lines = textwrap.wrap(breakable(signature), int(_LETTERS * width / text))
    figure.supxlabel("\n".join(lines), fontsize=6 * text, **pale())
    figure.set_size_inches(width, height + _LINE * text * len(lines))


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
    values = factor * np.array([row[column] for row in rows], dtype=float)
    bars = error_bars(rows, column, factor)
    axes.errorbar(places, values, yerr=bars, elinewidth=0.8, label=label, **series_style(number))


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
    """The figure as the content of a file of `FORMATS`; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
    figure.savefig(buffer, format=kind, metadata=metadata[kind])
    return buffer.getvalue()
