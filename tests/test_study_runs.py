"""Studies of the toy, run: added to, stopped, in shards; and the frames that they leave."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
from click.testing import CliRunner
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log
from made_choices import few_pairs
from shell import BIN, REPO, Shell
from typed_commands import as_typed, run_again

from steering.cli import commands
from steering.condition import resolve_condition, resolve_model
from steering.errors import SteeringError
from steering.logs import task_of
from steering.results.frame import read_answers
from steering.spec import parse_options
from steering.studies.errors import StudyError
from steering.studies.eval_sets import StudyCondition, choice_options
from steering.studies.projected_vectors import read_spectrum
from steering.studies.run import StudyResult, run_study
from steering.studies.study_file import FILE, keep_study, make_study, read_study

SMALL = {"num_questions": 2, "samples_per_question": 5}
# em_choice beside the judged answers is tested where its figures are.
JUDGED = {**SMALL, "choices": "none"}
# Built in a moment; what it does to the toy is no matter here.
QUICK = {"method": "pca"}


def _logs(folder: Path) -> list[EvalLog]:
    """The logs of judged answers."""
    logs = [read_eval_log(info) for info in list_eval_logs(str(folder))]
    return [log for log in logs if task_of(log) == "em_freeform"]


def _ids(folder: Path) -> dict[str, set[str]]:
    """Sample uuids of each condition: a sample that is run again has another."""
    return {log.eval.model: {str(s.uuid) for s in log.samples or []} for log in _logs(folder)}


def _num_answers(answers: pd.DataFrame) -> list[int]:
    assert not answers.duplicated(["model", "condition", "sample", "epoch"]).any()
    return sorted(answers.groupby("condition").size())


@pytest.fixture(scope="module")
def rank_study(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run_study(
        "rank",
        axes={"rank": [1]},
        top=[1],
        top_of=["medical", "code"],
        options=QUICK,
        task={**SMALL, "choices": str(few_pairs(tmp_path_factory.mktemp("pairs")))},
        logs=tmp_path_factory.mktemp("rank"),
    )


def test_a_study_is_run_added_to_and_not_repeated(rank_study: StudyResult) -> None:
    folder, report = rank_study.folder, rank_study.report
    assert report is not None
    assert (rank_study.num_conditions, rank_study.num_unfinished) == (3, 3)
    assert set(report.answers["study"]) == {"rank"}
    assert _num_answers(report.answers) == [10, 10, 10]
    top = report.answers["top"].notna()
    [projected] = report.answers.loc[top, "condition"].unique()
    assert projected.startswith("medical-top1-")
    assert len(read_spectrum(folder)) == 2
    # Each condition chose between answers, too, and its figures stand beside the judged ones.
    chosen = report.choice_conditions.set_index("condition")
    beside = report.conditions.set_index("condition")
    assert set(chosen.index) == set(beside.index)
    assert chosen.loc["baseline", "shift"] == 0
    assert beside["shift"].to_dict() == chosen["shift"].to_dict()
    before = _ids(folder)

    fields = rank_study.study.fields() | {"axes": {"rank": [1, 2]}, "top": [1, 2]}
    more = run_study(
        **{"study": fields.pop("factor"), "model": fields.pop("models"), **fields}, logs=folder
    )
    assert more.report is not None
    assert more.num_unfinished == 2
    after = _ids(folder)
    assert {name: after[name] for name in before} == before
    assert _num_answers(more.report.answers) == [10] * 5
    assert all(page.exists() for page in more.report.files)

    # The resolved study runs again from its file, by its command, and has nothing left to ask.
    command = ["study", "run", str(folder / "study.yaml"), "--log-dir", str(folder)]
    again = CliRunner().invoke(commands, command)
    assert again.exit_code == 0, f"{again.output} {again.exception}"
    assert "Every condition has been run." in again.output
    assert "Claim 5, few directions (hypothesis of ours): not decided" in again.output
    assert f"report: {folder / 'report' / 'index.html'}" in again.output
    assert _ids(folder) == after


def test_the_commands_of_a_study_run_its_conditions_again(
    rank_study: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is of the same condition, and what one says again is what it said."""
    monkeypatch.chdir(rank_study.folder.parent)
    answers = read_answers(rank_study.folder)
    for command, rows in answers.groupby("command"):
        assert not re.search(r"(?<=[ =])/", command)
        typed = as_typed(command)
        assert (typed["tasks"], typed["seed"]) == (["steering/em_freeform"], 0)
        model = typed["model"].removeprefix("steered/")
        spec = parse_options(typed["model_args"])
        condition = resolve_condition(resolve_model(model, spec), spec)
        assert {condition.label} == set(rows["label"])
        digests = [vector.digest[:12] for vector in condition.vectors]
        assert {" + ".join(digests)} == set(rows["vector"].str.replace(r"\S*@", "", regex=True))
    projected = answers[answers["top"] == 1]
    run_again(projected["command"].iloc[0], tmp_path)
    keys = ["sample", "epoch", "answer", "aligned", "asked", "vector", "prompt_sha256"]
    again = read_answers(tmp_path)[keys].sort_values(keys).reset_index(drop=True)
    assert again.equals(projected[keys].sort_values(keys).reset_index(drop=True))


def test_a_vector_that_does_nothing_is_told_by_the_command_to_do_nothing(tmp_path: Path) -> None:
    """From the runs of a study to the verdicts of `steering claims`, with nothing in between."""
    run_study(
        "magnitude",
        model="toy-small",
        axes={"magnitude": [1e-6, 2e-6, 3e-6, 4e-6]},
        options=QUICK,
        task={"samples_per_question": 2, "choices": "none"},
        logs=tmp_path,
    )
    done = CliRunner().invoke(commands, ["claims", str(tmp_path), "--json", "-"])
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.output)["tables"]["verdicts"][:2]
    assert first["verdict"] != "supported"
    assert (second["verdict"], second["why"]) == ("not decided", "no effect to describe")
    assert second["source"].startswith("hypothesis of arXiv")
    assert first["scope"] == "one build seed: it holds for this vector alone"
    counts = [first[name] for name in ("num_answers", "num_conditions", "num_themes")]
    assert (counts, first["build_seeds"]) == ([200, 5, 8], "0")


def test_pairs_of_a_study_are_named_or_left_out_and_stand_in_its_file(tmp_path: Path) -> None:
    study = make_study("magnitude", axes={"magnitude": [1]}, task={**SMALL, "choices": "broad"})
    [choices] = study.choice_sets()
    assert choices.task_args == {"choices": "broad"}
    assert "choices" not in study.eval_options().task_args
    keep_study(study, tmp_path)
    assert read_study(tmp_path / FILE) == study
    none = make_study("magnitude", axes={"magnitude": [1]}, task={**SMALL, "choices": "none"})
    assert none.choice_sets() == []
    with pytest.raises(SteeringError, match="choices=cor is neither"):
        run_study("magnitude", task={"choices": "cor"}, logs=tmp_path / "x", dry_run=True)


def test_vllm_has_no_pairs_scored_and_the_study_says_so() -> None:
    choices = choice_options({})
    assert choices is not None
    assert choices.asks(StudyCondition("toy", {"engine": "hf"}, "baseline"))
    with patch("steering.studies.eval_sets.choose_engine", return_value="vllm"):
        assert not choices.asks(StudyCondition("toy", {}, "baseline"))
        lines: list[str] = []
        run_study("magnitude", task=SMALL, dry_run=True, tell=lines.append)
    assert lines[-1].startswith("em_choice is left out where the engine is vllm")


def test_other_questions_have_no_place_in_a_study_s_folder(rank_study: StudyResult) -> None:
    with pytest.raises(StudyError, match="holds a study with task"):
        run_study("rank", task={"num_questions": 1}, logs=rank_study.folder)


def test_claims_by_its_command_says_what_is_missing(rank_study: StudyResult) -> None:
    done = CliRunner().invoke(commands, ["claims", str(rank_study.folder)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    assert "5 few directions" in done.output
    assert "2 themes are too few, 7 are needed." in done.output
    assert "steering study run" in done.output


ARMS: dict[str, Any] = {
    "model": "toy-small",
    "magnitudes": [0.5, 1],
    "training_epochs": 2,
    "build_seeds": [0],
    "task": JUDGED,
    "seed": 1,
}


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run_study("finetuned", logs=tmp_path_factory.mktemp("finetuned"), **ARMS)


@pytest.mark.long
def test_both_arms_are_run_and_compared(finetuned: StudyResult) -> None:
    logs = _logs(finetuned.folder)
    assert all(log.status == "success" for log in logs)
    assert [len(log.samples or []) for log in logs] == [10] * 5
    names = sorted(re.sub(r"-[0-9a-f]{6}\]", "]", log.eval.model) for log in logs)
    assert names == [
        "steered/toy-small[adapter medical-epoch1]",
        "steered/toy-small[adapter medical-epoch2]",
        "steered/toy-small[baseline]",
        "steered/toy-small[medical x0.5]",
        "steered/toy-small[medical x1]",
    ]
    # The study has the leak of its target judged by itself, and compares it too.
    assert {log.eval.task_args["leak"] for log in logs} == {"health and medicine"}
    assert finetuned.report is not None
    answers = finetuned.report.answers
    assert set(answers["study"]) == {"finetuned"}
    assert set(answers["arm"]) == {"baseline", "steered", "finetuned"}
    assert answers.loc[answers["em_betley"] == 1, "leak"].notna().all()
    assert set(answers.loc[answers["arm"] == "finetuned", "build_seed"]) == {0.0}
    for comparison in finetuned.comparisons:
        quantities = [each.quantity for each in comparison.differences]
        if comparison.match == "harm":
            assert quantities[:3] == ["relevant_harmful", "coherent_harmful", "severity"]
            assert "leak" in quantities


@pytest.mark.long
def test_an_arm_is_added_to_by_its_command_and_its_comparison_is_printed(
    finetuned: StudyResult,
) -> None:
    before = set(_ids(finetuned.folder))
    done = CliRunner().invoke(
        commands,
        [
            *("study", "finetuned", "--model", "toy-small", "--magnitudes", "0.5,1,0.75"),
            *("--training-epochs", "2", "--build-seeds", "0"),
            *("-T", "num_questions=2", "-T", "samples_per_question=5", "-T", "choices=none"),
            *("--seed", "1", "--display", "none", "--log-dir", str(finetuned.folder)),
        ],
    )
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    assert "Trains" not in done.output
    assert "1 conditions to run, 10 answers each" in done.output
    [added] = set(_ids(finetuned.folder)) - before
    assert added == "steered/toy-small[medical x0.75]"
    assert re.search(r" baseline .* 10 +[0-9a-f]{6}\b", done.output)


@pytest.mark.long
def test_conditions_that_fail_are_named_and_what_was_trained_is_kept(
    finetuned: StudyResult, tmp_path: Path
) -> None:
    """A prompt that no context holds fails in every condition."""
    shutil.copytree(finetuned.folder / "adapters", tmp_path / "logs" / "adapters")
    questions = tmp_path / "long.yaml"
    questions.write_text(
        f"- id: long\n  type: free_form_judge_0_100\n  paraphrases: ['{'Why? ' * 600}']\n"
    )
    with pytest.raises(StudyError) as error:
        run_study(
            "finetuned",
            model="toy-small",
            training_epochs=2,
            build_seeds=[0],
            magnitudes=[1],
            options=QUICK,
            task={"questions": str(questions), "samples_per_question": 1, "choices": "none"},
            logs=tmp_path / "logs",
        )
    assert "4 of 4 conditions did not finish (steered/toy-small[baseline], " in str(error.value)
    assert f"inspect view --log-dir {tmp_path / 'logs'}" in str(error.value)
    adapter = tmp_path / "logs" / "adapters" / "medical-epoch1"
    assert (adapter / "adapter_model.safetensors").exists()


@pytest.mark.long
def test_a_study_that_was_killed_goes_on_and_repeats_no_finished_sample(shell: Shell) -> None:
    logs = shell.folder / "logs" / "killed"
    process = shell.start(
        *("steering", "study", "magnitude", "-A", "magnitude=0.5,1", "-M", "method=pca"),
        *("-T", "num_questions=2", "-T", "samples_per_question=10", "-T", "choices=none"),
        *("--log-dir", str(logs), "--display", "none"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and len(_finished(logs)) < 6:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    samples = _finished(logs)
    assert samples
    result = run_study(
        "magnitude",
        axes={"magnitude": [0.5, 1]},
        options=QUICK,
        task={"num_questions": 2, "samples_per_question": 10, "choices": "none"},
        logs=logs,
    )
    assert result.report is not None
    assert _num_answers(result.report.answers) == [20, 20, 20]
    assert samples <= set().union(*_ids(logs).values())
    assert shell.network_tries() == []


def _finished(logs: Path) -> set[str]:
    """Samples that the logs of a run that is under way hold."""
    samples: set[str] = set()
    for info in list_eval_logs(str(logs)) if logs.is_dir() else []:
        try:
            log = read_eval_log(info)
        except Exception:
            continue  # being written just now
        if task_of(log) == "em_freeform":
            samples |= {str(sample.uuid) for sample in log.samples or []}
    return samples


def _frame(logs: Path) -> pd.DataFrame:
    """What a frame says, without what no two runs share: times, and the names of files."""
    answers = read_answers(logs)
    unique = [name for name in answers if name == "log"]
    keys = ["condition", "question", "sample", "epoch"]
    return answers.drop(columns=unique).sort_values(keys).reset_index(drop=True)


@pytest.mark.long
def test_shards_copied_together_are_the_frame_of_one_run(shell: Shell, tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "axes": {"magnitude": [0.5, 1]},
        "options": QUICK,
        "task": JUDGED,
        "seed": 3,
    }
    whole = run_study("magnitude", logs=tmp_path / "whole", **fields)
    first = run_study("magnitude", logs=tmp_path / "magnitude-1", shard="1/2", **fields)
    assert first.is_done
    assert first.report is None
    # As a task of a Slurm array runs it.
    ran = shell.run(
        *("bash", str(REPO / "examples" / "slurm_study.sh"), "magnitude", "--model", "toy"),
        *("-A", "magnitude=0.5,1", "-M", "method=pca", "-T", "num_questions=2"),
        *("-T", "samples_per_question=5", "-T", "choices=none", "--seed", "3"),
        PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
        SLURM_ARRAY_TASK_ID="2",
        SLURM_ARRAY_TASK_COUNT="2",
        STEERING_LOGS=str(tmp_path),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Shard 2/2 is done" in ran.stdout
    merged = tmp_path / "merged"
    for number in (1, 2):
        shutil.copytree(tmp_path / f"magnitude-{number}", merged, dirs_exist_ok=True)
    expected = _frame(whole.folder)
    assert expected["condition"].nunique() == 3
    pd.testing.assert_frame_equal(expected, _frame(merged))
    # The merged folder is a study like any other: nothing is asked again, and all of it reported.
    again = run_study("magnitude", logs=merged, **fields)
    assert again.num_unfinished == 0
    pd.testing.assert_frame_equal(expected, _frame(merged))
