"""The injected-fault suite itself: what it counts, and that it can fail."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from click import ClickException
from click.testing import CliRunner

from benchmarks.faults import __main__ as suite
from benchmarks.faults import mutations, specimens, trials, writers
from benchmarks.faults.trials import Finding
from benchmarks.faults.workers import Tally
from steering.cli import commands
from steering.errors import SteeringError
from steering.results.schema import ANSWER_SCHEMA, CHOICE_SCHEMA, empty_frame
from steering.training.cache import locked


def _tally(*verdicts: str, count: int = 300) -> dict[str, Tally]:
    findings = [Finding("files", seed, verdict, "x") for seed, verdict in enumerate(verdicts)]
    return {"files": Tally(count, 1.0, findings)}


@pytest.mark.parametrize("verdict", trials.FATAL)
def test_one_fatal_verdict_fails_the_suite(verdict: str) -> None:
    assert suite.passes(_tally())
    assert not suite.passes(_tally(verdict))


def test_one_traceback_in_a_hundred_passes_and_more_fail() -> None:
    assert suite.passes(_tally(*["traceback"] * 3))
    assert not suite.passes(_tally(*["traceback"] * 4))


def test_the_last_line_has_all_counts_and_a_failure_has_its_command() -> None:
    text = suite.lines(_tally("wrong", "traceback"), 2.0)
    assert text[-1] == (
        "trials 300: wrong 1, lost 0, hung 0, executed 0, half-written 0, tracebacks 1 (0.3%)"
    )
    assert "    python -m benchmarks.faults --only files --trials 1 --seed 0" in "\n".join(text)


def test_only_one_line_of_our_own_errors_is_a_refusal() -> None:
    assert trials.refusal(SteeringError("layer 9 is out of range")) is None
    for error in (ClickException("two\nlines"), ValueError("theirs"), OSError(28, "full")):
        assert trials.refusal(error) is not None


def test_code_in_each_form_of_a_file_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    monkeypatch.setenv(trials.MARKER, str(marker))
    draw = trials.draw_of("test", 0)
    for _ in range(5):
        content = mutations.code(b"", "zip", draw)
        assert isinstance(content, bytes)
        (tmp_path / "file.pt").write_bytes(content)
        with suppress(Exception):  # a bare pickle runs, and is then no file of torch's
            torch.load(tmp_path / "file.pt", weights_only=False)
        assert [verdict for verdict, _ in trials.executed()] == ["executed"]
    content = mutations.code(b"", "yaml", draw)
    assert isinstance(content, bytes)
    yaml.unsafe_load(content)
    assert trials.executed()
    assert not trials.executed()


def test_a_writer_that_is_not_atomic_is_caught(tmp_path: Path) -> None:
    def careless(path: Path, version: int) -> None:
        with path.open("wb") as file:
            file.write(writers._bytes(version))

    path = tmp_path / "file"
    careless(path, 1)
    kept = writers.WRITERS["write_whole"].version
    with pytest.raises(OSError), writers.small_disk(100):  # noqa: PT011
        careless(path, 2)
    with pytest.raises(ValueError, match="no version"):
        kept(path)


def test_memory_and_processor_time_are_measured() -> None:
    problems: list[trials.Problem] = []
    with trials.measured(problems, cpu_s=0.01, memory=50_000_000):
        block = bytearray(100_000_000)
        os.urandom(20_000_000)
        del block
    assert [verdict for verdict, _ in problems] == ["hung", "hung"]


def test_half_of_a_character_and_nan_are_impossible() -> None:
    assert not specimens.impossible({"a": [1, 2.5, "é", None]})
    for value in ("\ud800", float("nan"), [float("inf")], {"\udfff": 1}):
        assert specimens.impossible(value)


def test_a_disk_that_fills_up_while_a_vector_is_built_is_told_in_one_line(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")
    with pytest.raises(SteeringError, match=r"No space.*STEERING_CACHE"), locked(tmp_path / "run"):
        raise full


def test_verdicts_that_cannot_be_written_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = empty_frame(ANSWER_SCHEMA), empty_frame(CHOICE_SCHEMA)
    monkeypatch.setattr("steering.results.read_results", lambda *_: empty)
    monkeypatch.setattr("steering.studies.arm_claims.judge_all", lambda *_: [])
    monkeypatch.setattr("steering.studies.printing.print_verdicts", lambda *_: None)
    result = CliRunner().invoke(commands, ["claims", "x", "--json", str(tmp_path)])
    assert isinstance(result.exception, SteeringError)
    assert "can't be written" in str(result.exception)
