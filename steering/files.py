"""Files and folders: their digests, and atomic writes."""

import glob
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

# Endings of what stands beside a folder while it is replaced: `.NAME.PROCESS.RANDOM.ending`.
_NEW, _OLD = "new", "old"


def cache_folder() -> Path:
    """Where built vectors, unfinished runs and digests are kept; STEERING_CACHE moves it."""
    root = os.environ.get("STEERING_CACHE")
    return Path(root) if root else user_cache_path("steering", appauthor=False)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: a killed process leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a move is atomic only within one file system.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a folder atomically, in place of an existing one.

    A process that is killed between the two moves leaves no folder at `path`, and the old one
    beside it: `recover_folder` puts it back, here and where such folders are read.

    Args:
        path: The folder.
        fill: Writes the files into the folder that is its argument.

    Raises:
        OSError: The folder can't be written; the old one stands where it stood. If even that fails,
            the error names where the old and the new one are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    # Siblings, since a move is atomic only within one file system.
    mark = f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}."
    new, old = path.with_name(mark + _NEW), path.with_name(mark + _OLD)
    try:
        new.mkdir()
        fill(new)
        for file in new.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    except BaseException as error:
        if old.exists():
            try:
                os.rename(old, path)
            except OSError:
                raise OSError(
                    f"{path} can't be replaced ({error}), and the old folder can't be put back: "
                    f"it is {old}, and the new one is {new}"
                ) from error
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Put a folder back that a killed `write_folder` had moved aside; remove what it left over."""
    for other in _leftovers(path, _OLD):
        if not path.exists():
            with suppress(OSError):
                os.rename(other, path)
        else:
            shutil.rmtree(other, ignore_errors=True)
    for other in _leftovers(path, _NEW):
        shutil.rmtree(other, ignore_errors=True)


def _leftovers(path: Path, ending: str) -> Iterator[Path]:
    """What processes that no longer run have left beside a folder."""
    for other in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.*.{ending}")):
        process = other.name.removeprefix(f".{path.name}.").partition(".")[0]
        if process.isdigit() and not _runs(int(process)):
            yield other


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
