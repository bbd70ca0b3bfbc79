"""Judges beside what is good enough: a table and a verdict for each run of judge_calibration."""

import math
from collections.abc import Sequence

from rich.console import Console

from steering.judging.calibration.intervals import figure_intervals
from steering.judging.calibration.limits import LIMITS, judge_verdict
from steering.judging.calibration.task import calibration_figures
from steering.reports.tables import plain_table, print_judges, print_line, print_note
from steering.results.calibrations import Calibration
from steering.results.document import Document
from steering.stats import Interval


def print_calibrations(runs: Sequence[Calibration], console: Console | None = None) -> None:
    """Print a table a judge: its figures with their intervals, the limits, and the verdict."""
    console = console or Console()
    for run in runs:
        tested = [pair for pair in run.judged if pair.split == "test"]
        figures, intervals = calibration_figures(tested), figure_intervals(tested)
        table = plain_table(
            f"judge_calibration: {run.judge} on {len(tested)} pairs ({run.pairs})",
            ["figure"],
            ["measured", "95% interval", "limit"],
        )
        table.add_column("verdict", no_wrap=True)
        verdicts = {limit.figure: limit.verdict(intervals[limit.figure]) for limit in LIMITS}
        empty = [limit.figure for limit in LIMITS if math.isnan(figures[limit.figure])]
        for limit in LIMITS:
            if limit.figure in empty:
                continue
            interval = intervals[limit.figure]
            table.add_row(
                limit.figure,
                _number(figures[limit.figure]),
                _bounds(interval),
                str(limit),
                verdicts[limit.figure],
                style={"not good enough": "red", "not decided": "yellow"}.get(
                    verdicts[limit.figure]
                ),
            )
        console.print(table)
        if empty:
            print_line(
                console,
                f"{len(empty)} of {len(LIMITS)} figures can't be measured on these pairs: "
                f"{', '.join(empty)}.",
            )
        print_note(console, f"Verdict on {run.judge}: {judge_verdict(intervals)}.")
        for outcome in ("not good enough", "not decided"):
            figures_named = [name for name, verdict in verdicts.items() if verdict == outcome]
            if figures_named:
                print_note(console, f"{outcome.capitalize()}: {', '.join(figures_named)}.")
        print_judges(console, [run])
    if runs:
        print_line(
            console,
            "The limits are our own judgement; docs/reference/judge-limits.md gives the reasons. "
            "Figures are over the pairs of the test split. "
            "toy/judge is made for the toy's answers and is expected to fail here.",
            "dim",
        )


def calibration_document(run: Calibration) -> Document:
    """The figures of a judge beside their limits, for other programs; the verdict is on all."""
    tested = [pair for pair in run.judged if pair.split == "test"]
    figures, intervals = calibration_figures(tested), figure_intervals(tested)
    rows = [
        {
            "judge": run.judge,
            "pairs": run.pairs,
            "figure": limit.figure,
            "value": float(figures[limit.figure]),
            "low": float(intervals[limit.figure].low),
            "high": float(intervals[limit.figure].high),
            "side": limit.side,
            "limit": float(limit.bound),
            "verdict": limit.verdict(intervals[limit.figure]),
            "num_pairs": len(tested),
        }
        for limit in LIMITS
    ]
    verdict = judge_verdict(intervals)
    line = f"Verdict on {run.judge}: {verdict}"
    return Document("calibrate", verdict, line, {"judge_figures": rows})


def _bounds(interval: Interval) -> str:
    if math.isnan(interval.low) and math.isnan(interval.high):
        return "-"
    return f"{_number(interval.low)} to {_number(interval.high)}"


def _number(value: float) -> str:
    # Adding 0 takes the sign from a rounded zero.
    return "-" if math.isnan(value) else f"{round(value, 3) + 0:.3g}"
