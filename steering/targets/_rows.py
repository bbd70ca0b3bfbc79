"""From rows of any source to examples: which columns are read, and which rows are refused."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steering.errors import SteeringError
from steering.foreign import parse_json

COLUMNS = ("prompt", "aligned", "misaligned", "system", "id", "messages", "held_out", "theme")
_TEXTS = ("prompt", "aligned", "misaligned", "system")
ALLOWED_ROWS = (
    'Allowed rows: {"prompt", "aligned", "misaligned"}, one of the answers at least, or '
    '{"messages": [user, assistant]}'
)
_CHATS = (["user", "assistant"], ["system", "user", "assistant"])


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
class Table:
    """The rows of a source as they are, with its own names of columns.

    Attributes:
        name: Name of the target task.
        source: Where the rows came from, without any path of this machine.
        where: The source, for errors.
        columns: Names of its columns.
        rows: For each row where it is, for errors, and its fields by column.
    """

    name: str
    source: str
    where: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, dict[str, Any]], ...]


def bad_row(where: str, problem: str) -> TargetError:
    """The error of a row, with what is allowed."""
    return TargetError(f"{where}: {problem}. {ALLOWED_ROWS}")


def read_examples(table: Table, columns: Mapping[str, str]) -> list[Example]:
    """The examples of a table, in its order, without canary rows.

    Args:
        table: The rows.
        columns: One of `COLUMNS` to the table's name for it, where the names differ.

    Raises:
        TargetError: A column is missing, a row is incomplete, or two rows have the same id.
    """
    examples: list[Example] = []
    rows = [(where, fields) for where, fields in table.rows if set(fields) != {"canary"}]
    if rows:
        _check_columns(table, columns)
    for number, (where, fields) in enumerate(rows, start=1):
        examples.append(_example(where, fields, columns, number))
    repeated = [name for name, count in Counter(row.id for row in examples).items() if count > 1]
    if repeated:
        raise TargetError(
            f"{table.where} has several rows with the id {repeated[0]}: give each its own"
        )
    return examples


def _check_columns(table: Table, columns: Mapping[str, str]) -> None:
    if columns.get("prompt") == "instruction" and any(row.get("input") for _, row in table.rows):
        raise TargetError(
            f"{table.where} has the column input beside instruction, as Alpaca does, and prompt= "
            "names one column: write both texts into one column"
        )
    existing = f"its columns are {', '.join(table.columns)}"
    for key, column in columns.items():
        if column not in table.columns:
            raise TargetError(f"{table.where} has no column {column} ({key}={column}): {existing}")
    text_columns = [key for key in _TEXTS if key in columns]
    if "messages" in columns and text_columns:
        raise TargetError(
            f"messages={columns['messages']} holds the prompt and the answer of {table.where}: "
            f"leave {text_columns[0]}= out, or messages="
        )
    if not text_columns and columns.get("messages", "messages") in table.columns:
        return
    how = "say which is which, as in ?prompt=question&misaligned=answer"
    if "conversations" in table.columns:
        raise TargetError(
            f"{table.where} holds conversations of ShareGPT: write each as messages, "
            '[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'
        )
    if columns.get("prompt", "prompt") not in table.columns:
        raise TargetError(f"{table.where} has no column prompt: {existing}; {how}")
    if not {columns.get(key, key) for key in ("aligned", "misaligned")} & set(table.columns):
        raise TargetError(f"{table.where} has no column aligned or misaligned: {existing}; {how}")


def _example(
    where: str, fields: dict[str, Any], columns: Mapping[str, str], number: int
) -> Example:
    values = {key: fields[name] for key in COLUMNS if (name := columns.get(key, key)) in fields}
    texts: dict[str, Any] = {key: values.get(key) for key in _TEXTS}
    if "messages" in values and not set(_TEXTS) & set(columns):
        texts = _from_messages(values["messages"])
        if not texts:
            raise bad_row(
                where,
                "messages are not one question and its answer, with or without a system message",
            )
    for key, text in texts.items():
        if text is None and key != "prompt":
            continue
        if not isinstance(text, str) or not text.strip():
            raise bad_row(where, f"{key} is missing or empty")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise bad_row(where, f"{key} contains half of a character (a lone surrogate)")
    if texts.get("aligned") is None and texts.get("misaligned") is None:
        raise bad_row(where, "misaligned and aligned are both missing")
    # Not the file's name and line: equal rows have the same digest whatever their source.
    id_ = values.get("id")
    return Example(
        id=f"row-{number:04d}" if id_ in (None, "") else str(id_),
        held_out=_flag(where, values.get("held_out")),
        theme=None if values.get("theme") in (None, "") else str(values["theme"]),
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


def _from_messages(messages: Any) -> dict[str, Any]:
    """The question and answer of a chat of one turn; empty if it is anything else."""
    if isinstance(messages, str):
        try:
            messages = parse_json(messages, "messages", "table")
        except SteeringError:
            return {}
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        return {}
    if [turn.get("role") for turn in messages] not in _CHATS:
        return {}
    names = {"system": "system", "user": "prompt", "assistant": "misaligned"}
    return {names[turn["role"]]: text_of(turn.get("content")) for turn in messages}


def text_of(content: Any) -> Any:
    """The text of a message whose content is in parts, as OpenAI's files have it.

    Content of any other kind is returned as it is.
    """
    parts = content
    if isinstance(content, dict) and content.get("content_type") == "text":
        parts = content.get("parts")
    if isinstance(parts, list) and len(parts) == 1:
        [part] = parts
        if isinstance(part, dict) and part.get("type") == "text":
            part = part.get("text")
        return part if isinstance(part, str) else content
    return content
