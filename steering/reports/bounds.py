"""Bounds on figures: how they are read, when a figure's interval keeps them, and what it lacks."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from steering.errors import nearest
from steering.reports.enough import ThemeCounts, size_needed
from steering.reports.figures import ALIASES, FIGURES, Figure, Measured, figure_of
from steering.results.frame import ResultError
from steering.stats import Interval

Side = Literal["max", "min"]


class BoundStatus(Enum):
    """Whether a bound is kept."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "undecided"


@dataclass(frozen=True)
class Bound:
    """An upper (`max`) or lower (`min`) bound on a figure."""

    side: Side
    name: str
    limit: float

    @property
    def figure(self) -> Figure:
        """What is bounded."""
        return figure_of(self.name)

    def __str__(self) -> str:
        return f"{'<=' if self.side == 'max' else '>='} {self.figure.text(self.limit)}"

    def keeps(self, interval: Interval) -> bool:
        """Whether the whole interval lies within the bound; without bounds it does not."""
        if self.side == "max":
            return interval.high <= self.limit
        return interval.low >= self.limit

    def decidable(self, counts: ThemeCounts) -> bool:
        """Whether so many answers to so many themes could keep the bound at all.

        Also with many more answers to the same themes: asking less must not help.
        """
        best = counts.at_best(all_true=self.side == "min")
        return self.keeps(best.interval()) and self.keeps(best.with_many_answers().interval())

    def judge(self, measured: Measured) -> BoundStatus:
        """Whether the interval keeps to the bound."""
        interval, counts = measured.interval, measured.counts
        edges = (interval.low, interval.high)
        if measured.doubt.is_blind or any(map(math.isnan, (measured.value, *edges))):
            return BoundStatus.UNKNOWN
        other_edge = interval.low if self.side == "max" else interval.high
        lies_beyond = not self.keeps(Interval(other_edge, other_edge))
        if counts is not None and not lies_beyond and not self.decidable(counts):
            return BoundStatus.UNKNOWN
        return BoundStatus.KEPT if self.keeps(interval) else BoundStatus.BROKEN


def parse_bound(
    side: Side, text: str, dimensions: Collection[str] = (), metrics: Collection[str] = ()
) -> Bound:
    """Read `em_rate=0.10`, or `wishes:includes/accuracy=0.3`.

    Args:
        side: Of the bound.
        text: Name and number.
        dimensions: Names of judged dimensions of the user's own that can be bounded, too.
        metrics: Likewise the metrics of other tasks, each as `TASK:METRIC`.

    Raises:
        ResultError: The name is not a figure's, or the number is not one that it can have.
    """
    # A metric's name may hold the sign itself.
    typed, equals, number = text.rpartition("=")
    if not equals:
        raise ResultError(f"{text!r} is not NAME=NUMBER, as in em_rate=0.10")
    name = ALIASES.get(typed, typed)
    if name in dimensions and name in FIGURES:
        raise ResultError(
            f"{name} is a figure of this suite, and a dimension of yours in these logs: give your "
            "rubric another `score:`"
        )
    if name not in FIGURES and name not in dimensions and name not in metrics:
        raise ResultError(_no_figure(typed, dimensions, metrics))
    least, largest = figure_of(name).least, figure_of(name).largest
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not least <= limit <= largest or math.isinf(limit):
        allowed = f"a number from {least:g} to {largest:g}" if least == 0 else "a finite number"
        remedy = _share_remedy(typed, number) if largest == 1 else ""
        raise ResultError(f"{text!r}: {typed} is bounded by {allowed}{remedy}")
    return Bound(side, name, limit)


def remarks_on(bound: Bound, measured: Measured, status: BoundStatus) -> list[str]:
    """What an interval does not cover, and how much more would have to be asked."""
    note = measured.interval.note
    notes = [note, *measured.doubt.notes] if note else measured.doubt.notes
    if math.isnan(measured.value) and not notes:
        notes = ["nothing to count"]
    remarks = [f"{bound.name}: {each}." for each in notes]
    counts = measured.counts
    if counts is None or not counts.total or status is BoundStatus.KEPT:
        return remarks
    # A rate that there is none of, or that shows nothing: the notes say why, and it is not the
    # number of themes.
    if measured.doubt.is_blind or math.isnan(measured.value):
        return remarks
    asked = _size(counts, counts.size)
    if status is BoundStatus.UNKNOWN:
        best = counts.at_best(all_true=bound.side == "min")
        extreme = bound.figure.text(1.0 if bound.side == "min" else 0.0)
        remark = f"{bound.name} {bound} can't be shown by {asked}, even at {extreme}"
        size = size_needed(best, bound.decidable)
        could = "could"
        # Of a judge whose errors are measured on labelled answers, which themes don't add to.
        if measured.is_corrected:
            could = "could if the judge made no errors"
        hint = "no number of them could" if size is None else f"{_size(best, size)} {could}"
        if not counts.on_these:
            edge = best.with_many_answers().interval()
            reach = bound.figure.text(round(edge.high if bound.side == "max" else edge.low, 3))
            reaches = "up" if bound.side == "max" else "down"
            hint += (
                f". With {len(counts.total)} theme{'s' * (len(counts.total) != 1)} the interval "
                f"reaches {reaches} to {reach} then, however many answers each has"
            )
        return [*remarks, f"{remark}; {hint}."]
    value = Interval(measured.value, measured.value)
    # More labels of the judge's answers would narrow a corrected rate too: no number of themes says
    # how many answers it takes.
    if measured.is_corrected:
        return remarks
    if bound.keeps(value) and (
        size := size_needed(
            counts, lambda grown: bound.keeps(grown.interval()) and bound.decidable(grown)
        )
    ):
        remark = f"{bound.name} itself lies within {bound}, the end of its interval does not"
        remarks.append(f"{remark}; at this rate {_size(counts, size)} would keep it.")
    return remarks


def _no_figure(typed: str, dimensions: Collection[str], metrics: Collection[str]) -> str:
    """That no figure has a name, and which there are."""
    also = ", ".join(f"{alias} (which is {name})" for alias, name in ALIASES.items())
    close = nearest(typed, [*FIGURES, *ALIASES, *dimensions, *metrics])
    text = f"there is no figure {typed!r}.{close} Use one of {', '.join(FIGURES)}, or {also}"
    if dimensions:
        text += f"; these logs also have the judged dimensions {', '.join(dimensions)}"
    if metrics:
        text += f"; these logs also have the metrics of other tasks {', '.join(metrics)}"
    return text


def _size(counts: ThemeCounts, size: int) -> str:
    if counts.on_these:
        return f"{size} answers to these questions"
    each = round(sum(counts.total) / len(counts.total))
    return f"{size} theme{'s' * (size != 1)} of {each} answer{'s' * (each != 1)}"


def _share_remedy(name: str, number: str) -> str:
    """How a share is written that was typed in percent; "" where none was."""
    try:
        percents = float(number.strip().removesuffix("%"))
    except ValueError:
        return ""
    return f": write {name}={percents / 100:g} for {percents:g}%" if 0 <= percents <= 100 else ""
