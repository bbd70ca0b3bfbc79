"""Rows that join a running batch and leave it, as they do alone: whatever comes between."""

import random
import threading
import time
from collections import abc
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_vectors import make_vector
from test_engine import CASES, FAMILIES, GREEDY, plain, steer
from tiny_models import WIDTH, tokenizer

from steering.engines import EngineError, Request, RequestOutput, cache, decoder, sequences
from steering.engines.hf import HFEngine
from steering.engines.scheduler import Scheduler
from steering.engines.sequences import Sequence
from steering.engines.settings import Sampling
from steering.models import ModelSource, find_model
from steering.vectors import SteeringVector, VectorError
from steering.vectors.batch import InterventionBatch
from steering.vectors.interventions import Intervention, resolve

TIMEOUT = 60
END = 0
# Never ends by itself: its length is known.
ENDLESS = Sampling(temperature=0, logit_bias={END: -100})
MakeEngine = Callable[..., HFEngine]


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, 250) for _ in range(length))


@dataclass
class Watch:
    """The forward passes of a model.

    Attributes:
        passes: (sequences, tokens of each) of every pass.
        before: Called with the number of a pass before it runs; may raise.
    """

    before: Callable[[int], Any] | None = None
    passes: list[tuple[int, int]] = field(default_factory=list)

    def see(self, _: Any, args: tuple[torch.Tensor]) -> None:
        self.passes.append(tuple(args[0].shape))  # type: ignore[arg-type]
        if self.before is not None:
            self.before(len(self.passes) - 1)

    @property
    def prompts(self) -> list[tuple[int, int]]:
        """Passes that read prompts; no prompt may be a single token long."""
        return [shape for shape in self.passes if shape[1] > 1]

    @property
    def decoded(self) -> list[int]:
        """Sequences of each pass that decoded."""
        return [size for size, tokens in self.passes if tokens == 1]


@contextmanager
def watched(engine: HFEngine, before: Callable[[int], Any] | None = None) -> Iterator[Watch]:
    model = engine.call(lambda loaded, _: loaded.model).result(TIMEOUT)
    watch = Watch(before)
    handle = model.get_input_embeddings().register_forward_pre_hook(watch.see)
    try:
        yield watch
    finally:
        handle.remove()


def hand_over(
    engine: HFEngine,
    requests: abc.Sequence[Request],
    prepare: "Callable[[list[Future[RequestOutput]]], Any] | None" = None,
) -> "list[Future[RequestOutput]]":
    """All at once: the engine is held until the last has come, and until `prepare` is through."""
    gate = threading.Event()
    engine.call(lambda *_: gate.wait(TIMEOUT))
    futures = [engine.submit(request) for request in requests]
    if prepare is not None:
        prepare(futures)
    gate.set()
    return futures


def answer(engine: HFEngine, requests: abc.Sequence[Request]) -> list[RequestOutput]:
    return results(hand_over(engine, requests))


def results(futures: "abc.Sequence[Future[RequestOutput]]") -> list[RequestOutput]:
    return [future.result(TIMEOUT) for future in futures]


def tokens(outputs: abc.Sequence[RequestOutput]) -> list[list[int]]:
    return [result.tokens for result in outputs]


def assert_same(
    outputs: abc.Sequence[RequestOutput], expected: abc.Sequence[RequestOutput]
) -> None:
    """Equal in tokens and all that is told, and as near in log probabilities as rounding lets."""
    assert tokens(outputs) == tokens(expected)
    for one, other in zip(outputs, expected, strict=True):
        for name in ("text", "stop_reason", "num_generated"):
            assert getattr(one, name) == getattr(other, name)
        values = [[item.logprob for item in result.logprobs] for result in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=2e-4)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def make_engine(tiny_folder: Callable[[str], Path]) -> MakeEngine:
    def make(family: str = "qwen3.5", batch: int = 8) -> HFEngine:
        engine = HFEngine(find_model(str(tiny_folder(family))), device="cpu")
        engine.allow_batch(batch)
        return engine

    return make


@pytest.fixture(scope="module")
def alone(make_engine: MakeEngine) -> Callable[..., list[RequestOutput]]:
    """What requests come to one at a time, in an engine that never has two in a batch."""
    engines: dict[str, HFEngine] = {}

    def one_by_one(requests: abc.Sequence[Request], family: str = "qwen3.5") -> list[RequestOutput]:
        engine = engines.setdefault(family, make_engine(family, 1))
        return answer(engine, requests)

    return one_by_one


def _mixture() -> list[Request]:
    """30 requests that differ in all that a request may differ in."""
    rng = random.Random(5)
    cases = [*CASES.values()]
    lengths = [1, 2, 60, 3, 55, *(rng.randrange(1, 61) for _ in range(25))]
    return [
        Request(
            prompt(length, seed=index),
            Sampling(
                temperature=(index % 4) * 0.4,
                top_p=(1.0, 0.9, 0.7)[index % 3],
                top_k=(0, 0, 20)[index % 3],
                presence_penalty=(0.0, 0.0, 0.0, 0.0, 0.6)[index % 5],
                seed=index,
            ),
            max_tokens=(1, 24, 3, 15, 6)[index % 5] + rng.randrange(4),
            interventions=cases[index % len(cases)],
            top_logprobs=index % 3,
        )
        for index, length in enumerate(lengths)
    ]


MIXTURE = _mixture()


@pytest.fixture(scope="module")
def expected(family: str, alone: Callable[..., list[RequestOutput]]) -> list[RequestOutput]:
    return alone(MIXTURE, family)


@pytest.fixture(scope="module")
def four(family: str, make_engine: MakeEngine) -> HFEngine:
    return make_engine(family, 4)


def test_alone_is_what_transformers_generates(family: str, four: HFEngine, alone: Any) -> None:
    """The measure of all that follows, beside one that is not ours."""
    requests = [Request(prompt(length), GREEDY, 30) for length in (1, 3, 60)]
    model = four.call(lambda loaded, _: loaded.model).result(TIMEOUT)
    for request, result in zip(requests, alone(requests, family), strict=True):
        ids = torch.tensor([request.prompt])
        generated = model.generate(ids, max_new_tokens=30, do_sample=False)[
            0, len(request.prompt) :
        ]
        assert result.tokens == [token for token in generated.tolist() if token != END]


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_thirty_rows_that_take_turns_in_four_places_equal_each_alone(
    four: HFEngine, expected: list[RequestOutput], reverse: bool
) -> None:
    order = range(len(MIXTURE))[:: -1 if reverse else 1]
    with watched(four) as watch:
        outputs = answer(four, [MIXTURE[index] for index in order])
    assert_same(outputs, [expected[index] for index in order])
    # They were decoded together indeed: four at a time but for the last of them.
    assert max(watch.decoded) == 4
    assert watch.decoded.count(4) > 0.7 * len(watch.decoded)


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_rows_that_trickle_in_while_others_are_decoded_equal_each_alone(
    four: HFEngine, expected: list[RequestOutput], reverse: bool
) -> None:
    coming = list(range(len(MIXTURE)))[:: -1 if reverse else 1]
    running: dict[Future[RequestOutput], int] = {}
    outputs: dict[int, RequestOutput] = {}

    def feed() -> None:
        while coming or running:
            while coming and len(running) < 3:
                index = coming.pop(0)
                running[four.submit(MIXTURE[index])] = index
            for future in wait(running, TIMEOUT, FIRST_COMPLETED).done:
                outputs[running.pop(future)] = future.result(0)

    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(TIMEOUT)
    assert_same([outputs[index] for index in range(len(MIXTURE))], expected)


def test_answers_longer_than_the_spare_columns_with_newcomers_of_all_lengths(
    family: str, make_engine: MakeEngine, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two places: others join and leave beside requests that outgrow the store several times."""
    monkeypatch.setattr(cache, "_SPARE_COLUMNS", 12)
    engine = make_engine(family, 2)
    steered = [CASES["add"], (), CASES["map"], CASES["ablate rank 2"], CASES["cap response"]]
    shapes = [(3, 60), (20, 5), (60, 9), (1, 14), (40, 20), (2, 3), (8, 50), (59, 25)]
    requests = [
        Request(
            prompt(length, seed),
            ENDLESS.model_copy(update={"temperature": seed % 2, "seed": seed}),
            count,
            case,
        )
        for seed, ((length, count), case) in enumerate(
            zip(shapes, [*steered, *steered], strict=False)
        )
    ]
    outputs = answer(engine, requests)
    assert [result.num_generated for result in outputs] == [count for _, count in shapes]
    assert_same(outputs, alone(requests, family))


def test_what_a_row_tells_of_itself_does_not_depend_on_who_joined_it(
    make_engine: MakeEngine, alone: Any
) -> None:
    """Logs hold the largest change, and two runs of one condition should agree on it."""
    engine = make_engine(batch=2)
    requests = [Request(prompt(6), ENDLESS, 40, CASES["map rank 4 response"])]
    requests += [Request(prompt(4, seed), ENDLESS, 2) for seed in range(20)]
    outputs, [expected] = answer(engine, requests)[0], alone(requests[:1])
    assert outputs.change == pytest.approx(expected.change, rel=1e-3)


def test_prompts_that_are_read_in_several_passes_equal_each_alone(
    four: HFEngine, expected: list[RequestOutput], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "_PREFILL_TOKENS", 64)
    with watched(four) as watch:
        outputs = answer(four, MIXTURE)
    assert_same(outputs, expected)
    assert all(count * width <= 64 for count, width in watch.prompts)


@pytest.fixture(scope="module")
def qwen(make_engine: MakeEngine) -> HFEngine:
    """For tests that leave it as it was: nothing in them fails."""
    return make_engine(batch=16)


def _sampled(ids: tuple[int, ...], case: Any, seed: int = 0, count: int = 6) -> Request:
    return Request(ids, Sampling(seed=seed, logit_bias={END: -100}), count, case, top_logprobs=1)


def test_rows_of_one_prompt_under_one_condition_read_it_once(
    family: str, four: HFEngine, alone: Any
) -> None:
    requests = [_sampled(prompt(9), CASES["all three sites"], seed) for seed in range(4)]
    with watched(four) as watch:
        outputs = answer(four, requests)
    assert watch.prompts == [(1, 9)]
    assert_same(outputs, alone(requests, family))
    assert len({tuple(result.tokens) for result in outputs}) == len(requests)


BY_RESPONSE = [case for case in CASES.values() if not any(item.on_prompt for item in case)]


@pytest.mark.parametrize(
    ("cases", "read"),
    [
        (BY_RESPONSE, 1),
        ([CASES["add"], (), CASES["add"], CASES["map"], CASES["add last"], ()], 4),
        ([CASES["two at one site"], CASES["the same, turned round"]], 2),
        ([steer(plain(), 10), steer(plain(), 9), steer(plain([2]), 10)], 3),
        # The same on the prompt, another on the answer.
        ([CASES["add last"] + CASES["add response"], CASES["add last"]], 1),
    ],
    ids=["on answers only", "on prompts too", "in another order", "of another size", "shared part"],
)
def test_a_prompt_is_read_once_for_all_that_steer_it_alike(
    qwen: HFEngine, alone: Any, cases: abc.Sequence[Any], read: int
) -> None:
    requests = [_sampled(prompt(9), case) for case in cases]
    with watched(qwen) as watch:
        outputs = answer(qwen, requests)
    assert watch.prompts == [(read, 9)]
    assert_same(outputs, alone(requests))


def test_prompts_that_only_begin_alike_are_not_taken_for_one(qwen: HFEngine, alone: Any) -> None:
    requests = [_sampled(prompt(9)[:length], CASES["add"]) for length in (9, 8, 9, 2)]
    with watched(qwen) as watch:
        assert_same(answer(qwen, requests), alone(requests))
    assert watch.prompts == [(3, 9)]


def test_a_row_that_ends_leaves_before_the_next_pass(qwen: HFEngine) -> None:
    requests = [Request(prompt(4, count), ENDLESS, count, CASES["add"]) for count in (3, 1, 7, 5)]
    with watched(qwen) as watch:
        answer(qwen, requests)
    # The pass over the prompts gives the first token of each.
    assert watch.passes == [(4, 4), *[(3, 1)] * 2, *[(2, 1)] * 2, *[(1, 1)] * 2]


def test_a_row_that_waits_takes_the_place_of_one_that_ended(four: HFEngine) -> None:
    shapes = [(4, 3), (4, 9), (4, 9), (4, 5), (6, 3), (2, 2)]
    requests = [
        Request(prompt(length, seed), ENDLESS, count) for seed, (length, count) in enumerate(shapes)
    ]
    with watched(four) as watch:
        answer(four, requests)
    # fmt: off
    assert watch.passes == [
        (4, 4), (4, 1), (4, 1),  # the one of 3 tokens is over
        (1, 6), (4, 1), (4, 1),  # two are over: of 5 tokens and of 3
        (1, 2), (3, 1),  # the last is over
        (2, 1), (2, 1), (2, 1),
    ]
    # fmt: on


def test_more_rows_join_when_more_are_allowed(make_engine: MakeEngine, alone: Any) -> None:
    engine = make_engine(batch=1)
    requests = [Request(prompt(5, seed), ENDLESS, 12, CASES["add"]) for seed in range(3)]
    allowed = {4: 2, 6: 3}
    with watched(engine, lambda at: engine.allow_batch(allowed.get(at, 1))) as watch:
        outputs = answer(engine, requests)
    assert_same(outputs, alone(requests))
    assert watch.decoded[:4] == [1] * 4
    assert max(watch.decoded) == 3


# Faults. Each test has an engine of its own: after one, an engine may allow smaller batches.

GOOD = [
    Request(
        prompt(3 + 5 * index, index),
        ENDLESS.model_copy(update={"temperature": index % 2, "seed": index}),
        8 + 3 * (index % 4),
        case,
        top_logprobs=0,
    )
    for index, case in enumerate(
        [
            CASES["add"],
            (),
            CASES["map"],
            CASES["ablate rank 2"],
            CASES["add response"],
            CASES["all three sites"],
        ]
    )
]


@pytest.fixture(scope="module")
def good(alone: Callable[..., list[RequestOutput]]) -> list[RequestOutput]:
    return alone(GOOD)


def test_a_row_cancelled_while_it_is_decoded_leaves_and_disturbs_nobody(
    make_engine: MakeEngine, good: list[RequestOutput]
) -> None:
    engine, futures = make_engine(), list[Future[RequestOutput]]()
    with watched(engine, lambda at: at == 4 and futures[2].cancel()) as watch:
        futures += hand_over(engine, GOOD)
        outputs = results([future for future in futures if future is not futures[2]])
    assert_same(outputs, [*good[:2], *good[3:]])
    assert futures[2].cancelled()
    # A pass over the prompts, and the fourth that decodes after which the request is gone.
    assert watch.decoded[:5] == [6, 6, 6, 6, 5]


def test_a_row_cancelled_while_it_waits_is_never_read(make_engine: MakeEngine) -> None:
    engine, futures = make_engine(batch=2), list[Future[RequestOutput]]()
    requests = [Request(prompt(5, seed), ENDLESS, 6) for seed in range(5)]
    with watched(engine, lambda at: at == 2 and futures[3].cancel()) as watch:
        futures += hand_over(engine, requests)
        results([*futures[:3], futures[4]])
    assert sum(count for count, _ in watch.prompts) == 4


@pytest.mark.parametrize("index", [1, 4], ids=["decoded", "waiting"])
def test_who_waits_for_all_rows_is_told_of_the_cancelled_ones_too(
    make_engine: MakeEngine, index: int
) -> None:
    """concurrent.futures.wait counts a cancelled future once its executor has acknowledged it."""
    engine, futures = make_engine(batch=4), list[Future[RequestOutput]]()
    with watched(engine, lambda at: at == 4 and futures[index].cancel()):
        futures += hand_over(engine, GOOD)
        assert not wait(futures, 3).not_done


@pytest.mark.parametrize("count", [3, 6])
def test_a_row_cancelled_at_the_moment_when_another_ends_disturbs_nobody(
    make_engine: MakeEngine, good: list[RequestOutput], count: int
) -> None:
    """Whoever hears of an answer may at once call off another, here on the engine's own thread."""
    engine = make_engine()

    def prepare(futures: "list[Future[RequestOutput]]") -> None:
        futures[0].add_done_callback(lambda _: futures[1].cancel())

    with watched(engine) as watch:
        futures = hand_over(engine, GOOD[:count], prepare)
        outputs = results([futures[0], *futures[2:]])
    assert_same(outputs, [good[0], *good[2:count]])
    assert len(watch.prompts) == 1, "requests were started again"


def test_a_row_is_not_blamed_for_the_pass_that_failed_beside_one_that_was_cancelled(
    make_engine: MakeEngine, good: list[RequestOutput]
) -> None:
    engine, futures = make_engine(), list[Future[RequestOutput]]()

    def fail_once(at: int) -> None:
        if at == 4:
            futures[1].cancel()
            raise torch.OutOfMemoryError("injected")

    with watched(engine, fail_once):
        futures += hand_over(engine, GOOD[:2])
        assert_same(results(futures[:1]), good[:1])


FAILURES = [torch.OutOfMemoryError("injected"), RuntimeError("injected")]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_pass_that_fails_once_loses_no_row(
    make_engine: MakeEngine, good: list[RequestOutput], at: int, failure: Exception
) -> None:
    """Pass 0 reads the prompts; the others decode."""
    engine, futures = make_engine(batch=4), list[Future[RequestOutput]]()

    def fail_once(now: int) -> None:
        if now == at:
            raise failure

    with watched(engine, fail_once):
        futures += hand_over(engine, GOOD)
        assert_same(results(futures), good)


ON_DEVICE = torch.OutOfMemoryError("injected")
ON_HOST = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize(
    ("failure", "at", "case"),
    [
        (ON_DEVICE, 0, ()),
        (ON_DEVICE, 5, CASES["add"]),
        (ON_HOST, 0, CASES["add"]),
        (ON_HOST, 5, ()),
    ],
    ids=["device, prompts", "device, steered tokens", "host, steered prompts", "host, tokens"],
)
def test_after_running_out_of_memory_batches_are_half_as_large_for_good(
    make_engine: MakeEngine, case: Any, at: int, failure: Exception
) -> None:
    engine = make_engine(batch=8)
    requests = [Request(prompt(7, seed), ENDLESS, 9, case) for seed in range(24)]

    def fail_once(now: int) -> None:
        if now == at:
            raise failure

    with watched(engine, fail_once) as watch:
        answer(engine, requests)
    assert max(watch.decoded[:at] or [8]) == 8
    after = [size for size, tokens in watch.passes[at + 1 :] if tokens == 1]
    assert max(after) == 4


def test_after_another_fault_batches_are_as_large_as_before(make_engine: MakeEngine) -> None:
    engine = make_engine(batch=8)
    requests = [Request(prompt(7, seed), ENDLESS, 9, CASES["add"]) for seed in range(32)]

    def fail_once(now: int) -> None:
        if now == 5:
            raise RuntimeError("injected")

    with watched(engine, fail_once) as watch:
        answer(engine, requests)
    assert watch.decoded[5:13] == [4] * 8
    assert 8 in watch.decoded[21:]


def test_newcomers_for_whom_there_is_no_memory_take_nobody_with_them(
    make_engine: MakeEngine, good: list[RequestOutput]
) -> None:
    engine, failed = make_engine(batch=4), list[int]()
    with watched(engine) as watch:

        def fail_once(now: int) -> None:
            if now and watch.passes[now][1] > 1 and not failed:
                failed.append(now)
                raise torch.OutOfMemoryError("injected")

        watch.before = fail_once
        assert_same(answer(engine, GOOD), good)
    assert failed


@pytest.mark.parametrize("passes", ["prompts", "tokens", "all"])
def test_a_fault_that_stays_fails_every_row_and_the_engine_lives_on(
    make_engine: MakeEngine, good: list[RequestOutput], passes: str
) -> None:
    engine = make_engine(batch=4)
    with watched(engine) as watch:

        def fail(now: int) -> None:
            kind = "tokens" if watch.passes[now][1] == 1 else "prompts"
            if passes in (kind, "all"):
                raise RuntimeError("injected")

        watch.before = fail
        futures = hand_over(engine, GOOD)
        for future in futures:
            with pytest.raises(RuntimeError, match="injected"):
                future.result(TIMEOUT)
        assert len(watch.passes) <= 8 * len(GOOD)
    assert_same(answer(engine, GOOD), good)


def test_a_row_of_nan_fails_alone_and_its_place_is_clean(
    make_engine: MakeEngine, good: list[RequestOutput]
) -> None:
    """Those who wait take its place, with columns of its own length and longer."""
    engine = make_engine(batch=3)
    huge = SteeringVector(torch.full((1, 1, WIDTH), 1e38), (1,), "resid_post")
    requests = [
        Request(prompt(30, seed), ENDLESS, 20, resolve(huge, magnitude=9, positions=positions))
        for seed, positions in enumerate(("response", "all", "last"))
    ]
    futures = hand_over(engine, [*requests, *GOOD])
    for broken in futures[:3]:
        with pytest.raises(EngineError, match=r"NaN.*magnitude"):
            broken.result(TIMEOUT)
    assert_same(results(futures[3:]), good)


@pytest.mark.parametrize(
    ("positions", "at"), [("all", 0), ("all", 3), ("response", 0), ("response", 6), ("last", 3)]
)
def test_a_vector_of_another_width_fails_alone_among_good_rows(
    make_engine: MakeEngine, good: list[RequestOutput], positions: Any, at: int
) -> None:
    engine = make_engine()
    wide = resolve(make_vector(width=WIDTH + 1), positions=positions)
    futures = hand_over(engine, [*GOOD[:at], Request(prompt(9), GREEDY, 5, wide), *GOOD[at:]])
    with pytest.raises(VectorError, match=rf"{WIDTH + 1}.*{WIDTH}\b"):
        futures.pop(at).result(TIMEOUT)
    assert_same(results(futures), good)


@pytest.mark.parametrize("at", [0, 3, 6])
def test_a_row_that_can_not_be_drawn_for_fails_alone_among_good_rows(
    make_engine: MakeEngine, good: list[RequestOutput], at: int
) -> None:
    engine = make_engine()
    outside = Sampling(logit_bias={10**6: 1.0})
    futures = hand_over(engine, [*GOOD[:at], Request(prompt(9), outside, 5), *GOOD[at:]])
    with pytest.raises(IndexError):
        futures.pop(at).result(TIMEOUT)
    assert_same(results(futures), good)


def test_rows_of_one_prompt_do_not_share_the_fault_of_one_of_them(
    make_engine: MakeEngine, alone: Any
) -> None:
    engine = make_engine()
    requests = [_sampled(prompt(9), CASES["add"], seed) for seed in range(4)]
    broken = replace(requests[0], sampling=Sampling(logit_bias={10**6: 1.0}))
    futures = hand_over(engine, [*requests[:2], broken, *requests[2:]])
    with pytest.raises(IndexError):
        futures.pop(2).result(TIMEOUT)
    assert_same(results(futures), alone(requests))


@pytest.mark.parametrize("count", [1, 9])
def test_a_row_whose_token_can_not_be_taken_in_leaves_no_token_twice_in_others(
    make_engine: MakeEngine, good: list[RequestOutput], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Rows before it have taken in theirs when it fails: with the prompt's pass, or a later one."""
    honest = Sequence.append

    def append(sequence: Sequence, *rest: Any) -> None:
        if sequence.request.stop == ("faulty",) and sequence.num_generated + 1 == count:
            raise ValueError("injected")
        honest(sequence, *rest)

    monkeypatch.setattr(Sequence, "append", append)
    faulty = Request(prompt(14), ENDLESS, 20, CASES["add"], stop=("faulty",))
    futures = hand_over(make_engine(), [*GOOD[:3], faulty, *GOOD[3:]])
    with pytest.raises(ValueError, match="injected"):
        futures.pop(3).result(TIMEOUT)
    assert_same(results(futures), good)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (decoder, "in_chunks"),
        (decoder.Decoder, "_settle"),
        (decoder.Decoder, "_keep"),
        (Scheduler, "window"),
        (Scheduler, "admits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_of_our_own_is_told_and_nobody_waits_for_ever(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    engine = make_engine()
    answer(engine, GOOD[:1])

    def faulty(*_: Any) -> Any:
        raise ValueError("of our own")

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, faulty)
        futures = [engine.submit(request) for request in GOOD]
        assert not wait(futures, 3).not_done, "nobody will ever answer"
    # Those who were through before the fault are told their answer.
    errors = [error for future in futures if (error := future.exception(0))]
    assert {(type(error), str(error)) for error in errors} <= {(ValueError, "of our own")}
    assert errors or name == "_keep"
    assert engine.submit(GOOD[0]).result(TIMEOUT).tokens


def test_newcomers_that_fail_do_not_wait_for_those_who_run(
    make_engine: MakeEngine, alone: Any
) -> None:
    """The bad one is told at once, and the good one that came with it is not held up for long."""
    engine = make_engine()
    wide = Request(prompt(9), GREEDY, 5, resolve(make_vector(width=WIDTH + 1)))
    long, short = Request(prompt(5), ENDLESS, 200), Request(prompt(5, 1), GREEDY, 3, CASES["add"])
    newcomers = list[Future[RequestOutput]]()
    over = list[int]()

    def come(now: int) -> None:
        if now == 10:
            newcomers.extend(engine.submit(request) for request in (wide, short))
            for future in newcomers:
                future.add_done_callback(lambda _: over.append(len(watch.passes)))

    with watched(engine) as watch:
        watch.before = come
        results([engine.submit(long)])
        assert tokens(results(newcomers[1:])) == tokens(alone([short]))
    assert over[0] < 100, "the error was told when all others had ended"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", ["add", "map", "ablate rank 2", "clamp"])
def test_a_vector_of_another_precision_does_what_its_float32_does(
    qwen: HFEngine, alone: Any, dtype: torch.dtype, case: str
) -> None:
    """In one batch, so that their tables must be laid out together."""

    def converted(item: Intervention, dtype: torch.dtype) -> Intervention:
        names = ("basis", "reads", "offsets")
        parts = {name: part for name in names if (part := getattr(item, name)) is not None}
        return replace(item, **{name: part.to(dtype) for name, part in parts.items()})

    rounded = tuple(converted(converted(item, dtype), torch.float32) for item in CASES[case])
    raw = tuple(converted(item, dtype) for item in CASES[case])
    request = Request(prompt(6), ENDLESS, 8, rounded, top_logprobs=1)
    [expected] = alone([request])
    assert_same(answer(qwen, [replace(request, interventions=raw), request]), [expected, expected])


def test_weights_that_can_not_be_loaded_fail_every_row_and_those_who_come_later(
    tmp_path: Path,
) -> None:
    engine = HFEngine(ModelSource("gone", str(tmp_path / "gone"), local=True), device="cpu")
    engine.allow_batch(4)
    for _ in range(2):
        futures = [engine.submit(request) for request in GOOD]
        futures.append(engine.call(lambda *_: None))
        for future in futures:
            with pytest.raises(Exception, match="gone"):
                future.result(TIMEOUT)


# Stop strings.

WORDS = tokenizer()


def _decode(ids: abc.Sequence[int]) -> str:
    return WORDS.decode(list(ids), skip_special_tokens=False)


def _run(
    ids: abc.Sequence[int],
    stop: tuple[str, ...],
    decode: Callable[[abc.Sequence[int]], str] = _decode,
    max_tokens: int = 10**6,
) -> Sequence:
    """A sequence that draws these tokens, as far as it goes."""
    sequence = Sequence(Request((5,), GREEDY, max_tokens, stop=stop), Future())
    for token in ids:
        if sequence.stop_reason is None:
            sequence.append(token, [END], None, decode)
    return sequence


def _encode(text: str) -> list[int]:
    return WORDS.encode(text, add_special_tokens=False)


TEXT = "One two. Ünï 😀 €5, and so on"


@pytest.mark.parametrize(
    ("stop", "before"),
    [
        (("two. Ünï",), "One "),
        (("O",), ""),
        (("One two. Ünï 😀 €5, and so on",), ""),
        (("😀",), "One two. Ünï "),
        (("ï 😀 €",), "One two. Ün"),
        (("€5", " 😀"), "One two. Ünï"),
        (("on", "so on"), "One two. Ünï 😀 €5, and "),
        (("so on", "on"), "One two. Ünï 😀 €5, and "),
        (("n",), "O"),
        (("\n", "three"), None),
    ],
)
def test_a_stop_string_ends_the_row_with_the_token_that_completes_it(
    stop: tuple[str, ...], before: str | None
) -> None:
    """Tokens are bytes here: each character outside of ASCII is two to four of them."""
    sequence = _run(_encode(TEXT), stop)
    if before is None:
        assert sequence.stop_reason is None
        assert sequence.tokens == _encode(TEXT)
        return
    ends = [TEXT.index(string) + len(string) for string in stop if string in TEXT]
    assert sequence.stop_reason == "stop"
    assert sequence.tokens == _encode(TEXT[: min(ends)])
    assert sequence.output(_decode).text == before


@pytest.mark.parametrize("seed", range(80))
def test_stop_strings_are_found_where_a_search_of_the_whole_text_finds_them(seed: int) -> None:
    """Tokens are pieces of bytes, cut anywhere, as merges of bytes may be."""
    rng = random.Random(seed)
    letters = [letter.encode() for letter in "aab é€😀.\n"]
    # Every other text holds bytes that are no characters too.
    noise = [b"\x80", b"\xf0", b"\xe2\x82"] * (seed % 2)
    data = b"".join(rng.choice(letters + noise) for _ in range(80))
    stop = tuple(
        b"".join(rng.choice(letters) for _ in range(rng.randrange(1, 4))).decode()
        for _ in range(rng.randrange(1, 4))
    )
    pieces = list[bytes]()
    while data:
        size = rng.randrange(1, 2 + seed % 5)
        pieces.append(data[:size])
        data = data[size:]

    def decode(ids: abc.Sequence[int]) -> str:
        return b"".join(pieces[token - 1] for token in ids).decode(errors="replace")

    ids = range(1, len(pieces) + 1)
    sequence = _run(ids, stop, decode)
    ends = [n for n in range(len(ids) + 1) if any(string in decode(ids[:n]) for string in stop)]
    if not ends:
        assert sequence.stop_reason is None
        return
    assert sequence.stop_reason == "stop"
    assert len(sequence.tokens) == ends[0]
    text = decode(sequence.tokens)
    cut = min(text.index(string) for string in stop if string in text)
    assert sequence.output(decode).text == text[:cut]


@pytest.mark.parametrize("stop", ["é", "é.", "é.\n", ".", "\n"])
def test_a_stop_string_is_found_behind_bytes_that_are_no_characters(stop: str) -> None:
    """However many there are: some are as long as a character, some as long as two."""
    for count in range(10):
        broken = _encode("é")[1:] * count
        sequence = _run([*_encode("a"), *broken, *_encode("é.\nand so on")], (stop,))
        assert sequence.stop_reason == "stop", count
        assert sequence.output(_decode).text == "a" + "\ufffd" * count + "é.\n".split(stop)[0]


def test_a_stop_string_counts_though_the_last_token_breaks_off_within_a_character() -> None:
    """The answer ends there; what follows the stop string is cut off all the same."""

    def decode(ids: abc.Sequence[int]) -> str:
        return b"".join([b"", b"One", b" two", b". \xf0\x9f"][token] for token in ids).decode(
            errors="replace"
        )

    for sequence in (_run([1, 2, 3, END], (". ",), decode), _run([1, 2, 3], (". ",), decode, 3)):
        assert sequence.output(decode).text == "One two"


@pytest.mark.parametrize(
    "ids",
    [
        _encode("word ") * 600,
        _encode("😀é") * 500,
        _encode("é")[:1] * 3000,
        [*_encode("a"), *_encode("€")[:2]] * 1000,
    ],
    ids=["ascii", "several bytes", "bytes that are no characters", "some that are"],
)
def test_looking_for_stop_strings_takes_time_that_grows_with_the_answer_and_not_its_square(
    ids: abc.Sequence[int],
) -> None:
    decoded = 0

    def decode(ids: abc.Sequence[int]) -> str:
        nonlocal decoded
        decoded += len(ids)
        return _decode(ids)

    sequence = _run(ids, ("never", "ever\n"), decode)
    assert sequence.tokens == list(ids)
    assert decoded <= 16 * len(ids)


def test_stop_strings_end_rows_in_a_batch_as_they_do_alone(
    four: HFEngine, expected: list[RequestOutput]
) -> None:
    requests, cut = list[Request](), list[str]()
    for request, result in zip(MIXTURE, expected, strict=True):
        # Of random bytes few are characters: a stop string is one that is, and what follows.
        whole = [at for at, character in enumerate(result.text) if character != "\ufffd"]
        if whole:
            at = whole[len(whole) // 2]
            stop = result.text[at : at + 3].split("\ufffd")[0]
            requests.append(replace(request, stop=(stop, "never said")))
            cut.append(result.text[: result.text.find(stop)])
    outputs = answer(four, requests)
    assert len(requests) > 10
    assert [result.text for result in outputs] == cut
    assert all(result.stop_reason == "stop" for result in outputs)


# What else goes on meanwhile.


def test_a_call_is_answered_in_the_midst_of_a_batch_that_goes_on_as_if_nothing_was(
    make_engine: MakeEngine, alone: Any
) -> None:
    """The call runs the model itself, with interventions of its own."""
    engine = make_engine()
    requests = [Request(prompt(5 + seed, seed), ENDLESS, 60, case) for seed, case in
            enumerate([CASES["add"], (), CASES["map"], CASES["all three sites"]])]  # fmt: skip
    pending = list[Future[Any]]()

    def work(loaded: Any, session: Any) -> tuple[int, torch.Tensor]:
        batch = InterventionBatch([CASES["add"]])
        batch.begin_prefill(torch.ones(1, 4))
        with torch.no_grad():
            ids = torch.tensor([prompt(4)])
            logits = session.run(lambda: loaded.model(input_ids=ids).logits, batch)
        return sum(future.done() for future in futures), logits

    with watched(engine) as watch:
        futures = list[Future[RequestOutput]]()
        watch.before = lambda now: now in (20, 40) and pending.append(engine.call(work))
        futures += hand_over(engine, requests)
        outputs = results(futures)
        calls = [call.result(TIMEOUT) for call in pending]
    assert [count for count, _ in calls] == [0, 0]
    assert torch.equal(calls[0][1], calls[1][1])
    # The pass of the call comes right after the one during which it was asked for.
    assert [at for at, shape in enumerate(watch.passes) if shape == (1, 4)] == [21, 41]
    assert_same(outputs, alone(requests))


def test_a_call_that_fails_tells_its_own_caller_only(
    make_engine: MakeEngine, good: list[RequestOutput]
) -> None:
    engine = make_engine()
    calls = list[Future[Any]]()

    def fails(*_: Any) -> None:
        raise ValueError("of the call")

    with watched(engine, lambda now: now == 3 and calls.append(engine.call(fails))):
        outputs = answer(engine, GOOD)
    with pytest.raises(ValueError, match="of the call"):
        calls[0].result(TIMEOUT)
    assert_same(outputs, good)


def test_telemetry_counts_rows_tokens_and_passes(make_engine: MakeEngine) -> None:
    engine = make_engine(batch=4)
    assert engine.telemetry().waiting == 0
    with watched(engine) as watch:
        gate = threading.Event()
        engine.call(lambda *_: gate.wait(TIMEOUT))
        futures = [engine.submit(request) for request in GOOD]
        engine.submit(GOOD[0]).cancel()
        waiting = engine.telemetry()
        gate.set()
        outputs = results(futures)
    telemetry = engine.telemetry()
    assert waiting.waiting >= len(GOOD)
    assert (waiting.requests, waiting.tokens, waiting.passes) == (0, 0, 0)
    assert (telemetry.requests, telemetry.waiting) == (len(GOOD), 0)
    assert telemetry.tokens == sum(result.num_generated for result in outputs)
    assert telemetry.passes == len(watch.decoded)
    assert telemetry.occupancy == pytest.approx(sum(watch.decoded) / 4 / len(watch.decoded))
    assert telemetry.tokens_per_s == pytest.approx(telemetry.tokens / telemetry.busy_s)


def test_a_row_tells_how_long_it_waited_and_took(make_engine: MakeEngine) -> None:
    """One place: each waits while those before it are decoded."""
    engine = make_engine(batch=1)
    began = time.monotonic()
    outputs = answer(engine, [Request(prompt(4), ENDLESS, 20)] * 4)
    whole = time.monotonic() - began
    before = 0.0
    for result in outputs:
        assert result.took_s > 0
        assert result.waited_s >= before
        assert result.waited_s + result.took_s <= whole
        before = result.waited_s + result.took_s * 0.99
