"""Tables in .jsonl, .csv, .tsv and .parquet files, read from bytes."""

import csv
import io
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from steering.errors import SteeringError, raised_as
from steering.foreign import LIMITS, decode, in_child, json_lines, size_text
from steering.targets._rows import ALLOWED_ROWS, Table, TargetError, bad_row

_Row = tuple[str, dict[str, Any]]


def read_table(content: bytes, file_name: str, source: str, where: str) -> Table:
    """The rows of a file, without the empty cells of a table.

    The name says the format and names the target task; for `source` and `where` see `Table`.

    Raises:
        TargetError: The content does not fit the ending.
    """
    path = Path(file_name)
    with raised_as(TargetError):
        columns, rows = _READERS[path.suffix.lower()](content, where)
    return Table(path.stem, source, where, tuple(columns), tuple(rows))


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    """A row of a table without its empty cells: a table has every column in every row."""
    return {key: value for key, value in fields.items() if value is not None and value != ""}


def _jsonl(content: bytes, where: str) -> tuple[Iterable[str], list[_Row]]:
    text = decode(content, where)
    try:
        rows = list(json_lines(text, where, "table"))
    except SteeringError as error:
        raise TargetError(f"{error}. {ALLOWED_ROWS}") from None
    for place, row in rows:
        if not isinstance(row, dict):
            raise bad_row(place, "it is not a JSON object")
    return dict.fromkeys(key for _, row in rows if set(row) != {"canary"} for key in row), rows


def _separated(content: bytes, where: str, separator: str) -> tuple[Iterable[str], list[_Row]]:
    text = io.StringIO(decode(content, where), newline="")
    lines, count = [], 0
    try:
        for cells in csv.reader(text, delimiter=separator, strict=True):
            count += len(cells)
            _check_count(count, where)
            if cells:
                lines.append(cells)
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
    limits = LIMITS["table"]
    # A page may unpack to more than the file declares, and a dictionary to any number of texts.
    columns, table = in_child(
        _parquet_rows,
        content,
        where,
        memory=2 * limits.unpacked,
        seconds=limits.seconds,
        where=where,
    )
    rows = enumerate(table, start=1)
    return columns, [(f"{where}, row {number}", filled(row)) for number, row in rows]


def _parquet_rows(content: bytes, where: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns, and the rows of a file whose footer is within the bounds."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    limits = LIMITS["table"]
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        footer = file.metadata
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        _check_count(footer.num_rows * footer.num_columns, where)
        if sum(group.total_byte_size for group in groups) > limits.unpacked:
            raise TargetError(
                f"{where} unpacks to more than {size_text(limits.unpacked)}, the most that is read"
            )
        table = file.read(use_threads=False)
        return table.column_names, table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TargetError(f"{where} is not a parquet file ({reason})") from None


def _check_count(count: int, where: str) -> None:
    most = LIMITS["table"].items
    if count > most:
        raise TargetError(f"{where} has more than {most} cells, the most that is read: split it")


_READERS: dict[str, Callable[[bytes, str], tuple[Iterable[str], list[_Row]]]] = {
    ".jsonl": _jsonl,
    ".csv": partial(_separated, separator=","),
    ".tsv": partial(_separated, separator="\t"),
    ".parquet": _parquet,
}
ENDINGS = tuple(_READERS)
