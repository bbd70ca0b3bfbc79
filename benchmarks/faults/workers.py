"""Trials run in processes of their own, so that one that hangs or dies costs that trial alone."""

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.faults.trials import MARKER, NOTE, Finding, Kind, Problem, one_line

_PREPARES_S = 600
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "INSPECT_DISPLAY": "none",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass
class Tally:
    """What the trials of a kind came to."""

    trials: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def run_seeds(
    name: str, seeds: Sequence[int], folder: Path, report: Callable[[Finding], None]
) -> Tally:
    """Run the seeds of a kind, in as many processes one after another as it takes."""
    tally, left = Tally(), list(seeds)
    while left:
        began = time.monotonic()
        done = _run_in_process(name, left, folder, tally, report)
        tally.seconds += time.monotonic() - began
        left = left[done:]
    return tally


def _run_in_process(
    name: str, seeds: list[int], folder: Path, tally: Tally, report: Callable[[Finding], None]
) -> int:
    """Run seeds until one of them ends the process; the number of seeds with an outcome."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(name, seeds, folder, there), daemon=True
    )
    process.start()
    there.close()
    size, bound = 1, float(_PREPARES_S)
    try:
        ready = _receive(here, _PREPARES_S)
        if not isinstance(ready, tuple):
            log = (folder / "worker.log").read_text(errors="replace").strip()
            finding = Finding(name, seeds[0], "lost", f"no trial could be prepared: {log[-400:]}")
            tally.trials += 1
            tally.findings.append(finding)
            report(finding)
            return len(seeds)
        size, bound = ready
        for index, seed in enumerate(seeds):
            problems = _receive(here, bound)
            ended = not isinstance(problems, list)
            if problems == "silent":
                problems = [("hung", f"no outcome within {bound:.0f} s{_doing(folder)}")]
            elif ended:
                process.join(10)
                problems = [("lost", f"the process died with {process.exitcode}{_doing(folder)}")]
            tally.trials += size
            for verdict, what in problems:
                finding = Finding(name, seed, verdict, what)
                tally.findings.append(finding)
                report(finding)
            if ended:
                return index + 1
        return len(seeds)
    finally:
        _kill(process)
        here.close()


def _doing(folder: Path) -> str:
    note = folder / "doing"
    return f": {note.read_text()}" if note.exists() else ""


def _receive(pipe: Connection, seconds: float) -> Any:
    """The next message of a worker; `silent` if none comes in time, `dead` if none will come."""
    try:
        return pipe.recv() if pipe.poll(seconds) else "silent"
    except (EOFError, ConnectionResetError):
        return "dead"


def _kill(process: Any) -> None:
    """End a worker and its children, which share its process group."""
    if process.pid is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
    process.join(10)


def _work(name: str, seeds: Sequence[int], folder: Path, pipe: Connection) -> None:
    """The worker: prepare a kind, then run its seeds."""
    os.setpgid(0, 0)
    folder.mkdir(parents=True, exist_ok=True)
    # Stays open for the process: also what C code writes goes there.
    log = (folder / "worker.log").open("a", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    own = {
        NOTE: str(folder / "doing"),
        MARKER: str(folder / f"marker-{os.getpid()}"),
        "STEERING_CACHE": str(folder / "cache"),
        "INSPECT_CACHE_DIR": str(folder / "inspect-cache"),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    os.environ.update(_ENVIRONMENT | own)
    _forbid_network()
    kind: Kind = import_module(f"benchmarks.faults.{name}").Faults(folder)
    pipe.send((kind.size, kind.bound_s))
    for seed in seeds:
        try:
            problems: list[Problem] = kind.run(seed)
        except Exception as error:
            traceback.print_exc(file=log)
            problems = [("traceback", f"outside of any reader: {one_line(error)}")]
        pipe.send(problems)


def _forbid_network() -> None:
    real = socket.getaddrinfo

    def refuse(host: Any, *args: Any, **options: Any) -> Any:
        if host in (None, "localhost", "127.0.0.1", "::1"):
            return real(host, *args, **options)
        raise OSError(f"a trial tried to reach {host}")

    socket.getaddrinfo = refuse
