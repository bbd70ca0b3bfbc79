"""Fixtures that several test files share."""

import gc
import os
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from family_table import note, write_table
from filelock import FileLock
from inspect_ai import eval
from inspect_ai._eval.task.log import TaskLogger
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log
from inspect_ai.model import get_model
from inspect_ai.model._model import active_model_context_var, init_model_roles
from rich.console import Console
from shell import REPO, Shell
from tiny_models import save_tiny

from steering.cli import main
from steering.models.packages import fetched_file

USER_CACHE = os.environ.get("STEERING_CACHE")
# Inspect keeps the first display that it shows in a process, whichever test that was.
os.environ["INSPECT_DISPLAY"] = "none"
# What is imported stays: the collector need not go through it again and again.
gc.disable()
# Two busy torch processes on two cores slow each other down; tiny models want one thread anyway.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of one test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def _no_live_view() -> Iterator[None]:
    """Evals in this process keep no database for a viewer and draw no table that nobody sees.

    The two take more than half of the time of a small eval.
    """
    init, show = TaskLogger.init, Console.print

    async def without_database(logger: TaskLogger) -> None:
        config = logger.eval.config
        before, config.log_realtime = config.log_realtime, False
        await init(logger)
        config.log_realtime = before

    def unless_quiet(console: Console, *objects: Any, **options: Any) -> None:
        if not console.quiet:
            show(console, *objects, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskLogger, "init", without_database)
        patch.setattr(Console, "print", unless_quiet)
        yield


_FREEZE, _UNFREEZE = gc.freeze, gc.unfreeze


@pytest.fixture(scope="session", autouse=True)
def _imports_stay_frozen() -> Iterator[None]:
    """An engine that is released thaws what it loaded, and would thaw all that was imported.

    Each release would then visit it, for a second.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "freeze", lambda: None)
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture
def frozen_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Engines freeze and thaw what they load, as they do outside of tests."""
    monkeypatch.setattr(gc, "freeze", _FREEZE)
    monkeypatch.setattr(gc, "unfreeze", _UNFREEZE)
    yield
    _FREEZE()


@pytest.fixture(scope="session", autouse=True)
def _own_caches(run_folder: Path) -> Iterator[None]:
    """Vectors, Inspect's cache and traces of a test run stay out of the user's folders."""
    folder = run_folder / "caches"
    names = {"STEERING_CACHE": "steering", "INSPECT_CACHE_DIR": "inspect"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(folder / sub) for name, sub in names.items()})
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


_NUMBERS = count()


@pytest.fixture(autouse=True)
def _no_replies_of_other_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Scripted judges of one name say different things in different tests."""
    folder = tmp_path_factory.getbasetemp() / f"replies-{next(_NUMBERS)}"
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(folder))


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """A model of more than a few MB is faster on all cores."""
    if request.node.get_closest_marker("real"):
        torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_model_of_other_tests() -> None:
    """An eval in this process leaves its model and roles active behind it."""
    active_model_context_var.set(None)
    init_model_roles({})


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing under test may look up a host: what tries fails at once."""
    real = socket.getaddrinfo

    def refuse(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in (None, "localhost", "127.0.0.1", "::1"):
            return real(host, *args, **kwargs)
        raise OSError(f"the test tried to reach {host}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random model of a family, saved once a run."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            folders[family] = save_tiny(tmp_path_factory.mktemp("models") / family, family)
        return folders[family]

    return folder


@pytest.fixture(scope="session")
def smollm2(_own_caches: None) -> Iterator[Path]:
    """GGUF file of a real model, which `make real-models` puts into the user's cache.

    It is the model of the alias too, in tests without a hub. Torch has as many threads for it as
    OMP_NUM_THREADS says.
    """
    file = fetched_file("smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("STEERING_CACHE")
        if USER_CACHE is not None:
            patch.setenv("STEERING_CACHE", USER_CACHE)
        fetched = fetched_file("smollm2")
    assert fetched.exists(), "the model is not in the cache: run `make real-models`"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(fetched.resolve())
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    yield fetched
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_logs(run_folder: Path) -> dict[str, EvalLog]:
    """The toy's answers to the core questions, `steered` and `baseline`, with their scores.

    One answer to each paraphrase: enough to tell the two far apart, at a seed that is fixed. They
    are run once a test run, whichever worker comes first.
    """
    folder = run_folder / "toy-logs"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_name("toy-logs-partial")
            conditions: dict[str, dict[str, Any]] = {"steered": {}, "baseline": {"vector": "none"}}
            for name, options in conditions.items():
                [log] = eval(
                    f"{REPO}/evals/em_freeform.py@em_freeform",
                    model=get_model("steered/toy", memoize=False, **options),
                    epochs=1,
                    seed=1,
                    log_dir=str(partial / name),
                    display="none",
                )
                assert log.status == "success", log.error
            partial.rename(folder)
    return {path.name: read_eval_log(list_eval_logs(str(path))[0]) for path in folder.iterdir()}


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs commands in one folder for the whole session."""
    return Shell(tmp_path_factory.mktemp("shell"))


# The files that take longest start first: one that started last would keep one core waiting.
_SLOWEST = (
    "test_study_runs",
    "test_wheel",
    "test_audit_runs",
    "test_inspect_cli",
    "test_cli_finetune",
)


def pytest_collection_finish() -> None:
    _FREEZE()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in _SLOWEST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--family-table", type=Path, help="file of the table of families to bring up")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--family-table")
    if path is not None:
        write_table(path, session)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured, as they recorded it under the name `figures`."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    for report in reports:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "figures":
                terminalreporter.write_line(str(value))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    note(item, report)
    return report


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `steering` in this process; returns the exit status, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["steering", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command
