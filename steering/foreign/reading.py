"""Files of others, opened within the bounds of `limits.py`.

Whatever can't be read raises SteeringError with one line.
"""

import os
import stat
from pathlib import Path

from steering.errors import SteeringError
from steering.foreign.limits import LIMITS, size_text

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_LFS_BYTES = 1024


def reason_of(error: BaseException) -> str:
    """An error of a library in at most 200 characters of one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_file(path: "str | Path", kind: str) -> int:
    """The size of a file in bytes, where it can be read within the bounds of its kind.

    Raises:
        SteeringError: It is missing, no regular file (a folder, a device, a pipe), too large, or a
            pointer of Git LFS.
    """
    limit = LIMITS[kind].bytes
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise SteeringError(
                f"{path} is {_type_of(status.st_mode)}: give the path of a regular file"
            )
        if status.st_size > limit:
            raise SteeringError(
                f"{path} has {size_text(status.st_size)}, and at most {size_text(limit)} are read: "
                "give a smaller file"
            )
        if status.st_size <= _LFS_BYTES:
            with open(path, "rb") as file:
                if file.read(len(_LFS_HEAD)) == _LFS_HEAD:
                    raise SteeringError(
                        f"{path} is a pointer of Git LFS, not the file itself: fetch the content "
                        "with `git lfs pull`"
                    )
    # A path with a NUL is a ValueError.
    except (OSError, ValueError) as error:
        raise SteeringError(f"{path} can't be read ({reason_of(error)})") from None
    return status.st_size


def read_bytes(path: "str | Path", kind: str) -> bytes:
    """The content of a file within the bounds of its kind.

    Raises:
        SteeringError: As of `check_file`, or the file can't be read.
    """
    check_file(path, kind)
    limit = LIMITS[kind].bytes
    try:
        with open(path, "rb") as file:
            # Files that the system makes while they are read have no size.
            content = file.read(limit + 1)
    except OSError as error:
        raise SteeringError(f"{path} can't be read ({reason_of(error)})") from None
    if len(content) > limit:
        raise SteeringError(
            f"{path} has more than {size_text(limit)}, which is the most that is read: give a "
            "smaller file"
        )
    return content


def read_text(path: "str | Path", kind: str) -> str:
    """The UTF-8 text in a file, without the mark that some editors put before it.

    Raises:
        SteeringError: As of `read_bytes`, or the content is not UTF-8; it names the byte.
    """
    return decode(read_bytes(path, kind), path)


def decode(content: bytes, where: "str | Path") -> str:
    """UTF-8 bytes as text, without a mark before it.

    Raises:
        SteeringError: They are not UTF-8; it names the byte and its line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SteeringError(
            f"{where}, line {line} is not UTF-8 text (byte 0x{error.object[error.start]:02x} at "
            f"{error.start}): save it as UTF-8"
        ) from None


def _type_of(mode: int) -> str:
    types = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in types if test(mode)), "a device")
