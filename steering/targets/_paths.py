"""Paths as users type them."""

import os
from pathlib import Path


def user_path(path: str) -> Path:
    """A path as the user meant it: relative to where the command was typed.

    Inspect changes into the task file's folder while it makes a task, so a relative path is looked
    for where the shell was (PWD) before the working folder.
    """
    given = Path(path).expanduser()
    typed = Path(os.environ.get("PWD", ".")) / given
    return typed if typed.exists() else given.absolute()
