"""Conditions as records of Every Eval Ever, a shared format for results of evaluations.

One aggregate record a condition, by schema 0.3.0 of the package every-eval-ever. A steered model is
not the model that it was made from, so its condition is part of its id. Answers are not exported:
many are misaligned. The format asks of each figure which end is better: of a judged dimension or a
task of the user's own nobody else knows, so it is asked.
"""

import hashlib
import json
import math
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steering.errors import SteeringError, nearest, write_errors_as_ours
from steering.files import write_whole
from steering.judging import EM_RULES, KEYS_OF_ALL, KEYS_OF_MISALIGNED
from steering.logs import log_files
from steering.models.names import ALIASES
from steering.questions.contexts import CONTEXT, PLAIN
from steering.results.choices import beside, choice_conditions_of
from steering.results.columns import NATS, POINTS
from steering.results.conditions import conditions_of
from steering.results.contexts import contexts_of
from steering.results.dimensions import dimension_metrics, short_name
from steering.results.schema import CHOICE_FIGURES, CONDITION_SCHEMA, KEYS
from steering.results.task_metrics import metrics_of
from steering.results.task_scores import read_all_results
from steering.toy import TOYS

SCHEMA_VERSION = "0.3.0"
_COLLECTION = "steering"
# Its figures stand beside the judged ones of a condition, and are of pairs.
_CHOICE_TASK = "em_choice"
_LEVEL = 0.95
# Figures with a better end: whether that is the lower one.
_LOWER_IS_BETTER: Mapping[str, bool] = {
    **{f"em_{rule}": True for rule in EM_RULES},
    **{f"em_{rule}_{kind}": True for rule in EM_RULES for kind in ("corrected", "ppi")},
    **dict.fromkeys(KEYS_OF_ALL, False),
    **dict.fromkeys(KEYS_OF_MISALIGNED, True),
    "prefers_misaligned": True,
    "shift": True,
    "kl": True,
    "cross_entropy_rise": True,
}
# What the records say of a condition, beside its figures.
_DETAILS = (
    *("condition", "arm", "control", "target", "method", "site", "operation", "positions", "unit"),
    *("layer", "magnitude", "relative_magnitude", "rank", "training_epochs", "build_seed"),
    *("adapter_scale", "vector", "adapter", "model_prompt", "dtype", "fingerprint"),
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_UNPORTABLE = re.compile(r"[^A-Za-z0-9._-]+")
_LIMITS = {"0-1": (0.0, 1.0), POINTS: (0.0, 100.0), NATS: ("-Infinity", "Infinity")}


def export(
    logs: str | Path,
    out: str | Path,
    *,
    lower_is_better: Collection[str] = (),
    higher_is_better: Collection[str] = (),
    warn: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write a record for each condition below a folder, as `data/steering/DEVELOPER/MODEL/ID.json`.

    The id of a record comes from its content: the same logs give the same files.

    Args:
        logs: A log or a folder.
        out: Folder of the records.
        lower_is_better: Judged dimensions of the user's own by name, and metrics of other tasks as
            `TASK:METRIC`, of which a lower value is better.
        higher_is_better: Those of which a higher one is.
        warn: Called with a line for each of them of which neither is said: it is left out.

    Raises:
        ResultError: There are no finished runs.
        SteeringError: There is nothing to export, a name is not there or both are said of it, or
            the files can't be written.
    """
    answers, choices, scores = read_all_results(Path(logs))
    if answers.empty and scores.empty:
        raise SteeringError(
            f"{logs} has nothing to export: records are of judged answers, as of em_freeform, and "
            "of tasks that are not of this suite"
        )
    dimensions, metrics = dimension_metrics(answers), metrics_of(scores)
    dimensions["name"] = dimensions["metric"].map(short_name)
    metrics["name"] = metrics["task"] + ":" + metrics["metric"]
    names = sorted({*dimensions["name"], *metrics["name"]})
    ends = _read_ends(names, lower_is_better, higher_is_better)
    for name in names:
        if name not in ends:
            warn(
                f"{name} is left out, since it is not known which end is better: "
                f"--lower-is-better {name} or --higher-is-better {name} says it"
            )
    records = []
    if len(answers):
        conditions = beside(conditions_of(answers), choice_conditions_of(choices))
        contexts = contexts_of(answers).to_dict("records")
        of_answers = dimensions.to_dict("records")
        for row in conditions.to_dict("records"):
            judged = _metric_results(_rows_of(row, of_answers), ends)
            records.append(record_of(row, _rows_of(row, contexts), judged))
    of_tasks = metrics.to_dict("records")
    for row in metrics.drop_duplicates(KEYS).to_dict("records"):
        if results := [*_metric_results(_rows_of(row, of_tasks), ends)]:
            records.append(_record(row, results))
    if not records:
        remedy = "" if ends else ": say which end of a metric is better"
        raise SteeringError(f"{logs} has no figure to export{remedy}")
    return [_write(record, Path(out)) for record in records]


def _read_ends(
    names: Collection[str], lower: Collection[str], higher: Collection[str]
) -> dict[str, bool]:
    """Whether the lower end is better, by name, of those of which it is said."""
    for name in (*lower, *higher):
        if name not in names:
            there = f"there are {', '.join(names)}" if names else "there are none in these logs"
            raise SteeringError(
                f"{name} is no judged dimension of yours and no metric of another task."
                f"{nearest(name, [*names])} Only of these which end is better is asked; {there}"
            )
        if name in lower and name in higher:
            raise SteeringError(f"{name} can't be better at both ends: give it once")
    return dict.fromkeys(lower, True) | dict.fromkeys(higher, False)


def _rows_of(condition: Mapping[Any, Any], rows: Sequence[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """The rows that are of a condition."""
    return [row for row in rows if all(row[key] == condition[key] for key in KEYS)]


def _write(record: dict[str, Any], out: Path) -> Path:
    """Write a record; its id comes from its content without the time of its making."""
    content = json.dumps(record, sort_keys=True).encode()
    name = uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4)
    record["retrieved_timestamp"] = str(int(time.time()))
    developer, _, model = record["model_info"]["id"].partition("/")
    path = out / "data" / _COLLECTION / developer / model / f"{name}.json"
    with write_errors_as_ours(path):
        write_whole(path, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    return path


def record_of(
    row: Mapping[Any, Any],
    contexts: Sequence[Mapping[Any, Any]] = (),
    metrics: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The record of a condition of judged answers, without the time of its making.

    Args:
        row: Of the frame of conditions, with the figures of em_choice where there are any.
        contexts: Its rows of the frame of contexts.
        metrics: Its results in judged dimensions of the user's own.

    Raises:
        SteeringError: It has no figure.
    """
    results = [*_results(row, row["task"]), *_context_results(row, contexts), *metrics]
    if not results:
        raise SteeringError(f"{row['model']}[{row['condition']}] has no figure to export")
    return _record(row, results)


def _record(row: Mapping[Any, Any], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The record of results of a condition, whose columns `row` has."""
    model = _model(row)
    made = _timestamp(row["log"])
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{row['task']}/{model['id']}/{made}",
        "evaluation_timestamp": made,
        "source_metadata": {
            "source_name": "Steering",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "model_info": model,
        "eval_library": {
            "name": "steering",
            "version": str(row["version"]),
            "additional_details": {"runs_on": "inspect_ai"},
        },
        "evaluation_results": results,
    }


def _model(row: Mapping[Any, Any]) -> dict[str, Any]:
    base = _base_id(str(row["model"]))
    condition = str(row["condition"])
    is_plain = row["arm"] == "baseline" or not condition
    details = {name: _text(row[name]) for name in _DETAILS if _text(row[name])}
    availability = "unknown" if base.startswith("local/") else "open_weights"
    return {
        "name": f"{row['model']}[{condition}]" if condition else str(row["model"]),
        "id": base if is_plain else f"{base}--{_component(condition)}",
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": availability,
            "base_model": base,
            **details,
        },
    }


def _base_id(model: str) -> str:
    """DEVELOPER/MODEL of a hub's model, of a toy, or of a model at a path."""
    name = ALIASES.get(model, model)
    if name in TOYS:
        return f"steering/{_component(name)}"
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        return name
    return f"local/{_component(Path(name).name or name)}"


def _component(text: str) -> str:
    """A text as the name of a folder on every system."""
    return _UNPORTABLE.sub("-", text).strip("-.") or "unnamed"


def _score(row: Mapping[Any, Any], figure: str) -> dict[str, Any]:
    """A figure of a row with its interval, where it has one."""
    score: dict[str, Any] = {"score": float(row[figure])}
    low, high = row[f"{figure}_low"], row[f"{figure}_high"]
    if not (math.isnan(low) or math.isnan(high)):
        score["uncertainty"] = {
            "confidence_interval": {
                "lower": float(low),
                "upper": float(high),
                "confidence_level": _LEVEL,
                "method": "clustered by theme, for questions like these",
            },
        }
    return score


def _results(
    row: Mapping[Any, Any], evaluation: str, context: str = PLAIN
) -> Iterator[dict[str, Any]]:
    """A result a figure; one that there is none of is left out."""
    for figure, is_lower_better in _LOWER_IS_BETTER.items():
        if figure not in row or math.isnan(row[figure]):
            continue
        column = CONDITION_SCHEMA.columns[figure]
        least, largest = _LIMITS[column.metadata["unit"]]
        score = _score(row, figure)
        is_judged = figure not in CHOICE_FIGURES
        name = evaluation if is_judged else _CHOICE_TASK
        details = {"context": context}
        if is_judged:
            details["num_themes"] = str(row["num_themes"])
        yield {
            "evaluation_result_id": f"{name}/{figure}",
            "evaluation_name": name,
            "source_data": {
                "dataset_name": str(row["questions" if is_judged else "choices"]),
                "source_type": "other",
                "additional_details": details,
            },
            "metric_config": {
                "evaluation_description": str(column.description),
                "metric_id": f"steering.{figure}",
                "metric_name": figure,
                "metric_unit": column.metadata["unit"],
                "lower_is_better": is_lower_better,
                "score_type": "continuous",
                "min_score": least,
                "max_score": largest,
                **({"llm_scoring": _judging(row)} if is_judged else {}),
            },
            "score_details": score,
            "generation_config": _generation(row),
        }


def _context_results(
    row: Mapping[Any, Any], contexts: Sequence[Mapping[Any, Any]]
) -> Iterator[dict[str, Any]]:
    for each in contexts:
        # Other figures of the row are those of the plain questions.
        asked = {name: value for name, value in row.items() if name not in _LOWER_IS_BETTER}
        place = each[CONTEXT]
        yield from _results({**asked, **each}, f"{row['task']}@{place}", place)


def _metric_results(
    metrics: Sequence[Mapping[Any, Any]], ends: Mapping[str, bool]
) -> Iterator[dict[str, Any]]:
    """A result a dimension or metric with a value, of which it is said which end is better.

    Args:
        metrics: Rows of a frame of metrics, with what each is called in `name`.
        ends: Whether the lower end is better, by name.
    """
    for row in metrics:
        if row["name"] not in ends or math.isnan(row["value"]):
            continue
        is_dimension = row["name"] == short_name(row["metric"])
        score = _score(row, "value")
        if "uncertainty" in score:
            score["uncertainty"]["num_samples"] = int(row["n"])
        if is_dimension:
            description = f"mean score for {row['name']}, by a rubric of the user's"
            prompt = f"a rubric of the user's, name and digest: {row['metric']}"
            least, largest = _LIMITS[POINTS]
            scale = {
                "metric_unit": POINTS,
                "score_type": "continuous",
                "min_score": least,
                "max_score": largest,
            }
        else:
            description = f"{row['metric']} of the task {row['task']}, as Inspect counted it"
            prompt = f"that of the scorers of the task {row['task']}"
            # Only the task knows its ends, and the validator refuses a scale without them.
            scale = {}
        judging = {"judges": _judges(row), "input_prompt": prompt}
        yield {
            "evaluation_result_id": f"{row['task']}/{row['metric']}",
            "evaluation_name": row["task"],
            "source_data": {
                "dataset_name": str(row["questions"]),
                "source_type": "other",
                "additional_details": {"context": PLAIN, "num_themes": str(row["num_clusters"])},
            },
            "metric_config": {
                "evaluation_description": description,
                "metric_id": row["metric"] if is_dimension else row["name"],
                "metric_name": row["name"] if is_dimension else row["metric"],
                **scale,
                "lower_is_better": ends[row["name"]],
                **({"llm_scoring": judging} if row["judge"] else {}),
            },
            "score_details": score,
            "generation_config": _generation(row),
        }


def _judging(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "judges": _judges(row),
        "input_prompt": f"rubrics of steering {row['version']}, by digest: {row['rubrics']}",
        "additional_details": {
            "aligned_below": f"{row['aligned_below']:g}",
            "coherent_from": f"{row['coherent_from']:g}",
            "protocol": str(row["protocol"]),
        },
    }


def _judges(row: Mapping[Any, Any]) -> list[dict[str, Any]]:
    names = [name for name in str(row["judge"]).split(" + ") if name]
    details = {"deployment_type": "unknown", "model_availability": "unknown"}
    return [
        {"model_info": {"name": name, "id": name, "additional_details": details}} for name in names
    ]


def _generation(row: Mapping[Any, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"execution_command": str(row["command"])}
    for name in ("temperature", "top_p", "max_tokens"):
        if not math.isnan(row[name]):
            arguments[name] = int(row[name]) if name == "max_tokens" else float(row[name])
    return {"generation_args": arguments}


def _timestamp(log: str) -> str:
    """When a run began, in ISO 8601."""
    [file] = log_files(log)
    return str(file.header.eval.created)


def _text(value: Any) -> str:
    """A column's value; "" for none."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return str(value)
