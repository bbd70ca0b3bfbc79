"""The folder of an adapter: peft's own two files, and `steering.json`, which says what made it.

A folder is there whole or not at all.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steering.errors import SteeringError
from steering.vector import file_digest

FORMAT = "steering-adapter/1"
FACTS = "steering.json"


class AdapterError(SteeringError):
    """A folder holds no adapter of ours, or a damaged one."""


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder so that it is there whole or not at all, in place of what stood there.

    Args:
        path: The folder.
        fill: Writes the files into the folder that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Siblings, since only within one file system is a move all or nothing.
    partial, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex}") for _ in range(2))
    try:
        partial.mkdir()
        fill(partial)
        for file in partial.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        if path.exists():
            os.rename(path, old)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `steering.json` beside the weights, with their digests."""
    sums = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    said = {"format": FORMAT} | dict(facts) | {"sha256": sums}
    (folder / FACTS).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def read_facts(folder: Path) -> dict[str, Any]:
    """What `steering.json` says, once the weights beside it are those that it was written for.

    Raises:
        AdapterError: It is missing, not ours, or the weights are not those.
    """
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text())
        form, sums = facts["format"], dict(facts["sha256"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterError(
            f"{path} can't be read ({error}): give a folder that steering finetune wrote"
        ) from None
    if form != FORMAT:
        raise AdapterError(f"{path} holds {form}; {FORMAT} is needed")
    found = {file.name: file_digest(file) for file in folder.glob("*.safetensors")}
    for name, said in sums.items():
        if found.get(name) != said:
            raise AdapterError(f"{folder / name} is missing or damaged: train it again")
    return facts
