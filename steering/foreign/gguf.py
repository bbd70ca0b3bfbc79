"""The header of a GGUF file: its metadata and where its tensors lie.

The gguf package makes several objects of every element of an array, and reads as many as the file
declares. Here every count and length is held against the bounds, and against what is left of the
file, before anything is read. The layout is that of GGML's docs/gguf.md, versions 2 and 3.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from steering.errors import SteeringError
from steering.foreign.limits import LIMITS, MIB, ReadingLimits, size_text

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Codes of struct by the number of a type.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"} | {
    10: "Q",
    11: "q",
    12: "d",
}
_MAX_DIMENSIONS = 4
_ALIGNMENT, _ALIGNMENT_KEY = 32, "general.alignment"
_MAX_NAME, _MAX_STRING = 4096, 4 * MIB


@dataclass(frozen=True)
class GGUFTensor:
    """Where a tensor lies.

    Attributes:
        name: Its name.
        shape: Its dimensions as the file orders them, the innermost first.
        type: Number of its type in GGML; 0 is float32.
        offset: Byte of the file at which it begins.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def num_values(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GGUFHeader:
    """The beginning of a file.

    Attributes:
        order: `<` or `>`, as of struct: the order of bytes in numbers.
        metadata: Values by key.
        tensors: In the order of the file.
    """

    order: str
    metadata: dict[str, Any]
    tensors: tuple[GGUFTensor, ...]


def read_gguf_header(file: IO[bytes], size: int, where: object, kind: str) -> GGUFHeader:
    """Read the header of a GGUF file of `size` bytes; no tensor is read.

    Raises:
        SteeringError: It is no GGUF file, is damaged, or has more values than its kind may have.
    """
    try:
        return _Header(file, size, LIMITS[kind]).read()
    except (ValueError, struct.error, OSError) as error:
        raise SteeringError(f"{where} can't be read as a GGUF file ({error})") from None


class _Header:
    """One pass over a header."""

    def __init__(self, file: IO[bytes], size: int, limits: ReadingLimits) -> None:
        self._file, self._size = file, size
        self._most, self._most_bytes = limits.items, limits.unpacked
        self._place = self._count = 0
        self._order = "<"

    def read(self) -> GGUFHeader:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._take(4)
        if version[:2] == b"\0\0":
            self._order = ">"
        if self._unpack("I", version) not in _VERSIONS:
            raise ValueError(f"its version is {self._unpack('I', version)}; 2 and 3 are read")
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        metadata = dict(self._each(num_keys, self._entry))
        alignment = metadata.get(_ALIGNMENT_KEY, _ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= MIB or alignment & (alignment - 1):
            raise ValueError(f"its alignment is {alignment!r}; a power of two is needed")
        tensors = self._each(num_tensors, self._tensor)
        start = -(-self._place // alignment) * alignment
        for number, tensor in enumerate(tensors):
            offset = start + tensor.offset
            if tensor.offset % alignment or offset > self._size:
                raise ValueError(f"{tensor.name!r} begins at byte {offset} of {self._size}")
            tensors[number] = GGUFTensor(tensor.name, tensor.shape, tensor.type, offset)
        for what, names in (("keys", metadata), ("tensors", {each.name for each in tensors})):
            if len(names) < (num_keys if what == "keys" else num_tensors):
                raise ValueError(f"two of its {what} have one name")
        return GGUFHeader(self._order, metadata, tuple(tensors))

    def _each(self, count: int, item: Callable[[], Any]) -> list[Any]:
        self._admit(count)
        return [item() for _ in range(count)]

    def _admit(self, count: int) -> None:
        self._count += count
        if self._count > self._most:
            raise ValueError(f"it has more than {self._most} values, the most that is read")

    def _entry(self) -> tuple[str, Any]:
        return self._text(_MAX_NAME), self._value(self._number("I"), 0)

    def _value(self, type_: int, depth: int) -> Any:
        if type_ == _STRING:
            return self._text(_MAX_STRING)
        if type_ != _ARRAY:
            return self._number(self._code(type_))
        if depth:
            raise ValueError("an array of its metadata contains arrays")
        inner, count = self._number("I"), self._number("Q")
        self._admit(count)
        if inner in (_STRING, _ARRAY):
            return [self._value(inner, 1) for _ in range(count)]
        code = self._code(inner)
        data = self._take(count * struct.calcsize(self._order + code))
        return list(struct.unpack(f"{self._order}{count}{code}", data))

    def _tensor(self) -> GGUFTensor:
        name, dimensions = self._text(_MAX_NAME), self._number("I")
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"{name!r} has {dimensions} dimensions; at most {_MAX_DIMENSIONS}")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        return GGUFTensor(name, shape, self._number("I"), self._number("Q"))

    def _code(self, type_: int) -> str:
        if type_ not in _NUMBERS:
            raise ValueError(f"a value has the unknown type {type_}")
        return _NUMBERS[type_]

    def _text(self, most: int) -> str:
        length = self._number("Q")
        if length > most:
            raise ValueError(f"a text has {length} bytes; at most {most} are read")
        return self._take(length).decode("utf-8")

    def _number(self, code: str) -> Any:
        return self._unpack(code, self._take(struct.calcsize(self._order + code)))

    def _unpack(self, code: str, data: bytes) -> Any:
        return struct.unpack(self._order + code, data)[0]

    def _take(self, length: int) -> bytes:
        if self._place + length > self._size:
            end = self._place + length
            raise ValueError(f"it ends at byte {self._size}, before its byte {end}")
        if self._place + length > self._most_bytes:
            raise ValueError(f"its header has more than {size_text(self._most_bytes)}")
        data = self._file.read(length)
        self._place += length
        if len(data) != length:
            raise ValueError(f"it ends before its byte {self._place}")
        return data
