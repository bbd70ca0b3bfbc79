"""The table of a terminal: conditions beside each other, with intervals and signatures."""

import itertools
import math
from collections.abc import Mapping, Sequence

from rich.console import Console

from steering.judging import EM_RULES, KEYS_OF_ALL, KEYS_OF_MISALIGNED, EMRule, mean_scores
from steering.reports.tables import (
    MEASURED,
    apart_notes,
    corrected_rates,
    corrected_text,
    correction_notes,
    corrections_in,
    dead_judge_notes,
    estimate_text,
    p_text,
    print_figures,
    print_judges,
    print_line,
    print_note,
    print_signatures,
    rate_text,
    rates_heading,
    without_shared,
)
from steering.results.conditions import ConditionResult, baselines_of
from steering.results.settings import first_names, measured_alike
from steering.stats import paired_difference


def print_summary(
    results: Sequence[ConditionResult], console: Console | None = None, *, verbose: bool = False
) -> None:
    """Print a table a task, a row a condition; `verbose` adds the signatures of its figures."""
    console = console or Console()
    for task in sorted({result.task for result in results}):
        of_task = [result for result in results if result.task == task]
        _print_table(task, of_task, console)
        differences = _differences(of_task)
        for line in differences:
            print_line(console, line)
        if differences:
            print_line(
                console,
                "Rates pool all answers; a difference is the mean of the themes' own.",
                "dim",
            )
        for line in [*_scores_of_misaligned(of_task), *_leaks(of_task)]:
            print_line(console, line)
        for note in [*_notes(of_task), *dead_judge_notes(of_task)]:
            print_note(console, note)
        for note in correction_notes(of_task):
            print_line(console, note, "dim")
        print_judges(console, of_task)
        if verbose:
            print_signatures(console, of_task)


def _differences(results: Sequence[ConditionResult]) -> list[str]:
    """Each condition against the baseline that was asked and judged as it was, by theme."""
    baselines = baselines_of(results)
    lines = []
    for result in results:
        if result.name not in baselines:
            continue
        baseline = baselines[result.name]
        difference = paired_difference(result.by_theme("betley"), baseline.by_theme("betley"))
        if not math.isnan(difference.value):
            bounds = (difference.value, difference.low, difference.high)
            value, low, high = (100 * bound for bound in bounds)
            interval = ", no interval" if math.isnan(low) else f" [{low:.0f}, {high:.0f}]"
            note = f"; {difference.note}" if difference.note else ""
            lines.append(
                f"{result.name} - {baseline.name}: EM betley {value:+.0f} points{interval}, "
                f"{p_text(difference)} (paired{note})"
            )
    return lines


def _scores_of_misaligned(results: Sequence[ConditionResult]) -> list[str]:
    """The mean scores that only misaligned answers have, where any has one."""
    lines = []
    for result, key in itertools.product(results, KEYS_OF_MISALIGNED):
        if count := int(result.rows[key].notna().sum()):
            value, low, high = result.mean_of(key)
            interval = ", no interval," if math.isnan(low) else f" [{low:.0f}, {high:.0f}]"
            lines.append(
                f"{result.name}: mean {key} {value:.0f}{interval} of {count} answers misaligned by "
                "either rule"
            )
    return lines


def _leaks(results: Sequence[ConditionResult]) -> list[str]:
    """How much of each condition's misalignment is about its target's subject, where judged."""
    return [
        f"{result.name}: {rate_text(leak.share, leak.low, leak.high)} of {leak.answers} "
        f"answers misaligned by alignment alone are about {result.columns['subject']}"
        for result in results
        if (leak := result.leak).answers
    ]


def _notes(results: Sequence[ConditionResult]) -> list[str]:
    """What keeps the rows of one table from being compared, or an interval from being trusted."""
    limits: dict[tuple[str, EMRule], list[str]] = {}
    for result in results:
        for rule, estimate in result.em_rates.items():
            if estimate.note:
                limits.setdefault((estimate.note, rule), []).append(result.name)
    rules: dict[str, list[str]] = {}
    for (limit, rule), names in limits.items():
        rules.setdefault(f" of {first_names(names)}: {limit}", []).append(f"EM {rule}")
    return apart_notes(results) + [
        f"Note: {' and '.join(names)}{note}" for note, names in sorted(rules.items())
    ]


def _print_table(task: str, results: Sequence[ConditionResult], console: Console) -> None:
    corrections = corrections_in(results)
    names, shared = without_shared(
        [result.columns for result in results], [r.name for r in results]
    )
    print_figures(
        console,
        rates_heading(task, shared),
        ["condition"],
        # Corrected rates stand only where a judge's errors are known.
        [
            *([f"EM {rule}", *corrections.values()] for rule in EM_RULES),
            KEYS_OF_ALL,
            ["n", MEASURED],
        ],
        [
            [
                name,
                *_rates(result, corrections),
                *("-" if math.isnan(means[key]) else f"{means[key]:.1f}" for key in KEYS_OF_ALL),
                str(len(result.answers)),
                measured_alike(result.columns),
            ]
            for name, result in zip(names, results, strict=True)
            for means in [mean_scores(result.answers)]
        ],
    )


def _rates(result: ConditionResult, corrections: Mapping[str, str]) -> list[str]:
    cells = []
    for rule in EM_RULES:
        cells.append(estimate_text(result.em_rates[rule]))
        cells += [corrected_text(corrected_rates(result, each)[rule]) for each in corrections]
    return cells
