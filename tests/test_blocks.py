"""A condition asked in blocks: runs that are pooled on every surface, and replaced one by one."""

from pathlib import Path
from typing import Any

import pytest
from scripted_logs import BAD, GOOD, write_log

from steering.logs import LogError
from steering.reports.gate import BoundStatus, parse_bound, print_gate
from steering.results import condition_results, conditions_of, read_answers

TWENTY = {"a": [GOOD] * 10, "b": [GOOD] * 10}
SOME_BAD = {"a": [BAD] * 4 + [GOOD] * 6, "b": [GOOD] * 10}


def _block(folder: Path, number: Any, answers: dict[str, list[str]] = TWENTY) -> Path:
    """A block whose own seed was derived from the condition's, which is 7."""
    metadata = {"block": number, "seed": 7}
    config = {"seed": 7000 + int(number)}
    return write_log(folder, "base", answers, config=config, metadata=metadata)


def test_two_blocks_of_a_condition_are_one_row(tmp_path: Path) -> None:
    _block(tmp_path, 1, SOME_BAD)
    _block(tmp_path, 2)
    answers = read_answers(tmp_path, pytest.fail)
    [row] = conditions_of(answers).to_dict("records")
    # 4 of 20 and 0 of 20 answers.
    assert (row["n"], row["em_betley"], row["seed"]) == (40, 0.1, 7)
    assert sorted(answers["block"].unique()) == [1, 2]
    [result] = condition_results(answers)
    assert result.name == "base"
    assert result.em_rates["betley"].denominator == 40


def test_a_block_that_was_run_again_replaces_itself_alone(tmp_path: Path) -> None:
    _block(tmp_path, 1)
    _block(tmp_path, 2)
    _block(tmp_path, 2, SOME_BAD)
    notes: list[str] = []
    [row] = conditions_of(read_answers(tmp_path, notes.append)).to_dict("records")
    assert (row["n"], row["em_betley"]) == (40, 0.1)
    [note] = notes
    assert "was run again later" in note


def test_a_run_without_blocks_is_its_own_first_block(tmp_path: Path) -> None:
    write_log(tmp_path, "base", TWENTY, config={"seed": 3})
    answers = read_answers(tmp_path)
    assert (set(answers["block"]), set(answers["seed"])) == ({1}, {3.0})


def test_the_gate_bounds_the_blocks_together(tmp_path: Path) -> None:
    _block(tmp_path, 1, SOME_BAD)
    _block(tmp_path, 2)
    results = condition_results(read_answers(tmp_path))
    assert print_gate(results, [parse_bound("max", "em_rate=0.99")]) is BoundStatus.KEPT


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_a_block_that_is_no_count_is_refused(tmp_path: Path, number: float) -> None:
    _block(tmp_path, number)
    with pytest.raises(LogError, match="no whole number from 1 on"):
        read_answers(tmp_path)
