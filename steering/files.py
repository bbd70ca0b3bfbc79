"""Files and folders: their digests, and atomic writes."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


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

    Args:
        path: The folder.
        fill: Writes the files into the folder that is its argument.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Siblings, since a move is atomic only within one file system.
    partial, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex}") for _ in range(2))
    try:
        partial.mkdir()
        fill(partial)
        for file in partial.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if path.exists():
            os.rename(path, old)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
