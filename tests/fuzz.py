"""Changed files for every reader until the time is over: `python tests/fuzz.py --minutes 10`.

Hypothesis keeps what fails in `.fuzz/`, tries it first the next time, and prints the smallest file
that still fails. Ends with 1 if anything failed.
"""

import argparse
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from foreign_files import READERS, Reader, changed_files
from hypothesis import HealthCheck, given, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from test_foreign import check, limited_memory

FOLDER = Path(__file__).resolve().parents[1] / ".fuzz"
ROUND = 300


def fuzz(reader: Reader, seconds: float, folder: Path) -> tuple[int, int, str]:
    """Number of files tried and taken, and the traceback of a failure, if any."""
    tried = taken = 0

    @settings(
        max_examples=ROUND,
        database=DirectoryBasedExampleDatabase(FOLDER / reader.name),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(changed_files(reader))
    def holds(content: bytes) -> None:
        nonlocal tried, taken
        tried += 1
        taken += check(reader, content, folder)

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            holds()
        except BaseException:
            return tried, taken, traceback.format_exc()
    return tried, taken, ""


def main() -> int:
    """Fuzz every reader for its share of the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="*", default=list(READERS), help="names of readers")
    options = parser.parse_args()
    failed = []
    with TemporaryDirectory() as folder, limited_memory():
        for name in options.only:
            seconds = 60 * options.minutes / len(options.only)
            tried, taken, failure = fuzz(READERS[name], seconds, Path(folder))
            sys.stdout.write(f"{name}: {tried} files, {taken} taken, {failure and 'FAILED'}\n")
            sys.stdout.flush()
            if failure:
                failed.append(name)
                sys.stdout.write(failure)
    sys.stdout.write(f"failed: {', '.join(failed) or 'none'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
