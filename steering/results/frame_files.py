"""The frames as files, and back."""

import csv
import io
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from steering.files import write_whole
from steering.results.choices import beside, choice_conditions_of
from steering.results.conditions import conditions_of
from steering.results.context_columns import CHOICE_CONTEXT_SCHEMA, CONTEXT_SCHEMA
from steering.results.contexts import choice_contexts_of, contexts_of
from steering.results.frame import left_out
from steering.results.frame_check import check_frame
from steering.results.metric_columns import METRIC_SCHEMA, SCORE_SCHEMA
from steering.results.schema import (
    ANSWER_SCHEMA,
    CHOICE_CONDITION_SCHEMA,
    CHOICE_SCHEMA,
    CONDITION_SCHEMA,
    empty_frame,
)
from steering.results.task_metrics import metrics_of
from steering.text import to_csv, unguarded

_SCHEMAS = {
    schema.name: schema
    for schema in (
        *(ANSWER_SCHEMA, CONDITION_SCHEMA, CONTEXT_SCHEMA),
        *(CHOICE_SCHEMA, CHOICE_CONDITION_SCHEMA, CHOICE_CONTEXT_SCHEMA),
        *(SCORE_SCHEMA, METRIC_SCHEMA),
    )
}


def write_frames(
    answers: pd.DataFrame,
    folder: Path,
    choices: pd.DataFrame | None = None,
    scores: pd.DataFrame | None = None,
) -> list[Path]:
    """Write the frames that have rows as CSV, and `left_out.csv`, each file atomically.

    `answers`, also as Parquet, `conditions` and `contexts`; `choices`, `choice_conditions` and
    `choice_contexts`; `scores` and `metrics`.

    Args:
        answers: As `read_answers` gives them, or none.
        folder: Files of an earlier report there are replaced.
        choices: As `read_choices` gives them.
        scores: As `read_scores` gives them.
    """
    scores = empty_frame(SCORE_SCHEMA) if scores is None else scores
    choices = empty_frame(CHOICE_SCHEMA) if choices is None else choices
    frames = {
        "choices": choices,
        "choice_conditions": choice_conditions_of(choices),
        "contexts": contexts_of(answers),
        "choice_contexts": choice_contexts_of(choices),
        "scores": scores,
        "metrics": metrics_of(scores),
    }
    if len(answers):
        conditions = beside(conditions_of(answers), frames["choice_conditions"])
        frames |= {"answers": answers, "conditions": conditions}
    files: dict[str, bytes] = {}
    for name, frame in frames.items():
        if len(frame):
            files[f"{name}.csv"] = to_csv(frame)
        else:
            (folder / f"{name}.csv").unlink(missing_ok=True)
    if len(answers):
        buffer = io.BytesIO()
        answers.to_parquet(buffer, index=False)
        files["answers.parquet"] = buffer.getvalue()
    notes = [asdict(note) for frame in (answers, choices, scores) for note in left_out(frame)]
    files["left_out.csv"] = to_csv(pd.DataFrame(notes, columns=["log", "kind", "reason"]))
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def read_frame(path: Path) -> pd.DataFrame:
    """The frame in a CSV or Parquet file of a report.

    Raises:
        FrameError: It is no such frame.
    """
    if path.suffix == ".parquet":
        return check_frame(pd.read_parquet(path), ANSWER_SCHEMA)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = set(rows[0]) if rows else set()
    fitting = (schema for schema in _SCHEMAS.values() if names == set(schema.columns))
    schema = next(fitting, ANSWER_SCHEMA if "sample" in names else CONDITION_SCHEMA)
    kinds = {name: str(column.dtype) for name, column in schema.columns.items()}
    columns = {name: [_cell(row[name], kinds.get(name, "str")) for row in rows] for name in rows[0]}
    return check_frame(pd.DataFrame(columns), schema)


def _cell(text: str, kind: str) -> object:
    """A cell of a CSV file in its column's type."""
    if kind == "bool":
        return text == "True"
    if kind.startswith(("float", "int")):
        number = float(text or "nan")
        return int(number) if kind.startswith("int") else number
    return unguarded(text)
