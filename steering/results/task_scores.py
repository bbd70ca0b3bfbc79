"""Scores of tasks that are not of this suite: one frame of their samples.

A task of anybody has scorers and metrics of its own, which Inspect counts: they are kept as they
are. Knows no EM rule: nothing here is a rate of misalignment.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from steering.logs import LogFile, is_of_other_task, log_files, task_of
from steering.questions.contexts import CONTEXT, PLAIN
from steering.results.choices import CHOICE_READER
from steering.results.counted_runs import ResultError, no_runs
from steering.results.frame import ANSWER_READER, left_out
from steering.results.metric_columns import SCORE_SCHEMA
from steering.results.run_columns import json_text, part_of_set
from steering.results.runs import Logs, RunReader, prompt_text

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


def metrics_in(logs: Logs) -> list[str]:
    """The metrics of other tasks in some logs, each as `TASK:METRIC`.

    Raises:
        LogError: A log can't be read.
    """
    return sorted({name for file in log_files(logs) for name in _metric_names(file.header)})


def _metric_names(header: "EvalLog") -> Iterator[str]:
    if is_of_other_task(header) and header.results:
        for score in header.results.scores:
            for metric in _metrics(score, header.results.scores):
                yield f"{task_of(header)}:{metric['name']}"


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
