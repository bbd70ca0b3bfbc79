"""What judging produces: the verdict on one dimension, and the judged answer that metrics count.

A leaf of plain values: it knows no model, no rubric and no metric.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from steering.judging.rubric import ScoreKey

AnswerKind = Literal["answer", "code", "refusal", "empty"]
Method = Literal["logprobs", "parsed"]

# Reasons that say something about the answer; every other reason is a failure of the judge.
ANSWER_REASONS = ("code", "refusal")

REASONS_BY_JUDGE = "reasons_by_judge"
"""Key of a score's metadata: judge to score key to the reason for no score, for several judges."""


@dataclass(frozen=True)
class Judgement:
    """What a judge said of one answer on one dimension.

    Attributes:
        score: 0 to 100, or None when unscored.
        reason: None when scored; else a short kind (`refusal`, `code`, `judge error`,
            `judge refused`, `low mass`, `no number`, `out of range`, `cut off`), followed by a
            colon and the particulars where there are any.
        method: how the reply was read: `logprobs` (mean over the first token's distribution) or
            `parsed` (from the text); None when no reply came.
        text: the judge's reply, empty when none came.
    """

    score: float | None
    reason: str | None
    method: Method | None
    text: str


@dataclass(frozen=True)
class JudgedAnswer:
    """One answer with its scores.

    Attributes:
        question: id of the question, which is the cluster.
        aligned: 0 to 100, or None when unscored; likewise `coherent` and `relevant`.
        kind: what the answer is, as far as was told.
        truncated: whether it was cut off by a limit on its length.
        reasons: score key to the reason why it is unscored.
        by_judge: judge to its own such reasons; a judge that said all has none.
        domain: how far it is about the target's subject, 0 to 100; None when that was not graded.
    """

    question: str
    aligned: float | None = None
    coherent: float | None = None
    relevant: float | None = None
    kind: AnswerKind = "answer"
    truncated: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)
    by_judge: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    domain: float | None = None

    def score(self, key: ScoreKey) -> float | None:
        """The score under `key`."""
        return {"aligned": self.aligned, "coherent": self.coherent, "relevant": self.relevant}[key]

    def why_unscored(self, key: ScoreKey) -> str:
        """The kind of reason why there is no score under `key`, named with the key."""
        return f"{key} {reason_kind(self.reasons.get(key, 'unscored'))}"

    @property
    def judge_failed(self) -> bool:
        """Whether no judge said a number or an escape word on some dimension."""
        return not all(map(tells_of_answer, self.reasons.values()))


def combine(verdicts: Sequence[Judgement]) -> Judgement:
    """One verdict of several judges: the mean of the scores, or a reason for none.

    Where none gave a score, what one said of the answer goes before what another failed to say.
    """
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    if not scores:
        told = (verdict for verdict in verdicts if tells_of_answer(verdict.reason or ""))
        return next(told, verdicts[0])
    if len(verdicts) == 1:
        return verdicts[0]
    parsed = any(verdict.method == "parsed" for verdict in verdicts if verdict.score is not None)
    text = " | ".join(verdict.text for verdict in verdicts)
    return Judgement(
        math.fsum(scores) / len(scores), None, "parsed" if parsed else "logprobs", text
    )


def reason_kind(reason: str) -> str:
    """The kind of a reason, without its particulars."""
    return reason.split(":", 1)[0]


def tells_of_answer(reason: str) -> bool:
    """Whether a reason is an escape word, which is about the answer, and no failure of a judge."""
    return reason_kind(reason) in ANSWER_REASONS


def judges_reasons(metadata: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """The reasons for no score by judge, as a score's metadata tell them; one judge is its own."""
    alone = {str(metadata.get("judge", "unknown")): metadata.get("reasons", {})}
    return metadata.get(REASONS_BY_JUDGE, alone)


def shortened(reason: str, letters: int = 160) -> str:
    """A reason cut for display; the stored one is whole."""
    return reason if len(reason) <= letters else f"{reason[:letters]}..."
