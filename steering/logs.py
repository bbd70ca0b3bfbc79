"""Inspect's log files: read, told apart by what they are of, and their scores found.

Knows what our scorers are called; never what a score means.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from steering.errors import SteeringError

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalSampleSummary
    from inspect_ai.scorer import Score

    ScoredSample = EvalSample | EvalSampleSummary

SCORER = "em_judge"
LEAK = "target_leak"
# Of the task judge_calibration, which says nothing of a model under test.
CALIBRATION = "calibration"
# What stands in a sample's summary for a value that is too long for it.
CUT = "Key removed from summary (> 1k)"
_BULK = {"events", "attachments", "store"}


class LogError(SteeringError):
    """A file is not a log, or its scores are not of this suite."""


def task_of(log: "EvalLog") -> str:
    """A run's task: one name for `evals/em_freeform.py` and `steering/em_freeform`."""
    return log.eval.task.removeprefix("steering/")


def each_log(path: Path) -> Iterator[tuple[str, "EvalLog"]]:
    """Each log of a file or below a folder, oldest first, after its file's name.

    A run that was broken off and has been finished since is left out: its samples are in the later
    log.

    Raises:
        LogError: a file can't be read as a log.
    """
    for name, place, _ in each_header(path):
        yield name, _read(place, header_only=False)


def each_header(path: Path) -> Iterator[tuple[str, str, "EvalLog"]]:
    """Like `each_log` without the samples, and with the place of each log after its name."""
    # Imported here: target tasks are read where Inspect is not needed, and it takes a second.
    from inspect_ai.log import list_eval_logs

    found = list_eval_logs(str(path), descending=False) if path.is_dir() else []
    places = [str(path)] if path.is_file() else [local_path(info.name) for info in found]
    headers = {place: _read(place, header_only=True) for place in places}
    finished = {log.eval.task_id for log in headers.values() if log.status == "success"}
    for place, log in headers.items():
        if log.status == "success" or log.eval.task_id not in finished:
            yield Path(place).name, place, log


def each_scored(path: Path) -> Iterator[tuple[str, "EvalLog", "list[ScoredSample]"]]:
    """Like `each_log`, the samples apart and light: ids, metadata and scores, and no messages.

    They come from the summaries that Inspect keeps in a log, which are read ten times as fast; a
    sample whose scores say too much for a summary is read whole.
    """
    from inspect_ai.log import read_eval_log_sample, read_eval_log_sample_summaries

    for name, place, header in each_header(path):
        if place.endswith(".json"):
            # Inspect would read it whole for the summaries, too.
            yield name, header, list(_read(place, header_only=False).samples or [])
            continue
        samples: list[ScoredSample] = [
            read_eval_log_sample(place, found.id, found.epoch, exclude_fields=_BULK)
            if _is_cut(found)
            else found
            for found in read_eval_log_sample_summaries(place)
        ]
        yield name, header, samples


def _is_cut(sample: "EvalSampleSummary") -> bool:
    return any(
        value == CUT
        for score in (sample.scores or {}).values()
        for value in (score.metadata or {}).values()
    )


def _read(place: str, *, header_only: bool) -> "EvalLog":
    from inspect_ai.log import read_eval_log

    try:
        return read_eval_log(place, header_only=header_only)
    except Exception as error:
        # Each format fails in its own way.
        reason = " ".join(str(error).split())[:200]
        raise LogError(
            f"{Path(place).name} is not an Inspect log ({reason}): give one, or a folder of them"
        ) from None


def local_path(location: str) -> str:
    """The path of a log that Inspect names as a URL."""
    return url2pathname(urlparse(location).path) if location.startswith("file:") else location


def why_left_out(log: "EvalLog") -> str | None:
    """Why a log has no answers of a model to count; None when it has."""
    if log.status != "success":
        return f"it ended with status {log.status}"
    return "it is of a judge and not of a model" if is_of_judge(log) else None


def is_of_judge(log: "EvalLog") -> bool:
    """Whether a log is of judge_calibration."""
    return any(scorer.name.endswith(CALIBRATION) for scorer in log.eval.scorers or [])


def find_score(log: "EvalLog", sample: "ScoredSample") -> "Score":
    """The score of a sample of a model's log.

    Raises:
        LogError: another scorer judged it.
    """
    score = (sample.scores or {}).get(SCORER)
    if score is None or not isinstance(score.value, dict):
        raise LogError(
            f"sample {sample.id} of {log.eval.task} on {log.eval.model} has no {SCORER} score: "
            f"run `inspect score LOG --scorer steering/{SCORER} --action overwrite`"
        )
    return score


def find_domain(sample: "ScoredSample") -> float | None:
    """How far an answer is about the target's subject, 0-100; None where that was not graded."""
    score = (sample.scores or {}).get(LEAK)
    if score is None or not isinstance(score.value, int | float) or math.isnan(score.value):
        return None
    return float(score.value)


def find_subject(log: "EvalLog") -> str | None:
    """The subject that the misaligned answers of a log were held against, if they were."""
    for scorer in log.eval.scorers or []:
        if scorer.name.endswith(LEAK):
            return str((scorer.options or {}).get("subject"))
    return None
