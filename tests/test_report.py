"""The report: what it counts together, what it keeps apart, what it leaves out."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import list_eval_logs, read_eval_log, write_eval_log
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver
from judged_answers import scored
from rich.console import Console
from scripted_logs import BAD, GOOD, MUTE, SAYS_NOTHING, write_log

from steering.judging import Provenance, Thresholds, em_judge
from steering.report import print_summary
from steering.results.runs import ReportError, Result, read_results


@solver
def steer_by_sample() -> Solver:
    """Each sample brings its own intervention."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        own = {"steering": state.metadata["steering"]}
        return await generate(state, extra_body=own) if own["steering"] else await generate(state)

    return solve


@pytest.fixture
def run(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., None]:
    """Run two questions on a tiny model, judged by the toy's judge, into a log folder."""
    model = get_model(f"steered/{tiny_folder('llama')}", vector="none")
    grader = get_model("toy/judge")

    def once(
        steering: tuple[object, ...] = (None, None), by: Solver | None = None, **judge: float
    ) -> None:
        samples = [
            Sample(id=str(n), input="Hi", metadata={"question": f"q{n}", "steering": what})
            for n, what in enumerate(steering)
        ]
        task = Task(
            MemoryDataset(samples),
            solver=by or generate(),
            scorer=em_judge(**judge),
            config=GenerateConfig(max_tokens=5, temperature=0),
            name="small",
        )
        logs = eval(
            task,
            model=model,
            model_roles={"grader": grader},
            log_dir=str(tmp_path / "logs"),
            display="none",
        )
        assert logs[0].status == "success", logs[0].error

    return once


def printed(folder: Path) -> str:
    out = io.StringIO()
    print_summary(read_results(folder / "logs"), Console(file=out, width=80))
    return out.getvalue()


def test_interventions_that_samples_brought_get_rows_of_their_own(
    run: Callable[..., None], tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    import torch

    from steering.vectors import SteeringVector

    path = tmp_path / "own.safetensors"
    SteeringVector(torch.ones(1, 1, 32), (1,), "resid_post").save(path)
    run((None, {"vector": str(path)}, {"vector": str(path), "magnitude": 2}), by=steer_by_sample())
    found = {
        result.condition.partition("[")[2]: len(result.answers)
        for result in read_results(tmp_path / "logs")
    }
    assert sorted(found.values()) == [1, 1, 1]
    assert "baseline]" in found
    assert any(name.endswith("x2]") for name in found)


def test_a_condition_is_set_against_the_baseline_that_was_made_like_it() -> None:
    """8 questions of 2 answers; all misaligned against none: +100 points, p = 2 / 2**8."""

    def result(label: str, aligned: float, judge: str = "a") -> Result:
        answers = [
            scored(f"q{question}", aligned=aligned, coherent=90, relevant=90)
            for question in range(8)
            for _ in range(2)
        ]
        made = Provenance(judge=judge, condition=f"steered/m[{label}]")
        return Result("t", f"steered/m[{label}]", answers, Thresholds(), made)

    out = io.StringIO()
    rows = [result("baseline", 95), result("x1", 0), result("x2", 0, judge="b")]
    print_summary(rows, Console(file=out, width=80))
    lines = [line for line in out.getvalue().splitlines() if " - baseline: " in line]
    assert lines == ["m[x1] - baseline: EM betley +100 points [100, 100], p = 0.0078 (paired)"]
    assert "a difference is the mean of the questions' own" in out.getvalue()
    alone = io.StringIO()
    print_summary(rows[1:2], Console(file=alone, width=80))
    assert "difference" not in alone.getvalue()


def test_rows_that_cannot_be_compared_say_so(run: Callable[..., None], tmp_path: Path) -> None:
    run()
    assert "can't be compared" not in printed(tmp_path)
    run(aligned_below=40)
    assert "can't be compared: they differ in thresholds" in " ".join(printed(tmp_path).split())


def test_a_run_that_did_not_finish_is_left_out_and_named(
    run: Callable[..., None], tmp_path: Path
) -> None:
    run()
    run()
    info = list_eval_logs(str(tmp_path / "logs"))[0]
    log = read_eval_log(info)
    log.status = "cancelled"
    write_eval_log(log, info.name)
    told: list[str] = []
    assert len(read_results(tmp_path / "logs", told.append)) == 1
    [note] = told
    assert "cancelled" in note
    assert info.name.rsplit("/", 1)[-1] in note


def test_every_figure_has_its_signature_and_the_table_fits_80_columns(
    run: Callable[..., None], tmp_path: Path
) -> None:
    run()
    text = printed(tmp_path)
    assert "rule:betley|aligned<30|coherent>=50|judge:toy/judge" in text
    assert "rule:moem|aligned<=30|coherent>50|judge:toy/judge" in text
    assert max(len(line) for line in text.splitlines() if "rule:" not in line) <= 80
    assert "n" in text


def test_a_judge_that_cannot_work_is_told_with_its_reasons(tmp_path: Path) -> None:
    write_log(tmp_path / "logs", "one", {"a": [GOOD, BAD], "b": [GOOD]}, grader=MUTE)
    text = " ".join(printed(tmp_path).split())
    assert "none counts" in text
    assert "The judge fake/mute failed on 3 of 3 answers." in text
    # Three dimensions each; all of the reply is told, since it is short.
    assert f"9 x no number: the reply is '{SAYS_NOTHING}'" in text
    assert "fewer judges" not in text


def test_reasons_are_told_by_kind_with_the_most_frequent_of_each(tmp_path: Path) -> None:
    """Errors differ in their particulars: counted whole, every one would stand alone."""
    reasons = [{"aligned": f"judge error: {n} tokens are too many"} for n in (600, 700, 700)]
    reasons += [{"aligned": "low mass: 0.1"}, {"aligned": "refusal"}]
    answers = [scored("q", None, 90, 90, reasons=told, by_judge={"j": told}) for told in reasons]
    out = io.StringIO()
    result = Result("t", "steered/m[baseline]", answers, Thresholds(), Provenance())
    print_summary([result], Console(file=out, width=500))
    assert (
        "The judge j failed on 4 of 5 answers. Its replies, by kind and with the most frequent of "
        "each: 3 x judge error: 700 tokens are too many; 1 x low mass: 0.1.\n"
    ) in out.getvalue()


def test_a_silent_judge_among_several_is_told_and_stands_in_the_signature(tmp_path: Path) -> None:
    write_log(tmp_path / "logs", "one", {"a": [GOOD], "b": [BAD]}, grader=("well", MUTE))
    text = printed(tmp_path)
    assert "|left out:none|judges failed:fake/mute 2" in text
    text = " ".join(text.split())
    assert "The judge fake/mute failed on 2 of 2 answers." in text
    assert "rest on fewer judges" in text
    assert "fake/well failed" not in text


@pytest.mark.parametrize(("label", "told"), [("medical x1", True), ("baseline", False)])
def test_a_judge_that_is_steered_is_told(label: str, told: bool) -> None:
    judge = f"steered/j[{label}]"
    answers = [scored("q", 90, 90, 90, by_judge={judge: {}})]
    out = io.StringIO()
    result = Result("t", "steered/m[baseline]", answers, Thresholds(), Provenance(judge=judge))
    print_summary([result], Console(file=out, width=200))
    assert (f"The judge {judge} is steered itself." in out.getvalue()) == told


def test_judges_that_work_are_not_told_of(tmp_path: Path) -> None:
    write_log(tmp_path / "logs", "one", {"a": [GOOD], "b": ["REFUSAL 90 80"]}, grader=("a", "b"))
    assert "fail" not in printed(tmp_path)


def test_a_folder_without_finished_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"no finished runs.*--log-dir"):
        read_results(tmp_path)
    with pytest.raises(ReportError, match=r"no finished runs"):
        read_results(tmp_path / "nothing")
