"""Tiny files that ask for gigabytes or for hours: aliases, archives, tables, templates."""

import io
import random
import zipfile
import zlib
from functools import cache

from benchmarks.faults.specimens import parts_of, seal

_BOMB = 1_200_000_000


def alias_bomb(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """A few hundred bytes of YAML that are gigabytes of lists or text."""
    if form not in ("yaml", "text"):
        return None
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    if form == "text":
        return b"---\n" + "\n".join(lines).encode() + b"\n---\nbody\n"
    if draw.random() < 0.5:
        return "\n".join([*lines, "factor: *a8", "aligned: *a8", "misaligned: *a8"]).encode()
    anchors = "\n".join(f"- {line.partition(': ')[2]}" for line in lines)
    fields = "id: *a8\n  type: free_form_judge_0_100\n  paraphrases: *a8"
    return f"{anchors}\n- {fields}\n".encode()


def zip_bomb(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """A part of an archive unpacks to more than a gigabyte."""
    if form not in ("zip", "sealed"):
        return None
    if form == "sealed":
        return seal(bomb("rows.jsonl"))
    parts = parts_of(content) or {}
    name = draw.choice(list(parts))
    return bomb(name, parts)


@cache
def packed_spaces() -> tuple[bytes, int]:
    """The raw deflate stream of a gigabyte and more of spaces, and its checksum."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    block, stream, crc = b" " * 10_000_000, [], 0
    for _ in range(_BOMB // len(block)):
        stream.append(packer.compress(block))
        crc = zlib.crc32(block, crc)
    return b"".join([*stream, packer.flush()]), crc


def bomb(name: str, parts: "dict[str, bytes] | None" = None) -> bytes:
    """A zip whose part of this name unpacks to `_BOMB` spaces."""
    stream, crc = packed_spaces()
    rest = {key: value for key, value in (parts or {}).items() if key != name}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in rest.items():
            archive.writestr(key, value)
        # Writing what is packed already: a stored part whose entry is then changed.
        info = zipfile.ZipInfo(name)
        at = buffer.tell()
        archive.writestr(info, stream, zipfile.ZIP_STORED)
        info.compress_type, info.CRC, info.file_size = zipfile.ZIP_DEFLATED, crc, _BOMB
    data = bytearray(buffer.getvalue())
    head = info.FileHeader()
    data[at : at + len(head)] = head
    return bytes(data)


def parquet_bomb(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """A table of a few hundred kilobytes with tens of millions of rows."""
    if not content.startswith(b"PAR1"):
        return None
    return _many_rows()


@cache
def _many_rows() -> bytes:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    buffer = io.BytesIO()
    column = pa.array(["x" * 40]).take(pa.array([0] * 1_000_000))
    table = pa.table({"prompt": column, "misaligned": column})
    with pq.ParquetWriter(buffer, table.schema, use_dictionary=True) as writer:
        for _ in range(20):
            writer.write_table(table)
    return buffer.getvalue()


def template_bomb(content: bytes, form: str, draw: random.Random) -> bytes | None:
    """A template that loops, or a text of it that is huge."""
    if b"{%" not in content or form != "text":
        return None
    return (
        draw.choice(
            [
                b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                b"{% for a in range(10 ** 9) %}x{% endfor %}",
                b"{{ 'x' * 10 ** 10 }}",
                b"{% set ns = namespace(t='x') %}{% for a in range(40) %}"
                b"{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}",
                b"{{ 9 ** 9 ** 9 }}",
                b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            ]
        )
        + content
    )
