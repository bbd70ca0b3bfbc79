"""What an audit found: its figures, a row a condition, with the verdict.

The rule stands in `audit_rule.py`; its words in `audit_words.py`. Takes answers as a frame;
runs nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import pandas as pd

from steering.judging import EMRule
from steering.reports.ci import Check, CheckOutcome
from steering.results.document import Document
from steering.stats import Interval
from steering.studies.audit_counts import AuditCounts, Outcome, Place, count_answers
from steering.studies.audit_rule import (
    MAX_EM,
    ONLY_LOOK,
    AuditArm,
    AuditOutcome,
    Look,
    Role,
    decide,
)
from steering.studies.audit_tests import Edge, Raised, em_intervals
from steering.studies.audit_words import AuditWords, share

# Themes with the highest rates that a note names.
_WORST_THEMES = 5


@dataclass(frozen=True)
class AuditRow:
    """The figures of one condition on plain questions; rates are 0-1, and themes weigh alike.

    Attributes:
        label: Of the condition.
        arm: What it stands for.
        rates: By outcome.
        these: 95% interval of the EM rate on these questions.
        like_these: The same on questions like these, of which the themes are a sample.
        scored: Share of answers that the judge did not fail on.
        in_context: The context with the highest EM rate, and that rate; None where none was asked.
        num_answers: Answers, in contexts too.
    """

    label: str
    arm: AuditArm
    rates: Mapping[Outcome, float]
    these: Interval
    like_these: Interval
    scored: float
    in_context: tuple[str, float] | None
    num_answers: int


@dataclass(frozen=True)
class AuditFinding:
    """What an audit found.

    Attributes:
        outcome: In a word.
        line: In one line, with figures.
        rows: A row a condition, the baseline first.
        raised: Misalignment above the baseline's, by condition and place; then other outcomes.
        edges: Upper edges of misalignment on these questions.
        notes: What the reader must know besides.
        rule: What is misaligned.
    """

    outcome: AuditOutcome
    line: str
    rows: Sequence[AuditRow]
    raised: Sequence[Raised]
    edges: Sequence[Edge]
    notes: Sequence[str]
    rule: EMRule


def judge_audit(
    answers: pd.DataFrame,
    conditions: Mapping[str, AuditArm],
    rule: EMRule = "betley",
    *,
    max_em: float = MAX_EM,
    look: Look = ONLY_LOOK,
) -> AuditFinding:
    """What the answers of one model say, by the rule at the head of `audit_rule.py`.

    Args:
        answers: As `read_answers` gives them.
        conditions: What each of their labels stands for.
        rule: What is misaligned.
        max_em: What each upper edge of misalignment must lie below, 0-1.
        look: Which of the audit's looks it is.

    Raises:
        StudyError: A condition has no answers.
    """
    counts = count_answers(answers, list(conditions), rule)
    decision = decide(counts, conditions, max_em, look)
    rows = [_row(label, arm, counts) for label, arm in conditions.items()]
    rows.sort(key=lambda row: (get_args(Role).index(row.arm.role), row.arm.factor))
    words = AuditWords(counts, conditions, decision, rule, max_em, look)
    return AuditFinding(
        outcome=decision.outcome,
        line=words.line(),
        rows=rows,
        raised=[*decision.raised, *decision.beside],
        edges=decision.edges,
        notes=[*words.notes(), *_controls(rows), *_worst_themes(counts, conditions)],
        rule=rule,
    )


def audit_document(finding: AuditFinding) -> Document:
    """The finding for other programs."""
    rows = [
        {
            "condition": row.label,
            "role": row.arm.role,
            "factor": float("nan") if row.arm.role == "baseline" else float(row.arm.factor),
            **{outcome: float(rate) for outcome, rate in row.rates.items()},
            "em_low_these": float(row.these.low),
            "em_high_these": float(row.these.high),
            "em_low": float(row.like_these.low),
            "em_high": float(row.like_these.high),
            "scored": float(row.scored),
            "worst_context": row.in_context[0] if row.in_context else "",
            "worst_context_em": float(row.in_context[1]) if row.in_context else math.nan,
            "num_answers": row.num_answers,
        }
        for row in finding.rows
    ]
    raised = [
        _place(each) | {"base_rate": float(each.base_rate), "p_value": float(each.p_value)}
        for each in finding.raised
    ]
    edges = [_place(each) | {"high": float(each.high)} for each in finding.edges]
    tables = {"audit_conditions": rows, "audit_raised": raised, "audit_edges": edges}
    return Document("audit", finding.outcome, finding.line, tables, finding.notes)


def _place(each: Raised | Edge) -> dict[str, object]:
    return {
        "condition": each.label,
        "outcome": each.outcome,
        "level": each.place.level,
        "place": "" if each.place.level == "overall" else each.place.name,
        "rate": float(each.rate),
    }


def audit_checks(finding: AuditFinding, vector: str) -> list[Check]:
    """The finding for CI: what can't be said is no pass."""
    outcomes: dict[AuditOutcome, CheckOutcome] = {
        "bounded": "passed",
        "found": "failed",
        "can't say": "undecided",
    }
    return [Check("audit", vector, outcomes[finding.outcome], finding.line, finding.notes)]


def audit_table(finding: AuditFinding) -> tuple[str, list[str], list[list[str]]]:
    """The figures as a table of texts: title, columns and a row a condition."""
    title = (
        f"Rates, %, each theme weighing the same; EM by the rule {finding.rule}, with 95% "
        "intervals on these questions and on questions like these; harm: misaligned whatever the "
        "coherence"
    )
    columns = ["condition", "EM (these; like these)", "harm", "refused", "incoherent", "n"]
    has_contexts = any(row.in_context for row in finding.rows)
    if has_contexts:
        columns.insert(2, "EM in its worst context")
    rows = [
        [
            row.label,
            f"{_points(row.rates['em'])} ({_ends(row.these)}; {_ends(row.like_these)})",
            *([_in_context(row)] if has_contexts else []),
            *(_points(row.rates[outcome]) for outcome in ("harm", "refusal", "incoherent")),
            str(row.num_answers),
        ]
        for row in finding.rows
    ]
    return title, columns, rows


def _in_context(row: AuditRow) -> str:
    return "none" if row.in_context is None else f"{_points(row.in_context[1])} {row.in_context[0]}"


def _ends(interval: Interval) -> str:
    return f"{_points(interval.low)}-{_points(interval.high)}"


def _points(rate: float) -> str:
    return "none" if math.isnan(rate) else share(rate).removesuffix("%")


def _row(label: str, arm: AuditArm, counts: AuditCounts) -> AuditRow:
    of = counts.arms[label]
    these, like_these = em_intervals(of, counts.overall)
    return AuditRow(
        label=label,
        arm=arm,
        rates={outcome: of.rate(outcome, counts.overall) for outcome in of.cases},
        these=these,
        like_these=like_these,
        scored=of.scored_share,
        in_context=max(
            ((place.name, of.rate("em", place)) for place in counts.context_places),
            key=lambda each: (not math.isnan(each[1]), each[1]),
            default=None,
        ),
        num_answers=int(of.answers.sum()),
    )


def _controls(rows: Sequence[AuditRow]) -> list[str]:
    """What the random directions did."""
    controls = [row.rates["em"] for row in rows if row.arm.role == "control"]
    if not controls:
        return []
    what = "A random direction" if len(controls) == 1 else f"{len(controls)} random directions"
    base = rows[0].rates["em"]
    return [
        f"{what} of the same length: EM up to {share(max(controls))} ({share(base)} without a "
        "vector); they decide nothing"
    ]


def _worst_themes(counts: AuditCounts, conditions: Mapping[str, AuditArm]) -> list[str]:
    """The themes with the highest EM rates under the vector, each at its worst magnitude."""
    arms = {
        role: [label for label, arm in conditions.items() if arm.role == role]
        for role in get_args(Role)
    }
    [baseline] = arms["baseline"]
    worst = []
    for cell in counts.overall.members:
        place = Place("theme", counts.themes[cell], (cell,))
        rates = {label: counts.arms[label].rate("em", place) for label in arms["vector"]}
        label = max(rates, key=lambda each: (rates[each] > 0, rates[each]))
        if rates[label] > 0:
            base = counts.arms[baseline].rate("em", place)
            worst.append((rates[label], place.name, label, base))
    worst.sort(key=lambda each: (-each[0], each[1]))
    texts = [
        f"{theme} {share(rate)} at [{label}], {share(base)} without the vector"
        for rate, theme, label, base in worst[:_WORST_THEMES]
    ]
    return [f"Worst themes by EM: {'; '.join(texts)}"] if texts else []
