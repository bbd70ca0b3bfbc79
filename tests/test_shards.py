"""A study in parts, on machines that know nothing of each other, is the study."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from shell import BIN, REPO, Shell

from steering.cli import commands
from steering.results.frame import read_answers
from steering.studies import Point, Shard, StudyError, read_shard

STUDY = (
    "study", "magnitude", "--model", "toy", "-A", "magnitude=0.5,1", "-T", "num_questions=2",
    "-T", "samples_per_question=4", "--seed", "3", "--display", "plain",
)  # fmt: skip
POINTS = [Point("toy", {"magnitude": value}, f"x{value}") for value in range(17)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 18, 40])
def test_every_condition_is_in_one_shard_and_shards_are_even(count: int) -> None:
    parts = [Shard(number, count).part(POINTS) for number in range(1, count + 1)]
    assert [point for part in parts for point in part] == POINTS
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [Shard(number, count).is_last for number in (1, count)] == [count == 1, True]


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "2", "2/", "1/0", "-1/4", "1/2/3"])
def test_a_shard_that_is_none_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(StudyError, match=f"--shard {text} is no part.*--shard 2/4"):
        read_shard(text)


def test_a_shard_without_conditions_says_so_and_is_no_fault(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        commands, [*STUDY, "--shard", "1/9", "--log-dir", str(tmp_path / "logs")]
    )
    assert done.exit_code == 0, done.output
    assert "shard 1/9" in done.output
    assert "nothing to run" in done.output
    assert not (tmp_path / "logs").exists()


def test_what_trains_for_itself_is_the_last_shard_s(tmp_path: Path) -> None:
    for shard, runs in (("1/2", False), ("2/2", True)):
        done = CliRunner().invoke(
            commands,
            ["study", "finetuned", "--dry-run", "--shard", shard, "--log-dir", str(tmp_path)],
        )
        assert done.exit_code == 0, done.output
        assert ("nothing to run" in done.output) != runs


def frame(logs: Path) -> pd.DataFrame:
    """What a frame says, without what no two runs share: times, and the names of files."""
    answers = read_answers(logs)
    own = [name for name in answers if name in ("log", "run_id", "created", "sample_uuid")]
    keys = ["condition", "question", "sample", "epoch"]
    found = answers.drop(columns=own)
    return found.sort_values([key for key in keys if key in found]).reset_index(drop=True)


def test_shards_copied_together_are_the_frame_of_one_run(shell: Shell, tmp_path: Path) -> None:
    whole, merged = tmp_path / "whole", tmp_path / "merged"
    done = shell.run("steering", *STUDY, "--log-dir", str(whole))
    assert done.returncode == 0, done.stdout + done.stderr
    merged.mkdir()
    for number in (1, 2):
        # As a task of a Slurm array runs it.
        factor, *options = STUDY[1:]
        ran = shell.run(
            "bash",
            str(REPO / "examples" / "slurm_study.sh"),
            factor,
            *options,
            PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
            SLURM_ARRAY_TASK_ID=str(number),
            SLURM_ARRAY_TASK_COUNT="2",
            STEERING_LOGS=str(tmp_path / "shards"),
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert f"Shard {number}/2 is done" in ran.stdout
        shutil.copytree(tmp_path / "shards" / f"magnitude-{number}", merged, dirs_exist_ok=True)
    one, other = frame(whole), frame(merged)
    pd.testing.assert_frame_equal(one, other)
    assert one["condition"].nunique() == 3
    # The merged folder is a study like any other: nothing is asked again, and all of it reported.
    again = shell.run("steering", *STUDY, "--log-dir", str(merged))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Every condition has been run" in again.stdout
    pd.testing.assert_frame_equal(frame(merged), other)
