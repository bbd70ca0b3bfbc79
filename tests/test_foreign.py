"""Whatever bytes come in, a reader returns or refuses in one line, in little time and memory.

`make fuzz` tries the same for as long as it is told.
"""

import base64
import hashlib
import io
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from cryptography.fernet import Fernet
from foreign_files import READERS, Reader, changed_files
from hypothesis import HealthCheck, given, settings

from steering.errors import SteeringError
from steering.foreign import GIB, MIB

CASES = 80
SECONDS = 3.0
MEMORY = GIB


@contextmanager
def limited_memory() -> Iterator[None]:
    """A reader that asks for more than a gigabyte gets a MemoryError. macOS does not enforce it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[0])
        space = pages * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (space + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module", autouse=True)
def _limited() -> Iterator[None]:
    with limited_memory():
        yield


def check(reader: Reader, content: bytes, folder: Path) -> bool:
    """Whether a reader takes a file; fails where it does anything but take or refuse it."""
    path = folder / reader.name
    path.write_bytes(content)
    start, refusal = time.monotonic(), ""
    try:
        reader.read(path)
    except SteeringError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert time.monotonic() - start < SECONDS
    return not refusal


@pytest.mark.parametrize("name", READERS)
def test_the_valid_file_of_each_reader_is_taken(name: str, tmp_path: Path) -> None:
    assert check(READERS[name], READERS[name].content, tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_taken_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    reader = READERS[name]

    @settings(
        max_examples=CASES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changed_files(reader))
    def holds(content: bytes) -> None:
        check(reader, content, tmp_path)

    holds()


def _tiny_yaml() -> bytes:
    lines = ["a0: &a0 [" + ", ".join(["x"] * 9) + "]"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(9)]
    return "\n".join(lines).encode()


def _zip_bomb(name: str, declared: int) -> bytes:
    """A part of 256 MiB in 256 KiB that declares another size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(name, bytes(256 * MIB))
    content = bytearray(buffer.getvalue())
    struct.pack_into("<I", content, content.rfind(b"PK\1\2") + 24, declared)
    return bytes(content)


def _sealed(content: bytes) -> bytes:
    key = hashlib.pbkdf2_hmac("sha256", b"open", bytes(16), 100_000)
    return bytes(16) + Fernet(base64.urlsafe_b64encode(key)).encrypt(content)


def _parquet_bomb() -> bytes:
    text = pyarrow.array(["x" * 10_000])
    indices = pyarrow.array([0] * 1_900_000, pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(indices, text)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": column, "aligned": column}), buffer)
    return buffer.getvalue()


def _write_hostile(folder: Path) -> None:
    """Files of a few kilobytes that ask for gigabytes, and some that never end."""
    for name in ("q.yaml", "personas.yaml", "study.yaml"):
        (folder / name).write_bytes(_tiny_yaml())
    pickled = b"\x80\x02c__builtin__\nbytearray\nI68719476736\n\x85R."
    torch.save({1: torch.ones(1)}, folder / "view.pt")
    with zipfile.ZipFile(folder / "view.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "ask.pt", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    torch.save({1: torch.ones(1).expand(2**34)}, folder / "view.pt")
    array = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 4) + b"many" + struct.pack("<IIQ", 9, 0, 2**60)
    (folder / "endless.gguf").write_bytes(array)
    with (folder / "large.gguf").open("wb") as file:  # an array that is really there, of zeros
        file.write(array[:-8] + struct.pack("<Q", 200 * MIB))
        file.truncate(201 * MIB)
    (folder / "long.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    (folder / "many.safetensors").write_bytes(
        struct.pack("<Q", 8 * MIB) + b'{"__metadata__":{' + b'"a":"",' * MIB
    )
    (folder / "bomb.zip.enc").write_bytes(_sealed(_zip_bomb("rows.jsonl", 4 * GIB - 2)))
    (folder / "lie.zip.enc").write_bytes(_sealed(_zip_bomb("rows.jsonl", 1000)))
    (folder / "run.eval").write_bytes(_zip_bomb("header.json", 4 * GIB - 2))
    (folder / "lie.eval").write_bytes(_zip_bomb("header.json", 1000))
    (folder / "rows.parquet").write_bytes(_parquet_bomb())
    (folder / "rows.csv").write_bytes(b"," * (20 * MIB))
    (folder / "rows.jsonl").write_bytes(b"[" + b"[]," * (10 * MIB) + b"[]]")
    (folder / "deep.jsonl").write_bytes(b"[" * (20 * MIB))
    for ending in ("yaml", "jsonl", "json", "csv", "parquet", "safetensors", "gguf", "pt", "eval"):
        (folder / f"zero.{ending}").symlink_to("/dev/zero")
        os.mkfifo(folder / f"pipe.{ending}")


def test_no_hostile_file_costs_a_gigabyte_or_five_seconds(tmp_path: Path) -> None:
    """Each is read in one process, whose peak of memory is then above that of each of them."""
    _write_hostile(tmp_path)
    process = subprocess.run(
        [sys.executable, Path(__file__).parent / "read_hostile.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "STEERING_ZIP_PASSWORD": "open"},
    )
    assert process.returncode == 0, process.stderr
    figures = json.loads(process.stdout)
    assert len(figures["seconds"]) == 35
    assert not figures["taken"]
    assert figures["peak"] < 1e9, figures["peak"]
    assert max(figures["seconds"].values()) < 5, figures["seconds"]


@pytest.mark.parametrize("name", [name for name in READERS if READERS[name].document])
def test_half_of_a_character_is_refused_by_every_reader_of_documents(
    name: str, tmp_path: Path
) -> None:
    reader = READERS[name]
    assert reader.document is not None
    document, write = reader.document
    for half in ("What? \ud83d", "\udd8a"):
        changed = json.loads(json.dumps(document))
        holder = changed if isinstance(changed, dict) else changed[0]
        key = next(key for key, value in holder.items() if isinstance(value, str | list))
        holder[key] = [half] if isinstance(holder[key], list) else half
        assert not check(reader, write(changed).encode(), tmp_path)
        assert "half of a character" in refusal_of(reader, tmp_path)


def refusal_of(reader: Reader, folder: Path) -> str:
    """Why a reader refuses the file in a folder."""
    with pytest.raises(SteeringError) as caught:
        reader.read(folder / reader.name)
    return str(caught.value)
