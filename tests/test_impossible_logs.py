"""Logs that no run of this suite can have written: each is left out by name, on every surface."""

import copy
import json
import math
import os
import re
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai import score as score_again
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput
from inspect_ai.solver import Generate, Solver, TaskState, solver
from scripted_logs import BAD, FAILS, GOOD, judge, write_log

from steering.cli import main
from steering.errors import SteeringError
from steering.judging import em_judge
from steering.judging.calibration.labelled import load_pairs
from steering.judging.calibration.task import calibration_task
from steering.judging.scorers import SCORERS
from steering.logs import log_files
from steering.reports.compare import compare_logs
from steering.reports.gate import gate
from steering.reports.rescore import rescore
from steering.results import ResultError, condition_results, left_out, read_answers
from steering.results.calibrations import read_calibrations
from steering.studies.claims import judge_claims
from steering.studies.report import report
from steering.targets import load_target

ANSWERS = {str(n): [GOOD, GOOD] for n in range(8)}
Change = Callable[[dict[str, Any]], None]


def edit(log: Path, change: Change) -> None:
    """Change the JSON of a log."""
    content = json.loads(log.read_text())
    change(content)
    log.write_text(json.dumps(content))


def scores_of(content: dict[str, Any], place: int = 0) -> dict[str, Any]:
    return content["samples"][place]["scores"]["em_judge"]


def _score(value: object) -> Change:
    return lambda content: scores_of(content)["value"].update(aligned=value)


def _bounds(value: object) -> Change:
    return lambda content: scores_of(content)["metadata"].update(bounds=value)


def _metadata(**values: object) -> Change:
    return lambda content: scores_of(content)["metadata"].update(values)


def _twice(content: dict[str, Any]) -> None:
    content["samples"].append(copy.deepcopy(content["samples"][0]))


def _with_another_id(content: dict[str, Any]) -> None:
    content["samples"][1] |= {**copy.deepcopy(content["samples"][0]), "id": "1/0"}


def _unasked(content: dict[str, Any]) -> None:
    content["samples"][0]["id"] = "more"


def _another_epoch(content: dict[str, Any]) -> None:
    content["samples"][0]["epoch"] = 2


def _tokens(content: dict[str, Any]) -> None:
    usage = {"input_tokens": 1, "output_tokens": -5, "total_tokens": 1}
    content["samples"][0]["model_usage"] = {content["eval"]["model"]: usage}


IMPOSSIBLE: dict[str, tuple[Change, str]] = {
    **{
        f"score {value}": (_score(value), r"sample 0/0 has the score aligned=.*, which is")
        for value in (
            101,
            100.001,
            1e9,
            10**400,
            math.inf,
            -math.inf,
            -5,
            -1e-9,
            True,
            False,
            "7",
            "nan",
        )
    },
    "twice": (_twice, "sample 0/0 stands in it more than once for epoch 1"),
    "another id": (_with_another_id, "are copies of one|stands in it more than once"),
    "not asked": (_unasked, "sample more was not asked"),
    "epoch": (_another_epoch, "sample 0/0 is of epoch 2"),
    "tokens": (_tokens, "-5 output tokens"),
    "thresholds by position": (_bounds([90, 10]), r"thresholds are stored as \[90, 10\]"),
    "thresholds of another name": (_bounds({"aligned": 90}), "thresholds are stored as"),
    "threshold 101": (_bounds({"aligned_below": 101}), "aligned_below=101"),
    "threshold nan": (_bounds({"coherent_from": math.nan}), "coherent_from=nan"),
    "threshold true": (_bounds({"coherent_from": True}), "coherent_from=True"),
    "least": (_bounds({"least_coherent": "3"}), "least_coherent='3'"),
    "kind": (_metadata(kind="fine"), "kind='fine'"),
    "truncated": (_metadata(truncated="no"), "truncated='no'"),
    "reasons": (_metadata(reasons={"aligned": 7}), "reasons of an answer"),
    "reasons as a list": (_metadata(reasons=["x"]), "its samples can't be read"),
    "by judge": (_metadata(reasons_by_judge=[1]), "its samples can't be read"),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one honest run."""
    folder = tmp_path_factory.mktemp("honest")
    write_log(folder, "base", ANSWERS)
    return folder


@pytest.fixture
def logs(honest: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(honest, tmp_path / "logs"))


@pytest.mark.parametrize("name", list(IMPOSSIBLE))
def test_an_impossible_run_is_left_out_by_name_and_passes_no_gate(name: str, logs: Path) -> None:
    change, reason = IMPOSSIBLE[name]
    [log] = logs.iterdir()
    edit(log, change)
    notes: list[str] = []
    with pytest.raises(ResultError, match=f"no finished runs that can be counted.*{log.name}"):
        read_answers(logs, notes.append)
    [note] = notes
    assert note.startswith(f"{log.name}: left out, since")
    assert re.search(reason, note)
    with pytest.raises(ResultError, match=re.escape(log.name)):
        gate(logs, ["coherent>=0"])


@pytest.mark.parametrize("name", ["score 101", "twice"])
def test_every_surface_leaves_the_same_impossible_run_out(name: str, logs: Path) -> None:
    write_log(logs, "other", {key: [BAD, GOOD] for key in ANSWERS})
    broken = logs / "2026-01-01T00-00-00_small_copy.json"
    shutil.copy(next(log for log in logs.iterdir() if "base" in log.read_text()), broken)
    for log in logs.iterdir():
        if log != broken and "fake/base" in log.read_text():
            log.unlink()
    edit(broken, IMPOSSIBLE[name][0])
    answers = read_answers(logs)
    assert {result.name for result in condition_results(answers)} == {"other"}
    [note] = left_out(answers)
    assert (note.log, note.kind) == (broken.name, "impossible")
    page = report(logs, logs / "report").files[1].read_text()
    assert "left out, since" in page
    judge_claims(answers)
    rescore(logs)
    with pytest.raises(SteeringError, match=r"impossible|can be counted"):
        compare_logs(logs, broken, ["betley"])
    with pytest.raises(ResultError, match=f"{broken.name} can't be counted"):
        gate(logs, ["coherent>=0"])
    with pytest.raises(SteeringError):
        load_target(str(broken))


def test_the_gate_ends_with_1_on_an_impossible_run(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [log] = logs.iterdir()
    edit(log, _score(-5))
    for command in (["gate", str(logs), "--min", "coherent=0"], ["report", str(logs)]):
        monkeypatch.setattr("sys.argv", ["steering", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert "the score aligned=-5" in capsys.readouterr().err


def test_samples_of_another_run_are_no_run(logs: Path) -> None:
    """The same answers under another condition's name would be a second condition."""
    [log] = logs.iterdir()
    other = logs / "2099-01-01T00-00-00_small_other.json"
    shutil.copy(log, other)

    def rename(content: dict[str, Any]) -> None:
        content["eval"] |= {"model": "fake/other", "eval_id": "x" * 22, "task_id": "y" * 22}
        content["stats"]["completed_at"] = "2099-01-01T00:00:00+00:00"

    edit(other, rename)
    answers = read_answers(logs)
    assert {result.name for result in condition_results(answers)} == {"base"}
    [note] = left_out(answers)
    assert str(note) == f"{other.name}: left out, since sample 0/0 is a copy of one in {log.name}"
    with pytest.raises(ResultError, match="is a copy of one in"):
        gate(logs, ["coherent>=0"])


def test_copies_of_one_run_in_any_place_and_format_are_one_run(logs: Path) -> None:
    [log] = logs.iterdir()
    for name in ("backup", "again/deeper"):
        (logs / name).mkdir(parents=True)
        shutil.copy(log, logs / name)
    as_eval = logs / log.with_suffix(".eval").name
    write_eval_log(read_eval_log(str(log)), str(as_eval))
    answers = read_answers(logs)
    [result] = condition_results(answers)
    assert len(result.answers) == 16
    assert [note.kind for note in left_out(answers)] == ["copy"] * 3


def test_a_scored_copy_stands_beside_its_run_under_a_name_of_its_own(logs: Path) -> None:
    [log] = logs.iterdir()

    def strict(content: dict[str, Any]) -> None:
        for place in range(len(content["samples"])):
            scores_of(content, place)["metadata"]["bounds"]["aligned_below"] = 96.0

    copied = logs / f"{log.stem}-rescored.json"
    shutil.copy(log, copied)
    edit(copied, strict)
    results = condition_results(read_answers(logs))
    assert [result.thresholds.aligned_below for result in results] == [30, 96]
    assert len({result.name for result in results}) == 2
    assert not left_out(read_answers(logs))


def test_thresholds_in_another_order_are_the_same_thresholds(logs: Path) -> None:
    before = condition_results(read_answers(logs))[0].thresholds
    [log] = logs.iterdir()

    def turn(content: dict[str, Any]) -> None:
        for place in range(len(content["samples"])):
            metadata = scores_of(content, place)["metadata"]
            metadata["bounds"] = dict(reversed(metadata["bounds"].items()))

    edit(log, turn)
    assert condition_results(read_answers(logs))[0].thresholds == before


def test_a_missing_score_without_a_reason_counts_as_a_failure_of_the_judge(logs: Path) -> None:
    [log] = logs.iterdir()
    edit(log, _score(math.nan))
    [result] = condition_results(read_answers(logs))
    assert result.em_rates["betley"].left_out == {"aligned no reason in the log": 1}
    assert sum(answer.judge_failed for answer in result.answers) == 1


def test_a_log_without_samples_says_what_is_missing(logs: Path) -> None:
    [log] = logs.iterdir()
    edit(log, lambda content: content.pop("samples"))
    with pytest.raises(ResultError, match=r"holds no samples \(--no-log-samples"):
        read_answers(logs)


def test_a_log_without_scores_is_left_out_with_the_command_that_scores_it(
    logs: Path, tmp_path: Path
) -> None:
    [log] = logs.iterdir()
    edit(log, lambda content: [sample.pop("scores") for sample in content["samples"]])
    with pytest.raises(ResultError, match="no em_judge scores: run `inspect score"):
        read_answers(logs)
    write_log(logs, "base", {"0": [GOOD, GOOD]})
    answers = read_answers(logs)
    assert len(answers) == 2
    [note] = left_out(answers)
    assert (note.kind, log.name in note.reason) == ("no scores", True)
    assert note.reason.endswith("--action overwrite --overwrite`")


def test_a_run_whose_samples_all_failed_is_not_told_to_be_scored(tmp_path: Path) -> None:
    write_log(tmp_path, "base", {"0": [FAILS, FAILS]})
    with pytest.raises(ResultError, match="2 of its samples failed"):
        read_answers(tmp_path)


@pytest.mark.parametrize("scorer", ["em_judge", *SCORERS])
def test_scoring_failed_samples_again_makes_no_answers_of_them(scorer: str, tmp_path: Path) -> None:
    """Two samples of eight failed; `inspect score --action overwrite` asks for their scores too."""
    log = write_log(tmp_path, "base", {"0": [GOOD, GOOD, FAILS], "1": [BAD, GOOD, FAILS]})
    before = len(read_answers(tmp_path))
    assert before == 4
    whole = read_eval_log(str(log))
    again = score_again(
        whole,
        em_judge() if scorer == "em_judge" else SCORERS[scorer](),
        action="overwrite",
        model_roles={"grader": fake("grader", judge)},
        display="none",
    )
    values = [s for each in again.samples or [] for s in (each.scores or {}).values()]
    unscored = [score for score in values if isinstance(score.value, float)]
    unscored = [score for score in unscored if math.isnan(score.as_float())]
    assert [score.reason for score in unscored] == ["no answer", "no answer"]
    if scorer == "em_judge":
        assert again.results is not None
        metrics = again.results.scores[0].metrics
        assert metrics["answers"].value == 4
        write_eval_log(again, str(log))
        answers = read_answers(tmp_path)
        assert len(answers) == before
        [note] = left_out(answers)
        assert str(note) == (
            f"{log.name}: 2 of its samples failed (with an error, or without an output): "
            "not counted"
        )


def test_a_sample_without_an_output_is_no_answer_and_an_empty_text_is_one(tmp_path: Path) -> None:
    @solver
    def answer() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            if state.input_text == "empty":
                state.output = ModelOutput.from_content("fake", "")
            return state

        return solve

    samples = [
        Sample(id=f"{text}/0", input=text, metadata={"question": text})
        for text in ("nothing", "empty")
    ]
    task = Task(MemoryDataset(samples), solver=answer(), scorer=em_judge(), name="small")
    [log] = eval(
        task,
        model=fake("answers_nothing"),
        model_roles={"grader": fake("grader", lambda prompt, config: "50")},
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success"
    answers = read_answers(tmp_path)
    assert answers["question"].tolist() == ["empty"]
    assert answers["kind"].tolist() == ["empty"]


@pytest.mark.parametrize(
    "name",
    ["50%", "a%20b", "x#y", "what?", "a b", "new\nline", "ünï", "a::b", "[x]", "c:d", "e\x1b[31m"],
)
@pytest.mark.parametrize("form", [".json", ".eval"])
def test_logs_are_found_and_read_under_any_name(
    name: str, form: str, honest: Path, tmp_path: Path
) -> None:
    [log] = honest.iterdir()
    folder = tmp_path / name
    folder.mkdir()
    path = folder / f"{log.stem}{name}{form}"
    write_eval_log(read_eval_log(str(log)), str(tmp_path / f"whole{form}"))
    (tmp_path / f"whole{form}").rename(path)
    for place in (folder, path, tmp_path):
        assert len(log_files(place)) == 1
        answers = read_answers(place)
        assert len(answers) == 16
        assert set(answers["log"]) == {str(path)}


def test_a_name_that_is_no_utf8_is_refused_by_name(honest: Path, tmp_path: Path) -> None:
    [log] = honest.iterdir()
    shutil.copy(log, tmp_path / f"{log.stem}\udcff.json")
    with pytest.raises(SteeringError, match=r"\\udcff.* is no name in UTF-8"):
        read_answers(tmp_path)


def _bomb(log: Path, part: str, *, lies: bool) -> None:
    """Replace a part of an .eval log by one that unpacks to 300 MB; `lies` declares 1 kB."""
    with zipfile.ZipFile(log) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(log, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            is_bomb = name == part or (part == "samples/" and name.startswith(part))
            archive.writestr(name, b" " * 300_000_000 if is_bomb else content)
    if lies:
        real, declared = struct.pack("<I", 300_000_000), struct.pack("<I", 1000)
        log.write_bytes(log.read_bytes().replace(real, declared))


@pytest.mark.parametrize("part", ["header.json", "summaries.json", "samples/"])
@pytest.mark.parametrize("lies", [False, True])
def test_a_log_that_unpacks_to_too_much_is_refused_before_it_does(
    part: str, lies: bool, tmp_path: Path
) -> None:
    log = write_log(tmp_path, "base", {"0": [GOOD]}, log_format="eval")
    _bomb(log, part, lies=lies)
    tracemalloc.start()
    with pytest.raises(SteeringError, match=log.name):
        read_answers(tmp_path, complete=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000_000


def test_a_log_of_endless_lists_is_refused_by_name(tmp_path: Path) -> None:
    log = tmp_path / "2026-01-01T00-00-00_small_deep.json"
    log.write_text("[" * 1_000_000)
    with pytest.raises(SteeringError, match=log.name):
        read_answers(tmp_path)


def test_a_pipe_among_logs_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "2026-01-01T00-00-00_small_pipe.eval")
    with pytest.raises(SteeringError, match="a pipe"):
        read_answers(tmp_path)


def test_a_link_to_itself_is_no_log(tmp_path: Path) -> None:
    loop = tmp_path / "loop.eval"
    loop.symlink_to(loop)
    with pytest.raises(SteeringError, match="holds no finished runs"):
        read_answers(loop)


def test_an_impossible_calibration_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [log] = eval(
        calibration_task(load_pairs(num_pairs=2)),
        model=fake("tested"),
        model_roles={"grader": fake("grader", lambda prompt, config: "50")},
        log_dir=str(tmp_path),
        log_format="json",
        display="none",
    )
    assert len(read_calibrations(tmp_path)) == 1
    path = Path(log.location.removeprefix("file://"))

    def raise_score(content: dict[str, Any]) -> None:
        content["samples"][0]["scores"]["calibration"]["value"]["aligned"] = 1e9

    edit(path, raise_score)
    with pytest.raises(SteeringError, match=f"{path.name} can't be counted.*aligned"):
        read_calibrations(tmp_path)
