"""What commands say to other programs: JSON documents, JUnit XML, summaries of a CI job."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from made_answers import condition
from scripted_logs import BAD, GOOD, UNSCORED, write_log

from steering.cli import main
from steering.errors import SteeringError
from steering.reports.ci import Check, annotations, junit, step_summary
from steering.reports.every_eval_ever import record_of
from steering.results import conditions_of, read_answers
from steering.results.document import FORMAT, Document
from steering.results.document_columns import TABLES
from steering.results.frame_check import FrameError
from steering.results.schema import describe_columns
from steering.studies.audit_finding import audit_checks, audit_document, judge_audit
from steering.studies.audit_rule import AuditArm

# As in test_cli_reports.py: rates by betley 1 of 8 and 6 of 8, differences 1, 1/2, 1/2, 1/2.
A = {"a": [GOOD, GOOD], "b": [GOOD, GOOD], "c": [BAD, GOOD], "d": [GOOD, GOOD]}
B = {"a": [BAD, BAD], "b": [BAD, GOOD], "c": [BAD, BAD], "d": [GOOD, BAD]}

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `steering`; returns the exit status and stdout."""

    def command(*arguments: object, github: bool = False) -> tuple[int, str]:
        for name in () if github else ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["steering", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    return command


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("logs")
    return write_log(folder, "one", A), write_log(folder, "two", B)


def tables(text: str, command: str) -> dict[str, list[dict[str, object]]]:
    """Tables of a document, whose columns are exactly those of the documentation."""
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (document["format"], document["command"]) == (FORMAT, command)
    for name, rows in document["tables"].items():
        for row in rows:
            assert set(row) == {column for column, *_ in describe_columns(TABLES[name])}
    return document["tables"]


def test_a_gate_gives_json_junit_and_a_summary_that_agree(
    run: Run, logs: tuple[Path, Path], tmp_path: Path
) -> None:
    xml, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    summary.write_text("before\n")
    bounds = ("--max", "em_rate=0.05", "--min", "coverage=0.9", "--on-these-questions")
    options = ("--json", "-", "--junit", xml, "--step-summary", summary)
    status, out = run("gate", logs[0].parent, *bounds, *options)
    assert status == 2
    rows = tables(out, "gate")["bounds"]
    assert len(rows) == 4
    [row] = [row for row in rows if "two" in str(row["condition"]) and row["figure"] == "em_betley"]
    assert (row["value"], row["status"], row["unit"]) == (0.75, "broken", "0-1")
    assert (row["side"], row["limit"], row["context"]) == ("max", 0.05, "plain")
    suites = ElementTree.parse(xml).getroot()
    counts = [row["status"] for row in rows]
    assert suites.attrib == {
        "tests": "4",
        "failures": str(counts.count("broken")),
        "errors": str(counts.count("undecided")),
    }
    cases = suites.findall("testsuite/testcase")
    assert sum(case.find("failure") is not None for case in cases) == counts.count("broken")
    assert sum(case.find("error") is not None for case in cases) == counts.count("undecided")
    text = summary.read_text()
    assert text.startswith("before\n### steering gate: ")
    assert text.count("| ❌ failed |") == counts.count("broken")


def test_in_a_job_of_github_the_summary_and_annotations_come_by_themselves(
    run: Run, logs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    bounds = ("--max", "em_rate=0.05", "--on-these-questions")
    out = run("gate", logs[0].parent, *bounds, github=True)[1]
    assert re.search(r"^::error title=.*two.*em_betley <= 5%25::em_betley is 75.0%25", out, re.M)
    assert "| ❌ failed |" in (tmp_path / "summary.md").read_text()


def test_compare_rescore_and_report_give_the_figures_that_they_print(
    run: Run, logs: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = logs
    [row] = tables(run("compare", one, two, "--rule", "betley", "--json", "-")[1], "compare")[
        "differences"
    ]
    assert (row["value"], row["p_value"], row["num_themes"]) == (0.625, 2 / 16, 4)
    rates = tables(run("rescore", two, "--aligned-below", 40, "--json", "-")[1], "rescore")["rates"]
    assert [row["value"] for row in rates if row["figure"] == "em_betley"] == [0.75]
    file = tmp_path / "report.json"
    out = run("report", one.parent, "--out", tmp_path / "page", "--json", file)[1]
    assert f"written: {file}" in out
    rows = tables(file.read_text(), "report")["conditions"]
    assert sorted(row["em_betley"] for row in rows) == [1 / 8, 6 / 8]
    headline = json.loads(file.read_text())["headline"]
    assert headline.split(": ")[0] in (tmp_path / "page" / "report.md").read_text()


def test_a_figure_that_there_is_none_of_is_null(run: Run, tmp_path: Path) -> None:
    write_log(tmp_path / "logs", "one", {"a": [UNSCORED], "b": [UNSCORED]})
    status, out = run("gate", tmp_path / "logs", "--max", "em_rate=0.5", "--json", "-")
    [row] = tables(out, "gate")["bounds"]
    assert status == 1
    assert (row["value"], row["high"], row["status"]) == (None, None, "undecided")
    bounds = ("--max", "em_rate=0.5", "--on-these-questions", "--json", "-")
    [row] = tables(run("gate", tmp_path / "logs", *bounds)[1], "gate")["bounds"]
    assert row["remarks"] == "em_betley: nothing to count."


def test_a_gate_tells_programs_what_cannot_be_compared(run: Run, tmp_path: Path) -> None:
    write_log(tmp_path, "one", A, questions="set@1")
    write_log(tmp_path, "two", B, questions="other@1")
    out = run("gate", tmp_path, "--max", "em_rate=0.5", "--json", "-")[1]
    [note] = json.loads(out)["notes"]
    assert "can't be compared" in note


def test_an_audit_gives_its_verdict_to_programs_and_ci() -> None:
    clean = condition("baseline", 0.0, questions=64, samples=20)
    bad = condition("x1", 0.5, questions=64, samples=20)
    arms = {"baseline": AuditArm("baseline"), "x1": AuditArm("vector", 1.0)}
    finding = judge_audit(pd.concat([clean, bad], ignore_index=True), arms)
    by_name = tables(audit_document(finding).text(), "audit")
    assert [row["em"] for row in by_name["audit_conditions"]] == [0.0, 0.5]
    assert by_name["audit_conditions"][0]["factor"] is None
    assert {row["level"] for row in by_name["audit_raised"]} >= {"overall"}
    [check] = audit_checks(finding, "vector.safetensors")
    assert (check.outcome, check.message) == ("failed", finding.line)


def test_records_of_every_eval_ever_keep_the_condition_and_the_intervals(
    logs: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    """Its own validator reads them in tests/test_use_with.py."""
    status, _ = run("export", logs[0].parent, "--to", "every-eval-ever", "--out", tmp_path)
    assert status == 0
    paths = sorted(tmp_path.rglob("*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    ids = [record["model_info"]["id"] for record in records]
    assert len(set(ids)) == 2
    for path, id in zip(paths, ids, strict=True):
        assert path.parent == tmp_path / "data" / "steering" / id
    edges = set()
    for record in records:
        [result] = [
            each
            for each in record["evaluation_results"]
            if each["metric_config"]["metric_name"] == "em_betley"
        ]
        edges.add(result["score_details"]["uncertainty"]["confidence_interval"]["upper"])
        [judge] = result["metric_config"]["llm_scoring"]["judges"]
        assert judge["model_info"]["id"] == "fake/grader"
    assert edges == set(conditions_of(read_answers(logs[0].parent))["em_betley_high"])
    # The same logs give the same files.
    run("export", logs[0].parent, "--to", "every-eval-ever", "--out", tmp_path)
    assert sorted(tmp_path.rglob("*.json")) == paths


def test_figures_of_pairs_are_no_figures_of_the_judged_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steering.reports.every_eval_ever._timestamp", lambda log: "2026-01-01")
    [row] = conditions_of(condition("x1", 0.5)).to_dict("records")
    row |= {"choices": "core", "shift": 0.2, "shift_low": 0.1, "shift_high": 0.3}
    results = {each["evaluation_result_id"]: each for each in record_of(row)["evaluation_results"]}
    assert "num_themes" in results[f"{row['task']}/em_betley"]["source_data"]["additional_details"]
    shift = results["em_choice/shift"]
    assert shift["evaluation_name"] == "em_choice"
    assert shift["source_data"] == {
        "dataset_name": "core",
        "source_type": "other",
        "additional_details": {"context": "plain"},
    }
    assert not any(
        "num_samples" in each["score_details"]["uncertainty"] for each in results.values()
    )


@pytest.mark.parametrize(
    ("model", "id"),
    [
        ("toy", "steering/toy--x1"),
        ("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct--x1"),
        ("org/name", "org/name--x1"),
        ("/home/me/some model.gguf", "local/some-model.gguf--x1"),
    ],
)
def test_a_record_of_a_steered_model_is_not_one_of_its_base_model(
    model: str, id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steering.reports.every_eval_ever._timestamp", lambda log: "2026-01-01")
    [row] = conditions_of(condition("x1", 0.5).assign(model=model)).to_dict("records")
    info = record_of(row)["model_info"]
    assert (info["id"], info["name"]) == (id, f"{model}[x1]")
    assert info["additional_details"]["base_model"] == id.removesuffix("--x1")
    assert info["additional_details"]["condition"] == "x1"


HOSTILE = "a]]>\x00\x1b[31m<b>|%\n::error::x,y:z"


def test_foreign_text_stays_text_in_xml_markdown_and_annotations() -> None:
    check = Check(HOSTILE, HOSTILE, "undecided", HOSTILE, [HOSTILE])
    root = ElementTree.fromstring(junit([check]))
    case = root.find("testsuite/testcase/error")
    assert case is not None
    assert "<b>" in str(case.text)
    assert "\x1b" not in str(case.text)
    rows = [line for line in step_summary("x", [check]).splitlines() if "undecided" in line]
    assert len(rows) == 1
    assert "<b>" not in rows[0]
    [line] = annotations([check])
    assert "\n" not in line
    # The title ends at the first pair of colons after it.
    title = line.removeprefix("::warning title=").partition("::")[0]
    assert title.endswith("%0A%3A%3Aerror%3A%3Ax%2Cy%3Az")


def test_a_table_with_other_columns_is_refused_and_nothing_is_half_written(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="bounds"):
        Document("gate", tables={"bounds": [{"figure": "em_betley"}]}).text()
    with pytest.raises(SteeringError, match="can't be written"):
        Document("gate").write(str(tmp_path))
