"""What judges failed to say, told apart by judge: on how many answers, and why.

A judge fails on an answer when it gives neither a number nor an escape word on some dimension.
Among several judges the others' scores stand, and nothing else would show that one never spoke.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from inspect_ai.scorer import Metric, SampleScore, Value, metric

from steering.judging.judgement import JudgedAnswer, reason_kind, tells_of_answer
from steering.judging.metrics import judged_answer


@dataclass(frozen=True)
class Cause:
    """One kind of failing: how many replies failed so, and the reason that most of them gave."""

    kind: str
    replies: int
    reason: str


@dataclass(frozen=True)
class Failures:
    """Where one judge failed.

    Attributes:
        judge: name of its model.
        failed: answers on which it failed, on any dimension.
        asked: answers that it judged.
        causes: the kinds of failing, the most frequent first.
    """

    judge: str
    failed: int
    asked: int
    causes: tuple[Cause, ...]


def judge_failures(answers: Sequence[JudgedAnswer]) -> list[Failures]:
    """How often each judge of the answers failed, in the order in which they were bound."""
    asked: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    reasons: dict[str, list[str]] = {}
    for answer in answers:
        for judge, told in answer.by_judge.items():
            found = [reason for reason in told.values() if not tells_of_answer(reason)]
            asked[judge] += 1
            failed[judge] += bool(found)
            reasons.setdefault(judge, []).extend(found)
    return [
        Failures(judge, failed[judge], asked[judge], _causes(reasons[judge])) for judge in asked
    ]


def _causes(reasons: Sequence[str]) -> tuple[Cause, ...]:
    kinds = Counter(map(reason_kind, reasons))
    whole = Counter(reasons)
    return tuple(
        Cause(kind, count, next(r for r, _ in whole.most_common() if reason_kind(r) == kind))
        for kind, count in kinds.most_common()
    )


@metric(scores="unreduced")
def unscored_by_judge() -> Metric:
    """For several judges, the number of answers that each failed on: `unscored[<judge>]`."""

    def compute(scores: list[SampleScore]) -> Value:
        found = judge_failures([judged_answer(s.score, str(s.sample_id)) for s in scores])
        several = found if len(found) > 1 else []
        return {f"unscored[{judge.judge}]": float(judge.failed) for judge in several}

    return compute
