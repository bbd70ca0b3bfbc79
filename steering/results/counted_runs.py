"""Which runs count, and why the others do not.

A run counts whole or not at all. What can't have happened (copied samples, scores of 101) leaves it
out by name, and a caller that asks for complete runs gets an error instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steering.logs import (
    CopiedSamples,
    LogError,
    LogFile,
    is_of_judge,
    retried,
    why_impossible,
    why_left_out,
)
from steering.text import shell_line

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample, EvalSampleSummary

LeftOutKind = Literal[
    "unfinished",
    "retried",
    "judge",
    "no samples",
    "no scores",
    "impossible",
    "failed samples",
    "no plain",
    "replaced",
    "copy",
]


class ResultError(LogError):
    """There are no runs to count, or one that can't be counted."""


@dataclass(frozen=True)
class LeftOut:
    """A log, or samples of one, that no figure counts.

    Attributes:
        log: Name of the log below the folder that was searched.
        reason: Why it does not count.
        kind: The same for programs.
    """

    log: str
    reason: str
    kind: LeftOutKind

    def __str__(self) -> str:
        if self.kind == "failed samples":
            return f"{self.log}: {self.reason}: not counted"
        return f"{self.log}: left out, since {self.reason}"


def split_runs(files: Sequence[LogFile]) -> tuple[list[LogFile], list[LeftOut]]:
    """The logs with answers to count, oldest first, and why the others have none."""
    later = retried(list(files))
    candidates, notes = [], []
    for file in files:
        if file.path in later:
            notes.append(LeftOut(file.name, f"{later[file.path]} finished its run", "retried"))
        elif reason := why_left_out(file.header):
            kind: LeftOutKind = "judge" if is_of_judge(file.header) else "unfinished"
            notes.append(LeftOut(file.name, reason, kind))
        else:
            candidates.append(file)
    return candidates, notes


def no_runs(
    logs: str | Path | LogFile | Sequence[str | Path | LogFile], notes: Sequence[LeftOut]
) -> str:
    """Why there is nothing to count: the first log's reason, where there is a log."""
    places = [logs] if isinstance(logs, str | Path | LogFile) else logs
    where = ", ".join(map(str, places))
    if not notes:
        return (
            f"{where} holds no finished runs: give a log, or the folder that a run named as "
            "--log-dir"
        )
    more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
    return f"{where} holds no finished runs that can be counted. {notes[0]}{more}"


def why_not_counted(
    file: LogFile,
    samples: "Sequence[EvalSample | EvalSampleSummary]",
    copied: CopiedSamples,
    scorer: str,
) -> LeftOut | None:
    """Why a finished run does not count: no samples, no scores, or some that can't be of it.

    `scorer` is whose scores are needed; "" for any.
    """
    if not samples and _expected(file):
        empty = "it holds no samples (--no-log-samples leaves them out): run it again with them"
        return LeftOut(file.name, empty, "no samples")
    completed = [sample for sample in samples if sample.error is None]
    if completed and not scorer and not any(sample.scores for sample in completed):
        unscored = "it has no scores: run `" + shell_line("inspect", "score", file.path) + "`"
        return LeftOut(file.name, unscored, "no scores")
    if completed and scorer and not any((s.scores or {}).get(scorer) for s in completed):
        command = shell_line("inspect", "score", file.path, "--scorer", f"steering/{scorer}")
        unscored = f"it has no {scorer} scores: run `{command} --action overwrite --overwrite`"
        return LeftOut(file.name, unscored, "no scores")
    reason = why_impossible(file.header, samples) or copied.why_copied(file, samples)
    return impossible(file, reason) if reason else None


def impossible(file: LogFile, reason: str) -> LeftOut:
    """The note on a run that can't have happened, or can't be read."""
    return LeftOut(file.name, reason, "impossible")


def failed_samples(file: LogFile, number: int) -> LeftOut | None:
    """The note on samples of a run that failed; None for no samples."""
    if not number:
        return None
    reason = f"{number} of its samples failed (with an error, or without an output)"
    return LeftOut(file.name, reason, "failed samples")


def refuse_unfinished(notes: Sequence[LeftOut]) -> None:
    """Refuse runs that broke off.

    Raises:
        ResultError: There is one.
    """
    for note in notes:
        if note.kind == "unfinished":
            raise ResultError(
                f"{note.log} {note.reason.removeprefix('it ')}: finish it with `inspect "
                f"eval-retry`, or move it out of the folder"
            )


def refuse_incomplete(file: LogFile, note: LeftOut | None, completed: int) -> None:
    """Refuse a run that can't be counted whole.

    Args:
        file: Its log.
        note: On what of it is not counted.
        completed: Number of its answers.

    Raises:
        ResultError: It is none, or lacks some of its samples.
    """
    expected, folder = _expected(file), Path(file.path).parent
    if note is not None and note.kind != "failed samples":
        raise ResultError(
            f"{file.name} can't be counted, since {note.reason}: move it out of {folder}"
        )
    if note is None and 0 < completed >= expected:
        return
    missing = note.reason if note else f"it has {completed} of {expected} samples"
    raise ResultError(
        f"{file.name} can't be counted whole, since {missing}: finish it with `inspect "
        f"eval-retry`, or move it out of {folder}"
    )


def _expected(file: LogFile) -> int:
    """How many samples were asked; Inspect writes the number after --limit and --sample-id."""
    dataset, config = file.header.eval.dataset, file.header.eval.config
    return (len(dataset.sample_ids or []) or dataset.samples or 0) * (config.epochs or 1)
