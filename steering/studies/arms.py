"""Steered against finetuned: two dose curves from one baseline, compared where they are alike."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd

from steering.judging import EMRule
from steering.results.context_columns import plain_rows
from steering.results.series import AskedAlike, asked_alike, strata
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
# answers, which make them "potentially more harmful"; severity asks so itself. The others tell what
# an arm does to all its answers.
QUANTITIES: dict[Match, tuple[Quantity, ...]] = {
    "harm": ("relevant_harmful", "coherent_harmful", "severity", "leak", "relevant", "coherent"),
    "coherent": ("em", "relevant_harmful", "relevant"),
}


@dataclass(frozen=True)
class ArmComparison:
    """Steered less finetuned at the doses where both arms have one level of harm or coherence."""

    match: Match
    level: float
    doses: tuple[float, float]
    differences: list[MatchedDifference]


def compare_arms(
    answers: pd.DataFrame, rule: EMRule = "moem"
) -> tuple[list[ArmComparison], list[str]]:
    """Steered against finetuned where they do harm equally often, and where equally coherent.

    The answers are of one model and one target.

    Returns:
        The comparisons, and why there is none where an arm does not get far enough, or has its
        doses too far apart.

    Raises:
        StudyError: The conditions were not asked alike, an arm has no doses, or options were
            crossed with them.
    """
    groups = asked_alike(plain_rows(answers))
    pairs = arm_pairs(groups[0].answers)
    parts = groups if len(groups) > 1 else pairs
    if len(parts) > 1:
        settings = " and ".join(part.settings for part in parts)
        raise StudyError(f"the runs of this study differ in {settings}: compare them apart")
    first, second = dose_curves(pairs[0].answers, rule)
    ungraded = {name for name in ("leak", "severity") if answers[name].isna().all()}
    comparisons: list[ArmComparison] = []
    reasons: list[str] = []
    for match, quantities in QUANTITIES.items():
        try:
            levels = shared_levels(first, second, match)
        except StudyError as error:
            reasons.append(str(error))
            continue
        for level in levels:
            try:
                doses = [curve.dose(curve.between(match, level)) for curve in (first, second)]
            except StudyError as error:
                reasons.append(str(error))
                continue
            differences = [
                matched_difference(first, second, quantity, match, level)
                for quantity in quantities
                if quantity not in ungraded
            ]
            comparisons.append(ArmComparison(match, level, (doses[0], doses[1]), differences))
    return comparisons, reasons


def arm_pairs(answers: pd.DataFrame) -> list[AskedAlike]:
    """Each stratum of the steered arm beside each of the finetuned one, with the baseline.

    Raises:
        StudyError: An arm has no doses.
    """
    of_arms = [strata(answers, [arm_axis(answers, arm)], arm) for arm in ARMS]
    for arm, of_arm in zip(ARMS, of_arms, strict=True):
        if all(arm not in set(stratum.answers["arm"]) for stratum in of_arm):
            raise StudyError(f"there is no condition of the {arm} arm")
    return [
        AskedAlike(
            pd.concat([steered.answers, tuned.answers[tuned.answers["arm"] == "finetuned"]]),
            ", ".join(filter(None, [steered.settings, tuned.settings])),
            (*steered.left_out, *tuned.left_out),
        )
        for steered, tuned in product(*of_arms)
    ]


def arm_axis(answers: pd.DataFrame, arm: Arm) -> str:
    """The column of an arm's doses.

    The magnitude of the steered arm; of the finetuned arm the adapter's scale where it varies, else
    the training epoch.
    """
    if arm == "steered":
        return "magnitude"
    scales = answers.loc[answers["arm"] == arm, "adapter_scale"]
    return "adapter_scale" if scales.nunique() > 1 else "training_epochs"


def dose_curves(answers: pd.DataFrame, rule: EMRule) -> tuple[DoseCurve, DoseCurve]:
    """The dose curves of both arms; the baseline is dose 0 of each.

    Args:
        answers: One of `arm_pairs`.
        rule: Of the EM rates.

    Raises:
        StudyError: As `DoseCurve`.
    """
    curves = []
    for arm in ARMS:
        rows = answers[answers["arm"].isin(["baseline", arm])]
        is_baseline = rows["arm"] == "baseline"
        dosed = rows.assign(
            dose=rows[arm_axis(answers, arm)].where(~is_baseline, 0.0),
            build_seed=rows["build_seed"].where(~is_baseline, np.nan),
        )
        curves.append(DoseCurve(dosed, rule, arm))
    return curves[0], curves[1]
