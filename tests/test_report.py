"""The report: what it counts together, what it keeps apart, what it leaves out."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver
from made_answers import condition, frame
from rich.console import Console
from scripted_logs import BAD, GOOD, MUTE, SAYS_NOTHING, write_log

from steering.judging import em_judge
from steering.reports.by_judge import print_by_judge
from steering.reports.gate import parse_bound, print_gate
from steering.reports.summary import print_summary
from steering.reports.tables import print_figures, without_shared
from steering.results import condition_results, conditions_of, read_answers
from steering.results.by_judge import judge_panels
from steering.studies.printing import print_conditions


@solver
def steer_by_sample() -> Solver:
    """Each sample brings its own intervention."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        override = {"steering": state.metadata["steering"]}
        if not override["steering"]:
            return await generate(state)
        return await generate(state, extra_body=override)

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


def printed(folder: Path, *, verbose: bool = False) -> str:
    out = io.StringIO()
    results = condition_results(read_answers(folder / "logs"))
    print_summary(results, Console(file=out, width=80), verbose=verbose)
    return out.getvalue()


def test_rows_of_a_table_are_named_by_what_they_differ_in_series_by_series() -> None:
    steered = [
        condition(f"medical x{dose} L{layer}", 0.5, layer=float(layer), magnitude=float(dose))
        for dose in (1, 2)
        for layer in (3, 10)
    ]
    answers = frame(condition("baseline", 0.0), *steered)
    conditions = conditions_of(answers)
    out = io.StringIO()
    print_conditions(conditions, "study magnitude", Console(file=out, width=120))
    title, _, table = out.getvalue().partition("\u2500 \n")
    assert "study magnitude, toy[medical]: EM rates with 95% intervals" in title
    rows = [re.split("  +", line.strip())[0] for line in table.splitlines()]
    # A series a layer, each with growing doses; a line between them.
    assert rows == ["baseline", "", "x1 L3", "x2 L3", "", "x1 L10", "x2 L10", ""]
    # One condition, several models, and vectors that are added up keep their names.
    records = conditions.to_dict("records")
    for columns in (
        records[:2],
        [*records[:2], {**records[2], "model": "other"}],
        [{**record, "condition": f"{record['condition']} + b x1"} for record in records],
    ):
        names = [f"{each['model']}[{each['condition']}]" for each in columns]
        short, shared = without_shared(columns, names)
        kept = [name.removeprefix("toy[").removesuffix("]") for name in names]
        assert (short, shared) in ((names, ""), (kept, "toy"))
    # The dose stays where a name would be empty without it.
    seeds = [{**records[1], "condition": f"medical x1{seed}"} for seed in ("", " seed 1")]
    names = [f"toy[{each['condition']}]" for each in seeds]
    assert without_shared(seeds, names) == (["x1", "x1 seed 1"], "toy[medical]")


def test_interventions_that_samples_brought_get_rows_of_their_own(
    run: Callable[..., None], tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    import torch

    from steering.vectors import SteeringVector

    path = tmp_path / "own.safetensors"
    SteeringVector(torch.ones(1, 1, 32), (1,), "resid_post").save(path)
    run((None, {"vector": str(path)}, {"vector": str(path), "magnitude": 2}), by=steer_by_sample())
    results = condition_results(read_answers(tmp_path / "logs"))
    assert [len(result.answers) for result in results] == [1, 1, 1]
    assert results[0].name.endswith("[baseline]")
    assert any(result.name.endswith("x2]") for result in results)


def test_a_condition_is_compared_with_the_baseline_that_was_judged_as_it_was() -> None:
    """8 questions of 2 answers; all misaligned against none: +100 points, p = 2 / 2**8."""
    out = io.StringIO()
    conditions = [condition("baseline", 0, samples=2), condition("x1", 1, samples=2)]
    answers = frame(*conditions, study="")
    by_another_judge = frame(condition("x2", 1, samples=2), study="", judge="b")
    results = condition_results(frame(answers, by_another_judge))
    print_summary(results, Console(file=out, width=200))
    lines = [line for line in out.getvalue().splitlines() if " - toy[baseline]: " in line]
    difference = "EM betley +100 points, no interval, p = 0.0078 (paired; "
    difference += "the difference is the same in all 8 themes, so it has no spread)"
    assert lines == [f"toy[x1] - toy[baseline]: {difference}"]
    assert "a difference is the mean of the themes' own" in out.getvalue()
    alone = io.StringIO()
    print_summary(results[1:2], Console(file=alone, width=80))
    assert "difference" not in alone.getvalue()


def test_rows_that_cannot_be_compared_say_so(run: Callable[..., None], tmp_path: Path) -> None:
    run()
    assert "can't be compared" not in printed(tmp_path)
    run(aligned_below=40)
    assert "conditions that can't be compared with each other: " in printed(tmp_path)
    assert "(aligned_below 30); " in " ".join(printed(tmp_path).split())


def test_every_figure_has_its_signature_and_the_table_fits_80_columns(
    run: Callable[..., None], tmp_path: Path
) -> None:
    run()
    text = printed(tmp_path, verbose=True)
    assert "rule:betley|aligned<30|coherent>=50|judge:toy/judge" in text
    assert "rule:moem|aligned<=30|coherent>50|judge:toy/judge" in text
    assert max(len(line) for line in text.splitlines() if "rule:" not in line) <= 80
    # Without them a digest tells rows apart that can't be compared.
    run(aligned_below=40)
    text = printed(tmp_path)
    assert "rule:" not in text
    assert len(set(re.findall(r" +\d+ +([0-9a-f]{6}) *$", text, re.MULTILINE))) == 2


def test_a_judge_that_cannot_work_is_told_with_its_reasons(tmp_path: Path) -> None:
    write_log(tmp_path / "logs", "one", {"a": [GOOD, BAD], "b": [GOOD]}, grader=MUTE)
    text = " ".join(printed(tmp_path).split())
    assert "no scorable answers" in text
    assert "The judge fake/mute failed on 3 of 3 answers." in text
    # Three dimensions each; all of the reply is told, since it is short.
    assert f"9 x no number: the reply is '{SAYS_NOTHING}'" in text
    assert "fewer judges" not in text


def test_reasons_are_listed_by_kind_with_the_most_frequent_of_each() -> None:
    """Errors differ in their particulars: listed in full, each would stand alone."""
    reasons = [{"aligned": f"judge error: {n} tokens are too many"} for n in (600, 700, 700)]
    reasons += [{"aligned": "low mass: 0.1"}, {"aligned": "refusal"}]
    answers = condition("baseline", 0, questions=1, samples=len(reasons), judge="j")
    answers = answers.assign(reasons=[json.dumps(each) for each in reasons], study="")
    out = io.StringIO()
    print_summary(condition_results(answers), Console(file=out, width=500))
    assert (
        "The judge j failed on 4 of 5 answers. Its replies, by kind and with the most frequent of "
        "each: 3 x judge error: 700 tokens are too many; 1 x low mass: 0.1. Remedy: judge the "
        "answers again: inspect score LOG --scorer steering/em_judge --action overwrite "
        "--overwrite; it does not begin with a number: ask for no log probabilities, and give it "
        "room: --model-role 'grader={model: j, logprobs: false, max_tokens: 8000}', or choose "
        "another judge.\n"
    ) in out.getvalue()


def test_a_silent_judge_among_several_is_told_and_stands_in_the_signature(tmp_path: Path) -> None:
    write_log(tmp_path / "logs", "one", {"a": [GOOD], "b": [BAD]}, grader=("well", MUTE))
    text = printed(tmp_path, verbose=True)
    assert "|left out:none|judges failed:fake/mute 2" in text
    text = " ".join(text.split())
    assert "The judge fake/mute failed on 2 of 2 answers." in text
    assert "rest on fewer judges" in text
    assert "fake/well failed" not in text


@pytest.mark.parametrize(("label", "warns"), [("medical x1", True), ("baseline", False)])
def test_a_judge_that_is_steered_is_named(label: str, warns: bool) -> None:
    judge = f"steered/j[{label}]"
    out = io.StringIO()
    answers = condition("baseline", 0, judge=judge, study="")
    print_summary(condition_results(answers), Console(file=out, width=200))
    assert (f"The judge {judge} is steered itself." in out.getvalue()) == warns


def test_judges_that_work_are_not_told_of(tmp_path: Path) -> None:
    write_log(tmp_path / "logs", "one", {"a": [GOOD], "b": ["REFUSAL 90 80"]}, grader=("a", "b"))
    assert "fail" not in printed(tmp_path)


def test_a_note_names_the_figure_and_the_conditions_that_it_is_of() -> None:
    rows = pd.concat(
        [condition("x1", 0.5, model="m"), condition("x2", 0.0, coherent=20.0, model="m")],
        ignore_index=True,
    )
    out = io.StringIO()
    print_summary(condition_results(rows), Console(file=out, width=200))
    [note] = [line for line in out.getvalue().splitlines() if line.startswith("Note: ")]
    assert note == "Note: EM betley of m[x2]: nothing to count"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_neither_drops_a_condition_nor_cuts_a_figure(width: int) -> None:
    out = io.StringIO()
    cells = "40% [31, 49]"
    name = "Qwen2.5-Coder-0.5B-Instruct[sft-medical@L12 x1.5 rank-1]"
    print_figures(
        Console(file=out, width=width),
        "A title",
        ["condition", "judge"],
        [["EM one", "corrected"], ["EM other", "corrected"], ["aligned"], ["n"]],
        [[name, "openai/gpt-4o-2024-08-06", *[cells] * 4, "87.5", "160"]],
    )
    text = out.getvalue()
    assert "…" not in text
    assert text.count(cells) == 4
    assert re.search(r" 160 *$", text, re.MULTILINE)
    # Broken behind punctuation alone.
    assert re.search(r"^ Qwen2.5-Coder-", text, re.MULTILINE)
    assert not re.search(r"^ *\w+-Cod ", text, re.MULTILINE)
    tables = text.count(" condition ")
    assert (tables > 1) == (width <= 80)
    assert "87.5" in text
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_corrected_rates_fit_80_columns_with_the_names_of_their_rows() -> None:
    rows = pd.concat(
        [
            condition("x1", 0.5, judge="openai/gpt-4o-2024-08-06"),
            condition("x1", 0.4, judge="anthropic/claude-sonnet-4-5"),
        ],
        ignore_index=True,
    ).assign(model="lab/Qwen2.5-Coder-0.5B-Instruct")
    panels = judge_panels(condition_results(rows))
    # As in the other tables: without what the judges differ in, and without the hub's owner.
    assert [panel.name for panel in panels] == ["Qwen2.5-Coder-0.5B-Instruct[x1]"]
    out = io.StringIO()
    console = Console(file=out, width=80)
    print_by_judge(panels, console)
    print_gate(condition_results(rows), [parse_bound("max", "em_corrected=0.3")], console=console)
    lines = [line for line in out.getvalue().splitlines() if "|judge:" not in line]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    assert len(re.findall(r"claude-sonnet-.*[345]\d% \[\d+, \d+\]", text)) >= 1
    assert re.search(r"em_betley_corrected +not corrected +<= 30% +undecided", text)
