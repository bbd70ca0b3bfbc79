"""The metrics of tasks that are not of this suite in words: for a terminal, for the page."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich.console import Console

from steering.reports.tables import print_figures, print_line, without_shared
from steering.results.conditions import display_names
from steering.results.dimensions import short_name
from steering.results.schema import KEYS
from steering.results.settings import first_names

DIMENSIONS, TASKS = "Dimensions of your own", "Other tasks"
"""What stands above the tables of either kind."""
_DIMENSIONS = (
    "Mean scores, 0-100, by rubrics of your own, with standard errors clustered by theme; less "
    "baseline: the difference to the unsteered model, with a 95% interval that pairs themes. No EM "
    "rule reads them"
)
_TASKS = (
    "Metrics as the task's own scorers and Inspect count them, with their standard errors; less "
    "baseline: the difference to the unsteered model, with a 95% interval that pairs samples (or "
    "the themes that their metadata name). No score here is a judgement of misalignment: no claim "
    "and no EM rule applies"
)

_LESS = "less baseline"


def metric_sections(
    metrics: pd.DataFrame,
) -> Iterator[tuple[str, list[tuple[str, str, list[str], list[list[str]], list[str]]]]]:
    """The heading of each kind of metrics that there is, and its tables.

    Args:
        metrics: As `metrics_of` and `dimension_metrics` give them.
    """
    is_dimension = _is_dimension(metrics)
    kinds = ((DIMENSIONS, _DIMENSIONS, is_dimension), (TASKS, _TASKS, ~is_dimension))
    for heading, caption, rows in kinds:
        if rows.any():
            yield heading, list(_tables(metrics[rows], caption))


def _tables(
    metrics: pd.DataFrame, caption: str
) -> Iterator[tuple[str, str, list[str], list[list[str]], list[str]]]:
    """Heading, caption, columns, rows and notes of each task; the first column is the condition."""
    for (task, study), rows in metrics.groupby(["task", "study"], sort=False):
        conditions = rows.drop_duplicates(KEYS)
        records = conditions.to_dict("records")
        full_names = display_names(conditions)
        names, shared = without_shared(records, full_names)
        metric_names = list(rows["metric"].unique())
        short = [short_name(name) for name in metric_names]
        shown = short if len(set(short)) == len(short) else metric_names
        has_baseline = bool(rows["difference"].notna().any())
        columns = ["condition"]
        for name in shown:
            columns += [name, _LESS] if has_baseline else [name]
        by_place = {
            (*(row[key] for key in KEYS), row["metric"]): row for row in rows.to_dict("records")
        }
        table = []
        # The conditions of each note, by metric and text.
        of_notes: dict[tuple[str, str], list[str]] = {}
        for record, name, full_name in zip(records, names, full_names, strict=True):
            cells = [name]
            for metric, head in zip(metric_names, shown, strict=True):
                row = by_place.get((*(record[key] for key in KEYS), metric))
                cells += [_value(row), _difference(row)] if has_baseline else [_value(row)]
                if row is not None and row["note"]:
                    of_notes.setdefault((head, row["note"]), []).append(full_name)
            table.append(cells)
        notes = [f"{of} of {first_names(full)}: {note}" for (of, note), full in of_notes.items()]
        heading = ", ".join(filter(None, [str(task), f"study {study}" if study else "", shared]))
        yield heading, caption, columns, table, notes


def print_metrics(metrics: pd.DataFrame, console: Console) -> None:
    """Print a table a task, a row a condition.

    Args:
        metrics: As `metrics_of` and `dimension_metrics` give them.
        console: Where to print.
    """
    for _, tables in metric_sections(metrics):
        for heading, _, columns, rows, notes in tables:
            figures = columns[1:]
            step = 2 if _LESS in figures else 1
            groups = [figures[i : i + step] for i in range(0, len(figures), step)]
            print_figures(console, heading, columns[:1], groups, rows)
            for note in notes:
                print_line(console, f"{note}.", "dim")
        print_line(console, f"{tables[0][1]}.", "dim")


def metric_commands(metrics: pd.DataFrame) -> list[tuple[str, str]]:
    """Task and condition, and the command that runs it again, of each condition of other tasks."""
    conditions = of_tasks(metrics).drop_duplicates(KEYS)
    named = zip(conditions["task"], display_names(conditions), conditions["command"], strict=True)
    return [(f"{task}: {name}", command) for task, name, command in named]


def of_tasks(metrics: pd.DataFrame) -> pd.DataFrame:
    """The metrics of other tasks, without judged dimensions."""
    return metrics[~_is_dimension(metrics)]


def _is_dimension(metrics: pd.DataFrame) -> "pd.Series[bool]":
    return metrics["metric"].str.contains("@", regex=False)


def metric_headline(metrics: pd.DataFrame) -> str:
    """What a page of other tasks alone begins with; "" where there are none."""
    if metrics.empty:
        return ""
    tasks = ", ".join(metrics["task"].unique())
    number = len(metrics.drop_duplicates(KEYS))
    return (
        f"{number} conditions of {tasks}, by the task's own metrics. No answer was judged for "
        "misalignment, and no claim applies."
    )


def _value(row: Mapping[Any, Any] | None) -> str:
    if row is None or math.isnan(row["value"]):
        return "-"
    error = "" if math.isnan(row["stderr"]) else f" ± {row['stderr']:.2g}"
    return f"{row['value']:.3g}{error}"


def _difference(row: Mapping[Any, Any] | None) -> str:
    if row is None or math.isnan(row["difference"]):
        return "-"
    text = f"{row['difference']:+.3g}"
    if math.isnan(row["difference_low"]):
        return text
    return f"{text} [{row['difference_low']:+.3g}, {row['difference_high']:+.3g}]"
