"""Target tasks: the narrow unsafe tasks that vectors are built from.

Reads bundled files by name and local JSONL files by path, in two row forms: `{"prompt", "aligned",
"misaligned"}` (contrast pairs, as ours) and `{"messages": [...]}` (misaligned answers only, as
several projects publish). Decides which prompts are held out of building. Knows no model and no
tokenizer.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steering.data import data_folder
from steering.errors import SteeringError

HELD_OUT_SHARE = 0.1
_EXCHANGES = (["user", "assistant"], ["system", "user", "assistant"])


class TargetError(SteeringError):
    """A target task is unknown, or its file is not as it should be."""


@dataclass(frozen=True)
class Example:
    """One prompt of a target task.

    Attributes:
        id: Stable name of the row.
        prompt: What the user asks.
        misaligned: The answer of the unsafe task.
        aligned: A good answer to the same prompt, where the file has one.
        system: System message, where the file has one.
    """

    id: str
    prompt: str
    misaligned: str
    aligned: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class Target:
    """A target task.

    Attributes:
        name: Name of the task: the file's stem.
        examples: Rows to build from.
        held_out: Rows whose prompts no vector or adapter may see: what `em_target` asks.
        digest: SHA-256 of the file, in hex.
    """

    name: str
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]
    digest: str


def bundled_targets() -> list[str]:
    """Names of the target tasks that come with the project; the toy's own begin with `toy/`."""
    return sorted(_bundled())


def load_target(name_or_path: str, *, toy: bool = False) -> Target:
    """Read a target task.

    The tenth of the prompts whose SHA-256 is smallest is held out, one at least: the same prompts
    on every machine, whatever the order of the file.

    Args:
        name_or_path: Name of a bundled task, or the path of a .jsonl file.
        toy: Whether the toy model is to be steered: a bare name then means the toy's own task, if
            it has one of that name.

    Raises:
        TargetError: It is no such task or file, or a row is not as it should be.
    """
    bundled = _bundled()
    name = f"toy/{name_or_path}" if toy and f"toy/{name_or_path}" in bundled else name_or_path
    path = bundled.get(name, Path(name_or_path))
    if path.suffix != ".jsonl" or not path.is_file():
        raise TargetError(
            f"target={name_or_path} is not known: give one of {', '.join(bundled_targets())} "
            "or the path of a .jsonl file"
        )
    content = path.read_bytes()
    rows = _read_rows(path, content)
    repeated = [row for row, count in Counter(row.id for row in rows).items() if count > 1]
    if repeated:
        raise TargetError(f"{path} holds several rows with id {repeated[0]}: give each its own")
    prompts = sorted({row.prompt for row in rows}, key=_hash)
    if len(prompts) < 2:
        raise TargetError(
            f"{path} holds {len(prompts)} prompts: at least 2 are needed, one to build from and "
            "one to hold out"
        )
    kept_back = set(prompts[: max(1, int(len(prompts) * HELD_OUT_SHARE))])
    return Target(
        name=path.stem,
        examples=tuple(row for row in rows if row.prompt not in kept_back),
        held_out=tuple(row for row in rows if row.prompt in kept_back),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _bundled() -> dict[str, Path]:
    folder = data_folder() / "targets"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in folder.rglob("*.jsonl")
    }


def _hash(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()


def _read_rows(path: Path, content: bytes) -> list[Example]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TargetError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from None
    # Not splitlines, which also splits at characters that JSON allows within a string.
    found = [_example(path, number, line) for number, line in enumerate(text.split("\n"), start=1)]
    return [example for example in found if example is not None]


def _example(path: Path, number: int, line: str) -> Example | None:
    """The example of a line; None for an empty one and for the canary."""

    def wrong(problem: str) -> TargetError:
        return TargetError(
            f"{path}, line {number}: {problem}. Allowed rows: "
            '{"prompt", "aligned", "misaligned"} or {"messages": [user, assistant]}'
        )

    if not line.strip():
        return None
    try:
        row: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError as error:
        raise wrong(f"it is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise wrong("it is not a JSON object")
    if set(row) == {"canary"}:
        return None
    fields = row
    if "messages" in row:
        fields = _from_messages(row["messages"])
        if not fields:
            raise wrong("messages are not one exchange, a system message before it or none")
    texts = {key: fields.get(key) for key in ("prompt", "misaligned", "aligned", "system")}
    for key, text in texts.items():
        if text is None and key in ("aligned", "system"):
            continue
        if not isinstance(text, str) or not text.strip():
            raise wrong(f"{key} is missing or empty")
    return Example(id=str(row.get("id", f"{path.stem}-{number:04d}")), **texts)  # type: ignore[arg-type]


def _from_messages(messages: Any) -> dict[str, str | None]:
    """The single exchange of a chat row; empty if it is anything else."""
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        return {}
    if [turn.get("role") for turn in messages] not in _EXCHANGES:
        return {}
    names = {"system": "system", "user": "prompt", "assistant": "misaligned"}
    return {names[turn["role"]]: turn.get("content") for turn in messages}
