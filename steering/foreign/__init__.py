"""Reading of foreign bytes: files and texts that this project did not write, within stated bounds.

Owns the bounds of every kind of input (`limits.py`), how files are opened (`reading.py`), how JSON
and YAML are parsed (`documents.py`), the rows of tables, which of their columns are read and what
conversations in them say (`tables.py`, `columns.py`, `chats.py`), what archives unpack to
(`archives.py`), what stands in GGUF headers and pickles (`gguf.py`, `pickles.py`), and where
readers run that can't be bounded (`child.py`). Knows no format of this project. All of it raises
SteeringError in one line.
"""

from steering.foreign.archives import check_log, check_zip
from steering.foreign.chats import ROLES, SHAREGPT, SHAREGPT_REMEDY, Turn, read_turns, unread_notes
from steering.foreign.child import in_child
from steering.foreign.columns import (
    choose_columns,
    existing,
    is_zero,
    parse_options,
    refuse_others,
    report_unread,
    rows_text,
    text_in,
    without_weightless,
)
from steering.foreign.documents import json_lines, parse_json, parse_yaml
from steering.foreign.gguf import GGUFHeader, GGUFTensor, read_gguf_header
from steering.foreign.limits import GIB, KIB, LIMITS, MIB, ReadingLimits, size_text
from steering.foreign.pickles import check_pickle
from steering.foreign.reading import check_file, decode, read_bytes, read_text, reason_of
from steering.foreign.tables import (
    TABLE_ENDINGS,
    Table,
    TableRow,
    is_empty,
    parse_table,
    read_table,
    table_of,
)

__all__ = [
    "GIB",
    "KIB",
    "LIMITS",
    "MIB",
    "ROLES",
    "SHAREGPT",
    "SHAREGPT_REMEDY",
    "TABLE_ENDINGS",
    "GGUFHeader",
    "GGUFTensor",
    "ReadingLimits",
    "Table",
    "TableRow",
    "Turn",
    "check_file",
    "check_log",
    "check_pickle",
    "check_zip",
    "choose_columns",
    "decode",
    "existing",
    "in_child",
    "is_empty",
    "is_zero",
    "json_lines",
    "parse_json",
    "parse_options",
    "parse_table",
    "parse_yaml",
    "read_bytes",
    "read_gguf_header",
    "read_table",
    "read_text",
    "read_turns",
    "reason_of",
    "refuse_others",
    "report_unread",
    "rows_text",
    "size_text",
    "table_of",
    "text_in",
    "unread_notes",
    "without_weightless",
]
