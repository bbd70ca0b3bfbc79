"""Studies of a factor: what a grid is, what it costs, and the same grid run by its command."""

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from inspect_ai.log import list_eval_logs, read_eval_log
from shell import Shell

from steering import models
from steering.cli import commands
from steering.errors import SteeringError
from steering.results.frame import read_answers
from steering.studies import (
    GRIDS,
    StudyError,
    grid_points,
    keep_study,
    make_study,
    read_spectrum,
    read_study,
)
from steering.vocabulary import FACTORS

SMALL = ["-T", "num_questions=2", "-T", "samples_per_question=10", "--display", "none"]


def test_every_factor_has_a_command_and_every_grid_a_factor() -> None:
    group = commands.commands["study"]
    assert set(FACTORS) | {"run", "all"} == set(group.commands)  # type: ignore[attr-defined]
    assert set(GRIDS) == set(FACTORS) - {"finetuned"}


@pytest.mark.parametrize(
    ("factor", "labels"),
    [
        ("magnitude", ["x0.25", "x0.5", "x0.75", "x1", "x1.5", "x2", "x3", "x4"]),
        ("rank", ["x1", "x1 rank 2", "x1 rank 4", "x1 rank 8"]),
        ("epochs", ["x1 epoch 1", "x1 epoch 2", "x1", "x1 epoch 4", "x1 epoch 5"]),
        ("layer", ["x1 L0", "x1 L1", "x1 L2", "x1 L3"]),
    ],
)
def test_a_grid_has_one_baseline_and_a_condition_a_value(factor: str, labels: list[str]) -> None:
    points = grid_points(make_study(factor))
    assert [point.label for point in points] == ["baseline", *(f"medical {x}" for x in labels)]


def test_targets_of_the_toy_are_those_of_its_world() -> None:
    labels = [point.label for point in grid_points(make_study("target"))]
    assert labels == ["baseline", "code x1", "finance x1", "medical x1", "sports x1"]


def test_axes_are_crossed_and_models_each_have_their_baseline(
    tiny_folder: Any,
) -> None:
    other = str(tiny_folder("llama"))
    study = make_study(
        "magnitude", models=["toy", other], axes={"magnitude": [1, 2], "layer": [0, 1]}
    )
    points = grid_points(study)
    assert len(points) == 2 * (1 + 4)
    assert [point.label for point in points if point.model == "toy"] == [
        "baseline",
        "medical x1 L0",
        "medical x1 L1",
        "medical x2 L0",
        "medical x2 L1",
    ]
    assert len({point.name for point in points}) == len(points)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"factor": "colour"}, "factor colour is unknown: allowed are magnitude, rank"),
        (
            {"factor": "magnitude", "axes": {"magnitud": [1]}},
            "magnitud is not an option to vary. Did you mean magnitude",
        ),
        ({"factor": "magnitude", "axes": {"magnitude": []}}, "axis magnitude is empty"),
        ({"factor": "magnitude", "axes": {"magnitude": [1, 1]}}, "has a value twice"),
        ({"factor": "layer", "options": {"layer": 1}}, "layer is an axis and is fixed"),
        ({"factor": "magnitude", "top": [1]}, "top is of the study rank"),
        ({"factor": "rank", "top": [9]}, "must lie from 1 to 4, the number of target tasks"),
        ({"factor": "family", "models": ["toy"]}, "compares models and got 1"),
        ({"factor": "magnitude", "models": ["toi"]}, "no model is called toi"),
        ({"factor": "magnitude", "seed": "soon"}, "seed: "),
    ],
)
def test_an_impossible_study_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SteeringError, match=re.escape(words)):
        make_study(**fields)


def test_a_study_file_is_read_back_as_the_study_that_it_was(tmp_path: Path) -> None:
    study = make_study("rank", axes={"rank": [1, 2]}, task={"num_questions": 2}, seed=3)
    keep_study(study.fields(), tmp_path)
    assert read_study(tmp_path / "study.yaml") == study
    assert yaml.safe_load((tmp_path / "study.yaml").read_text())["top"] == [1, 2, 4]
    # More values join; other questions, another judge or seed are another study.
    other: dict[str, Any] = {"task": {"num_questions": 2}, "seed": 3}
    keep_study(make_study("rank", axes={"rank": [1, 4]}, **other).fields(), tmp_path)
    with pytest.raises(StudyError, match="holds a study with seed 3, and this one has 0"):
        keep_study(make_study("rank", task={"num_questions": 2}).fields(), tmp_path)
    with pytest.raises(StudyError, match="holds a study with factor rank"):
        keep_study(make_study("epochs", **other).fields(), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a list", "is no study file"),
        ("models: [toy]", "is no study file"),
        ("factor: [", "is no study file"),
        ("factor: magnitude\nmodel: toy", "model is unknown: allowed are factor, models"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(StudyError, match=words):
        read_study(file)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-A", "magnitude=strong"], "magnitude='strong' is not allowed"),
        (["-A", "layer=9"], "layer 9 is out of range: toy has 4 blocks"),
        (["-A", "magnitude"], "-A magnitude says no value: write name=value"),
        (["-M", "magnitud=1"], "magnitud is not an option"),
        (
            ["-T", "question=core"],
            "-T question is not an option of em_freeform. Did you mean questions",
        ),
        (["--grader", "nobody/judge"], "the judge nobody/judge can't be used"),
        (["--model", "toy,toi"], "no model is called toi"),
    ],
)
def test_what_is_impossible_is_said_before_a_model_is_loaded(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    done = CliRunner().invoke(commands, ["study", "magnitude", *SMALL, *arguments])
    assert done.exit_code != 0
    assert words in f"{done.output} {done.exception}"
    assert isinstance(done.exception, SteeringError | SystemExit)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_is_left_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(commands, ["study", "rank", *SMALL, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "8 conditions to run, 20 answers each: 160 answers of 600 tokens at the most" in (
        done.output
    )
    assert "480 calls of each judge. At 150 tokens an answer, about 24,000 tokens" in done.output
    assert list(tmp_path.iterdir()) == []


def _frame(logs: Path) -> pd.DataFrame:
    found = read_answers(logs, pytest.fail)
    assert not found.duplicated(["model", "condition", "sample", "epoch"]).any()
    return found


def _ids(logs: Path) -> dict[str, set[str]]:
    """Sample uuids of each condition: a sample that is run again has another."""
    read = [read_eval_log(info) for info in list_eval_logs(str(logs))]
    return {log.eval.model: {str(s.uuid) for s in log.samples or []} for log in read}


def test_a_study_is_run_added_to_and_not_repeated(shell: Shell) -> None:
    logs = shell.folder / "logs" / "rank"
    command = [
        "steering",
        "study",
        "rank",
        *SMALL,
        "--log-dir",
        str(logs),
        "--top-of",
        "medical,code",
    ]
    done = shell.run(*command, "-A", "rank=1", "--top", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 conditions to run" in done.stdout
    first = _frame(logs)
    assert set(first["study"]) == {"rank"}
    assert sorted(first.groupby("condition").size()) == [20, 20, 20]
    [projected] = first.loc[first["top"].notna(), "condition"].unique()
    assert projected.startswith("medical-top1-")
    assert len(read_spectrum(logs)) == 2
    before = _ids(logs)

    again = shell.run(*command, "-A", "rank=1,2", "--top", "1,2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 conditions to run" in again.stdout
    after = _ids(logs)
    assert {name: after[name] for name in before} == before
    assert sorted(_frame(logs).groupby("condition").size()) == [20] * 5

    third = shell.run("steering", "study", "run", str(logs / "study.yaml"), "--log-dir", str(logs))
    assert third.returncode == 0, third.stdout + third.stderr
    assert "Every condition has been run." in third.stdout
    assert _ids(logs) == after
    assert shell.network_tries() == []


def test_a_study_that_was_killed_goes_on_and_repeats_no_finished_sample(shell: Shell) -> None:
    logs = shell.folder / "logs" / "killed"
    arguments = ["study", "magnitude", "-T", "num_questions=4", "--log-dir", str(logs)]
    arguments += ["-A", "magnitude=0.5,1", "--display", "none"]
    process = shell.start(
        "steering", *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not _started(logs):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = _finished(logs)
    done = shell.run("steering", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(_frame(logs).groupby("condition").size()) == [80, 80, 80]
    assert kept <= set().union(*_ids(logs).values())


def _started(logs: Path) -> bool:
    return len(_finished(logs)) >= 20


def _finished(logs: Path) -> set[str]:
    """Samples that the logs of a run that is under way hold."""
    found: set[str] = set()
    for info in list_eval_logs(str(logs)) if logs.is_dir() else []:
        try:
            log = read_eval_log(info)
        except Exception:
            continue  # being written just now
        found |= {str(sample.uuid) for sample in log.samples or []}
    return found


def test_all_studies_are_told_in_turn_and_those_of_models_are_the_toys(
    tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["study", "all", *SMALL, "--dry-run"]
    done = CliRunner().invoke(commands, command)
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    assert re.findall(r"^Study (\w+):", done.output, flags=re.MULTILINE) == list(FACTORS)
    assert "6 conditions to run, 20 answers each: 120 answers" in done.output
    other = ["--model", str(tiny_folder("llama")), "--grader", "toy/judge"]
    done = CliRunner().invoke(commands, [*command, *other])
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    for factor in ("family", "scale"):
        assert f"Study {factor}: left out; run it with --model first,second." in done.output
    assert list(tmp_path.iterdir()) == []
