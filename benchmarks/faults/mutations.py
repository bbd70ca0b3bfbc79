"""What is done to a valid file: damage, lies about sizes, depth, numbers, bombs, code, other kinds.

A mutation is a function of the file's content, its form and random numbers. It returns the new
content, or a function that puts something else at the file's path; None where it has nothing to do.
"""

import io
import json
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.faults.bombs import alias_bomb, parquet_bomb, template_bomb, zip_bomb
from benchmarks.faults.specimens import parts_of, zipped
from benchmarks.faults.trials import MARKER

Place = Callable[[Path], object]
Mutation = Callable[[bytes, str, random.Random], "bytes | Place | None"]
_TEXTS = ("json", "jsonl", "yaml", "csv", "text")
_HOSTILE = [
    None, True, -1, 0, 1e308, 10**30, "", "\x00", "\x1b[31mred", [], {}, "x" * 2_000_000, 3.7,
    "=cmd()", "<script>x</script>", ["a"], {"a": 1}, "../../etc", "\u2028", 999,
]  # fmt: skip
# Values that Python's own writer can't write: their text takes the place of a mark.
_RAW = [
    '"\\ud800"', "NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 100_000, "[" * 900,
    '{"a":' * 100_000, '"\\u0000"', "-", "0x10", "1_000", '"\\udfff tail"', "1" * 400 + ".5",
]  # fmt: skip


def flipped(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """Some bits are turned round."""
    if not content:
        return None
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 4, 32])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def truncated(content: bytes, form: str, draw: random.Random) -> bytes:
    """The file ends too early."""
    return content[: draw.choice([0, 1, 7, 8, 9, len(content) - 1, draw.randrange(len(content))])]


def overwritten(content: bytes, form: str, draw: random.Random) -> bytes:
    """A stretch is zeros, or other bytes, or stands there twice."""
    start = draw.randrange(len(content))
    length = draw.choice([1, 4, 8, 64, 512])
    middle = content[start : start + length]
    replacement = draw.choice(
        [bytes(len(middle)), b"\xff" * len(middle), middle * 2, b"", draw.randbytes(len(middle))]
    )
    return content[:start] + replacement + content[start + length :]


def lying(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """A number of the file's own bookkeeping says something huge."""
    if form in _TEXTS:
        return None
    huge = draw.choice([2**31, 2**33, 2**40, 2**62, 2**63 - 1, 2**64 - 1, 2**32 - 1])
    if form in ("pickle", "zip") and draw.random() < 0.7:
        return _pickled_lie(content, form, huge, draw)
    data = bytearray(content)
    size = draw.choice([4, 8])
    at = draw.choice([0, 8, 16, 24, draw.randrange(max(1, min(len(data), 400)))])
    if draw.random() < 0.3:
        at = max(0, len(data) - draw.choice([8, 12, 16, 24, 32]))
    data[at : at + size] = (huge % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def _pickled_lie(content: bytes, form: str, huge: int, draw: random.Random) -> bytes | None:
    """An integer in a pickle is huge: of a shape, a stride, an offset or a count."""
    if form == "pickle":
        return _with_huge(content, huge, draw)
    parts = parts_of(content)
    name = next((name for name in parts or {} if name.endswith("data.pkl")), None)
    if parts is None or name is None:
        return None
    return zipped(parts | {name: _with_huge(parts[name], huge, draw)})


def _with_huge(content: bytes, huge: int, draw: random.Random) -> bytes:
    places = [match.span() for match in re.finditer(rb"K.|M..|J....", content, re.DOTALL)]
    if not places:
        return content
    start, end = draw.choice(places)
    value = min(huge, 2**62)
    return content[:start] + pickle.dumps(value, 2)[2:-1] + content[end:]


def hostile_value(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """A value in a structured text is something else."""
    rows = _parsed(content, form)
    if rows is None:
        return None
    where = draw.choice(list(_leaves(rows)))
    if form == "yaml" or draw.random() < 0.5:
        _put(rows, where, draw.choice(_HOSTILE))
        return _dumped(rows, form)
    _put(rows, where, "@mark@")
    return _dumped(rows, form).replace(b'"@mark@"', draw.choice(_RAW).encode())


def twisted(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """A key is missing, doubled, renamed or new; a row is missing or stands there twice."""
    rows = _parsed(content, form)
    if rows is None:
        return None
    where = draw.choice(list(_leaves(rows)))
    parent = rows
    for step in where[:-1]:
        parent = parent[step]
    if not where:
        return None
    value = parent[where[-1]]
    action = draw.randrange(4)
    if action == 0:
        del parent[where[-1]]
    elif isinstance(parent, list):
        parent.insert(0, value)
    elif action == 1:
        parent[f"{where[-1]}x"] = parent.pop(where[-1])
    elif action == 2:
        parent["__proto__"] = {"a": 1}
    else:
        text = json.dumps(where[-1]).encode()
        dumped = _dumped(rows, form)
        return dumped.replace(text + b":", text + b": 1, " + text + b":", 1)
    return _dumped(rows, form)


def deep(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """Thousands of brackets."""
    if form not in ("json", "jsonl", "yaml"):
        return None
    count = draw.choice([300, 3000, 200_000])
    opened, closed = draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return opened * count + (b"1" + closed * count if draw.random() < 0.5 else b"")


def not_text(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """Another encoding, a NUL, a lone surrogate's bytes, a byte-order mark."""
    if form not in _TEXTS:
        return None
    text = content.decode()
    return draw.choice(
        [
            text.encode("utf-16"), text.encode("utf-32"), content + b"\xed\xa0\x80",
            content.replace(b"e", b"\xe9", 1), content.replace(b" ", b"\x00", 1),
            b"\xef\xbb\xbf" + content, content + b"\x1a", content.replace(b"\n", b"\x0c\n"),
        ]
    )  # fmt: skip


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo pickle >> {os.environ[MARKER]}",)


def code(content: bytes, form: str, draw: random.Random) -> bytes | Place | None:
    """Code that would run if the file were read as what it can be."""
    command = f"echo {form} >> {os.environ[MARKER]}"
    if form in ("zip", "pickle", "binary"):
        buffer = io.BytesIO()
        if draw.random() < 0.3:
            return pickle.dumps(_Runs())
        wrapped = draw.choice([_Runs(), {"steering_vector": _Runs()}, [torch.ones(3), _Runs()]])
        torch.save(wrapped, buffer, _use_new_zipfile_serialization=form != "pickle")
        return buffer.getvalue()
    if form == "yaml":
        tag = draw.choice(["os.system", "subprocess.getoutput"])
        return f'!!python/object/apply:{tag} ["{command}"]\n'.encode()
    if form == "text":
        reach = draw.choice(["cycler.__init__.__globals__.os", "self.__init__.__globals__.os"])
        return (
            f"{{{{ {reach}.popen('{command}').read() }}}}{{% for m in messages %}}"
            "{{ m.content }}{% endfor %}"
        ).encode()
    if form == "json" and b"model_type" in content:
        return _auto_map(content, command, draw)
    return None


def _auto_map(content: bytes, command: str, draw: random.Random) -> Place:
    config = json.loads(content)
    config["auto_map"] = {
        "AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model",
        "AutoTokenizer": ["code.Words", None],
    }  # fmt: skip
    config["model_type"] = draw.choice(["llama", "unheard-of", "qwen9"])
    if draw.random() < 0.5:
        config.pop("max_position_embeddings", None)

    def place(path: Path) -> None:
        path.unlink()
        path.write_text(json.dumps(config))
        (path.parent / "code.py").write_text(f"import os\nos.system({command!r})\n")
        for name in ("tokenizer_config.json",):
            other = path.parent / name
            if other.exists():
                words = json.loads(other.read_text()) | {"auto_map": config["auto_map"]}
                other.write_text(json.dumps(words))

    return place


def other_kind(content: bytes, form: str, draw: random.Random) -> Place:
    """Something that is no file of that kind stands at the path."""
    kind = draw.choice(["zero", "fifo", "folder", "loop", "dangling", "lfs", "empty", "random"])

    def place(path: Path) -> None:
        path.unlink()
        if kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "random":
            path.symlink_to("/dev/urandom")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "dangling":
            path.symlink_to("/nowhere/at/all")
        elif kind == "lfs":
            path.write_text(
                "version https://git-lfs.github.com/spec/v1\n"
                f"oid sha256:{'0' * 64}\nsize {draw.randrange(10**9)}\n"
            )
        else:
            path.write_bytes(b"")

    place.__name__ = kind
    return place


def same(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """Another spelling of the same content."""
    if form == "csv":
        return content.replace(b"\r\n", b"\n")
    if form == "zip":
        parts = parts_of(content)
        return None if parts is None else zipped(parts)
    if form == "yaml":
        return draw.choice([content + b"# a remark\n", b"---\n" + content])
    rows = _parsed(content, form)
    if rows is None:
        return None
    spelled = {"ensure_ascii": draw.random() < 0.5, "separators": draw.choice([None, (",", ":")])}
    if form == "jsonl":
        end = draw.choice(["\n", "\r\n", "\n\n"])
        return "".join(json.dumps(row, **spelled) + end for row in rows).encode()
    return json.dumps(rows, indent=draw.choice([None, 3]), **spelled).encode()


MUTATIONS: dict[Mutation, int] = {
    flipped: 6,
    truncated: 4,
    overwritten: 4,
    lying: 6,
    hostile_value: 10,
    twisted: 5,
    deep: 2,
    not_text: 3,
    alias_bomb: 2,
    zip_bomb: 2,
    parquet_bomb: 2,
    code: 4,
    template_bomb: 3,
    other_kind: 4,
    same: 3,
}
"""Each mutation and how often it is chosen, where it has something to do."""


def _parsed(content: bytes, form: str) -> Any:
    if form == "json":
        return json.loads(content)
    if form == "jsonl":
        return [json.loads(line) for line in content.decode().split("\n") if line.strip()]
    return yaml.safe_load(content) if form == "yaml" else None


def _dumped(rows: Any, form: str) -> bytes:
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    text = json.dumps(rows) if form == "json" else yaml.safe_dump(rows, sort_keys=False)
    return text.encode("utf-8", "surrogatepass")


def _leaves(value: Any, where: tuple[Any, ...] = ()) -> Any:
    """Places in a structure: of every value, containers too."""
    if where:
        yield where
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in list(items)[:40]:
            yield from _leaves(part, (*where, key))


def _put(value: Any, where: tuple[Any, ...], new: Any) -> None:
    for step in where[:-1]:
        value = value[step]
    value[where[-1]] = new
