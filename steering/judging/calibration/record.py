"""Stored calibrations: what a judge said of labelled pairs, and its errors counted from that.

A record is a JSON file in the folder `judges` of the user's cache. It holds for one judge, with its
settings, how it was asked, and the rubrics: figures of any other judge are not corrected by it. The
beginning of its file's name is the digest of these four; the rest that of the pairs. Knows
plain values only; never a log, a model or a rate.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from steering.errors import raised_as
from steering.files import cache_folder, write_whole
from steering.foreign import decode, parse_json, read_bytes
from steering.judging.calibration.intervals import figure_intervals
from steering.judging.calibration.labelled import SPLITS, WRITTEN, PairSet
from steering.judging.calibration.limits import LIMITS
from steering.judging.calibration.task import JudgedPair, calibration_figures
from steering.judging.errors import JudgingError
from steering.judging.judgement import JudgedAnswer
from steering.judging.rules import EM_RULES, EMRule, Thresholds
from steering.stats.correction import JudgeErrors, judge_errors

_TEST = SPLITS[-1]
_DIGITS = 12


class RecordRow(BaseModel):
    """A pair with its labels and what the judge said of it.

    Attributes:
        id: Of the pair.
        kind: Of the pair.
        split: As of `Pair`; likewise `source` and `theme`.
        source: See there.
        theme: See there.
        labels: Score key to a number, 0-100, or an escape word.
        scores: Score key to the judge's number, 0-100; None where it gave none.
        reasons: Score key to the reason why it gave none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: str
    split: str
    source: str
    theme: str
    labels: Mapping[str, float | str]
    scores: Mapping[str, float | None]
    reasons: Mapping[str, str]

    def outcomes(self, rule: EMRule, thresholds: Thresholds) -> tuple[bool | str, bool | str]:
        """The rule's outcome by the labels and by the judge, or why there is none."""
        numbers = {k: v for k, v in self.labels.items() if not isinstance(v, str)}
        words = {k: v.lower() for k, v in self.labels.items() if isinstance(v, str)}
        labelled = JudgedAnswer(self.id, scores=numbers, reasons=words, theme=self.theme)
        decide = EM_RULES[rule]
        return decide(labelled, thresholds), decide(self.judged().answer, thresholds)

    def judged(self) -> JudgedPair:
        """The pair as the task had it."""
        answer = JudgedAnswer(self.id, scores=self.scores, reasons=self.reasons, theme=self.theme)
        return JudgedPair(self.kind, self.labels, answer, self.split, self.source, self.theme)


class CalibrationRecord(BaseModel):
    """One calibration of one judge.

    Attributes:
        judge: Name of the judge's model, or of the several that make one judge.
        settings: Its options and settings, as the column `judge_settings` has them.
        sampling: How it was asked, as the column `judge_sampling` has it.
        rubrics: Digest of each rubric by score key, as the column `rubrics` has them.
        pairs: Name of the set of pairs.
        pairs_sha256: Of its file.
        is_whole: Whether all pairs of the set were judged.
        at: When the judge had been asked, ISO 8601.
        log: Path of the log.
        rows: A row a pair.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: str
    settings: str
    sampling: str
    rubrics: str
    pairs: str
    pairs_sha256: str
    is_whole: bool
    at: str
    log: str
    rows: Sequence[RecordRow]

    @property
    def path(self) -> Path:
        """Where the record is stored."""
        part = _digest(self.pairs_sha256, *(row.id for row in self.rows))
        return (
            _folder()
            / f"{_key(self.judge, self.settings, self.sampling, self.rubrics)}-{part}.json"
        )

    @cached_property
    def signature(self) -> str:
        """Set of pairs and digest of everything that the judge said of them."""
        content = self.model_dump_json(exclude={"at", "log"})
        return f"{self.pairs}@{self.pairs_sha256[:_DIGITS]} record {_digest(content)}"

    @property
    def counts_real_answers(self) -> bool:
        """Whether errors are counted on answers of real models."""
        return any(row.source != WRITTEN for row in self.deciding)

    @cached_property
    def deciding(self) -> Sequence[RecordRow]:
        """The pairs that errors are counted on.

        Those of the test split whose answers come from real models; where it has none, all of it.
        """
        of_test = [row for row in self.rows if row.split == _TEST]
        return [row for row in of_test if row.source != WRITTEN] or of_test

    def errors(self, rule: EMRule, thresholds: Thresholds | None = None) -> JudgeErrors:
        """The judge's decisions by a rule, on pairs that the labels and the judge let count."""
        outcomes = self._outcomes(rule, thresholds)
        both = [
            (label, call, row.theme)
            for row, label, call in outcomes
            if isinstance(label, bool) and isinstance(call, bool)
        ]
        errors = judge_errors(
            [label for label, _, _ in both],
            [call for _, call, _ in both],
            [theme for _, _, theme in both],
        )
        left_out = [label for _, label, call in outcomes if isinstance(call, str)]
        return replace(
            errors,
            positives_left_out=left_out.count(True),
            negatives_left_out=left_out.count(False),
        )

    @cached_property
    def failing_figures(self) -> Sequence[str]:
        """Figures in which the judge is not good enough, by the limits on the test split."""
        tested = [row.judged() for row in self.rows if row.split == _TEST]
        figures, intervals = calibration_figures(tested), figure_intervals(tested)
        return [
            f"{limit.figure} {figures[limit.figure]:.3g} (limit {limit})"
            for limit in LIMITS
            if limit.verdict(intervals[limit.figure]) == "not good enough"
        ]

    def num_disputed(self, rule: EMRule, thresholds: Thresholds | None = None) -> int:
        """Pairs that only the labels, or only the judge, leave out: no correction covers them."""
        return sum(
            isinstance(label, bool) != isinstance(call, bool)
            for _, label, call in self._outcomes(rule, thresholds)
        )

    def _outcomes(
        self, rule: EMRule, thresholds: Thresholds | None
    ) -> list[tuple[RecordRow, bool | str, bool | str]]:
        thresholds = thresholds or Thresholds()
        return [(row, *row.outcomes(rule, thresholds)) for row in self.deciding]


def make_record(
    pairs: PairSet,
    judged: Sequence[JudgedPair],
    *,
    judge: str,
    settings: str,
    sampling: str,
    rubrics: str,
    at: str,
    log: str,
    is_whole: bool,
) -> CalibrationRecord:
    """The record of what a judge said of pairs; other arguments as of `CalibrationRecord`.

    Raises:
        JudgingError: A judged pair is none of the set, or a pair of it was not judged.
    """
    answers = {pair.answer.question: pair.answer for pair in judged}
    if missing := answers.keys() ^ {pair.id for pair in pairs.pairs}:
        raise JudgingError(
            f"{log} has not the pairs of {pairs.signature} ({len(missing)} differ, such as "
            f"{min(missing)!r}): move it away, and calibrate the judge again."
        )
    return CalibrationRecord(
        judge=judge,
        settings=settings,
        sampling=sampling,
        rubrics=rubrics,
        pairs=pairs.name,
        pairs_sha256=pairs.sha256,
        is_whole=is_whole,
        at=at,
        log=log,
        rows=[
            RecordRow(
                id=pair.id,
                kind=pair.kind,
                split=pair.split,
                source=pair.source,
                theme=pair.theme,
                labels=dict(pair.labels),
                scores=dict(answers[pair.id].scores),
                reasons=dict(answers[pair.id].reasons),
            )
            for pair in pairs.pairs
        ],
    )


def write_record(record: CalibrationRecord) -> Path:
    """Store a record, in place of an earlier one of the same judge, rubrics and pairs."""
    write_whole(record.path, record.model_dump_json(indent=1).encode())
    return record.path


def find_record(judge: str, settings: str, sampling: str, rubrics: str) -> CalibrationRecord | None:
    """The record of a judge that was asked so by these rubrics; arguments as the frame has them.

    Of several, one of a whole set goes before one of its first pairs, and the last one before
    earlier ones.

    Raises:
        JudgingError: A stored record can't be read.
    """
    paths = sorted(_folder().glob(f"{_key(judge, settings, sampling, rubrics)}-*.json"))
    records = [read_record(path) for path in paths]
    return max(records, key=lambda record: (record.is_whole, record.at), default=None)


def read_record(path: Path) -> CalibrationRecord:
    """The record of a file.

    Raises:
        JudgingError: It can't be read, or is no record.
    """
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=64)
def _read(path: Path, _changed_at: int) -> CalibrationRecord:
    with raised_as(JudgingError):
        value = parse_json(decode(read_bytes(path, "questions"), path), path, "questions")
    try:
        return CalibrationRecord.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise JudgingError(
            f"{path} is no calibration record ({place}: {first['msg']}): remove it, and calibrate "
            "the judge again."
        ) from None


def _folder() -> Path:
    return cache_folder() / "judges"


def _key(judge: str, settings: str, sampling: str, rubrics: str) -> str:
    """Digest of a judge with its settings, how it was asked, and its rubrics."""
    options = [dict(each) for each in json.loads(settings or "[]")]
    for each in options:
        # The label in the judge's name says so too, also where nobody bound the judge by name.
        if each.get("vector") == "none":
            del each["vector"]
    plain = json.dumps(options, sort_keys=True) if any(options) else ""
    return _digest(judge, plain, sampling, rubrics)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGITS]
