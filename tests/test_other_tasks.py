"""Studies of tasks that are not of this suite: what is refused, and what their figures are."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from inspect_ai.log import EvalLog, read_eval_log
from scipy.stats import ttest_1samp

from steering import models, read_scores
from steering.cli import commands
from steering.errors import SteeringError
from steering.reports.bounds import parse_bound
from steering.reports.gate import judge_bounds
from steering.results import ResultError, metrics_of, read_answers
from steering.results.frame_files import read_frame
from steering.results.task_metrics import task_results
from steering.stats import paired_difference
from steering.studies.run import StudyResult, run_study
from steering.vectors import SteeringVector
from steering.vectors.formats import write_vector

HEAD = '''"""Tasks of somebody."""

from helper import WISH
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, includes, mean, scorer, stderr, var
from inspect_ai.solver import generate, solver
'''
TASKS = """

@scorer(metrics={"letters": [mean(), stderr()], "words": [mean(), var()]})
def size():
    async def score(state, target):
        text = state.output.completion
        return Score(value={"letters": len(text), "words": len(text.split())})

    return score


@solver
def say_again():
    async def solve(state, generate):
        state.output = ModelOutput.from_content("somebody", state.output.completion)
        return state

    return solve


def _samples(number):
    return [Sample(input=f"{WISH} {n}", target="e", id=f"wish{n}") for n in range(number)]


@task
def wishes(number: int = 4):
    return Task(
        _samples(number), solver=generate(), scorer=[includes(), size()], epochs=2, version=3
    )


@task
def said_again():
    return Task(_samples(3), solver=[generate(), say_again()], scorer=includes())


@task
def unscored():
    return Task(_samples(3))


@task
def broken():
    raise RuntimeError("the script says so")
"""
ALONE = "\n\n@task\ndef alone():\n    return Task([Sample(input=WISH)], scorer=includes())\n"
FILE = "evals/wishes.py"
STEER = ["--model", "toy", "-A", "magnitude=0.5,40", "--display", "none"]


def _write_tasks(folder: Path) -> None:
    (folder / "evals").mkdir()
    (folder / "evals" / "helper.py").write_text('WISH = "What is your one wish, number"\n')
    (folder / FILE).write_text(HEAD + TASKS)
    (folder / "evals" / "alone.py").write_text(HEAD + ALONE)
    (folder / "evals" / "none.py").write_text("x = 1\n")


def _write_vector(path: Path) -> None:
    direction = torch.randn(128, generator=torch.Generator().manual_seed(0))
    write_vector(SteeringVector((direction / 10)[None, None], (0,), "resid_post"), path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "evals/no.py"], "the task file evals/no.py does not exist: give FILE.py"),
        (["--task", "evals"], "the task file evals is no Python file: give FILE.py"),
        (["--task", "nobody/wishes"], "there is no task nobody/wishes, neither a file nor"),
        (["--task", "evals/none.py"], "evals/none.py defines no task: mark a function"),
        (["--task", FILE], "defines 4 tasks (broken, said_again, unscored, wishes): name one, as "),
        (["--task", f"{FILE}@wish"], "defines no task wish: it defines broken, said_again"),
        (["--task", f"{FILE}@broken"], "can't be created (RuntimeError: the script says so)"),
        (["--also", f"{FILE}@unscored"], "has no scorer, so that no condition would have a figure"),
        (["--task", f"{FILE}@wishes", "-T", "nmber=2"], "Did you mean number? Allowed: number."),
        (["--task", "steering/em_target", "-T", "x=2"], "-T x is not an option of em_target"),
        (["--also", "steering/em_freeform"], "two tasks are called em_freeform"),
        (["--task", FILE + "@wishes", "--also", FILE + "@wishes"], "two tasks are called wishes"),
        (["--limit", "2"], "limit is of the samples of other tasks, and there are none"),
        (["--task", f"{FILE}@wishes", "--grader", "nobody/judge"], "nobody/judge can't be used"),
    ],
)
def test_a_task_that_can_t_be_asked_is_refused_before_a_model_is_loaded(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_tasks(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    done = CliRunner().invoke(commands, ["study", "magnitude", *STEER, *arguments, "--dry-run"])
    assert isinstance(done.exception, SteeringError), done.output
    assert words in str(done.exception)
    assert not (tmp_path / "logs").exists()


def test_a_task_is_named_once_from_python_as_a_text_or_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_tasks(tmp_path)
    monkeypatch.chdir(tmp_path)

    def lines(**fields: Any) -> list[str]:
        told: list[str] = []
        axes = {"magnitude": [1], "build_seed": [0]}
        result = run_study("magnitude", "toy", axes=axes, tell=told.append, dry_run=True, **fields)
        assert result.num_conditions == 2
        return told

    expected = ["2 conditions to run.", "alone: 1 answer under each condition."]
    # A file with one task needs no name, and may be named absolutely.
    for task in ("evals/alone.py", Path("evals/alone.py"), tmp_path / "evals/alone.py"):
        assert lines(task=task)[1:] == lines(tasks=[task])[1:] == expected
    assert lines(also="evals/alone.py", task={"num_questions": 1})[-1] == expected[-1]
    with pytest.raises(SteeringError, match="both name tasks"):
        run_study("magnitude", "toy", task="evals/alone.py", tasks=["evals/alone.py"])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, str]:
    """Two tasks of somebody under three conditions: the result and what was printed."""
    folder = tmp_path_factory.mktemp("study")
    _write_tasks(folder)
    _write_vector(folder / "mine.safetensors")
    before = Path.cwd()
    os.chdir(folder)
    try:
        options = [*STEER, "-M", "vector=mine.safetensors", "--limit", "5", "--log-dir", "logs"]
        tasks = ["--task", f"{FILE}@wishes", "-T", "number=6", "--also", f"{FILE}@said_again"]
        done = CliRunner().invoke(commands, ["study", "magnitude", *options, *tasks])
        assert done.exit_code == 0, f"{done.output} {done.exception}"
        # The file beside the logs says all of it, and nothing is asked again.
        lines: list[str] = []
        result = run_study("logs/study.yaml", logs="logs", tell=lines.append)
        assert lines[-1] == "Every condition has been run."
    finally:
        os.chdir(before)
    return replace(result, folder=folder / "logs"), done.output


def _logs(result: StudyResult, task: str) -> dict[str, EvalLog]:
    """By label; read by Inspect."""
    logs = (read_eval_log(str(path)) for path in result.folder.glob("*.eval"))
    return {re.sub(r".*\[|\]$", "", log.eval.model): log for log in logs if log.eval.task == task}


def test_metrics_are_those_of_inspect_and_differences_pair_samples(
    study: tuple[StudyResult, str],
) -> None:
    result, _ = study
    assert result.report is not None
    metrics = result.report.metrics.set_index(["task", "label", "metric"])
    logs = _logs(result, "wishes")
    assert len(logs) == 3
    names = {"includes": "includes/accuracy", "letters": "size/letters/mean"}
    for label, log in logs.items():
        assert log.results is not None
        for score in log.results.scores:
            if score.name not in names:
                continue
            row = metrics.loc["wishes", label, names[score.name]]
            kind = "accuracy" if score.name == "includes" else "mean"
            assert row["value"] == pytest.approx(score.metrics[kind].value)
            assert row["stderr"] == pytest.approx(score.metrics["stderr"].value)
            assert (row["n"], row["num_clusters"]) == (10, 5)
    # Words have no standard error, and no less an interval.
    assert np.isnan(metrics.loc["wishes", "baseline", "size/words/mean"]["stderr"])
    [baseline] = [log for label, log in logs.items() if label == "baseline"]
    [strong] = [log for label, log in logs.items() if "x40" in label]
    letters = []
    for log in (strong, baseline):
        of_sample: dict[Any, list[float]] = {}
        for sample in log.samples or []:
            value = (sample.scores or {})["size"].value
            assert isinstance(value, dict)
            of_sample.setdefault(sample.id, []).append(float(value["letters"]))  # type: ignore[arg-type]
        letters.append(np.array([np.mean(of_sample[key]) for key in sorted(of_sample)]))
    test = ttest_1samp(letters[0] - letters[1], 0).confidence_interval()
    label = re.sub(r".*\[|\]$", "", strong.eval.model)
    row = metrics.loc["wishes", label, "size/letters/mean"]
    assert row["difference"] == pytest.approx((letters[0] - letters[1]).mean())
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((test.low, test.high))
    assert abs(row["difference_low"]) > 1


def test_a_condition_is_known_where_a_solver_puts_an_output_of_its_own(
    study: tuple[StudyResult, str],
) -> None:
    result, _ = study
    assert result.report is not None
    rows = result.report.scores
    said = rows[rows["task"] == "said_again"].drop_duplicates("label")
    assert sorted(said["arm"]) == ["baseline", "steered", "steered"]
    assert sorted(said["magnitude"]) == [0, 0.5, 40]
    assert set(said["vector"].str.partition("@")[0]) == {"", "mine"}
    # Options, version and scorers of the task are among what sets runs apart.
    protocols = {json.loads(text)["task version"] for text in rows["protocol"].unique()}
    assert protocols == {0, 3}
    assert set(rows["questions"]) == {"wishes limit=5", "said_again limit=5"}


def test_table_page_and_frames_show_the_metrics_and_call_nothing_em(
    study: tuple[StudyResult, str],
) -> None:
    result, printed = study
    assert result.report is not None
    assert "3 conditions to run." in printed
    assert "wishes: 10 answers under each condition." in printed
    assert re.search(r"condition +includes/accuracy +less baseline", printed)
    assert re.search(r"baseline +[\d.]+ ± [\d.]+ +-", printed)
    folder = result.folder / "report"
    page, text = ((folder / name).read_text() for name in ("index.html", "report.md"))
    for words in ("Other tasks", "size/letters/mean", "less baseline", "no claim applies"):
        assert words in page
        assert words in text
    for words in ("EM betley", "EM rate", "misaligned answers", "Claims"):
        assert words not in printed + text
    assert "inspect eval evals/wishes.py@wishes --model steered/toy" in page
    pictures = {path.stem for path in (folder / "pictures").glob("*.svg")}
    assert "wishes-size-letters-mean-magnitude-toy" in pictures
    for name in ("scores", "metrics"):
        frame = read_frame(folder / f"{name}.csv")
        pd.testing.assert_frame_equal(frame, getattr(result.report, name), check_dtype=False)


def test_other_commands_say_what_they_can_t_read(
    study: tuple[StudyResult, str], tmp_path: Path
) -> None:
    result, _ = study
    logs = str(result.folder)
    for words in (["claims", logs], ["gate", logs, "--max", "em_rate=0.1"]):
        done = CliRunner().invoke(commands, words)
        assert isinstance(done.exception, ResultError)
        assert "said_again, wishes: no answer of these runs was judged" in str(done.exception)
    with pytest.raises(ResultError, match="and read_scores those of tasks that are not of this"):
        read_answers(logs)
    out = tmp_path / "report.json"
    done = CliRunner().invoke(commands, ["report", logs, "--json", str(out)])
    assert done.exit_code == 0, done.exception
    document = json.loads(out.read_text())
    assert len(document["tables"]["metrics"]) == 3 * 5
    assert "by the task's own metrics" in document["headline"]
    assert document["tables"]["conditions"] == document["tables"]["verdicts"] == []


def test_a_gate_holds_a_metric_against_the_edge_of_its_interval(
    study: tuple[StudyResult, str], tmp_path: Path
) -> None:
    result, _ = study
    logs = _logs(result, "wishes")
    # Student's t on the means of the samples, as SciPy has it.
    highs = {}
    for label, log in logs.items():
        of_sample: dict[Any, list[float]] = {}
        for sample in log.samples or []:
            value = (sample.scores or {})["size"].value
            assert isinstance(value, dict)
            of_sample.setdefault(sample.id, []).append(float(value["letters"]))  # type: ignore[arg-type]
        means = [np.mean(repetitions) for repetitions in of_sample.values()]
        highs[label] = ttest_1samp(means, 0).confidence_interval().high
    highest = max(highs.values())
    letters, out = "wishes:size/letters/mean", tmp_path / "gate.json"

    def gate(*bounds: str) -> tuple[int, str]:
        options = [word for bound in bounds for word in ("--max", bound)]
        done = CliRunner().invoke(
            commands,
            ["gate", str(result.folder), *options, "--json", str(out), "--junit", f"{out}.xml"],
        )
        return done.exit_code, f"{' '.join(done.output.split())} {done.exception}"

    assert gate(f"{letters}={highest + 1e-6}")[0] == 0
    code, printed = gate(f"{letters}={highest - 1e-6}")
    assert code == 2
    assert "task:wishes|judge:none|questions:wishes limit=5" in printed
    assert "task:said_again" not in printed
    rows = json.loads(out.read_text())["tables"]["bounds"]
    assert {row["condition"].partition("[")[2][:-1]: row["high"] for row in rows} == pytest.approx(
        highs
    )
    assert {(row["task"], row["figure"], row["unit"]) for row in rows} == {("wishes", letters, "")}
    assert "size/letters/mean" in Path(f"{out}.xml").read_text()
    # What has no interval keeps no bound, nor what so few samples can't show.
    code, printed = gate("wishes:size/words/var=1000")
    assert code == 1
    assert "the metric is no mean over samples, so it has no interval" in printed
    code, printed = gate("said_again:includes/accuracy=30")
    assert code == 1
    assert "write said_again:includes/accuracy=0.3 for 30%" in printed
    # A name that no run has is refused with those that there are.
    code, printed = gate("wishes:include/accuracy=0.3")
    assert code == 1
    assert "Did you mean wishes:includes/accuracy?" in printed
    names = "wishes:size/letters/mean, wishes:size/words/mean, wishes:size/words/var"
    assert f"of other tasks said_again:includes/accuracy, wishes:includes/accuracy, {names}" in (
        printed
    )
    code, printed = gate("em_rate=0.3", f"{letters}=900")
    assert code == 1
    assert "holds no runs of em_freeform, whose figure em_betley is" in printed


def test_too_few_samples_and_conditions_without_the_task_keep_no_bound_on_a_share(
    study: tuple[StudyResult, str],
) -> None:
    scores = read_scores(study[0].folder)
    rows = scores[scores["task"] == "wishes"]
    metric = {"name": "includes/accuracy", "key": "includes", "value": 0, "stderr": None, "n": 5}
    rows = rows.assign(metrics=json.dumps([metric]), scores=json.dumps({"includes": 0}))
    rows.loc[rows.index[0], "scores"] = json.dumps({"includes": None})
    name = "wishes:includes/accuracy"

    def statuses(limit: float) -> tuple[list[str], str]:
        bound = parse_bound("max", f"{name}={limit}", metrics=[name])
        verdict = judge_bounds([], [bound], tasks=task_results(frame))
        remarks = " ".join(remark for row in verdict.rows for remark in row.remarks)
        return [row.status.value for row in verdict.rows], remarks

    frame = rows
    kept, remarks = statuses(0.7)
    assert kept == ["kept"] * 3
    assert "1 of 10 answers have no score" in remarks
    undecided, remarks = statuses(0.6)
    assert undecided == ["undecided"] * 3
    assert "can't be shown by 5 themes of 1 answer, even at 0%; 6 themes of 1" in remarks
    # A condition that the task was not run of has its line, under a task that was.
    others = scores[(scores["task"] == "said_again")]
    frame = pd.concat([rows[rows["arm"] == "baseline"], others], ignore_index=True)
    undecided, remarks = statuses(0.7)
    assert undecided == ["undecided"] * 2 + ["kept"]
    assert "the task of this figure was not run of this condition" in remarks


def test_metrics_are_exported_whose_better_end_is_said_and_no_others(
    study: tuple[StudyResult, str], tmp_path: Path
) -> None:
    """every_eval_ever's own validator reads such records in tests/test_use_with.py."""
    result, _ = study
    command = ["export", str(result.folder), "--to", "every-eval-ever", "--out", str(tmp_path)]

    def export(*ends: str) -> tuple[str, str]:
        done = CliRunner().invoke(commands, [*command, *ends])
        return done.stderr, str(done.exception or "")

    notes, error = export()
    assert "has no figure to export: say which end of a metric is better" in error
    assert len(re.findall(r"^Note: \S+ is left out, since", notes, re.MULTILINE)) == 5
    one, other = "wishes:size/letters/mean", "said_again:includes/accuracy"
    assert "Did you mean wishes:size/letters/mean?" in export("--lower-is-better", one[1:])[1]
    both = export("--lower-is-better", one, "--higher-is-better", one)[1]
    assert both == f"{one} can't be better at both ends: give it once"
    assert not list(tmp_path.rglob("*.json"))
    notes, error = export("--lower-is-better", one, "--higher-is-better", other)
    assert error == ""
    assert "Note: wishes:size/words/var is left out, since it is not known which end" in notes
    assert one not in notes
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    assert len({(each["evaluation_id"], each["model_info"]["id"]) for each in records}) == 6
    metrics = result.report.metrics if result.report else pd.DataFrame()
    for record in records:
        [exported] = record["evaluation_results"]
        config = exported["metric_config"]
        assert config["lower_is_better"] is (config["metric_id"] == one)
        # A scale without ends is refused, and nobody but the task knows them.
        assert not config.keys() & {"score_type", "min_score", "max_score"}
        condition = record["model_info"]["additional_details"]["condition"]
        task, _, metric = config["metric_id"].partition(":")
        is_row = (metrics["task"] == task) & (metrics["metric"] == metric)
        [row] = metrics[is_row & (metrics["condition"] == condition)].to_dict("records")
        score = exported["score_details"]
        assert score["score"] == row["value"]
        assert score["uncertainty"]["confidence_interval"]["upper"] == row["value_high"]
        assert score["uncertainty"]["num_samples"] == row["n"]


def test_a_metric_that_is_no_mean_has_no_interval_and_says_so(
    study: tuple[StudyResult, str],
) -> None:
    """The largest number of letters stands for any function of the samples."""
    scores = read_scores(study[0].folder)
    rows = scores[scores["task"] == "wishes"]
    is_base = rows["label"] == "baseline"
    largest = {"name": "size/letters/max", "key": "size/letters", "stderr": None, "n": 5}
    texts = [json.dumps([largest | {"value": 90.0 if base else 99.5}]) for base in is_base]
    metrics = metrics_of(rows.assign(metrics=texts))
    assert metrics["value_low"].isna().all()
    assert metrics["note"].eq("the metric is no mean over samples, so it has no interval").all()
    assert list(metrics["difference"].dropna()) == [9.5, 9.5]
    # Judged by others than the baseline was, a condition is not compared with it.
    of_others = rows.assign(judge=np.where(is_base, "one/judge", "other/judge"))
    metrics = metrics_of(of_others)
    assert metrics["difference"].isna().all()
    others = metrics.loc[metrics["label"] != "baseline", "note"]
    assert others.str.endswith("no baseline was asked and judged like it").all()


def test_differences_of_numbers_without_bounds_are_not_cut_to_those_of_rates() -> None:
    first, second = {"a": 5.0, "b": 9.0, "c": 7.0}, dict.fromkeys("abc", 0.0)
    difference = paired_difference(first, second, largest=float("inf"))
    test = ttest_1samp([5, 9, 7], 0).confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((test.low, test.high))
    assert paired_difference(first, second).high == 1
