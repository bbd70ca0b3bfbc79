"""The short table: conditions of a log folder beside each other, with intervals and signatures.

Counts the stored scores again by the same rules that the tasks' metrics use. Knows nothing of how
an answer was made or judged.
"""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steering.judging import EM_RULES, EMRule, mean_scores
from steering.report.tables import (
    plain_table,
    print_judges,
    print_note,
    print_signatures,
    rate_text,
)
from steering.results.runs import Result, differences_in_making
from steering.stats import paired_difference


def print_summary(results: Sequence[Result], console: Console | None = None) -> None:
    """Print a table a task, a row a condition, and the signatures that its figures carry."""
    console = console or Console()
    for task in sorted({result.task for result in results}):
        chosen = [result for result in results if result.task == task]
        console.print(_table(task, chosen))
        differences = _differences(chosen)
        for line in differences:
            console.print(line, highlight=False, markup=False)
        if differences:
            console.print(
                "Rates pool all answers; a difference is the mean of the questions' own.",
                style="dim",
                highlight=False,
            )
        for line in _leaks(chosen):
            console.print(line, highlight=False)
        for note in _notes(chosen):
            print_note(console, note)
        print_judges(console, chosen)
        print_signatures(console, chosen)


def _differences(results: Sequence[Result]) -> list[str]:
    """Each condition against the baseline that was made like it, paired by question."""
    baselines = {result.made_like: result for result in results if result.is_baseline}
    lines = []
    for result in results:
        baseline = baselines.get(result.made_like)
        if result.is_baseline or baseline is None:
            continue
        found = paired_difference(result.by_question("betley"), baseline.by_question("betley"))
        if not math.isnan(found.value):
            value, low, high = (100 * part for part in (found.value, found.low, found.high))
            lines.append(
                f"{result.short} - baseline: EM betley {value:+.0f} points "
                f"[{low:.0f}, {high:.0f}], p = {found.p_value:.2g} (paired)"
            )
    return lines


def _leaks(results: Sequence[Result]) -> list[str]:
    """How much of each condition's misalignment is about its target's subject, where judged."""
    lines = []
    for result in results:
        leak = result.leak()
        if leak.answers:
            share = rate_text(leak.share, leak.low, leak.high)
            lines.append(
                f"{escape(result.short)}: {share} of {leak.answers} misaligned answers are about "
                f"{result.subject}"
            )
    return lines


def _notes(results: Sequence[Result]) -> list[str]:
    """What keeps the rows of one table from being compared, or an interval from being trusted."""
    notes = [
        f"These rows can't be compared: they differ in {what}."
        for what in differences_in_making(results)
    ]
    told = {estimate.note for result in results if (estimate := result.em_rate("betley")).note}
    return notes + [f"Note: {note}" for note in sorted(told)]


def _table(task: str, results: Sequence[Result]) -> Table:
    table = plain_table(
        f"{task}: EM rates with 95% intervals by question; mean scores, 0-100",
        ["condition"],
        ["EM betley", "EM moem", "aligned", "coherent", "relevant", "n"],
    )
    for result in results:
        means = mean_scores(result.answers)
        table.add_row(
            escape(result.short),
            *(_rate(result, rule) for rule in EM_RULES),
            *("-" if math.isnan(mean) else f"{mean:.1f}" for mean in means.values()),
            str(len(result.answers)),
        )
    return table


def _rate(result: Result, rule: EMRule) -> str:
    estimate = result.em_rate(rule)
    return rate_text(estimate.value, estimate.low, estimate.high)
