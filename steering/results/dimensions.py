"""Judged dimensions of the user's own: their scores in the frame of answers, and their figures.

The frame of answers has them as JSON by name and digest of the rubric, so that two rubrics of one
name are two dimensions. The figures of a condition are rows of the frame of metrics.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from steering.logs import DIMENSIONS, LogFile, log_files, number_or_nan
from steering.results.conditions import ConditionResult, baselines_of, condition_results
from steering.results.frame_check import check_frame
from steering.results.metric_columns import METRIC_SCHEMA, NO_BASELINE
from steering.results.runs import Logs
from steering.results.schema import empty_frame
from steering.stats import (
    Difference,
    Interval,
    cluster_standard_error,
    mean,
    mean_interval,
    means_by_theme,
    paired_difference,
)

if TYPE_CHECKING:
    from inspect_ai.scorer import Score

_SCORED = "_scored"


@dataclass(frozen=True)
class DimensionScores:
    """The scores of a condition's plain answers in one dimension.

    Attributes:
        scores: 0 to 100, of the answers that have one.
        themes: Of these answers.
        num_unscored: Answers without one, though they were asked for it.
    """

    scores: Sequence[float]
    themes: Sequence[str]
    num_unscored: int

    @property
    def value(self) -> float:
        """Their mean; NaN without any."""
        return mean(self.scores)

    def interval(self) -> Interval:
        """Of the mean, 95%, clustered by theme; its note counts the answers without a score."""
        interval = mean_interval(self.scores, self.themes)
        # Student's t ignores the ends of the scale.
        low, high = max(interval.low, 0.0), min(interval.high, 100.0)
        total = self.num_unscored + len(self.scores)
        notes = [interval.note] if interval.note else []
        if self.num_unscored:
            notes.append(f"{self.num_unscored} of {total} answers have no score")
        return Interval(low, high, "; ".join(notes) or None)

    def by_theme(self) -> dict[str, float]:
        """Mean of each theme, for pairing."""
        return means_by_theme(self.scores, self.themes)

    def less(self, reference: "DimensionScores") -> Difference:
        """The difference to another condition, paired by theme."""
        return paired_difference(self.by_theme(), reference.by_theme(), largest=100)


def dimension_scores(result: ConditionResult) -> dict[str, DimensionScores]:
    """The dimensions of a condition, by name and digest of their rubric."""
    scores: dict[str, tuple[list[float], list[str], list[int]]] = {}
    rows = result.rows[result.rows["dimension_scores"] != ""]
    for text, theme in rows[["dimension_scores", "theme"]].itertuples(index=False):
        for key, score in json.loads(text).items():
            numbers, themes, unscored = scores.setdefault(key, ([], [], []))
            if score is None:
                unscored.append(1)
            else:
                numbers.append(float(score))
                themes.append(theme)
    return {
        key: DimensionScores(numbers, themes, len(unscored))
        for key, (numbers, themes, unscored) in scores.items()
    }


def scores_in(result: ConditionResult, name: str) -> DimensionScores:
    """The scores of a condition in the dimension of a name; none where it was not asked."""
    of_name = [each for key, each in dimension_scores(result).items() if short_name(key) == name]
    return of_name[0] if of_name else DimensionScores((), (), 0)


def short_name(key: str) -> str:
    """The name of a dimension without the digest of its rubric."""
    return key.partition("@")[0]


def dimension_text(score: "Score | None") -> str:
    """What the frame of answers has of a score of `judged_dimensions`; "" for none.

    A dimension that was not asked, since it is of misaligned answers only, is left out.
    """
    if score is None or not isinstance(score.value, dict):
        return ""
    metadata = score.metadata or {}
    digests: Mapping[str, Any] = metadata.get("prompts") or {}
    reasons: Mapping[str, Any] = metadata.get("reasons") or {}
    numbers = {key: number_or_nan(value) for key, value in score.value.items()}
    by_key = {
        f"{key}@{digests.get(key, 'unknown')}": None if math.isnan(number) else number
        for key, number in numbers.items()
        if not math.isnan(number) or key in reasons
    }
    return json.dumps(by_key, sort_keys=True) if by_key else ""


def dimensions_in(logs: Logs) -> list[str]:
    """The names of the judged dimensions of the user's own in some logs.

    Raises:
        LogError: A log can't be read.
    """
    return sorted({name for file in log_files(logs) for name in _names(file)})


def _names(file: LogFile) -> list[str]:
    scores = file.header.results.scores if file.header.results else []
    of_dimensions = [each for each in scores if each.scorer == DIMENSIONS]
    return [
        name.removesuffix(_SCORED)
        for each in of_dimensions
        for name in each.metrics
        if name.endswith(_SCORED)
    ]


def dimension_metrics(answers: pd.DataFrame) -> pd.DataFrame:
    """A row a dimension of each condition, with its difference to the baseline.

    Args:
        answers: As `read_answers` gives them; none is no error.

    Returns:
        The columns of `METRIC_SCHEMA`.
    """
    has_any = len(answers) and (answers["dimension_scores"] != "").any()
    results = condition_results(answers) if has_any else []
    baselines = baselines_of(results) if results else {}
    records = []
    for result in results:
        baseline = baselines.get(result.name)
        references = dimension_scores(baseline) if baseline else {}
        for key, scores in dimension_scores(result).items():
            records.append(
                {**result.columns, "metric": key, **_figures(scores, references.get(key))}
            )
            if references.get(key) is None and not result.is_baseline:
                note = records[-1]["note"]
                records[-1]["note"] = "; ".join(filter(None, [note, NO_BASELINE]))
    if not records:
        return empty_frame(METRIC_SCHEMA)
    return check_frame(pd.DataFrame(records)[list(METRIC_SCHEMA.columns)], METRIC_SCHEMA)


def _figures(scores: DimensionScores, reference: DimensionScores | None) -> dict[str, Any]:
    interval, notes = scores.interval(), []
    notes += [interval.note] if interval.note else []
    difference = scores.less(reference) if reference else None
    if difference is not None and difference.note:
        notes.append(difference.note)
    return {
        "value": scores.value,
        "stderr": float(cluster_standard_error(scores.scores, scores.themes)),
        "value_low": float(interval.low),
        "value_high": float(interval.high),
        "n": len(scores.scores),
        "num_clusters": len(set(scores.themes)),
        "difference": difference.value if difference else math.nan,
        "difference_low": difference.low if difference else math.nan,
        "difference_high": difference.high if difference else math.nan,
        "difference_p": float(difference.p_value) if difference else math.nan,
        "note": "; ".join(notes),
    }
