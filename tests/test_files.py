"""Folders are replaced whole or not at all, whatever fails and whoever is killed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steering.condition import resolve_condition, resolve_model
from steering.errors import SteeringError, machine_errors_as_ours
from steering.files import recover_folder, write_folder
from steering.spec import parse_options

WRITER = Path(__file__).parent / "writer_killed.py"


def fill(text: str) -> Any:
    """Writes a folder of one file."""
    return lambda folder: (folder / "file").write_text(text)


def failing_moves(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Let the moves with these numbers fail."""
    rename, count = os.rename, iter(range(100))

    def move(source: Path, destination: Path) -> None:
        if next(count) in numbers:
            raise OSError(28, "No space left on device")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", move)


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_folder(tmp_path / "a", fill(text))
        assert (tmp_path / "a" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("move", [0, 1])
def test_when_a_move_fails_the_old_folder_stands_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: int
) -> None:
    write_folder(tmp_path / "a", fill("old"))
    failing_moves(monkeypatch, move)
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "a", fill("new"))
    assert (tmp_path / "a" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_when_nothing_can_be_moved_back_both_folders_are_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "a", fill("old"))
    failing_moves(monkeypatch, 1, 2)
    with pytest.raises(OSError, match="can't be put back") as error:
        write_folder(tmp_path / "a", fill("new"))
    contents = {(path / "file").read_text(): str(path) for path in tmp_path.iterdir()}
    assert set(contents) == {"old", "new"}
    assert all(path in str(error.value) for path in contents.values())


def test_when_the_files_can_t_be_written_nothing_is_left(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "a", broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("move", [0, 1, 2])
def test_a_writer_that_is_killed_loses_nothing_and_the_next_reader_finds_a_whole_folder(
    tmp_path: Path, move: int
) -> None:
    path = tmp_path / "a[1]"  # a name that a pattern would mean something else by
    write_folder(path, fill("old"))
    process = subprocess.run([sys.executable, WRITER, path, str(move)], check=False)
    assert process.returncode == (-9 if move < 2 else 0)
    recover_folder(path)
    assert (path / "file").read_text() == ("new" if move == 2 else "old")
    assert [each.name for each in tmp_path.iterdir()] == ["a[1]"]


def test_the_next_writer_recovers_too_and_removes_what_the_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_folder(path, fill("old"))
    for move in (0, 1):
        subprocess.run([sys.executable, WRITER, path, str(move)], check=False)
    with pytest.raises(ZeroDivisionError):
        write_folder(path, lambda folder: 1 / 0)
    assert (path / "file").read_text() == "old"
    write_folder(path, fill("newer"))
    assert (path / "file").read_text() == "newer"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_what_a_running_writer_has_moved_aside_is_left_alone(tmp_path: Path) -> None:
    aside = tmp_path / f".a.{os.getpid()}.12345678.old"
    aside.mkdir()
    recover_folder(tmp_path / "a")
    assert [each.name for each in tmp_path.iterdir()] == [aside.name]


@pytest.mark.parametrize("place", ["a file", "a file/below"])
def test_a_cache_that_can_t_be_written_is_refused_before_a_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / place))
    spec = parse_options({})
    with pytest.raises(SteeringError, match="set STEERING_CACHE") as error:
        resolve_condition(resolve_model("toy-llama", spec), spec)
    assert str(tmp_path / "a file") in str(error.value)


def test_what_the_machine_refuses_is_one_line_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(SteeringError, match=r"file/x.*\(Not a directory\).*rights")
    with refused, machine_errors_as_ours():
        (tmp_path / "file" / "x").write_text("x")
    with pytest.raises(FileNotFoundError), machine_errors_as_ours():
        (tmp_path / "missing").read_text()


def test_a_message_is_one_line_whatever_it_quotes() -> None:
    text = str(SteeringError("a\nb\x1b[2J\u202e\ud800" + "x" * 10_000 + " remedy"))
    assert text.startswith(r"a b\x1b[2J\u202e\ud800xxx")
    assert text.endswith(" remedy")
    assert len(text) < 5000
