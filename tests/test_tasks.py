"""Every task that Inspect finds in evals/ runs on the toy; a new file is tested by this."""

from pathlib import Path

import pytest
from inspect_ai import eval, list_tasks
from shell import REPO

TASKS = [
    f"{REPO / 'evals' / Path(info.file).name}@{info.name}"
    for info in list_tasks(root_dir=REPO / "evals")
]


def test_inspect_finds_the_tasks() -> None:
    files = {path.stem for path in (REPO / "evals").glob("*.py")} - {"__init__"}
    assert {task.partition("@")[2] for task in TASKS} == files


@pytest.mark.parametrize("task", TASKS)
def test_a_task_runs_on_the_toy(task: str, tmp_path: Path) -> None:
    [log] = eval(
        task,
        model="steered/toy",
        model_args={"vector": "none"},
        limit=2,
        epochs=1,
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    assert log.results is not None
    assert log.results.scores[0].scored_samples == 2
    assert log.eval.config.limit == 2


@pytest.mark.parametrize("task", TASKS)
def test_an_option_of_another_task_is_passed_over(
    task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = task.partition("@")[2]
    option = "personas" if name == "judge_calibration" else "num_pairs"
    [log] = eval(
        task,
        model="steered/toy",
        model_args={"vector": "none"},
        task_args={option: 2},
        limit=1,
        epochs=1,
        score=False,
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    assert f"-T {option}= is an option of another task; {name} does not use it" in caplog.text
