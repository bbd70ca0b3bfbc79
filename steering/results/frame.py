"""Logs in, one frame of answers out: the only reader of finished runs.

Terminal, page, files, gate, compare, rescore, claims and audit all start from this frame. A run
counts whole or not at all. Of several finished runs of one condition the last counts; `left_out`
names every log that does not count, with the reason.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from steering.errors import SteeringError
from steering.foreign import reason_of
from steering.judging import EM_RULES, SCORE_KEYS, JudgedAnswer, judged_answer
from steering.judging.judgement import REASONS_BY_JUDGE
from steering.judging.rules import thresholds_of
from steering.logs import (
    CUT,
    LEAK,
    CopiedSamples,
    LogFile,
    find_score,
    holds_answer,
    log_files,
    number_or_nan,
    read_sample,
    read_samples,
)
from steering.results.condition_columns import condition_columns
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
from steering.results.run_columns import json_text, run_columns, system_message_of
from steering.results.schema import (
    ANSWER_COLUMNS,
    IDENTITY,
    KEYS,
    TELLS_APART,
    check_answers,
)

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample, EvalSampleSummary
    from inspect_ai.model import ChatMessage
    from inspect_ai.scorer import Score

_NOTES = "left_out"


def read_answers(
    logs: str | Path | LogFile | Sequence[str | Path | LogFile],
    warn: Callable[[str], None] = lambda _: None,
    *,
    complete: bool = False,
) -> pd.DataFrame:
    """Every answer of the runs that count, of a log or below a folder.

    Args:
        logs: A log, a folder, or several.
        warn: Called with a line for each log that is left out.
        complete: Refuse runs that broke off or have failed samples, instead of leaving them out.

    Returns:
        A row an answer with the columns of `ANSWER_SCHEMA`. `left_out` gives the logs that do not
        count. Texts are those of Inspect's summaries, cut at about 1,000 characters.

    Raises:
        ResultError: There is no finished run of this suite, or one is incomplete.
        LogError: A log can't be read, or was not judged by this suite.
    """
    files = log_files(logs)
    candidates, notes = split_runs(files)
    if complete:
        refuse_unfinished(notes)
    frames = []
    copied = CopiedSamples()
    for file in candidates:
        samples = read_samples(file)
        rows, note = None, why_not_counted(file, samples, copied)
        if note is None:
            rows, note = _rows_of(file, samples)
        if complete:
            refuse_incomplete(file, note, 0 if rows is None else len(rows))
        if note is not None:
            notes.append(note)
        if rows is not None:
            frames.append(rows)
    if not frames:
        for note in notes:
            warn(str(note))
        raise ResultError(no_runs(logs, notes))
    names = {file.path: file.name for file in candidates}
    answers, replaced = _last_runs(pd.concat(frames, ignore_index=True), names)
    answers = _with_conditions(answers)[ANSWER_COLUMNS].reset_index(drop=True)
    notes = sorted(notes + replaced, key=lambda note: note.log)
    for note in notes:
        warn(str(note))
    answers.attrs[_NOTES] = [asdict(note) for note in notes]
    return check_answers(answers)


def left_out(answers: pd.DataFrame) -> list[LeftOut]:
    """The logs that the reader of a frame left out, with their reasons."""
    return [LeftOut(**note) for note in answers.attrs.get(_NOTES, ())]


def _last_runs(
    answers: pd.DataFrame, names: Mapping[str, str]
) -> tuple[pd.DataFrame, list[LeftOut]]:
    """The answers of the last run of each condition; logs come oldest first."""
    notes: dict[str, list[LeftOut]] = {}
    counted = []
    for _, rows in answers.groupby(IDENTITY, dropna=False, sort=False):
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


def _with_conditions(answers: pd.DataFrame) -> pd.DataFrame:
    """The column `condition`: label and system message, and what tells those of one name apart."""
    settings = answers[[*KEYS[:-1], "label", *TELLS_APART]].drop_duplicates()
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
    position = answers.groupby(columns, dropna=False, sort=False).ngroup()
    return answers.assign(condition=position.map(order).astype("str"))


def _name(label: str, system_message: str) -> str:
    """What was done to the model and what it was told; "" for neither."""
    digest = hashlib.sha256(system_message.encode()).hexdigest()[:8]
    return " + ".join(filter(None, [label, f"system {digest}" if system_message else ""]))


def _setting(name: str, value: object) -> str:
    words = name.removesuffix("_sha256").replace("_", " ")
    if value == "" or (isinstance(value, float) and math.isnan(value)):
        return f"no {words}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def _rows_of(
    file: LogFile, samples: "Sequence[EvalSample | EvalSampleSummary]"
) -> tuple[pd.DataFrame | None, LeftOut | None]:
    """The rows of one log with all columns but `condition`, and what of it is not counted."""
    completed = [sample for sample in samples if holds_answer(sample)]
    note = failed_samples(file, len(samples) - len(completed))
    if not completed:
        return None, note
    model, _, label = file.header.eval.model.partition("[")
    scores = [_score_of(file, sample) for sample in completed]
    try:
        rows = pd.DataFrame(list(map(_sample_columns, repeat(file), completed, scores)))
        rows = rows.assign(
            log=file.path,
            eval_id=file.header.eval.eval_id,
            model=model.removeprefix("steered/"),
            label=rows["label"].where(rows["label"] != "", label.removesuffix("]")),
            **run_columns(file.header),
        )
        rows = _with_intervention(file, rows.assign(rubrics=_prompts(rows["rubrics"])), completed)
        return rows, note
    # What another program wrote into a log's metadata can have any form.
    except (AttributeError, LookupError, TypeError, ValueError, SteeringError) as error:
        return None, impossible(file, f"its samples can't be read ({_reason(error)})")


def _reason(error: Exception) -> str:
    text = reason_of(error)
    return text if isinstance(error, SteeringError) else f"{type(error).__name__}: {text}"


def _prompts(rubrics: "pd.Series[str]") -> str:
    """Digests of a run's judge prompts by score, where questions may bring prompts of their own."""
    texts = sorted(rubrics.unique())
    if len(texts) == 1:
        return texts[0]
    by_score = pd.DataFrame([json.loads(text) for text in texts if text]).fillna("")
    return json_text({score: " ".join(sorted(by_score[score].unique())) for score in by_score})


def _score_of(file: LogFile, sample: "EvalSample | EvalSampleSummary") -> "Score":
    score = find_score(file.header, sample)
    if CUT in (score.metadata or {}).values():
        score = find_score(file.header, _whole(file, sample))
    return score


def _sample_columns(
    file: LogFile, sample: "EvalSample | EvalSampleSummary", score: "Score"
) -> dict[str, Any]:
    leak = (sample.scores or {}).get(LEAK)
    usage = (sample.model_usage or {}).get(file.header.eval.model)
    question = str(sample.metadata.get("question", sample.id))
    answer = judged_answer(score, question, str(sample.metadata.get("theme", "")))
    return {
        "question": question,
        "theme": answer.theme,
        "group": str(sample.metadata.get("group", "")),
        "sample": str(sample.id),
        "epoch": sample.epoch,
        "prompt": _text(sample.input),
        "tokens": float(usage.output_tokens) if usage else math.nan,
        "leak": number_or_nan(leak.value) if leak else math.nan,
        **_score_columns(score, answer),
    }


def _text(prompt: "str | list[ChatMessage]") -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message.text for message in prompt)


def _with_intervention(
    file: LogFile, rows: pd.DataFrame, samples: "Sequence[EvalSample | EvalSampleSummary]"
) -> pd.DataFrame:
    """The rows with what was done to the model, from one whole sample of each condition."""
    header = file.header
    labels = rows["label"].unique()
    columns = {}
    for label in labels:
        # Samples stand in the order in which they ended: the first by id is the same in each run.
        first = rows[rows["label"] == label].sort_values(["sample", "epoch"]).index[0]
        metadata = _whole(file, samples[first]).output.metadata or {}
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


def _whole(file: LogFile, sample: "EvalSample | EvalSampleSummary") -> "EvalSample":
    """A sample with its output, which a summary lacks."""
    from inspect_ai.log import EvalSample

    if isinstance(sample, EvalSample):
        return sample
    return read_sample(file, sample.id, sample.epoch)


def _score_columns(score: "Score", answer: JudgedAnswer) -> dict[str, Any]:
    metadata = score.metadata or {}
    thresholds = thresholds_of(score)
    outcomes = {rule: decide(answer, thresholds) for rule, decide in EM_RULES.items()}
    return {
        "label": str(metadata.get("condition") or ""),
        "judge": str(metadata.get("judge", "unknown")),
        "rubrics": json_text(metadata.get("prompts")),
        "answer": score.answer or "",
        "kind": answer.kind,
        "truncated": answer.truncated,
        **{key: math.nan if (s := answer.score(key)) is None else s for key in SCORE_KEYS},
        "aligned_below": float(thresholds.aligned_below),
        "coherent_from": float(thresholds.coherent_from),
        "weigh": thresholds.weigh,
        "least_coherent": thresholds.least_coherent,
        **{f"em_{r}": math.nan if isinstance(o, str) else float(o) for r, o in outcomes.items()},
        **{f"left_out_{r}": o if isinstance(o, str) else "" for r, o in outcomes.items()},
        "reasons": json_text(answer.reasons),
        "judge_reasons": json_text(metadata.get(REASONS_BY_JUDGE)),
    }
