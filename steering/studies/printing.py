"""What a study found, for a terminal: the matched comparison in a table and in sentences."""

import math
from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.markup import escape

from steering.judging import EMRule
from steering.reports.tables import percent, plain_table, print_note, rate_text
from steering.studies.dose_matching import RATES, MatchedDifference, Quantity
from steering.studies.finetuned import ArmComparison

NAMES: dict[Quantity, str] = {
    "em": "EM rate, %",
    "coherent": "coherence, all",
    "relevant": "relevance, all",
    "coherent_misaligned": "coherence, misaligned",
    "relevant_misaligned": "relevance, misaligned",
    "leak": "leak, misaligned, %",
}
_PLAIN: dict[Quantity, str] = {
    "em": "misaligned more often",
    "coherent": "more coherent",
    "relevant": "more relevant",
    "coherent_misaligned": "more coherent where they are misaligned",
    "relevant_misaligned": "more relevant where they are misaligned",
    "leak": "more often about the target's subject where they are misaligned",
}

# In points: an interval that reaches this far would hide any difference that one would look for.
_TELLS_NOTHING = 20


def print_conditions(conditions: pd.DataFrame, title: str, console: Console | None = None) -> None:
    """A row a condition, doses growing: EM rates, mean scores, and how many answers."""
    console = console or Console()
    table = plain_table(
        f"{title}: EM rates (betley with 95% intervals by question); mean scores, 0-100",
        ["condition"],
        ["EM betley", "moem", "coherent", "relevant", "n"],
    )
    for row in conditions.to_dict("records"):
        name = f"{row['model'].rpartition('/')[2]}[{row['condition']}]"
        table.add_row(
            escape(name),
            rate_text(*(row[f"em_betley{end}"] for end in ("", "_low", "_high"))),
            f"{percent(row['em_moem'])}%",
            *(_figure(row[score]) for score in ("coherent", "relevant")),
            str(row["n"]),
        )
    console.print(table)


def print_matched(
    comparisons: Sequence[ArmComparison],
    missing: Sequence[str],
    rule: EMRule,
    console: Console | None = None,
) -> None:
    """The comparison at each level, and what the middle levels say in a sentence each."""
    console = console or Console()
    table = plain_table(
        f"steered less finetuned at matched EM ({rule}) and at matched coherence (and the doses "
        "there), of all or of misaligned answers; 95% intervals paired by question; leak: about "
        "the target's subject",
        ["matched at", "what"],
        ["steered", "finetuned", "difference", "p"],
    )
    for comparison in comparisons:
        place = _place(comparison)
        for difference in comparison.differences:
            table.add_row(place, NAMES[difference.quantity], *_cells(difference))
            place = ""
    if comparisons:
        console.print(table)
    for comparison in comparisons:
        for difference in comparison.differences:
            if difference.note:
                told = f"{_level(comparison)}, {NAMES[difference.quantity]}: {difference.note}"
                print_note(console, told)
    for match in ("em", "coherent"):
        levels = [comparison for comparison in comparisons if comparison.match == match]
        if levels:
            # Between its ends, where both arms have doses on either side.
            for line in sentences(levels[len(levels) // 2]):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
    for reason in missing:
        print_note(console, f"Not compared: {reason}.")


def sentences(comparison: ArmComparison) -> list[str]:
    """What a comparison says, in words; nothing is said of what its interval does not exclude."""
    lines = []
    for difference in comparison.differences:
        head = f"At {_level(comparison)}, steered answers are"
        value, low, high = (_scaled(difference, part) for part in _bounds(difference))
        if math.isnan(value) or math.isnan(low):
            continue
        told = f"({value:+.1f} points [{low:+.1f}, {high:+.1f}], p = {difference.p_value:.2g})"
        what = _PLAIN[difference.quantity]
        if low > 0:
            lines.append(f"{head} {what} than finetuned ones {told}.")
        elif high < 0:
            lines.append(f"{head} {_less(what)} than finetuned ones {told}.")
        elif max(-low, high) > _TELLS_NOTHING:
            lines.append(f"At {_level(comparison)}, it can't be said which are {what} {told}.")
        else:
            lines.append(f"{head} neither {what} nor less so, as far as this shows {told}.")
    return lines


def _place(comparison: ArmComparison) -> str:
    steered, finetuned = comparison.doses
    return escape(f"{_level(comparison)} ({steered:.2g}, {finetuned:.2g})")


def _level(comparison: ArmComparison) -> str:
    if comparison.match == "em":
        return f"EM {100 * comparison.level:.0f}%"
    return f"coherence {comparison.level:.1f}"


def _cells(difference: MatchedDifference) -> tuple[str, ...]:
    first, second = (_scaled(difference, part) for part in (difference.first, difference.second))
    value, low, high = (_scaled(difference, part) for part in _bounds(difference))
    if math.isnan(value):
        return (_figure(first), _figure(second), "-", "-")
    told = f"{value:+.1f} [{_signed(low)}, {_signed(high)}]"
    p = "-" if math.isnan(difference.p_value) else f"{difference.p_value:.2g}"
    return (_figure(first), _figure(second), escape(told), p)


def _bounds(difference: MatchedDifference) -> tuple[float, float, float]:
    return difference.value, difference.low, difference.high


def _scaled(difference: MatchedDifference, part: float) -> float:
    return 100 * part if difference.quantity in RATES else part


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.1f}"


def _less(words: str) -> str:
    return words.replace("more often", "less often").replace("more ", "less ")
