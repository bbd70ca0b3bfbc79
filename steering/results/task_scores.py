"""Scores of tasks that are not of this suite: one frame of samples, and its metrics by condition.

A task of anybody has scorers and metrics of its own, which Inspect counts: they are kept as they
are. Where a metric is the mean over samples, which is checked and not assumed, it has an interval
and a paired difference besides. Knows no EM rule: nothing here is a rate of misalignment.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from steering.logs import LogFile, is_of_other_task, log_files, task_of
from steering.questions.contexts import CONTEXT, PLAIN
from steering.results.choices import CHOICE_READER
from steering.results.conditions import baseline_rows, each_condition
from steering.results.counted_runs import ResultError, no_runs
from steering.results.frame import ANSWER_READER, left_out
from steering.results.frame_check import check_frame
from steering.results.metric_columns import METRIC_SCHEMA, NO_BASELINE, SCORE_SCHEMA
from steering.results.run_columns import json_text, part_of_set
from steering.results.runs import Logs, RunReader, prompt_text
from steering.results.schema import empty_frame
from steering.stats import cluster_interval, mean, mean_interval, means_by_theme, paired_difference

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalSampleSummary, EvalScore
    from inspect_ai.scorer import Score

    Sample = EvalSample | EvalSampleSummary

# Inspect's names of the standard error of a mean.
_ERRORS = ("stderr", "bootstrap_stderr")
# What Inspect's scorers say in letters and words.
_WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_WORDS |= {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
# Inspect's scorers that ask the model under test where no judge is named.
MODEL_GRADED = ("model_graded_qa", "model_graded_fact")
# Of a metric and a mean that are one number, counted in another order.
_TOLERANCE = 1e-9

_NO_MEAN = "the metric is no mean over samples, so it has no interval"


def read_scores(
    logs: Logs,
    warn: Callable[[str], None] = lambda _: None,
    *,
    complete: bool = False,
) -> pd.DataFrame:
    """Every sample of the runs that count, of tasks that are not of this suite.

    Args:
        logs: A log, a folder, or several.
        warn: Called with a line for each log of such a task that is left out.
        complete: Refuse runs that broke off or have failed samples, instead of leaving them out.

    Returns:
        A row a sample with the columns of `SCORE_SCHEMA`. `left_out` gives the logs of such tasks
        that do not count.

    Raises:
        ResultError: There is no finished run of such a task, or one is incomplete.
        LogError: A log can't be read.
    """
    return SCORE_READER.read(logs, warn, complete=complete)


def read_all_results(
    logs: Logs, *, complete: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Judged answers, choices and scores of other tasks of the runs that count.

    Arguments as of `read_scores`; some of the frames may have no rows, and `left_out` gives the
    logs of each that do not count.

    Raises:
        ResultError: There is no finished run, or one is incomplete.
        LogError: A log can't be read.
    """
    files = log_files(logs)
    answers, choices, scores = (
        reader.read_any(files, complete=complete)
        for reader in (ANSWER_READER, CHOICE_READER, SCORE_READER)
    )
    if answers.empty and choices.empty and scores.empty:
        notes = [note for frame in (answers, choices, scores) for note in left_out(frame)]
        raise ResultError(no_runs(logs, notes))
    return answers, choices, scores


def other_task_notes(logs: Logs) -> list[str]:
    """Which tasks no claim applies to, a line each.

    Raises:
        LogError: A log can't be read.
    """
    headers = (file.header for file in log_files(logs))
    names = sorted({task_of(header) for header in headers if is_of_other_task(header)})
    return [
        f"{name}: no claim applies to it, since its answers were not judged for misalignment"
        for name in names
    ]


def metrics_of(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a metric of each condition, with its difference to the baseline.

    Args:
        scores: As `read_scores` gives them.

    Returns:
        The columns of `METRIC_SCHEMA`: by task, the baseline first, then series by series.

    Raises:
        FrameError: It is no such frame.
    """
    check_frame(scores, SCORE_SCHEMA)
    records = _records(scores) if len(scores) else []
    frame = empty_frame(METRIC_SCHEMA)
    if records:
        frame = pd.DataFrame(records)[list(METRIC_SCHEMA.columns)]
    frame.attrs = dict(scores.attrs)
    return check_frame(frame, METRIC_SCHEMA)


def _records(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of the frame of metrics."""
    conditions = [(columns, rows) for columns, rows, _ in each_condition(scores)]
    table = pd.DataFrame([columns for columns, _ in conditions])
    metrics = [json.loads(rows["metrics"].iloc[0]) for _, rows in conditions]
    means = [_means(rows) for _, rows in conditions]
    records = []
    for position, (columns, _) in enumerate(conditions):
        baselines = baseline_rows(table, columns)
        is_baseline = columns["arm"] == "baseline"
        base = baselines.index[0] if len(baselines) == 1 and not is_baseline else None
        of_base = {} if base is None else {each["name"]: each["value"] for each in metrics[base]}
        for metric in metrics[position]:
            name, reference = metric["name"], None
            if base is not None and name in of_base:
                reference = (of_base[name], means[base].get(name))
            figures = _figures(metric, means[position].get(name), reference)
            if not is_baseline and reference is None:
                figures["note"] = "; ".join(filter(None, [figures["note"], NO_BASELINE]))
            records.append({**columns, "metric": name, **figures})
    return records


@dataclass(frozen=True)
class _Means:
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


def _means(rows: pd.DataFrame) -> dict[str, _Means]:
    """The scores of each metric that is a mean over samples."""
    metrics = json.loads(rows["metrics"].iloc[0])
    means: dict[str, _Means] = {}
    by_sample: dict[str, dict[str, list[float]]] = {}
    themes: dict[str, str] = {}
    for sample, theme, text in rows[["sample", "theme", "scores"]].itertuples(index=False):
        themes[sample] = theme
        for key, value in json.loads(text).items():
            if value is not None:
                by_sample.setdefault(key, {}).setdefault(sample, []).append(value)
    for metric in metrics:
        of_key = by_sample.get(metric["key"], {})
        values = [mean(repetitions) for repetitions in of_key.values()]
        value = _number(metric["value"])
        if math.isclose(mean(values), value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            scores = [score for repetitions in of_key.values() for score in repetitions]
            is_share = set(scores) <= {0.0, 0.5, 1.0}
            of_samples = [themes[sample] for sample in of_key]
            means[metric["name"]] = _Means(values, of_samples, len(scores), is_share)
    return means


def _figures(
    metric: Mapping[str, Any],
    means: _Means | None,
    reference: tuple[float | None, _Means | None] | None,
) -> dict[str, Any]:
    """The figures of a metric; `reference` has the baseline's value and scores."""
    value = _number(metric["value"])
    figures = dict.fromkeys(
        ("value_low", "value_high", *(f"difference{end}" for end in ("", "_low", "_high", "_p"))),
        math.nan,
    )
    figures |= {"value": value, "stderr": math.nan, "n": metric["n"], "num_clusters": 0}
    notes = [] if means is not None else [_NO_MEAN]
    if means is not None:
        interval = (cluster_interval if means.is_share else mean_interval)(
            means.values, means.themes
        )
        figures |= {
            "value_low": float(interval.low),
            "value_high": float(interval.high),
            "stderr": _number(metric["stderr"]),
            "n": means.n,
            "num_clusters": len(set(means.themes)),
        }
        notes += [interval.note] if interval.note else []
    if reference is not None:
        figures["difference"] = value - _number(reference[0])
    if reference is not None and means is not None and reference[1] is not None:
        paired = paired_difference(means.by_theme(), reference[1].by_theme(), largest=math.inf)
        figures |= {
            "difference": paired.value,
            "difference_low": paired.low,
            "difference_high": paired.high,
            "difference_p": paired.p_value,
        }
        notes += [paired.note] if paired.note else []
    return figures | {"note": "; ".join(notes)}


def _rows(file: LogFile, samples: "Sequence[Sample]", scores: "Sequence[Score]") -> pd.DataFrame:
    header = file.header
    counted = header.results.scores if header.results else []
    keys = {(score.scorer, score.name) for score in counted}
    metrics = [metric for score in counted for metric in _metrics(score, counted)]
    rows = [
        {
            "label": "",
            CONTEXT: PLAIN,
            "theme": str((sample.metadata or {}).get("theme") or sample.id),
            "sample": str(sample.id),
            "epoch": sample.epoch,
            "prompt": prompt_text(sample.input),
            "scores": json.dumps(
                {_key(*key): _value(sample.scores or {}, *key) for key in sorted(keys)}
            ),
        }
        for sample in samples
    ]
    name = header.eval.dataset.name or task_of(header)
    return pd.DataFrame(rows).assign(
        questions=part_of_set(header, name),
        protocol=_protocol(header),
        judge=_judge(header),
        metrics=json.dumps(metrics),
        # Of EM and its judges.
        **dict.fromkeys(("judge_sampling", "rubrics", "weigh"), ""),
        **dict.fromkeys(("aligned_below", "coherent_from"), math.nan),
        least_coherent=0,
    )


def _key(scorer: str, name: str) -> str:
    """What a score is called: its scorer, and the key of a scorer that gives several."""
    return scorer if scorer == name else f"{scorer}/{name}"


def _metrics(score: "EvalScore", counted: "Sequence[EvalScore]") -> Iterator[dict[str, Any]]:
    """The metrics of a score; the error of the mean goes with each, and with none stands alone."""
    key = _key(score.scorer, score.name)
    reducers = {each.reducer for each in counted if _key(each.scorer, each.name) == key}
    tail = f"[{score.reducer}]" if len(reducers) > 1 else ""
    errors = [each.value for each in score.metrics.values() if each.name in _ERRORS]
    others = {k: each for k, each in score.metrics.items() if each.name not in _ERRORS}
    for name, metric in (others or score.metrics).items():
        yield {
            "name": f"{key}{tail}/{name}",
            "key": key,
            "value": _finite(metric.value),
            "stderr": _finite(errors[0]) if errors and others else None,
            "n": score.scored_samples or 0,
        }


def _value(scores: "Mapping[str, Score]", scorer: str, name: str) -> float | None:
    """The number of a sample's score; None for unscored, and for what is no number."""
    score = scores.get(name) if scorer == name else scores.get(scorer)
    value: Any = score.value if score else None
    if scorer != name:
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return _WORDS.get(value, _WORDS.get(value.lower()))
    return _finite(value)


def _finite(value: object) -> float | None:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _protocol(header: "EvalLog") -> str:
    """Version, arguments and scorers of the task, as JSON: what else moves its figures."""
    evaluation = header.eval
    scorers = {each.name: each.options or {} for each in evaluation.scorers or []}
    return json_text(
        {
            "task version": evaluation.task_version,
            "arguments": dict(evaluation.task_args),
            "scorers": scorers,
            "reducers": evaluation.config.epochs_reducer,
        }
    )


def _judge(header: "EvalLog") -> str:
    """The models that graded: the role's, the scorers', or the model under test; "" for none."""
    role = (header.eval.model_roles or {}).get("grader")
    configs = role if isinstance(role, list) else [role] if role else []
    if configs:
        return " + ".join(config.model for config in configs)
    scorers = header.eval.scorers or []
    graded = [each for each in scorers if each.name.rpartition("/")[2] in MODEL_GRADED]
    names = [(each.options or {}).get("model") or header.eval.model for each in graded]
    return " + ".join(dict.fromkeys(map(str, names)))


SCORE_READER = RunReader(
    reads=is_of_other_task,
    other="are of this suite's tasks: read_answers and read_choices read them",
    scorer="",
    holds=lambda sample: sample.error is None,
    score=lambda file, sample: None,
    rows=_rows,
    schema=SCORE_SCHEMA,
)
