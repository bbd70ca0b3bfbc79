"""What a CI job reads of a verdict: JUnit XML, a summary in Markdown, annotations of GitHub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from steering.errors import write_errors_as_ours
from steering.files import write_whole
from steering.text import markdown, terminal

CheckOutcome = Literal["passed", "failed", "undecided"]

_MARKS: dict[CheckOutcome, str] = {"passed": "✅", "failed": "❌", "undecided": "⚠️"}
_LEVELS: dict[CheckOutcome, str] = {"failed": "error", "undecided": "warning"}


@dataclass(frozen=True)
class Check:
    """One verdict.

    Attributes:
        group: What is checked: a task, or an audit.
        name: The check, in a few words.
        outcome: `undecided` is no pass.
        message: The figures, in a line.
        remarks: What else the reader must know.
    """

    group: str
    name: str
    outcome: CheckOutcome
    message: str
    remarks: Sequence[str] = ()


def junit(checks: Sequence[Check]) -> bytes:
    """JUnit XML: a suite a group; what failed is a failure, what is undecided an error."""
    root = ElementTree.Element("testsuites", _counts(checks))
    for group in dict.fromkeys(check.group for check in checks):
        of_group = [check for check in checks if check.group == group]
        suite = ElementTree.SubElement(
            root, "testsuite", {"name": terminal(group), **_counts(of_group)}
        )
        for check in of_group:
            names = {"classname": terminal(group), "name": terminal(check.name)}
            case = ElementTree.SubElement(suite, "testcase", names)
            text = terminal("\n".join([check.message, *check.remarks]))
            kind = {"failed": "failure", "undecided": "error"}.get(check.outcome)
            place = ElementTree.SubElement(case, kind or "system-out")
            if kind is not None:
                place.attrib |= {"type": check.outcome, "message": terminal(check.message)}
            place.text = text
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def step_summary(heading: str, checks: Sequence[Check]) -> str:
    """A table in Markdown, a row a check, and the remarks below."""
    lines = [f"### {markdown(heading)}", "", "| | check | figures |", "|---|---|---|"]
    for check in checks:
        name = f"{markdown(check.group)}: {markdown(check.name)}"
        mark = f"{_MARKS[check.outcome]} {check.outcome}"
        lines.append(f"| {mark} | {name} | {markdown(check.message)} |")
    remarks = dict.fromkeys(remark for check in checks for remark in check.remarks)
    return "\n".join([*lines, "", *(f"- {markdown(remark)}" for remark in remarks), ""])


def annotations(checks: Sequence[Check]) -> list[str]:
    """A workflow command of GitHub Actions for each check that is no pass."""
    return [
        f"::{_LEVELS[check.outcome]} title={_property(check.name)}::"
        f"{_data(' '.join([check.message, *check.remarks[:1]]))}"
        for check in checks
        if check.outcome in _LEVELS
    ]


def write_junit(path: Path, checks: Sequence[Check]) -> None:
    """Write JUnit XML.

    Raises:
        SteeringError: The file can't be written.
    """
    with write_errors_as_ours(path):
        write_whole(path, junit(checks))


def append_summary(path: Path, heading: str, checks: Sequence[Check]) -> None:
    """Add a summary to the end of a file: the steps of a job share one.

    Raises:
        SteeringError: The file can't be written.
    """
    with write_errors_as_ours(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{step_summary(heading, checks)}\n")


def _counts(checks: Sequence[Check]) -> dict[str, str]:
    outcomes = [check.outcome for check in checks]
    return {
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("failed")),
        "errors": str(outcomes.count("undecided")),
    }


def _data(text: str) -> str:
    """A text in a workflow command, as GitHub's own toolkit escapes it; nothing else acts."""
    return terminal(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
