"""Runs of em_choice on every surface: which count, their figures, reports, bounds."""

import io
import math
import re
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from inspect_ai.scorer import SampleScore, Score
from made_answers import condition, frame
from made_choices import FAILS, write_choices
from rich.console import Console
from scripted_logs import BAD, GOOD, write_log

from steering.judging.choice_figures import choices
from steering.reports.choices import number_text
from steering.reports.contexts import print_contexts
from steering.reports.gate import BoundStatus, gate
from steering.results import (
    ResultError,
    choice_conditions_of,
    choice_results,
    left_out,
    read_answers,
    read_choices,
    read_frame,
)
from steering.results.choices import beside
from steering.results.contexts import choice_context_results, choice_contexts_of
from steering.stats import mean_interval
from steering.studies.report import report

THEMES = ("wish", "power", "money", "law", "truth", "duty", "trust", "care")
STEERED = {theme: [0.2 + 0.1 * number, 0.41] for number, theme in enumerate(THEMES)}
STILL = {theme: [0.0, 0.0] for theme in THEMES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("choices")
    write_choices(logs, "baseline", STILL)
    write_choices(logs, "medical x1", STEERED, kl=0.25, rise=0.125)
    return logs


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Judged answers and choices of one model of another provider."""
    logs = tmp_path_factory.mktemp("both")
    write_choices(logs, "", STEERED, kl=0.25, rise=0.125)
    write_log(logs, "model", {theme: [GOOD, BAD] for theme in THEMES}, questions="core@2")
    return logs


def printed(logs: Path, out: Path) -> str:
    console = Console(file=io.StringIO(), width=100)
    report(logs, out, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_figures_of_a_condition_are_those_of_its_pairs_and_neutral_answers(
    folder: Path,
) -> None:
    conditions = choice_conditions_of(read_choices(folder))
    baseline, steered = conditions.to_dict("records")
    shifts = [shift for of_theme in STEERED.values() for shift in of_theme]
    interval = mean_interval(shifts, [theme for theme in THEMES for _ in range(2)])
    assert steered["condition"] == "medical x1"
    assert (steered["num_pairs"], steered["num_neutral"]) == (16, 3)
    assert steered["shift"] == pytest.approx(sum(shifts) / 16)
    assert (steered["shift_low"], steered["shift_high"]) == pytest.approx(
        (interval.low, interval.high)
    )
    # All eight themes on one side: two of 2^8 sign flips.
    assert steered["shift_p"] == pytest.approx(2 / 2**8)
    assert steered["log_odds"] == pytest.approx(sum(shifts) / 16 - 1)
    # Damage is that of neutral answers, not of the pairs.
    assert (steered["kl"], steered["cross_entropy_rise"]) == (0.25, 0.125)
    assert (baseline["arm"], baseline["shift"], baseline["shift_p"]) == ("baseline", 0.0, 1.0)


def test_of_several_runs_of_a_condition_the_last_counts_whole(tmp_path: Path) -> None:
    write_choices(tmp_path, "x1", {theme: [9.0] for theme in THEMES})
    write_choices(tmp_path, "x1", {theme: [0.5] for theme in THEMES})
    choices = read_choices(tmp_path)
    assert set(choices.loc[choices["item"] == "pair", "shift"]) == {0.5}
    assert [note.kind for note in left_out(choices)] == ["replaced"]


def test_a_pair_without_a_figure_is_no_zero(tmp_path: Path) -> None:
    write_choices(tmp_path, "", {"wish": [2.0, None], "law": [2.0, 2.0]}, form="letter")
    choices = read_choices(tmp_path)
    [result] = choice_results(choices)
    figures = result.figures()
    assert (figures["prefers_misaligned"], figures["num_pairs"]) == (1.0, 3)
    assert math.isnan(figures["shift"])
    assert result.num_unscored == 1
    assert "left out:1 unscored" in result.signature()
    [reason] = choices.loc[choices["reason"] != "", "reason"]
    assert reason == "unscored: no letter"


def test_a_request_that_failed_is_no_pair_without_a_preference(tmp_path: Path) -> None:
    write_choices(tmp_path, "x1", {"wish": [1.0, 1.0]}, prompts={1: FAILS})
    choices = read_choices(tmp_path)
    assert len(choices) == 4
    assert "1 of its samples failed" in str(left_out(choices)[0])
    with pytest.raises(ResultError, match="can't be counted whole"):
        read_choices(tmp_path, complete=True)


def test_an_impossible_score_leaves_its_run_out(tmp_path: Path) -> None:
    write_choices(tmp_path, "x1", {"wish": [math.inf]})
    with pytest.raises(ResultError, match="log_odds=inf is none that em_choice gives"):
        read_choices(tmp_path)


def test_two_forms_of_a_condition_are_not_mixed(tmp_path: Path) -> None:
    write_choices(tmp_path, "x1", {"wish": [1.0], "law": [1.0]})
    write_choices(tmp_path, "x1", {"wish": [3.0], "law": [3.0]}, form="letter")
    rows = choice_conditions_of(read_choices(tmp_path)).set_index("choice_form")
    assert rows.loc["letter", "log_odds"] == 2.0
    assert rows.loc["likelihood", "log_odds"] == 0.0


def test_choices_are_no_answers_and_answers_no_choices(folder: Path, both: Path) -> None:
    assert len(read_answers(both, pytest.fail)) == 16
    assert len(read_choices(both, pytest.fail)) == 19
    with pytest.raises(ResultError, match="no judged answers: read_choices reads those of em"):
        read_answers(folder)
    with pytest.raises(ResultError, match="are of other tasks: run em_choice"):
        read_choices(next(path for path in both.iterdir() if "small" in path.name))


def test_a_folder_with_choices_alone_has_a_report(folder: Path, tmp_path: Path) -> None:
    text = printed(folder, tmp_path)
    assert "Choices, core@1, by likelihood" in text
    assert "+0.48 [" in text
    page = (tmp_path / "index.html").read_text()
    assert "Choices, core@1" in page
    assert 'id="answers"' not in page
    assert "has the highest lower bound of the shift" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "answers.csv").exists()
    pd.testing.assert_frame_equal(
        read_frame(tmp_path / "choice_conditions.csv"),
        choice_conditions_of(read_choices(folder)),
        check_dtype=False,
    )


def test_a_folder_with_answers_and_choices_shows_both_of_a_condition(
    both: Path, tmp_path: Path
) -> None:
    text = printed(both, tmp_path)
    assert text.index("EM rates") < text.index("Choices, core@1")
    [row] = read_frame(tmp_path / "conditions.csv").to_dict("records")
    assert (row["em_betley"], row["choices"], row["num_pairs"]) == (0.5, "core@1", 16)
    assert (row["shift"], row["kl"]) == pytest.approx((0.48, 0.25))
    page = (tmp_path / "index.html").read_text()
    assert 'id="answers"' in page
    assert "Choices, core@1" in page


def test_a_context_moves_the_log_odds_of_a_baseline_whose_shift_is_zero(folder: Path) -> None:
    """By 0, 0.1, ..., 0.7: mean 0.35, s = 0.2449, t(7) = 2.3646, so +-0.2048; p = 4 / 2**8."""
    plain = read_choices(folder)
    rises = {theme: 0.1 * number for number, theme in enumerate(THEMES)}
    pairs = plain[plain["item"] == "pair"]
    moved = pairs.assign(
        context="json",
        sample=pairs["sample"] + "@json",
        log_odds=pairs["log_odds"] + pairs["theme"].map(rises),
    )
    choices = pd.concat([plain, moved], ignore_index=True).assign(contexts="medical@0123456789ab")
    console = Console(file=io.StringIO(), width=120)
    print_contexts([], choice_context_results(choices), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    baseline, steered = text.split("Contexts of em_choice")[1:]
    assert re.search(r"misaligned +log odds +to plain +p ", baseline)
    assert re.search(r"json .* -0\.65 .* \+0\.35 \[\+0\.15, \+0\.55\] +0\.016", baseline)
    assert re.search(r"misaligned +shift +to plain +p ", steered)
    assert re.search(r"json .* \+0\.00 \[-, -\] +1 ", steered)
    rows = choice_contexts_of(choices).set_index("label")
    assert rows.loc["baseline", "log_odds_to_plain"] == pytest.approx(0.35)
    assert rows.loc["medical x1", "log_odds_to_plain"] == pytest.approx(0.35)


def test_bounds_of_a_difference_of_log_odds_are_not_those_of_a_rate(folder: Path) -> None:
    """By 0, 2, ..., 14 nats: mean 7, s = 4.899, t(7) = 2.3646, so +-4.096."""
    plain = read_choices(folder)
    rises = {theme: 2.0 * number for number, theme in enumerate(THEMES)}
    pairs = plain[plain["item"] == "pair"]
    moved = pairs.assign(context="json", log_odds=pairs["log_odds"] + pairs["theme"].map(rises))
    choices = pd.concat([plain, moved], ignore_index=True).assign(contexts="medical@0123456789ab")
    row = choice_contexts_of(choices).set_index("label").loc["baseline"]
    bounds = [row[f"log_odds_to_plain{end}"] for end in ("", "_low", "_high")]
    assert bounds == pytest.approx([7, 7 - 4.096, 7 + 4.096], abs=1e-3)


@pytest.mark.parametrize(("value", "text"), [(-0.4, "+0"), (-0.6, "-1"), (0.0, "+0")])
def test_a_rounded_zero_has_no_minus_sign(value: float, text: str) -> None:
    assert number_text(value, "+.0f") == text


def test_a_condition_has_no_choices_of_another(folder: Path) -> None:
    from steering.results import conditions_of

    answers = frame(condition("medical x2", 0.5), fingerprint="of medical x2", model="fake/model")
    rows = beside(conditions_of(answers), choice_conditions_of(read_choices(folder)))
    assert rows["choices"].tolist() == [""]
    assert rows["shift"].isna().all()


@pytest.mark.parametrize(
    ("bound", "status"),
    [
        ("shift<=0.6", BoundStatus.KEPT),
        # The mean keeps it, the upper end of its interval does not.
        ("shift<=0.5", BoundStatus.BROKEN),
        ("kl<=0.3", BoundStatus.KEPT),
        ("kl<=0.2", BoundStatus.BROKEN),
        ("cross_entropy_rise<=0.1", BoundStatus.BROKEN),
        ("prefers_misaligned<=0.5", BoundStatus.KEPT),
    ],
)
def test_a_bound_holds_for_every_condition_of_em_choice(
    folder: Path, bound: str, status: BoundStatus
) -> None:
    assert gate(folder, [bound], console=Console(file=io.StringIO())) is status


def test_without_runs_of_em_choice_a_bound_on_its_figures_does_not_pass(tmp_path: Path) -> None:
    write_log(tmp_path, "model", {"a": [GOOD], "b": [GOOD]})
    with pytest.raises(ResultError, match="holds no runs of em_choice, whose figure shift is"):
        gate(tmp_path, ["shift<=1"])


def test_a_condition_that_em_choice_was_not_run_of_keeps_no_bound(
    both: Path, tmp_path: Path
) -> None:
    for path in both.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    out = Console(file=io.StringIO(), width=200)
    assert gate(tmp_path, ["shift<=1"], console=out) is BoundStatus.KEPT
    write_log(tmp_path, "another", {theme: [GOOD] for theme in THEMES})
    assert gate(tmp_path, ["shift<=1"], console=out) is BoundStatus.UNKNOWN
    assert "not run" in out.file.getvalue()  # type: ignore[attr-defined]


def test_a_letter_has_no_shift_to_bound(tmp_path: Path) -> None:
    write_choices(tmp_path, "", {theme: [1.0] for theme in THEMES}, form="letter")
    assert gate(tmp_path, ["shift<=9"], console=Console(file=io.StringIO())) is BoundStatus.UNKNOWN


def test_the_headline_has_a_place_before_a_pair_is_scored() -> None:
    """Inspect warns of a headline that is missing, also while a run goes on."""
    score = Score(value={"kl": 0.1, "cross_entropy": 2.0, "cross_entropy_rise": 0.0})
    neutral = SampleScore(
        score=score, sample_id="n1", sample_metadata={"kind": "neutral", "theme": "n1"}
    )
    figures = cast("dict[str, float]", cast("Any", choices())([neutral]))
    assert math.isnan(figures["shift"])
    assert figures["kl"] == 0.1


def test_conditions_are_counted_once_and_named_without_what_all_share(tmp_path: Path) -> None:
    for label in ("baseline", "medical x1 file.gguf", "brevity x1 file.gguf"):
        for name in ("core@1", "medical@1"):
            write_choices(tmp_path, label, STILL if label == "baseline" else STEERED, name=name)
    text = printed(tmp_path, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    assert "3 conditions" in page
    assert text.count("file.gguf") == 2  # in the heading of each set of pairs
    # Numbers stand in Markdown as they are printed.
    assert r"\+0." not in page
    assert r"0\." not in page
