"""The figures of contexts in tables: for a terminal and for the page, a table a condition."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from rich.console import Console

from steering.judging import answer_shares
from steering.reports.choices import number_text
from steering.reports.tables import (
    estimate_text,
    p_text,
    print_figures,
    print_line,
    print_note,
    rate_text,
)
from steering.results.choices import ChoiceResult
from steering.results.conditions import ConditionResult
from steering.results.contexts import ChoiceContextResult, ContextResult
from steering.stats import Difference

COLUMNS = ("context", "EM betley", "to plain", "p", "to baseline", "EM moem", "coherent", "n")
"""Headings of the table of a condition's judged answers."""
CHOICE_COLUMNS = ("context", "misaligned", "shift", "to plain", "p", "pairs")
"""Headings of the table of a condition of em_choice; without a shift it has the log odds."""
CAPTION = (
    "The same questions in contexts that resemble the target task's data or its setting, with 95% "
    "intervals on questions like these. To plain: EM betley less that of the plain questions, in "
    "points, paired by theme, [-, -] where all themes differ alike; p: of this one difference, by "
    "sign flips of themes, so with few themes it may be above 0.05 beside a t interval without 0, "
    "and not corrected for the number of contexts; to baseline: less that of the baseline in the "
    "same context. Of em_choice, to plain is the shift less that of the plain prompts, in nats a "
    "token; a baseline has the shift 0 in every context, so its log odds are compared"
)
_LEVEL = 0.05
_Each = TypeVar("_Each", ContextResult, ChoiceContextResult)


def context_tables(
    results: Sequence[ContextResult], choices: Sequence[ChoiceContextResult] = ()
) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """Heading, columns and rows of the table of each condition that was asked in contexts."""
    for of_condition in _by_condition(results):
        plain = of_condition[0].plain
        rows = [_cells("plain", plain), *(_context_cells(each) for each in of_condition)]
        yield f"{plain.task}, {plain.name}", COLUMNS, rows
    for of_choice in _by_condition(choices):
        pairs = of_choice[0].plain
        name = _moves(pairs)
        rows = [_choice_cells("plain", pairs, name)]
        rows += [
            _choice_cells(each.context, each.result, name, each.to_plain(name))
            for each in of_choice
        ]
        columns = [name.replace("_", " ") if c == "shift" else c for c in CHOICE_COLUMNS]
        yield f"em_choice, {pairs.columns['questions']}, {pairs.name}", columns, rows


def print_contexts(
    results: Sequence[ContextResult], choices: Sequence[ChoiceContextResult], console: Console
) -> None:
    """Print a table a condition, a row a context, the plain one first."""
    for heading, columns, rows in context_tables(results, choices):
        # A difference and its p-value stand together.
        groups = [
            [name, "p"] if name == "to plain" else [name] for name in columns[1:] if name != "p"
        ]
        print_figures(console, f"Contexts of {heading}", columns[:1], groups, rows)
    if results or choices:
        print_line(console, f"{CAPTION}.", "dim")
    if line := context_headline(results):
        print_note(console, line)
    plain: list[ConditionResult | ChoiceResult]
    plain = [*(each.plain for each in results), *(each.plain for each in choices)]
    for name in dict.fromkeys(str(result.columns["contexts"]) for result in plain):
        note = f"Signatures in a context are those of its plain figures with context:NAME of {name}"
        print_line(console, note, "dim", wraps=False)


def context_headline(results: Sequence[ContextResult]) -> str:
    """The context in which a condition is most misaligned beside its plain questions.

    Of those that are more misaligned at 5% each; empty where none is.
    """
    differences = [(each, each.to_plain("betley")) for each in results]
    above = [pair for pair in differences if pair[1].value > 0 and pair[1].p_value <= _LEVEL]
    if not above:
        return ""
    each, difference = max(above, key=lambda pair: pair[1].value)
    return (
        f"In the context {each.context}, {estimate_text(each.result.em_rates['betley'])} of the "
        f"coherent answers of {each.plain.name} are misaligned: {_points(difference)} points "
        f"beside its plain questions ({p_text(difference)}, of the largest of {len(results)} "
        "such differences)."
    )


def _by_condition(results: Sequence[_Each]) -> list[list[_Each]]:
    """The contexts of each condition, in their order."""
    by_name: dict[str, list[_Each]] = {}
    for each in results:
        by_name.setdefault(each.plain.name, []).append(each)
    return list(by_name.values())


def _context_cells(each: ContextResult) -> list[str]:
    return _cells(each.context, each.result, each.to_plain("betley"), each.to_baseline("betley"))


def _cells(
    context: str,
    result: ConditionResult,
    to_plain: Difference | None = None,
    to_baseline: Difference | None = None,
) -> list[str]:
    coherent = answer_shares(result.answers, result.thresholds)["coherent_share"]
    return [
        context,
        estimate_text(result.em_rates["betley"]),
        _points(to_plain),
        _p(to_plain),
        _points(to_baseline),
        estimate_text(result.em_rates["moem"]),
        "-" if math.isnan(coherent) else f"{100 * coherent:.0f}%",
        str(len(result.answers)),
    ]


def _moves(pairs: ChoiceResult) -> str:
    """The figure of a condition of em_choice that a context can change."""
    is_reference = pairs.columns["arm"] == "baseline"
    return "log_odds" if is_reference or pairs.rows["shift"].isna().all() else "shift"


def _choice_cells(
    context: str, result: ChoiceResult, name: str, to_plain: Difference | None = None
) -> list[str]:
    figures = result.figures()
    return [
        context,
        rate_text(*_ends(figures, "prefers_misaligned"), nothing="-"),
        _bounded(*_ends(figures, name), 2),
        "" if to_plain is None else _bounded(to_plain.value, to_plain.low, to_plain.high, 2),
        _p(to_plain),
        str(figures["num_pairs"]),
    ]


def _points(difference: Difference | None) -> str:
    """A difference of rates in points; empty for none."""
    if difference is None:
        return ""
    value, low, high = (100 * end for end in (difference.value, difference.low, difference.high))
    return _bounded(value, low, high, 0)


def _ends(figures: Mapping[str, float], name: str) -> tuple[float, float, float]:
    """A figure and its bounds."""
    return figures[name], figures[f"{name}_low"], figures[f"{name}_high"]


def _bounded(value: float, low: float, high: float, digits: int) -> str:
    """A signed figure with its interval; a dash for none."""
    if math.isnan(value):
        return "-"
    form = f"+.{digits}f"
    return f"{number_text(value, form)} [{number_text(low, form)}, {number_text(high, form)}]"


def _p(difference: Difference | None) -> str:
    return "" if difference is None else number_text(difference.p_value, ".2g")
