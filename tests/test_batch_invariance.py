"""What a batch does to its rows' last bits: nothing in the mode for it, and never by content."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adapter_files import adapter_at, save_adapter
from conformance import CASES
from random_vectors import make_vector
from tiny_models import WIDTH, save_tiny

from steering.engines import Engine, Request, RequestOutput, ScoreRequest
from steering.engines.hf import HFEngine
from steering.engines.invariance import ROWS
from steering.engines.sampling import Sampling
from steering.models import find_model
from steering.vectors.interventions import resolve

TIMEOUT = 60
# Wide enough that the number of rows decides how CPUs multiply numbers of low precision.
_SIZES = {"intermediate_size": 2048}
# More than are decoded together.
MANY = ROWS + 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in folders:
            folders[family] = save_tiny(tmp_path_factory.mktemp("wide") / family, family, **_SIZES)
        return folders[family]

    return of


def opened(folder: Path, dtype: str, *, mode: bool = True) -> HFEngine:
    engine = HFEngine(find_model(str(folder)), dtype=dtype, device="cpu", batch_invariant=mode)
    engine.allow_batch(64)
    return engine


def prompt(seed: int, length: int | None = None) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, 250) for _ in range(length or rng.randrange(2, 40)))


def mixture(count: int) -> list[Request]:
    """Requests that differ in length, sampling and steering; some share a prompt."""
    cases = [*CASES.values()]
    return [
        Request(
            prompt(seed // 2 if seed % 5 else seed),
            Sampling(temperature=0.8 * (seed % 3 > 0), seed=seed),
            max_tokens=2 + 2 * (seed % 4),
            interventions=cases[seed % len(cases)],
            top_logprobs=5,
        )
        for seed in range(count)
    ]


def bits(outputs: Sequence[RequestOutput]) -> list[Any]:
    """All that is computed for an answer: any differing last bit of a logit shows."""
    return [(output.tokens, output.change, output.logprobs) for output in outputs]


def together(engine: Engine, requests: Sequence[Request]) -> list[RequestOutput]:
    gate = threading.Event()
    engine.call(lambda *_: gate.wait(TIMEOUT))
    futures = [engine.submit(request) for request in requests]
    gate.set()
    return [future.result(TIMEOUT) for future in futures]


def alone(engine: Engine, requests: Sequence[Request]) -> list[RequestOutput]:
    return [engine.submit(request).result(TIMEOUT) for request in requests]


def trickled(engine: Engine, requests: Sequence[Request], seed: int) -> list[RequestOutput]:
    """In another order, a few at a time, so that they join those which run."""
    rng = random.Random(seed)
    order = rng.sample(range(len(requests)), len(requests))
    futures = {}
    for index in order:
        futures[index] = engine.submit(requests[index])
        time.sleep(rng.choice([0, 0, 0.02]))
    return [futures[index].result(TIMEOUT) for index in range(len(requests))]


def test_without_the_mode_batch_mates_move_the_last_bits_of_bfloat16(
    folder: Callable[[str], Path],
) -> None:
    """So that the tests of the mode can fail; in float32 tokens are equal all the same."""
    requests = mixture(9)
    engine = opened(folder("llama"), "bfloat16", mode=False)
    assert bits(together(engine, requests)) != bits(alone(engine, requests))
    engine.release()


@pytest.mark.parametrize(
    ("family", "dtype", "count"),
    [
        ("llama", "bfloat16", MANY),
        ("qwen3.5", "bfloat16", MANY),
        ("gemma3", "bfloat16", 9),
        ("gemma2", "bfloat16", 5),
        ("qwen3-moe", "bfloat16", 5),
        ("llama", "float32", 9),
        ("llama", "float16", 9),
        ("llama", "int8", 9),
        ("llama", "nf4", 9),
    ],
)
def test_with_the_mode_no_bit_depends_on_batch_mates_or_the_order_of_arrival(
    folder: Callable[[str], Path], family: str, dtype: str, count: int
) -> None:
    """Hybrid and sliding attention too; experts and soft caps are decoded one at a time."""
    requests = mixture(count)
    engine = opened(folder(family), dtype)
    expected = bits(alone(engine, requests))
    assert bits(together(engine, requests)) == expected
    for seed in range(1 + (count == MANY)):
        assert bits(trickled(engine, requests, seed)) == expected
    engine.release()


@pytest.mark.parametrize("family", ["llama", "qwen3.5", "gemma3", "gpt2"])
def test_the_mode_gives_the_tokens_of_ordinary_batches_in_float32(
    tiny_folder: Callable[[str], Path], family: str
) -> None:
    """With an answer that outgrows the spare columns of the cache."""
    requests = [*mixture(8), replace(endless(1, ()), max_tokens=90)]
    tokens = []
    for mode in (False, True):
        engine = opened(tiny_folder(family), "float32", mode=mode)
        tokens.append([output.tokens for output in together(engine, requests)])
        engine.release()
    assert tokens[0] == tokens[1]


def test_sequences_with_an_adapter_are_decoded_one_at_a_time_in_the_mode(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Those that share an adapter are one product, whose shape would depend on their number."""
    model = folder("llama")
    adapter = adapter_at(model, save_adapter(model, tmp_path / "adapter"))
    requests = [
        replace(request, adapter=adapter if index % 3 else None)
        for index, request in enumerate(mixture(9))
    ]
    engine = opened(model, "bfloat16")
    expected = bits(alone(engine, requests))
    assert bits(together(engine, requests)) == expected
    engine.release()
    engine = opened(model, "bfloat16")
    assert bits(together(engine, requests)) == expected
    engine.release()


@pytest.mark.parametrize("family", ["llama", "qwen3.5", "gemma3", "qwen3-moe"])
def test_with_the_mode_no_score_depends_on_the_company_in_any_bit(
    folder: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    """Whether the company shares a prompt, an answer or a condition, or none of them."""
    model = folder(family)
    # Adapters of experts are refused.
    saved = None if family == "qwen3-moe" else save_adapter(model, tmp_path / "adapter")
    adapter = adapter_at(model, saved) if saved else None
    cases = [*CASES.values()]
    requests = [
        ScoreRequest(
            prompt(seed // 2),
            tuple(prompt(90 + seed // 3 + index) for index in range(1 + seed % 3)),
            cases[seed % len(cases)],
            adapter if seed % 4 == 3 else None,
            divergence=seed % 2 > 0,
        )
        for seed in range(9)
    ]
    engine = opened(model, "bfloat16")

    def scores(together: bool) -> list[Any]:
        gate = threading.Event()
        engine.call(lambda *_: gate.wait(TIMEOUT) if together else None)
        futures = []
        for request in requests:
            futures.append(engine.score(request))
            if not together:
                futures[-1].result(TIMEOUT)
        gate.set()
        outputs = [future.result(TIMEOUT) for future in futures]
        return [(output.logprobs, output.divergences, output.change) for output in outputs]

    expected = scores(together=False)
    assert scores(together=True) == expected
    requests.reverse()
    assert scores(together=True) == expected[::-1]
    engine.release()


@pytest.mark.parametrize(("family", "rows"), [("llama", ROWS), ("gemma2", 1), ("qwen3-moe", 1)])
def test_as_many_sequences_are_decoded_together_as_the_mode_allows(
    folder: Callable[[str], Path], family: str, rows: int
) -> None:
    requests = [endless(seed, ()) for seed in range(MANY if rows > 1 else 3)]
    engine = opened(folder(family), "bfloat16")
    model = engine.call(lambda loaded, _: loaded.model).result(TIMEOUT)
    engine.allow_batch(100)  # which is more than the mode allows
    sizes: list[int] = []
    handle = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: sizes.append(args[0].shape[0])
    )
    together(engine, requests)
    handle.remove()
    # Prompts are read alone; then all go on together, and the last two after them.
    passes = [1] * ROWS + [ROWS] * 7 + [1] * 2 + [ROWS] * 7
    assert sizes == (passes if rows > 1 else [1] * 8 * 3)
    engine.release()


# Without the mode: batches of one shape, whose rows differ from each other in content.

STEERED = [
    "add", "map", "ablate rank 2", "clamp", "cap response", "all three sites", "three at one site",
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "nf4"])
@pytest.mark.parametrize("family", ["llama", "qwen3.5"])
def test_what_batch_mates_say_and_how_they_are_steered_moves_no_bit_of_a_row(
    folder: Callable[[str], Path], family: str, dtype: str
) -> None:
    """An unsteered row among mates of the same lengths, with other prompts and interventions."""
    row = endless(0, ())
    engine = opened(folder(family), dtype, mode=False)
    mates = [[endless(seed, ()) for seed in range(1, 8)]]
    mates.append([endless(seed + 10, CASES[name]) for seed, name in enumerate(STEERED)])
    huge = resolve(make_vector(1, seed=3, layers=(0, 1, 2), width=WIDTH), magnitude=300)
    mates.append([endless(seed + 20, huge) for seed in range(7)])
    outputs = [together(engine, [row, *others]) for others in mates]
    assert len({str(bits([others[1]])) for others in outputs}) == 3
    for others in outputs[1:]:
        assert bits(others[:1]) == bits(outputs[0][:1])
    engine.release()


def endless(seed: int, interventions: Any) -> Request:
    """A request whose prompt and answer have the lengths of all others."""
    sampling = Sampling(temperature=0.7, seed=seed, logit_bias={0: -100.0})
    return Request(prompt(seed, 12), sampling, 8, interventions, top_logprobs=5)
