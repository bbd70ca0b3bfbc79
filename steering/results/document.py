"""The figures of a command as one JSON document: named tables whose columns are declared."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from steering.errors import write_errors_as_ours
from steering.files import write_whole
from steering.results.document_columns import TABLES
from steering.results.frame_check import check_frame

FORMAT = "steering-figures/1"
"""Of a document. Columns may be added within a version; none changes its meaning or goes."""


@dataclass(frozen=True)
class Document:
    """What a command found, for other programs.

    Attributes:
        command: The command, as `gate`.
        outcome: Its verdict in a word; "" of a command that gives none.
        headline: The verdict, or the finding, in a sentence; "" for none.
        tables: Rows by table; the tables are those of docs/reference/json.md.
        notes: What a reader must know besides.
    """

    command: str
    outcome: str = ""
    headline: str = ""
    tables: Mapping[str, pd.DataFrame | Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def text(self) -> str:
        """As JSON, with a line for each row; NaN is null.

        Raises:
            FrameError: A table has other columns than those declared, or an impossible value.
        """
        from steering import __version__

        head = {
            "format": FORMAT,
            "steering": __version__,
            "command": self.command,
            "outcome": self.outcome or None,
            "headline": self.headline or None,
            "notes": list(self.notes),
        }
        tables = [_table(name, rows) for name, rows in self.tables.items()]
        lines = [f'"{name}": {_value(value)}' for name, value in head.items()]
        lines.append('"tables": {\n' + ",\n".join(tables) + "\n}")
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def write(self, path: str) -> None:
        """Write the document to a file.

        Raises:
            SteeringError: It can't be written.
        """
        with write_errors_as_ours(path):
            write_whole(Path(path), self.text().encode())


def _table(name: str, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> str:
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if frame.empty:
        return f'"{name}": []'
    check_frame(frame, TABLES[name])
    lines = ",\n".join(_value(row) for row in frame.to_dict("records"))
    return f'"{name}": [\n{lines}\n]'


def _value(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value in JSON's own: NaN and infinities, which it lacks, are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
