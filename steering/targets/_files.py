"""Tables in .jsonl, .csv, .tsv and .parquet files, read from bytes."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from steering.targets._rows import Table, TargetError, bad_row

_Row = tuple[str, dict[str, Any]]


def read_table(content: bytes, file_name: str, source: str, where: str) -> Table:
    """The rows of a file, without the empty cells of a table.

    The name says the format and names the target task; for `source` and `where` see `Table`.

    Raises:
        TargetError: The content does not fit the ending.
    """
    path = Path(file_name)
    columns, rows = _READERS[path.suffix.lower()](content, where)
    return Table(path.stem, source, where, tuple(columns), tuple(rows))


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    """A row of a table without its empty cells: a table has every column in every row."""
    return {key: value for key, value in fields.items() if value is not None and value != ""}


def _jsonl(content: bytes, where: str) -> tuple[Iterable[str], list[_Row]]:
    # Not splitlines, which also splits at characters that JSON strings may contain.
    lines = enumerate(_text(content, where).split("\n"), start=1)
    rows = [_object(f"{where}, line {number}", line) for number, line in lines if line.strip()]
    return dict.fromkeys(key for _, row in rows if set(row) != {"canary"} for key in row), rows


def _object(where: str, line: str) -> _Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise bad_row(where, f"it is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise bad_row(where, "it is not a JSON object")
    return where, row


def _separated(content: bytes, where: str, separator: str) -> tuple[Iterable[str], list[_Row]]:
    text = io.StringIO(_text(content, where), newline="")
    try:
        lines = [cells for cells in csv.reader(text, delimiter=separator, strict=True) if cells]
    except csv.Error as error:
        raise TargetError(f"{where} is not a table of separated values ({error})") from None
    if not lines:
        raise TargetError(f"{where} is empty: begin it with a row of column names")
    header, *records = lines
    if len(set(header)) < len(header):
        raise TargetError(
            f"{where} has two columns with the same name ({', '.join(header)}): rename one"
        )
    rows = []
    for number, cells in enumerate(records, start=1):
        if len(cells) != len(header):
            raise TargetError(
                f"{where}, row {number} has {len(cells)} cells, but the row of column names "
                f"has {len(header)}: put texts that contain {separator!r} in double quotes"
            )
        rows.append((f"{where}, row {number}", filled(dict(zip(header, cells, strict=True)))))
    return header, rows


def _parquet(content: bytes, where: str) -> tuple[Iterable[str], list[_Row]]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TargetError(f"{where} is not a parquet file ({reason})") from None
    rows = enumerate(table.to_pylist(), start=1)
    return table.column_names, [(f"{where}, row {number}", filled(row)) for number, row in rows]


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TargetError(f"{where} is not UTF-8 text ({error}): save it as UTF-8") from None


_READERS: dict[str, Callable[[bytes, str], tuple[Iterable[str], list[_Row]]]] = {
    ".jsonl": _jsonl,
    ".csv": partial(_separated, separator=","),
    ".tsv": partial(_separated, separator="\t"),
    ".parquet": _parquet,
}
ENDINGS = tuple(_READERS)
