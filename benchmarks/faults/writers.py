"""Writing that is stopped: the old content or the new one stands, and the next run writes it.

Either a call of the system fails (no space, no permission, Ctrl-C, a limit on the size of files) at
a random place of one writing, once or from then on; or a process is killed, at such a call, or at a
random moment while it writes one version after another.
"""

import builtins
import errno
import io
import itertools
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner

from benchmarks.faults import tiny
from benchmarks.faults.fakes import fake, run_eval, says_scores
from benchmarks.faults.trials import Problem, doing, draw_of, killed_after, one_line, refusal
from steering.cli import commands
from steering.files import recover_folder, write_folder, write_whole
from steering.training.checkpoint import TrainingCheckpoint
from steering.vectors import SteeringVector
from steering.vectors.formats import read_vector, write_vector

_CALLS = ("rename", "replace", "fsync", "mkdir", "link", "symlink")
_ERRORS: list[Callable[[], BaseException]] = [
    lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    lambda: PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    lambda: OSError(errno.EROFS, os.strerror(errno.EROFS)),
    KeyboardInterrupt,
    MemoryError,
]


@contextmanager
def failing(
    folder: Path, at: int, error: Callable[[], BaseException], *, on: bool
) -> Iterator[None]:
    """The call number `at` that changes something below a folder fails, and with `on` all later."""
    count = itertools.count(1)
    real_open, real = io.open, {name: getattr(os, name) for name in _CALLS}

    def fails() -> None:
        number = next(count)
        if number == at or (on and number > at):
            raise error()

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wxa+") and str(file).startswith(str(folder)):
            fails()
        return real_open(file, mode, *args, **options)

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if name == "fsync" or str(args[0]).startswith(str(folder)):
                fails()
            return real[name](*args, **options)

        return call

    builtins.open = io.open = opened  # type: ignore[assignment]
    for name in _CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield
    finally:
        builtins.open = io.open = real_open  # type: ignore[assignment]
        for name in _CALLS:
            setattr(os, name, real[name])


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: a write stops in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@dataclass(frozen=True)
class Writer:
    """Writes a version of something at a path, and reads which version stands there.

    Attributes:
        write: Writes a version, counted from 0.
        version: The version; None if there is nothing; raises if it is not whole.
        forked: Whether it may run in a forked process.
    """

    write: Callable[[Path, int], object]
    version: Callable[[Path], int | None]
    forked: bool = True


def _bytes(version: int) -> bytes:
    return f"{version:06d}".encode() * (2000 + 7 * (version % 50))


def _version_of_bytes(path: Path) -> int | None:
    if not path.exists():
        return None
    content = path.read_bytes()
    version = int(content[:6])
    if content != _bytes(version):
        raise ValueError(f"{len(content)} bytes that are no version")
    return version


_PARTS = ("adapter_model.safetensors", "adapter_config.json", "steering.json", "deep/part")


def _fill(folder: Path, version: int) -> None:
    (folder / "deep").mkdir()
    for name in _PARTS:
        (folder / name).write_bytes(_bytes(version))


def _version_of_folder(path: Path) -> int | None:
    """As a reader sees it; while the process runs that could not put it back, beside its place."""
    recover_folder(path)
    if not path.exists():
        aside = list(path.parent.glob(f".{path.name}.*.old"))
        if not aside:
            return None
        [path] = aside
    versions = {_version_of_bytes(path / name) for name in _PARTS}
    if len(versions) != 1 or None in versions:
        raise ValueError(f"a folder of the versions {versions}")
    return versions.pop()


def _vector(version: int) -> SteeringVector:
    return tiny.random_vector(draw_of("version", 0), [1], provenance={"version": version})


def _version_of_vector(path: Path) -> int | None:
    return int(read_vector(path).provenance["version"]) if path.exists() else None


def _checkpoint(path: Path, version: int) -> None:
    """A training run of `version + 1` epochs; the cache is below the path."""
    os.environ["STEERING_CACHE"] = str(path)
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.AdamW([parameter])
    run = TrainingCheckpoint("run")
    for epoch in range(version % 5 + 1):
        parameter.grad = torch.ones(4)
        optimizer.step()
        run.save(float(version), float(epoch), {"p": parameter}, optimizer)


def _version_of_checkpoint(path: Path) -> int | None:
    os.environ["STEERING_CACHE"] = str(path)
    parameter = torch.nn.Parameter(torch.zeros(4))
    run = TrainingCheckpoint("run")
    if not (path / "training" / "run.safetensors").exists():
        return None
    if not run.resume({"p": parameter}, torch.optim.AdamW([parameter])):
        raise ValueError("the checkpoint is not resumed")
    return int(run.losses[-1])


WRITERS = {
    "write_whole": Writer(lambda path, n: write_whole(path, _bytes(n)), _version_of_bytes),
    "write_folder": Writer(
        lambda path, n: write_folder(path, lambda folder: _fill(folder, n)), _version_of_folder
    ),
    "vector.safetensors": Writer(
        lambda path, n: write_vector(_vector(n), path), _version_of_vector
    ),
    "vector.gguf": Writer(lambda path, n: write_vector(_vector(n), path), _version_of_vector),
    "checkpoint": Writer(_checkpoint, _version_of_checkpoint),
}


class Faults:
    """Writers that are stopped."""

    size = 1
    bound_s = 90.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "trial"
        self._shared = folder
        answers = {f"q{n}": ["0 90 80", "95 90 80"] for n in range(6)}
        judge = fake("scores", says_scores)
        run_eval(answers, folder / "logs", model="said", judges=judge)
        write_vector(_vector(0), folder / "theirs.gguf")

    def run(self, seed: int) -> list[Problem]:
        """One writing."""
        draw = draw_of("writers", seed)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        kind = draw.choice(
            ["call", "call", "call", "kill", "kill at call", "kill at call", "size", "command"]
        )
        if kind == "command":
            return self._command(draw)
        name = draw.choice(list(WRITERS))
        writer, path = WRITERS[name], self._folder / name
        old = draw.random() < 0.8
        if old:
            writer.write(path, 1)
        shown = f"{name}, {kind}{'' if old else ', nothing there before'}"
        doing(shown)
        allowed: set[int | None] = {1 if old else None, 2}
        if kind == "kill":
            killed_after(lambda: self._on_and_on(writer, path), draw.uniform(0.0, 0.05))
            allowed = {1 if old else None, *range(2, 100_000)}
        elif kind == "kill at call":
            at = draw.choice([draw.randrange(1, 14), draw.randrange(10, 15)])
            killed_after(lambda: self._until_killed(writer, path, at), 30)
        else:
            with suppress(Exception, KeyboardInterrupt), self._fault(kind, draw):
                writer.write(path, 2)
        problems = self._state(writer, path, allowed)
        problems += self._heals(writer, path)
        return [(verdict, f"{shown}: {what}") for verdict, what in problems]

    def _on_and_on(self, writer: Writer, path: Path) -> None:
        for version in itertools.count(2):
            writer.write(path, version)

    def _until_killed(self, writer: Writer, path: Path, at: int) -> None:
        def die() -> BaseException:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        with failing(self._folder, at, die, on=False):
            writer.write(path, 2)

    @contextmanager
    def _fault(self, kind: str, draw: random.Random) -> Iterator[None]:
        if kind == "size":
            with small_disk(draw.choice([0, 1, 4096, 10_000])):
                yield
        else:
            error, at = (
                draw.choice(_ERRORS),
                draw.choice([draw.randrange(1, 14), draw.randrange(10, 15)]),
            )
            with failing(self._folder, at, error, on=draw.random() < 0.5):
                yield

    def _state(self, writer: Writer, path: Path, allowed: set[int | None]) -> list[Problem]:
        """Whether the old content or the new one stands there."""
        try:
            version = writer.version(path)
        except Exception as error:
            return [("half-written", one_line(error))]
        if version not in allowed:
            verdict = "lost" if version is None else "wrong"
            return [(verdict, f"version {version} stands there")]
        return []

    def _heals(self, writer: Writer, path: Path) -> list[Problem]:
        """The next run writes, and nothing is left that looks like a result."""
        try:
            writer.write(path, 3)
            version = writer.version(path)
        except Exception as error:
            return [("lost", f"the next run fails: {one_line(error)}")]
        if version != 3:
            return [("lost", f"the next run leaves version {version}")]
        left = [
            other.name
            for other in path.parent.iterdir()
            if other != path and not (other.name.startswith(".") and other.suffix not in _RESULTS)
        ]
        return [("half-written", f"leftovers {left}")] if left else []

    def _command(self, draw: random.Random) -> list[Problem]:
        """A command of `steering` that writes."""
        out, logs = self._folder / "out", str(self._shared / "logs")
        theirs = str(self._shared / "theirs.gguf")
        arguments, files = draw.choice(
            [
                (["rescore", logs, "--out", f"{out}.csv"], [f"{out}.csv"]),
                (["claims", logs, "--json", f"{out}.json"], [f"{out}.json"]),
                (["convert", theirs, f"{out}.safetensors"], [f"{out}.safetensors"]),
                (["convert", theirs, f"{out}.gguf"], [f"{out}.gguf"]),
                (["report", logs, "--out", str(out)], [f"{out}/report.md", f"{out}/report.html"]),
            ]
        )
        reference = CliRunner().invoke(commands, arguments)
        if reference.exit_code:
            raise RuntimeError(f"{arguments}: {reference.output}")
        whole = {file: Path(file).read_bytes() for file in files if Path(file).exists()}
        old = draw.random() < 0.5
        for file in whole:
            Path(file).write_bytes(b"old") if old else Path(file).unlink()
        kind = draw.choice(["call", "call", "size"])
        shown = f"steering {arguments[0]}, {kind}"
        doing(shown)
        with self._fault(kind, draw):
            result = CliRunner().invoke(commands, arguments)
        error = result.exception
        problems = []
        if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
            problem = refusal(error)
            problems = [problem] if problem and not isinstance(error, MemoryError) else []
        for file, content in whole.items():
            there = Path(file).read_bytes() if Path(file).exists() else None
            if there not in (b"old" if old else None, content):
                size = None if there is None else len(there)
                problems.append(("half-written", f"{Path(file).name} has {size} bytes"))
        return [(verdict, f"{shown}: {what}") for verdict, what in problems]


_RESULTS = (".safetensors", ".gguf", ".json", ".csv", ".md", ".html")
