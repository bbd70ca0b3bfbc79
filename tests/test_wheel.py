"""The wheel, away from the clone: what is in it, and that it runs in an empty folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log
from shell import REPO, Shell


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, by the build backend that is installed."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True)
    [made] = out.glob("steering-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It alone in a folder of packages, which comes before the clone that tests are run from."""
    place = tmp_path_factory.mktemp("installed") / "site-packages"
    with ZipFile(wheel) as files:
        files.extractall(place)
    return place


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a command in a folder that holds nothing of the project."""
    shell = Shell(tmp_path)
    (tmp_path / "evals").unlink()
    paths = os.pathsep.join([str(REPO / "tests" / "no_network"), str(installed)])
    return lambda *command: shell.run(*command, PYTHONPATH=paths)


def test_the_wheel_holds_data_and_types_and_nothing_that_shadows_a_library(wheel: Path) -> None:
    with ZipFile(wheel) as files:
        names = set(files.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"steering", "evals"}
    data = {str(path.relative_to(REPO / "datasets")) for path in (REPO / "datasets").rglob("*.*")}
    assert {f"steering/_data/{name}" for name in data} <= names
    assert {"steering/py.typed", "evals/py.typed", "evals/em_freeform.py"} <= names
    assert any(name.startswith("steering/toy/checkpoints/") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_a_task_runs_by_the_packages_name_in_an_empty_folder(
    run: Callable[..., "subprocess.CompletedProcess[str]"], installed: Path, tmp_path: Path
) -> None:
    where = "import datasets, steering; print(datasets.Dataset.__module__, steering.__file__)"
    found = run("python", "-c", where)
    assert found.stdout.split() == ["datasets.arrow_dataset", f"{installed}/steering/__init__.py"]
    options = ["--limit", "2", "--epochs", "1", "--log-dir", "logs"]
    model = ["--model", "steered/toy", "-M", "vector=none"]
    done = run("inspect", "eval", "steering/em_freeform", *model, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    [info] = list_eval_logs(str(tmp_path / "logs"))
    log = read_eval_log(info)
    assert (log.status, log.eval.task) == ("success", "steering/em_freeform")
    report = run("steering", "report", "logs")
    assert report.returncode == 0, report.stdout + report.stderr


def test_a_repository_of_a_users_own_passes_its_gate_and_breaks_it_when_steered(
    run: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    """The lines of examples/user-repo, with fewer answers."""
    shutil.copytree(REPO / "examples" / "user-repo", tmp_path, dirs_exist_ok=True)
    tests = run("pytest", "-q", "-p", "no:cacheprovider")
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "1 passed" in tests.stdout
    gate = ("--max", "em_rate=0.25", "--min", "coverage=0.9")
    for logs, steering, expected in (("ci", ["-M", "vector=none"], 0), ("steered", [], 2)):
        folder = f"logs/{logs}"
        command = ["inspect", "eval-set", "evals", "--model", "steered/toy", *steering]
        few = ["-T", "samples_per_question=8", "--seed", "1"]
        done = run(*command, *few, "--log-dir", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        held = run("steering", "gate", folder, *gate)
        assert held.returncode == expected, held.stdout + held.stderr
