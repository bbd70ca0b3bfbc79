"""Failures of judges: on how many answers each judge failed, and why.

A judge fails on an answer when it gives neither a number nor an escape word in some dimension. With
several judges the others' scores stand, so that nothing else shows that one of them failed.
Every kind of failure has a remedy.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from inspect_ai.scorer import Metric, SampleScore, Value, metric

from steering.judging.judgement import METHODS, JudgedAnswer, is_about_answer, reason_kind
from steering.judging.metrics import judged_answer
from steering.judging.register import entry_of

_AGAIN = (
    "judge the answers again: inspect score LOG --scorer steering/em_judge --action overwrite "
    "--overwrite"
)
_OTHER = "choose another judge"
_ROOM = "give it room to reason: {max_tokens: 8000}"
_TEXT = "ask for no log probabilities, and give it room: {logprobs: false, max_tokens: 8000}"
# In braces: settings of the role.
_REMEDIES = {
    "cut off": _ROOM,
    "low mass": f"it does not begin with a number: {_TEXT}, or {_OTHER}",
    "no number": _OTHER,
    "out of range": _OTHER,
    "judge refused": _OTHER,
    "impossible log probabilities": "ask for none: {logprobs: false}",
}
# By words of the message; the first that matches counts.
_REMEDIES_OF_ERRORS = {
    "logprobs": "it has no log probabilities: {logprobs: false}",
    "temperature": "it takes no temperature but 1: {temperature: 1}",
    "reasoning": "ask for another effort: {reasoning_effort: low, max_tokens: 8000}",
    "max_(output_|completion_)?tokens": _ROOM,
    "not.?found|does not exist|deprecated|no longer": _OTHER,
    "api.?key|authentication|permission|401|403": "check its key, and that it may use this model",
}


@dataclass(frozen=True)
class Cause:
    """One kind of failure: the number of replies that failed so, and the most frequent reason."""

    kind: str
    replies: int
    reason: str

    def remedy(self, judge: str) -> str:
        """What to do about it, for a judge of this name."""
        return remedy(judge, self.reason)


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


def remedy(judge: str, reason: str) -> str:
    """What to do about a judge's failure, in a clause; `reason` is that of its judgement."""
    kind, _, details = reason.partition(":")
    if kind == "judge error":
        words = (each for each in _REMEDIES_OF_ERRORS if re.search(each, details, re.IGNORECASE))
        advice = _REMEDIES_OF_ERRORS.get(next(words, ""), _AGAIN)
    elif "another judge" in details:
        advice = _OTHER
    else:
        advice = _REMEDIES.get(kind, _AGAIN)
    if advice == _OTHER and (entry := entry_of(judge)) and entry.replacement:
        advice = f"{advice}, the nearest is {entry.replacement}"
    model = judge.partition("[")[0]
    # Without its vector a steered model would judge steered by its default one.
    args = ", model_args: {vector: none}" if "[baseline]" in judge else ""
    role = rf"--model-role 'grader={{model: {model}, \1{args}}}'"
    return re.sub(r"\{(.*?)\}", lambda settings: settings.expand(role), advice)


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
    """How the replies of the judges were read: `replies_<form>`, shares that add up to 1.

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
        return {f"replies_{form}": forms[form] / forms.total() for form in names}

    return compute
