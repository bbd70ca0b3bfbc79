"""What a monitor costs, and that it changes no answer.

    python -m benchmarks.monitor [--rounds 15] [--models llama qwen3.5 toy smollm2] [--rows 16]

Greedy rows of one length, unsteered and steered at one layer, each with a monitor of that layer's
direction and without. The arms take turns in one process, in an order that turns round, and each
pair of neighbours is one ratio of tokens per second of the process's own time, so that what else
the machine does hits both alike or not at all. `llama` and `qwen3.5` are random models in which
arithmetic takes the time, `toy` is one where starting operations does, and `smollm2` is a real one.
Writes results/monitor.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.arms import additions, greedy_requests, machine, save_model
from benchmarks.engine import FAMILIES, TOKENS
from steering.engines import Engine, Request, RequestOutput
from steering.engines.hf import HFEngine
from steering.models import find_model
from steering.vectors.monitor import Direction, Monitor

RESULTS = Path(__file__).parent / "results" / "monitor.json"
MODELS = ("llama", "qwen3.5", "toy", "smollm2")


def answers(engine: Engine, requests: Sequence[Request]) -> list[RequestOutput]:
    """The outputs of rows that are decoded together."""
    return [future.result() for future in [engine.submit(request) for request in requests]]


def monitored(requests: Sequence[Request], monitor: Monitor) -> list[Request]:
    """The same rows, monitored."""
    return [replace(request, monitor=monitor) for request in requests]


def cost(engine: Engine, rows: int, rounds: int) -> dict[str, Any]:
    """Throughput with a monitor over that without, by whether rows are steered."""
    plain = engine.call(lambda loaded, _: loaded).result()
    layer = plain.shape.num_layers // 2
    interventions = additions(plain, [layer])
    unit = torch.nn.functional.normalize(interventions[0].basis[0], dim=0)
    monitor = (Direction("added", layer, "resid_post", unit, steers=True),)
    figures = {}
    for name, steering in (("unsteered", ()), ("one layer", interventions)):
        requests = greedy_requests([TOKENS] * rows, steering)
        arms = {"without": requests, "with": monitored(requests, monitor)}
        before, after = (answers(engine, arm) for arm in arms.values())
        equal = all(
            (a.tokens, a.text, a.change) == (b.tokens, b.text, b.change)
            for a, b in zip(before, after, strict=True)
        )
        ratios = []
        for number in range(rounds):
            seconds = {}
            for arm in ("without", "with") if number % 2 else ("with", "without"):
                began = time.process_time()
                answers(engine, arms[arm])
                seconds[arm] = time.process_time() - began
            ratios.append(seconds["without"] / seconds["with"])
        low, middle, high = statistics.quantiles(ratios, n=4)
        figures[name] = {
            "throughput with / without": round(middle, 4),
            "middle half of the rounds": [round(low, 4), round(high, 4)],
            "same answers": equal,
        }
    return figures


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rows", type=int, default=16)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in arguments.models:
        with TemporaryDirectory() as folder:
            source = name
            if name in FAMILIES:
                source = str(save_model(Path(folder), name, **FAMILIES[name]))
            engine = HFEngine(find_model(source))
            engine.allow_batch(arguments.rows)
            figures = cost(engine, arguments.rows, arguments.rounds)
            engine.release()
        entry = Path(name).name if "/" in name else name
        results[entry] = {
            "machine": machine(),
            "rounds": arguments.rounds,
            "rows": arguments.rows,
            "figures": figures,
        }
        print(entry, json.dumps(figures, indent=2), flush=True)
        RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
