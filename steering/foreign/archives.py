"""Zip archives of others, checked before anything in them is read.

What a part declares as its size and what it unpacks to may differ, and some readers unpack to the
end. Both are checked here, in pieces that never fill memory.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from steering.errors import SteeringError
from steering.foreign.limits import (
    LIMITS,
    MAX_PARTS,
    MIB,
    PART_BYTES,
    RATIO,
    RATIO_BYTES,
    size_text,
)
from steering.foreign.reading import check_file, reason_of

_DEFLATED, _ZSTANDARD = zipfile.ZIP_DEFLATED, 93
_LOCAL_HEADER = 30
# Of an entry in an archive's table of contents: its least size, and room for a name.
_ENTRY, _NAME = 46, 200


def check_log(path: "str | Path", *, samples: bool) -> None:
    """Refuse a log of Inspect that can't be read within the bounds.

    Args:
        path: A local .eval or .json file.
        samples: Whether the samples are about to be read, and not only the header.

    Raises:
        SteeringError: It is no regular file, too large, or unpacks to more than it may.
    """
    size = check_file(path, "log")
    with open(path, "rb") as file:
        # Inspect goes by the content as well.
        if Path(path).suffix == ".eval" or file.read(2) == b"PK":

            def is_read(name: str) -> bool:
                return samples or not name.startswith("samples/")

            check_zip(file, path, "log", is_read)
            return
        if size > PART_BYTES:
            raise SteeringError(
                f"{path} has {size_text(size)} of JSON, and at most {size_text(PART_BYTES)} are "
                "read: make it an .eval log with `inspect log convert`"
            )
        file.seek(0)
        _check_containers(iter(lambda: file.read(MIB), b""), path)


def check_zip(
    file: IO[bytes],
    where: object,
    kind: str,
    is_read: Callable[[str], bool] = lambda name: True,
) -> zipfile.ZipFile:
    """Open an archive whose parts are within the bounds of its kind.

    Args:
        file: The archive.
        where: What it is, for errors.
        kind: One of `LIMITS`.
        is_read: Whether the part of a name will be read. Only such parts are unpacked, to compare
            their size with the one that they declare.

    Raises:
        SteeringError: It is no archive, has too many parts, or a part is larger than it may be or
            than it declares.
    """
    limits = LIMITS[kind]
    most = min(limits.items, MAX_PARTS)
    try:
        # The module makes an object of every entry before it can be asked how many there are, so
        # its own reader of the last record is called first.
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if end is None:
            raise ValueError("its end is missing")
        size, start = end[5:7]
        if size > most * (_ENTRY + _NAME):
            raise SteeringError(f"{where} has more than {most} parts, the most that is read")
        archive = zipfile.ZipFile(file)
        # Readers differ in where they then look for the parts.
        if archive.start_dir != start:
            raise ValueError("other bytes stand before it")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise SteeringError(f"{where} is not a zip archive ({reason_of(error)})") from None
    parts = archive.infolist()
    if len(parts) > most:
        raise SteeringError(f"{where} has {len(parts)} parts; at most {most} are read")
    packed = sum(part.compress_size for part in parts)
    total = sum(part.file_size for part in parts)
    _check_ratio(str(where), packed, total, limits.unpacked)
    for part in parts:
        place = f"{where}: its part {part.filename!r}"
        _check_ratio(place, part.compress_size, part.file_size, PART_BYTES)
    for part in parts:
        if is_read(part.filename):
            _check_part(file, part, where, kind)
    return archive


def _check_ratio(place: str, packed: int, unpacked: int, most: int) -> None:
    if unpacked > most or (unpacked > RATIO_BYTES and unpacked > RATIO * packed):
        raise SteeringError(
            f"{place} unpacks from {size_text(packed)} to {size_text(unpacked)}; at most "
            f"{size_text(most)}, and {RATIO} times its packed size, are read"
        )


def _check_part(file: IO[bytes], part: zipfile.ZipInfo, where: object, kind: str) -> None:
    """Refuse a part that unpacks to another size than it declares."""
    place = f"{where}: its part {part.filename!r}"

    def sized() -> Iterator[bytes]:
        size = 0
        for piece in _unpacked(file, part):
            size += len(piece)
            if size > part.file_size:
                break
            yield piece
        if size != part.file_size:
            raise SteeringError(
                f"{place} declares {size_text(part.file_size)} and does not unpack to that: fetch "
                "the file again"
            )

    try:
        if kind == "log" and part.file_size > MIB:
            _check_containers(sized(), place)
        else:
            for _ in sized():
                pass
    except SteeringError:
        raise
    # Decompressors raise errors of their own libraries.
    except Exception as error:
        raise SteeringError(f"{place} can't be unpacked ({reason_of(error)})") from None


def _unpacked(file: IO[bytes], part: zipfile.ZipInfo) -> Iterator[bytes]:
    """What a part really unpacks to, in pieces of a megabyte at most."""
    file.seek(part.header_offset)
    header = file.read(_LOCAL_HEADER)
    name, extra = struct.unpack_from("<HH", header, 26)
    file.seek(part.header_offset + _LOCAL_HEADER + name + extra)
    packed = iter(_packed(file, part.compress_size))
    if part.compress_type == zipfile.ZIP_STORED:
        yield from packed
    elif part.compress_type == _DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        for data in packed:
            while data:
                yield inflater.decompress(data, MIB)
                data = inflater.unconsumed_tail
    elif part.compress_type == _ZSTANDARD:
        import zstandard  # Inspect's, which writes such logs

        source: Any = _Pieces(packed)
        reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(
            source, read_size=MIB // 16, read_across_frames=True
        )
        while piece := reader.read(MIB):
            yield piece
    else:
        raise ValueError(f"it is packed by the method {part.compress_type}, which is not read")


def _packed(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (data := file.read(min(size, MIB // 16))):
        size -= len(data)
        yield data


class _Pieces(io.RawIOBase):
    """A stream of pieces, for a decompressor that reads a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1) -> bytes:
        return next(self._pieces, b"")


def _check_containers(pieces: Iterator[bytes], where: object) -> None:
    """Refuse JSON with so many lists and tables that its values would fill memory."""
    most, count = LIMITS["log"].items, 0
    for piece in pieces:
        count += piece.count(b"[") + piece.count(b"{")
        if count > most:
            raise SteeringError(
                f"{where} has more than {most} lists and tables, which is the most that is read"
            )
