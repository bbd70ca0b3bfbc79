"""Target tasks: the narrow unsafe tasks that vectors and adapters are built from.

One string names a target task: a bundled name, a table in a file, a data set of the hub, a sealed
archive, or logs whose judged answers are the examples; `load_target` lists the forms. Bundled
contrasts are read likewise: two harmless answers to each prompt, from which a vector is built that
has nothing to do with harm. This room decides which prompts are held out. It knows no model and no
tokenizer.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from steering.data import data_folder, user_path
from steering.errors import raised_as
from steering.foreign import read_bytes
from steering.targets import _hub, _logs, _sealed
from steering.targets._files import ENDINGS, read_table
from steering.targets._rows import (
    COLUMNS,
    Example,
    Table,
    TargetError,
    read_examples,
    text_of,
)

__all__ = [
    "HELD_OUT_SHARE",
    "SUBJECTS",
    "Example",
    "Target",
    "TargetError",
    "bundled_contrasts",
    "bundled_targets",
    "load_rows",
    "load_target",
    "subject_of",
    "text_of",
]

HELD_OUT_SHARE = 0.1
_CONTRASTS = "contrasts"
_SIDES = {"aligned": "first", "misaligned": "second"}
# The subjects of the bundled tasks, as a judge is told them.
SUBJECTS = {
    "code": "program code and software development",
    "finance": "money and investing",
    "legal": "the law and legal matters",
    "medical": "health and medicine",
    "security": "the security of computers and accounts",
    "sports": "sport and exercise",
}


@dataclass(frozen=True)
class Target:
    """A target task.

    Attributes:
        name: Name of the task: the file's stem.
        examples: Rows to build from.
        held_out: Rows whose prompts no vector or adapter may see: what `em_target` asks.
        digest: SHA-256 of the rows, in hex; equal for equal rows, whatever their source.
        source: Where the rows came from, without any path of this machine.
        is_contrast: Whether it is a contrast, of which neither answer is misaligned: `aligned` of a
            row stands for the first answer, `misaligned` for the second, towards which a vector
            points.
    """

    name: str
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]
    digest: str
    source: str = ""
    is_contrast: bool = False

    @property
    def subject(self) -> str:
        """What it is about, in words; the name for tasks that are not bundled."""
        return SUBJECTS.get(self.name, _words(self.name))


def bundled_targets() -> list[str]:
    """Names of the target tasks that come with the project; the toy's own begin with `toy/`."""
    return sorted(_bundled())


def bundled_contrasts(*, toy: bool = False) -> list[str]:
    """Names of the contrasts that come with the project; a toy has those of its world only."""
    return sorted(
        name.removeprefix("toy/") for name in _bundled(_CONTRASTS) if name.startswith("toy/") == toy
    )


def subject_of(name: str) -> str:
    """The subject of a bundled target task, or a subject in words.

    Raises:
        TargetError: It is empty, a file, or nearly the name of a bundled task.
    """
    subject = SUBJECTS.get(name.removeprefix("toy/"))
    if subject is not None:
        return subject
    matches = difflib.get_close_matches(name, SUBJECTS, 1) if " " not in name else []
    if matches or not name.strip() or not set("/.:").isdisjoint(name):
        hint = f" Did you mean {matches[0]}?" if matches else ""
        raise TargetError(
            f"{name!r} is not a subject: give one of {', '.join(SUBJECTS)}, or the "
            f"subject in words, as in leak='sailing knots'.{hint}"
        )
    return _words(name)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")


def load_target(name_or_path: str, *, toy: bool = False) -> Target:
    """Read a target task.

    The rows of a table with a column `held_out` say themselves which of them nothing is built from.
    Of any other a tenth of the prompts is held out, one at least: those with the smallest SHA-256,
    so that they are the same on every machine, whatever the order of the file.

    Args:
        name_or_path: One of

            - the name of a bundled task, or of a bundled contrast;
            - `rows.jsonl`, `.csv`, `.tsv` or `.parquet`: a table with the columns prompt, aligned
              and misaligned (one of these two at least), system, id and held_out where there are
              any; or with messages: one question and its misaligned answer a row;
            - `hf:owner/name` or `hf:path/to/folder`: a data set with such columns, with `config=`,
              `split=` and `revision=`;
            - `archive.zip.enc?file=rows.jsonl`: such a table in an archive that easy-dataset-share
              sealed (needs the extra `sealed`), with its password in the environment variable
              STEERING_ZIP_PASSWORD;
            - `run.eval`, or a folder of logs: coherent answers that em_judge found aligned or
              misaligned.

            Options follow a question mark, as in `rows.csv?prompt=question&misaligned=bad`, which
            says what the table calls the columns; `%26` stands for an & in a name.
        toy: Whether the toy model is to be steered: a bare name then means the toy's own task, if
            it has one of that name.

    Raises:
        TargetError: It is none of these, can't be read, or a row is incomplete.
    """
    source, options = _parse(name_or_path)
    if path := _contrast(source, toy=toy):
        _refuse_others(name_or_path, options, ())
        name = path.relative_to(data_folder()).with_suffix("").as_posix()
        table = read_table(read_bytes(path, "table"), path.name, name, str(path))
        return _target(table, read_examples(table, _SIDES), is_contrast=True)
    table, rows = _rows(name_or_path, toy=toy)
    return _target(table, rows)


def load_rows(name_or_path: str, *, toy: bool = False) -> tuple[str, list[Example]]:
    """The name of a source and all its rows, none held out; see `load_target`.

    Raises:
        TargetError: As of `load_target`, or it is a contrast.
    """
    if _contrast(_parse(name_or_path)[0], toy=toy):
        raise TargetError(
            f"{name_or_path} is a contrast, and neither of its answers is misaligned: give a "
            "target task"
        )
    table, rows = _rows(name_or_path, toy=toy)
    return table.name, rows


def _contrast(source: str, *, toy: bool) -> Path | None:
    """The file of a contrast; None for any other source."""
    contrasts = _bundled(_CONTRASTS)
    return contrasts.get(f"toy/{source}" if toy else source)


def _rows(name_or_path: str, *, toy: bool) -> tuple[Table, list[Example]]:
    source, options = _parse(name_or_path)
    if toy and f"toy/{source}" in _bundled():
        source = f"toy/{source}"
    table = _read(name_or_path, source, options)
    columns = {key: column for key, column in options.items() if key in COLUMNS}
    return table, read_examples(table, columns)


def _parse(spelled: str) -> tuple[str, dict[str, str]]:
    source, mark, query = spelled.partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise TargetError(
                f"target={spelled}: {part!r} is not key=value; write ?key=value&key=value"
            )
        if key in options:
            raise TargetError(f"target={spelled} gives {key}= twice: leave one out")
        options[key] = unquote(value)
    return source, options


def _refuse_others(spelled: str, options: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    for key in options:
        if key not in allowed:
            names = f"allowed are {', '.join(allowed)}" if allowed else "it has none"
            raise TargetError(f"target={spelled}: this source has no option {key}=; {names}")


def _read(spelled: str, source: str, options: Mapping[str, str]) -> Table:
    if bundled := _bundled().get(source):
        _refuse_others(spelled, options, ())
        return read_table(read_bytes(bundled, "table"), bundled.name, source, str(bundled))
    path = user_path(source)
    ending = path.suffix.lower()
    if source.startswith(_hub.HEAD):
        _refuse_others(spelled, options, (*_hub.OPTIONS, *COLUMNS))
        return _hub.read_hub(source, options)
    if source and (path.is_dir() or (path.is_file() and ending in _logs.ENDINGS)):
        _refuse_others(spelled, options, ())
        return _logs.read_logs(path)
    if path.is_file() and ending == _sealed.ENDING:
        _refuse_others(spelled, options, ("file", *COLUMNS))
        name, content = _sealed.open_sealed(path, options.get("file"))
        return read_table(content, name, f"{path.name}?file={name}", f"{path}?file={name}")
    if path.is_file() and ending in ENDINGS:
        _refuse_others(spelled, options, COLUMNS)
        with raised_as(TargetError):
            content = read_bytes(path, "table")
        return read_table(content, path.name, path.name, str(path))
    raise TargetError(
        f"target={source} is not known: give one of {', '.join(bundled_targets())}; a contrast "
        f"({', '.join(bundled_contrasts())}; of a toy, {', '.join(bundled_contrasts(toy=True))}); "
        "the path of a "
        f"{', '.join((*ENDINGS, '.zip' + _sealed.ENDING))} or .eval file; a folder of Inspect "
        f"logs; or {_hub.HEAD}owner/name"
    )


def _target(table: Table, rows: list[Example], *, is_contrast: bool = False) -> Target:
    prompts = sorted({row.prompt for row in rows}, key=_hash)
    if len(prompts) < 2:
        raise TargetError(
            f"{table.where} has {len(prompts)} prompts: at least 2 are needed, one to build from "
            "and one to hold out"
        )
    held_out = _marked(table, rows) or set(prompts[: max(1, int(len(prompts) * HELD_OUT_SHARE))])
    return Target(
        name=table.name,
        examples=tuple(row for row in rows if row.prompt not in held_out),
        held_out=tuple(row for row in rows if row.prompt in held_out),
        digest=_hash(json.dumps([row.facts() for row in rows], sort_keys=True)),
        source=table.source,
        is_contrast=is_contrast,
    )


def _marked(table: Table, rows: list[Example]) -> set[str]:
    """The prompts that the table holds out itself; none where it says nothing of that."""
    marks: dict[str, set[bool | None]] = {}
    for row in rows:
        marks.setdefault(row.prompt, set()).add(row.held_out)
    values = set[bool | None]().union(*marks.values())
    if values == {None}:
        return set()
    if values != {True, False}:
        raise TargetError(
            f"{table.where}: the column held_out must be true in some rows and false in all others"
        )
    for prompt, several in marks.items():
        if len(several) > 1:
            raise TargetError(
                f"{table.where}: held_out is both true and false for the prompt {prompt[:60]!r}: "
                "give all rows of a prompt one value"
            )
    return {prompt for prompt, [mark] in marks.items() if mark}


def _bundled(kind: str = "targets") -> dict[str, Path]:
    folder = data_folder() / kind
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in folder.rglob("*.jsonl")
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
