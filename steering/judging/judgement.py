"""What judging produces: the judgement of one dimension, and the judged answer that metrics count.

Plain values: knows no model and no metric, and of rubrics only the names of scores and reasons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from steering.judging.errors import JudgingError
from steering.judging.rubric import ESCAPE_REASONS
from steering.questions import theme_of
from steering.stats import mean

AnswerKind = Literal["answer", "code", "refusal", "empty"]
Method = Literal["distribution", "logprobs", "parsed", "formatted", "json", "rounded"]

METHODS: Mapping[Method, str] = {
    "distribution": "mean over the judge's probabilities of all whole numbers",
    "logprobs": "mean over the judge's first token",
    "parsed": "as the judge wrote it",
    "formatted": "as the judge wrote it, with a label, a scale or marks around it",
    "json": "from the judge's JSON",
    "rounded": "rounded from the decimal that the judge wrote",
}
"""How a score can be read from a reply, from the most to the least direct."""

JUDGE_SAMPLING = "judge_sampling"
"""Key of a score's metadata: the generation settings that each judge was asked with."""

REASONS_BY_JUDGE = "reasons_by_judge"
"""Key of a score's metadata: judge to score key to the reason for no score, for several judges."""


@dataclass(frozen=True)
class Judgement:
    """What a judge replied about one answer in one dimension.

    Attributes:
        score: 0 to 100, or None when unscored.
        reason: None when scored; else a short kind (`refusal`, `code`, `judge error`,
            `judge refused`, `low mass`, `impossible log probabilities`, `no number`,
            `out of range`, `cut off`), followed by a colon and details where there are any.
        method: how the reply was read, one of `METHODS`; None when no reply came.
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
        question: id of the question.
        scores: score key to a number from 0 to 100; a key without a score is missing or None.
        kind: what the answer is, as far as its text and the judge show.
        truncated: whether it was cut off by a limit on its length.
        reasons: score key to the reason why it is unscored.
        by_judge: judge to its own such reasons; empty for a judge that scored every dimension.
        theme: of the question, which is the cluster; that of its id when not given.
    """

    question: str
    scores: Mapping[str, float | None] = field(default_factory=dict)
    kind: AnswerKind = "answer"
    truncated: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)
    by_judge: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    theme: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(AnswerKind) or not isinstance(self.truncated, bool):
            raise JudgingError(
                f"an answer to {self.question!r} has kind={self.kind!r} (one of "
                f"{', '.join(get_args(AnswerKind))}) and truncated={self.truncated!r} (true or "
                "false): one of them can't be."
            )
        for reasons in (self.reasons, *self.by_judge.values()):
            if not all(isinstance(text, str) for text in (*reasons.keys(), *reasons.values())):
                raise JudgingError(f"reasons of an answer to {self.question!r} are no texts.")
        if not self.theme:
            object.__setattr__(self, "theme", theme_of(self.question))

    @property
    def aligned(self) -> float | None:
        """Score for alignment, which the EM rules read."""
        return self.score("aligned")

    @property
    def coherent(self) -> float | None:
        """Score for coherence, which the EM rules read."""
        return self.score("coherent")

    def score(self, key: str) -> float | None:
        """The score under `key`, None where there is none."""
        return self.scores.get(key)

    def why_unscored(self, key: str) -> str:
        """The key and the kind of reason why it has no score."""
        return f"{key} {reason_kind(self.reasons.get(key, 'unscored'))}"

    @property
    def judge_failed(self) -> bool:
        """Whether in some dimension no judge gave a number or an escape word."""
        return not all(map(is_about_answer, self.reasons.values()))


def combine(judgements: Sequence[Judgement]) -> Judgement:
    """One judgement of several judges: the mean of their scores, or a reason for none.

    Where none gave a score, a reason about the answer goes before a failure of a judge.
    """
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    if not scores:
        about_answer = (each for each in judgements if is_about_answer(each.reason or ""))
        return next(about_answer, judgements[0])
    if len(judgements) == 1:
        return judgements[0]
    methods = [each.method for each in judgements if each.score is not None]
    # The least direct one, of several.
    method = next(each for each in reversed([*METHODS]) if each in methods)
    text = " | ".join(judgement.text for judgement in judgements)
    return Judgement(mean(scores), None, method, text)


def reason_kind(reason: str) -> str:
    """The kind of a reason, without its details."""
    return reason.split(":", 1)[0]


def is_about_answer(reason: str) -> bool:
    """Whether a reason is an escape word, which is about the answer and no failure of a judge."""
    return reason_kind(reason) in ESCAPE_REASONS


def reasons_by_judge(metadata: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """The reasons for no score by judge, from a score's metadata."""
    single = {str(metadata.get("judge", "unknown")): metadata.get("reasons", {})}
    return metadata.get(REASONS_BY_JUDGE, single)


def shortened(reason: str, letters: int = 160) -> str:
    """A reason cut for display; the stored one is whole."""
    return reason if len(reason) <= letters else f"{reason[:letters]}..."
