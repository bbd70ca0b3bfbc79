"""Rows of the frame of answers as judged answers, which rates and comparisons are counted from."""

import json
import math

import pandas as pd

from steering.judging import SCORE_KEYS, JudgedAnswer
from steering.judging.rubric import DOMAIN


def judged_answers(answers: pd.DataFrame) -> list[JudgedAnswer]:
    """The rows as judged answers, which rates and comparisons are counted from."""
    columns = ["question", "theme", *SCORE_KEYS, "leak", "kind", "truncated", "judge"]
    columns += ["reasons", "judge_reasons"]
    judged = []
    for row in answers[columns].itertuples(index=False):
        scores = {key: _known(getattr(row, key)) for key in SCORE_KEYS}
        reasons = json.loads(row.reasons) if row.reasons else {}
        by_judge = json.loads(row.judge_reasons) if row.judge_reasons else {row.judge: reasons}
        judged.append(
            JudgedAnswer(
                row.question,
                scores={**scores, DOMAIN: _known(row.leak)},
                kind=row.kind,
                truncated=row.truncated,
                reasons=reasons,
                by_judge=by_judge,
                theme=row.theme,
            )
        )
    return judged


def _known(score: float) -> float | None:
    return None if math.isnan(score) else score
