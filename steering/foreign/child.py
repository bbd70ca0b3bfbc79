"""Readers that can't be bounded, run in a child process with limits on memory and time.

The child is a fresh interpreter and no fork, so that it can be started from any thread, and it does
not import the script of the user. It starts in a tenth of a second; a function whose module imports
torch takes two seconds more. On Linux the system holds the limit on memory (RLIMIT_AS); macOS does
not enforce it, so there only the limits on time hold.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from steering.errors import SteeringError
from steering.foreign.limits import size_text
from steering.foreign.reading import reason_of

Result = TypeVar("Result")

_START = "from steering.foreign.child import serve; serve()"


def in_child(
    function: Callable[..., Result], *arguments: Any, memory: int, seconds: float, where: object
) -> Result:
    """Call a function in a child process with limits; the child ends with its children.

    Args:
        function: One of a module, not of the user's script; it and its arguments are pickled.
        arguments: Of the function.
        memory: Bytes that it may ask for, beyond what it has once its module is imported.
        seconds: Of processor time and of wall-clock time after the imports.
        where: What is read, for errors.

    Raises:
        SteeringError: The function raised it, broke a limit or died. Other errors of the function
            become one, with their first line.
    """
    task = pickle.dumps((function, arguments))
    setup = pickle.dumps((sys.path, memory, seconds, len(task)))
    # Libraries that reserve address space ahead would break the limit without need.
    threads = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **threads, "PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,
        )
    except OSError as error:
        raise SteeringError(
            f"{where} can't be read: no process could be started ({reason_of(error)})"
        ) from None
    # Importing may take long on a slow disk; the child counts its own time.
    patience = seconds + 60
    try:
        answer, _ = child.communicate(len(setup).to_bytes(8, "little") + setup + task, patience)
    except subprocess.TimeoutExpired:
        answer = b""
    finally:
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
    if not answer:
        raise SteeringError(f"{where} can't be read: {_end_of(child.returncode, memory, seconds)}")
    succeeded, value = pickle.loads(answer)
    if succeeded:
        return value
    if isinstance(value, SteeringError):
        raise value
    raise SteeringError(f"{where} can't be read ({value})")


def serve() -> None:
    """The child's side: read the task from stdin, write what came of it to stdout."""
    import resource

    # Whatever the function prints must not get between the bytes of the answer.
    output = os.dup(1)
    os.dup2(2, 1)
    head = sys.stdin.buffer.read(8)
    path, memory, seconds, length = pickle.loads(
        sys.stdin.buffer.read(int.from_bytes(head, "little"))
    )
    sys.path[:] = path
    function, arguments = pickle.loads(sys.stdin.buffer.read(length))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    busy = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(busy + seconds) + 1,) * 2)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + memory,) * 2)
    try:
        answer = pickle.dumps((True, function(*arguments)))
    except SteeringError as error:
        answer = pickle.dumps((False, error))
    except MemoryError:
        answer = pickle.dumps((False, f"it needs more than {size_text(memory)} of memory"))
    except BaseException as error:
        answer = pickle.dumps((False, f"{type(error).__name__}: {reason_of(error)}"))
    with open(output, "wb") as stream:
        stream.write(answer)


def _address_space() -> int:
    """Bytes of this process's address space."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def _end_of(status: int, memory: int, seconds: float) -> str:
    """How a child ended that gave no answer."""
    if -status in (signal.SIGALRM, signal.SIGXCPU, signal.SIGKILL):
        return f"its reader needed more than {seconds:g} seconds or {size_text(memory)} of memory"
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"its reader ended with {name}: the file is damaged, or made to break it"
