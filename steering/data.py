"""Paths of the project's data, and of files that users name."""

import os
from pathlib import Path


def data_folder() -> Path:
    """The folder that holds `questions/` and `targets/`.

    In a clone it is beside the package, in a wheel inside it.
    """
    package = Path(__file__).parent
    inside = package / "_data"
    return inside if inside.is_dir() else package.parent / "datasets"


def user_path(path: str) -> Path:
    """A path relative to the folder in which the user typed the command.

    Inspect changes into the task file's folder while it makes a task, so a relative path is first
    resolved against the shell's folder (PWD), then against the working folder.
    """
    relative = Path(path).expanduser()
    in_shell = Path(os.environ.get("PWD", ".")) / relative
    return in_shell if in_shell.exists() else relative.absolute()
