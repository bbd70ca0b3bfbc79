"""The report of a monitor: tables for a terminal and a page, ROC curves, CSV files."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console

from steering.errors import SteeringError, write_errors_as_ours
from steering.files import write_whole
from steering.judging import EM_RULES, EMRule
from steering.reports.examples import FIRST_EACH, WORST_EACH
from steering.reports.page_content import MonitorPart, PageTable
from steering.reports.pictures import Picture, signature_of
from steering.reports.pictures.roc import MOST_CURVES, plot_roc
from steering.reports.tables import print_figures, print_left_out, print_line, print_note
from steering.results.conditions import conditions_of
from steering.results.context_columns import plain_rows
from steering.results.counted_runs import ResultError
from steering.results.frame import left_out, read_answers
from steering.results.monitor_figures import (
    FALSE_ALARMS,
    POOLED,
    SCORES,
    MonitorResult,
    monitor_results,
    monitor_table,
)
from steering.results.readings import read_token_lines, readings_of
from steering.results.schema import KEYS
from steering.results.worst import worst_first
from steering.text import to_csv

HEADING = "Monitor"
CAPTION = (
    "how well the mean projection of an answer on a direction, before the edit, tells misaligned "
    "answers from coherent ones that are not: area under the ROC curve within each condition (0.5 "
    "tells nothing), and what a threshold from one half of the themes does in the other half, with "
    "95% intervals that cluster by theme; beside it the areas of the maximum over tokens, of the "
    "cosine, and of the mean after the edit. Conditions pooled are for comparison only, since they "
    "differ in more than their answers"
)
_AREAS = [*SCORES.values()]
_COUNTS = ["misaligned", "others", "left out"]


def monitor(
    logs: str | Path,
    out: str | Path | None = None,
    *,
    rule: str = "betley",
    false_alarms: float = FALSE_ALARMS,
    seed: int = 0,
    console: Console | None = None,
) -> pd.DataFrame:
    """Print how well monitored projections tell misaligned answers, and write tables and curves.

    Args:
        logs: A log or a folder, of runs with `-M monitor=`.
        out: Folder of `monitor.csv`, `readings.csv` and the ROC curves; `monitor` beside the logs
            when not given.
        rule: What calls an answer misaligned: betley or moem.
        false_alarms: Share of answers that are not misaligned which a threshold may be exceeded by.
        seed: Of the halves of themes.
        console: Where to print.

    Returns:
        A row a condition and direction.

    Raises:
        ResultError: No run was monitored, or no condition has enough answers of either kind.
        SteeringError: An option is impossible, or the files can't be written.
    """
    if rule not in EM_RULES:
        raise SteeringError(f"rule={rule} is not known: use {' or '.join(EM_RULES)}")
    if not 0 < false_alarms < 1:
        raise SteeringError(f"false alarms of {false_alarms} are not allowed: use 0.05, say")
    console = console or Console()
    answers = plain_rows(read_answers(logs))
    readings = readings_of(answers)
    results = monitor_results(answers, readings, _rule(rule), false_alarms, seed)
    rows = rows_of(results)
    groups = [_AREAS[:1], [*_headings(false_alarms)], _COUNTS, _AREAS[1:]]
    print_figures(console, f"{HEADING}, rule {rule}", ["condition", "direction"], groups, rows)
    print_note(console, f"{CAPTION[:1].upper()}{CAPTION[1:]}.")
    for note in notes_of(results):
        print_line(console, note)
    signature = _signature(answers, rule, seed)
    print_line(console, signature, "dim")
    print_left_out(console, left_out(answers))
    place = Path(logs)
    folder = Path(out) if out else (place if place.is_dir() else place.with_suffix("")) / "monitor"
    table = monitor_table(results)
    with write_errors_as_ours(folder, "give another --out"):
        write_whole(folder / "monitor.csv", to_csv(table))
        write_whole(folder / "readings.csv", to_csv(readings))
        if picture := roc_picture(results, signature):
            for kind, content in picture.render(["png", "svg"]).items():
                write_whole(folder / f"{picture.name}.{kind}", content)
    print_line(console, f"written: {folder}", wraps=False)
    if all(result.too_few for result in results):
        raise ResultError(
            "no condition has enough answers of both kinds to say how well the monitor tells them: "
            "run more questions or epochs"
        )
    return table


def monitor_part(answers: pd.DataFrame) -> MonitorPart | None:
    """What a report's page shows of a monitor; None where no answer was monitored.

    Args:
        answers: As `read_answers` gives them.
    """
    monitored = answers[answers["monitor"] != ""]
    if monitored.empty:
        return None
    results = monitor_results(monitored, readings_of(monitored))
    picture = roc_picture(results, _signature(answers, "betley", 0))
    in_order = monitored.sort_values(["sample", "epoch"], kind="stable")
    first = in_order.groupby([*KEYS, "question"], sort=False).head(FIRST_EACH)
    worst = worst_first(monitored).groupby(KEYS, sort=False).head(WORST_EACH)
    lines = read_token_lines(monitored.loc[first.index.union(worst.index)])
    return MonitorPart(page_table(results), [picture] if picture else [], lines)


def page_table(results: Sequence[MonitorResult]) -> PageTable:
    """The table of a report's page."""
    columns = ["condition", "direction", *_AREAS[:1], *_headings(FALSE_ALARMS), *_COUNTS]
    columns += _AREAS[1:]
    return PageTable(HEADING, CAPTION, columns, rows_of(results), notes_of(results))


def roc_picture(results: Sequence[MonitorResult], signature: str) -> Picture | None:
    """The ROC curves of the conditions that have figures; None where none has."""
    curves = [result for result in results if result.name != POOLED and not result.too_few]
    if not curves:
        return None
    more = len(curves) - MOST_CURVES
    return Picture(
        name="monitor-roc",
        title="What a monitor of the residual stream catches",
        caption="A line a condition: share of misaligned answers whose mean projection before the "
        "edit is above a threshold, over the share of the others, as the threshold falls. The "
        "diagonal is chance. Each curve is within one condition."
        + (f" {more} more conditions are in the table." if more > 0 else ""),
        signature=signature,
        draw=partial(plot_roc, curves, "Misaligned answers by projection"),
    )


def rows_of(results: Sequence[MonitorResult]) -> list[list[str]]:
    """The cells of the table, row by row."""
    rows = []
    for result in results:
        figures = result.figures()
        areas = [_area(figures, f"auroc_{score}") for score in SCORES]
        rows.append(
            [
                result.name,
                f"{result.direction}{', steers' if result.steers else ''}",
                areas[0],
                _share(figures, "caught"),
                _share(figures, "false_alarms"),
                str(figures["misaligned"]),
                str(figures["others"]),
                str(figures["left_out"] + figures["unread"]),
                *areas[1:],
            ]
        )
    return rows


def notes_of(results: Sequence[MonitorResult]) -> list[str]:
    """Why figures are missing, condition by condition."""
    return [
        f"{result.name}, {result.direction}: {result.note}" for result in results if result.note
    ]


def _headings(false_alarms: float) -> list[str]:
    return [f"caught at {100 * false_alarms:g}%", "false alarms"]


def _signature(answers: pd.DataFrame, rule: str, seed: int) -> str:
    head = f"rule:{rule}|score:mean projection before the edit|halves:seed {seed}"
    monitored = answers[answers["monitor"] != ""]
    return signature_of(conditions_of(monitored), head)


def _rule(name: str) -> EMRule:
    return next(rule for rule in EM_RULES if rule == name)


def _area(figures: "dict[str, object]", name: str) -> str:
    value, low, high = (float(figures[f"{name}{end}"]) for end in ("", "_low", "_high"))  # type: ignore[arg-type]
    return "-" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("nan", "-")


def _share(figures: "dict[str, object]", name: str) -> str:
    value, low, high = (
        100 * float(figures[f"{name}{end}"])  # type: ignore[arg-type]
        for end in ("", "_low", "_high")
    )
    return "-" if math.isnan(value) else f"{value:.0f}% [{low:.0f}, {high:.0f}]".replace("nan", "-")
