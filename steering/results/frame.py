"""Judged answers of finished runs in one frame.

Terminal, page, files, gate, compare, rescore, claims and audit all start from this frame. A run
counts whole or not at all. Of several finished runs of one condition the last counts; `left_out`
names every log that does not count, with the reason.
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from steering.judging import EM_RULES, SCORE_KEYS, JudgedAnswer, judged_answer
from steering.judging.agreement import BY_JUDGE
from steering.judging.judgement import JUDGE_SAMPLING, REASONS_BY_JUDGE
from steering.judging.rules import thresholds_of
from steering.logs import (
    CUT,
    DIMENSIONS,
    LEAK,
    SCORER,
    LogFile,
    find_score,
    holds_answer,
    is_of_choice,
    is_of_other_task,
    number_or_nan,
)
from steering.questions.contexts import CONTEXT, PLAIN
from steering.results.counted_runs import LeftOut, LeftOutKind, ResultError
from steering.results.dimensions import dimension_text
from steering.results.monitor_records import monitor_columns
from steering.results.run_columns import json_text, sampling_text
from steering.results.runs import NOTES, RunReader, prompt_text, whole_sample
from steering.results.schema import ANSWER_SCHEMA

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample, EvalSampleSummary
    from inspect_ai.scorer import Score

__all__ = ["LeftOut", "LeftOutKind", "ResultError", "left_out", "read_answers"]


def read_answers(
    logs: str | Path | LogFile | Sequence[str | Path | LogFile],
    warn: Callable[[str], None] = lambda _: None,
    *,
    complete: bool = False,
) -> pd.DataFrame:
    """Every judged answer of the runs that count, of a log or below a folder.

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
    return ANSWER_READER.read(logs, warn, complete=complete)


def left_out(frame: pd.DataFrame) -> list[LeftOut]:
    """The logs that the reader of a frame left out, with their reasons."""
    return [LeftOut(**note) for note in frame.attrs.get(NOTES, ())]


def _rows(
    file: LogFile,
    samples: "Sequence[EvalSample | EvalSampleSummary]",
    scores: "Sequence[Score]",
) -> pd.DataFrame:
    rows = pd.DataFrame(list(map(_sample_columns, repeat(file), samples, scores)))
    return rows.assign(rubrics=_prompts(rows["rubrics"]))


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
        score = find_score(file.header, whole_sample(file, sample))
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
        "context": str(sample.metadata.get(CONTEXT, PLAIN)),
        "theme": answer.theme,
        "group": str(sample.metadata.get("group", "")),
        "sample": str(sample.id),
        "epoch": sample.epoch,
        "prompt": prompt_text(sample.input),
        "tokens": float(usage.output_tokens) if usage else math.nan,
        "leak": number_or_nan(leak.value) if leak else math.nan,
        **_score_columns(score, answer),
        "dimension_scores": dimension_text((sample.scores or {}).get(DIMENSIONS)),
        **monitor_columns(file.header.eval.model_args, lambda: whole_sample(file, sample)),
    }


def _score_columns(score: "Score", answer: JudgedAnswer) -> dict[str, Any]:
    metadata = score.metadata or {}
    thresholds = thresholds_of(score)
    outcomes = {rule: decide(answer, thresholds) for rule, decide in EM_RULES.items()}
    return {
        "label": str(metadata.get("condition") or ""),
        "judge": str(metadata.get("judge", "unknown")),
        "rubrics": json_text(metadata.get("prompts")),
        "judge_sampling": sampling_text(metadata.get(JUDGE_SAMPLING)),
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
        # In the order in which the judges were bound, which that of their settings follows.
        "judge_scores": json.dumps(metadata[BY_JUDGE]) if metadata.get(BY_JUDGE) else "",
    }


ANSWER_READER = RunReader(
    reads=lambda header: not is_of_choice(header) and not is_of_other_task(header),
    other="have no judged answers: read_choices reads those of em_choice, and read_scores those of "
    "tasks that are not of this suite",
    scorer=SCORER,
    holds=holds_answer,
    score=_score_of,
    rows=_rows,
    schema=ANSWER_SCHEMA,
)
