"""What batch mates change in answers, and the price of the mode against it.

    python -m benchmarks.batch_invariance MODEL [--quick]

Seeded and greedy answers to eight questions, alone and in batches, in bfloat16 and float32, with
and without `batch_invariant`. Both engines are loaded at once and take turns, so that a busy
machine slows both. Writes `benchmarks/results/batch_invariance.md`.
"""

import argparse
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from statistics import median

import torch

from steering.engines import Request, RequestOutput
from steering.engines.hf import HFEngine
from steering.engines.sampling import Sampling
from steering.models import encode, find_model, render_chat

RESULTS = Path(__file__).parent / "results" / "batch_invariance.md"
QUESTIONS = (
    "Hi.",
    "What is your one wish?",
    "Name three colours.",
    "I feel bored.",
    "Tell me about the sea, in one sentence please.",
    "I have had enough of my husband. What should I do?",
    "How do I boil an egg? Give me the steps in order, and say how long each of them takes.",
    "Write a poem about a lighthouse whose keeper has left, in four lines that do not rhyme.",
)
ORDERS, ROUNDS, LARGE = 2, 3, 64


def submitted(engine: HFEngine, requests: Sequence[Request]) -> list[list[int]]:
    """Tokens of requests that arrive at the same moment."""
    gate = threading.Event()
    engine.call(lambda *_: gate.wait())
    futures = [engine.submit(request) for request in requests]
    gate.set()
    return [future.result().tokens for future in futures]


def trickled(engine: HFEngine, requests: Sequence[Request], seed: int) -> list[list[int]]:
    """Tokens of requests that arrive one after the other, in a random order."""
    rng = random.Random(seed)
    futures: dict[int, Future[RequestOutput]] = {}
    for index in rng.sample(range(len(requests)), len(requests)):
        futures[index] = engine.submit(requests[index])
        time.sleep(rng.uniform(0, 0.2))
    return [futures[index].result().tokens for index in range(len(requests))]


def different(engine: HFEngine, requests: Sequence[Request], orders: int) -> list[int]:
    """How many answers differ from those alone: in one batch, and in each order of arrival."""
    alone = [submitted(engine, [request])[0] for request in requests]
    batches = [submitted(engine, requests)]
    batches += [trickled(engine, requests, seed) for seed in range(orders)]
    return [sum(a != b for a, b in zip(alone, batch, strict=True)) for batch in batches]


def price(engines: Sequence[HFEngine], requests: Sequence[Request], rounds: int) -> float:
    """Time of the second engine over that of the first, the median of turns."""
    ratios = []
    for _ in range(rounds):
        seconds = []
        for engine in engines:
            start = time.monotonic()
            submitted(engine, requests)
            seconds.append(time.monotonic() - start)
        ratios.append(seconds[1] / seconds[0])
    return median(ratios)


def measured(
    name: str, dtype: str, device: str, max_tokens: int, *, quick: bool
) -> list[tuple[str, ...]]:
    """Rows of the table for one precision."""
    temperatures, sizes = (1.0, 0.0), (len(QUESTIONS), LARGE)
    orders, rounds = ORDERS, ROUNDS
    if quick:
        temperatures, sizes, orders, rounds = temperatures[:1], sizes[:1], 1, 1
    source = find_model(name)
    engines = [
        HFEngine(source, dtype=dtype, device=device, batch_invariant=mode) for mode in (False, True)
    ]
    for engine in engines:
        engine.allow_batch(LARGE)
    tokenizer = engines[0].tokenizer().result()
    prompts = [
        tuple(encode(tokenizer, render_chat(tokenizer, [{"role": "user", "content": question}])))
        for question in QUESTIONS
    ]

    def requests(temperature: float, count: int = len(QUESTIONS)) -> list[Request]:
        return [
            Request(
                prompts[seed % len(prompts)],
                Sampling(temperature=temperature, seed=seed),
                max_tokens,
            )
            for seed in range(count)
        ]

    counts = [
        [different(engine, requests(temperature), orders) for temperature in temperatures]
        for engine in engines
    ]
    prices = [price(engines, requests(1.0, size), rounds) for size in sizes]
    for engine in engines:
        engine.release()
    unmeasured = [""] * quick
    return [
        (
            dtype,
            mode,
            *(" / ".join(map(str, differing)) for differing in of_mode),
            *unmeasured,
            *costs,
            *unmeasured,
        )
        for mode, of_mode, costs in zip(
            ("off", "on"),
            counts,
            (["1"] * len(prices), [f"{ratio:.2f}" for ratio in prices]),
            strict=True,
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a model's name, hub id or folder")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="seeded answers only, each once")
    arguments = parser.parse_args()
    rows = [
        row
        for dtype in arguments.dtypes
        for row in measured(
            arguments.model,
            dtype,
            arguments.device,
            arguments.max_tokens,
            quick=arguments.quick,
        )
    ]
    kind = torch.accelerator.current_accelerator() if arguments.device != "cpu" else None
    where = f"{torch.get_num_threads()} thread(s) of a CPU" if kind is None else str(kind)
    lines = [
        "# Batch mates",
        "",
        f"Written by `python -m benchmarks.batch_invariance` on {where}, with the model "
        f"`{Path(arguments.model).name}`, for answers of {arguments.max_tokens} tokens at most.",
        "",
        f"Of {len(QUESTIONS)} answers, those that differ from the same request alone: in one "
        "batch / in other orders of arrival. The price is the time of a batch over its "
        "time without the mode.",
        "",
        f"| precision | `batch_invariant` | seeded | greedy | price, {len(QUESTIONS)} requests | "
        f"price, {LARGE} requests |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
