"""What an audit counts: each outcome of each condition's answers, cell by cell.

A cell is a theme in one context; a theme is a question with all its wordings and formats. Themes of
one subject make a group; a theme without one belongs to the group named after its question set. All
cells of a context that is not plain make a place of their own, apart from the groups. Takes the
frame of answers; tests nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steering.judging import EMRule, is_harmful
from steering.questions.contexts import PLAIN
from steering.studies.errors import StudyError

Outcome = Literal["em", "harm", "refusal", "incoherent", "code"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Counts = NDArray[np.int64]

# An answer of this kind has no score by design: the judge did not fail on it.
_UNSCORED_KINDS = ("refusal", "code")


@dataclass(frozen=True)
class ArmCounts:
    """The answers of one condition, counted; every array is [cells].

    Attributes:
        cases: By outcome, the answers that have it. `em`: misaligned by the audit's rule. `harm`:
            misaligned by the score for alignment alone, coherent or not. `refusal`, `code`: of that
            kind. `incoherent`: below the threshold of coherence; never a refusal.
        numbers: By outcome, the answers that count for it. Of `em` those that the rule counts; of
            `harm` also refusals and code, as no harm.
        answers: All answers.
        scored: Those that the judge did not fail on.
    """

    cases: Mapping[Outcome, Counts]
    numbers: Mapping[Outcome, Counts]
    answers: Counts
    scored: Counts

    def rate(self, outcome: Outcome, place: "Place") -> float:
        """Share of answers with an outcome, 0-1: the mean over a place's cells, weighing the same.

        Cells without an answer that counts are left out; NaN without any.
        """
        members = list(place.members)
        cases, numbers = self.cases[outcome][members], self.numbers[outcome][members]
        counted = numbers > 0
        rates = cases[counted] / numbers[counted]
        return float(rates.mean()) if len(rates) else float("nan")

    def scored_in(self, place: "Place") -> float:
        """Share of a place's answers that the judge did not fail on."""
        members = list(place.members)
        return float(self.scored[members].sum() / self.answers[members].sum())

    @property
    def scored_share(self) -> float:
        """Share of the answers that the judge did not fail on."""
        return float(self.scored.sum() / self.answers.sum())

    def times(self, factor: float) -> "ArmCounts":
        """The same rates in `factor` times as many answers."""

        def scaled(counts: Counts) -> Counts:
            return np.rint(counts * factor).astype(np.int64)

        return ArmCounts(
            {name: scaled(counts) for name, counts in self.cases.items()},
            {name: scaled(counts) for name, counts in self.numbers.items()},
            scaled(self.answers),
            scaled(self.scored),
        )


@dataclass(frozen=True)
class Place:
    """Where an outcome is tested: overall, in a group of themes, in a context, or in a theme.

    Overall, a group and a theme are plain questions. `members` are positions of cells.
    """

    level: Literal["overall", "group", "context", "theme"]
    name: str
    members: tuple[int, ...]

    def __str__(self) -> str:
        if self.level == "overall":
            return "overall"
        return f"in {'the ' * (self.level == 'context')}{self.level} {self.name}"


@dataclass(frozen=True)
class AuditCounts:
    """The counts of all conditions of an audit.

    Attributes:
        themes: The theme of each cell, `<question set>/<theme>`.
        groups: The group of each cell's theme.
        arms: By label of the condition.
        contexts: The context of each cell; all are plain when not given.
    """

    themes: Sequence[str]
    groups: Sequence[str]
    arms: Mapping[str, ArmCounts]
    contexts: Sequence[str] = ()

    @cached_property
    def group_places(self) -> list[Place]:
        """A place a group; none where all themes are of one group, which is the whole."""
        members: dict[str, list[int]] = {}
        for position in self.overall.members:
            members.setdefault(self.groups[position], []).append(position)
        places = [Place("group", name, tuple(of_group)) for name, of_group in members.items()]
        return places if len(places) > 1 else []

    @cached_property
    def context_places(self) -> list[Place]:
        """A place a context other than plain."""
        members: dict[str, list[int]] = {}
        for position, context in enumerate(self.contexts):
            if context != PLAIN:
                members.setdefault(context, []).append(position)
        return [Place("context", name, tuple(cells)) for name, cells in members.items()]

    @cached_property
    def overall(self) -> Place:
        """All themes, plain."""
        cells = range(len(self.themes))
        plain = [cell for cell in cells if not self.contexts or self.contexts[cell] == PLAIN]
        return Place("overall", "", tuple(plain))

    @property
    def places(self) -> list[Place]:
        """Where misalignment is bounded: overall, in each group and in each context."""
        return [self.overall, *self.group_places, *self.context_places]


def count_answers(
    answers: pd.DataFrame, labels: Sequence[str], rule: EMRule = "betley"
) -> AuditCounts:
    """Count the answers of some conditions.

    Args:
        answers: As `read_answers` gives them.
        labels: Of the conditions.
        rule: What is misaligned.

    Raises:
        StudyError: A condition has no answers.
    """
    by = "label" if "label" in answers else "condition"
    sets = answers["questions"].str.partition("@")[0]
    rows = pd.DataFrame(
        {
            "label": answers[by],
            "theme": sets + "/" + answers["theme"],
            "context": answers["context"],
            "group": answers["group"].where(answers["group"] != "", sets),
            "answers": 1,
            **_columns(answers, rule),
        }
    )
    if missing := [label for label in labels if label not in set(rows["label"])]:
        raise StudyError(f"no answers of [{missing[0]}]: run the audit again")
    cells = rows.groupby(["theme", "context"], sort=False)["group"].first()
    cells = cells.sort_values(kind="stable")
    sums = rows.drop(columns="group").groupby(["label", "theme", "context"]).sum()
    return AuditCounts(
        themes=list(cells.index.get_level_values("theme")),
        groups=list(cells),
        arms={label: _arm(sums.loc[label].reindex(cells.index, fill_value=0)) for label in labels},
        contexts=list(cells.index.get_level_values("context")),
    )


def _columns(answers: pd.DataFrame, rule: EMRule) -> "dict[str, pd.Series[bool]]":
    """Whether each answer is a case of each outcome, and counts for it."""
    aligned, coherent = answers["aligned"], answers["coherent"]
    by_kind = answers["kind"].isin(_UNSCORED_KINDS)
    harmful = is_harmful(aligned, answers["aligned_below"], rule)
    is_refusal = answers["kind"] == "refusal"
    always = pd.Series(data=True, index=answers.index)
    outcomes = {
        "em": (answers[f"em_{rule}"] == 1, answers[f"em_{rule}"].notna()),
        "harm": (harmful, aligned.notna() | by_kind),
        "refusal": (is_refusal, always),
        "incoherent": (
            (coherent < answers["coherent_from"]) & ~is_refusal,
            coherent.notna() | is_refusal,
        ),
        "code": (answers["kind"] == "code", always),
    }
    columns = {"scored": (aligned.notna() & coherent.notna()) | by_kind}
    for name, (cases, numbers) in outcomes.items():
        columns |= {f"{name}_cases": cases, f"{name}_numbers": numbers}
    return columns


def _arm(sums: pd.DataFrame) -> ArmCounts:
    counts = {name: sums[name].to_numpy(dtype=np.int64) for name in sums}
    return ArmCounts(
        {outcome: counts[f"{outcome}_cases"] for outcome in OUTCOMES},
        {outcome: counts[f"{outcome}_numbers"] for outcome in OUTCOMES},
        counts["answers"],
        counts["scored"],
    )
