"""Failures of judges: on how many answers each judge failed, and why.

A judge fails on an answer when it gives neither a number nor an escape word in some dimension. With
several judges the others' scores stand, so that nothing else shows that one of them failed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from inspect_ai.scorer import Metric, SampleScore, Value, metric

from steering.judging.judgement import METHODS, JudgedAnswer, is_about_answer, reason_kind
from steering.judging.metrics import judged_answer


@dataclass(frozen=True)
class Cause:
    """One kind of failure: the number of replies that failed so, and the most frequent reason."""

    kind: str
    replies: int
    reason: str


@dataclass(frozen=True)
class Failures:
    """The failures of one judge.

    Attributes:
        judge: name of its model.
        failed: number of answers on which it failed in any dimension.
        asked: number of answers that it judged.
        causes: the kinds of failure, the most frequent first.
    """

    judge: str
    failed: int
    asked: int
    causes: tuple[Cause, ...]


def judge_failures(answers: Sequence[JudgedAnswer]) -> list[Failures]:
    """The failures of each judge of the answers, in the order in which the judges were bound."""
    answered: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    reasons: dict[str, list[str]] = {}
    for answer in answers:
        for judge, by_key in answer.by_judge.items():
            failures = [reason for reason in by_key.values() if not is_about_answer(reason)]
            answered[judge] += 1
            failed[judge] += bool(failures)
            reasons.setdefault(judge, []).extend(failures)
    return [
        Failures(judge, failed[judge], answered[judge], _causes(reasons[judge]))
        for judge in answered
    ]


def _causes(reasons: Sequence[str]) -> tuple[Cause, ...]:
    kinds = Counter(map(reason_kind, reasons))
    ordered = [reason for reason, _ in Counter(reasons).most_common()]
    return tuple(
        Cause(kind, count, next(reason for reason in ordered if reason_kind(reason) == kind))
        for kind, count in kinds.most_common()
    )


@metric(scores="unreduced")
def unscored_by_judge() -> Metric:
    """For several judges, the number of answers that each failed on: `unscored[<judge>]`."""

    def compute(scores: list[SampleScore]) -> Value:
        judges = judge_failures([judged_answer(s.score, str(s.sample_id)) for s in scores])
        if len(judges) < 2:
            return {}
        return {f"unscored[{failures.judge}]": float(failures.failed) for failures in judges}

    return compute


@metric(scores="unreduced")
def reply_forms() -> Metric:
    """How the replies of the judges were read: `replies[<form>]`, shares that add up to 1.

    The forms are those of `METHODS`, `word` for an escape word, and `unread` for a failure; those
    that no reply has are left out. A reply is the judgement of one dimension, by all judges.
    """

    def compute(scores: list[SampleScore]) -> Value:
        forms: Counter[str] = Counter()
        for score in scores:
            metadata = score.score.metadata or {}
            reasons = metadata.get("reasons", {})
            for key, method in metadata.get("methods", {}).items():
                unscored = "word" if is_about_answer(reasons.get(key, "")) else "unread"
                forms[unscored if key in reasons else method] += 1
        names = [form for form in (*METHODS, "word", "unread") if forms[form]]
        return {f"replies[{form}]": forms[form] / forms.total() for form in names}

    return compute
