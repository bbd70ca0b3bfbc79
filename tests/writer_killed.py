"""A process that replaces a folder and dies at a move: python writer_killed.py FOLDER MOVE."""

import os
import signal
import sys
from pathlib import Path

from steering.files import write_folder

path, deadly = Path(sys.argv[1]), int(sys.argv[2])
rename, moves = os.rename, iter(range(10))


def dying_rename(source: Path, destination: Path) -> None:
    """The move with this number never happens."""
    if next(moves) == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, destination)


os.rename = dying_rename  # type: ignore[assignment]
write_folder(path, lambda folder: (folder / "file").write_text("new"))
