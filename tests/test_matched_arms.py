"""Arms at the same narrow effect and at the same damage: values, bounds, refusals and claims."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from rich.console import Console

from steering.reports.pictures import arm_points
from steering.results.schema import ANSWER_SCHEMA, CHOICE_SCHEMA, empty_frame
from steering.studies.arm_claims import (
    ARM_CLAIMS,
    above_contrasts,
    above_finetuned,
    above_prompted,
    judge_all,
    judge_arms,
)
from steering.studies.errors import StudyError
from steering.studies.matched_arms import (
    ArmCurve,
    arm_difference,
    compare_with_steered,
    levels_of,
    read_arms,
)
from steering.studies.report import figures_of, print_figures, write_report

NARROW, BROAD, NEUTRAL = 40, 8, 6


def table(
    means: Any, themes: int, rng: np.random.Generator | None, noise: float
) -> NDArray[np.float64]:
    """[doses, units, themes] around means [doses, units]; what is hard is hard at every dose."""
    means = np.asarray(means, dtype=float)
    each = np.repeat(means[:, :, None], themes, axis=2)
    if rng is None:
        return each
    return each * (1 + noise * rng.standard_normal((1, 1, themes))) + (
        0.02 * rng.standard_normal(each.shape) * (means > 0)[:, :, None]
    )


def arm(
    name: str,
    doses: Any = (0.5, 1.0, 2.0),
    slope: float = 1.0,
    cost: float = 0.2,
    units: Any = ("0", "1", "2"),
    rng: np.random.Generator | None = None,
    point: bool = False,
    between: float = 0.0,
) -> ArmCurve:
    """Narrow effect 0.2 a dose, `slope` times as much broad shift, KL `cost` times dose squared."""
    dose = np.asarray(doses if point else (0.0, *doses), dtype=float)
    apart = np.ones(len(units))
    if rng is not None and between:
        apart = apart + between * rng.standard_normal(len(units))
    narrow = np.outer(0.2 * dose, np.ones(len(units)))
    return ArmCurve(
        name,
        (1.0,) if point else tuple(dose),
        tuple(units),
        {
            "narrow": table(narrow, NARROW, rng, 0.2),
            "broad": table(slope * narrow * apart, BROAD, rng, 0.1),
            "damage": table(np.outer(cost * dose**2, np.ones(len(units))), NEUTRAL, rng, 0.1),
        },
    )


def test_two_arms_at_one_narrow_effect_differ_by_their_slopes_whatever_their_doses() -> None:
    steered, other = arm("steered", slope=1.5), arm("finetuned", (0.3, 1.7, 3.0))
    levels = levels_of(steered, other, "narrow")
    assert levels == pytest.approx([0.1, 0.2, 0.3])  # of the 0.4 that the steered arm reaches
    for level in levels:
        d = arm_difference(steered, other, "narrow", level)
        # Linear between doses: the reading along the root is above or below by what is unsure.
        assert d.low <= 0.5 * level <= d.high
        assert d.value == pytest.approx(0.5 * level, abs=0.04)


def test_at_a_dose_that_both_have_nothing_is_unsure() -> None:
    steered, other = arm("steered", slope=1.5), arm("finetuned")
    d = arm_difference(steered, other, "narrow", 0.2)
    assert (d.first, d.second) == (pytest.approx(0.3), pytest.approx(0.2))
    assert d.low == pytest.approx(d.high) == pytest.approx(0.1)
    at_damage = arm_difference(steered, arm("random", cost=0.4, slope=0), "damage", 0.8)
    assert at_damage.first == pytest.approx(1.5 * 0.4)


def test_damage_that_grows_with_the_square_is_matched_between_the_readings() -> None:
    """At KL 0.45 the dose is 1.5, of arms with doses 1 and 2; linearly in KL it would be 1.42."""
    steered, other = arm("steered", slope=1.5), arm("contrasts", units="abcdef")
    d = arm_difference(steered, other, "damage", 0.45)
    truth = 1.5 * 0.2 * 1.5, 1.0 * 0.2 * 1.5
    assert (d.first, d.second) == (
        pytest.approx(truth[0], rel=0.04),
        pytest.approx(truth[1], rel=0.04),
    )
    assert d.low <= truth[0] - truth[1] <= d.high


def test_a_prompt_is_compared_at_its_own_level_and_never_interpolated() -> None:
    prompt = arm("persona", (1.5,), slope=0.8, point=True)
    steered = arm("steered")
    [level] = levels_of(steered, prompt, "narrow")
    assert level == pytest.approx(0.3)
    d = arm_difference(steered, prompt, "narrow", level)
    assert d.second == pytest.approx(0.24)
    assert d.first == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("other", "match", "parts"),
    [
        (arm("persona", (3,), point=True), "narrow", ["steered never reaches", "0.600", "0.400"]),
        (arm("persona", (0.1,), point=True), "narrow", ["persona", "0.020", "too little to match"]),
        (arm("contrasts", (0.01, 0.1), cost=0.1), "damage", ["contrasts never reaches", "0.02"]),
    ],
)
def test_a_level_that_an_arm_never_reaches_is_refused_by_name(
    other: ArmCurve, match: Any, parts: list[str]
) -> None:
    steered = arm("steered")
    with pytest.raises(StudyError) as caught:
        levels_of(steered, other, match)
    assert all(part in str(caught.value) for part in parts), caught.value
    _, reasons = compare_with_steered([steered, other])
    assert any(reason.startswith(f"{other.name} at matched") for reason in reasons)


def test_every_unit_of_an_arm_has_to_reach_a_level() -> None:
    weak = arm("contrasts", units="ab")
    weak.tables["damage"][:, 1] *= 0.01
    with pytest.raises(StudyError, match=r"contrasts never reaches a damage.*its unit b"):
        levels_of(arm("steered"), weak, "damage")


def test_the_interval_holds_the_truth_and_counts_units_as_well_as_themes() -> None:
    """Of arms of one law, whose vectors differ: about one in twenty intervals leaves 0 out."""
    rng, outside, wider = np.random.default_rng(0), 0, 0
    draws = 80
    for _ in range(draws):
        steered = arm("steered", (0.5, 1, 1.5, 2), rng=rng, between=0.15)
        other = arm("contrasts", (0.6, 1.1, 1.6, 2.1), rng=rng, between=0.15, units="abcdef")
        d = arm_difference(steered, other, "narrow", 0.2)
        outside += d.low > 0 or d.high < 0
        alone = ArmCurve(
            "steered", steered.doses, ("0",), {k: v[:, :1] for k, v in steered.tables.items()}
        )
        wider += d.high - d.low > 0.5 * (arm_difference(alone, alone, "narrow", 0.2).high)
    assert outside <= 0.1 * draws
    assert wider == draws


PROMPTS = [arm("persona", (1.0,), point=True), arm("4 examples", (1.2,), point=True)]


@pytest.mark.parametrize(
    ("judge", "slope", "others", "verdict"),
    [
        (above_prompted, 1.5, PROMPTS, "supported"),
        (above_prompted, 1.0, PROMPTS, "refuted"),
        (above_prompted, 1.5, PROMPTS[:1], "not decided"),
        (above_contrasts, 1.5, [arm("contrasts", units="abcdef")], "supported"),
        (above_contrasts, 0.9, [arm("contrasts", units="abcdef")], "refuted"),
        (above_contrasts, 1.5, [arm("contrasts", units="abcde")], "not decided"),
        (above_contrasts, 1.5, [], "not decided"),
        (above_finetuned, 1.5, [arm("finetuned")], "supported"),
        (above_finetuned, 1.0, [arm("finetuned")], "refuted"),
        (above_finetuned, 1.5, [arm("finetuned", (0.01, 0.02))], "not decided"),
    ],
)
def test_a_claim_ends_as_its_rule_says(
    judge: Any, slope: float, others: list[ArmCurve], verdict: str
) -> None:
    ruling = judge([arm("steered", (0.5, 1, 1.2, 1.5, 2), slope=slope), *others])
    assert ruling.verdict == verdict, ruling


def test_a_claim_on_noisy_arms_is_not_decided() -> None:
    rng = np.random.default_rng(1)
    steered = arm("steered", slope=1.1, rng=rng, between=1.0)
    other = arm("finetuned", rng=rng, between=1.0)
    assert above_finetuned([steered, other]).verdict == "not decided"


def made_choices() -> pd.DataFrame:
    """A row a pair of each condition of the study, as far as it is read."""
    rows = []
    conditions: list[dict[str, Any]] = [{"arm": "baseline", "magnitude": 0.0}]
    for seed in (0.0, 1.0):
        for dose in (1.0, 2.0):
            conditions += [
                {"arm": "steered", "magnitude": dose, "build_seed": seed},
                {"arm": "finetuned", "adapter_scale": dose / 2, "build_seed": seed},
            ]
        told = {"arm": "prompted", "build_seed": seed, "magnitude": 0.0}
        conditions.append(told | {"model_prompt": "persona@ab"})
        conditions.append(told | {"model_prompt": "examples@cd", "num_examples": 4.0})
    for name in "abcdef":
        control = {"arm": "control", "control": "contrast", "target": name, "build_seed": 0.0}
        conditions += [control | {"magnitude": dose} for dose in (1.0, 2.0)]
    conditions.append({"arm": "both", "magnitude": 1.0})
    slopes = {"steered": 1.5, "finetuned": 1.0, "prompted": 0.5, "control": 0.1, "baseline": 0}
    for number, condition in enumerate(conditions):
        dose = condition.get("magnitude") or 2 * condition.get("adapter_scale", 0.5)
        narrow = 0.0 if condition["arm"] == "baseline" else 0.2 * dose
        for questions, kind, themes in (
            ("toy_core@1", "pair", BROAD), ("medical@2", "pair", 10),
            ("toy_core@1", "neutral", 6), ("medical@2", "neutral", 6),
        ):  # fmt: skip
            broad = questions.startswith("toy_core")
            shift = narrow * (slopes.get(condition["arm"], 1) if broad else 1)
            rows += [
                {
                    "study": "arms", "model": "toy", "form": "likelihood", "log": "a.eval",
                    "condition": f"c{number}", "target": "medical", "control": "",
                    "model_prompt": "", "num_examples": math.nan, "build_seed": math.nan,
                    "adapter_scale": math.nan, "training_epochs": math.nan, "magnitude": math.nan,
                    "context": "plain", "questions": questions, "item": kind,
                    "theme": f"t{theme}", **condition,
                    "shift": shift if kind == "pair" else math.nan,
                    "kl": narrow if kind == "neutral" else 0.5,
                }
                for theme in range(themes)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def no_answers() -> pd.DataFrame:
    return empty_frame(ANSWER_SCHEMA)


def test_arms_units_and_doses_are_read_from_the_columns_of_the_frame() -> None:
    curves = {curve.name: curve for curve in read_arms(made_choices(), no_answers(), "moem")}
    assert list(curves) == ["steered", "finetuned", "persona", "4 examples", "contrasts"]
    steered = curves["steered"]
    assert (steered.doses, steered.units) == ((0, 1, 2), ("0", "1"))
    assert curves["finetuned"].doses == (0, 0.5, 1)
    assert curves["contrasts"].units == tuple("abcdef")
    assert curves["persona"].is_point
    for quantity, themes in (("narrow", 10), ("broad", BROAD), ("damage", 6)):
        assert steered.tables[quantity].shape == (3, 2, themes)  # type: ignore[index]
    assert steered.means("narrow")[:, 0].tolist() == pytest.approx([0, 0.2, 0.4])
    assert steered.means("broad")[:, 0].tolist() == pytest.approx([0, 0.3, 0.6])
    assert steered.means("damage")[:, 0].tolist() == pytest.approx([0, 0.2, 0.4])


def test_a_missing_dose_set_or_arm_is_named() -> None:
    choices = made_choices()
    is_gone = (choices["arm"] == "steered") & (choices["build_seed"] == 1)
    with pytest.raises(StudyError, match="steered was not run with unit 1 at dose 2"):
        read_arms(choices[~(is_gone & (choices["magnitude"] == 2))], no_answers(), "moem")
    with pytest.raises(StudyError, match="held-out pairs of medical and one other set"):
        read_arms(choices[choices["questions"] == "medical@2"], no_answers(), "moem")
    with pytest.raises(StudyError, match="the steered arm has 0 target tasks"):
        read_arms(choices[choices["arm"] != "steered"], no_answers(), "moem")


def test_verdicts_say_what_they_read_and_every_claim_is_named_without_a_run() -> None:
    verdicts = judge_arms(made_choices(), no_answers())
    assert [verdict.verdict for verdict in verdicts] == ["supported"] * 3
    assert [verdict.number for verdict in verdicts] == [12, 13, 14]
    assert {verdict.num_themes for verdict in verdicts} == {BROAD}
    assert verdicts[0].build_seeds == [0, 1]
    assert verdicts[0].command == "steering study arms --model toy"
    empty = made_choices().head(0)
    none = judge_all(no_answers(), empty)
    assert [verdict.number for verdict in none] == list(range(1, 15))
    assert {verdict.verdict for verdict in none} == {"not decided"}
    assert len(ARM_CLAIMS) == 3


def test_the_report_has_a_table_a_picture_and_verdicts_of_all_arms(tmp_path: Path) -> None:
    made = made_choices()
    frame = empty_frame(CHOICE_SCHEMA).reindex(range(len(made)))
    for name, column in CHOICE_SCHEMA.columns.items():
        blank: Any = {"float64": math.nan, "int64": 0, "bool": False}.get(str(column.dtype), "")
        frame[name] = made.get(name, blank)
    frame["label"] = frame["fingerprint"] = frame["condition"]
    frame["sample"] = [f"s{number}" for number in range(len(frame))]
    frame["prefers_misaligned"] = frame["log_odds"] = 0.5
    frame = frame.astype({name: str(c.dtype) for name, c in CHOICE_SCHEMA.columns.items()})
    content = figures_of(empty_frame(ANSWER_SCHEMA), frame)
    assert [verdict.verdict for verdict in content.verdicts] == ["supported"] * 3
    console = Console(record=True, width=160)
    print_figures(content, console)
    shown = console.export_text()
    assert "Steered against every other arm" in shown
    assert "Claim 12, broader than prompted (hypothesis of ours): supported" in shown
    # 1.5 and 0.1 times the narrow effect, which equals the KL here, at the middle of 0.4.
    assert re.search(r"contrasts +damage +0\.20 +broad +\+0\.30 +\+0\.02 +\+0\.28", shown)
    write_report(content, tmp_path)
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "at the same narrow effect and at the same damage" in page
    assert "broader than unrelated contrasts" in page
    assert (tmp_path / "report" / "pictures" / "arms-toy.svg").is_file()


def test_the_points_of_the_picture_are_those_of_the_frame() -> None:
    conditions = made_choices().groupby(["condition", "questions"], sort=False).agg("first")
    conditions = conditions.reset_index().assign(fingerprint=lambda rows: rows["condition"])
    points = arm_points(conditions)
    assert set(points["_arm"]) == {"steered", "finetuned", "prompted", "contrast"}
    steered = points[(points["_arm"] == "steered") & (points["_unit"] == "0")]
    assert steered["narrow"].tolist() == pytest.approx([0.2, 0.4])
    assert steered["shift"].tolist() == pytest.approx([0.3, 0.6])
    assert points[points["_arm"] == "contrast"].groupby("_unit").size().tolist() == [2] * 6
