"""What the readers of runs share: which runs count, the last of a condition, its columns and name.

`frame` reads judged answers with it and `choices` pairs of answers. A run counts whole or not at
all; of several finished runs of one condition the last counts.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from steering.errors import SteeringError
from steering.foreign import reason_of
from steering.logs import (
    CopiedSamples,
    LogError,
    LogFile,
    log_files,
    read_sample,
    read_samples,
)
from steering.results.condition_columns import condition_columns
from steering.results.context_columns import plain_rows
from steering.results.counted_runs import (
    LeftOut,
    LeftOutKind,
    ResultError,
    failed_samples,
    impossible,
    no_runs,
    refuse_incomplete,
    refuse_unfinished,
    split_runs,
    why_not_counted,
)
from steering.results.frame_check import check_frame
from steering.results.run_columns import run_columns, system_message_of
from steering.results.schema import (
    IDENTITY,
    KEYS,
    TELLS_APART,
    empty_frame,
)

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalSampleSummary
    from inspect_ai.model import ChatMessage

    Sample = EvalSample | EvalSampleSummary

NOTES = "left_out"
_NO_PLAIN = "it asked in contexts only: ask the plain questions beside them"
Logs = str | Path | LogFile | Sequence[str | Path | LogFile]


@dataclass(frozen=True)
class RunReader:
    """One kind of runs.

    Attributes:
        reads: Whether a log is of this kind.
        other: What holds the figures of a log that is not, for a folder without any of this kind.
        scorer: Whose scores its samples have; "" for any scorer's.
        holds: Whether the model answered in a sample.
        score: The score of a sample.
        rows: The rows of a log's samples that hold an answer, a row a sample, with its label.
        schema: Of the frame.
    """

    reads: Callable[["EvalLog"], bool]
    other: str
    scorer: str
    holds: Callable[["Sample"], bool]
    score: Callable[[LogFile, "Sample"], Any]
    rows: Callable[[LogFile, Sequence["Sample"], Sequence[Any]], pd.DataFrame]
    schema: Any

    def read(
        self,
        logs: Logs,
        warn: Callable[[str], None],
        *,
        complete: bool,
    ) -> pd.DataFrame:
        """The frame of the runs that count; arguments and errors as of `read_answers`."""
        files = log_files(logs)
        if files and not any(self.reads(file.header) for file in files):
            raise ResultError(f"{files[0].name} and all other logs here {self.other}")
        frame = self.read_any(files, complete=complete)
        notes = [LeftOut(**note) for note in frame.attrs[NOTES]]
        for note in notes:
            warn(str(note))
        if frame.empty:
            raise ResultError(no_runs(logs, notes))
        return frame

    def read_any(self, files: Sequence[LogFile], *, complete: bool) -> pd.DataFrame:
        """As `read`; without rows where no run counts."""
        candidates, notes = split_runs([file for file in files if self.reads(file.header)])
        if complete:
            refuse_unfinished(notes)
        frames = []
        copied = CopiedSamples()
        for file in candidates:
            samples = read_samples(file)
            rows, note = None, why_not_counted(file, samples, copied, self.scorer)
            if note is None:
                rows, note = self._rows_of(file, samples)
            if complete:
                refuse_incomplete(file, note, 0 if rows is None else len(rows))
            if note is not None:
                notes.append(note)
            if rows is not None:
                frames.append(rows)
        frame = empty_frame(self.schema)
        replaced: list[LeftOut] = []
        if frames:
            names = {file.path: file.name for file in candidates}
            frame, replaced = _last_runs(pd.concat(frames, ignore_index=True), names)
            frame = _with_conditions(frame)[list(self.schema.columns)].reset_index(drop=True)
        notes = sorted(notes + replaced, key=lambda note: note.log)
        frame.attrs[NOTES] = [asdict(note) for note in notes]
        return check_frame(frame, self.schema)

    def _rows_of(
        self, file: LogFile, samples: Sequence["Sample"]
    ) -> tuple[pd.DataFrame | None, LeftOut | None]:
        """The rows of one log with all columns but `condition`, and what of it is not counted."""
        completed = [sample for sample in samples if self.holds(sample)]
        note = failed_samples(file, len(samples) - len(completed))
        if not completed:
            return None, note
        model, _, label = file.header.eval.model.partition("[")
        scores = [self.score(file, sample) for sample in completed]
        try:
            rows = self.rows(file, completed, scores)
            if plain_rows(rows).empty:
                return None, LeftOut(file.name, _NO_PLAIN, "no plain")
            rows = rows.assign(
                log=file.path,
                eval_id=file.header.eval.eval_id,
                model=model.removeprefix("steered/"),
                label=rows["label"].where(rows["label"] != "", label.removesuffix("]")),
                # What the kind says itself of a run goes first.
                **{k: v for k, v in run_columns(file.header).items() if k not in rows},
            )
            return _with_intervention(file, rows, completed), note
        # What another program wrote into a log's metadata can have any form.
        except (AttributeError, LookupError, TypeError, ValueError, SteeringError) as error:
            return None, impossible(file, f"its samples can't be read ({_reason(error)})")


def _last_runs(frame: pd.DataFrame, names: Mapping[str, str]) -> tuple[pd.DataFrame, list[LeftOut]]:
    """The rows of the last run of each condition; logs come oldest first."""
    notes: dict[str, list[LeftOut]] = {}
    counted = []
    for _, rows in frame.groupby(IDENTITY, dropna=False, sort=False):
        runs = rows[["log", "eval_id"]].drop_duplicates()
        last = runs.iloc[-1]
        for log, eval_id in runs.iloc[:-1].itertuples(index=False):
            is_copy = eval_id == last["eval_id"]
            model, label = rows[["model", "label"]].iloc[0]
            name = f"{model}[{label}]" if label else model
            later = names[last["log"]]
            note = f"{name} is a copy of the run in {later}"
            if not is_copy:
                sizes = rows["log"].value_counts()
                note = f"{name} ({sizes[log]} answers) was run again later in {later}"
                note += f" ({sizes[last['log']]} answers)"
            kind: LeftOutKind = "copy" if is_copy else "replaced"
            notes.setdefault(log, []).append(LeftOut(names[log], note, kind))
        counted.append(rows[rows["log"] == last["log"]])
    kept = pd.concat(counted).sort_index()
    replaced = [
        replace(parts[0], reason="; ".join(part.reason for part in parts))
        for parts in notes.values()
    ]
    return kept, replaced


def _with_conditions(frame: pd.DataFrame) -> pd.DataFrame:
    """The column `condition`: label and system message, and what tells those of one name apart."""
    settings = frame[[*KEYS[:-1], "label", *TELLS_APART]].drop_duplicates()
    pairs = settings[["label", "system_message"]].itertuples(index=False)
    texts = pd.Series([_name(*pair) for pair in pairs], index=settings.index, dtype=object)
    for _, rows in settings.groupby([*KEYS[:-1], texts], sort=False):
        if len(rows) > 1:
            varying = [name for name in TELLS_APART if rows[name].nunique(dropna=False) > 1]
            for index, row in rows.iterrows():
                parts = ", ".join(_setting(name, row[name]) for name in varying[:3])
                texts[index] = f"{texts[index]} ({parts})".strip()
    settings["condition"] = texts.astype("str")
    columns = [name for name in settings.columns if name != "condition"]
    # A merge would not match NaN with NaN in every version: the position in the table does.
    codes = settings.groupby(columns, dropna=False, sort=False).ngroup()
    order = dict(zip(codes, settings["condition"], strict=True))
    position = frame.groupby(columns, dropna=False, sort=False).ngroup()
    return frame.assign(condition=position.map(order).astype("str"))


def _name(label: str, system_message: str) -> str:
    """What was done to the model and what it was told; "" for neither."""
    digest = hashlib.sha256(system_message.encode()).hexdigest()[:8]
    return " + ".join(filter(None, [label, f"system {digest}" if system_message else ""]))


def _setting(name: str, value: object) -> str:
    words = name.removesuffix("_sha256").replace("_", " ")
    if value == "" or (isinstance(value, float) and math.isnan(value)):
        return f"no {words}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def _reason(error: Exception) -> str:
    text = reason_of(error)
    return text if isinstance(error, SteeringError) else f"{type(error).__name__}: {text}"


def _with_intervention(
    file: LogFile, rows: pd.DataFrame, samples: "Sequence[EvalSample | EvalSampleSummary]"
) -> pd.DataFrame:
    """The rows with what was done to the model, from one whole sample of each condition."""
    header = file.header
    labels = rows["label"].unique()
    columns = {}
    for label in labels:
        # Samples stand in the order in which they ended: the first by id is the same in each run.
        of_label = plain_rows(rows[rows["label"] == label])
        first = of_label.sort_values(["sample", "epoch"]).index[0]
        metadata = _output_metadata(file, samples[first])
        steering = metadata.get("steering", {})
        columns[label] = condition_columns(
            metadata, header.eval.model_args, prompted=bool(system_message_of(header))
        ) | {
            "fingerprint": str(steering.get("fingerprint", "")),
            # The first prompts of two conditions of one log ask two things.
            "prompt_sha256": str(steering.get("prompt_sha256", "")) if len(labels) == 1 else "",
        }
    for name in next(iter(columns.values())):
        rows[name] = rows["label"].map({label: values[name] for label, values in columns.items()})
    return rows


def _output_metadata(file: LogFile, sample: "Sample") -> Mapping[str, Any]:
    """Metadata of a sample's output, which say what was done to the model.

    A solver may put an output of its own in the place of the model's: then of the first of a
    steered model's.

    Raises:
        LogError: No output says it, though the model is one of this suite.
    """
    metadata = whole_sample(file, sample).output.metadata or {}
    if "steering" in metadata or not file.header.eval.model.startswith("steered/"):
        return metadata
    for event in read_sample(file, sample.id, sample.epoch, events=True).events:
        if event.event == "model" and "steering" in (event.output.metadata or {}):
            return event.output.metadata or {}
    raise LogError(f"no output of sample {sample.id} says what was done to the model")


def whole_sample(file: LogFile, sample: "EvalSample | EvalSampleSummary") -> "EvalSample":
    """A sample with its output, which a summary lacks."""
    from inspect_ai.log import EvalSample

    if isinstance(sample, EvalSample):
        return sample
    return read_sample(file, sample.id, sample.epoch)


def prompt_text(prompt: "str | list[ChatMessage]") -> str:
    """What was asked, message below message."""
    return prompt if isinstance(prompt, str) else "\n".join(message.text for message in prompt)
