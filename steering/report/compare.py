"""Two conditions of the same questions: their rates, what lies between, and what could have been.

Every difference is second minus first. What the statistics are stands in
`steering.stats.paired`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from rich.console import Console
from rich.markup import escape

from steering.judging import EM_RULES, EMRule
from steering.report.tables import (
    percent,
    plain_table,
    print_judges,
    print_note,
    print_signatures,
    rate_text,
)
from steering.results.runs import ReportError, Result, differences_in_making
from steering.stats import (
    Difference,
    between_question_sd,
    minimum_detectable_difference,
    paired_difference,
)


@dataclass(frozen=True)
class Comparison:
    """Two results by one rule.

    Attributes:
        first: The result that is compared with.
        second: The result that is compared.
        rule: The EM rule.
        difference: Second minus first, paired by question, with its t interval.
        detectable: The smallest difference that as many questions and samples would find with
            probability 0.8, at the first's rate and with this spread of the questions; NaN where
            none would be.
    """

    first: Result
    second: Result
    rule: EMRule
    difference: Difference
    detectable: float


def compare(first: Result, second: Result, rule: EMRule) -> Comparison:
    """Compare two results by a rule."""
    one, other = first.by_question(rule), second.by_question(rule)
    return Comparison(
        first,
        second,
        rule,
        paired_difference(other, one),
        _detectable(first, second, rule),
    )


def read_rules(rule: str | None) -> tuple[EMRule, ...]:
    """The rule of that name, or all of them.

    Raises:
        ReportError: There is none of that name.
    """
    if rule is None:
        return tuple(EM_RULES)
    found = tuple(known for known in EM_RULES if known == rule)
    if not found:
        raise ReportError(f"there is no EM rule {rule!r}: use one of {', '.join(EM_RULES)}")
    return found


def match(first: Sequence[Result], second: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Pairs of results of the same task.

    Raises:
        ReportError: No task is in both, or one has several conditions on a side, or no question in
            common.
    """
    tasks = sorted({result.task for result in first} & {result.task for result in second})
    if not tasks:
        raise ReportError(
            f"the logs have no task in common: the first have {_listed(first)}, the second "
            f"{_listed(second)}"
        )
    pairs = []
    for task in tasks:
        found = []
        for side in (first, second):
            chosen = [result for result in side if result.task == task]
            if len(chosen) > 1:
                raise ReportError(
                    f"{task} has several conditions on one side ({_conditions(chosen)}): give the "
                    f"log file of one"
                )
            found += chosen
        _require_shared_question(*found)
        pairs.append((found[0], found[1]))
    return pairs


def print_comparison(
    first: Sequence[Result],
    second: Sequence[Result],
    rules: Sequence[EMRule],
    console: Console | None = None,
) -> None:
    """Print each pair of results: its figures by the rules, question by question below.

    Raises:
        ReportError: There is nothing to pair, or more than one way to.
    """
    console = console or Console()
    for one, other in match(first, second):
        console.print(f"\n{one.task}", highlight=False, markup=False)
        console.print(f"A: {one.short}\nB: {other.short}", highlight=False, markup=False)
        for what in differences_in_making((one, other)):
            print_note(console, f"A and B can't be compared: they differ in {what}.")
        if one.model != other.model:
            print_note(
                console,
                f"A and B are of different models ({one.model}, {other.model}): what lies between "
                "them is not of steering alone.",
            )
        for rule in rules:
            _print_rule(console, compare(one, other, rule))
        print_judges(console, (one, other))
        print_signatures(console, (one, other))
    for name, mine, theirs in (("A", first, second), ("B", second, first)):
        alone = sorted({result.task for result in mine} - {result.task for result in theirs})
        if alone:
            print_note(console, f"Not compared, only in {name}: {', '.join(alone)}.")


def _print_rule(console: Console, found: Comparison) -> None:
    console.print(f"\nEM {found.rule}", highlight=False, markup=False)
    for name, result in (("A", found.first), ("B", found.second)):
        estimate = result.em_rate(found.rule)
        rate = f"{rate_text(estimate.value, estimate.low, estimate.high)}"
        counts = f"{estimate.numerator} of {estimate.denominator} answers"
        effect = f"design effect {_figure(estimate.design_effect)}"
        console.print(f"{name}      {rate}, {counts}, {effect}", highlight=False)
    for line in _lines(found):
        console.print(line, highlight=False, markup=False)
    left_out = found.difference.left_out
    if found.difference.note:
        print_note(console, f"Note: {found.difference.note}")
    if left_out:
        print_note(console, f"Left out, without a rate in both: {', '.join(left_out)}.")
    one, other = (result.by_question(found.rule) for result in (found.first, found.second))
    table = plain_table(f"EM {found.rule} by question", ["question"], ["A", "B", "B - A"])
    for question in sorted(one.keys() | other.keys()):
        a, b = one.get(question, math.nan), other.get(question, math.nan)
        table.add_row(escape(question), _share(a), _share(b), _points(b - a))
    console.print(table)


def _lines(found: Comparison) -> list[str]:
    """The difference and what it rests on."""
    difference = found.difference
    if not difference.num_questions:
        return []
    flips = "all sign flips" if difference.exact else "drawn sign flips"
    lines = [
        f"B - A  {_points(difference.value)} points, "
        f"t [{percent(difference.low)}, {percent(difference.high)}]",
        f"       p = {difference.p_value:.2g} ({flips}), {difference.num_questions} questions, "
        "each counted alike",
    ]
    if math.isnan(found.detectable):
        lines.append("       too few questions to find any difference with power 0.8")
    else:
        lines.append(
            f"       smallest difference found with power 0.8: {100 * found.detectable:.0f} points"
        )
    return lines


def _detectable(first: Result, second: Result, rule: EMRule) -> float:
    """The minimum detectable difference at the spread of the questions that was seen."""
    one, other = first.by_question(rule), second.by_question(rule)
    found = paired_difference(other, one)
    if found.num_questions < 2:
        return math.nan
    shared = (one.keys() & other.keys()) - set(found.left_out)
    estimates = first.em_rate(rule), second.em_rate(rule)
    # Samples of a question that count, on the side that has fewer.
    samples = min(estimate.denominator / estimate.num_questions for estimate in estimates)
    base, rate = (fmean(rates[q] for q in shared) for rates in (one, other))
    spread = stdev(other[q] - one[q] for q in shared)
    between = between_question_sd(spread, rate, base, samples)
    return minimum_detectable_difference(found.num_questions, samples, base, between_sd=between)


def _share(rate: float) -> str:
    return "-" if math.isnan(rate) else f"{100 * rate:.1f}%"


def _points(difference: float) -> str:
    # Adding 0 takes the sign from a rounded zero.
    return "-" if math.isnan(difference) else f"{round(100 * difference, 1) + 0:+.1f}"


def _figure(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.1f}"


def _listed(results: Sequence[Result]) -> str:
    return ", ".join(sorted({result.task for result in results}))


def _require_shared_question(first: Result, second: Result) -> None:
    asked = [
        list(dict.fromkeys(answer.question for answer in result.answers))
        for result in (first, second)
    ]
    if set(asked[0]) & set(asked[1]):
        return
    told = [
        f"{result.provenance.questions} ({', '.join([*ids[:3], '...'] if ids[3:] else ids)})"
        for result, ids in zip((first, second), asked, strict=True)
    ]
    raise ReportError(
        f"the runs of {first.task} share no question: A asked {told[0]}, B asked {told[1]}: "
        f"compare runs that were asked the same"
    )


def _conditions(results: Sequence[Result]) -> str:
    return ", ".join(result.short for result in results)
