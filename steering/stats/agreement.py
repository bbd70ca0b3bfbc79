"""Agreement of raters: Krippendorff's alpha of scores, Cohen's kappa of decisions."""

import math
from collections.abc import Sequence

from inspect_ai.scorer import SampleScore, Score, krippendorff_alpha


def alpha(ratings: Sequence[Sequence[float]]) -> float:
    """Krippendorff's alpha at interval level; NaN without an answer that two judges rated.

    Args:
        ratings: for each answer the scores of the judges that gave one.
    """
    units = [SampleScore(score=Score(value=list(unit))) for unit in ratings if len(unit) > 1]
    value = krippendorff_alpha("interval")(units) if units else math.nan  # type: ignore[arg-type]
    assert isinstance(value, float)
    return value


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Agreement of two raters on a yes-or-no decision beyond chance (Cohen 1960).

    NaN where it is undefined: without decisions, or where both raters always decide the same way.
    """
    n = len(first)
    if not n:
        return math.nan
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    yes, other = sum(first) / n, sum(second) / n
    chance = yes * other + (1 - yes) * (1 - other)
    return (agreed - chance) / (1 - chance) if chance < 1 else math.nan
