"""Releasing an engine: whatever runs or waits ends, and the engine loads and answers again."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conformance import GREEDY, prompt

from steering.engines import Engine, EngineError, Request, hf
from steering.engines.hf import HFEngine
from steering.engines.sampling import Sampling
from steering.engines.vllm import VLLMEngine
from steering.models import find_model, load_model

TIMEOUT = 20
# Runs until it is stopped, as far as a test waits: token 0 ends answers.
LONG = Request(prompt(1), Sampling(temperature=0, logit_bias={0: -100.0}), 480)
SHORT = Request(prompt(2), GREEDY, 3)
RELEASED = r"released.*[Ss]ubmit it again"


@pytest.fixture
def engine(tiny_folder: Callable[[str], Path]) -> Iterator[HFEngine]:
    engine = HFEngine(find_model(str(tiny_folder("llama"))), device="cpu")
    engine.allow_batch(2)
    yield engine
    engine.release()


def wait_until_decoding(engine: Engine) -> None:
    deadline = time.monotonic() + TIMEOUT
    while engine.telemetry().passes < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_ended(futures: "list[Future[Any]]", match: str = RELEASED) -> None:
    """All end soon, those without a result with one clear error."""
    assert not wait(futures, TIMEOUT).not_done, "nobody will ever answer"
    for future in futures:
        if error := future.exception(0):
            with pytest.raises(EngineError, match=match):
                raise error


def test_no_running_or_waiting_request_and_no_call_stays_pending(engine: HFEngine) -> None:
    """From the main thread, in the midst of a batch of two with three that wait."""
    alone = engine.submit(SHORT).result(TIMEOUT).tokens
    futures: list[Future[Any]] = [engine.submit(LONG) for _ in range(5)]
    wait_until_decoding(engine)
    entered, gate = threading.Event(), threading.Event()

    def work(*_: Any) -> None:
        entered.set()
        gate.wait(TIMEOUT)

    futures += [engine.call(work), engine.call(lambda *_: None)]
    assert entered.wait(TIMEOUT)
    threading.Timer(0.1, gate.set).start()
    engine.release()
    assert all(future.done() for future in futures)
    assert_ended(futures)
    assert all(future.exception(0) for future in futures[:5])
    assert engine.submit(SHORT).result(TIMEOUT).tokens == alone


def test_a_release_during_loading_ends_what_waits_for_the_weights(
    engine: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request loads once, after that load has ended: one copy of the weights at a time."""
    entered, gate, loads = threading.Event(), threading.Event(), list[str]()

    def slow(*args: Any, **options: Any) -> Any:
        loads.append("begins")
        entered.set()
        assert gate.wait(TIMEOUT)
        loads.append("ends")
        return load_model(*args, **options)

    monkeypatch.setattr(hf, "load_model", slow)
    monkeypatch.setattr(hf, "_LAST_PASS_S", 0.2)
    futures: list[Future[Any]] = [engine.submit(SHORT), engine.call(lambda *_: None)]
    assert entered.wait(TIMEOUT)
    engine.release()
    assert_ended(futures)
    assert all(future.exception(0) for future in futures)
    again = engine.submit(SHORT)
    time.sleep(0.1)
    assert loads == ["begins"]
    gate.set()
    assert len(again.result(TIMEOUT).tokens) <= 3
    assert loads == ["begins", "ends"] * 2


def test_releases_at_once_from_many_threads_end_everything_once(engine: HFEngine) -> None:
    engine.release()  # nothing runs yet
    futures: list[Future[Any]] = [engine.submit(LONG) for _ in range(4)]
    wait_until_decoding(engine)
    threads = [threading.Thread(target=engine.release) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert_ended(futures)
    engine.release()
    assert engine.submit(SHORT).result(TIMEOUT)


@pytest.mark.parametrize("where", ["call", "callback"])
def test_a_release_from_the_model_s_own_thread_does_not_wait_for_itself(
    engine: HFEngine, where: str
) -> None:
    others: list[Future[Any]] = []
    if where == "call":
        call = engine.call(lambda *_: engine.release())
        others.append(engine.submit(LONG))
        assert_ended([call])
    else:
        short = engine.submit(SHORT)
        short.add_done_callback(lambda _: engine.release())
        others.append(engine.submit(LONG))
        assert short.result(TIMEOUT)
    assert_ended(others)
    assert engine.submit(SHORT).result(TIMEOUT)


def test_requests_that_come_while_releases_run_are_answered_or_told(engine: HFEngine) -> None:
    engine.submit(SHORT).result(TIMEOUT)
    futures: list[Future[Any]] = []
    over = threading.Event()

    def submit() -> None:
        while not over.is_set():
            futures.append(engine.submit(SHORT))
            time.sleep(0.002)

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        time.sleep(0.02)
        engine.release()
    over.set()
    for thread in threads:
        thread.join()
    assert_ended(futures)
    assert futures[-1].result(TIMEOUT)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_call_that_breaks_off_the_thread_takes_nobody_with_it(
    engine: HFEngine, error: type[BaseException]
) -> None:
    def work(*_: Any) -> None:
        raise error("injected")

    long = engine.submit(SHORT)
    with pytest.raises(EngineError, match=f"{error.__name__}.*injected"):
        engine.call(work).result(TIMEOUT)
    assert long.result(TIMEOUT)
    assert engine.submit(SHORT).result(TIMEOUT)


@pytest.mark.parametrize("when", ["pass", "loading", "scheduler"])
def test_a_worker_thread_that_dies_leaves_nobody_waiting(
    engine: HFEngine, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise SystemExit("injected")

    owner, name = {
        "pass": (hf.Decoder, "forward"),
        "loading": (hf, "load_model"),
        "scheduler": (hf.Scheduler, "take"),
    }[when]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, die)
        futures: list[Future[Any]] = [engine.submit(SHORT) for _ in range(3)]
        assert_ended(futures, "SystemExit.*injected")
        assert all(future.exception(0) for future in futures)
    assert engine.submit(SHORT).result(TIMEOUT)


@pytest.fixture
def vllm(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[VLLMEngine]:
    """The vLLM engine as far as it goes without vLLM: its queue, its thread and its release."""
    exceptions = ModuleType("vllm.v1.engine.exceptions")
    exceptions.EngineDeadError = type("EngineDeadError", (Exception,), {})  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(__import__("sys").modules, name, ModuleType(name))
    monkeypatch.setitem(__import__("sys").modules, exceptions.__name__, exceptions)
    engine = VLLMEngine(find_model(str(tiny_folder("llama"))))
    yield engine
    engine.release()


def test_a_release_of_vllm_ends_requests_and_calls_with_the_same_error(
    vllm: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, gate = threading.Event(), threading.Event()

    async def answer(*_: Any) -> Any:
        entered.set()
        await asyncio.sleep(3600)

    monkeypatch.setattr(vllm, "_answer", answer)
    futures: list[Future[Any]] = [vllm.submit(SHORT), vllm.submit(SHORT)]
    cancelled = vllm.submit(SHORT)
    assert entered.wait(TIMEOUT)
    entered.clear()

    def work(*_: Any) -> None:
        entered.set()
        gate.wait(TIMEOUT)

    futures += [vllm.call(work), vllm.call(lambda *_: None)]
    assert entered.wait(TIMEOUT)
    cancelled.cancel()
    threading.Timer(0.1, gate.set).start()
    threads = [threading.Thread(target=vllm.release) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert_ended(futures)
    assert all(future.exception(0) for future in futures[:2])
    assert cancelled.cancelled()
    assert vllm.call(lambda loaded, _: loaded.shape.width).result(TIMEOUT) == 32


def test_a_release_of_vllm_from_its_own_thread_does_not_wait_for_itself(
    vllm: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    async def answer(*_: Any) -> Any:
        begun.set()
        await asyncio.sleep(3600)

    async def releases(*_: Any) -> Any:
        vllm.release()

    monkeypatch.setattr(vllm, "_answer", answer)
    waiting = vllm.submit(SHORT)
    assert begun.wait(TIMEOUT)
    monkeypatch.setattr(vllm, "_answer", releases)
    assert_ended([vllm.submit(SHORT), waiting])
    assert vllm.tokenizer().result(TIMEOUT)


def test_a_request_that_vllm_has_not_begun_with_ends_with_the_error_too(
    vllm: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(*_: Any) -> Any:
        await asyncio.sleep(3600)

    monkeypatch.setattr(vllm, "_answer", answer)
    for count in range(1, 20):
        futures: list[Future[Any]] = [vllm.submit(SHORT) for _ in range(count)]
        vllm.release()
        assert not any(future.cancelled() for future in futures)
        assert_ended(futures)
