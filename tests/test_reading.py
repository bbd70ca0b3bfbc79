"""The reading room for foreign bytes: what is refused, and what is still read."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steering.cli._options import read_list, read_options
from steering.errors import SteeringError
from steering.foreign import (
    LIMITS,
    MIB,
    check_file,
    in_child,
    json_lines,
    parse_json,
    parse_yaml,
    read_bytes,
    read_text,
)
from tests import slow_readers

ALIAS_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9)
)


def refusal(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The message of the error, of which there is one line."""

    def call() -> None:
        result = function(*arguments, **options)
        if isinstance(result, Iterator):
            list(result)

    with pytest.raises(SteeringError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_regular_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, word in (
        ("/dev/zero", "device"),
        (tmp_path / "pipe", "pipe"),
        (tmp_path, "folder"),
        (tmp_path / "missing", "No such file"),
        ("nul\0byte", "null"),
    ):
        assert word in refusal(check_file, path, "config")
        assert word in refusal(read_bytes, path, "config")
    (tmp_path / "link").symlink_to("/dev/zero")
    assert "device" in refusal(read_bytes, tmp_path / "link", "config")


def test_a_file_above_the_bound_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(LIMITS["config"].bytes + 1)
    assert "16 MiB" in refusal(read_bytes, path, "config")
    with path.open("wb") as file:
        file.truncate(LIMITS["config"].bytes)
    assert len(read_bytes(path, "config")) == check_file(path, "config") == 16 * MIB


def test_a_pointer_of_git_lfs_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "git lfs pull" in refusal(check_file, path, "weights")


def test_a_text_that_is_not_utf8_is_refused_with_the_byte_and_its_line(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"one\ntw\xff\n")
    assert all(word in refusal(read_text, path, "table") for word in ("line 2", "0xff", "UTF-8"))
    path.write_bytes(b"\xef\xbb\xbfone")
    assert read_text(path, "table") == "one"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * 100_000, "deep"),
        ("[" * 65 + "]" * 65, "64 levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "64 levels"),
        ("1" * 5000, "digits"),
        ("-" + "1" * 400, "digits"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"\\udc00": 1}', "surrogate"),
        ("[" + "0," * 500_000 + "0]", "500000 values"),
        ("[" + "[]," * 500_000 + "[]]", "500000 values"),
        ("{", "line 1|column"),
        ("", "not JSON"),
        ("\ufeff1", "not JSON"),
    ],
)
def test_json_beyond_the_bounds_is_refused(text: str, word: str) -> None:
    message = refusal(parse_json, text, "x.json", "config")
    assert message.startswith("x.json")
    assert any(part in message for part in word.split("|"))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 64 + "]" * 64,
        '"' + "[{," * 200_000 + '"',
        '"' + '\\"[,' * 200_000 + '"',
        "1" * 400,
        '"\\ud83e\\udd8a \\u0000 \u2028"',
        "[" + "0," * 499_998 + "0]",
        "[NaN, 1e999]",
    ],
)
def test_json_within_the_bounds_is_what_python_says_it_is(text: str) -> None:
    assert str(parse_json(text, "x.json", "config")) == str(json.loads(text))


def test_lines_of_json_end_at_a_line_feed_alone_and_are_counted_from_the_first() -> None:
    text = '{"a": "x\u2028y\u0085z"}\r\n\n  \n{"b": 1}'
    assert list(json_lines(text, "x.jsonl", "table")) == [
        ("x.jsonl, line 1", {"a": "x\u2028y\u0085z"}),
        ("x.jsonl, line 4", {"b": 1}),
    ]
    assert "x.jsonl, line 2 " in refusal(json_lines, '1\n"\\ud800"', "x.jsonl", "table")
    assert "x.jsonl, line 2 " in refusal(json_lines, "1\n{", "x.jsonl", "table")
    assert "values" in refusal(json_lines, "[]\n" * 250_001, "x.jsonl", "questions")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (ALIAS_BOMB, "250000 values"),
        ("a: &a [1]\nb: &b {<<: [" + ", ".join(["{x: *a}"] * 9) + "]}\nc: *nothing", "*nothing"),
        ("a: &a [*a]", "contains itself"),
        (f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 200)}]", "16 MiB"),
        ("[" * 33 + "]" * 33, "32 levels"),
        ("[" * 200_000, "32 levels"),
        ("- " * 33 + "x", "32 levels"),
        ("a: &a " + "[" * 20 + "]" * 20 + "\nb: " + "[" * 20 + "*a" + "]" * 20, "32 levels"),
        ("a: " + "1" * 5000, "digits"),
        ("a: 0x" + "f" * 5000, "digits"),
        ("a: " + "1:" * 5000 + "1", "digits"),
        ("a: !!int " + "1" * 401, "digits"),
        ("a: '\ud800'", "surrogate"),
        ('a: "\\ud800"', "surrogate"),
        ("a: 2020-13-45", "month"),
        ("a: !!python/object/apply:os.system [exit]", "constructor"),
        ("a: !!int ''", "not YAML"),
        ("a: !!bool x", "not YAML"),
        ("a: [", "line 1|line 2"),
        ("? [a]\n: b", "hashable"),
        ("\0", "not YAML"),
        ("1\n---\n2", "not YAML"),
    ],
)
def test_yaml_beyond_the_bounds_is_refused(text: str, word: str) -> None:
    start = time.monotonic()
    message = refusal(parse_yaml, text, "x.yaml", "questions")
    assert message.startswith("x.yaml")
    assert any(part in message for part in word.split("|")), message
    assert time.monotonic() - start < 5


def test_yaml_with_aliases_merges_and_long_texts_is_read() -> None:
    text = (
        "base: &b {one: 1, texts: [x, y]}\nsame: *b\nmore: {<<: *b, two: 1e3}\nlong: " + "1 x" * 500
    )
    assert parse_yaml(text, "x.yaml", "questions") == {
        "base": {"one": 1, "texts": ["x", "y"]},
        "same": {"one": 1, "texts": ["x", "y"]},
        "more": {"one": 1, "texts": ["x", "y"], "two": "1e3"},
        "long": "1 x" * 500,
    }
    assert parse_yaml("a: 'one 🦊'", "x", "option") == {"a": "one 🦊"}
    assert parse_yaml("[" * 32 + "]" * 32, "x", "questions") is not None


def test_a_reader_in_a_child_returns_its_value_and_its_errors_from_any_thread() -> None:
    results: list[Any] = []

    def work() -> None:
        results.append(in_child(slow_readers.add, 2, 3, memory=256 * MIB, seconds=5, where="x"))
        results.append(refusal(in_child, slow_readers.refuse, memory=MIB, seconds=5, where="x"))
        results.append(refusal(in_child, slow_readers.fail, memory=MIB, seconds=5, where="x"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0] == 5
    assert results[1] == "v.pt is refused"
    assert results[2] == "x can't be read (ZeroDivisionError: division by zero)"


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (slow_readers.ask_for_memory, "64 MiB"),
        (slow_readers.spin, "1 seconds"),
        (slow_readers.sleep, "1 seconds"),
        (slow_readers.crash, "SIGSEGV"),
        (slow_readers.leave, "status 3"),
    ],
)
def test_a_reader_that_breaks_a_bound_is_ended(function: Callable[[], object], word: str) -> None:
    start = time.monotonic()
    message = refusal(in_child, function, memory=64 * MIB, seconds=1, where="x.pt")
    assert message.startswith("x.pt")
    assert word in message
    assert time.monotonic() - start < 10


def test_a_reader_ends_with_its_own_children(tmp_path: Path) -> None:
    function, path = slow_readers.sleep_in_child, tmp_path / "pid"
    refusal(in_child, function, path, memory=64 * MIB, seconds=2, where="x")
    pid = int(path.read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} still runs")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[" * 5000, "16 levels"),
        ("1" * 5000, "digits"),
        ("a: b: c", "not YAML"),
        ("2020-13-45", "month"),
        ("&a [*a]", "contains itself"),
        ("!!python/name:os.system x", "constructor"),
    ],
)
def test_an_option_that_can_t_be_read_is_refused_with_its_name(text: str, part: str) -> None:
    message = refusal(read_options, "-S", [f"rank={text}"])
    assert message.startswith("-S rank")
    assert part in message
    assert part in refusal(read_list, text)
