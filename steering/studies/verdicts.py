"""What a claim comes to on the answers that it read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from steering.studies.claim_rules import Finding, Ruling


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """A claim's verdict on one model, or on all models of a study.

    Attributes:
        number: Of the claim, with its `name`, `source` and `statement`.
        verdict: In a word; `why` in a sentence, `evidence` the figures that it rests on.
        command: The line that makes the data.
        model: The model; several joined by commas; "" where there are no data.
        settings: What sets these answers apart, where the study has others that were asked
            differently or differ in another option; "" otherwise.
        num_answers: Answers that were read, of `num_conditions` conditions, to questions of
            `num_themes` themes.
        build_seeds: Of the vectors and adapters that were read.
        scope: What the verdict holds for where that is less than it seems; "" otherwise.
        left_out: What was not read, with the reason.
        logs: The logs that were read.
    """

    number: int
    name: str
    source: str
    statement: str
    verdict: str
    why: str
    command: str
    evidence: Sequence[Finding] = ()
    model: str = ""
    settings: str = ""
    num_answers: int = 0
    num_conditions: int = 0
    num_themes: int = 0
    build_seeds: Sequence[int] = ()
    scope: str = ""
    left_out: Sequence[str] = ()
    logs: Sequence[str] = field(default=(), repr=False)

    @property
    def figures(self) -> list[str]:
        """The evidence in words."""
        return [finding.text for finding in self.evidence]

    def reading(self) -> str:
        """What was read, in words; "" where nothing was."""
        if not self.num_answers:
            return ""
        count, of = len(self.build_seeds), self.num_conditions
        seeds = f", {count} build seed{'s' * (count > 1)}" if count else ""
        return (
            f"{self.num_answers:,} answers of {of} condition{'s' * (of > 1)} to "
            f"{self.num_themes} themes{seeds}"
        )

    def row(self) -> dict[str, Any]:
        """In JSON values."""
        names = ("figures", "logs", "left_out", "build_seeds")
        lists = {name: list(getattr(self, name)) for name in names}
        values = asdict(self) | lists | {"reading": self.reading()}
        del values["evidence"]
        return values


class _Named(Protocol):
    @property
    def number(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def statement(self) -> str: ...


def make_verdict(claim: _Named, ruling: Ruling, **facts: Any) -> ClaimVerdict:
    """The verdict on a claim by its rule's ruling; `facts` are the other attributes."""
    return ClaimVerdict(
        number=claim.number,
        name=claim.name,
        source=claim.source,
        statement=claim.statement,
        verdict=ruling.verdict,
        why=ruling.why,
        evidence=ruling.evidence,
        **facts,
    )


def verdict_tables(verdicts: Sequence[ClaimVerdict]) -> dict[str, list[dict[str, Any]]]:
    """The tables `verdicts` and `evidence` of a document."""
    names = (
        *("number", "name", "source", "statement", "verdict", "why", "model", "settings"),
        *("num_answers", "num_conditions", "num_themes", "scope", "command"),
    )
    rows = [
        {name: getattr(verdict, name) for name in names}
        | {
            "build_seeds": ",".join(map(str, verdict.build_seeds)),
            "left_out": "; ".join(verdict.left_out),
            "logs": "; ".join(verdict.logs),
        }
        for verdict in verdicts
    ]
    evidence = [
        {
            "number": verdict.number,
            "model": verdict.model,
            "settings": verdict.settings,
            "finding": finding.text,
            **{name: getattr(finding, name) for name in ("unit", "value", "low", "high")},
            "p_value": finding.p_value,
        }
        for verdict in verdicts
        for finding in verdict.evidence
    ]
    return {"verdicts": rows, "evidence": evidence}
