"""Bounds on the figures of every condition, for CI: kept, broken, or undecidable.

A figure of the model is an estimate, so its bound is compared with the edge of the 95% interval: an
upper bound is kept only where the whole interval lies at or below it. A figure of the run itself,
such as how many of its answers were scored, is an exact count without an interval: its bound is
compared with the figure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from steering.judging import SCORE_KEYS, EMRule, JudgedAnswer
from steering.judging.rubric import SCORE_OF
from steering.reports.tables import (
    plain_table,
    print_judges,
    print_left_out,
    print_note,
    print_signatures,
    rate_text,
)
from steering.results.conditions import ConditionResult, condition_results
from steering.results.frame import LeftOut, ResultError, left_out, read_answers
from steering.stats import Interval, cluster_interval, mean_interval

Side = Literal["max", "min"]


class BoundStatus(Enum):
    """Whether a bound is kept."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Measured:
    """A figure and the interval that a bound is compared with; NaN where nothing could be counted.

    Attributes:
        value: The figure.
        interval: 95%, clustered by theme; for an exact count, the figure itself.
        text: Both as shown in the table.
    """

    value: float
    interval: Interval
    text: str


@dataclass(frozen=True)
class Figure:
    """A figure that can be bounded: its meaning, its largest value, and how it is measured."""

    meaning: str
    largest: float
    measure: Callable[[ConditionResult], Measured]


@dataclass(frozen=True)
class Bound:
    """An upper (`max`) or lower (`min`) bound on a figure."""

    side: Side
    name: str
    limit: float

    def __str__(self) -> str:
        return f"{'<=' if self.side == 'max' else '>='} {self.limit:g}"

    def judge(self, measured: Measured) -> BoundStatus:
        """Whether the interval keeps to the bound."""
        edge = measured.interval.high if self.side == "max" else measured.interval.low
        if math.isnan(measured.value) or math.isnan(edge):
            return BoundStatus.UNKNOWN
        is_kept = edge <= self.limit if self.side == "max" else edge >= self.limit
        return BoundStatus.KEPT if is_kept else BoundStatus.BROKEN


def parse_bound(side: Side, text: str) -> Bound:
    """Read `em_rate=0.10`.

    Raises:
        ResultError: The name is not a figure's, or the number is not one that it can have.
    """
    typed, equals, number = text.partition("=")
    if not equals:
        raise ResultError(f"{text!r} is not NAME=NUMBER, as in em_rate=0.10")
    name = ALIASES.get(typed, typed)
    if name not in FIGURES:
        also = ", ".join(f"{alias} (which is {name})" for alias, name in ALIASES.items())
        raise ResultError(
            f"there is no figure {typed!r}: use one of {', '.join(FIGURES)}, or {also}"
        )
    largest = FIGURES[name].largest
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not 0 <= limit <= largest:
        raise ResultError(f"{text!r}: {typed} is bounded by a number from 0 to {largest:g}")
    return Bound(side, name, limit)


def gate(
    logs: str | Path, bounds: Sequence[Bound | str], console: Console | None = None
) -> BoundStatus:
    """Compare every condition of a log or folder with bounds on its figures, and print a table.

    Args:
        logs: A log or a folder; every run in it must be complete.
        bounds: Bounds, or texts such as `em_rate<=0.10` and `coverage>=0.9`.
        console: Where to print.

    Returns:
        BROKEN where one bound is; else UNKNOWN where one could not be decided; else KEPT.

    Raises:
        ResultError: A run is incomplete, there is none, or a bound can't be read.
    """
    parsed = [_read_bound(bound) if isinstance(bound, str) else bound for bound in bounds]
    if not parsed:
        raise ResultError("give a bound, as in em_rate<=0.10")
    answers = read_answers(Path(logs), complete=True)
    return print_gate(condition_results(answers), parsed, left_out(answers), console)


def print_gate(
    results: Sequence[ConditionResult],
    bounds: Sequence[Bound],
    notes: Sequence[LeftOut] = (),
    console: Console | None = None,
) -> BoundStatus:
    """Compare every result with every bound and print a table; returns as `gate` does."""
    console = console or Console()
    table = plain_table(
        "Bounds on the edges of 95% intervals, or on exact counts",
        ["task", "condition", "figure"],
        ["measured", "bound"],
    )
    table.add_column("", no_wrap=True)
    statuses = []
    for result in results:
        for bound in bounds:
            measured = FIGURES[bound.name].measure(result)
            status = bound.judge(measured)
            statuses.append(status)
            table.add_row(
                escape(result.task),
                escape(result.name),
                bound.name,
                measured.text,
                str(bound),
                status.value,
                style={BoundStatus.BROKEN: "red", BoundStatus.UNKNOWN: "yellow"}.get(status),
            )
    console.print(table)
    if num_unknown := statuses.count(BoundStatus.UNKNOWN):
        print_note(console, f"{num_unknown} without enough answers to be decided.")
    print_left_out(console, notes)
    print_judges(console, results)
    print_signatures(console, results)
    order = (BoundStatus.BROKEN, BoundStatus.UNKNOWN, BoundStatus.KEPT)
    return next(status for status in order if status in statuses or status is BoundStatus.KEPT)


def _read_bound(text: str) -> Bound:
    for sign, side in (("<=", "max"), (">=", "min")):
        if sign in text:
            return parse_bound(side, text.replace(sign, "="))  # type: ignore[arg-type]
    raise ResultError(f"{text!r} is no bound: write NAME<=NUMBER or NAME>=NUMBER")


def _em(rule: EMRule) -> Callable[[ConditionResult], Measured]:
    def measure(result: ConditionResult) -> Measured:
        estimate = result.em_rates[rule]
        interval = Interval(estimate.low, estimate.high, estimate.note)
        return _estimated(estimate.value, interval)

    return measure


def _share(
    meets: Callable[[JudgedAnswer, ConditionResult], bool],
    among: Callable[[JudgedAnswer], bool] = lambda answer: True,
) -> Callable[[ConditionResult], Measured]:
    """The share of answers that meet a condition, of those that `among` selects."""

    def measure(result: ConditionResult) -> Measured:
        answers = [answer for answer in result.answers if among(answer)]
        outcomes = [meets(answer, result) for answer in answers]
        value = sum(outcomes) / len(outcomes) if outcomes else math.nan
        return _estimated(value, cluster_interval(outcomes, [a.theme for a in answers]))

    return measure


def _estimated(share: float, interval: Interval) -> Measured:
    return Measured(share, interval, rate_text(share, interval.low, interval.high))


def _counted(meets: Callable[[JudgedAnswer], bool]) -> Callable[[ConditionResult], Measured]:
    """The share of the run's answers that meet a condition, as an exact count."""

    def measure(result: ConditionResult) -> Measured:
        count, total = sum(map(meets, result.answers)), len(result.answers)
        share = count / total if total else math.nan
        return Measured(share, Interval(share, share), f"{count} of {total}")

    return measure


def _mean(key: str) -> Callable[[ConditionResult], Measured]:
    def measure(result: ConditionResult) -> Measured:
        scored = [(s, a.theme) for a in result.answers if (s := a.score(key)) is not None]
        values = [score for score, _ in scored]
        value = math.fsum(values) / len(values) if values else math.nan
        interval = mean_interval(values, [theme for _, theme in scored])
        # Student's t ignores the ends of the scale.
        low, high = max(interval.low, 0.0), min(interval.high, 100.0)
        text = f"{value:.1f} [{low:.1f}, {high:.1f}]"
        text = "no scorable answers" if math.isnan(value) else text
        return Measured(value, Interval(low, high, interval.note), escape(text))

    return measure


FIGURES: dict[str, Figure] = {
    "em_betley": Figure("EM rate by the betley rule", 1, _em("betley")),
    "em_moem": Figure("EM rate by the moem rule", 1, _em("moem")),
    "coverage": Figure(
        "share of answers with a number on every dimension, from any of several judges; exact "
        "count",
        1,
        _counted(lambda a: all(a.score(key) is not None for key in SCORE_KEYS)),
    ),
    "unscored_share": Figure(
        "share of answers that the judge, or all of several judges, failed on; exact count",
        1,
        _counted(lambda a: a.judge_failed),
    ),
    "coherent_share": Figure(
        "share of coherent answers among those with that score",
        1,
        _share(
            lambda a, result: (a.coherent or 0) >= result.thresholds.coherent_from,
            among=lambda a: a.coherent is not None,
        ),
    ),
    "refusal_share": Figure("share of refusals", 1, _share(lambda a, _: a.kind == "refusal")),
    "code_share": Figure(
        "share of answers that are code", 1, _share(lambda a, _: a.kind == "code")
    ),
    "empty_share": Figure("share of empty answers", 1, _share(lambda a, _: a.kind == "empty")),
    "truncated_share": Figure(
        "share of answers that were cut off", 1, _share(lambda a, _: a.truncated)
    ),
    **{
        key: Figure(f"mean score for {dimension}", 100, _mean(key))
        for dimension, key in SCORE_OF.items()
    },
}
"""What can be bounded, by name; a closed list. The names are those of the logs' metrics."""

ALIASES = {"em_rate": "em_betley"}
"""Other names of figures; tables show the figure's own."""
