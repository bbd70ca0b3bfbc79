"""Which columns of a table are read: by options behind a `?`, or by their usual names.

What is not read is told with counts, and what may be meant in two ways is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import unquote

from steering.errors import SteeringError, nearest, warn_once
from steering.foreign.tables import Table, TableRow, is_empty

WEIGHT = "weight"
"""The column, and the key of a message, by which files for finetuning leave out what has 0."""


def parse_options(spelled: str, option: str) -> tuple[str, dict[str, str]]:
    """A source, and the options behind its question mark, as in `rows.csv?prompt=question`.

    Args:
        spelled: As the user wrote it; `%26` stands for an & in a value.
        option: What it is the value of, for errors.

    Raises:
        SteeringError: A part is not key=value, or a key is given twice.
    """
    source, mark, query = spelled.partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise SteeringError(
                f"{option}={spelled}: {part!r} is not key=value; write ?key=value&key=value"
            )
        if key in options:
            raise SteeringError(f"{option}={spelled} gives {key}= twice: leave one out")
        options[key] = unquote(value)
    return source, options


def refuse_others(
    spelled: str, option: str, options: Iterable[str], allowed: Sequence[str]
) -> None:
    """Refuse options behind the question mark that a source does not have."""
    for key in options:
        if key not in allowed:
            names = f"allowed are {', '.join(allowed)}" if allowed else "it has none"
            raise SteeringError(f"{option}={spelled}: this source has no option {key}=; {names}")


def choose_columns(
    table: Table, usual: Mapping[str, Sequence[str]], options: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The columns of each field that the table has.

    Args:
        table: The rows.
        usual: For each field the usual names of its column, whose case does not matter.
        options: For a field the column that the user names; several are joined by `+`.

    Raises:
        SteeringError: A named column is missing, or several columns may hold one field.
    """
    columns = {}
    for field, names in usual.items():
        if field in options:
            columns[field] = _named(table, field, options[field])
            continue
        likely = [name for name in table.columns if name.strip().casefold() in names]
        likely = [name for name in likely if table.num_filled(name)] or likely[:1]
        if len(likely) > 1:
            ways = " or ".join(f"?{field}={name}" for name in likely)
            raise SteeringError(
                f"{table.where}: each of the columns {', '.join(likely)} may hold the {field}: say "
                f"which, as in {ways}"
            )
        if likely:
            columns[field] = (likely[0],)
    return columns


def _named(table: Table, field: str, column: str) -> tuple[str, ...]:
    names = (column,) if column in table.columns else tuple(column.split("+"))
    for name in names:
        if name not in table.columns:
            raise SteeringError(
                f"{table.where} has no column {name} ({field}={column}): {existing(table)}"
            )
    return names


def existing(table: Table) -> str:
    """The columns that a table has, for errors."""
    return f"its columns are {', '.join(table.columns)}"


def text_in(row: TableRow, columns: Sequence[str]) -> object:
    """What a row has in the columns of a field: several texts are joined by a blank line."""
    if len(columns) == 1:
        return row.fields.get(columns[0])
    values = [value for name in columns if not is_empty(value := row.fields.get(name))]
    texts = [value for value in values if isinstance(value, str)]
    return "\n\n".join(texts) if texts and len(texts) == len(values) else None


def without_weightless(table: Table) -> Table:
    """The rows whose column `weight`, where there is one, is not 0."""
    column = next((name for name in table.columns if name.casefold() == WEIGHT), None)
    if column is None:
        return table
    weights = {row.number: row.fields.get(column) for row in table.rows}
    rows = tuple(row for row in table.rows if not is_zero(weights[row.number]))
    notes = [*table.notes]
    if num_left_out := len(table.rows) - len(rows):
        notes.append(f"rows of weight 0, which are left out: {num_left_out}")
    others = sum(not is_empty(w) and not _is_number(w, 0, 1) for w in weights.values())
    if others:
        notes.append(f"weights other than 0 and 1, which change nothing: {rows_text(others)}")
    return replace(table, rows=rows, notes=tuple(notes))


def is_zero(weight: object) -> bool:
    """Whether a weight, as JSON or a cell of a table has it, is 0."""
    return _is_number(weight, 0)


def _is_number(value: object, *numbers: float) -> bool:
    try:
        return float(str(value)) in numbers
    except ValueError:
        return False


def report_unread(
    table: Table, columns: Iterable[str], usual: Iterable[str], option: str = ""
) -> None:
    """Warn once of what a table holds and is not read: its notes and its other columns.

    Args:
        table: The rows.
        columns: Those that are read.
        usual: Names of columns that would be read, to which others may be close.
        option: An option behind the question mark that reads a column of another name.
    """
    known = {*columns, "canary"}
    counts = {
        name: count
        for name in table.columns
        if name not in known and name.casefold() != WEIGHT and (count := table.num_filled(name))
    }
    texts = [
        f"{name or 'one without a name'} ({rows_text(count)}{_hint(name, usual)})"
        for name, count in counts.items()
    ]
    notes = [*table.notes]
    if texts:
        column = next((name for name in counts if name and not _hint(name, usual)), "")
        hint = f"; ?{option}={column} makes {column} the {option}" if option and column else ""
        notes.append(f"columns that are not read: {', '.join(texts)}{hint}")
    if notes:
        warn_once(f"{table.where}: {'; '.join(notes)}")


def rows_text(count: int) -> str:
    """A number of rows in words."""
    return "1 row" if count == 1 else f"{count} rows"


def _hint(name: str, usual: Iterable[str]) -> str:
    if name.casefold() in usual:
        return ""
    hint = nearest(name.casefold(), list(usual)).strip().rstrip("?")
    return f"; {hint[0].lower()}{hint[1:]}?" if hint else ""
