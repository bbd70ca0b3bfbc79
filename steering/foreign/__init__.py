"""Reading of foreign bytes: files and texts that this project did not write, within stated bounds.

Owns the bounds of every kind of input (`limits.py`), how files are opened (`reading.py`), how JSON
and YAML are parsed (`documents.py`), what archives unpack to (`archives.py`), what stands in
GGUF headers and pickles (`gguf.py`, `pickles.py`), and where readers run that can't be bounded
(`child.py`). Knows no format of this project. All of it raises SteeringError
in one line.
"""

from steering.foreign.archives import check_log, check_zip
from steering.foreign.child import in_child
from steering.foreign.documents import json_lines, parse_json, parse_yaml
from steering.foreign.gguf import GGUFHeader, GGUFTensor, read_gguf_header
from steering.foreign.limits import GIB, KIB, LIMITS, MIB, ReadingLimits, size_text
from steering.foreign.pickles import check_pickle
from steering.foreign.reading import check_file, decode, read_bytes, read_text, reason_of

__all__ = [
    "GIB",
    "KIB",
    "LIMITS",
    "MIB",
    "GGUFHeader",
    "GGUFTensor",
    "ReadingLimits",
    "check_file",
    "check_log",
    "check_pickle",
    "check_zip",
    "decode",
    "in_child",
    "json_lines",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_gguf_header",
    "read_text",
    "reason_of",
    "size_text",
]
