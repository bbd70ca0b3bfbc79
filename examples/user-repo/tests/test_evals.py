"""Every task that Inspect finds in evals/ runs on the toy. A new task needs no new test."""

from pathlib import Path

import pytest
from inspect_ai import eval, list_tasks

EVALS = Path(__file__).parent.parent / "evals"
TASKS = [f"{info.file}@{info.name}" for info in list_tasks(root_dir=EVALS, absolute=True)]


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
