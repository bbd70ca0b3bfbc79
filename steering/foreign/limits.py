"""How large foreign input may be: one table for every reader of the project.

The bounds are generous against honest files and small against the memory of a laptop: whatever is
refused is refused below 1 GB of memory and within 5 seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

KIB, MIB, GIB = 2**10, 2**20, 2**30

RATIO = 200
"""How many times its packed size an archive, or a part of it, may have where it is larger than
`RATIO_BYTES`."""
RATIO_BYTES = 16 * MIB
PART_BYTES = 128 * MIB
"""Bytes that one part of an archive may unpack to, and of a log in one piece of JSON."""
MAX_PARTS = 200_000
"""Parts of an archive, of any kind."""
NUMBER_LENGTH = 400
"""Characters of a number in JSON or YAML."""


@dataclass(frozen=True)
class ReadingLimits:
    """Bounds of one kind of input.

    Attributes:
        meaning: What is of this kind.
        bytes: Size of the file.
        depth: Levels of nested lists and tables.
        items: Values in a document, cells of a table, tensors of a file, parts of an archive.
        unpacked: Size in bytes of what a packed file unpacks to, or of a GGUF file's header.
        seconds: Time of a reader in a child process.
    """

    meaning: str
    bytes: int
    depth: int
    items: int
    unpacked: int
    seconds: float = 60


LIMITS: Mapping[str, ReadingLimits] = {
    "vector": ReadingLimits(
        "steering vectors: .safetensors, .gguf, .pt, .npy, .npz",
        256 * MIB,
        32,
        100_000,
        256 * MIB,
        20,
    ),
    "table": ReadingLimits(
        "target tasks, choices: .jsonl, .json, .csv, .tsv, .parquet; vectors: .csv",
        64 * MIB,
        32,
        4_000_000,
        256 * MIB,
        20,
    ),
    "archive": ReadingLimits("sealed archives of tables", 64 * MIB, 32, 10_000, 64 * MIB, 20),
    "questions": ReadingLimits(
        "question sets, contexts, personas, pairs of calibration, labels",
        16 * MIB,
        32,
        250_000,
        16 * MIB,
    ),
    "study": ReadingLimits("study files", MIB, 16, 100_000, MIB),
    "option": ReadingLimits("the value of one option", MIB, 16, 100_000, MIB),
    "template": ReadingLimits("chat templates, rubrics", MIB, 16, 10_000, MIB, 3),
    "config": ReadingLimits("config.json and the like", 16 * MIB, 64, 500_000, 0),
    "tokenizer": ReadingLimits("tokenizer.json", 256 * MIB, 64, 20_000_000, 0),
    "weights": ReadingLimits("weights of models: .safetensors", 2**41, 32, 1_000_000, 0),
    "gguf": ReadingLimits("models: .gguf (their headers)", 2**41, 1, 2_000_000, 256 * MIB),
    "log": ReadingLimits("Inspect's logs: .eval, .json", 4 * GIB, 200, 2_000_000, 4 * GIB),
}
"""The bounds by kind. `docs/reference/limits.md` is written from this table."""


def size_text(size: float) -> str:
    """A number of bytes for people."""
    for unit, name in ((2**40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size:.0f} bytes"
