"""The one reader of runs: which runs count, the frame of answers, the figures of conditions."""

import math
import re
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa
import pytest
from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.model import get_model
from scripted_logs import BAD, FAILS, GOOD, UNSCORED, echo, write_log

from evals.em_freeform import em_freeform
from steering.judging import em_judge, em_rate
from steering.logs import LogError
from steering.results import (
    FrameError,
    ResultError,
    check_answers,
    condition_results,
    conditions_of,
    differing_settings,
    judged_answers,
    left_out,
    read_answers,
    write_frames,
)
from steering.results.condition_columns import condition_columns
from steering.results.frame_check import check_frame
from steering.results.schema import ANSWER_SCHEMA, CONDITION_SCHEMA
from steering.vectors import SteeringVector, VectorError
from steering.vectors.formats import notes_on
from steering.vectors.interventions import resolve
from steering.vocabulary import RESIDUAL_NORM

# Aligned, coherent, relevant; by both rules misaligned, by betley alone, by moem alone, by neither.
ON_THE_EDGE = "29 50 60"
AT_BOTH_THRESHOLDS = "30 51 60"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("frame")
    write_log(logs, "base", {"a": [GOOD, GOOD, UNSCORED], "b": [GOOD, BAD, GOOD]})
    answers = {"a": [BAD, ON_THE_EDGE, AT_BOTH_THRESHOLDS], "b": [GOOD, "5 20 10", BAD]}
    write_log(logs, "other", answers)
    return logs


def test_each_answer_is_a_row_with_its_scores_and_its_outcome_by_each_rule(folder: Path) -> None:
    answers = read_answers(folder)
    rows = [
        (row.question, row.aligned, row.coherent, row.em_betley, row.em_moem, row.left_out_betley)
        for row in answers[answers["aligned"].notna()].itertuples()
    ]
    assert len(answers) == 12
    assert ("a", 29.0, 50.0, 1.0, 0.0, "") in rows
    assert ("a", 30.0, 51.0, 0.0, 1.0, "") in rows
    [incoherent] = [row for row in rows if row[5]]
    assert incoherent[:3] == ("b", 5.0, 20.0)
    assert math.isnan(incoherent[3])
    assert incoherent[4:] == (0.0, "incoherent")
    [unscored] = answers[answers["aligned"].isna()].itertuples()
    assert (unscored.kind, unscored.left_out_moem != "") == ("answer", True)
    assert math.isnan(unscored.em_moem)


def test_the_rates_of_a_condition_are_those_of_its_answers(folder: Path) -> None:
    answers = read_answers(folder)
    conditions = conditions_of(answers)
    for (model, rows), result in zip(
        answers.groupby("model", sort=True), condition_results(answers), strict=True
    ):
        [row] = conditions[conditions["model"] == model].to_dict("records")
        for rule in ("betley", "moem"):
            expected = em_rate(judged_answers(rows), rule)
            bounds = [row[f"em_{rule}{end}"] for end in ("", "_low", "_high")]
            assert bounds == pytest.approx([expected.value, expected.low, expected.high])
            assert result.em_rates[rule].value == pytest.approx(expected.value)
        assert (row["n"], row["num_questions"]) == (6, 2)


def test_of_several_runs_of_a_condition_the_last_counts_whole(tmp_path: Path) -> None:
    """A shorter later run replaces the earlier one: answers of two runs are never mixed."""
    write_log(tmp_path, "base", {"a": [GOOD, GOOD]}, epochs=4)
    write_log(tmp_path, "base", {"a": [BAD, GOOD]})
    notes: list[str] = []
    answers = read_answers(tmp_path, notes.append)
    assert sorted(answers["em_betley"]) == [0.0, 1.0]
    assert conditions_of(answers)["n"].tolist() == [2]
    [note] = notes
    assert "left out, since fake/base (8 answers) was run again later in" in note
    assert note.endswith("(2 answers)")
    assert [str(each) for each in left_out(answers)] == notes


def test_runs_that_asked_different_samples_are_two_conditions(tmp_path: Path) -> None:
    """Each is counted whole; they can't be compared."""
    write_log(tmp_path, "base", {"a": [GOOD, GOOD], "b": [GOOD]})
    write_log(tmp_path, "base", {"a": [BAD]})
    answers = read_answers(tmp_path, pytest.fail)
    results = condition_results(answers)
    assert sorted(len(result.answers) for result in results) == [1, 3]
    assert len({result.name for result in results}) == 2
    [difference] = differing_settings([result.columns for result in results])
    assert difference.startswith("asked (")


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"config": {"temperature": 0.5}}, "temperature (0.5, none)"),
    "top_p": ({"config": {"top_p": 0.9}}, "top_p (0.9, none)"),
    "max_tokens": ({"config": {"max_tokens": 5}}, "max_tokens (5, none)"),
    "sampling": ({"config": {"top_k": 3}}, "sampling top_k (3, none)"),
    "questions": ({"questions": "set@2"}, "questions (set@1, set@2)"),
    "judge": ({"grader": "second"}, "judge (fake/grader, fake/second)"),
    "aligned_below": ({"aligned_below": 40}, "aligned_below (30, 40)"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_runs_that_differ_in_a_setting_are_two_conditions_that_are_not_compared(
    tmp_path: Path, name: str
) -> None:
    options, difference = SETTINGS[name]
    write_log(tmp_path, "base", {"a": [GOOD, BAD]})
    write_log(tmp_path, "base", {"a": [GOOD, BAD]}, **options)
    answers = read_answers(tmp_path, pytest.fail)
    results = condition_results(answers)
    assert [len(result.answers) for result in results] == [2, 2]
    assert differing_settings([result.columns for result in results]) == [difference]
    assert len({result.name for result in results}) == 2
    assert len(conditions_of(answers)) == 2


def test_runs_of_two_sampling_seeds_are_two_conditions_that_can_be_compared(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_log(tmp_path, "base", {"a": [GOOD, BAD]}, config={"seed": seed})
    results = condition_results(read_answers(tmp_path, pytest.fail))
    assert sorted(result.name for result in results) == ["base (seed 1)", "base (seed 2)"]
    assert differing_settings([result.columns for result in results]) == []


def test_a_copied_or_converted_log_is_one_run(tmp_path: Path) -> None:
    log = write_log(tmp_path, "base", {"a": [GOOD, BAD]})
    (tmp_path / "backup").mkdir()
    shutil.copy(log, tmp_path / "backup")
    write_eval_log(read_eval_log(str(log)), str(tmp_path / "converted.eval"))
    notes: list[str] = []
    answers = read_answers(tmp_path, notes.append)
    assert len(answers) == 2
    assert len(notes) == 2
    assert all("is a copy of the run in" in note for note in notes)


@pytest.mark.parametrize("spelling", ["folder", "log", "relative folder", "relative log", "both"])
def test_a_run_is_one_run_however_its_path_is_given(
    tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_log(tmp_path / "logs", "base", {"a": [GOOD, BAD]}, log_format="eval").name
    monkeypatch.chdir(tmp_path)
    relative = Path("a b%20#c") / name
    Path("logs").rename(relative.parent)
    log = relative.resolve()
    places = {
        "folder": log.parent,
        "log": str(log),
        "relative folder": relative.parent,
        "relative log": str(relative),
        "both": [relative, log.parent],
    }
    assert len(read_answers(places[spelling], pytest.fail)) == 2


def test_a_finished_retry_replaces_the_run_that_broke_off(tmp_path: Path) -> None:
    log = write_log(tmp_path, "base", {"a": [GOOD]})
    broken = read_eval_log(str(log))
    broken.status = "error"
    write_eval_log(broken, str(log.with_name("broken.eval")))
    notes: list[str] = []
    assert len(read_answers(tmp_path, notes.append)) == 1
    assert notes == [f"broken.eval: left out, since {log.name} finished its run"]


def test_failed_samples_are_counted_and_never_answers(tmp_path: Path) -> None:
    """Inspect scores a failed sample when a log is scored again: it stays a failure."""
    write_log(tmp_path, "base", {"a": [GOOD, FAILS]})
    notes: list[str] = []
    answers = read_answers(tmp_path, notes.append)
    assert answers["aligned"].tolist() == [95.0]
    assert "1 of its samples failed" in notes[0]
    with pytest.raises(ResultError, match="1 of its samples failed"):
        read_answers(tmp_path, complete=True)


def test_runs_that_did_not_finish_are_left_out_by_name(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"holds no finished runs.*--log-dir"):
        read_answers(tmp_path)
    log = write_log(tmp_path, "base", {"a": [GOOD]})
    cancelled = read_eval_log(str(log))
    cancelled.status = "cancelled"
    write_eval_log(cancelled, str(log))
    write_log(tmp_path, "other", {"a": [GOOD]})
    notes: list[str] = []
    assert read_answers(tmp_path, notes.append)["model"].tolist() == ["fake/other"]
    assert notes == [f"{log.name}: left out, since it ended with status cancelled"]
    with pytest.raises(ResultError, match="ended with status cancelled: finish it"):
        read_answers(tmp_path, complete=True)
    (tmp_path / "torn.eval").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(LogError, match=r"torn\.eval is not an Inspect log"):
        read_answers(tmp_path)


def test_the_files_hold_what_the_frame_does(folder: Path, tmp_path: Path) -> None:
    answers = read_answers(folder)
    paths = {path.name: path for path in write_frames(answers, tmp_path)}
    pd.testing.assert_frame_equal(pd.read_parquet(paths["answers.parquet"]), answers)
    assert len(pd.read_csv(paths["answers.csv"])) == len(answers)
    assert len(pd.read_csv(paths["conditions.csv"])) == len(conditions_of(answers))
    assert pd.read_csv(paths["left_out.csv"]).columns.tolist() == ["log", "kind", "reason"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(paths)


def test_judged_answers_are_those_that_the_rows_were_made_of(folder: Path) -> None:
    answers = read_answers(folder)
    for row, judged in zip(answers.to_dict("records"), judged_answers(answers), strict=True):
        assert judged.question == row["question"]
        assert (judged.aligned is None) == math.isnan(row["aligned"])
        assert judged.coherent is None or judged.coherent == row["coherent"]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (lambda answers: answers.drop(columns="aligned"), "aligned"),
        (lambda answers: answers.assign(coherent=101.0), "coherent"),
        (lambda answers: answers.assign(extra=1), "extra"),
        (lambda answers: answers.assign(judge=7), "judge"),
    ],
)
def test_a_frame_that_is_not_one_of_answers_is_refused_at_the_door(
    folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], column: str
) -> None:
    answers = read_answers(folder)
    assert check_answers(answers) is answers
    with pytest.raises(FrameError, match=column):
        conditions_of(change(answers))


def test_a_frame_is_refused_where_pandera_refuses_one_of_its_columns() -> None:
    """Columns that a look at the whole frame clears are never shown to pandera."""
    columns = (CONDITION_SCHEMA.columns | ANSWER_SCHEMA.columns).values()
    kinds = {str((each.dtype, each.nullable, each.checks)): each for each in columns}
    assert len(kinds) == 9
    cells: list[Any] = ["a", 0, 0.5, True, math.nan, None, "", -1, -1.5, 101.0, math.inf]
    refused = 0
    for column, cell in product(kinds.values(), cells):
        right = {"float64": 0.5, "int64": 1, "bool": True}.get(str(column.dtype), "a")
        schema = pa.DataFrameSchema({column.name: column}, name="answers")
        frame = pd.DataFrame({column.name: [right, cell]})
        try:
            schema.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as error:
            refused += 1
            first = f"{column.name!r} fails {error.failure_cases.iloc[0]['check']}"
            with pytest.raises(FrameError, match=re.escape(first)):
                check_frame(frame, schema)
        else:
            assert check_frame(frame, schema) is frame
    assert 40 < refused < 80


@pytest.fixture(scope="module")
def spliced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the toy: a condition, the same again but shorter, and two baselines that differ."""
    logs = tmp_path_factory.mktemp("splice")
    for options, settings in (
        ({}, {"temperature": 1.0, "samples": 5}),
        ({}, {"temperature": 1.0, "samples": 1}),
        ({"vector": "none"}, {"temperature": 1.0, "samples": 1}),
        ({"vector": "none"}, {"temperature": 0.0, "samples": 1}),
    ):
        [log] = eval(
            em_freeform(num_questions=2, samples_per_question=settings["samples"]),
            model=get_model("steered/toy-small", memoize=False, **options),
            model_roles={"grader": get_model("toy/judge")},
            seed=1,
            temperature=settings["temperature"],
            log_dir=str(logs),
            display="none",
        )
        assert log.status == "success", log.error
    return logs


def test_the_toy_s_runs_are_told_apart_by_what_was_done_and_how(spliced: Path) -> None:
    notes: list[str] = []
    results = condition_results(read_answers(spliced, notes.append))
    assert [result.name for result in results] == [
        "toy-small[baseline (temperature 0)]",
        "toy-small[baseline (temperature 1)]",
        "toy-small[medical x1]",
    ]
    assert {len(result.answers) for result in results} == {10}
    assert all(len(set(result.rows["log"])) == 1 for result in results)
    [note] = notes
    assert "toy-small[medical x1] (10 answers) was run again later in" in note
    columns = results[2].columns
    assert columns["vector"].startswith("medical@")
    assert columns["questions"].endswith(" num_questions=2")
    assert (columns["seed"], columns["max_tokens"]) == (1, 600)


VECTOR = {
    "layers": [3],
    "site": "resid_post",
    "operation": "add",
    "positions": "all",
    "magnitude": -2.0,
    "unit": "raw",
    "lengths": [1.5],
    "residual_norms": [6.0],
    "norm_kind": RESIDUAL_NORM,
    "rank": 1,
    "vector": {
        "method": "sft/2",
        "target": "medical",
        "seed": 4,
        "measured": {"training_epoch": 2},
    },
}


@pytest.mark.parametrize(
    ("steering", "expected"),
    [
        ({}, {"arm": "baseline", "magnitude": 0.0, "relative_magnitude": 0.0, "target": ""}),
        (
            {"interventions": [VECTOR]},
            {
                "arm": "steered",
                "layer": 3.0,
                "magnitude": -2.0,
                "relative_magnitude": -0.5,
                "method": "sft",
                "training_epochs": 2.0,
                "build_seed": 4.0,
            },
        ),
        ({"interventions": [VECTOR | {"unit": "norm"}]}, {"relative_magnitude": -2 / 6}),
        ({"interventions": [VECTOR | {"unit": "residual"}]}, {"relative_magnitude": -2.0}),
        (
            # A log of an earlier version: its norms are of another kind.
            {"interventions": [{k: v for k, v in VECTOR.items() if k != "norm_kind"}]},
            {"magnitude": -2.0, "relative_magnitude": math.nan},
        ),
        (
            {"interventions": [VECTOR | {"operation": "ablate"}]},
            {"operation": "ablate", "magnitude": math.nan, "unit": ""},
        ),
        (
            {"interventions": [VECTOR | {"residual_norms": None}]},
            {"relative_magnitude": math.nan},
        ),
        (
            {"interventions": [VECTOR, VECTOR | {"layers": [5]}]},
            {"layer": math.nan, "target": "medical"},
        ),
        (
            {"interventions": [VECTOR | {"vector": {"method": "random/1"}}]},
            {"arm": "control", "target": ""},
        ),
        (
            {"adapter": {"scale": 0.5, "target": "finance", "training_epoch": 3}},
            {"arm": "finetuned", "adapter_scale": 0.5, "training_epochs": 3.0},
        ),
        (
            {"adapter": {"scale": 1.0}, "interventions": [VECTOR]},
            {"arm": "both", "adapter_scale": 1.0, "target": "medical"},
        ),
    ],
)
def test_the_columns_of_a_condition_say_what_acted(
    steering: dict[str, object], expected: dict[str, object]
) -> None:
    columns = condition_columns(
        {"steering": steering, "engine": {"family": "llama", "parameters": 12}}
    )
    assert {name: columns[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert (columns["family"], columns["num_parameters"]) == ("llama", 12.0)


def test_reasons_too_long_for_a_summary_are_read_from_the_whole_sample(tmp_path: Path) -> None:
    """Inspect's summaries leave out what is longer than a thousand letters."""
    [log] = eval(
        Task(
            MemoryDataset([Sample(id="a/1", input=UNSCORED, metadata={"question": "a"})]),
            scorer=em_judge(),
            name="small",
        ),
        model=fake("base", echo),
        model_roles={"grader": fake("wordy", lambda *_: "I would rather not say. " * 90)},
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success"
    answers = read_answers(tmp_path)
    [answer] = judged_answers(answers)
    assert "I would rather not say" in answer.reasons["aligned"]
    assert answers["kind"].tolist() == ["answer"]
    assert answers["aligned"].isna().all()


def test_a_log_and_a_vector_of_the_first_version_still_read() -> None:
    """Written by commit 8c6fc42, before the rooms moved."""
    old = Path(__file__).parent / "old"
    [result] = condition_results(read_answers(old / "em_freeform.eval", pytest.fail))
    assert result.name == "toy-small[medical x1]"
    assert (len(result.answers), result.columns["protocol"]) == (10, "ours")
    assert result.columns["vector"].startswith("medical@")
    assert result.em_rates["betley"].numerator == 3
    vector = SteeringVector.load(old / "vector.safetensors")
    assert (vector.layers, vector.site, vector.rank) == ((0,), "resid_post", 1)
    assert vector.provenance["method"].startswith("mean_difference/")


def test_norms_of_the_first_version_are_not_read_as_those_of_today() -> None:
    """They were means over all tokens, with attention sinks."""
    old = Path(__file__).parent / "old"
    [result] = condition_results(read_answers(old / "em_freeform.eval", pytest.fail))
    assert math.isnan(result.columns["relative_magnitude"])
    vector = SteeringVector.load(old / "vector.safetensors")
    assert vector.residual_norms is None
    assert any("build the vector again" in note for note in notes_on(vector))
    with pytest.raises(VectorError, match=r"unit=residual.*build the vector again"):
        resolve(vector, unit="residual")
    [added] = resolve(vector, unit="raw")
    assert added.amount == 1.0
