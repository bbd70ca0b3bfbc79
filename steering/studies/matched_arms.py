"""Arms compared where they have the same narrow effect, or do the same damage, by em_choice.

An arm is a set of dose curves, one a unit: of a target task's vectors, of adapters and of random or
shuffled controls a unit is a build seed, of contrasts it is a contrast. What a model is told has no
doses: a prompt is a point, and others are compared with it at its own narrow effect and damage.
Three things are read of each condition, in nats a token, themes alike: the shift on held-out pairs
of the target task (`narrow`), the shift on pairs of unrelated questions (`broad`), and the KL to
the unsteered model on neutral answers (`damage`); where answers were judged, the EM rate, too.

Each unit is followed from the baseline to where it first reaches a level, and read there. A level
that a unit never reaches is refused by name: nothing is extrapolated. Between two doses a quantity
is interpolated along what is matched and along its root; the value is the middle of both readings,
and half their distance is added to the interval, as `dose_matching` does it for judged answers.

Intervals are of the jackknife with Student's t. Units of either arm, themes that are matched on and
themes that are compared are left out in turn, each from both arms at once, and all variances count.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from steering.judging import EMRule
from steering.results.choices import set_name
from steering.results.context_columns import plain_rows
from steering.stats import CONFIDENCE, t_quantile
from steering.stats.trends import crossed_error, t_tail
from steering.studies.errors import StudyError

Match = Literal["narrow", "damage"]
MATCHES: tuple[Match, ...] = ("narrow", "damage")
Quantity = Literal["narrow", "broad", "damage", "em"]
# Where on the range that both arms cover they are compared; the middle one is the headline.
SHARES = (0.25, 0.5, 0.75)
# Narrower ranges, in nats a token, are noise: two random directions differ by as much.
LEAST_RANGE: dict[Match, float] = {"narrow": 0.05, "damage": 0.02}
STEERED, FINETUNED, CONTRASTS = "steered", "finetuned", "contrasts"
_CONTROLS = {"contrast": CONTRASTS, "shuffled": "shuffled labels", "random": "random"}
_WORDS: dict[Match, str] = {"narrow": "narrow effect", "damage": "damage"}

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class ArmCurve:
    """What an arm does, dose by dose, unit by unit and theme by theme.

    Attributes:
        name: Of the arm.
        doses: From 0, the baseline; a prompt has one dose, 1, and no baseline.
        units: Build seeds, or contrasts.
        tables: Of each quantity, [doses, units, themes]; NaN where an answer has no score.
    """

    name: str
    doses: tuple[float, ...]
    units: tuple[str, ...]
    tables: dict[Quantity, _Array]

    @property
    def is_point(self) -> bool:
        """Whether it has no doses."""
        return len(self.doses) == 1

    def means(self, quantity: Quantity, themes: _Array | None = None) -> _Array:
        """Mean over themes, [doses, units]; `themes` are weights."""
        table = self.tables[quantity]
        weights = np.ones(table.shape[-1]) if themes is None else themes
        known = np.isfinite(table)
        with np.errstate(invalid="ignore"):
            return np.asarray((np.where(known, table, 0) @ weights) / (known @ weights))

    def reach(self, match: Match) -> float:
        """The furthest level that all its units reach."""
        return float(self.means(match).max(axis=0).min())


@dataclass(frozen=True)
class ArmDifference:
    """Steered less another arm at one level.

    Attributes:
        arm: The other arm.
        match: What is the same in both.
        level: Of it, nats a token.
        quantity: What is compared: `broad` in nats a token, `em` as a rate.
        first: Of the steered arm; likewise `second` of the other.
        value: `first` less `second`.
        low: Lower bound; NaN where it can't be had.
        high: Upper bound.
        p_value: Two-sided, for the value nearest to 0 of what the doses leave open.
        num_units: Of the other arm.
    """

    arm: str
    match: Match
    level: float
    quantity: Quantity
    first: float
    second: float
    value: float
    low: float
    high: float
    p_value: float
    num_units: int


def read_arms(choices: pd.DataFrame, answers: pd.DataFrame, rule: EMRule) -> list[ArmCurve]:
    """The arms of one model's study, the steered one first.

    Args:
        choices: A row a pair, as `read_choices` gives them: of the target's held-out pairs and of
            one other set.
        answers: A row an answer, of the same conditions; may have no rows.
        rule: Of EM rates.

    Raises:
        StudyError: There is no steered arm or more than one target, a set of pairs is missing, or
            a unit lacks a dose.
    """
    choices = _with_places(plain_rows(choices[choices["form"] == "likelihood"]))
    targets = choices.loc[choices["_arm"] == STEERED, "target"].unique()
    if len(targets) != 1:
        raise StudyError(
            f"the steered arm has {len(targets)} target tasks: one is needed. Run steering study "
            "arms"
        )
    is_own = choices["questions"].map(set_name) == targets[0]
    is_pair = choices["item"] == "pair"
    others = choices.loc[~is_own, "questions"].unique()
    if not is_own.any() or len(others) != 1:
        raise StudyError(
            f"held-out pairs of {targets[0]} and one other set of pairs are needed, got "
            f"{', '.join(choices['questions'].unique())}"
        )
    parts: dict[Quantity, tuple[pd.DataFrame, str]] = {
        "narrow": (choices[is_own & is_pair], "shift"),
        "broad": (choices[~is_own & is_pair], "shift"),
        "damage": (choices[~is_own & ~is_pair], "kl"),
    }
    if len(answers):
        parts["em"] = (_with_places(plain_rows(answers)), f"em_{rule}")
    names = dict.fromkeys(choices.loc[choices["_arm"] != "", "_arm"])
    order = [STEERED, *(name for name in names if name != STEERED)]
    return [_read_arm(name, parts) for name in order]


def _with_places(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with arm, unit and dose of their condition; the arm is "" of one without a place."""
    scale = rows.loc[rows["arm"] == "finetuned", "adapter_scale"]
    tuned = rows["adapter_scale"] if scale.nunique() > 1 else rows["training_epochs"]
    is_prompted, is_tuned = rows["arm"] == "prompted", rows["arm"] == "finetuned"
    arm = rows["arm"].where(rows["arm"].isin([STEERED, FINETUNED]), "")
    arm = arm.mask(rows["arm"] == "control", rows["control"].map(_CONTROLS).fillna(""))
    kind = rows["model_prompt"].str.partition("@")[0]
    count = rows["num_examples"].map(lambda number: "" if math.isnan(number) else f"{number:g} ")
    arm = arm.mask(is_prompted & (kind != ""), count + kind)
    seed = rows["build_seed"].fillna(0).map("{:g}".format)
    return rows.assign(
        _arm=arm,
        _unit=seed.mask(arm == CONTRASTS, rows["target"]),
        _dose=rows["magnitude"].mask(is_tuned, tuned).mask(is_prompted, 1.0),
    )


def _read_arm(name: str, parts: dict[Quantity, tuple[pd.DataFrame, str]]) -> ArmCurve:
    first = parts["broad"][0]
    of_arm = first[first["_arm"] == name]
    doses, units = sorted(of_arm["_dose"].unique().tolist()), sorted(of_arm["_unit"].unique())
    is_point = (of_arm["arm"] == "prompted").all()
    tables: dict[Quantity, _Array] = {}
    for quantity, (rows, column) in parts.items():
        themes = sorted(rows["theme"].unique())
        cells = rows[rows["_arm"] == name].groupby(["_dose", "_unit", "theme"])[column]
        index = pd.MultiIndex.from_product([doses, units, themes])
        counts = cells.size().reindex(index, fill_value=0).to_numpy()
        shape = (len(doses), len(units), len(themes))
        for dose, unit in np.argwhere((counts.reshape(shape) == 0).all(axis=2)):
            raise StudyError(
                f"the arm {name} was not run with unit {units[unit]} at dose {doses[dose]:g}: run "
                "it too"
            )
        table = cells.mean().reindex(index).to_numpy(dtype=np.float64).reshape(shape)
        if not is_point:
            zero = np.zeros(len(themes))  # of what is measured against the baseline
            if quantity == "em":
                baseline = rows[rows["arm"] == "baseline"].groupby("theme")[column].mean()
                zero = baseline.reindex(themes).to_numpy(dtype=np.float64)
            table = np.concatenate([np.broadcast_to(zero, (1, *shape[1:])), table])
        tables[quantity] = table
    return ArmCurve(name, tuple(doses if is_point else [0.0, *doses]), tuple(units), tables)


def levels_of(first: ArmCurve, second: ArmCurve, match: Match) -> list[float]:
    """Where two arms are compared: at `SHARES` of what both cover, or at a prompt's own level.

    Raises:
        StudyError: An arm reaches no level that is wider than noise, or the steered arm does not
            get as far as the prompt.
    """
    least, word = LEAST_RANGE[match], _WORDS[match]
    if second.is_point:
        level = float(second.means(match).mean())
        if level < least:
            raise StudyError(f"{second.name} has a {word} of {level:.3f}, too little to match")
        _refuse_short(first, match, level)
        return [level]
    for curve in (first, second):
        if curve.reach(match) < least:
            furthest = curve.means(match).max(axis=0)
            unit = curve.units[int(furthest.argmin())]
            raise StudyError(
                f"the arm {curve.name} never reaches a {word} of {least:g}: its unit {unit} gets "
                f"to {furthest.min():.3f}"
            )
    furthest = min(first.reach(match), second.reach(match))
    return [share * furthest for share in SHARES]


def _refuse_short(curve: ArmCurve, match: Match, level: float) -> None:
    if (reach := curve.reach(match)) < level:
        raise StudyError(
            f"the arm {curve.name} never reaches a {_WORDS[match]} of {level:.3f}: it gets to "
            f"{reach:.3f}. Give larger doses"
        )


@dataclass(frozen=True)
class _Weights:
    """Which units and themes count, 1 or 0 each."""

    first: _Array
    second: _Array
    matched: _Array
    compared: _Array


def arm_difference(
    first: ArmCurve,
    second: ArmCurve,
    match: Match,
    level: float,
    quantity: Quantity = "broad",
    confidence: float = CONFIDENCE,
) -> ArmDifference:
    """A quantity of two arms where both have one level, of `levels_of`.

    Args:
        first: The steered arm.
        second: Another arm; a prompt is where it is, and the level follows it.
        match: What is the same in both.
        level: Of it.
        quantity: What is compared.
        confidence: Of the interval.
    """
    _refuse_short(first, match, level)
    every = _Weights(
        *(np.ones(len(curve.units)) for curve in (first, second)),
        *(np.ones(first.tables[name].shape[-1]) for name in (match, quantity)),
    )

    def readings(weights: _Weights) -> _Array:
        """Both arms by both readings, [arms, readings]."""
        if not second.is_point:
            return np.stack(
                [
                    _read(curve, units, weights, match, level, level, quantity)
                    for curve, units in ((first, weights.first), (second, weights.second))
                ]
            )
        own, place = (
            float(np.average(second.means(name, themes)[0], weights=weights.second))
            for name, themes in ((quantity, weights.compared), (match, weights.matched))
        )
        steered = _read(first, weights.first, weights, match, level, place, quantity)
        return np.stack([steered, np.full(2, own)])

    values = readings(every)
    one, other = values.mean(axis=1)
    unsure = float(np.abs(values[:, 0] - values[:, 1]).sum()) / 2
    variances = [
        _jackknife(every, name, lambda weights: float(np.subtract(*readings(weights).mean(axis=1))))
        for name in ("first", "second", "matched", "compared")
    ]
    error, df = crossed_error([pair for pair in variances if pair is not None])
    half = t_quantile((1 + confidence) / 2, df) * error + unsure
    value = float(one - other)
    p_value = min(2 * t_tail(max(abs(value) - unsure, 0.0), error, df), 1.0)
    return ArmDifference(
        second.name, match, level, quantity, float(one), float(other), value, value - half,
        value + half, p_value, len(second.units),
    )  # fmt: skip


def _read(
    curve: ArmCurve,
    units: _Array,
    weights: _Weights,
    match: Match,
    level: float,
    place: float,
    quantity: Quantity,
) -> _Array:
    """An arm's quantity at a place, linearly along what is matched and along its root, [readings].

    The doses on either side are those of the level; a replicate's own place may lie a little apart.
    """
    ends, along = curve.means(quantity, weights.compared), curve.means(match, weights.matched)
    plain = curve.means(match)
    values = []
    for unit in range(len(curve.units)):
        after = int(np.argmax(plain[:, unit] >= level))
        before = max(after - 1, 0)
        low, high = np.maximum(along[[before, after], unit], 0.0)
        step = ends[after, unit] - ends[before, unit]
        rise, root = high - low, math.sqrt(high) - math.sqrt(low)
        linear = (place - low) / rise if rise > 0 else 1.0
        rooted = (math.sqrt(max(place, 0.0)) - math.sqrt(low)) / root if root > 0 else 1.0
        values.append([ends[before, unit] + share * step for share in (linear, rooted)])
    return np.asarray(np.average(values, axis=0, weights=units), dtype=np.float64)


def _jackknife(
    every: _Weights, name: str, value: Callable[[_Weights], float]
) -> tuple[float, int] | None:
    """Variance of a value and its degrees of freedom, from each unit or theme left out in turn.

    None of a single one, which has no variance.
    """
    count = len(getattr(every, name))
    if count == 1:
        return None
    without = [value(replace(every, **{name: row})) for row in 1 - np.eye(count)]
    return float(np.var(without)) * (count - 1), count - 1


def compare_with_steered(
    curves: Sequence[ArmCurve],
) -> tuple[list[ArmDifference], list[str]]:
    """The steered arm against each other, at each level of narrow effect and of damage.

    Returns:
        The differences, and why arms could not be compared where they could not.
    """
    steered, *others = curves
    differences: list[ArmDifference] = []
    reasons: list[str] = []
    quantities: list[Quantity] = ["broad", *(["em"] if "em" in steered.tables else [])]  # type: ignore[list-item]
    for other in others:
        for match in MATCHES:
            try:
                differences += [
                    arm_difference(steered, other, match, level, quantity)
                    for level in levels_of(steered, other, match)
                    for quantity in quantities
                ]
            except StudyError as error:
                reasons.append(f"{other.name} at matched {_WORDS[match]}: {error}")
    return differences, reasons
