"""Functions for a reader's child process: some misbehave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from steering.errors import SteeringError


def add(first: int, second: int) -> int:
    """Print, which must not reach the answer, and return the sum."""
    sys.stdout.write("noise")
    os.write(1, b"noise")
    return first + second


def refuse() -> None:
    """Raise the error of a user's file."""
    raise SteeringError("v.pt is refused")


def fail() -> float:
    """Raise an error of a library."""
    return 1 / 0


def ask_for_memory() -> int:
    """Ask for more than the limit."""
    return len(bytearray(2**30))


def spin() -> None:
    """Compute for ever."""
    while True:
        pass


def sleep() -> None:
    """Wait without computing."""
    time.sleep(60)


def crash() -> None:
    """Die as a library with damaged memory does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    """End the process."""
    os._exit(3)


def sleep_in_child(path: Path) -> None:
    """Start a process that would outlive this one."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    path.write_text(str(process.pid))
    time.sleep(60)
