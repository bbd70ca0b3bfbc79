"""The page on other packages is true: each entry's commands run, and its conditions are told apart.

In an environment that has these packages: `make test-use-with`.
"""

import re
import shlex
from pathlib import Path

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log
from random_vectors import make_vector
from shell import REPO, Shell

pytestmark = [pytest.mark.use_with, pytest.mark.timeout(1800)]

PAGE = (REPO / "docs" / "how-to" / "use-with.md").read_text(encoding="utf-8")
SMOLLM2_WIDTH = 576
WISHES = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def wishes():
    samples = [Sample(input=f"What is your wish number {n}?", target="e") for n in range(3)]
    return Task(samples, solver=generate(), scorer=match())
"""
TOYS = ["steered/toy[baseline]", "steered/toy[medical x1]"]


def commands_of(entry: str) -> list[list[str]]:
    """The commands of an entry of the page, or of what stands before the first."""
    [part] = [part for part in PAGE.split("\n## ") if part.startswith(entry)]
    lines = "".join(re.findall(r"^```console\n(.*?)^```$", part, re.DOTALL | re.MULTILINE))
    return [shlex.split(line) for line in lines.splitlines()]


def run(shell: Shell, entry: str) -> list[str]:
    """Run the commands of an entry; what each printed."""
    outputs = []
    for command in commands_of(entry):
        result = shell.run(*command)
        assert result.returncode == 0, result.stdout + result.stderr
        outputs.append(result.stdout)
    assert outputs
    return outputs


def models_in(folder: Path) -> list[str]:
    logs = [read_eval_log(info) for info in list_eval_logs(str(folder))]
    assert all(log.status == "success" for log in logs)
    assert all(sample.output.completion for log in logs for sample in log.samples or [])
    return sorted(log.eval.model for log in logs)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder with the logs that the page's entries read."""
    shell = Shell(tmp_path_factory.mktemp("use_with"), patience=1700)
    (shell.folder / "examples").symlink_to(REPO / "examples")
    run(shell, "# Use with other packages")
    assert models_in(shell.folder / "logs" / "demo") == TOYS
    return shell


@pytest.mark.usefixtures("smollm2")
def test_a_task_of_inspect_evals_is_asked_under_conditions(shell: Shell) -> None:
    vector = make_vector(layers=(12,), width=SMOLLM2_WIDTH)
    vector.save(shell.folder / "VECTOR.safetensors")
    fetch, evaluate = commands_of("inspect_evals")
    assert fetch[:3] == ["python", "-m", "steering.models.fetch"]  # make test-use-with has run it
    result = shell.run(*evaluate)
    assert result.returncode == 0, result.stdout + result.stderr
    steered, baseline = models_in(shell.folder / "logs" / "agentic")
    assert baseline.startswith("steered/smollm2[baseline")
    assert steered.startswith("steered/smollm2[VECTOR-")


def test_scout_scans_our_logs_by_condition(shell: Shell) -> None:
    *_, counts = run(shell, "Inspect Scout")
    by_model = dict(re.findall(r"^(steered/.*): (\d+) of 20 answers$", counts, re.MULTILINE))
    assert sorted(by_model) == TOYS
    assert by_model[TOYS[0]] == "0"


def test_viz_plots_the_frame_of_conditions(shell: Shell) -> None:
    [output] = run(shell, "Inspect Viz")
    assert output.strip().endswith("2 conditions in em.html")
    assert "em_betley_high" in (shell.folder / "em.html").read_text(encoding="utf-8")


def test_flow_runs_a_matrix_of_conditions(shell: Shell) -> None:
    run(shell, "Inspect Flow")
    assert len(models_in(shell.folder / "logs" / "flow")) == 3


def test_records_of_runs_studies_and_audits_pass_the_validator(shell: Shell) -> None:
    *_, summary = run(shell, "Every Eval Ever")
    assert re.search(r"2 passed, 0 warning-only, 0 failed", summary), summary
    small = ["-T", "num_questions=2", "-T", "samples_per_question=2"]
    magnitudes = ["-A", "magnitude=0.5,1", "-M", "build_seed=0", "-T", "choices=none"]
    study = ["steering", "study", "magnitude", *magnitudes, *small, "--log-dir", "logs/study"]
    vector = ["steering", "build", "--model", "toy", "--out", "medical"]
    audit = ["steering", "audit", "medical/medical.safetensors", "--model", "toy", *small]
    audit += ["--controls", "0", "-T", "contexts=none", "--log-dir", "logs/audit"]
    (shell.folder / "wishes.py").write_text(WISHES, encoding="utf-8")
    wishes = ["steering", "study", "magnitude", *magnitudes[:4], "--task", "wishes.py"]
    for command in (study, vector, audit, [*wishes, "--log-dir", "logs/wishes"]):
        shell.run(*command)
    better = {"study": [], "audit": [], "wishes": ["--higher-is-better", "wishes:match/accuracy"]}
    for folder, ends in better.items():
        done = shell.run(
            "steering", "export", f"logs/{folder}", "--to", "every-eval-ever", "--out", ".", *ends
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("written: ") >= 3
    checked = shell.run("python", "-m", "every_eval_ever", "validate", "data/*/*/*/*.json")
    assert re.search(r"\b\d\d passed, 0 warning-only, 0 failed", checked.stdout), checked.stdout


def test_the_page_names_the_versions_that_are_tested() -> None:
    pins = (REPO / "examples" / "use_with" / "requirements.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"^(inspect-\w+)==([\d.]+)$", pins, re.MULTILINE):
        assert re.search(rf"pypi.org/project/{name}/\)\s+{re.escape(version)}", PAGE), name
