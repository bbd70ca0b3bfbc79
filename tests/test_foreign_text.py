"""Names and answers of others, wherever they are shown: they stay text and act on nothing."""

import ast
import csv
import html
import io
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd
import pytest
import rich
from inspect_ai._util.error import PrerequisiteError
from made_answers import condition, frame
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from rich.console import Console
from scripted_logs import BAD, GOOD, write_log
from shell import REPO

from steering.errors import SteeringError, errors_in_one_line
from steering.reports.compare import compare
from steering.reports.gate import parse_bound, print_gate
from steering.reports.page import PageContent, PageTable, write_page
from steering.reports.pictures import Picture, pictures_of
from steering.reports.rescore import print_grid, print_rescored, write_table
from steering.reports.summary import print_summary
from steering.results import (
    LeftOut,
    condition_results,
    conditions_of,
    read_frame,
    write_frames,
)
from steering.studies.printing import print_conditions
from steering.studies.report import report
from steering.text import markdown, markdown_code, shell_line, terminal, to_csv, view_command

HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m\x85\x90",
    "[red]x[/red] [link=javascript:alert(1)]y[/link] :bomb:",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](http://x/y.png) <javascript:alert(1)>",
    "a | b `c` ``d`` *e* _f_ ~~g~~ &lt; \\",
    "cost $5 and $6 $x_{$",
    "$\\frac{1}{$ and $",
    "=HYPERLINK(1)",
    "\u202egnp.exe",
    "# no heading",
    "- no list",
    "1. no list",
    "two\nlines",
    "[/]",
    "[bold",
    "back\\",
    "../../up",
]
_ACTING = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _frame(text: str) -> pd.DataFrame:
    """Two conditions with a text in every place that a log names."""
    made = frame(condition("baseline", 0.1), condition("x1", 0.6), study="")
    return made.assign(
        task=text,
        model=text,
        judge=text,
        questions=text,
        subject=text,
        sampling=text,
        version=text,
        command=shell_line("inspect", "eval", text),
        question=made["question"] + text,
        answer=text,
        prompt=text,
        condition=made["condition"] + text,
        label=made["label"] + text,
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_name_acts_on_the_terminal(text: str) -> None:
    stream = io.StringIO()
    # A dumb terminal: what is left of escapes came from the names.
    console = Console(file=stream, width=400, force_terminal=False)
    results = condition_results(_frame(text))
    notes = [LeftOut(text, text, "copy")]
    print_summary(results, console)
    print_gate(results, [parse_bound("max", "em_rate=0.5")], notes, console=console)
    print_rescored(results, console)
    print_grid(results, console)
    print_conditions(conditions_of(_frame(text)), text, console)
    shown = stream.getvalue()
    assert not _ACTING.search(shown)
    flat = re.sub(r"\s+", "", shown)
    for line in terminal(text).split("\n"):
        assert re.sub(r"\s+", "", line) in flat
    assert compare(*results, "betley").difference.num_questions


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_of_hostile_names_is_whole_and_runs_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawing takes seconds, and has a test of its own.
    picture = Picture("forest", text, text, text, Figure)
    monkeypatch.setattr("steering.reports.page_content.pictures_of", lambda *frames: [picture])
    rows = _frame(text).assign(study=text)
    content = PageContent(
        title=text,
        headline=text,
        answers=rows,
        conditions=conditions_of(rows),
        logs=Path("logs") / text.replace("/", "").replace("\ud800", ""),
        table=PageTable(text, text, [text, text], [[text, text]], [text]),
    )
    folder = tmp_path / "in" / "report"
    page, text_page = (path.read_text(encoding="utf-8") for path in write_page(content, folder))
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"report"}
    assert page.count("<script") == 2
    assert "<img src=x" not in page
    assert not re.search(r"""(?:href|src)\s*=\s*["']?\s*javascript:""", page)
    _is_safe_markdown(text_page)


@pytest.mark.parametrize("text", ["$5 and $6 \x1b[2J $\\frac{", "../../up\n$x_{$ <b> & -->"])
def test_pictures_of_hostile_names_are_pictures_in_their_folder(text: str) -> None:
    rows = frame(condition("baseline", 0.1), condition("x1", 0.6), condition("x2", 0.5))
    rows["magnitude"] = rows["label"].map({"baseline": 0.0, "x1": 1.0, "x2": 2.0})
    # The study has a picture by magnitude besides those of conditions.
    rows = rows.assign(model=text, judge=text, target=text, sampling=text)
    rows = rows.assign(condition=rows["condition"] + text, question=rows["question"] + text)
    for study in ("magnitude", text):
        pictures = list(
            pictures_of(rows.assign(study=study), conditions_of(rows.assign(study=study)))
        )
        assert len(pictures) >= 3
        for picture in pictures:
            assert Path(picture.name).name == picture.name
            ElementTree.fromstring(picture.render(["svg"])["svg"])


def _is_safe_markdown(page: str) -> None:
    """Rendered by another program, it is our own markup and nothing else."""
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = rendered.parse(page)
    assert not [t for t in tokens if t.type == "html_block"]
    columns: set[int] = set()
    for token in tokens:
        for child in token.children or []:
            assert child.type != "html_inline"
            if child.type == "link_open":
                raise AssertionError(child.attrs)
            if child.type == "image":
                assert str(child.attrs["src"]).startswith("pictures/")
    headings = [t for t in tokens if t.type == "heading_open"]
    assert len(headings) <= 6
    # Each row of a table has as many cells as its head.
    count = 0
    for token in tokens:
        if token.type == "tr_open":
            count = 0
        count += token.type in ("th_open", "td_open")
        if token.type == "tr_close":
            columns.add(count)
    assert columns <= {2, 13, 14}


@pytest.mark.parametrize("text", [*HOSTILE, "half \ud800 of one"])
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["strikethrough"])
    expected = terminal(" ".join(text.split()))
    for source, tag in ((markdown(text), "p"), (markdown_code(text), "code")):
        shown = re.sub(r"</?(?:p|code)>", "", reader.render(source)).strip("\n")
        assert html.unescape(shown) == expected, tag


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "'=1", "'", "\uff1d1", "plain", "", "a=1"]
)
def test_a_cell_is_no_formula_and_reads_back_as_it_was(text: str) -> None:
    content = to_csv(pd.DataFrame({"name": [text, "x"], "number": [-1.5, 2.0]})).decode()
    [first, _] = csv.DictReader(io.StringIO(content, newline=""))
    assert not first["name"].startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
    assert first["number"] == "-1.5"


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "-", "'quoted'", 'a,"b"\r\nc', "\x00", ""])
def test_our_own_frames_read_back_the_same(text: str, tmp_path: Path) -> None:
    answers = frame(condition("baseline", 0.1), condition("x1", 0.6), study="")
    answers = answers.assign(answer=text, model=f"{text}m", tokens=math.nan)
    write_frames(answers, tmp_path)
    for name in ("answers.csv", "answers.parquet"):
        pd.testing.assert_frame_equal(read_frame(tmp_path / name), answers, check_dtype=False)
    pd.testing.assert_frame_equal(
        read_frame(tmp_path / "conditions.csv"), conditions_of(answers), check_dtype=False
    )
    write_table(condition_results(answers), tmp_path / "rates.csv")
    assert "\n=" not in (tmp_path / "rates.csv").read_text()
    assert ",=" not in (tmp_path / "answers.csv").read_text()


@pytest.mark.parametrize(
    "folder",
    ["plain", "a b", "$(touch owned)", "`touch owned`", "it's", "a;touch owned", "x\ny", "\x1b[2J"],
)
def test_a_command_that_is_suggested_names_exactly_its_folder(folder: str, tmp_path: Path) -> None:
    line = view_command(folder)
    assert line.isprintable()
    script = f"inspect() {{ printf '%s\\0' \"$@\"; }}; {line}"
    said = subprocess.run(["bash", "-c", script], capture_output=True, check=True, cwd=tmp_path)
    assert said.stdout.decode().split("\0")[:-1] == ["view", "--log-dir", folder]
    assert not list(tmp_path.iterdir())


def test_no_module_prints_a_text_past_the_function_for_terminals() -> None:
    """Texts go through print_line, say or a table; escape() and f-strings leave control codes."""
    for path in (REPO / "steering").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            place = f"{path.relative_to(REPO)}:{node.lineno}"
            owner = ast.unparse(node.func.value)
            if owner == "click" and node.func.attr in ("echo", "secho"):
                argument = ast.unparse(node.args[0])
                assert argument in ("terminal(text)", "'Aborted!'", "f'Error: {error}'"), place
            if node.func.attr == "print" and owner in ("console", "Console()"):
                argument = node.args[0]
                assert isinstance(argument, ast.Name | ast.Call), place
                assert isinstance(argument, ast.Call) or argument.id == "table", place


def test_errors_say_what_a_name_holds_and_no_more() -> None:
    error = SteeringError("no model \x1b[2J\x9b1m\nand \ud800")
    assert str(error) == "no model \\x1b[2J\\x9b1m and \\ud800"


@pytest.mark.parametrize("display", ["none", "plain"])
def test_a_refused_option_is_told_whatever_the_display(display: str, tmp_path: Path) -> None:
    script = "import sys; from inspect_ai._cli.main import main; sys.exit(main())"
    arguments = ["eval", "evals/em_freeform.py", "--model", "steered/toy", "-M", "target=x\u202e"]
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            *arguments,
            "--display",
            display,
            "--log-dir",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert ran.returncode == 1
    words = " ".join((ran.stderr if display == "none" else ran.stdout).split())
    assert "x\\u202e" in words
    assert "Traceback" not in ran.stderr
    assert "\u202e" not in ran.stderr + ran.stdout
    if display == "none":
        [line] = ran.stderr.strip().splitlines()
        assert line.startswith("Error: steered/toy: ")
        assert ran.stdout.strip() == ""


def test_another_hook_for_errors_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_a_notebook(*arguments: object) -> None:
        """Shows errors itself."""

    monkeypatch.setattr("sys.excepthook", of_a_notebook)
    monkeypatch.setattr(rich.get_console(), "quiet", True)
    with pytest.raises(PrerequisiteError), errors_in_one_line():
        raise SteeringError("refused")
    assert sys.excepthook is of_a_notebook


def test_a_relative_path_of_a_log_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path, "base", {str(n): [BAD, GOOD] for n in range(3)}, log_format="eval")
    for folder, path in ((tmp_path, log.name), (tmp_path.parent, f"./{tmp_path.name}/{log.name}")):
        monkeypatch.chdir(folder)
        result = report(path)
        assert len(result.answers) == 6
        assert [page.name for page in result.files] == ["index.html", "report.md"]
        assert all(page.is_file() for page in result.files)
        assert view_command(Path(path).parent) in result.files[0].read_text()
