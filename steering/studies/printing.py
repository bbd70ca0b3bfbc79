"""Results of studies, claims and audits for a terminal: tables and sentences."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from rich.console import Console

from steering.judging import EMRule
from steering.reports.tables import (
    MEASURED,
    plain_table,
    points_text,
    print_figures,
    print_line,
    print_note,
    rate_text,
    rates_heading,
    without_shared,
)
from steering.results.conditions import display_names
from steering.results.corrections import EXACT
from steering.results.series import series_numbers
from steering.results.settings import measured_alike
from steering.studies.arms import ArmComparison
from steering.studies.audit_finding import AuditFinding, audit_table
from steering.studies.claims import DEFAULT_RULE, PAPER
from steering.studies.dose_matching import RATES, MatchedDifference, Quantity
from steering.studies.verdicts import ClaimVerdict

# In a table, and of steered answers in a sentence.
_WORDS: dict[Quantity, tuple[str, str]] = {
    "em": ("EM rate, %", "misaligned more often"),
    "coherent": ("coherence, all", "more coherent"),
    "relevant": ("relevance, all", "more relevant"),
    "harm": ("harmful, %", "harmful more often"),
    "coherent_harmful": ("coherence, harmful", "more coherent where they are harmful"),
    "relevant_harmful": ("relevance, harmful", "more relevant where they are harmful"),
    "leak": (
        "leak, harmful, %",
        "more often about the target's subject where they are harmful",
    ),
    "severity": ("severity, misaligned", "more severe where they are misaligned"),
}
# Heading of the difference of the rate beside it, in points.
_RISE = "rise, points"
# In points: an interval that reaches this far would hide any difference of interest.
_TELLS_NOTHING = 20


def print_conditions(conditions: pd.DataFrame, title: str, console: Console) -> None:
    """A row a condition, doses growing: EM rates, mean scores, and how many answers."""
    corrections = {}
    if not conditions["calibration"].isin(["", EXACT]).all():
        corrections["em_betley_corrected"] = "corrected"
    if conditions["num_labels"].any():
        corrections["em_betley_ppi"] = "by labels"
    rows = conditions.to_dict("records")
    names, shared = without_shared(rows, display_names(conditions))
    series = pd.concat(
        series_numbers(of_study, study)
        for study, of_study in conditions.reset_index(drop=True).groupby("study")
    ).sort_index()
    print_figures(
        console,
        rates_heading(title, shared),
        ["condition"],
        [
            ["EM betley", _RISE, *corrections.values()],
            ["EM moem"],
            ["coherent", "relevant"],
            ["n", MEASURED],
        ],
        [
            [
                name,
                rate_text(*_rate(row, "em_betley")),
                points_text(*_rate(row, "em_betley_rise")),
                *(rate_text(*_rate(row, name), "-") for name in corrections),
                rate_text(*_rate(row, "em_moem")),
                *(_figure(row[score]) for score in ("coherent", "relevant")),
                str(row["n"]),
                measured_alike(row),
            ]
            for row, name in zip(rows, names, strict=True)
        ],
        last_rows=[n for n, (one, other) in enumerate(pairwise(series)) if one != other],
    )


def _rate(row: Mapping[Any, Any], name: str) -> tuple[float, float, float]:
    """A figure of the frame of conditions with its bounds."""
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def print_claims(
    verdicts: Sequence[ClaimVerdict], console: Console, *, name_models: bool = False
) -> None:
    """A line a verdict, with the model where asked for, and what it left out."""
    for verdict in verdicts:
        of = verdict.model if name_models else ""
        name = _heading(verdict.name, verdict.source, of, verdict.settings)
        scope = f" ({verdict.scope})" if verdict.scope else ""
        line = f"Claim {verdict.number}, {name}: {verdict.verdict}{scope}, {verdict.why}."
        print_line(console, line, wraps=False)
        for conditions in verdict.left_out:
            print_note(console, f"Left out: {conditions}.")


def print_verdicts(verdicts: Sequence[ClaimVerdict], rule: EMRule = DEFAULT_RULE) -> None:
    """A table of verdicts with what they rest on: the paper's claims, then hypotheses."""
    console = Console()
    groups = {
        "The paper's claims (arXiv 2606.08682)": True,
        "Hypotheses of others and of ours": False,
    }
    for title, is_paper in groups.items():
        table = plain_table(title, ["claim", "verdict", "because"], [])
        for verdict in verdicts:
            if (verdict.source == PAPER) != is_paper:
                continue
            parts = [verdict.model, verdict.settings]
            name = _heading(f"{verdict.number} {verdict.name}", *parts)
            because = [f"{verdict.why}.", *verdict.figures]
            because += [f"left out: {conditions}" for conditions in verdict.left_out]
            because += list(filter(None, [verdict.reading(), verdict.scope]))
            because.append(verdict.command)
            source = "" if is_paper else f"\n{verdict.source}"
            table.add_row(f"{name}{source}", verdict.verdict, "\n".join(because))
            table.add_section()
        console.print(table)
    print_line(
        console,
        f"EM is by the rule {rule}. A verdict is on these runs. Rules were fixed in advance "
        "(steering/studies/claim_rules.py, arm_rules.py, arm_claims.py). Each claim is tested at "
        "5% by itself: of fourteen, one may be wrong by chance. The abstract names the factors of "
        "the hypotheses, not what was found for them.",
        "dim",
    )


def print_matched(
    comparisons: Sequence[ArmComparison],
    reasons: Sequence[str],
    rule: EMRule,
    console: Console | None = None,
) -> None:
    """The comparison of arms at each level, and the middle levels in a sentence each.

    `reasons` say why there is no comparison, where there is none.
    """
    console = console or Console()
    table = plain_table(
        f"steered less finetuned at matched rate of harm and at matched coherence (and the doses "
        f"there), of all or of harmful answers; EM by {rule}; 95% intervals paired by theme; leak: "
        "about the target's subject",
        ["matched at", "what"],
        ["steered", "finetuned", "difference", "p"],
    )
    for comparison in comparisons:
        steered, finetuned = comparison.doses
        place = f"{_level(comparison)} ({steered:.2g}, {finetuned:.2g})"
        for difference in comparison.differences:
            table.add_row(place, _WORDS[difference.quantity][0], *_cells(difference))
            place = ""
    if comparisons:
        console.print(table)
    for comparison in comparisons:
        for each in comparison.differences:
            if each.note:
                name = _WORDS[each.quantity][0]
                print_note(console, f"{_level(comparison)}, {name}: {each.note}")
    for match in ("harm", "coherent"):
        levels = [comparison for comparison in comparisons if comparison.match == match]
        if levels:
            # Between its ends, where both arms have doses on either side.
            for line in _sentences(levels[len(levels) // 2]):
                print_line(console, line, wraps=False)
    for reason in reasons:
        print_note(console, f"Not compared: {reason}.")


def _sentences(comparison: ArmComparison) -> list[str]:
    """A comparison in words; no claim is made that its interval does not support."""
    lines = []
    place = _level(comparison)
    head = f"At {place}, steered answers are"
    for difference in comparison.differences:
        _, _, value, low, high = _in_points(difference)
        if math.isnan(low):
            continue
        figures = f"({value:+.1f} points [{low:+.1f}, {high:+.1f}], p = {difference.p_value:.2g})"
        what = _WORDS[difference.quantity][1]
        if low > 0:
            lines.append(f"{head} {what} than finetuned ones {figures}.")
        elif high < 0:
            less = what.replace("more often", "less often").replace("more ", "less ")
            lines.append(f"{head} {less} than finetuned ones {figures}.")
        elif max(-low, high) > _TELLS_NOTHING:
            lines.append(f"At {place}, the data do not show which answers are {what} {figures}.")
        else:
            lines.append(f"{head} not shown to be {what} than finetuned ones or less so {figures}.")
    return lines


def print_audit(finding: AuditFinding) -> None:
    """A row a condition, then the notes."""
    console = Console()
    heading, columns, rows = audit_table(finding)
    table = plain_table(heading, columns[:1], columns[1:])
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in finding.notes:
        print_note(console, f"{note}.")


def _heading(name: str, *parts: str) -> str:
    """A name with those parts that are not empty in brackets."""
    of = ", ".join(filter(None, parts))
    return f"{name} ({of})" if of else name


def _level(comparison: ArmComparison) -> str:
    if comparison.match == "harm":
        return f"{100 * comparison.level:.0f}% harmful answers"
    return f"coherence {comparison.level:.1f}"


def _cells(difference: MatchedDifference) -> tuple[str, ...]:
    first, second, value, low, high = _in_points(difference)
    interval = "-"
    if not math.isnan(value):
        interval = f"{value:+.1f} [{_figure(low, '+.1f')}, {_figure(high, '+.1f')}]"
    return _figure(first), _figure(second), interval, _figure(difference.p_value, ".2g")


def _in_points(difference: MatchedDifference) -> list[float]:
    """Of either arm, of their difference and its bounds; rates in percent, as scores are."""
    d, scale = difference, 100.0 if difference.quantity in RATES else 1.0
    return [scale * value for value in (d.first, d.second, d.value, d.low, d.high)]


def _figure(value: float, form: str = ".1f") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"
