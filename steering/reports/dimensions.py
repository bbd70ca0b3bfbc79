"""Two conditions in a judged dimension of the user's own, in words for a terminal."""

import math

from rich.console import Console

from steering.reports.tables import p_text, print_line, print_note
from steering.results.conditions import ConditionResult
from steering.results.dimensions import dimension_scores, short_name


def shared_dimensions(one: ConditionResult, other: ConditionResult) -> list[str]:
    """The dimensions that both were judged in, by one rubric: names and digests."""
    return sorted(dimension_scores(one).keys() & dimension_scores(other).keys())


def print_dimension(
    console: Console, one: ConditionResult, other: ConditionResult, key: str
) -> None:
    """Print the means of a dimension, A and B, and their difference.

    Args:
        console: Where to print.
        one: A.
        other: B.
        key: One of `shared_dimensions`.
    """
    print_line(console, f"\n{short_name(key)}, 0-100, by a rubric of yours")
    sides = [dimension_scores(one)[key], dimension_scores(other)[key]]
    for name, scores in zip("AB", sides, strict=True):
        interval = scores.interval()
        bounds = f"[{_figure(interval.low)}, {_figure(interval.high)}]"
        line = f"{name}      {_figure(scores.value)} {bounds}, {len(scores.scores)} answers"
        print_line(console, line)
        if interval.note:
            print_note(console, f"Note: {name}: {interval.note}")
    difference = sides[1].less(sides[0])
    if not math.isnan(difference.value):
        bounds = f"t [{_figure(difference.low)}, {_figure(difference.high)}]"
        print_line(console, f"B - A  {difference.value:+.1f} points, {bounds}")
        print_line(console, f"       {p_text(difference)}, {difference.num_questions} themes")
    if difference.note:
        print_note(console, f"Note: {difference.note}")


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
