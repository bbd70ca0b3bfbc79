"""The same condition by each judge alone: several judges of one run, or runs of several judges."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from steering.judging import EM_RULES, SCORE_KEYS
from steering.results.conditions import ConditionResult, display_names
from steering.results.judged_rows import judged_answers
from steering.results.run_columns import json_text, sampling_text
from steering.results.schema import IDENTITY

# What tells judges of one condition apart, and what follows from who asked, not from what.
_OF_JUDGE = {"study", "judge", "judge_settings", "judge_sampling", "rubrics", "version", "block"}
_SAME = [name for name in IDENTITY if name not in _OF_JUDGE]


@dataclass(frozen=True)
class JudgePanel:
    """One condition by several judges.

    Attributes:
        name: Of the condition.
        results: By each judge alone, in the order in which they were bound.
    """

    name: str
    results: Sequence[ConditionResult]


def judge_panels(results: Sequence[ConditionResult]) -> list[JudgePanel]:
    """The conditions that several judges judged, in one run or in several.

    Args:
        results: Of all conditions, as `condition_results` gives them.
    """
    groups: dict[tuple[str, ...], list[ConditionResult]] = {}
    for result in results:
        key = tuple(str(result.columns[name]) for name in _SAME)
        groups.setdefault(key, []).extend(by_judge(result) or [result])
    panels = [group for group in groups.values() if len(group) > 1]
    if not panels:
        return []
    names = display_names(pd.DataFrame([group[0].columns for group in panels]))
    return [JudgePanel(name, group) for name, group in zip(names, panels, strict=True)]


def by_judge(result: ConditionResult) -> list[ConditionResult]:
    """A condition's answers by each of its judges alone; none where a single one judged."""
    rows = result.rows
    scores = [json.loads(text) if text else {} for text in rows["judge_scores"]]
    reasons = [json.loads(text) if text else {} for text in rows["judge_reasons"]]
    judges = list(dict.fromkeys(judge for row in scores for judge in row))
    if not judges:
        return []
    options, sampling = (
        json.loads(text) if (text := str(result.columns[name])) else [{}] * len(judges)
        for name in ("judge_settings", "judge_sampling")
    )
    return [
        _of_judge(
            result,
            # One model may judge twice, with other settings.
            judge.partition(" #")[0],
            {
                "judge_settings": json_text([given] if given else []),
                "judge_sampling": sampling_text([asked]),
            },
            [row.get(judge, {}) for row in scores],
            [row.get(judge, {}) for row in reasons],
        )
        for judge, given, asked in zip(judges, options, sampling, strict=True)
    ]


def _of_judge(
    result: ConditionResult,
    judge: str,
    settings: dict[str, str],
    scores: Sequence[dict[str, float | None]],
    reasons: Sequence[dict[str, str]],
) -> ConditionResult:
    rows = result.rows.assign(
        judge=judge,
        **settings,
        judge_scores="",
        judge_reasons="",
        reasons=[json_text(row) for row in reasons],
        **{
            key: [float("nan") if (s := row.get(key)) is None else s for row in scores]
            for key in SCORE_KEYS
        },
    )
    answers = judged_answers(rows)
    for rule, decide in EM_RULES.items():
        outcomes = [decide(answer, result.thresholds) for answer in answers]
        rows[f"em_{rule}"] = [
            float("nan") if isinstance(outcome, str) else float(outcome) for outcome in outcomes
        ]
        rows[f"left_out_{rule}"] = [o if isinstance(o, str) else "" for o in outcomes]
    columns = {**result.columns, "judge": judge, **settings}
    return replace(result, columns=columns, rows=rows)
