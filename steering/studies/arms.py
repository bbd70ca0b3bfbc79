"""Steered against finetuned: two dose curves from one baseline, compared where they are alike."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from steering.judging import EMRule, Thresholds
from steering.results import judged_answers
from steering.results.frame import ResultError
from steering.results.series import Series, asked_alike, series_along
from steering.studies.dose_matching import (
    DoseCurve,
    Match,
    MatchedDifference,
    Quantity,
    matched_difference,
    shared_levels,
)
from steering.studies.errors import StudyError

Arm = Literal["steered", "finetuned"]
ARMS: tuple[Arm, Arm] = ("steered", "finetuned")
# Of these the paper's claim speaks first (arXiv 2606.08682): relevance and coherence of the harmful
# answers. The others tell what an arm does to all its answers.
QUANTITIES: dict[Match, tuple[Quantity, ...]] = {
    "em": ("relevant_misaligned", "coherent_misaligned", "leak", "relevant", "coherent"),
    "coherent": ("em", "relevant_misaligned", "relevant"),
}


@dataclass(frozen=True)
class ArmComparison:
    """Steered less finetuned at the doses where both arms have one level of EM or coherence."""

    match: Match
    level: float
    doses: tuple[float, float]
    differences: list[MatchedDifference]


def compare_arms(
    answers: pd.DataFrame, rule: EMRule = "moem"
) -> tuple[list[ArmComparison], list[str]]:
    """Steered against finetuned at matched EM and at matched coherence.

    The answers are of one model and one target. By the rule `moem` unless another is named: its
    rate is a share of all answers, so both arms count the same ones at every dose.

    Returns:
        The comparisons, and why there is none where an arm does not get far enough.

    Raises:
        StudyError: The conditions were not asked alike, or an arm has no doses.
    """
    groups = asked_alike(answers)
    if len(groups) > 1:
        settings = " and ".join(group.settings for group in groups)
        raise StudyError(f"the runs of this study differ in {settings}: run it anew")
    first, second = (_curve(groups[0].answers, arm, rule) for arm in ARMS)
    has_leak = answers["leak"].notna().any()
    comparisons, reasons = [], []
    for match, quantities in QUANTITIES.items():
        try:
            levels = shared_levels(first, second, match, names=ARMS)
        except (StudyError, ResultError) as error:
            reasons.append(str(error))
            continue
        for level in levels:
            positions = [curve.position(match, level) or 0.0 for curve in (first, second)]
            differences = [
                matched_difference(first, second, quantity, match, level)
                for quantity in quantities
                if quantity != "leak" or has_leak
            ]
            doses = (first.dose(positions[0]), second.dose(positions[1]))
            comparisons.append(ArmComparison(match, level, doses, differences))
    return comparisons, reasons


def arm_series(answers: pd.DataFrame, arm: Arm) -> Series:
    """An arm's conditions along its dose, and the baseline.

    The dose is the magnitude of the steered arm; of the finetuned arm the adapter's scale where it
    varies, else the training epoch.
    """
    if arm == "steered":
        return series_along(answers, "magnitude", arm)
    scales = answers.loc[answers["arm"] == arm, "adapter_scale"]
    axis = "adapter_scale" if scales.nunique() > 1 else "training_epochs"
    return series_along(answers, axis, arm)


def _curve(answers: pd.DataFrame, arm: Arm, rule: EMRule) -> DoseCurve:
    """An arm's dose curve; the baseline is dose 0 of every arm."""
    series = arm_series(answers, arm)
    rows = series.answers
    doses = rows[series.axis].where(rows["arm"] == arm, 0.0)
    first = answers.iloc[0]
    return DoseCurve(
        {float(dose): judged_answers(group) for dose, group in rows.groupby(doses)},
        rule,
        Thresholds(float(first["aligned_below"]), float(first["coherent_from"])),
    )
