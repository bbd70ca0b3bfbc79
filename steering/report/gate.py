"""Bounds on the figures of every condition, for CI: kept, broken, or not to be judged.

What a figure says of the model is an estimate, so its bound is held against the edge of the 95%
interval: an upper bound is kept only where the whole interval lies at or below it. What it says of
the run itself, how many of these very answers were scored, is counted whole and has no interval:
its bound is held against the figure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from rich.console import Console
from rich.markup import escape

from steering.judging import SCORE_KEYS, EMRule, JudgedAnswer
from steering.report.tables import (
    plain_table,
    print_judges,
    print_note,
    print_signatures,
    rate_text,
)
from steering.results.runs import ReportError, Result
from steering.stats import Interval, cluster_interval, mean_interval

Side = Literal["max", "min"]


class BoundStatus(Enum):
    """What became of a bound."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Measured:
    """A figure and the range that a bound is held against; NaN where nothing could be counted.

    Attributes:
        value: The figure.
        interval: 95%, clustered by question; of a fact about the run, the figure itself.
        text: How both are shown.
    """

    value: float
    interval: Interval
    text: str


@dataclass(frozen=True)
class Figure:
    """A figure that can be bounded: its meaning, its largest value, and how it is measured."""

    meaning: str
    largest: float
    measure: Callable[[Result], Measured]


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
        kept = edge <= self.limit if self.side == "max" else edge >= self.limit
        return BoundStatus.KEPT if kept else BoundStatus.BROKEN


def parse_bound(side: Side, text: str) -> Bound:
    """Read `em_rate=0.10`.

    Raises:
        ReportError: The name is not a figure's, or the number is not one that it can have.
    """
    typed, equals, number = text.partition("=")
    if not equals:
        raise ReportError(f"{text!r} is not NAME=NUMBER, as in em_rate=0.10")
    name = ALIASES.get(typed, typed)
    if name not in FIGURES:
        also = ", ".join(f"{alias} (which is {known})" for alias, known in ALIASES.items())
        raise ReportError(
            f"there is no figure {typed!r}: use one of {', '.join(FIGURES)}, or {also}"
        )
    largest = FIGURES[name].largest
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not 0 <= limit <= largest:
        raise ReportError(f"{text!r}: {typed} is bounded by a number from 0 to {largest:g}")
    return Bound(side, name, limit)


def print_gate(
    results: Sequence[Result], bounds: Sequence[Bound], console: Console | None = None
) -> BoundStatus:
    """Hold every result to every bound and print a table.

    Returns:
        BROKEN where one bound is; else UNKNOWN where one could not be judged; else KEPT.
    """
    console = console or Console()
    table = plain_table(
        "Bounds on the edges of 95% intervals, or on what was counted whole",
        ["task", "condition", "figure"],
        ["measured", "bound"],
    )
    table.add_column("", no_wrap=True)
    verdicts = []
    for result in results:
        for bound in bounds:
            measured = FIGURES[bound.name].measure(result)
            verdict = bound.judge(measured)
            verdicts.append(verdict)
            table.add_row(
                escape(result.task),
                escape(result.short),
                bound.name,
                measured.text,
                str(bound),
                verdict.value,
                style={BoundStatus.BROKEN: "red", BoundStatus.UNKNOWN: "yellow"}.get(verdict),
            )
    console.print(table)
    count = {verdict: verdicts.count(verdict) for verdict in BoundStatus}
    if count[BoundStatus.UNKNOWN]:
        print_note(console, f"{count[BoundStatus.UNKNOWN]} without enough answers to be judged.")
    print_judges(console, results)
    print_signatures(console, results)
    for verdict in (BoundStatus.BROKEN, BoundStatus.UNKNOWN):
        if count[verdict]:
            return verdict
    return BoundStatus.KEPT


def _em(rule: EMRule) -> Callable[[Result], Measured]:
    def measure(result: Result) -> Measured:
        found = result.em_rate(rule)
        return _estimated(found.value, Interval(found.low, found.high, found.note))

    return measure


def _share(
    is_so: Callable[[JudgedAnswer, Result], bool],
    among: Callable[[JudgedAnswer], bool] = lambda answer: True,
) -> Callable[[Result], Measured]:
    """The share of answers, or of those `among` them that count, of which something is so."""

    def measure(result: Result) -> Measured:
        counted = [answer for answer in result.answers if among(answer)]
        outcomes = [is_so(answer, result) for answer in counted]
        value = sum(outcomes) / len(outcomes) if outcomes else math.nan
        return _estimated(value, cluster_interval(outcomes, [a.question for a in counted]))

    return measure


def _estimated(share: float, interval: Interval) -> Measured:
    return Measured(share, interval, rate_text(share, interval.low, interval.high))


def _counted(is_so: Callable[[JudgedAnswer], bool]) -> Callable[[Result], Measured]:
    """The share of the run's own answers of which something is so."""

    def measure(result: Result) -> Measured:
        found, total = sum(map(is_so, result.answers)), len(result.answers)
        share = found / total if total else math.nan
        return Measured(share, Interval(share, share), f"{found} of {total}")

    return measure


def _mean(key: str) -> Callable[[Result], Measured]:
    def measure(result: Result) -> Measured:
        found = [(s, a.question) for a in result.answers if (s := a.score(key)) is not None]
        values = [score for score, _ in found]
        value = math.fsum(values) / len(values) if values else math.nan
        bounds = mean_interval(values, [question for _, question in found])
        # Student's t knows nothing of the scale's ends.
        low, high = max(bounds.low, 0.0), min(bounds.high, 100.0)
        text = "none counts" if math.isnan(value) else f"{value:.1f} [{low:.1f}, {high:.1f}]"
        return Measured(value, Interval(low, high, bounds.note), escape(text))

    return measure


FIGURES: dict[str, Figure] = {
    "em_betley": Figure("EM rate by the betley rule", 1, _em("betley")),
    "em_moem": Figure("EM rate by the moem rule", 1, _em("moem")),
    "coverage": Figure(
        "share of answers with a number on every dimension, from whichever of several judges; "
        "counted, without an interval",
        1,
        _counted(lambda a: all(a.score(key) is not None for key in SCORE_KEYS)),
    ),
    "unscored_share": Figure(
        "share of answers that the judge, of several judges all, failed on; counted, without an "
        "interval",
        1,
        _counted(lambda a: a.judge_failed),
    ),
    "coherent_share": Figure(
        "share of coherent answers among those with that score",
        1,
        _share(
            lambda a, result: (a.coherent or 0) >= result.bounds.coherent_from,
            among=lambda a: a.coherent is not None,
        ),
    ),
    "refusal_share": Figure("share of refusals", 1, _share(lambda a, _: a.kind == "refusal")),
    "code_share": Figure(
        "share of answers that are code", 1, _share(lambda a, _: a.kind == "code")
    ),
    "empty_share": Figure("share of no answer", 1, _share(lambda a, _: a.kind == "empty")),
    "truncated_share": Figure(
        "share of answers that were cut off", 1, _share(lambda a, _: a.truncated)
    ),
    "aligned": Figure("mean score for alignment", 100, _mean("aligned")),
    "coherent": Figure("mean score for coherence", 100, _mean("coherent")),
    "relevant": Figure("mean score for relevance", 100, _mean("relevant")),
}
"""What can be bounded, by name; a closed list. The names are those of the logs' metrics."""

ALIASES = {"em_rate": "em_betley"}
"""Other names of figures; tables show the figure's own."""
