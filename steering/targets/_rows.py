"""From rows of any source to examples: which columns are read, and which rows are refused."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steering.errors import SteeringError
from steering.foreign import (
    SHAREGPT,
    SHAREGPT_REMEDY,
    Table,
    TableRow,
    Turn,
    choose_columns,
    existing,
    is_empty,
    is_zero,
    read_turns,
    report_unread,
    rows_text,
    text_in,
    unread_notes,
    without_weightless,
)

COLUMNS = ("prompt", "aligned", "misaligned", "system", "id", "messages", "held_out", "theme")
_TEXTS = ("prompt", "aligned", "misaligned", "system")
ALLOWED_ROWS = (
    'Allowed rows: {"prompt", "aligned", "misaligned"}, one of the answers at least, or '
    '{"messages": [user, assistant]}'
)
_CHATS = (["user", "assistant"], ["system", "user", "assistant"])
_USUAL = {key: (key,) for key in COLUMNS}


class TargetError(SteeringError):
    """A target task is unknown, or its rows can't be read."""


@dataclass(frozen=True)
class Example:
    """A prompt of a target task with one or two answers.

    Attributes:
        id: Stable name of the row.
        prompt: What the user asks.
        misaligned: The answer of the unsafe task, where the row has one.
        aligned: A good answer to the same prompt, where the row has one.
        system: System message, where the row has one.
        held_out: Whether nothing may be built from it; None where the table does not say.
        theme: What it is about, by which choices are clustered, where the table says it.
    """

    id: str
    prompt: str
    misaligned: str | None = None
    aligned: str | None = None
    system: str | None = None
    held_out: bool | None = None
    theme: str | None = None

    def facts(self) -> dict[str, Any]:
        """What is built from, in JSON values, without what the table does not say of it."""
        fields = dataclasses.asdict(self)
        del fields["theme"]
        if self.held_out is None:  # as in tables of before, whose digests stay as they were
            del fields["held_out"]
        return fields


@dataclass(frozen=True)
class Source:
    """The rows of a source as they are.

    Attributes:
        name: Name of the target task.
        source: Where the rows came from, without any path of this machine.
        table: The rows.
    """

    name: str
    source: str
    table: Table


def bad_row(where: str, problem: str) -> TargetError:
    """The error of a row, with what is allowed."""
    return TargetError(f"{where}: {problem}. {ALLOWED_ROWS}")


def read_examples(table: Table, options: Mapping[str, str]) -> list[Example]:
    """The examples of a table, in its order; what is not read is warned of once.

    Args:
        table: The rows.
        options: One of `COLUMNS` to the table's name for it, where the names differ.

    Raises:
        TargetError: A column is missing, a row is incomplete, or two rows have the same id.
    """
    table = without_weightless(table)
    columns = _choose(table, options) if table.rows else {}
    examples: list[Example] = []
    unread, num_weightless = Counter[str](), 0
    # Equal rows have the same digest whatever their source, so not the number that it gives them.
    for number, row in enumerate(table.rows, start=1):
        turns = _turns(row, columns, unread) if _holds_messages(row, columns) else []
        if turns and is_zero(turns[-1].weight):
            num_weightless += 1
            continue
        examples.append(_example(row, columns, turns, number))
    repeated = [name for name, count in Counter(row.id for row in examples).items() if count > 1]
    if repeated:
        raise TargetError(
            f"{table.where} has several rows with the id {repeated[0]}: give each its own"
        )
    notes = [*table.notes]
    if num_weightless:
        notes.append(f"answers of weight 0, whose rows are left out: {num_weightless}")
    notes += unread_notes(unread)
    if num_again := len(examples) - len({_without_id(row) for row in examples}):
        notes.append(f"rows that say the same as another, and count again: {num_again}")
    report_unread(
        dataclasses.replace(table, notes=tuple(notes)),
        [name for names in columns.values() for name in names],
        COLUMNS,
    )
    return examples


def _without_id(row: Example) -> Example:
    return dataclasses.replace(row, id="")


def _choose(table: Table, options: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The columns that are read: those of messages, or those of texts."""
    texts = [key for key in _TEXTS if key in options]
    if "messages" in options and texts:
        raise TargetError(
            f"messages={options['messages']} holds the prompt and the answer of {table.where}: "
            f"leave {texts[0]}= out, or messages="
        )
    columns = choose_columns(table, _USUAL, options)
    if columns.get("prompt") == ("instruction",) and table.num_filled("input"):
        raise TargetError(
            f"{table.where} has the column input beside instruction, as Alpaca does: write both "
            "texts into one column, or join them by a blank line with ?prompt=instruction+input"
        )
    if "messages" in options:
        return {key: names for key, names in columns.items() if key not in _TEXTS}
    if "messages" in columns and not texts:
        _refuse_both(table, columns)
        return columns
    columns.pop("messages", None)
    is_alpaca = {"instruction", "input", "output"} <= set(table.columns)
    names = "instruction+input&misaligned=output" if is_alpaca else "question&misaligned=answer"
    how = f"say which is which, as in ?prompt={names}"
    if SHAREGPT in table.columns and not texts:
        raise TargetError(f"{table.where} holds {SHAREGPT_REMEDY}")
    if "prompt" not in columns:
        raise TargetError(f"{table.where} has no column prompt: {existing(table)}; {how}")
    if not {"aligned", "misaligned"} & columns.keys():
        raise TargetError(
            f"{table.where} has no column aligned or misaligned: {existing(table)}; {how}"
        )
    return columns


def _refuse_both(table: Table, columns: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse messages beside columns that say the same of one row."""
    messages = columns["messages"][0]
    for key in _TEXTS:
        for column in columns.get(key, ()):
            filled = [not is_empty(row.fields.get(column)) for row in table.rows]
            both = sum(
                has_text and not is_empty(row.fields.get(messages))
                for has_text, row in zip(filled, table.rows, strict=True)
            )
            if both:
                raise TargetError(
                    f"{table.where} has both {messages} and {column} in {rows_text(both)}: say "
                    f"which are read, as in ?messages={messages} or ?prompt=prompt"
                )


def _holds_messages(row: TableRow, columns: Mapping[str, tuple[str, ...]]) -> bool:
    if "messages" not in columns or columns["messages"][0] not in row.fields:
        return False
    is_text = not is_empty(text_in(row, columns.get("prompt", ())))
    return not (is_text and is_empty(text_in(row, columns["messages"])))


def _example(
    row: TableRow, columns: Mapping[str, tuple[str, ...]], turns: list[Turn], number: int
) -> Example:
    values = {key: text_in(row, names) for key, names in columns.items()}
    names = {"system": "system", "user": "prompt", "assistant": "misaligned"}
    texts: dict[str, Any] = {key: values.get(key) for key in _TEXTS}
    if turns:
        texts = {names[turn.role]: turn.text for turn in turns}
    for key, text in texts.items():
        if text is None and key != "prompt":
            continue
        if not isinstance(text, str) or not text.strip():
            raise bad_row(row.place, f"{key} is missing or empty")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise bad_row(row.place, f"{key} contains half of a character (a lone surrogate)")
    if texts.get("aligned") is None and texts.get("misaligned") is None:
        raise bad_row(row.place, "misaligned and aligned are both missing")
    id_ = values.get("id")
    theme = values.get("theme")
    return Example(
        id=f"row-{number:04d}" if id_ in (None, "") else str(id_),
        held_out=_flag(row.place, values.get("held_out")),
        theme=None if theme in (None, "") else str(theme),
        **texts,
    )


def _flag(where: str, value: Any) -> bool | None:
    """A truth value as JSON, a table of a data set or a CSV file has it; None where it is empty."""
    if value in (None, ""):
        return None
    flag = {"true": True, "false": False}.get(str(value).lower())
    if flag is None:
        raise bad_row(where, f"held_out is {value!r}, which is neither true nor false")
    return flag


def _turns(
    row: TableRow, columns: Mapping[str, tuple[str, ...]], unread: Counter[str]
) -> list[Turn]:
    """The turns of a chat of one question and its answer."""
    try:
        turns = read_turns(text_in(row, columns["messages"]), row.place, "table", unread)
    except SteeringError:
        turns = []
    if [turn.role for turn in turns] not in _CHATS:
        raise bad_row(
            row.place,
            "messages are not one question and its answer, with or without a system message",
        )
    return turns
