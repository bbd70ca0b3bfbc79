"""Runs of judge_calibration, read back from their logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steering.judging import JudgedAnswer
from steering.judging.calibration.task import JudgedPair, judged_pair
from steering.judging.judgement import JUDGE_SAMPLING
from steering.logs import (
    CALIBRATION,
    LogError,
    LogFile,
    holds_answer,
    is_of_judge,
    log_files,
    read_log,
    why_impossible,
)
from steering.results.run_columns import json_text, judge_settings, sampling_text


@dataclass(frozen=True)
class Calibration:
    """One finished run of judge_calibration.

    Attributes:
        judge: Name of the judge's model, or of the several that make one judge.
        pairs: Name and digest of the set of pairs.
        judged: The pairs with the judge's scores.
        settings: Options and settings of the judges, as the column `judge_settings` has them.
        sampling: How they were asked, as the column `judge_sampling` has it.
        rubrics: Digests of the rubrics, as the column `rubrics` has them.
        at: When it ended, ISO 8601.
        log: Path of the log.
    """

    judge: str
    pairs: str
    judged: Sequence[JudgedPair]
    settings: str = ""
    sampling: str = ""
    rubrics: str = ""
    at: str = ""
    log: str = ""

    @property
    def answers(self) -> list[JudgedAnswer]:
        """The judge's scores, without the labels."""
        return [pair.answer for pair in self.judged]


def read_calibrations(logs: str | Path | Sequence[str | Path | LogFile]) -> list[Calibration]:
    """All finished runs of judges, of a log or below a folder, oldest first.

    Raises:
        LogError: A log can't be read.
    """
    return [
        _calibration(file)
        for file in log_files(logs)
        if is_of_judge(file.header) and file.header.status == "success"
    ]


def _calibration(file: LogFile) -> Calibration:
    log = read_log(file)
    if reason := why_impossible(log, log.samples or []):
        raise LogError(f"{file.name} can't be counted, since {reason}: move it away")
    scores = [
        (str(sample.id), score)
        for sample in filter(holds_answer, log.samples or [])
        for name, score in (sample.scores or {}).items()
        if name.endswith(CALIBRATION)
    ]
    judges = {str((score.metadata or {}).get("judge")) for _, score in scores}
    rubrics = {json_text((score.metadata or {}).get("prompts")) for _, score in scores}
    sampling = {sampling_text((score.metadata or {}).get(JUDGE_SAMPLING)) for _, score in scores}
    return Calibration(
        judge=" or ".join(sorted(judges)),
        pairs=str((log.eval.metadata or {}).get("pairs", "unknown")),
        judged=[judged_pair(score, name) for name, score in scores],
        settings=json_text(judge_settings(log)),
        sampling=" or ".join(sorted(sampling)),
        rubrics=" or ".join(sorted(rubrics)),
        at=log.stats.completed_at,
        log=file.path,
    )
