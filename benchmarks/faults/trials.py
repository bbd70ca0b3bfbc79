"""What a trial is: its kinds of failure, and how an error is classed. Knows no kind of fault."""

import os
import random
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

VERDICTS = ("wrong", "lost", "hung", "executed", "half-written", "traceback")
FATAL = VERDICTS[:-1]
"""Verdicts of which not one is allowed; of tracebacks one in a hundred trials is."""
MARKER = "STEERING_FAULTS_MARKER"
"""Environment variable with the path of the file that code in a hostile file would write."""
NOTE = "STEERING_FAULTS_NOTE"
"""Environment variable with the path of the file that says what a trial is doing."""
MEMORY = 1 << 30
"""Bytes that a trial may add to the peak of its process, its children counted alone."""

Problem = tuple[str, str]
"""A verdict and what happened."""


@dataclass(frozen=True)
class Finding:
    """A failure of a trial: its kind of fault and seed, its verdict, and what happened."""

    kind: str
    seed: int
    verdict: str
    what: str

    def __str__(self) -> str:
        return (
            f"{self.verdict}: {self.kind} {self.seed}: {self.what}\n"
            f"    python -m benchmarks.faults --only {self.kind} --trials 1 --seed {self.seed}"
        )


class Kind(Protocol):
    """One kind of fault. Constructing it prepares what its trials share, in a folder of its own."""

    size: int
    """Trials of one seed."""
    bound_s: float
    """Seconds after which a seed counts as hung and its process is killed."""

    def run(self, seed: int) -> list[Problem]:
        """Run the trials of a seed; their failures."""
        ...


def draw_of(kind: str, seed: int) -> random.Random:
    """The random numbers of a trial."""
    return random.Random(f"{kind}/{seed}")


def doing(what: str) -> None:
    """Note what a trial is about to do, for the case that it never ends."""
    Path(os.environ[NOTE]).write_text(what, errors="replace")


def one_line(error: BaseException) -> str:
    """An error in a line, for a report."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def refusal(error: BaseException) -> Problem | None:
    """What is wrong with an error as the answer to a fault; None for one line of our own."""
    from click import ClickException
    from inspect_ai._util.error import PrerequisiteError

    from steering.errors import SteeringError

    if not isinstance(error, SteeringError | PrerequisiteError | ClickException):
        return ("traceback", one_line(error))
    text = error.message if isinstance(error, ClickException) else str(error)
    if "\n" in text.strip() or len(text) > 3000:
        return ("traceback", f"not one line: {one_line(error)}")
    return None


@contextmanager
def measured(problems: list[Problem], cpu_s: float, memory: int = MEMORY) -> Iterator[None]:
    """Add a problem if the work inside took more processor time or memory than its bounds.

    Time of the processor, since how long work takes depends on what else the machine does. A wait
    without work ends at the bound of the trial.
    """
    before, began = _peak(reset=True), _cpu()
    yield
    seconds, added = _cpu() - began, _peak() - before
    if seconds > cpu_s:
        problems.append(("hung", f"{seconds:.1f} s of processor time"))
    if added > memory:
        problems.append(("hung", f"{added / 1e9:.1f} GB of memory"))


def _cpu() -> float:
    users = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in users)


def _peak(*, reset: bool = False) -> int:
    """Peak memory of this process in bytes, since the last reset; of a child that is larger."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    own = int(status.partition("VmHWM:")[2].split()[0])
    children = 0 if reset else resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return 1024 * max(own, children)


def executed() -> list[Problem]:
    """Whether code in a file has run since the last call."""
    marker = Path(os.environ[MARKER])
    if not marker.exists():
        return []
    what = marker.read_text(errors="replace").strip()[:60]
    marker.unlink()
    return [("executed", f"code in the file ran ({what})")]


def killed_after(work: Callable[[], object], seconds: float) -> bool:
    """Run work in a forked child and kill it after so many seconds; whether it was still at it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    timer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    return os.WIFSIGNALED(status)
