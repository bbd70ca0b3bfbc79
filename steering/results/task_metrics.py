"""Metrics of tasks that are not of this suite, by condition: figures, intervals, differences.

A metric stays as Inspect counted it. Where it is the mean over samples, which is checked and not
assumed, it has an interval and a paired difference besides.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from steering.results.conditions import baseline_rows, each_condition
from steering.results.frame_check import check_frame
from steering.results.metric_columns import METRIC_SCHEMA, NO_BASELINE, SCORE_SCHEMA
from steering.results.schema import SIGNED, empty_frame
from steering.results.settings import settings_of
from steering.stats import (
    Interval,
    cluster_interval,
    mean,
    mean_interval,
    means_by_theme,
    paired_difference,
)

# Of a metric and a mean that are one number, counted in another order.
_TOLERANCE = 1e-9

_NO_MEAN = "the metric is no mean over samples, so it has no interval"


@dataclass(frozen=True)
class SampleScores:
    """The samples' scores of a metric that is their mean: mean over repetitions, by sample.

    Attributes:
        values: Of each sample that has a score.
        themes: Their clusters.
        n: Scores, each repetition counted.
        is_share: Whether every score is 0, 1 or one half.
    """

    values: Sequence[float]
    themes: Sequence[str]
    n: int
    is_share: bool

    def by_theme(self) -> dict[str, float]:
        """Mean of each cluster, for pairing."""
        return means_by_theme(self.values, self.themes)

    def interval(self) -> Interval:
        """Of the mean, 95%, clustered by theme."""
        interval = cluster_interval if self.is_share else mean_interval
        return interval(self.values, self.themes)


@dataclass(frozen=True)
class TaskResult:
    """The samples of one condition in a task that is not of this suite, and its metrics.

    Attributes:
        columns: Value of each condition column.
        rows: Rows of the frame of scores.
        name: What the condition is called on screen; unique among those read together.
    """

    columns: Mapping[str, Any]
    rows: pd.DataFrame
    name: str

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.columns["task"])

    @cached_property
    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """What Inspect counted, by name: `key` of the scores, `value`, `stderr` and `n`."""
        return {each["name"]: each for each in json.loads(self.rows["metrics"].iloc[0])}

    @cached_property
    def scores(self) -> dict[str, SampleScores]:
        """The scores of each metric that is a mean over samples, by its name."""
        by_sample: dict[str, dict[str, list[float]]] = {}
        themes: dict[str, str] = {}
        for sample, theme, text in self.rows[["sample", "theme", "scores"]].itertuples(index=False):
            themes[sample] = theme
            for key, value in json.loads(text).items():
                if value is not None:
                    by_sample.setdefault(key, {}).setdefault(sample, []).append(value)
        scores: dict[str, SampleScores] = {}
        for name, metric in self.metrics.items():
            of_key = by_sample.get(metric["key"], {})
            values = [mean(repetitions) for repetitions in of_key.values()]
            value = _number(metric["value"])
            if math.isclose(mean(values), value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
                each = [score for repetitions in of_key.values() for score in repetitions]
                is_share = set(each) <= {0.0, 0.5, 1.0}
                of_samples = [themes[sample] for sample in of_key]
                scores[name] = SampleScores(values, of_samples, len(each), is_share)
        return scores

    def value(self, name: str) -> float:
        """A metric; NaN where there is none."""
        return _number(self.metrics[name]["value"]) if name in self.metrics else math.nan

    def interval(self, name: str) -> Interval:
        """Of a metric, 95%; NaN with the reason where it has none."""
        if name not in self.metrics:
            return Interval(math.nan, math.nan, "the runs of this condition have no such metric")
        if name not in self.scores:
            return Interval(math.nan, math.nan, _NO_MEAN)
        interval = self.scores[name].interval()
        notes = [interval.note] if interval.note else []
        if num_unscored := len(self.rows) - self.scores[name].n:
            notes.append(f"{num_unscored} of {len(self.rows)} answers have no score")
        return Interval(float(interval.low), float(interval.high), "; ".join(notes) or None)

    def signature(self) -> str:
        """How the metrics were made, in a line."""
        columns = self.columns
        condition = f"steered/{columns['model']}[{columns['condition']}]"
        parts = {
            "task": self.task,
            "judge": columns["judge"] or "none",
            "questions": columns["questions"],
            "condition": condition if columns["label"] else columns["model"],
            "version": columns["version"],
            **settings_of(columns, SIGNED),
        }
        return "|".join(f"{name}:{text}" for name, text in parts.items())


def task_results(scores: pd.DataFrame) -> list[TaskResult]:
    """The conditions of a frame: by task, the baseline first, then series by series.

    Args:
        scores: As `read_scores` gives them.

    Raises:
        FrameError: It is no such frame.
    """
    check_frame(scores, SCORE_SCHEMA)
    return [TaskResult(*each) for each in each_condition(scores)] if len(scores) else []


def metrics_of(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a metric of each condition, with its difference to the baseline.

    Args:
        scores: As `read_scores` gives them.

    Returns:
        The columns of `METRIC_SCHEMA`: by task, the baseline first, then series by series.

    Raises:
        FrameError: It is no such frame.
    """
    records = _records(task_results(scores))
    frame = empty_frame(METRIC_SCHEMA)
    if records:
        frame = pd.DataFrame(records)[list(METRIC_SCHEMA.columns)]
    frame.attrs = dict(scores.attrs)
    return check_frame(frame, METRIC_SCHEMA)


def _records(results: Sequence[TaskResult]) -> list[dict[str, Any]]:
    """The rows of the frame of metrics."""
    table = pd.DataFrame([result.columns for result in results])
    records = []
    for result in results:
        baselines = baseline_rows(table, result.columns)
        is_baseline = result.columns["arm"] == "baseline"
        base = results[baselines.index[0]] if len(baselines) == 1 and not is_baseline else None
        for name in result.metrics:
            reference = base if base is not None and name in base.metrics else None
            figures = _figures(result, name, reference)
            if not is_baseline and reference is None:
                figures["note"] = "; ".join(filter(None, [figures["note"], NO_BASELINE]))
            records.append({**result.columns, "metric": name, **figures})
    return records


def _figures(result: TaskResult, name: str, reference: TaskResult | None) -> dict[str, Any]:
    """The figures of a metric, with its difference to a reference that has it, too."""
    interval, scores = result.interval(name), result.scores.get(name)
    figures = dict.fromkeys((f"difference{end}" for end in ("", "_low", "_high", "_p")), math.nan)
    figures |= {
        "value": result.value(name),
        "value_low": interval.low,
        "value_high": interval.high,
        "stderr": math.nan if scores is None else _number(result.metrics[name]["stderr"]),
        "n": result.metrics[name]["n"] if scores is None else scores.n,
        "num_clusters": 0 if scores is None else len(set(scores.themes)),
    }
    notes = [interval.note] if interval.note else []
    if reference is not None:
        figures["difference"] = result.value(name) - reference.value(name)
        of_reference = reference.scores.get(name)
        if scores is not None and of_reference is not None:
            paired = paired_difference(scores.by_theme(), of_reference.by_theme(), largest=math.inf)
            figures |= {
                "difference": paired.value,
                "difference_low": paired.low,
                "difference_high": paired.high,
                "difference_p": paired.p_value,
            }
            notes += [paired.note] if paired.note else []
    return figures | {"note": "; ".join(notes)}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
