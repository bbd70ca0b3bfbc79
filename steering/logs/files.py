"""Inspect's log files: found, read, and sorted by what they hold.

Knows what our scorers are called; never what a score means.
"""

import functools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steering.errors import SteeringError
from steering.foreign import check_log, reason_of

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalSampleSummary
    from inspect_ai.scorer import Score

SCORER = "em_judge"
LEAK = "target_leak"
# Scorer of the task judge_calibration, whose answers no model under test gave.
CALIBRATION = "calibration"
# Scorer of the task em_choice, whose answers are not judged.
CHOICE = "em_choice"
# Scorer of dimensions of the user's own.
DIMENSIONS = "judged_dimensions"
# Solver of questions in contexts, which asks plain questions as Inspect's generate does.
ASKING = "ask_in_context"
# Key of a task's metadata for the version of this package.
VERSION = "steering_version"
# What Inspect puts into a sample's summary in place of a value that is too long for it.
CUT = "Key removed from summary (> 1k)"
# Fields of a sample that only a viewer shows.
_BULK = {"events", "attachments", "store"}
# Inspect's names of logs; other .json files stand beside them.
_LOG_NAME = re.compile(r"\.eval\Z|\A\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d.*\.json\Z", re.DOTALL)


class LogError(SteeringError):
    """A file is not a log, or its scores are not of this suite."""


@dataclass(frozen=True)
class LogFile:
    """A log of which only the header has been read.

    Attributes:
        name: Path below the folder that was searched; of a single log, its file name.
        path: Absolute path.
        header: Everything but the samples.
    """

    name: str
    path: str
    header: "EvalLog"

    def __str__(self) -> str:
        return self.path


def task_of(log: "EvalLog") -> str:
    """A run's task: one name for `evals/em_freeform.py` and `steering/em_freeform`."""
    return log.eval.task.removeprefix("steering/")


def log_files(logs: "str | Path | LogFile | Sequence[str | Path | LogFile]") -> list[LogFile]:
    """The logs at paths and below folders, oldest first; each once.

    Args:
        logs: A log, a folder, or several; a `LogFile` is not read again.

    Raises:
        LogError: A file can't be read as a log.
    """
    places = [logs] if isinstance(logs, str | Path | LogFile) else logs
    files = {
        file.path: file
        for place in places
        for file in ([place] if isinstance(place, LogFile) else _files_at(Path(place)))
    }
    return sorted(files.values(), key=_finished_at)


def _files_at(path: Path) -> list[LogFile]:
    root = Path(os.path.realpath(path))  # which raises nothing for a loop of links
    if root.is_dir():
        paths = sorted(log for log in _below(root) if _LOG_NAME.search(log.name))
    else:
        paths = [root] if root.is_file() else []
        root = root.parent
    return [LogFile(log.relative_to(root).as_posix(), str(log), _read(log)) for log in paths]


def _below(root: Path) -> Iterator[Path]:
    """Every file below a folder.

    Inspect's own listing takes a path for a URL, in which some characters mean something else.
    """
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in names)


def retried(files: list[LogFile]) -> dict[str, str]:
    """Runs that broke off and were finished by a later log: path to the later log's name."""
    finished = {file.header.eval.task_id: file for file in files if _succeeded(file.header)}
    return {
        file.path: later.name
        for file in files
        if not _succeeded(file.header) and (later := finished.get(file.header.eval.task_id))
    }


def each_header(path: Path) -> Iterator[tuple[str, str, "EvalLog"]]:
    """Name, path and header of each log, oldest first, without runs that a later log finished."""
    files = log_files(path)
    replaced = retried(files)
    for file in files:
        if file.path not in replaced:
            yield file.name, file.path, file.header


def each_log(path: Path) -> Iterator[tuple[str, "EvalLog"]]:
    """Like `each_header`, with the samples: name and whole log."""
    for name, place, _ in each_header(path):
        yield name, _read(Path(place), whole=True)


def local_path(location: str) -> str:
    """The path of a log that Inspect names as a URL."""
    # Inspect does not escape what a URL would: a folder's name may hold # or %.
    return location.removeprefix("file://")


def read_log(file: LogFile) -> "EvalLog":
    """A log with its samples.

    Raises:
        LogError: It can't be read.
    """
    return _read(Path(file.path), whole=True)


def read_samples(file: LogFile) -> "Sequence[EvalSample | EvalSampleSummary]":
    """The summaries of a log's samples, which are read ten times as fast as whole samples.

    Of a .json log the samples: it is read whole for summaries too.

    Raises:
        LogError: The log can't be read.
    """
    from inspect_ai.log import read_eval_log_sample_summaries

    path = Path(file.path)
    if path.suffix == ".json":
        return _read(path, whole=True).samples or []
    try:
        return read_eval_log_sample_summaries(file.path)
    except Exception as error:
        raise _no_log(path, error) from None


def read_sample(
    file: LogFile, sample: int | str, epoch: int, *, events: bool = False
) -> "EvalSample":
    """A whole sample of a log, without what only a viewer shows; with its events where asked for.

    Raises:
        LogError: The log can't be read, or holds no such sample.
    """
    from inspect_ai.log import read_eval_log_sample

    try:
        _check_samples(file.path, Path(file.path).stat().st_mtime_ns)
        bulk = _BULK - {"events"} if events else _BULK
        return read_eval_log_sample(file.path, sample, epoch, exclude_fields=bulk)
    except Exception as error:
        raise _no_log(Path(file.path), error) from None


@functools.lru_cache(maxsize=256)
def _check_samples(path: str, _changed_at: int) -> None:
    check_log(path, samples=True)


def holds_answer(sample: "EvalSample | EvalSampleSummary") -> bool:
    """Whether the model answered in a sample: it did not fail, and has an output."""
    scores = [(sample.scores or {}).get(name) for name in (SCORER, CALIBRATION)]
    values = [score.value for score in scores if score]
    return sample.error is None and not any(map(_is_nan, values))


def why_left_out(log: "EvalLog") -> str | None:
    """Why a log holds no answers of a model to count; None when it does."""
    if is_of_judge(log):
        reason = "it is of a judge and not of a model"
        goes_on = f", and ended with status {log.status}: the same `steering calibrate` goes on"
        return reason if _succeeded(log) else reason + goes_on
    return None if _succeeded(log) else f"it ended with status {log.status}"


def is_of_judge(log: "EvalLog") -> bool:
    """Whether a log is of judge_calibration."""
    return any(scorer.name.endswith(CALIBRATION) for scorer in log.eval.scorers or [])


def is_of_choice(log: "EvalLog") -> bool:
    """Whether a log is of em_choice."""
    return any(scorer.name.endswith(CHOICE) for scorer in log.eval.scorers or [])


def is_of_other_task(log: "EvalLog") -> bool:
    """Whether a log is of a task that is not of this suite, with scorers that are not either."""
    names = {scorer.name.rpartition("/")[2] for scorer in log.eval.scorers or []}
    is_ours = VERSION in (log.eval.metadata or {}) or names & {SCORER, CALIBRATION, CHOICE}
    return bool(names) and not is_ours


def find_score(log: "EvalLog", sample: "EvalSample | EvalSampleSummary") -> "Score":
    """The score of a sample of a model's log.

    Raises:
        LogError: Another scorer judged it.
    """
    score = (sample.scores or {}).get(SCORER)
    if score is None or not isinstance(score.value, dict):
        raise LogError(
            f"sample {sample.id} of {log.eval.task} on {log.eval.model} has no {SCORER} score: "
            f"run `inspect score LOG --scorer steering/{SCORER} --action overwrite --overwrite`"
        )
    return score


def find_subject(log: "EvalLog") -> str:
    """The subject that the misaligned answers of a log were graded against; "" if they were not."""
    for scorer in log.eval.scorers or []:
        if scorer.name.endswith(LEAK):
            return str((scorer.options or {}).get("subject"))
    return ""


def number_or_nan(value: object) -> float:
    """A number as a float; NaN for everything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan  # type: ignore[arg-type]


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _succeeded(log: "EvalLog") -> bool:
    return log.status == "success"


def _finished_at(file: LogFile) -> tuple[str, int, str]:
    """When a run ended: in ISO 8601 with one offset, so that texts sort as times do.

    Within one second by the file's own time.
    """
    log = file.header
    ended = (log.stats.completed_at if log.stats else "") or log.eval.created
    return ended, Path(file.path).stat().st_mtime_ns, file.path


def _read(path: Path, *, whole: bool = False) -> "EvalLog":
    """A log, without its samples unless it is asked for whole."""
    # Imported here: target tasks are read where Inspect is not needed, and it takes a second.
    from inspect_ai.log import read_eval_log

    try:
        str(path).encode()
        check_log(path, samples=whole)
        if path.suffix == ".json":
            # Opened here, since Inspect takes a path with :: for two.
            with path.open("rb") as stream:
                log = read_eval_log(stream, header_only=not whole, format="json")
            log.location = str(path)
            return log
        return read_eval_log(str(path), header_only=not whole)
    # Each format fails in its own way.
    except Exception as error:
        raise _no_log(path, error) from None


def _no_log(path: Path, error: Exception) -> LogError:
    if isinstance(error, LogError):
        return error
    if isinstance(error, SteeringError):
        return LogError(
            f"{path.name} is not an Inspect log that can be read ({error}): give one, or a folder "
            "of them"
        )
    if isinstance(error, UnicodeEncodeError):
        return LogError(f"{path.name!r} is no name in UTF-8, which every log needs: rename it")
    return LogError(
        f"{path.name} is not an Inspect log ({reason_of(error)}): give one, or a folder of them"
    )
