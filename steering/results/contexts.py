"""The figures of contexts: each condition in each context, beside its own plain figures.

A question in its contexts is one theme, so a difference pairs each theme with itself. The figures
of a context are counted as those of a condition are, from its rows alone.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from steering.judging import EM_RULES, EMRule
from steering.judging.choice_figures import SHARES
from steering.questions.contexts import CONTEXT, PLAIN
from steering.results.choices import ChoiceResult, choice_results
from steering.results.conditions import ConditionResult, baselines_of, condition_results
from steering.results.context_columns import CHOICE_CONTEXT_SCHEMA, CONTEXT_SCHEMA
from steering.results.frame_check import check_frame
from steering.results.schema import KEYS, check_answers, check_choices, empty_frame
from steering.stats import Difference, paired_difference

_Result = TypeVar("_Result", ConditionResult, ChoiceResult)
_PART = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True)
class ContextResult:
    """The answers of a condition in one context.

    Attributes:
        context: Its name.
        result: Of the answers in it.
        plain: Of the condition's plain answers.
        baseline: Of the baseline in the same context, where it was asked in it alike.
    """

    context: str
    result: ConditionResult
    plain: ConditionResult
    baseline: ConditionResult | None = None

    def to_plain(self, rule: EMRule) -> Difference:
        """EM rate by a rule less that of the plain questions, paired by theme."""
        return paired_difference(self.result.by_theme(rule), self.plain.by_theme(rule))

    def to_baseline(self, rule: EMRule) -> Difference | None:
        """EM rate by a rule less that of the baseline in this context; None without one."""
        if self.baseline is None:
            return None
        return paired_difference(self.result.by_theme(rule), self.baseline.by_theme(rule))

    def row(self) -> dict[str, Any]:
        """The row of the frame of contexts."""
        values = {**self.result.columns, **self.result.figures()}
        for rule in EM_RULES:
            values |= _difference(f"em_{rule}_to_plain", self.to_plain(rule))
            values |= _difference(f"em_{rule}_to_baseline", self.to_baseline(rule))
        return {name: values[name] for name in CONTEXT_SCHEMA.columns}


@dataclass(frozen=True)
class ChoiceContextResult:
    """The pairs of a condition in one context.

    Attributes:
        context: Its name.
        result: Of the pairs in it.
        plain: Of the condition's plain pairs.
    """

    context: str
    result: ChoiceResult
    plain: ChoiceResult

    def to_plain(self, name: str) -> Difference:
        """The mean of a value of pairs less that of the plain ones, paired by theme."""
        values = self.result.by_theme(name), self.plain.by_theme(name)
        return paired_difference(*values, largest=1 if name in SHARES else math.inf)

    def row(self) -> dict[str, Any]:
        """The row of the frame of contexts of em_choice."""
        values = {**self.result.columns, **self.result.figures()}
        for name in ("prefers_misaligned", "log_odds", "shift"):
            values |= _difference(f"{name}_to_plain", self.to_plain(name))
        return {name: values[name] for name in CHOICE_CONTEXT_SCHEMA.columns}


def context_results(answers: pd.DataFrame) -> list[ContextResult]:
    """The contexts of each condition, in the order of `condition_results`, then by name.

    Args:
        answers: As `read_answers` gives them.

    Raises:
        FrameError: It is no such frame.
    """
    if not _has_contexts(check_answers(answers)):
        return []
    plain = condition_results(answers)
    baselines = baselines_of(plain)
    results = [
        ContextResult(context, _in_context(result, context, rows), result)
        for result in plain
        for context, rows in _contexts_of(answers, result)
    ]
    by_place = {_place(each.plain.name, each): each.result for each in results}
    return [
        replace(each, baseline=by_place.get(_place(baseline.name, each)))
        if (baseline := baselines.get(each.plain.name))
        else each
        for each in results
    ]


def choice_context_results(choices: pd.DataFrame) -> list[ChoiceContextResult]:
    """As `context_results`, of em_choice.

    Args:
        choices: As `read_choices` gives them.

    Raises:
        FrameError: It is no such frame.
    """
    if not _has_contexts(check_choices(choices)):
        return []
    return [
        ChoiceContextResult(context, _in_context(result, context, rows), result)
        for result in choice_results(choices)
        for context, rows in _contexts_of(choices, result)
    ]


def contexts_of(answers: pd.DataFrame) -> pd.DataFrame:
    """A row a condition and context, with the columns of `CONTEXT_SCHEMA`.

    Args:
        answers: As `read_answers` gives them.

    Raises:
        FrameError: It is no such frame.
    """
    return _frame([each.row() for each in context_results(answers)], CONTEXT_SCHEMA)


def choice_contexts_of(choices: pd.DataFrame) -> pd.DataFrame:
    """A row a condition of em_choice and context, with the columns of `CHOICE_CONTEXT_SCHEMA`.

    Args:
        choices: As `read_choices` gives them.

    Raises:
        FrameError: It is no such frame.
    """
    return _frame([each.row() for each in choice_context_results(choices)], CHOICE_CONTEXT_SCHEMA)


def _has_contexts(frame: pd.DataFrame) -> bool:
    return bool((frame[CONTEXT] != PLAIN).any())


def _contexts_of(
    frame: pd.DataFrame, result: ConditionResult | ChoiceResult
) -> list[tuple[str, pd.DataFrame]]:
    """The rows of a condition in each context."""
    others = frame[frame[CONTEXT] != PLAIN]
    for name in KEYS:
        others = others[others[name] == result.columns[name]]
    return [(str(context), rows) for context, rows in others.groupby(CONTEXT, sort=True)]


def _in_context(result: _Result, context: str, rows: pd.DataFrame) -> _Result:
    columns = {**result.columns, CONTEXT: context}
    return replace(result, columns=columns, rows=rows, name=f"{result.name} in {context}")


def _place(condition: str, each: ContextResult) -> tuple[str, str, str]:
    """A condition's name and a context, which its set tells apart from others of its name."""
    # Whatever part of the set was asked.
    return condition, each.context, _PART.sub("", str(each.result.columns["contexts"]))


def _difference(name: str, difference: Difference | None) -> dict[str, float]:
    ends = {"": "value", "_low": "low", "_high": "high", "_p": "p_value"}
    none = float("nan")
    return {f"{name}{end}": getattr(difference, key, none) for end, key in ends.items()}


def _frame(rows: Sequence[dict[str, Any]], schema: Any) -> pd.DataFrame:
    if not rows:
        return empty_frame(schema)
    return check_frame(pd.DataFrame(rows)[list(schema.columns)], schema)
