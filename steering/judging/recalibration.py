"""Recalibration: a judge's scores replaced by the labels that answers with such scores had.

One rising map for each score, learned on the pairs of the split `choose` of a stored calibration;
a score of misaligned answers only stays as it is where too few of them have a label for it.
The pairs of the split `test` have no part in it. It is applied where it is asked for, and the
judge's name says so: its figures are those of another judge. Knows no model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steering.data import user_path
from steering.judging.errors import JudgingError
from steering.judging.judgement import Judgement
from steering.judging.rubric import KEYS_OF_MISALIGNED, SCORE_KEYS, SCORE_OF
from steering.stats.correction import MonotoneMap, monotone_map

if TYPE_CHECKING:
    from steering.judging.calibration.record import CalibrationRecord

RECALIBRATED = " recalibrated by "
"""Stands between the judge and the calibration in the name of a recalibrated judge."""
CHOOSE = "choose"
LEAST_PAIRS = 20
"""Fewer pairs with both numbers than that teach no map."""


@dataclass(frozen=True)
class Recalibration:
    """The maps of one judge.

    Attributes:
        judge: the judge whose scores they map.
        rubrics: digest of the rubric that it was asked with, by score key.
        signature: of the calibration that they were learned from.
        maps: score key to the map from 0-100 to 0-100; one without a map stays as it is.
    """

    judge: str
    rubrics: Mapping[str, str]
    signature: str
    maps: Mapping[str, MonotoneMap]

    def applied(self, judgements: Mapping[str, Judgement]) -> dict[str, Judgement]:
        """Judgements by dimension, with mapped scores; one without a score stays as it is."""
        return {
            dimension: each
            if each.score is None or SCORE_OF[dimension] not in self.maps
            else replace(each, score=self.maps[SCORE_OF[dimension]].apply(each.score))
            for dimension, each in judgements.items()
        }

    def name_of(self, judge: str, rubrics: Mapping[str, str]) -> str:
        """The name of the recalibrated judge.

        Raises:
            JudgingError: the maps are those of another judge, or of other rubrics.
        """
        if judge != self.judge or dict(rubrics) != dict(self.rubrics):
            what = f"the judge {self.judge}" if judge != self.judge else "other rubrics"
            raise JudgingError(
                f"the calibration {self.signature} is of {what}, and {judge} judges: give the one "
                "that `steering calibrate` wrote for this judge."
            )
        return f"{judge}{RECALIBRATED}{self.signature}"


def load_recalibration(path: str) -> Recalibration:
    """The maps that a stored calibration teaches.

    Raises:
        JudgingError: there is no such file, it is no calibration, or it has too few pairs of the
            split `choose`.
    """
    # Imported here, since calibrations are made by the scorers that may apply them.
    from steering.judging.calibration.record import read_record

    file = user_path(path)
    if not file.is_file() or not file.stat().st_size:
        problem = "is empty" if file.is_file() else "is no file"
        raise JudgingError(
            f"recalibrate={path} {problem}: give the one that `steering calibrate JUDGE` names as "
            "written."
        )
    return recalibration_of(read_record(file))


def recalibration_of(record: "CalibrationRecord") -> Recalibration:
    """The maps that a calibration teaches.

    Raises:
        JudgingError: it has too few pairs of the split `choose`.
    """
    maps = {}
    for key in SCORE_KEYS:
        rows = [
            (score, label)
            for row in record.rows
            if row.split == CHOOSE
            and isinstance(label := row.labels.get(key), int | float)
            and (score := row.scores.get(key)) is not None
        ]
        if len(rows) < LEAST_PAIRS and key in KEYS_OF_MISALIGNED:
            continue
        if len(rows) < LEAST_PAIRS:
            raise JudgingError(
                f"the calibration {record.signature} has {len(rows)} pairs of the split {CHOOSE} "
                f"with a label and a score for {key}, {LEAST_PAIRS} are needed: calibrate the "
                "judge on all pairs."
            )
        maps[key] = monotone_map(*zip(*rows, strict=True))
    return Recalibration(record.judge, json.loads(record.rubrics), record.signature, maps)


def recalibrated(record: "CalibrationRecord") -> "CalibrationRecord":
    """The calibration of the recalibrated judge: the same replies, with mapped scores."""
    maps = recalibration_of(record).maps
    rows = [
        row.model_copy(
            update={
                "scores": {
                    key: maps[key].apply(score) if score is not None and key in maps else score
                    for key, score in row.scores.items()
                }
            }
        )
        for row in record.rows
    ]
    return record.model_copy(update={"rows": rows})
