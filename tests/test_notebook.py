"""The notebook in examples/ runs from its first cell to its last.

Its code cells are run in their order in this process, in a folder of their own. No Jupyter is
needed for that, and none is among the requirements.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from shell import REPO

NOTEBOOK = REPO / "examples" / "steering.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def run_cells(cells: list[str]) -> list[Any]:
    """The value of the last expression of each cell, as a notebook shows it."""
    names: dict[str, Any] = {}
    values = []
    for number, source in enumerate(cells):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        values.append(value)
    return values


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in CELLS:
        assert cell["cell_type"] in ("markdown", "code")
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.docs
@pytest.mark.timeout(1800)
def test_the_cells_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    model, answer, *_, means, conditions, status, _, rates, picture, worst = run_cells(CODE)
    assert repr(model) == "steered/toy[medical x1]"
    assert answer
    assert means.loc["baseline", "aligned"] > means.loc["medical x1", "aligned"] + 30
    # The baseline, and two magnitudes of three vectors.
    assert len(conditions) == 7
    assert status.name == "BROKEN"
    assert (tmp_path / "logs" / "notebook" / "report" / "index.html").exists()
    assert rates["em_betley"].iloc[2] > 0.5 > rates["em_betley"].iloc[0]
    assert any("magnitude" in axes.get_xlabel() for axes in picture.draw().axes)
    assert len(list((tmp_path / "logs" / "notebook-job" / "paper").glob("*.pdf"))) == 4
    assert len(worst) == 10
    assert worst["aligned"].is_monotonic_increasing
    assert worst["aligned"].iloc[0] < 20


def test_the_whole_job_takes_fifteen_lines() -> None:
    """From a vector and questions to rates, figure and worst answers."""
    given = next(number for number, source in enumerate(CODE) if "torch.save" in source)
    job = "\n".join(CODE[given + 1 :])
    assert {"run_study", "write_figures", "worst_answers"} <= set(re.findall(r"\w+", job))
    assert len(job.splitlines()) <= 15
