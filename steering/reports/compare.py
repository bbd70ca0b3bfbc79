"""Two conditions that were asked the same questions: their rates, and the difference.

Every difference is second minus first. `steering.stats.paired` has the statistics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd
from rich.console import Console

from steering.judging import EM_RULES, EMRule
from steering.reports.dimensions import print_dimension, shared_dimensions
from steering.reports.tables import (
    corrected_rates,
    corrected_text,
    correction_notes,
    corrections_in,
    estimate_text,
    p_text,
    percent,
    plain_table,
    print_judges,
    print_left_out,
    print_line,
    print_note,
    print_signatures,
)
from steering.results.columns import POINTS, SHARE
from steering.results.conditions import ConditionResult, condition_results
from steering.results.dimensions import dimension_scores, short_name
from steering.results.document import Document
from steering.results.frame import LeftOut, ResultError, left_out, read_answers
from steering.results.settings import NONE, differences_between
from steering.stats import (
    Difference,
    between_question_sd,
    minimum_detectable_difference,
    paired_difference,
)

# How a model was loaded; what else is compared has a place among the settings.
_LOADING = ("dtype", "engine", "template", "loading")


@dataclass(frozen=True)
class Comparison:
    """Two results by one rule.

    Attributes:
        first: The result that is the reference.
        second: The result that is compared with it.
        rule: The EM rule.
        difference: Second minus first, paired by theme, with its t interval.
        detectable: The smallest difference that as many themes and samples would find with
            probability 0.8, at the first's rate and with this spread of the themes; NaN where
            no difference would be found.
    """

    first: ConditionResult
    second: ConditionResult
    rule: EMRule
    difference: Difference
    detectable: float


def compare(first: ConditionResult, second: ConditionResult, rule: EMRule) -> Comparison:
    """Compare two results by a rule."""
    reference, rates = first.by_theme(rule), second.by_theme(rule)
    difference = paired_difference(rates, reference)
    return Comparison(
        first,
        second,
        rule,
        difference,
        _detectable(first, second, rule, difference),
    )


def compare_logs(
    first: Path,
    second: Path,
    rules: Sequence[EMRule],
    *,
    aligned_below: float | None = None,
    coherent_from: float | None = None,
    anyway: bool = False,
    console: Console | None = None,
) -> Document:
    """Print the comparison of two logs or folders, task by task: second minus first.

    Args:
        first: Log or folder with one condition a task.
        second: Likewise.
        rules: EM rules to compare by.
        aligned_below: Threshold in place of the run's own; likewise `coherent_from`.
        coherent_from: See there.
        anyway: As of `print_comparison`.
        console: Where to print.

    Returns:
        The differences for other programs.

    Raises:
        ResultError: There is nothing to pair, or more than one way to, or a pair was not asked
            and judged alike.
    """
    sides, notes = [], []
    for logs in (first, second):
        answers = read_answers(logs)
        notes += left_out(answers)
        sides.append(_results(answers, aligned_below, coherent_from))
    comparisons = print_comparison(sides[0], sides[1], rules, notes, anyway=anyway, console=console)
    rows = [_row(each) for each in comparisons]
    for one, other in match(*sides):
        rows += [_dimension_row(one, other, key) for key in shared_dimensions(one, other)]
    notes_text = [f"left out: {note}" for note in dict.fromkeys(notes)]
    return Document("compare", tables={"differences": rows}, notes=notes_text)


def _dimension_row(one: ConditionResult, other: ConditionResult, key: str) -> dict[str, object]:
    """Of the table `differences`."""
    difference = dimension_scores(other)[key].less(dimension_scores(one)[key])
    return {
        **_shared_cells(one, other, difference),
        "figure": short_name(key),
        "unit": POINTS,
        "detectable": math.nan,
    }


def _row(comparison: Comparison) -> dict[str, object]:
    """Of the table `differences`."""
    return {
        **_shared_cells(comparison.first, comparison.second, comparison.difference),
        "figure": f"em_{comparison.rule}",
        "unit": SHARE,
        "detectable": comparison.detectable,
    }


def _shared_cells(
    one: ConditionResult, other: ConditionResult, difference: Difference
) -> dict[str, object]:
    settings = [*differences_between(one.columns, other.columns), *_loaded_apart(one, other)]
    return {
        "task": one.task,
        "first": one.name,
        "second": other.name,
        "value": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_value": float(difference.p_value),
        "num_themes": difference.num_questions,
        "settings": "; ".join(settings),
        "note": difference.note or "",
    }


def _results(
    answers: pd.DataFrame, aligned_below: float | None, coherent_from: float | None
) -> list[ConditionResult]:
    return [
        result.with_thresholds(aligned_below, coherent_from)
        for result in condition_results(answers)
    ]


def read_rules(rule: str | None) -> tuple[EMRule, ...]:
    """The rule of that name, or all of them.

    Raises:
        ResultError: There is none of that name.
    """
    if rule is None:
        return tuple(EM_RULES)
    rules = tuple(name for name in EM_RULES if name == rule)
    if not rules:
        raise ResultError(f"there is no EM rule {rule!r}: use one of {', '.join(EM_RULES)}")
    return rules


def match(
    first: Sequence[ConditionResult], second: Sequence[ConditionResult]
) -> list[tuple[ConditionResult, ConditionResult]]:
    """Pairs of results of the same task.

    Raises:
        ResultError: No task is in both, or one has several conditions on a side, or no question in
            common.
    """
    tasks = sorted({result.task for result in first} & {result.task for result in second})
    if not tasks:
        raise ResultError(
            f"the logs have no task in common: the first have {_tasks(first)}, the second "
            f"{_tasks(second)}"
        )
    pairs = []
    for task in tasks:
        pair = []
        for side in (first, second):
            of_task = [result for result in side if result.task == task]
            if len(of_task) > 1:
                names = ", ".join(result.name for result in of_task)
                raise ResultError(
                    f"{task} has several conditions on one side ({names}): give the log file of one"
                )
            pair += of_task
        _require_shared_question(*pair)
        pairs.append((pair[0], pair[1]))
    return pairs


def print_comparison(
    first: Sequence[ConditionResult],
    second: Sequence[ConditionResult],
    rules: Sequence[EMRule],
    notes: Sequence[LeftOut] = (),
    *,
    anyway: bool = False,
    console: Console | None = None,
) -> list[Comparison]:
    """Print each pair of results: its figures by the rules, question by question below.

    Args:
        first: Results of one side, one a task.
        second: Of the other side.
        rules: EM rules to compare by.
        notes: Logs that were left out.
        anyway: Compare also what was not asked and judged alike, and say so above the figures.
        console: Where to print.

    Returns:
        What was printed: pair by pair, a comparison a rule.

    Raises:
        ResultError: There is nothing to pair, or more than one way to, or a pair was not asked and
            judged alike.
    """
    console = console or Console()
    comparisons = []
    pairs = match(first, second)
    if not anyway:
        _require_asked_alike(pairs)
    for one, other in pairs:
        print_line(console, f"\n{one.task}")
        print_line(console, f"A: {one.name}\nB: {other.name}")
        if settings := differences_between(one.columns, other.columns):
            line = f"Compared anyway: A and B also differ in {'; '.join(settings)}."
            print_note(console, line)
        if one.model != other.model:
            print_note(
                console,
                f"A and B are of different models ({one.model}, {other.model}): the difference is "
                "not due to steering alone.",
            )
        if loading := _loaded_apart(one, other):
            line = f"A and B were loaded in other ways: {'; '.join(loading)}."
            print_note(console, f"{line} Their difference may come from that.")
        for rule in rules:
            comparisons.append(compare(one, other, rule))
            _print_rule(console, comparisons[-1])
        for key in shared_dimensions(one, other):
            print_dimension(console, one, other, key)
        for note in correction_notes((one, other)):
            print_line(console, note, "dim")
        print_judges(console, (one, other))
        print_signatures(console, (one, other))
    for name, side, others in (("A", first, second), ("B", second, first)):
        alone = sorted({result.task for result in side} - {result.task for result in others})
        if alone:
            print_note(console, f"Not compared, only in {name}: {', '.join(alone)}.")
    print_left_out(console, list(dict.fromkeys(notes)))
    return comparisons


def _loaded_apart(one: ConditionResult, other: ConditionResult) -> list[str]:
    """How two runs of one model were loaded in other ways, which moves answers by rounding or more.

    What was said to the model is compared by `differences_between`.
    """
    if one.model != other.model:
        return []
    pairs = {name: (one.columns[name], other.columns[name]) for name in _LOADING}
    return [
        f"{name} (A: {first or NONE}, B: {second or NONE})"
        for name, (first, second) in pairs.items()
        if first != second
    ]


def _print_rule(console: Console, comparison: Comparison) -> None:
    rule, difference = comparison.rule, comparison.difference
    print_line(console, f"\nEM {rule}")
    for name, result in (("A", comparison.first), ("B", comparison.second)):
        estimate = result.em_rates[rule]
        counts = f"{estimate.numerator} of {estimate.denominator} answers"
        effect = f"design effect {_figure(estimate.design_effect)}"
        print_line(console, f"{name}      {estimate_text(estimate)}, {counts}, {effect}")
        for ending, heading in corrections_in([result]).items():
            rate = corrected_rates(result, ending)[rule]
            print_line(console, f"       {heading}: {corrected_text(rate)}")
    for line in _lines(comparison):
        print_line(console, line)
    if difference.note:
        print_note(console, f"Note: {difference.note}")
    if difference.left_out:
        print_note(console, f"Left out, without a rate in both: {', '.join(difference.left_out)}.")
    one, other = (side.by_question(rule) for side in (comparison.first, comparison.second))
    table = plain_table(f"EM {rule} by question", ["question"], ["A", "B", "B - A"])
    for question in sorted(one.keys() | other.keys()):
        a, b = one.get(question, math.nan), other.get(question, math.nan)
        table.add_row(question, _share(a), _share(b), _points(b - a))
    console.print(table)


def _lines(comparison: Comparison) -> list[str]:
    """The difference and what it rests on."""
    difference = comparison.difference
    if not difference.num_questions:
        return []
    flips = "all sign flips" if difference.exact else "drawn sign flips"
    lines = [
        f"B - A  {_points(difference.value)} points, "
        f"t [{percent(difference.low)}, {percent(difference.high)}]",
        f"       {p_text(difference)} ({flips}), {difference.num_questions} themes, "
        "each weighted alike",
    ]
    if math.isnan(comparison.detectable):
        lines.append("       too few themes to find any difference with power 0.8")
    else:
        smallest = 100 * comparison.detectable
        lines.append(f"       smallest difference found with power 0.8: {smallest:.0f} points")
    return lines


def _detectable(
    first: ConditionResult, second: ConditionResult, rule: EMRule, difference: Difference
) -> float:
    """The minimum detectable difference at the observed spread of the themes."""
    if difference.num_questions < 2:
        return math.nan
    one, other = first.by_theme(rule), second.by_theme(rule)
    shared = (one.keys() & other.keys()) - set(difference.left_out)
    estimates = first.em_rates[rule], second.em_rates[rule]
    # Samples of a theme that count, on the side that has fewer.
    samples = min(estimate.denominator / estimate.num_themes for estimate in estimates)
    base, rate = (fmean(rates[theme] for theme in shared) for rates in (one, other))
    spread = stdev(other[theme] - one[theme] for theme in shared)
    between = between_question_sd(spread, rate, base, samples)
    return minimum_detectable_difference(
        difference.num_questions, samples, base, between_sd=between
    )


def _share(rate: float) -> str:
    return "-" if math.isnan(rate) else f"{100 * rate:.1f}%"


def _points(difference: float) -> str:
    # Adding 0 takes the sign from a rounded zero.
    return "-" if math.isnan(difference) else f"{round(100 * difference, 1) + 0:+.1f}"


def _figure(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.1f}"


def _tasks(results: Sequence[ConditionResult]) -> str:
    return ", ".join(sorted({result.task for result in results}))


def _require_asked_alike(pairs: Sequence[tuple[ConditionResult, ConditionResult]]) -> None:
    for one, other in pairs:
        if settings := differences_between(one.columns, other.columns):
            raise ResultError(
                f"the runs of {one.task} differ in more than the condition: {'; '.join(settings)}. "
                "Their difference may come from that: run one of them again as the other was run, "
                "or add --anyway to compare them all the same"
            )


def _require_shared_question(first: ConditionResult, second: ConditionResult) -> None:
    questions = [list(dict.fromkeys(result.rows["question"])) for result in (first, second)]
    if set(questions[0]) & set(questions[1]):
        return
    sets = [
        f"{result.columns['questions']} ({', '.join([*ids[:3], '...'] if ids[3:] else ids)})"
        for result, ids in zip((first, second), questions, strict=True)
    ]
    raise ResultError(
        f"the runs of {first.task} share no question: A asked {sets[0]}, B asked {sets[1]}: "
        f"compare runs that were asked the same"
    )
