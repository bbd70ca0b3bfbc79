"""Tables of others as rows of named fields: .jsonl, .json, .csv, .tsv and .parquet files.

One reader for whatever has rows: questions, target tasks, choices. It knows no names of columns.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from steering.errors import SteeringError
from steering.foreign.child import in_child
from steering.foreign.documents import json_lines, parse_json
from steering.foreign.limits import LIMITS, MIB, size_text
from steering.foreign.reading import decode, read_bytes, reason_of

# What the library for parquet needs beside the rows.
_PARQUET_BYTES = 512 * MIB
_CANARY = "canary"


class TableRow(NamedTuple):
    """A row where it stands in its source, with its fields by column; `place` is for errors."""

    place: str
    number: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The rows of a source with its own names of columns, without canary rows.

    Attributes:
        where: The source, for errors.
        columns: Names of the columns.
        rows: In the source's order. They are numbered from 1 as the source does: lines of JSONL.
        notes: What was not read, with counts.
    """

    where: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()

    def num_filled(self, column: str) -> int:
        """The number of rows in which a column holds anything."""
        return sum(not is_empty(row.fields.get(column)) for row in self.rows)


def is_empty(value: object) -> bool:
    """Whether a cell holds nothing."""
    return value is None or value in ("", [], {}) or value != value


def read_table(path: "str | Path", kind: str, where: str | None = None) -> Table:
    """The rows of a file.

    Args:
        path: Its ending is one of `TABLE_ENDINGS`.
        kind: One of `LIMITS`.
        where: What it is, for errors; the path when not given.

    Raises:
        SteeringError: It can't be read, or its content does not fit the ending.
    """
    return parse_table(read_bytes(path, kind), Path(path).suffix, where or str(path), kind)


def parse_table(content: bytes, ending: str, where: str, kind: str) -> Table:
    """The rows in the bytes of a file with an ending; see `read_table`."""
    return _READERS[ending.lower()](content, where, kind)


def table_of(
    where: str, columns: Iterable[str], rows: Iterable[dict[str, Any]], unit: str = "row"
) -> Table:
    """A table of rows without their empty cells: such a source has every column in every row."""
    filled = (
        TableRow(
            f"{where}, {unit} {number}", number, {k: v for k, v in row.items() if not is_empty(v)}
        )
        for number, row in enumerate(rows, start=1)
    )
    return _table(where, columns, filled)


def _table(
    where: str, columns: Iterable[str], rows: Iterable[TableRow], notes: Iterable[str] = ()
) -> Table:
    rows = tuple(row for row in rows if row.fields.keys() != {_CANARY})
    return Table(where, tuple(columns), rows, tuple(notes))


def _jsonl(content: bytes, where: str, kind: str) -> Table:
    repeated: Counter[str] = Counter()
    lines = json_lines(decode(content, where), where, kind, repeated)
    rows = [
        TableRow(place, int(place.rpartition(" ")[2]), _object(place, row)) for place, row in lines
    ]
    return _of_objects(where, rows, repeated)


def _json(content: bytes, where: str, kind: str) -> Table:
    repeated: Counter[str] = Counter()
    values = parse_json(decode(content, where), where, kind, repeated)
    if not isinstance(values, list):
        raise SteeringError(f"{where} is a JSON {_json_type(values)}: make it a list of objects")
    places = ((f"{where}, row {number}", number) for number in range(1, len(values) + 1))
    rows = [
        TableRow(place, number, _object(place, value))
        for (place, number), value in zip(places, values, strict=True)
    ]
    return _of_objects(where, rows, repeated)


def _of_objects(where: str, rows: list[TableRow], repeated: Counter[str]) -> Table:
    names = dict.fromkeys(
        key for row in rows if row.fields.keys() != {_CANARY} for key in row.fields
    )
    keys = ", ".join(f"{key} ({count} times)" for key, count in repeated.items())
    notes = [f"keys that an object has twice, of which the last is read: {keys}"] if keys else []
    return _table(where, names, rows, notes)


def _object(place: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SteeringError(f"{place} is a JSON {_json_type(value)}, not a JSON object")
    return value


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _separated(content: bytes, where: str, kind: str, separator: str) -> Table:
    text = io.StringIO(decode(content, where), newline="")
    lines, count = [], 0
    try:
        with _long_cells(LIMITS[kind].bytes):
            for cells in csv.reader(text, delimiter=separator, strict=True):
                count += len(cells)
                _check_count(count, where, kind)
                if cells:
                    lines.append(cells)
    except csv.Error as error:
        raise SteeringError(f"{where} is not a table of separated values ({error})") from None
    if not lines:
        raise SteeringError(f"{where} is empty: begin it with a row of column names")
    header, *records = lines
    names = [name for name in header if name]
    if len(set(names)) < len(names):
        raise SteeringError(
            f"{where} has two columns with the same name ({', '.join(header)}): rename one"
        )
    for other in {",", ";", "\t"} - {separator}:
        if len(header) == 1 and other in header[0]:
            raise SteeringError(
                f"{where} has one column, {header[0]!r}: separate the cells by {separator!r}"
            )
    for number, cells in enumerate(records, start=1):
        if len(cells) != len(header):
            raise SteeringError(
                f"{where}, row {number} has {len(cells)} cells, but the row of column names "
                f"has {len(header)}: put texts that contain {separator!r} in double quotes"
            )
    table = table_of(where, header, (dict(zip(header, cells, strict=True)) for cells in records))
    # Spreadsheets write such rows behind the last one.
    rows = tuple(row for row in table.rows if row.fields)
    num_empty = len(table.rows) - len(rows)
    return _table(where, header, rows, [f"empty rows: {num_empty}"] if num_empty else [])


@contextmanager
def _long_cells(most: int) -> Iterator[None]:
    """Let the module csv read cells of any length; it stops at 128 KiB else."""
    before = csv.field_size_limit(most)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet(content: bytes, where: str, kind: str) -> Table:
    limits = LIMITS[kind]
    # A page may unpack to more than the file declares, and a dictionary to any number of texts.
    columns, rows = in_child(
        parquet_rows,
        content,
        where,
        kind,
        memory=max(2 * limits.unpacked, _PARQUET_BYTES),
        seconds=limits.seconds,
        where=where,
    )
    return table_of(where, columns, rows)


def parquet_rows(content: bytes, where: str, kind: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns, and the rows of a file whose footer is within the bounds."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    most = LIMITS[kind].unpacked
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        footer = file.metadata
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        _check_count(footer.num_rows * footer.num_columns, where, kind)
        if sum(group.total_byte_size for group in groups) > most:
            raise SteeringError(
                f"{where} unpacks to more than {size_text(most)}, the most that is read"
            )
        table = file.read(use_threads=False)
        return table.column_names, table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SteeringError(f"{where} is not a parquet file ({reason_of(error)})") from None


def _check_count(count: int, where: str, kind: str) -> None:
    most = LIMITS[kind].items
    if count > most:
        raise SteeringError(f"{where} has more than {most} cells, the most that is read: split it")


_READERS: dict[str, Callable[[bytes, str, str], Table]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": partial(_separated, separator=","),
    ".tsv": partial(_separated, separator="\t"),
    ".parquet": _parquet,
}
TABLE_ENDINGS = tuple(_READERS)
