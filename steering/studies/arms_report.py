"""The comparison of all arms for a terminal and for the page: texts only."""

import math
from collections.abc import Sequence

import pandas as pd
from rich.console import Console

from steering.reports.page_content import PageTable
from steering.reports.tables import plain_table, print_line, print_note
from steering.studies.arm_claims import STUDY
from steering.studies.claims import DEFAULT_RULE
from steering.studies.errors import StudyError
from steering.studies.matched_arms import ArmDifference, compare_with_steered, read_arms

_HEADING = "Steered against every other arm, at the same narrow effect and at the same damage"
_CAPTION = (
    "Narrow effect: shift on held-out pairs of the target task; damage: KL to the unsteered model "
    "on neutral answers; broad: shift on unrelated questions; all in nats a token, without a "
    f"judge. EM by {DEFAULT_RULE}, in points, where answers were judged. Prompts stand at their "
    "own level. 95% intervals over themes and build seeds; of contrasts, over contrasts"
)
_COLUMNS = ("against", "at the same", "level", "what", "steered", "other", "difference", "p")

# Of a model: the differences, and why some could not be had.
Comparison = tuple[str, list[ArmDifference], list[str]]


def arm_differences(choices: pd.DataFrame, answers: pd.DataFrame) -> list[Comparison]:
    """The comparisons of each model of the study; none where there is no run of it."""
    comparisons: list[Comparison] = []
    for model, rows in choices[choices["study"] == STUDY].groupby("model", sort=False):
        of_model = answers[(answers["study"] == STUDY) & (answers["model"] == model)]
        try:
            differences, reasons = compare_with_steered(read_arms(rows, of_model, DEFAULT_RULE))
        except StudyError as error:
            differences, reasons = [], [str(error)]
        comparisons.append((str(model), differences, reasons))
    return comparisons


def arms_table(comparisons: Sequence[Comparison]) -> PageTable | None:
    """The comparisons as a page shows them; None for none."""
    if not comparisons:
        return None
    several = len(comparisons) > 1
    rows = [
        (f"{model}: {cells[0]}" if several else cells[0], *cells[1:])
        for model, differences, _ in comparisons
        for cells in map(_cells, differences)
    ]
    notes = [f"Not compared: {reason}" for _, _, reasons in comparisons for reason in reasons]
    return PageTable(_HEADING, _CAPTION, _COLUMNS, rows, notes)


def print_arms(comparisons: Sequence[Comparison], console: Console) -> None:
    """Print a table a model, and why arms were not compared."""
    for model, differences, reasons in comparisons:
        if differences:
            table = plain_table(f"{_HEADING}: {model}", _COLUMNS[:4], _COLUMNS[4:])
            for difference in differences:
                table.add_row(*_cells(difference))
            console.print(table)
            print_line(console, f"{_CAPTION}.", "dim")
        for reason in reasons:
            print_note(console, f"Not compared: {reason}.")


def _cells(d: ArmDifference) -> tuple[str, ...]:
    scale, form = (100, "+.0f") if d.quantity == "em" else (1, "+.2f")
    first, second, value, low, high = (
        "-" if math.isnan(number) else f"{round(scale * number, 6) + 0:{form}}"
        for number in (d.first, d.second, d.value, d.low, d.high)
    )
    match = "narrow effect" if d.match == "narrow" else "damage"
    what = "EM rate" if d.quantity == "em" else "broad"
    p_value = "-" if math.isnan(d.p_value) else f"{d.p_value:.2g}"
    return (
        d.arm, match, f"{d.level:.2f}", what, first, second, f"{value} [{low}, {high}]", p_value,
    )  # fmt: skip
