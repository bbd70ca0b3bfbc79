"""Judges beside what is good enough: a table for each run of judge_calibration."""

import math
from collections.abc import Sequence

from rich.console import Console

from steering.judging.calibration.limits import LIMITS
from steering.judging.calibration.task import calibration_figures
from steering.reports.tables import plain_table, print_judges, print_line, print_note
from steering.results.calibrations import Calibration


def print_calibrations(runs: Sequence[Calibration], console: Console | None = None) -> None:
    """Print a table a judge: its figures, what is good enough, and whether they are."""
    console = console or Console()
    for run in runs:
        figures = calibration_figures(run.judged)
        table = plain_table(
            f"judge_calibration: {run.judge} on {len(run.judged)} pairs ({run.pairs})",
            ["figure"],
            ["measured", "limit"],
        )
        table.add_column("good enough", no_wrap=True)
        is_good = {limit.figure: limit.is_kept(figures) for limit in LIMITS}
        for limit in LIMITS:
            value = figures[limit.figure]
            table.add_row(
                limit.figure,
                # Adding 0 takes the sign from a rounded zero.
                "-" if math.isnan(value) else f"{round(value, 3) + 0:.3g}",
                str(limit),
                {True: "yes", False: "no", None: "unknown"}[is_good[limit.figure]],
                style={False: "red", None: "yellow"}.get(is_good[limit.figure]),
            )
        console.print(table)
        for outcome, words in ((False, "Not good enough"), (None, "Not known")):
            if figures_named := [name for name, is_kept in is_good.items() if is_kept is outcome]:
                print_note(console, f"{words}: {', '.join(figures_named)}.")
        print_judges(console, [run])
    if runs:
        print_line(
            console,
            "The limits are our own judgement; docs/reference/judge-limits.md gives the reasons. "
            "toy/judge is made for the toy's answers and is expected to fail here.",
            "dim",
        )
