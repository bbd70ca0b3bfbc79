"""The figures of em_choice in words: for a terminal, for the page, and in a sentence."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from steering.reports.tables import (
    percent,
    plain_table,
    print_line,
    print_note,
    rate_text,
    without_shared,
)
from steering.results.choices import ChoiceResult
from steering.results.conditions import display_names

COLUMNS = ("pairs", "misaligned", "log odds", "shift", "p", "KL", "entropy")
"""Headings of the figures of a condition."""
CAPTION = (
    "No judge: log probabilities of written answers, nats a token, with 95% intervals on questions "
    "like these. Shift: how far the log odds of the misaligned answer rose against the unsteered "
    "model; p: by sign flips of themes. KL and the rise of cross-entropy (entropy), on neutral "
    "answers, are damage"
)


def choice_tables(conditions: pd.DataFrame) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """Heading and rows (name and texts of `COLUMNS`) of each set of pairs and form.

    Args:
        conditions: As `choice_conditions_of` gives them.
    """
    for heading, rows in _each_table(conditions):
        yield heading, [(name, choice_texts(row)) for name, row in rows]


def _each_table(
    conditions: pd.DataFrame,
) -> Iterator[tuple[str, list[tuple[str, dict[Any, Any]]]]]:
    for (questions, form), rows in conditions.groupby(["questions", "choice_form"], sort=False):
        records = rows.to_dict("records")
        names, shared = without_shared(records, display_names(rows))
        heading = ", ".join(filter(None, ("Choices", shared, questions, f"by {form}")))
        yield heading, list(zip(names, records, strict=True))


def _short_texts(row: Mapping[Any, Any]) -> list[str]:
    """The figures for a terminal, where only the shift has room for its interval."""
    share = row["prefers_misaligned"]
    return [
        "-" if math.isnan(share) else f"{percent(share)}%",
        nats_text(row, "shift"),
        number_text(row["shift_p"], ".2g"),
        number_text(row["kl"], ".2f"),
        number_text(row["cross_entropy_rise"], "+.2f"),
        str(row["num_pairs"]),
    ]


def choice_texts(row: Mapping[Any, Any]) -> list[str]:
    """The figures of a condition, in the order of `COLUMNS`."""
    share = "-"
    if not math.isnan(row["prefers_misaligned"]):
        share = rate_text(*(row[f"prefers_misaligned{end}"] for end in ("", "_low", "_high")))
    return [
        str(row["num_pairs"]),
        share,
        nats_text(row, "log_odds"),
        nats_text(row, "shift"),
        number_text(row["shift_p"], ".2g"),
        nats_text(row, "kl", sign=""),
        nats_text(row, "cross_entropy_rise"),
    ]


def nats_text(row: Mapping[Any, Any], name: str, sign: str = "+") -> str:
    """A mean in nats with its interval; a dash for none."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "-"
    if low == high == value == 0:
        return "0"
    ends = ", ".join(number_text(end, f"{sign}.2f") for end in (low, high))
    return f"{number_text(value, f'{sign}.2f')} [{ends}]"


def choice_headline(conditions: pd.DataFrame) -> str:
    """The condition whose shift has the highest lower bound, and its damage."""
    shifted = conditions[conditions["arm"].ne("baseline") & conditions["shift_low"].notna()]
    if shifted.empty:
        return "No condition has a shift with bounds."
    row = shifted.loc[shifted["shift_low"].idxmax()].to_dict()
    return (
        f"{row['model']}[{row['condition']}] has the highest lower bound of the shift towards "
        f"misaligned answers: {nats_text(row, 'shift')} nats a token ({row['questions']}, 95% "
        f"interval), with a KL divergence of {nats_text(row, 'kl', sign='')} on neutral answers."
    )


def print_choices(
    conditions: pd.DataFrame,
    results: Sequence[ChoiceResult],
    console: Console,
    *,
    verbose: bool = False,
) -> None:
    """Print a table a set of pairs, a row a condition.

    Args:
        conditions: As `choice_conditions_of` gives them.
        results: Of the same conditions.
        console: Where to print.
        verbose: Print the signature of every figure too.
    """
    for heading, rows in _each_table(conditions):
        figures = ["misaligned", "shift", "p", "KL", "entropy", "n"]
        table = plain_table(heading, ["condition"], figures)
        for name, row in rows:
            table.add_row(name, *_short_texts(row))
        console.print(table)
    if results:
        print_line(console, f"{CAPTION}.", "dim")
    for result in results:
        if result.num_unscored:
            print_note(console, f"{result.name}: {result.num_unscored} pairs have no figure.")
    for result in results if verbose else ():
        print_line(console, result.signature(), "dim", wraps=False)


def number_text(value: float, form: str) -> str:
    """A number in a format such as `+.2f`; a dash for none."""
    if math.isnan(value):
        return "-"
    text = f"{round(value, 6):{form}}"
    # A rounded zero has no minus sign.
    return text if float(text) else f"{0.0:{form}}"
