"""How tables and figures look in a terminal: what the printing modules share."""

import math
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steering.report.results import Result


def plain_table(title: str, text: Iterable[str], figures: Iterable[str]) -> Table:
    """An empty table: columns of text, which fold, then columns of figures, which don't."""
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in text:
        table.add_column(heading, overflow="fold")
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def rate_text(value: float, low: float, high: float) -> str:
    """A share with its interval, in percent, ready for a table's cell."""
    if math.isnan(value):
        return "none counts"
    digits = 1 if value < 0.1 else 0
    return escape(f"{100 * value:.{digits}f}% [{percent(low)}, {percent(high)}]")


def percent(share: float) -> str:
    """A share in whole percent; a dash where there is none."""
    return "-" if math.isnan(share) else str(round(100 * share))


def print_note(console: Console, note: str) -> None:
    """Something that the reader must know before trusting the figures."""
    console.print(note, style="yellow", highlight=False, markup=False)


def print_signatures(console: Console, results: Iterable[Result]) -> None:
    """The signatures of the results' figures, each on a line of its own."""
    for result in results:
        for line in result.signatures():
            console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
