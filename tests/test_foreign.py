"""Whatever bytes come in, a reader returns or refuses in one line, in little time and memory.

`make fuzz` tries the same for as long as it is told.
"""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign_files import READERS, Reader, changed_files
from hypothesis import HealthCheck, given, settings

from steering.errors import SteeringError
from steering.foreign import GIB

CASES = 40
SECONDS = 3.0
MEMORY = GIB


@pytest.fixture(scope="module", autouse=True)
def _limited_memory() -> Iterator[None]:
    """A reader that asks for more than a gigabyte gets a MemoryError. macOS does not enforce it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[0])
        space = pages * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (space + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


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
