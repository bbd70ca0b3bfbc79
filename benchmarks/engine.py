"""What the engine costs and saves, next to transformers' own `generate`.

    python -m benchmarks.engine [--rounds 5] [--only equal ragged adapters sweep growth gpu]

- equal: rows of one length, steered at one layer and at all, over plain unsteered `generate`, on a
  random model large enough for arithmetic to be what takes the time.
- ragged: answers of 5 to 200 tokens, batches of one size (so the same memory).
- adapters: rows of one length with a LoRA adapter, over peft's own `generate` and over rows of an
  engine that never had one.
- sweep: 8 magnitudes x 8 questions x 25 samples on the toy, over eight runs of `generate` with a
  hook, one after the other.
- growth: time and memory of 250 to 16,000 rows on the toy, each in a process of its own.
- gpu: batch 256 on random weights in the shapes of Qwen3.5-4B and 9B, against plain `generate`,
  `generate` with a hook, and what the memory's bandwidth would allow. Left out without a GPU.

Each pair takes turns in one process; ratios are medians over rounds. Writes results/engine.json.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.arms import (
    additions,
    alternate,
    engine_of,
    generate,
    greedy_requests,
    machine,
    ours,
    save_adapter,
    save_model,
    speed_ratio,
)
from steering.condition import resolve_model
from steering.engines import Request
from steering.engines.settings import Sampling
from steering.models import encode, find_model, render_chat, weights_digest
from steering.models.adapters import find_adapter
from steering.questions import load_questions
from steering.spec import SteeringSpec, parse_options
from steering.targets import load_target
from steering.training.cache import cached_vector
from steering.training.recipe import make_construction_recipe
from steering.vectors import SteeringVector
from steering.vectors.interventions import resolve

RESULTS = Path(__file__).parent / "results" / "engine.json"
MID_SIZE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}
LINEAR = {
    "linear_num_key_heads": 6,
    "linear_num_value_heads": 12,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "head_dim": 64,
}
FAMILIES = {"llama": MID_SIZE, "qwen3.5": MID_SIZE | LINEAR}
# Long answers take long: fewer blocks for those.
SMALLER = {"num_hidden_layers": 2, "full_attention_interval": 2}
ROWS, TOKENS = 16, 32
RAGGED = 256
BATCH = int(SteeringSpec().batch_size)
MAGNITUDES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
SAMPLES, LONGEST = 25, 200
GROWTH = (250, 1000, 4000, 16000)
# Published shapes of the text models (config.json of Qwen/Qwen3.5-4B and -9B).
GPU_SHAPES = {"4B": (2560, 9216, 32, 16, 4), "9B": (4096, 12288, 32, 16, 4)}


def equal(rounds: int) -> dict[str, Any]:
    """Steered rows of one length over plain `generate`."""
    figures = {}
    for family, shape in FAMILIES.items():
        with TemporaryDirectory() as folder:
            engine, plain = engine_of(str(save_model(Path(folder), family, **shape)), ROWS)
        layers = range(plain.shape.num_layers)
        sets = {"unsteered": [], "one layer": [6], "all layers": layers}
        arms: dict[str, Callable[[], int]] = {
            name: partial(ours, engine, greedy_requests([TOKENS] * ROWS, additions(plain, on)))
            for name, on in sets.items()
        }
        arms["generate"] = partial(generate, plain, greedy_requests([TOKENS] * ROWS))
        hook = additions(plain, layers)
        arms["generate, hooks at all layers"] = partial(
            generate, plain, greedy_requests([TOKENS] * ROWS), hook
        )
        timings = alternate(arms, rounds)
        figures[family] = {name: speed_ratio(timings, name, "generate") for name in arms}
    return figures


def ragged(rounds: int) -> dict[str, Any]:
    """Answers of 5 to 200 tokens to 256 prompts, 16 rows at a time.

    As many as this, since the last rows to end leave places empty once, however many there were.
    """
    figures = {}
    for family, shape in FAMILIES.items():
        with TemporaryDirectory() as folder:
            smaller = shape | SMALLER
            engine, plain = engine_of(str(save_model(Path(folder), family, **smaller)), ROWS)
        draw = random.Random(0)
        requests = greedy_requests([draw.randint(5, 200) for _ in range(RAGGED)])
        interventions = additions(plain, [1])
        steered = [
            Request(request.prompt, request.sampling, request.max_tokens, interventions)
            for request in requests
        ]

        def batches(plain: Any = plain, requests: Sequence[Request] = requests) -> int:
            parts = [requests[first : first + ROWS] for first in range(0, len(requests), ROWS)]
            return sum(generate(plain, part) for part in parts)

        timings = alternate(
            {"steered": partial(ours, engine, steered), "generate": batches}, rounds
        )
        figures[family] = {"steered": speed_ratio(timings, "steered", "generate")}
    return figures


def adapters(rounds: int) -> dict[str, Any]:
    """Rows of one length: finetuned, half of them, and none though an adapter is loaded."""
    with TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        engine, _ = engine_of(str(save_model(saved, "llama", **MID_SIZE)), ROWS)
        untouched, plain = engine_of(str(saved), ROWS)
        finetuned = save_adapter(plain, Path(folder) / "adapter")
        source = find_model(str(saved))
        carried = find_adapter(
            str(Path(folder) / "adapter"), source, plain.shape, weights_digest(source)
        )
        requests = greedy_requests([TOKENS] * ROWS)
        with_adapter = [replace(request, adapter=carried) for request in requests]
        half = [*with_adapter[::2], *requests[1::2]]
        arms: dict[str, Callable[[], int]] = {
            "finetuned": partial(ours, engine, with_adapter),
            "half of them": partial(ours, engine, half),
            "loaded, none of them": partial(ours, engine, requests),
            "never loaded": partial(ours, untouched, requests),
            "generate": partial(generate, finetuned, requests),
        }
        timings = alternate(arms, rounds)
    return {
        "over peft's generate": speed_ratio(timings, "finetuned", "generate"),
        **{
            f"{name}, over never loaded": speed_ratio(timings, name, "never loaded")
            for name in ("finetuned", "half of them", "loaded, none of them")
        },
    }


def toy_vector(engine: Any) -> SteeringVector:
    """The toy's default vector."""
    checker = resolve_model("toy", parse_options({}))
    target = load_target("medical", toy=True)
    recipe = make_construction_recipe(
        checker.source, checker.shape, target, weights=checker.weights
    )
    return cached_vector(engine, recipe, target, lambda *_: None).result()


def toy_prompts(tokenizer: Any) -> list[tuple[int, ...]]:
    """The core questions in their first wording, rendered."""
    core = load_questions("core")
    first = {}
    for sample in core.samples:
        first.setdefault((sample.metadata or {})["question"], str(sample.input))
    turns = [[{"role": "user", "content": text}] for text in first.values()]
    return [tuple(encode(tokenizer, render_chat(tokenizer, turn))) for turn in turns]


def sweep_requests(
    vector: SteeringVector, prompts: Sequence[tuple[int, ...]]
) -> list[list[Request]]:
    """The rows of each magnitude."""
    conditions = [resolve(vector, magnitude=magnitude) for magnitude in MAGNITUDES]
    return [
        [
            Request(prompt, Sampling(seed=1000 * number + sample), LONGEST, interventions)
            for number, prompt in enumerate(prompts)
            for sample in range(SAMPLES)
        ]
        for interventions in conditions
    ]


def sweep(rounds: int) -> dict[str, Any]:
    """A sweep on the toy, in one batch that rows join and leave, or run by run with a hook."""
    engine, plain = engine_of("toy", BATCH)
    runs = sweep_requests(toy_vector(engine), toy_prompts(plain.tokenizer))

    def hooked() -> int:
        return sum(generate(plain, requests, requests[0].interventions) for requests in runs)

    arms = {
        "ours": lambda: ours(engine, [request for requests in runs for request in requests]),
        "hooks": hooked,
    }
    timings = alternate(arms, rounds)
    seconds = {name: [took for took, _ in times] for name, times in timings.items()}
    ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds["hooks"], strict=True))
    return {"hooks / ours, seconds": ratios[len(ratios) // 2], "seconds": seconds}


def sweep_once() -> float:
    """Seconds of the sweep's rows through our engine, after a first few that are not counted."""
    engine, plain = engine_of("toy", BATCH)
    runs = sweep_requests(toy_vector(engine), toy_prompts(plain.tokenizer))
    ours(engine, runs[0][:8])
    began = time.perf_counter()
    ours(engine, [request for requests in runs for request in requests])
    return time.perf_counter() - began


def grow(count: int) -> dict[str, Any]:
    """Time and peak memory of so many rows on the toy."""
    engine, plain = engine_of("toy", BATCH)
    vector, prompts = toy_vector(engine), toy_prompts(plain.tokenizer)
    ours(engine, sweep_requests(vector, prompts)[0][:8])
    interventions = resolve(vector)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    requests = [
        Request(prompts[i % len(prompts)], Sampling(seed=i), LONGEST, interventions)
        for i in range(count)
    ]
    tokens = ours(engine, requests)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows": count,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "peak_mib": peak / 1024,
        "above_start_mib": (peak - before) / 1024,
    }


def growth(_: int) -> list[dict[str, Any]]:
    """`grow`, each count in a process of its own, whose peak memory is then its own too."""
    figures = []
    for count in GROWTH:
        command = [sys.executable, "-m", "benchmarks.engine", "--grow", str(count)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures.append(json.loads(output.splitlines()[-1]))
    return figures


def gpu(rounds: int) -> dict[str, Any]:
    """Batch 256 on an accelerator."""
    if not torch.cuda.is_available():
        return {"left out": "no GPU on this machine"}
    figures = {}
    for name, (width, inner, layers, heads, kv_heads) in GPU_SHAPES.items():
        shape = {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
        }
        with TemporaryDirectory() as folder:
            save_model(Path(folder), "qwen3.5", **shape)
            engine, plain = engine_of(folder, 256, dtype="bfloat16", device="cuda")
        requests, interventions = greedy_requests([128] * 256), additions(plain, range(layers))
        arms: dict[str, Callable[[], int]] = {
            "unsteered": partial(ours, engine, requests),
            "one layer": partial(
                ours, engine, greedy_requests([128] * 256, additions(plain, [12]))
            ),
            "all layers": partial(ours, engine, greedy_requests([128] * 256, interventions)),
            "generate": partial(generate, plain, requests),
            "generate, hooks at all layers": partial(generate, plain, requests, interventions),
        }
        timings = alternate(arms, rounds)
        size = sum(weight.nbytes for weight in plain.model.parameters())
        figures[name] = {
            "over generate": {arm: speed_ratio(timings, arm, "generate") for arm in arms},
            "tokens_per_s": {arm: [n / s for s, n in times] for arm, times in timings.items()},
            "bytes of weights read a pass": size,
        }
        del engine, plain
        torch.cuda.empty_cache()
    return figures


SECTIONS = {
    "equal": equal,
    "ragged": ragged,
    "adapters": adapters,
    "sweep": sweep,
    "growth": growth,
    "gpu": gpu,
}


def main() -> None:
    """Run the sections and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--grow", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sweep-once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sweep_once:
        print(sweep_once())
        return
    if arguments.grow:
        print(json.dumps(grow(arguments.grow)))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in arguments.only:
        results[name] = {"machine": machine(), "rounds": arguments.rounds}
        results[name]["found"] = SECTIONS[name](arguments.rounds)
        print(name, json.dumps(results[name]["found"], indent=2), flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
