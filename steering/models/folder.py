"""A model's folder as it lies on disk: its files within bounds, and the digest of their content.

Runs before transformers or torch read any of them, and imports neither.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from steering.errors import SteeringError
from steering.files import cache_folder, file_digest, write_whole
from steering.foreign import MIB, check_file, decode, parse_json, read_text, size_text

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
# The files that decide what a model answers.
DIGESTED = (".safetensors", ".json", ".jinja", ".bin", ".txt", ".model")
HASHED_WHOLE = 64 * MIB
"""Files up to this size are hashed with the others; of larger ones the digest is remembered."""
_CONFIGS = re.compile(r"(\w*config|special_tokens_map|.*\.index)\.json")
_KINDS = {".safetensors": "weights", ".bin": "weights", ".jinja": "template"}
_HEADER = 100 * MIB  # of safetensors files, as their library has it
# Bounds of numbers in a config, by the first word that their name has: lists and modules are made
# as often as there are layers, and tables as long as there are positions.
_BOUNDS = (
    (re.compile("theta|eps|scal|param"), math.inf),
    (re.compile("size|dim|position|width|rank|channel|window"), 2**26),
    (re.compile("layer|depth|block|expert|head|stage"), 2**16),
    (re.compile("num_(?!param)"), 2**24),
)
MOST_WIDTH, MOST_POSITIONS = 2**20, 2**24
_AGAIN = "download the model again"
_REMEDY = "Give the config.json that belongs to the weights"


def check_folder(folder: Path) -> None:
    """Refuse a folder with files that can't be read, or whose weights are damaged or cut off.

    Raises:
        SteeringError: It names the file.
    """
    for path in _files(folder, ".py"):
        check_file(path, _kind(path))
    for path in folder.glob("*.safetensors"):
        stored_shapes(path)
    if (folder / INDEX).exists() and not (folder / WEIGHTS).exists():
        _check_index(folder / INDEX)


def read_config(path: Path) -> dict[str, Any]:
    """The content of a config.json whose numbers are within bounds.

    Raises:
        SteeringError: It can't be read, or a number makes no sense.
    """
    config = parse_json(read_text(path, "config"), path, "config")
    if not isinstance(config, dict) or not isinstance(config.get("text_config") or {}, dict):
        raise SteeringError(f"{path} and its text_config must be tables of JSON: {_AGAIN}")
    check_numbers(config, str(path))
    return config


def check_numbers(values: Any, where: str, name: str = "") -> None:
    """Refuse a config with a number that no machine could hold as many of.

    Args:
        values: The config, or a part of it.
        where: What it is, for errors.
        name: Name of the part.

    Raises:
        SteeringError: It names the number and the bound.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_numbers(value, where, str(key))
    elif isinstance(values, list):
        for value in values:
            check_numbers(value, where, name)
    elif isinstance(values, int | float):
        most = next((most for pattern, most in _BOUNDS if pattern.search(name)), math.inf)
        if abs(values) > most:
            raise SteeringError(
                f"{where} has {name}={_short(values)}: at most {most} are possible. {_REMEDY}"
            )


def check_size(name: str, value: object, where: object, most: int = MOST_WIDTH) -> None:
    """Refuse a number of blocks, a width or a context length that is none.

    Raises:
        SteeringError: It is no whole number from 1 to `most`.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise SteeringError(
            f"the config of {where} has {name}={_short(value)}: a whole number from 1 to {most} is "
            f"needed. {_REMEDY}"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:40] + "..."


def num_stored(folder: Path) -> int | None:
    """Number of weights in a folder's safetensors files; None if it has others."""
    files = list(folder.glob("*.safetensors"))
    return sum(len(stored_shapes(path)) for path in files) if files else None


def stored_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Shape of each weight in a safetensors file, from its header.

    Raises:
        SteeringError: The file is damaged or cut off.
    """
    size = check_file(path, "weights")
    stat = path.stat()
    return _header(path, size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=512)
def _header(path: Path, size: int, *_: int) -> Mapping[str, tuple[int, ...]]:
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if not 2 <= length <= min(size - 8, _HEADER):
            raise SteeringError(
                f"{path} has {size} bytes and no header of safetensors: {_AGAIN}, or save it again "
                "with save_pretrained"
            )
        text = file.read(length)
    where = f"the header of {path}"
    header = parse_json(decode(text, where), where, "weights")
    try:
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise SteeringError(f"{where} is not one of safetensors: {_AGAIN}") from None
    end = 8 + length + max(ends, default=0)
    if end > size:
        raise SteeringError(
            f"{path} is cut off, with {size_text(size)} of {size_text(end)}: {_AGAIN}"
        )
    return shapes


def _check_index(path: Path) -> None:
    content = parse_json(read_text(path, "config"), path, "config")
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise SteeringError(f"{path} has no weight_map: {_AGAIN}")
    for name in sorted(set(files.values())):
        if Path(name).name != name:
            raise SteeringError(f"{path} names {name}, which is not beside it: {_AGAIN}")
        if not (path.parent / name).exists():
            raise SteeringError(f"{path.parent / name} is missing, which {INDEX} names: {_AGAIN}")


def _files(folder: Path, *more: str) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix in (*DIGESTED, *more):
            yield path


def _kind(path: Path) -> str:
    if path.suffix == ".json":
        return "config" if _CONFIGS.fullmatch(path.name) else "tokenizer"
    return _KINDS.get(path.suffix, "tokenizer")


def add_content(digest: Any, folder: Path, *, code: bool) -> None:
    """Add the content of a folder's files to a digest; a copied folder adds the same.

    Args:
        digest: Of hashlib.
        folder: The folder, which `check_folder` has accepted.
        code: Whether Python files count.
    """
    for path in _files(folder, *[".py"] * code):
        size = check_file(path, _kind(path))
        digest.update(path.name.encode())
        if size <= HASHED_WHOLE:
            digest.update(path.read_bytes())
        else:
            digest.update(remembered_digest(path).encode())


def remembered_digest(path: Path) -> str:
    """SHA-256 of a large file, in hex.

    It is remembered, in the cache, until the file's inode changes in any way.
    """
    facts = _facts(path)
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    memory = cache_folder() / "digests" / key
    with suppress(OSError, ValueError):
        if len(text := memory.read_text(encoding="ascii")) == len(key):
            return text
    text = file_digest(path)
    if _facts(path) == facts:
        with suppress(OSError):
            write_whole(memory, text.encode())
    return text


def _facts(path: Path) -> list[Any]:
    stat = path.stat()
    return [
        str(path.resolve()), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns,
        stat.st_ctime_ns,
    ]  # fmt: skip
