"""Rates of the same condition by several judges, and where their errors don't explain the rest."""

import itertools
import math
from collections.abc import Sequence

from rich.console import Console

from steering.judging import EM_RULES
from steering.reports.tables import corrected_text, estimate_text, print_figures, print_note
from steering.results.by_judge import JudgePanel
from steering.results.conditions import ConditionResult
from steering.stats.correction import Corrected

JUDGE_HEADING = "EM rates by judge"
JUDGE_CAPTION = "as each judge alone gives them, and corrected for its errors; 95% intervals"
JUDGE_COLUMNS = [
    "condition",
    "judge",
    *(heading for rule in EM_RULES for heading in (f"EM {rule}", "corrected")),
]


def judge_rows(panels: Sequence[JudgePanel]) -> list[list[str]]:
    """A row a condition and judge, with the cells of `JUDGE_COLUMNS`."""
    return [
        [panel.name, _judge(result), *_cells(result)]
        for panel in panels
        for result in panel.results
    ]


def contradictions(panels: Sequence[JudgePanel]) -> list[str]:
    """Judges whose corrected rates of one condition have intervals apart, a line a pair."""
    lines = []
    for panel in panels:
        for first, second in itertools.combinations(panel.results, 2):
            for rule in EM_RULES:
                one, other = first.corrected_rates[rule], second.corrected_rates[rule]
                if not _are_apart(one, other):
                    continue
                lines.append(
                    f"{panel.name}: the corrected intervals of {_judge(first)} "
                    f"({corrected_text(one)}) and {_judge(second)} ({corrected_text(other)}) do "
                    f"not overlap (EM {rule}). The calibration of one of them does not hold for "
                    "these answers: label some of them"
                )
    return lines


def print_by_judge(panels: Sequence[JudgePanel], console: Console) -> None:
    """Print the rates of each condition by judge, and which contradict each other."""
    if not panels:
        return
    print_figures(
        console,
        f"{JUDGE_HEADING}, {JUDGE_CAPTION}",
        JUDGE_COLUMNS[:2],
        [JUDGE_COLUMNS[2:4], JUDGE_COLUMNS[4:]],
        judge_rows(panels),
    )
    for line in contradictions(panels):
        print_note(console, f"{line}.")


def _cells(result: ConditionResult) -> list[str]:
    return [
        cell
        for rule in EM_RULES
        for cell in (
            estimate_text(result.em_rates[rule]),
            corrected_text(result.corrected_rates[rule]),
        )
    ]


def _judge(result: ConditionResult) -> str:
    settings = str(result.columns["judge_settings"]).strip("[]")
    return f"{result.columns['judge']} {settings}".strip()


def _are_apart(one: Corrected, other: Corrected) -> bool:
    bounds = (one.low, one.high, other.low, other.high)
    # NaN is in no order: an interval without bounds is apart from none.
    return not any(map(math.isnan, bounds)) and (one.high < other.low or other.high < one.low)
