"""Archives and logs of others: what is refused before it is unpacked, and what is read."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import inspect_ai.log  # noqa: F401  teaches zipfile the compression of logs
import pytest

from steering.errors import SteeringError
from steering.foreign import LIMITS, MIB, check_log, check_zip
from steering.foreign.limits import MAX_PARTS, PART_BYTES

OLD_LOG = Path(__file__).parent / "old" / "em_freeform.eval"
ZSTANDARD = 93


def zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of these parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_declared_size(content: bytes, size: int, crc: int) -> bytes:
    """An archive whose table of contents says that its one part has another size."""
    entry = content.rfind(b"PK\1\2")
    changed = bytearray(content)
    struct.pack_into("<I", changed, entry + 16, crc)
    struct.pack_into("<I", changed, entry + 24, size)
    return bytes(changed)


def refusal(content: bytes, kind: str = "archive") -> str:
    with pytest.raises(SteeringError) as caught:
        check_zip(io.BytesIO(content), "x.zip", kind)
    assert str(caught.value).startswith("x.zip")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, ZSTANDARD])
def test_an_archive_within_the_bounds_is_opened(method: int) -> None:
    parts = {"a.jsonl": b"{}" * 1000, "empty": b"", "b": bytes(range(256)) * 9000}
    archive = check_zip(io.BytesIO(zipped(parts, method)), "x.zip", "archive")
    assert {name: archive.read(name) for name in archive.namelist()} == parts


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, ZSTANDARD])
def test_a_part_that_unpacks_to_hundreds_of_times_its_size_is_refused(method: int) -> None:
    assert "200 times" in refusal(zipped({"a": bytes(20 * MIB)}, method))


def test_an_archive_that_unpacks_to_more_than_the_bound_is_refused() -> None:
    parts = {name: bytes(14 * MIB) for name in "abcde"}
    assert "200 times" in refusal(zipped(parts))
    assert "64 MiB" in refusal(zipped(parts, zipfile.ZIP_STORED))
    assert str(MAX_PARTS // 20) in refusal(zipped(dict.fromkeys(map(str, range(10_001)), b"")))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, ZSTANDARD])
def test_a_part_that_declares_less_than_it_unpacks_to_is_refused(method: int) -> None:
    """Python's reader would cut it there, and Inspect's would fill memory."""
    content = zipped({"a": bytes(20 * MIB)}, method)
    lie = with_declared_size(content, 1000, zlib.crc32(bytes(1000)))
    with zipfile.ZipFile(io.BytesIO(lie)) as archive:
        assert archive.read("a") == bytes(1000)
    assert "does not unpack to that" in refusal(lie)
    assert "does not unpack to that" in refusal(with_declared_size(zipped({"a": b"ab"}), 3, 0))


@pytest.mark.parametrize("content", [b"", b"PK\5\6", b"nothing", b"PK\5\6" + bytes(18)])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    if content != b"PK\5\6" + bytes(18):
        assert "not a zip archive" in refusal(content)
    else:
        assert check_zip(io.BytesIO(content), "x.zip", "archive").namelist() == []


def test_any_flipped_byte_of_an_archive_gives_an_archive_or_one_line() -> None:
    content = zipped({"a.jsonl": b"some text " * 20, "b": b"x"})
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            check_zip(io.BytesIO(damaged), "x.zip", "archive")
        except SteeringError:
            refused += 1
    assert refused > 50


def test_the_logs_of_this_project_pass() -> None:
    check_log(OLD_LOG, samples=True)
    check_log(OLD_LOG, samples=False)


def test_a_log_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.eval"
    for parts, word in (
        ({"header.json": bytes(20 * MIB)}, "200 times"),
        ({"header.json": b"[]," * 2_000_001}, "lists and tables"),
    ):
        stored = zipfile.ZIP_STORED if word == "lists and tables" else zipfile.ZIP_DEFLATED
        path.write_bytes(zipped(parts, stored))
        with pytest.raises(SteeringError, match=word):
            check_log(path, samples=False)
    path.write_bytes(with_declared_size(zipped({"header.json": bytes(20 * MIB)}), 9, 0))
    with pytest.raises(SteeringError, match="does not unpack"):
        check_log(path, samples=False)
    path.write_bytes(with_declared_size(zipped({"samples/1.json": bytes(20 * MIB)}), 9, 0))
    check_log(path, samples=False)
    with pytest.raises(SteeringError, match="does not unpack"):
        check_log(path, samples=True)


def test_a_json_log_is_refused_by_its_size_and_by_its_many_lists(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_bytes(b"[" * (LIMITS["log"].items + 1))
    with pytest.raises(SteeringError, match="lists and tables"):
        check_log(path, samples=True)
    with path.open("wb") as file:
        file.truncate(PART_BYTES + 1)
    with pytest.raises(SteeringError, match="log convert"):
        check_log(path, samples=True)
