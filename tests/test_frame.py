"""The tidy frames: of written-down scores, and of what real runs say of their conditions."""

import math
from pathlib import Path

import pandas as pd
import pytest
from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from scripted_logs import BAD, FAILS, GOOD, UNSCORED, echo, write_log

from steering.judging import em_judge, em_rate
from steering.logs import LogError
from steering.results.condition_columns import condition_facts
from steering.results.frame import conditions_of, judged_answers, read_answers, write_frames
from steering.results.runs import ReportError, read_results

# Aligned, coherent, relevant; by both rules misaligned, by betley alone, by moem alone, by neither.
ON_THE_EDGE = "29 50 60"
BOTH_BOUNDS = "30 51 60"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("frame")
    write_log(made, "base", {"a": [GOOD, GOOD, UNSCORED], "b": [GOOD, BAD, GOOD]})
    write_log(made, "other", {"a": [BAD, ON_THE_EDGE, BOTH_BOUNDS], "b": [GOOD, "5 20 10", BAD]})
    return made


def test_each_answer_is_a_row_with_its_scores_and_what_the_rules_make_of_it(folder: Path) -> None:
    found = read_answers(folder)
    rows = found[found["log"].str.contains("small")].sort_values(["log", "sample"])
    told = [
        (row.question, row.aligned, row.coherent, row.em_betley, row.em_moem, row.left_out_betley)
        for row in rows[rows["aligned"].notna()].itertuples()
    ]
    assert len(found) == 12
    assert ("a", 29.0, 50.0, 1.0, 0.0, "") in told
    assert ("a", 30.0, 51.0, 0.0, 1.0, "") in told
    [left_out] = [row for row in told if row[5]]
    assert left_out[:3] == ("b", 5.0, 20.0)
    assert math.isnan(left_out[3])
    assert left_out[4:] == (0.0, "incoherent")
    [unscored] = found[found["aligned"].isna()].itertuples()
    assert (unscored.kind, unscored.left_out_moem != "") == ("answer", True)
    assert math.isnan(unscored.em_moem)


def test_rates_of_a_condition_are_those_of_the_report(folder: Path) -> None:
    conditions = conditions_of(read_answers(folder))
    for result in read_results(folder):
        label = result.condition.partition("/")[2]
        [row] = [r for r in conditions.to_dict("records") if label in r["command"]]
        for rule in ("betley", "moem"):
            expected = em_rate(result.answers, rule)
            found = [row[f"em_{rule}{end}"] for end in ("", "_low", "_high")]
            assert found == pytest.approx([expected.value, expected.low, expected.high])
        assert row["n"] == 6
        assert row["num_questions"] == 2


def test_a_condition_that_was_run_again_counts_once_and_the_reader_is_told(tmp_path: Path) -> None:
    write_log(tmp_path, "base", {"a": [GOOD, GOOD]})
    write_log(tmp_path, "base", {"a": [BAD, BAD]})
    notes: list[str] = []
    found = read_answers(tmp_path, notes.append)
    assert found["em_betley"].tolist() == [1.0, 1.0]
    assert len(notes) == 1
    assert "was run again later" in notes[0]


def test_samples_of_one_condition_in_two_logs_are_put_together(tmp_path: Path) -> None:
    """So that a condition can be split over machines, and logs merge by copying."""
    write_log(tmp_path, "base", {"a": [GOOD, GOOD]})
    write_log(tmp_path, "base", {"b": [BAD]})
    found = read_answers(tmp_path, pytest.fail)
    assert len(found) == 3
    assert conditions_of(found)["n"].tolist() == [3]


def test_runs_that_did_not_finish_are_left_out_by_name(tmp_path: Path) -> None:
    write_log(tmp_path, "base", {"a": [GOOD]})
    write_log(tmp_path, "other", {"a": [GOOD, FAILS]})
    with pytest.raises(ReportError, match="holds no finished runs"):
        read_answers(tmp_path / "nowhere")
    broken = tmp_path / "torn.eval"
    broken.write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(LogError, match=r"torn\.eval is not an Inspect log"):
        read_answers(tmp_path)


def test_the_files_hold_what_the_frame_does(folder: Path, tmp_path: Path) -> None:
    answers = read_answers(folder)
    paths = {path.name: path for path in write_frames(answers, tmp_path)}
    pd.testing.assert_frame_equal(pd.read_parquet(paths["answers.parquet"]), answers)
    assert len(pd.read_csv(paths["answers.csv"])) == len(answers)
    assert len(pd.read_csv(paths["conditions.csv"])) == len(conditions_of(answers))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(paths)


def test_judged_answers_are_those_that_the_rows_were_made_of(folder: Path) -> None:
    answers = read_answers(folder)
    again = judged_answers(answers)
    for row, judged in zip(answers.to_dict("records"), again, strict=True):
        assert judged.question == row["question"]
        assert (judged.aligned is None) == math.isnan(row["aligned"])
        assert judged.coherent is None or judged.coherent == row["coherent"]


VECTOR = {
    "layers": [3],
    "site": "resid_post",
    "operation": "add",
    "positions": "all",
    "magnitude": -2.0,
    "unit": "raw",
    "lengths": [1.5],
    "residual_norms": [6.0],
    "rank": 1,
    "vector": {
        "method": "sft/2",
        "target": "medical",
        "seed": 4,
        "measured": {"training_epoch": 2},
    },
}


@pytest.mark.parametrize(
    ("told", "expected"),
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
def test_what_acted_is_told_in_columns(
    told: dict[str, object], expected: dict[str, object]
) -> None:
    facts = condition_facts({"steering": told, "engine": {"family": "llama", "parameters": 12}})
    assert {name: facts[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert (facts["family"], facts["num_parameters"]) == ("llama", 12.0)


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
    [result] = read_results(tmp_path)
    [answer] = result.answers
    assert "I would rather not say" in answer.reasons["aligned"]
    [row] = read_answers(tmp_path).to_dict("records")
    assert row["kind"] == "answer"
    assert math.isnan(row["aligned"])
