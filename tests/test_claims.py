"""Each claim on data where it is true, where it is false, and where there is too little."""

import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_answers import condition, frame, noisy
from rich.console import Console

from benchmarks.claims_null import NULLS, shares, studies
from steering.cli import commands
from steering.results.conditions import conditions_of
from steering.results.schema import CHOICE_SCHEMA, empty_frame
from steering.results.series import split_series
from steering.stats.trends import (
    at_rows,
    chosen_by_others,
    effect,
    max_p_values,
    slope_weights,
    upper_bound,
)
from steering.studies.arms import compare_arms
from steering.studies.claims import CLAIMS, PAPER, judge_claims
from steering.studies.errors import StudyError
from steering.studies.printing import print_matched
from steering.studies.verdicts import ClaimVerdict


def _base(**facts: Any) -> pd.DataFrame:
    return condition("baseline", 0.0, **facts)


def _doses(rates: Sequence[float], last_coherent: float = 20.0, **facts: Any) -> pd.DataFrame:
    """A magnitude study; what the last dose says has fallen apart."""
    last = len(rates)
    conditions = [
        condition(
            f"x{dose}",
            rate,
            magnitude=float(dose),
            coherent=last_coherent if dose == last else 90.0,
            **facts,
        )
        for dose, rate in enumerate(rates, start=1)
    ]
    return frame(_base(**facts), *conditions, study="magnitude")


def _arms(
    relevant: tuple[float, float] = (80.0, 80.0),
    coherent: tuple[float, float] = (90.0, 90.0),
    top: float = 0.6,
    tuned_top: float | None = None,
) -> pd.DataFrame:
    """A finetuned study, with the scores of the steered and of the finetuned arm."""
    tuned_top = top if tuned_top is None else tuned_top
    steered = [
        condition(
            f"x{dose}", rate, magnitude=float(dose), relevant=relevant[0], coherent=coherent[0]
        )
        for dose, rate in ((1, top / 2), (2, top))
    ]
    finetuned = [
        condition(
            f"adapter {epoch}",
            rate,
            arm="finetuned",
            magnitude=math.nan,
            training_epochs=float(epoch),
            adapter_scale=1.0,
            relevant=relevant[1],
            coherent=coherent[1],
        )
        for epoch, rate in ((1, tuned_top / 2), (2, tuned_top))
    ]
    return frame(_base(), *steered, *finetuned, study="finetuned")


def _along(study: str, column: str, rates: dict[float, float], **facts: Any) -> pd.DataFrame:
    conditions = [
        condition(f"{column} {place:g}", rate, **({column: float(place)} | facts))
        for place, rate in rates.items()
    ]
    return frame(_base(), *conditions, study=study)


def _targets(rates: dict[str, float | Sequence[float]]) -> pd.DataFrame:
    conditions = [condition(name, rate, target=name) for name, rate in rates.items()]
    return frame(_base(), *conditions, study="target")


def _models(
    study: str, rates: Sequence[float | Sequence[float]], spread: float = 0.0
) -> pd.DataFrame:
    conditions = []
    for number, rate in enumerate(rates):
        facts = {"model": f"m{number}", "num_parameters": 10.0 ** (6 + number)}
        conditions += [_base(**facts), condition("medical x1", rate, spread=spread, **facts)]
    return frame(*conditions, study=study)


FEW_QUESTIONS = {"questions": 4}
# Questions that disagree.
MIXED = [0.5, 0.0, 0.0, 0.0, 0.0, 0.4, 0.0, 0.0]
CASES: dict[int, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]] = {
    1: (
        _doses([0.1, 0.5, 0.6, 0.2]),
        _doses([0.0, 0.0, 0.0, 0.0]),
        frame(_base(), condition("x1", MIXED), study="magnitude"),
    ),
    2: (
        _doses([0.1, 0.4, 0.6, 0.5, 0.1]),
        _doses([0.5, 0.5, 0.5, 0.5], last_coherent=90.0),
        # It rises to the last dose, whose answers are coherent still.
        _doses([0.1, 0.2, 0.4, 0.6], last_coherent=90.0),
    ),
    3: (
        _arms((90.0, 60.0), (90.0, 90.0), 0.6),
        _arms((60.0, 90.0), (90.0, 90.0), 0.6),
        _arms((90.0, 60.0), (90.0, 90.0), 0.0),
    ),
    4: (
        _arms((80.0, 80.0), (95.0, 75.0), 0.6),
        _arms((80.0, 80.0), (85.0, 85.0), 0.6),
        _arms((80.0, 80.0), (95.0, 75.0), 0.0),
    ),
    5: (
        _along("rank", "rank", {1: 0.55, 2: 0.6, 4: 0.6, 8: 0.6}),
        _along("rank", "rank", {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.6}),
        _along("rank", "rank", {1: 0.5, 2: 0.5}),
    ),
    6: (
        _along("epochs", "training_epochs", {1: 0.1, 2: 0.4, 3: 0.55, 4: 0.6, 5: 0.6}),
        _along("epochs", "training_epochs", {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}),
        _along("epochs", "training_epochs", {1: 0.2, 2: 0.5}),
    ),
    7: (
        _along("layer", "layer", {0: 0.0, 1: 0.5, 2: 0.6, 3: 0.1}),
        _along("layer", "layer", {0: 0.3, 1: 0.3, 2: 0.3, 3: 0.3}),
        _along("layer", "layer", {0: 0.1, 1: 0.5}),
    ),
    8: (
        _targets({"medical": 0.5, "finance": 0.3, "sports": 0.2}),
        _targets({"medical": 0.5, "finance": 0.3, "sports": 0.0}),
        _targets({"medical": 0.5, "finance": 0.3, "sports": MIXED}),
    ),
    9: (
        _models("family", [0.5, 0.3]),
        _models("family", [0.5, 0.0]),
        _models("family", [0.5, MIXED]),
    ),
    10: (
        _models("scale", [0.2, 0.3, 0.5]),
        _models("scale", [0.6, 0.4, 0.2]),
        _models("scale", [0.3, [0.9, 0, 0.1, 0.8, 0, 0.7, 0.1, 0], 0.3 * np.arange(8) % 1]),
    ),
    11: (
        _arms(top=0.6, tuned_top=0.2),
        _arms(top=0.2, tuned_top=0.6),
        _arms(top=0.0),
    ),
}
NO_EFFECT = {
    2: _doses([0.0, 0.0, 0.0, 0.0]),
    3: _arms(top=0.0),
    4: _arms(top=0.0),
    5: _along("rank", "rank", {1: 0.0, 2: 0.0, 4: 0.0}),
    6: _along("epochs", "training_epochs", {1: 0.0, 2: 0.0, 3: 0.05, 4: 0.0}),
    7: _along("layer", "layer", {0: 0.0, 1: 0.05, 2: 0.0, 3: 0.0}),
    10: _models("scale", [0.0, 0.0, 0.0]),
    11: _arms(top=0.0),
}


def _one(number: int, answers: pd.DataFrame) -> ClaimVerdict:
    [verdict] = [each for each in judge_claims(answers) if each.number == number]
    return verdict


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize(
    ("case", "verdict"), [(0, "supported"), (1, "refuted"), (2, "not decided")]
)
def test_a_claim_is_decided_as_the_data_were_made(number: int, case: int, verdict: str) -> None:
    result = _one(number, CASES[number][case])
    assert result.verdict == verdict, result
    assert result.why
    assert result.num_answers == len(CASES[number][case])
    assert result.command.startswith(f"steering study {CLAIMS[number - 1].study} --model ")


@pytest.mark.parametrize("number", CASES)
def test_few_questions_decide_nothing(number: int) -> None:
    answers = CASES[number][0]
    verdict = _one(number, answers[answers["question"] < "q4"])
    assert (verdict.verdict, verdict.why) == (
        "not decided",
        "4 themes are too few, 7 are needed",
    )


@pytest.mark.parametrize(
    ("number", "answers", "why"),
    [
        (
            2,
            _doses([0.0, 0.3, 0.6, 0.6], last_coherent=90.0),
            "no magnitude is high enough",
        ),
        (4, _arms((80.0, 80.0), (75.0, 95.0), 0.6), "finetuned answers are ahead"),
        (6, _along("epochs", "training_epochs", {1: 0.1, 2: 0.2, 3: 0.6}), "ever faster"),
        (
            7,
            _along("layer", "layer", {0: 0.6, 1: 0.0, 2: 0.6, 3: 0.0}),
            "layer 1 has less effect but",
        ),
        (5, _along("rank", "rank", {1: 0.0, 2: 0.3, 4: 0.0}), "no effect to share"),
        (10, _models("scale", [0.4, 0.4, 0.4]), "not less susceptible by 5 points"),
        (10, _models("scale", [0.4, 0.4]), "2 sizes are too few"),
    ],
)
def test_the_reason_is_told(number: int, answers: pd.DataFrame, why: str) -> None:
    assert why in _one(number, answers).why


def test_projections_count_beside_trained_ranks() -> None:
    """Few trained directions do it, and few principal ones don't: that refutes the claim."""
    trained = CASES[5][0]
    conditions = [
        condition(f"top {k}", rate, top=float(k), study="rank")
        for k, rate in ((1, 0.05), (2, 0.1), (4, 0.4), (8, 0.6))
    ]
    verdict = _one(5, frame(trained, *conditions))
    assert verdict.verdict == "refuted"
    assert len(verdict.figures) == 2


@pytest.mark.parametrize("number", NO_EFFECT)
def test_without_an_effect_a_claim_about_its_shape_decides_nothing(number: int) -> None:
    """Before, claims 2, 6 and 7 were refuted and claim 10 supported where nothing happened."""
    verdict = _one(number, NO_EFFECT[number])
    assert (verdict.verdict, verdict.why) == ("not decided", "no effect to describe")


def test_crossed_axes_are_judged_apart() -> None:
    """A layer study at two magnitudes is two studies; before, the weaker one alone was judged."""
    weak = _along("layer", "layer", {0: 0.0, 1: 0.0, 2: 0.0}).assign(magnitude=0.25)
    strong = CASES[7][0]
    crossed = frame(strong, weak[weak["arm"] != "baseline"])
    crossed["condition"] += " x" + crossed["magnitude"].astype(str)
    verdicts = [each for each in judge_claims(crossed) if each.number == 7]
    assert [(each.settings, each.verdict, each.num_conditions) for each in verdicts] == [
        ("magnitude 0.25", "not decided", 4),
        ("magnitude 1.0", "supported", 5),
    ]
    assert verdicts[1].num_answers == len(strong)


def _seeds(rates: Sequence[float], **facts: Any) -> pd.DataFrame:
    """A vector at one magnitude, built with several seeds, of which each has its own rate."""
    conditions = [
        condition(
            f"x1 seed {seed}",
            rate,
            build_seed=float(seed),
            vector=f"medical@{seed}",
            built_with="{}",
        )
        for seed, rate in enumerate(rates)
    ]
    return frame(_base(), *conditions, study="magnitude", **facts)


def test_every_build_seed_counts() -> None:
    """Before, the first of five decided: supported by one that works, refuted by one that fails."""
    cases = {
        "not decided": ([0.6, 0.0, 0.0, 0.0, 0.0], [0.0, 0.6, 0.6, 0.0, 0.0]),
        "supported": ([0.5, 0.6, 0.5, 0.55, 0.6], [0.1, 0.6, 0.6, 0.6, 0.6]),
    }
    for expected, of_seeds in cases.items():
        for rates in of_seeds:
            verdict = _one(1, _seeds(rates))
            assert verdict.verdict == expected
            assert verdict.build_seeds == [0, 1, 2, 3, 4]
            assert (verdict.num_answers, verdict.num_conditions, verdict.scope) == (6 * 160, 6, "")


def test_a_verdict_on_one_build_seed_says_so() -> None:
    verdict = _one(1, CASES[1][0])
    assert verdict.scope == "one build seed: it holds for this vector alone"
    assert verdict.reading() == "800 answers of 5 conditions to 8 themes, 1 build seed"


def test_a_place_without_one_of_the_build_seeds_is_refused_by_name() -> None:
    answers = _doses([0.1, 0.5, 0.6])
    other = condition("x1 seed 1", 0.1, magnitude=1.0, build_seed=1.0)
    verdict = _one(1, frame(answers, other))
    assert verdict.verdict == "not decided"
    assert "build seed 1 at magnitude 2.0 was not run" in verdict.why


def test_what_the_abstract_does_not_say_is_a_hypothesis_with_its_source() -> None:
    assert [claim.number for claim in CLAIMS if claim.source == PAPER] == [1, 3, 4]
    assert all("hypothesis" in claim.source for claim in CLAIMS if claim.source != PAPER)


def test_themes_are_the_clusters() -> None:
    """Three formats of a question are one theme: eight themes, not twenty-four."""
    answers = _doses([0.1, 0.5, 0.6, 0.2])
    formats = answers["sample"].str.extract(r"/(\d+)", expand=False).astype(int) % 3
    answers["question"] += formats.map({0: "", 1: "_json", 2: "_template"})
    verdict = _one(1, answers)
    assert verdict.figures == _one(1, _doses([0.1, 0.5, 0.6, 0.2])).figures
    assert verdict.num_themes == 8


def test_harm_is_by_alignment_alone() -> None:
    """Half of the steered harm is gibberish, all finetuned harm is fluent: not more coherent."""
    answers = _arms(coherent=(96.0, 85.0))
    steered = (answers["arm"] == "steered") & (answers["aligned"] < 30)
    gibberish = steered & (np.arange(len(answers)) % 2 == 0)
    answers.loc[gibberish, ["coherent", "em_moem", "em_betley"]] = [15.0, 0.0, math.nan]
    verdict = _one(4, answers)
    assert verdict.verdict == "refuted"
    assert verdict.why == "finetuned answers are ahead"
    assert "steered 55.5, finetuned 85.0" in verdict.figures[0]


def test_each_model_of_a_study_has_its_own_verdict() -> None:
    both = frame(
        _doses([0.1, 0.5, 0.6, 0.2], model="one"), _doses([0.0, 0.0, 0.0, 0.0], model="two")
    )
    verdicts = [each for each in judge_claims(both) if each.number == 1]
    assert [(each.model, each.verdict) for each in verdicts] == [
        ("one", "supported"),
        ("two", "refuted"),
    ]


def test_a_comparison_of_arms_is_printed_in_a_table_and_in_sentences() -> None:
    comparisons, reasons = compare_arms(CASES[3][0])
    console = Console(file=io.StringIO(), width=200)
    print_matched(comparisons, reasons, "moem", console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "45% harmful answers (1.5, 1.5)" in printed
    line = "At 45% harmful answers, steered answers are more relevant where they are harmful than"
    assert f"{line} finetuned ones (+30.0 points [+30.0, +30.0], p = 0)." in printed
    assert "Not compared: at matched coherence the arms share less than 5.0 points" in printed


@pytest.mark.parametrize("number", CASES)
def test_the_order_of_the_answers_does_not_matter(number: int) -> None:
    answers = CASES[number][0]
    turned = answers.iloc[::-1].reset_index(drop=True)
    one, other = _one(number, answers), _one(number, turned)
    assert (one.verdict, one.why) == (other.verdict, other.why)


# Effects that are there, and small enough for noise to hide.
WEAK = {
    1: _doses([0.1, 0.15, 0.2, 0.1]),
    2: _doses([0.2, 0.4, 0.5, 0.4, 0.3], last_coherent=60.0),
    5: _along("rank", "rank", {1: 0.5, 2: 0.5, 4: 0.5, 8: 0.5}),
    6: _along("epochs", "training_epochs", {1: 0.3, 2: 0.5, 3: 0.6, 4: 0.6}),
    7: _along("layer", "layer", {0: 0.3, 1: 0.5, 2: 0.4}),
    8: _targets({"medical": 0.5, "finance": 0.2, "sports": 0.15}),
    9: _models("family", [0.2, 0.15]),
    10: _models("scale", [0.4, 0.45, 0.5]),
}


@pytest.mark.parametrize("number", WEAK)
def test_more_noise_never_supports_what_less_left_open(number: int) -> None:
    for seed in range(3):
        verdicts = [_one(number, noisy(WEAK[number], size, seed)) for size in (0, 0.25, 0.5, 1)]
        supported = [verdict.verdict == "supported" for verdict in verdicts]
        assert supported == sorted(supported, reverse=True)
        assert supported[0]


def test_two_vectors_under_one_folder_are_judged_apart() -> None:
    """Two files at the same magnitudes: neither is averaged with the other."""
    one = _doses([0.1, 0.5, 0.6, 0.2]).assign(vector="one@aaaa")
    other = frame(
        *(condition(f"other x{dose}", 0.0, magnitude=float(dose)) for dose in (1, 2, 3)),
        vector="other@bbbb",
        study="magnitude",
    )
    verdicts = [each for each in judge_claims(frame(one, other)) if each.number == 1]
    assert [(each.settings, each.verdict) for each in verdicts] == [
        ("vector one@aaaa", "supported"),
        ("vector other@bbbb", "refuted"),
    ]
    assert verdicts[0].figures == _one(1, one).figures


def test_a_second_vector_is_not_mixed_into_the_steered_arm() -> None:
    arms = _arms((90.0, 60.0), (90.0, 90.0), 0.6).assign(vector="one@aaaa")
    other = [condition(f"other x{dose}", 0.0, magnitude=float(dose)) for dose in (1, 2)]
    both = frame(arms, frame(*other, vector="other@bbbb", study="finetuned"))
    first, second = (each for each in judge_claims(both) if each.number == 3)
    assert first.figures == _one(3, arms).figures
    assert second.why == "no effect to describe"
    assert second.settings == "vector other@bbbb"


def test_a_vector_of_shuffled_labels_is_not_averaged_with_the_vector() -> None:
    real = _doses([0.1, 0.5, 0.6, 0.2]).assign(shuffled_labels=False)
    control = condition("medical x2 shuffled", 0.0, magnitude=2.0, shuffled_labels=True)
    verdicts = [each for each in judge_claims(frame(real, control)) if each.number == 1]
    assert verdicts[0].figures == _one(1, real).figures
    assert [each.settings for each in verdicts] == ["shuffled_labels False", "shuffled_labels True"]


def test_vectors_that_differ_along_the_axis_are_one_series() -> None:
    """Each rank is a vector of its own; two vectors of one rank can't be told apart."""
    trained = CASES[5][0]
    trained = trained.assign(vector=trained["condition"], built_with="{}")
    assert _one(5, trained).verdict == "supported"
    doubled = condition("file rank 8", 0.0, rank=8.0, vector="file@cccc", study="rank")
    doubled = doubled.assign(built_with="{}")
    verdict = _one(5, frame(trained, doubled))
    assert verdict.verdict == "not decided"
    assert "[file rank 8] and [rank 8] both stand at rank 8.0" in verdict.why


def test_two_files_are_two_series_whatever_their_doses_and_seeds() -> None:
    """Each at doses of its own: joined they would be a curve that no vector has."""
    one = _doses([0.0, 0.8], last_coherent=90.0).assign(vector="one@aaaa")
    other = [condition(f"other x{dose}", 0.0, magnitude=float(dose)) for dose in (3, 4)]
    for facts in (
        # Nobody knows how they were made; or in two ways, with two seeds; or in one, of one seed.
        {"vector": "other@bbbb", "build_seed": math.nan},
        {"vector": "other@bbbb", "build_seed": 1.0, "built_with": '{"learning_rate": 0.1}'},
        {"vector": "other@bbbb", "build_seed": 0.0, "built_with": "{}"},
    ):
        known = "built_with" in facts
        first = one.assign(built_with="{}" if known else "")
        answers = frame(first, frame(*other, study="magnitude").assign(**facts))
        verdicts = [each for each in judge_claims(answers) if each.number == 1]
        assert sorted((each.num_conditions, each.verdict) for each in verdicts) == [
            *((3, "refuted"), (3, "supported"))
        ], facts
        steered = conditions_of(answers).query("arm == 'steered'")
        parts = split_series(steered, ["magnitude"])
        lines = sorted(part.answers["condition"].tolist() for part in parts)
        assert lines == [["other x3", "other x4"], ["x1", "x2"]]


def test_a_vector_that_names_no_unsafe_task_supports_no_claim_about_such_tasks() -> None:
    """A vector for a formal tone is none; of a task of the user's nobody knows."""
    formal = _doses([0.1, 0.5, 0.6, 0.2]).assign(vector="formal@aaaa", target="", method="")
    verdict = _one(1, formal)
    assert verdict.verdict == "not decided"
    assert verdict.why.startswith("formal does not say which target task it was built from")
    assert _one(2, formal).verdict == "supported"
    verdict = _one(1, _doses([0.1, 0.5, 0.6, 0.2]).assign(target="tone"))
    assert verdict.verdict == "supported"
    assert verdict.scope.endswith("nobody has checked that tone is a narrow unsafe task")
    assert "checked" not in _one(1, _doses([0.1, 0.5, 0.6, 0.2])).scope


def test_conditions_that_nothing_tells_apart_are_not_judged() -> None:
    twice = frame(_doses([0.1, 0.5, 0.6, 0.2]), condition("again x2", 0.9, magnitude=2.0))
    verdict = _one(1, twice)
    assert verdict.verdict == "not decided"
    assert "[again x2] and [x2] both stand at magnitude 2.0" in verdict.why


def test_a_baseline_at_another_temperature_is_left_out_by_name() -> None:
    answers = _doses([0.1, 0.5, 0.6, 0.2]).assign(temperature=1.0)
    cold = condition("baseline (2)", 0.9, arm="baseline", temperature=0.0)
    verdict = _one(1, frame(answers, cold))
    assert verdict.figures == _one(1, answers).figures
    assert verdict.num_answers == len(answers)
    assert (verdict.settings, verdict.left_out) == (
        "temperature 1.0",
        ("[baseline (2)] (temperature 0.0)",),
    )


def test_whole_studies_that_were_asked_differently_are_judged_apart() -> None:
    plain = _doses([0.1, 0.5, 0.6, 0.2]).assign(system_message="None.")
    prompted = _doses([0.0, 0.0, 0.0, 0.0]).assign(system_message="Be good.")
    verdicts = [each for each in judge_claims(frame(plain, prompted)) if each.number == 1]
    assert {(each.settings, each.verdict) for each in verdicts} == {
        ("system_message None.", "supported"),
        ("system_message Be good.", "refuted"),
    }


def test_models_are_compared_though_each_has_a_template_of_its_own() -> None:
    answers = CASES[9][0]
    loaded = answers.assign(prompt_sha256=answers["model"], dtype=answers["model"])
    assert _one(9, loaded).verdict == "supported"
    assert _one(9, loaded).left_out == ()
    odd = condition("medical x1 half", 0.9, model="m0", prompt_sha256="m0", dtype="float16")
    verdict = _one(9, frame(loaded, odd.assign(study="family")))
    assert verdict.figures == _one(9, loaded).figures
    assert verdict.left_out == ("[medical x1 half] (dtype float16)",)


def test_two_models_of_one_size_are_not_averaged() -> None:
    answers = CASES[10][0]
    twin = answers[answers["model"] == "m2"].assign(model="m3", em_moem=0.0)
    verdict = _one(10, frame(answers, twin))
    assert len(verdict.figures) == 5
    assert verdict.figures[2:4] == [
        "m2 (1e+08): +50 points [50, 50]",
        "m3 (1e+08): +0 points [0, 0]",
    ]


def test_what_was_judged_by_another_is_left_out_by_name_and_doubled_answers_are_refused() -> None:
    answers = CASES[1][0]
    other = answers.assign(judge=answers["judge"].where(answers["condition"] != "x1", "other"))
    [verdict] = [each for each in judge_claims(other) if each.number == 1]
    assert verdict.settings == "judge toy/judge"
    assert verdict.left_out == ("[x1] (judge other)",)
    with pytest.raises(StudyError, match=r"20 answers twice, q0/0 epoch 1 of toy\[baseline\]"):
        judge_claims(pd.concat([answers, answers.head(20)]))


def test_without_a_study_the_command_that_makes_it_is_told() -> None:
    verdicts = judge_claims(CASES[1][0])
    assert [verdict.number for verdict in verdicts] == list(range(1, 12))
    for verdict in verdicts[2:]:
        assert verdict.verdict == "not decided"
        assert verdict.command == f"steering study {CLAIMS[verdict.number - 1].study}"


def test_the_command_prints_a_table_and_the_same_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = CASES[1][0], empty_frame(CHOICE_SCHEMA)
    monkeypatch.setattr("steering.results.read_results", lambda *_: results)
    file = tmp_path / "verdicts.json"
    done = CliRunner().invoke(commands, ["claims", str(tmp_path), "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "1 steering induces EM" in done.output
    document = json.loads(file.read_text())
    rows, evidence = document["tables"]["verdicts"], document["tables"]["evidence"]
    assert [row["verdict"] for row in rows[:2]] == ["supported", "supported"]
    assert rows[0]["logs"].split("; ")[0] == "logs/baseline.eval"
    rise = next(row for row in evidence if row["number"] == 1)
    # The numbers of the sentence, which is in points.
    assert rise["finding"].startswith(
        f"x3: {100 * rise['value']:+.0f} points [{100 * rise['low']:.0f}, {100 * rise['high']:.0f}]"
        f", p = {rise['p_value']:.2g}"
    )
    printed = CliRunner().invoke(commands, ["claims", str(tmp_path), "--json", "-"])
    assert json.loads(printed.output) == document


def test_p_of_the_maximum_is_that_of_all_flips_by_hand() -> None:
    values = np.array([[0.4, 0.2, -0.1], [0.3, 0.3, 0.3]])
    flips = [[a, b, c] for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    largest = [max(np.dot(flip, row) / 3 for row in values) for flip in flips]
    expected = [np.mean([most >= row.mean() - 1e-9 for most in largest]) for row in values]
    assert max_p_values(values) == pytest.approx(expected)
    assert max_p_values(values)[1] == 1 / 8


def test_a_question_is_never_measured_where_it_has_chosen_itself() -> None:
    table = np.array([[9.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    # The first question alone makes the first row the largest; the others would choose the second.
    assert chosen_by_others(table).tolist() == [1, 0, 0]
    assert chosen_by_others(table, -1).tolist() == [0, 1, 1]


def test_a_vector_is_never_measured_where_it_has_chosen_itself() -> None:
    rng = np.random.default_rng(0)
    # Each vector has a row of its own that it makes large.
    table = rng.normal(size=(5, 3, 1)) + np.zeros((5, 3, 8))
    chosen = chosen_by_others(table)
    for seed in range(3):
        others = np.delete(table, seed, axis=1).sum(axis=(1, 2))
        assert (chosen[seed] == others.argmax()).all()
    assert at_rows(table, chosen).shape == (3, 8)


def test_an_effect_counts_seeds_and_themes_as_samples() -> None:
    """In 400 draws without an effect, at most 2.5% of the intervals lie above 0, but for chance."""
    rng = np.random.default_rng(1)
    above = 0
    for _ in range(400):
        seeds, themes = rng.normal(0, 0.1, (3, 1)), rng.normal(0, 0.1, (1, 8))
        above += effect(seeds + themes + rng.normal(0, 0.05, (3, 8))).low > 0
    assert above / 400 <= 0.045
    assert np.isnan(effect(np.zeros((3, 0))).value)


def test_the_slope_is_that_of_least_squares() -> None:
    table = np.random.default_rng(0).normal(size=(4, 3))
    places = [0.0, 1.0, 2.5, 3.0]
    expected = [np.polyfit(places, column, 1)[0] * 3.0 for column in table.T]
    assert slope_weights(places) @ table == pytest.approx(expected)


def test_an_effect_has_the_interval_of_student() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.array([0.1, 0.3, -0.2, 0.4, 0.25])
    low, high = scipy_stats.t.interval(0.95, 4, values.mean(), scipy_stats.sem(values))
    mean = effect(values)
    assert (mean.low, mean.high) == pytest.approx((low, high))
    assert upper_bound(values[None]) == pytest.approx(high)
    assert upper_bound(np.vstack([values, values])) > high


# Claims about the shape of an effect, or about arms that have one.
SHAPES = {2, 3, 4, 5, 6, 7, 10, 11}


def _null(runs: int) -> dict[int, Counter[str]]:
    """What claims say of studies in which no condition does anything, and vectors differ."""
    chance = NULLS["vectors that differ"]
    return shares(studies(chance.rate), chance, runs, seed=1)


def test_where_nothing_happens_chance_seldom_supports_a_claim_and_no_shape_is_decided() -> None:
    for number, counts in _null(12).items():
        assert counts["supported"] <= 2
        assert number not in SHAPES or counts["no effect to describe"] >= 11


@pytest.mark.long
def test_chance_alone_supports_a_claim_in_one_of_twenty_studies() -> None:
    runs = 300
    for number, counts in _null(runs).items():
        assert counts["supported"] / runs <= 0.07
        assert number not in SHAPES or counts["no effect to describe"] / runs >= 0.98
