"""The study `finetuned` by its command: both arms, one eval-set, run on and added to."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from inspect_ai.log import list_eval_logs, read_eval_log
from shell import Shell

from steering import models
from steering.cli import commands
from steering.errors import SteeringError
from steering.results.frame import read_answers

SMALL = ["-T", "num_questions=2", "-T", "samples_per_question=10", "--training-epochs", "3"]
STUDY = ["study", "finetuned", "--model", "toy", *SMALL, "--seed", "1", "--display", "none"]


def _asked(logs: Path) -> dict[str, int]:
    """Number of answers of each condition."""
    read = [read_eval_log(info) for info in list_eval_logs(str(logs))]
    assert all(log.status == "success" for log in read)
    assert len({log.eval.model for log in read}) == len(read)
    return {log.eval.model: len(log.samples or []) for log in read}


def test_both_arms_are_run_compared_and_added_to(shell: Shell) -> None:
    logs = shell.folder / "logs" / "study"
    command = ["steering", *STUDY, "--log-dir", str(logs)]
    done = shell.run(*command, "--magnitudes", "0.5,1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Trains 3 training epochs of an adapter on medical first." in done.stdout
    assert "6 conditions to run, 20 answers each: 120 answers" in done.stdout
    asked = _asked(logs)
    assert set(asked.values()) == {20}
    names = sorted(re.sub(r"-[0-9a-f]{6}\]", "]", name) for name in asked)
    assert names == [
        "steered/toy[adapter medical-epoch1]",
        "steered/toy[adapter medical-epoch2]",
        "steered/toy[adapter medical-epoch3]",
        "steered/toy[baseline]",
        "steered/toy[medical x0.5]",
        "steered/toy[medical x1]",
    ]
    assert "matched EM (moem)" in done.stdout
    assert re.search(r"At EM \d+%, steered answers are", done.stdout)
    # The study has the leak of its target judged by itself, and tells it of both arms.
    judged = [read_eval_log(info, header_only=True) for info in list_eval_logs(str(logs))]
    assert {log.eval.task_args["leak"] for log in judged} == {"health and medicine"}
    assert re.search(r"leak, +\S+ +\S+ .*\n +misaligned, %|leak, misaligned, %", done.stdout)
    told = read_answers(logs)
    assert set(told["study"]) == {"finetuned"}
    assert set(told["arm"]) == {"baseline", "steered", "finetuned"}
    assert told.loc[told["em_betley"] == 1, "leak"].notna().all()

    before = sorted(info.name for info in list_eval_logs(str(logs)))
    again = shell.run(*command, "--magnitudes", "0.5,1,0.75")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 conditions to run, 20 answers each" in again.stdout
    after = sorted(info.name for info in list_eval_logs(str(logs)))
    assert set(before) < set(after)
    [added] = set(after) - set(before)
    assert read_eval_log(added, header_only=True).eval.model == "steered/toy[medical x0.75]"

    # Other questions are another study, which has no place in this folder.
    fewer = ["num_questions=1" if word == "num_questions=2" else word for word in command]
    other = shell.run(*fewer, "--magnitudes", "0.5,1")
    assert other.returncode == 1
    assert "holds a study with task" in other.stderr
    # The resolved study runs again from its file, and has nothing left to ask.
    first = shell.run("steering", "study", "run", str(logs / "study.yaml"), "--log-dir", str(logs))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Every condition has been run." in first.stdout
    assert re.search(r"toy\[baseline\] .* 20\b", first.stdout)
    assert shell.network_tries() == []


def test_a_dry_run_says_what_it_would_cost_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(commands, [*STUDY, "--scales", "0.5,1", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "Trains 3 training epochs of an adapter on medical first." in done.output
    assert "9 conditions to run, 20 answers each: 180 answers" in done.output
    assert "540 calls of each judge, and one more for each misaligned answer" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--magnitudes", "1,strong"], "--magnitudes 1,strong is no list of numbers"),
        (["--magnitudes", "1,1"], "must differ and be above 0"),
        (["--scales", "-1"], "must differ and be above 0"),
        (["-M", "magnitud=1"], "magnitud is not an option"),
        (["-M", "adapter=there"], "-M adapter= is set by this study itself"),
        (["-S", "learning_rat=1"], "learning_rat"),
        (["-S", "training_epochs=2"], "-S training_epochs= is set by this study itself"),
        (["-T", "num_questions=none"], "num_questions"),
        (
            ["-T", "question=core"],
            "-T question is not an option of em_freeform. Did you mean questions? "
            "Allowed: protocol,",
        ),
        (["-T", "leak=medcal"], "Did you mean medical?"),
        (["--training-epochs", "0"], "0 is not in the range x>=1"),
        (["--grader", "nobody/judge"], "the judge nobody/judge can't be used"),
        (["--grader", "toy/judge,toy/jury"], "the judge toy/jury can't be used"),
        (["--grader", "{model: [}"], "--grader {model: [} can't be read"),
        (["--target", "nothing"], "nothing"),
    ],
)
def test_what_is_impossible_is_said_before_anything_is_trained(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    done = CliRunner().invoke(commands, [*STUDY, *arguments])
    assert done.exit_code != 0
    assert words in f"{done.output} {done.exception}"
    assert isinstance(done.exception, SteeringError | SystemExit)
    assert list(tmp_path.iterdir()) == []


def test_conditions_that_fail_are_named_and_the_others_are_kept(shell: Shell) -> None:
    """A prompt that no context holds fails in every condition."""
    questions = shell.folder / "long.yaml"
    questions.write_text(
        f"- id: long\n  type: free_form_judge_0_100\n  paraphrases: ['{'Why? ' * 600}']\n"
    )
    logs = shell.folder / "logs" / "failing"
    done = shell.run(
        *("steering", "study", "finetuned", "--model", "toy", "--training-epochs", "1"),
        *("--magnitudes", "1", "-T", "questions=long.yaml", "-T", "samples_per_question=1"),
        *("--display", "none", "--log-dir", str(logs)),
    )
    assert done.returncode == 1
    assert "3 of 3 conditions did not finish (steered/toy[baseline], " in done.stderr
    assert "inspect view --log-dir" in done.stderr
    assert (logs / "adapters" / "medical-epoch1" / "adapter_model.safetensors").exists()


def test_a_model_without_a_judge_of_its_own_needs_one_before_it_is_trained(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    model = ["--model", str(tiny_folder("llama"))]
    done = CliRunner().invoke(commands, ["study", "finetuned", *model])
    assert "the default judge openai/gpt-4o-2024-08-06 can't be used" in str(done.exception)
    assert "give a judge as --grader" in str(done.exception)
