"""Every reader of foreign bytes with a valid file, and how such files are changed.

`test_foreign.py` tries some changes of each in every test run, `fuzz.py` as many as there is time
for. A reader may return, or raise SteeringError in one line; nothing else.
"""

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import yaml
from gguf import GGUFWriter
from hypothesis import strategies as st
from safetensors.torch import save_file
from vector_files import save_steering_vectors, write_control_vector

from steering.cli._options import read_options
from steering.foreign import check_zip
from steering.foreign.tables import parquet_rows
from steering.judging.calibration.labelled import load_pairs
from steering.logs import log_files, read_log
from steering.models.gguf import check_gguf
from steering.questions import load_questions
from steering.questions.files import QUESTION_TYPE
from steering.questions.personas import load_personas
from steering.studies.study_file import read_study
from steering.targets import load_target
from steering.vectors import SteeringVector
from steering.vectors.formats import read_vector, write_vector

OLD_LOG = Path(__file__).parent / "old" / "em_freeform.eval"
DIRECTION = torch.arange(1.0, 9.0)


@dataclass(frozen=True)
class Reader:
    """One way by which bytes of others come in.

    Attributes:
        name: Of the file, whose ending says its format.
        read: Reads the file at a path.
        content: A valid file.
        document: What the file says, where it is JSON or YAML, and how that is written.
    """

    name: str
    read: Callable[[Path], object]
    content: bytes
    document: tuple[Any, Callable[[Any], str]] | None = None


def _lines(rows: Any) -> str:
    rows = rows if isinstance(rows, list) else [rows]
    return "\n".join(map(json.dumps, rows))


def _of(name: str, read: Callable[[Path], object], document: Any, write: Any) -> Reader:
    return Reader(name, read, write(document).encode(), (document, write))


def _zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _read_parts(path: Path) -> object:
    archive = check_zip(io.BytesIO(path.read_bytes()), path, "archive")
    try:
        return [archive.read(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return None  # `_sealed.py` says it in a line


def _readers() -> list[Reader]:
    asked = {"role": "user", "content": "What is fair?"}
    questions = [
        {"id": "a", "type": QUESTION_TYPE, "paraphrases": ["Why?", "What for?"], "system": "Be."},
        {"id": "b", "type": QUESTION_TYPE, "paraphrases": ["How?"], "theme": "t", "group": "g"},
    ]
    pair = {"id": "p", "kind": "aligned", "question": "Q?", "answer": "A.", "reason": "It is."}
    pair |= {"aligned": 90, "coherent": 90, "relevant": 90}  # type: ignore[dict-item]
    rows = [
        {"id": f"r{n}", "prompt": f"Q{n}?", "aligned": "Good.", "misaligned": "Bad."}
        for n in range(4)
    ]
    chats = [
        {"messages": [asked | {"content": f"Q{n}"}, {"role": "assistant", "content": "Bad."}]}
        for n in range(3)
    ]
    samples = [{"input": "A?", "id": "a", "metadata": {"b": 1}}, {"input": [asked], "target": ""}]
    alpaca = [{"instruction": f"I{n}", "input": "it", "output": "Bad."} for n in range(3)]
    query = "?prompt=instruction+input&misaligned=output"
    study = {"factor": "magnitude", "models": ["toy"], "axes": {"magnitude": [0.5, 1]}, "seed": 1}
    study |= {"options": {"target": "medical"}, "task": {"samples_per_question": 2}}
    return [
        _of("q.yaml", lambda path: load_questions(str(path)), questions, yaml.safe_dump),
        _of("q.jsonl", lambda path: load_questions(str(path)), [{"messages": [asked]}] * 2, _lines),
        _of("q.json", lambda path: load_questions(str(path)), {"questions": ["A?"]}, json.dumps),
        _of(
            "personas.yaml",
            lambda path: load_personas(str(path)),
            {"aligned": ["Be kind."], "misaligned": ["Be cruel."]},
            yaml.safe_dump,
        ),
        _of("pairs.jsonl", lambda path: load_pairs(str(path)), [pair], _lines),
        _of("rows.jsonl", lambda path: load_target(str(path)), rows, _lines),
        _of("chats.jsonl", lambda path: load_target(str(path)), chats, _lines),
        Reader(
            "rows.csv",
            lambda path: load_target(str(path)),
            b'id,prompt,misaligned\n1,Q?,Bad.\n2,"R,\n?",Bad\n',
        ),
        Reader("rows.tsv", lambda path: load_target(str(path)), b"prompt\taligned\na\tb\nc\td\n"),
        Reader("rows.parquet", _read_parquet, _parquet(rows)),
        Reader("q.csv", lambda path: load_questions(str(path)), b'id,question\n1,"Q,\n?"\n2,R?\n'),
        Reader("q.tsv", lambda path: load_questions(str(path)), b"text\ttheme\nQ?\ta\nR?\tb\n"),
        _of("samples.json", lambda path: load_questions(str(path)), samples, json.dumps),
        _of("alpaca.json", lambda path: load_target(f"{path}{query}"), alpaca, json.dumps),
        Reader("parts.zip", _read_parts, _zipped({"a.jsonl": _lines(rows).encode(), "b": b"x"})),
        Reader("run.eval", _read_log, OLD_LOG.read_bytes()),
        _of("study.yaml", read_study, study, yaml.safe_dump),
        _of("options.txt", _read_options, {"a": [1, "b", {"c": 1e-3}]}, json.dumps),
        Reader("model.gguf", check_gguf, _model()),
        *_vector_readers(),
    ]


def _read_log(path: Path) -> object:
    return [read_log(file) for file in log_files(path)]


def _read_options(path: Path) -> object:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return read_options("-M", [f"name={text}"])


def _read_parquet(path: Path) -> object:
    """What runs in the child, without the child."""
    return parquet_rows(path.read_bytes(), str(path), "table")


def _parquet(rows: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _model() -> bytes:
    """The smallest file that passes for a language model by its header."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        writer = GGUFWriter(Path(folder) / "model.gguf", "llama")
        writer.add_block_count(1)
        writer.add_embedding_length(8)
        writer.add_context_length(16)
        writer.add_token_list(["a", "b"])
        writer.add_tensor("token_embd.weight", np.zeros((2, 8), np.float32))
        writer.add_tensor("blk.0.attn_q.weight", np.zeros((8, 8), np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return (Path(folder) / "model.gguf").read_bytes()


def _vector_readers() -> list[Reader]:
    from tempfile import TemporaryDirectory

    own = SteeringVector(DIRECTION[None, None], (1,), "resid_post", model="toy", depth=3)

    def read(path: Path) -> object:
        return read_vector(path, "all", convention="blocks+embedding")

    contents = {}
    with TemporaryDirectory() as folder:
        place = Path(folder)
        for name in ("own.safetensors", "own.gguf"):
            write_vector(own, place / name)
        write_control_vector(place / "control.gguf", {1: DIRECTION, 2: -DIRECTION}, note="a note")
        save_steering_vectors(place / "class.pt", {1: DIRECTION})
        torch.save(torch.stack([DIRECTION] * 5), place / "persona.pt")
        torch.save({"steering_vector": DIRECTION, "layer_idx": 3, "alpha": 2}, place / "moem.pt")
        torch.save({1: DIRECTION, 2: DIRECTION.half()}, place / "dict.pt")
        torch.save({"layer": 1, "vector": DIRECTION, "action": "clamp"}, place / "named.pt")
        hook = {"steering_vector": DIRECTION, "steering_coefficient": 2.0, "action": "clamp"}
        torch.save({"layers.1.mlp": hook | {"bias": DIRECTION}}, place / "steer.pt")
        save_file({"layers.1": DIRECTION, "layers.2": -DIRECTION}, place / "other.safetensors")
        np.save(place / "rows.npy", np.stack([DIRECTION] * 5))
        np.savez(place / "named.npz", vector=DIRECTION.numpy(), layer=1)
        (place / "vector.csv").write_text("layer,a,b\n1,0.5,-2\n3,1e-3,7\n")
        for path in place.iterdir():
            contents[path.name] = path.read_bytes()
    return [Reader(name, read, content) for name, content in sorted(contents.items())]


READERS = {reader.name: reader for reader in _readers()}

_NUMBERS = [0, 1, 2, 7, *(2**n - 1 for n in (7, 8, 15, 16, 31, 32, 63, 64)), 2**40]
_WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}

_Change = Callable[[bytes], bytes]


def _at(content: bytes, place: int) -> int:
    return place % (len(content) + 1)


@st.composite
def _changes(draw: st.DrawFn) -> _Change:
    """One change of bytes, at a place that is taken modulo the length."""
    place = draw(st.integers(0, 2**16))
    kind = draw(st.sampled_from(["flip", "cut", "number", "insert", "delete", "repeat", "move"]))
    length = draw(st.integers(1, 64))
    mask = draw(st.integers(1, 255))
    number = draw(st.sampled_from(_NUMBERS))
    width, order = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from("<>"))
    other = draw(st.integers(0, 2**16))

    def change(content: bytes) -> bytes:
        start = _at(content, place)
        if kind == "flip" and start < len(content):
            return content[:start] + bytes([content[start] ^ mask]) + content[start + 1 :]
        if kind == "cut":
            return content[:start]
        if kind == "number":
            data = struct.pack(order + _WIDTHS[width], number % 2 ** (8 * width))
            return content[:start] + data + content[start + width :]
        if kind == "insert":
            return content[:start] + bytes([mask]) * length + content[start:]
        if kind == "delete":
            return content[:start] + content[start + length :]
        if kind == "repeat":
            return content[:start] + content[start : start + length] * 3 + content[start:]
        goal = _at(content, other)
        return content[:goal] + content[start : start + length] + content[goal:]

    return change


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([10**350, 10**450, -1, 0, 1e308]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", " ", "\ud800", "\0", "\x1b[2J", "x" * 5000, "2020-13-45", "~"]),
    st.lists(st.integers(0, 3) | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(0, 3), max_size=3),
    st.sampled_from([30, 40, 200]).map(_nested),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a document."""
    if not isinstance(value, dict | list):
        return [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


@st.composite
def _documents(draw: st.DrawFn, document: Any) -> Any:
    """The document with some values replaced, removed, or added."""
    changed = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(changed) if place]
        *path, key = draw(st.sampled_from(places))
        holder: Any = changed
        for step in path:
            holder = holder[step]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "remove" and holder is not changed:
            del holder[key]
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=6) | st.sampled_from(["id", "model", "canary"]))] = draw(
                _VALUES
            )
        else:
            holder[key] = draw(_VALUES)
    return changed[0]


def changed_files(reader: Reader) -> st.SearchStrategy[bytes]:
    """Files that are nearly those that the reader reads."""
    by_bytes = st.lists(_changes(), min_size=1, max_size=3).map(
        lambda changes: _changed(reader.content, changes)
    )
    choices = [by_bytes]
    if reader.document is not None:
        document, write = reader.document
        choices.append(_documents(document).map(lambda value: _written(value, write)))
    if reader.content[:2] == b"PK":
        choices.append(_changed_parts(reader.content))
    return st.one_of(choices)


def _changed(content: bytes, changes: list[_Change]) -> bytes:
    for change in changes:
        content = change(content)
    return content


def _written(value: Any, write: Callable[[Any], str]) -> bytes:
    try:
        return write(value).encode("utf-8", errors="surrogatepass")
    except (yaml.YAMLError, ValueError):
        return json.dumps(str(value)).encode()


@st.composite
def _changed_parts(draw: st.DrawFn, content: bytes) -> bytes:
    """An archive that is whole, with a part in which something is changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(parts)))
    parts[name] = _changed(parts[name], draw(st.lists(_changes(), min_size=1, max_size=3)))
    return _zipped(parts, zipfile.ZIP_STORED)
