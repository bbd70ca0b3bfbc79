"""How tables and figures look in a terminal: what the printing modules share."""

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steering.judging import Failures, judge_failures, shortened
from steering.results.runs import Calibration, Result

# Kinds of failing that are told for each judge.
_CAUSES = 3


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


def print_judges(console: Console, results: Sequence[Result | Calibration]) -> None:
    """What the reader must know of the judges: which failed and why, and which are steered."""
    judges = judge_failures([answer for result in results for answer in result.answers])
    for judge in judges:
        if judge.failed:
            print_note(console, _failed_text(judge, others=len(judges) > 1))
        if judge.judge.startswith("steered/") and "[baseline]" not in judge.judge:
            print_note(console, f"The judge {judge.judge} is steered itself.")


def _failed_text(judge: Failures, *, others: bool) -> str:
    causes = "; ".join(
        f"{cause.replies} x {shortened(cause.reason)}" for cause in judge.causes[:_CAUSES]
    )
    rest = sum(cause.replies for cause in judge.causes[_CAUSES:])
    told = f"{causes}; {rest} x other reasons" if rest else causes
    fewer = " These answers' scores rest on fewer judges." if others else ""
    return (
        f"The judge {judge.judge} failed on {judge.failed} of {judge.asked} answers. Its replies, "
        f"by kind and with the most frequent of each: {told}.{fewer}"
    )


def print_signatures(console: Console, results: Iterable[Result]) -> None:
    """The signatures of the results' figures, each on a line of its own."""
    for result in results:
        for line in result.signatures():
            console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
