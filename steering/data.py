"""Where files are: the project's data, and what users name."""

import os
from pathlib import Path


def data_folder() -> Path:
    """The folder that holds `questions/` and `targets/`.

    In a clone it stands beside the package, in a wheel inside it.
    """
    here = Path(__file__).parent
    inside = here / "_data"
    return inside if inside.is_dir() else here.parent / "datasets"


def user_path(path: str) -> Path:
    """A path as the user meant it: relative to where the command was typed.

    Inspect changes into the task file's folder while it makes a task, so a relative path is looked
    for where the shell was (PWD) before the working folder.
    """
    given = Path(path).expanduser()
    typed = Path(os.environ.get("PWD", ".")) / given
    return typed if typed.exists() else given.absolute()
