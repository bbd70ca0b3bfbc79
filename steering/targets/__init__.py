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

from steering.data import data_folder, user_path
from steering.errors import SteeringError, raised_as
from steering.foreign import (
    TABLE_ENDINGS,
    parse_options,
    parse_table,
    read_bytes,
    read_table,
    refuse_others,
)
from steering.targets import _logs, _sealed
from steering.targets._hub import HUB, HUB_OPTIONS, read_hub
from steering.targets._rows import (
    ALLOWED_ROWS,
    COLUMNS,
    Example,
    Source,
    TargetError,
    read_examples,
)

__all__ = [
    "HELD_OUT_SHARE",
    "HUB",
    "HUB_OPTIONS",
    "SUBJECTS",
    "Example",
    "Target",
    "TargetError",
    "bundled_contrasts",
    "bundled_targets",
    "load_rows",
    "load_target",
    "read_hub",
    "subject_of",
]

HELD_OUT_SHARE = 0.1
_CONTRASTS = "contrasts"
_OPTION = "target"
_OF_OBJECTS = (".jsonl", ".json")
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
            - `rows.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet`: a table with the columns prompt,
              aligned and misaligned (one of these two at least), system, id and held_out where
              there are any; or with messages: one question and its misaligned answer a row;
            - `hf:owner/name` or `hf:path/to/folder`: a data set with such columns, with `config=`,
              `split=` and `revision=`;
            - `archive.zip.enc?file=rows.jsonl`: such a table in an archive that easy-dataset-share
              sealed (needs the extra `sealed`), with its password in the environment variable
              STEERING_ZIP_PASSWORD;
            - `run.eval`, or a folder of logs: coherent answers that em_judge found aligned or
              misaligned.

            Options follow a question mark, as in `rows.csv?prompt=question&misaligned=bad`, which
            says what the table calls the columns; `%26` stands for an & in a name, and
            `?prompt=instruction+input` joins two columns by a blank line. What is not read is
            warned of, with counts.
        toy: Whether the toy model is to be steered: a bare name then means the toy's own task, if
            it has one of that name.

    Raises:
        TargetError: It is none of these, can't be read, or a row is incomplete.
    """
    with raised_as(TargetError):
        text, options = parse_options(name_or_path, _OPTION)
        if path := _contrast(text, toy=toy):
            refuse_others(name_or_path, _OPTION, options, ())
            name = path.relative_to(data_folder()).with_suffix("").as_posix()
            source = Source(path.stem, name, read_table(path, "table"))
            return _target(source, read_examples(source.table, _SIDES), is_contrast=True)
        return _target(*_rows(name_or_path, text, options, toy=toy))


def load_rows(name_or_path: str, *, toy: bool = False) -> tuple[str, list[Example]]:
    """The name of a source and all its rows, none held out; see `load_target`.

    Raises:
        TargetError: As of `load_target`, or it is a contrast.
    """
    with raised_as(TargetError):
        text, options = parse_options(name_or_path, _OPTION)
        if _contrast(text, toy=toy):
            raise TargetError(
                f"{name_or_path} is a contrast, and neither of its answers is misaligned: give a "
                "target task"
            )
        source, rows = _rows(name_or_path, text, options, toy=toy)
    return source.name, rows


def _contrast(source: str, *, toy: bool) -> Path | None:
    """The file of a contrast; None for any other source."""
    contrasts = _bundled(_CONTRASTS)
    return contrasts.get(f"toy/{source}" if toy else source)


def _rows(
    spelled: str, text: str, options: Mapping[str, str], *, toy: bool
) -> tuple[Source, list[Example]]:
    if toy and f"toy/{text}" in _bundled():
        text = f"toy/{text}"
    source = _read(spelled, text, options)
    columns = {key: column for key, column in options.items() if key in COLUMNS}
    return source, read_examples(source.table, columns)


def _read(spelled: str, text: str, options: Mapping[str, str]) -> Source:
    def allow(*names: str) -> None:
        refuse_others(spelled, _OPTION, options, names)

    if bundled := _bundled().get(text):
        allow()
        return Source(bundled.stem, text, read_table(bundled, "table"))
    path = user_path(text)
    ending = path.suffix.lower()
    if text.startswith(HUB):
        allow(*HUB_OPTIONS, *COLUMNS)
        return read_hub(text, options)
    if text and (path.is_dir() or (path.is_file() and _logs.is_log(path))):
        allow()
        return _logs.read_logs(path)
    if path.is_file() and ending == _sealed.ENDING:
        allow("file", *COLUMNS)
        name, content = _sealed.open_sealed(path, options.get("file"))
        return _file(content, name, f"{path.name}?file={name}", f"{path}?file={name}")
    if path.is_file() and ending in TABLE_ENDINGS:
        allow(*COLUMNS)
        return _file(read_bytes(path, "table"), path.name, path.name, str(path))
    raise TargetError(
        f"target={text} is not known: give one of {', '.join(bundled_targets())}; a contrast "
        f"({', '.join(bundled_contrasts())}; of a toy, {', '.join(bundled_contrasts(toy=True))}); "
        "the path of a "
        f"{', '.join((*TABLE_ENDINGS, '.zip' + _sealed.ENDING))} or .eval file; a folder of "
        f"Inspect logs; or {HUB}owner/name"
    )


def _file(content: bytes, file_name: str, source: str, where: str) -> Source:
    """The rows in a file's bytes; its name says the format and names the target task."""
    path = Path(file_name)
    try:
        table = parse_table(content, path.suffix, where, "table")
    except SteeringError as error:
        if path.suffix.lower() not in _OF_OBJECTS:
            raise
        raise TargetError(f"{error}. {ALLOWED_ROWS}") from None
    return Source(path.stem, source, table)


def _target(source: Source, rows: list[Example], *, is_contrast: bool = False) -> Target:
    where = source.table.where
    prompts = sorted({row.prompt for row in rows}, key=_hash)
    if len(prompts) < 2:
        raise TargetError(
            f"{where} has {len(prompts)} prompts: at least 2 are needed, one to build from and one "
            "to hold out"
        )
    held_out = _marked(where, rows) or set(prompts[: max(1, int(len(prompts) * HELD_OUT_SHARE))])
    return Target(
        name=source.name,
        examples=tuple(row for row in rows if row.prompt not in held_out),
        held_out=tuple(row for row in rows if row.prompt in held_out),
        digest=_hash(json.dumps([row.facts() for row in rows], sort_keys=True)),
        source=source.source,
        is_contrast=is_contrast,
    )


def _marked(where: str, rows: list[Example]) -> set[str]:
    """The prompts that the table holds out itself; none where it says nothing of that."""
    marks: dict[str, set[bool | None]] = {}
    for row in rows:
        marks.setdefault(row.prompt, set()).add(row.held_out)
    values = set[bool | None]().union(*marks.values())
    if values == {None}:
        return set()
    if values != {True, False}:
        raise TargetError(
            f"{where}: the column held_out must be true in some rows and false in all others"
        )
    for prompt, several in marks.items():
        if len(several) > 1:
            raise TargetError(
                f"{where}: held_out is both true and false for the prompt {prompt[:60]!r}: "
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
