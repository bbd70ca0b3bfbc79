"""What a monitor costs, and that it changes no answer.

    python -m benchmarks.monitor [--rounds 8] [--models llama qwen3.5 toy smollm2] [--rows 16]

Greedy rows of one length, unsteered and steered at one layer, with a monitor of that layer's
direction and without. The cost is the share of the process's own time that goes into reading: into
the monitor's part of each pass, into what it does when rows end, and into their readings. Both
times are of the same run, so what else the machine does hits both alike. The ratio of whole runs
with and without, which take turns, stands beside it: on a busy machine it says little. `llama` and
`qwen3.5` are random models in which arithmetic takes the time, `toy` is one where starting
operations does, and `smollm2` is a real one. Writes results/monitor.json.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.arms import additions, greedy_requests, machine, save_model
from benchmarks.engine import FAMILIES, TOKENS
from steering.engines import Engine, Request, RequestOutput
from steering.engines.hf import HFEngine
from steering.engines.sequences import Sequence as EngineSequence
from steering.models import find_model
from steering.vectors.batch import InterventionBatch
from steering.vectors.monitor import Direction, Monitor, MonitorBatch

RESULTS = Path(__file__).parent / "results" / "monitor.json"
MODELS = ("llama", "qwen3.5", "toy", "smollm2")
_READING = ((MonitorBatch, "apply"), (MonitorBatch, "collect"), (EngineSequence, "_readings"))


@contextmanager
def clocked(seconds: dict[Any, float]) -> Iterator[None]:
    """Add up the time of its thread that each part of reading takes, by class and method."""
    parts = (*_READING, (InterventionBatch, "apply"))
    methods = {(kind, name): getattr(kind, name) for kind, name in parts}

    def timed(place: Any, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*args, **options)
            finally:
                seconds[place] = seconds.get(place, 0.0) + time.thread_time() - began

        return call

    for place, method in methods.items():
        setattr(*place, timed(place, method))
    try:
        yield
    finally:
        for place, method in methods.items():
            setattr(*place, method)


def answers(engine: Engine, requests: Sequence[Request]) -> list[RequestOutput]:
    """The outputs of rows that are decoded together."""
    return [future.result() for future in [engine.submit(request) for request in requests]]


def monitored(requests: Sequence[Request], monitor: Monitor) -> list[Request]:
    """The same rows, monitored."""
    return [replace(request, monitor=monitor) for request in requests]


def reading_share(engine: Engine, requests: Sequence[Request]) -> float:
    """Share of the process's time that goes into reading."""
    seconds: dict[Any, float] = {}
    began = time.process_time()
    with clocked(seconds):
        answers(engine, requests)
    whole = time.process_time() - began
    # The monitor's part of a pass contains the interventions; those of the prompt are few.
    own = sum(seconds.get(place, 0.0) for place in _READING)
    return (own - seconds.get((InterventionBatch, "apply"), 0.0)) / whole


def cost(engine: Engine, rows: int, rounds: int) -> dict[str, Any]:
    """Cost of a monitor, by whether rows are steered."""
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
        shares, ratios = [], []
        for number in range(rounds):
            shares.append(reading_share(engine, arms["with"]))
            seconds = {}
            for arm in ("without", "with") if number % 2 else ("with", "without"):
                began = time.process_time()
                answers(engine, arms[arm])
                seconds[arm] = time.process_time() - began
            ratios.append(seconds["without"] / seconds["with"])
        figures[name] = {
            "share of time that reads, median": round(statistics.median(shares), 5),
            "share of time that reads, largest": round(max(shares), 5),
            "whole runs, with / without": [
                round(value, 3) for value in statistics.quantiles(ratios, n=4)
            ],
            "same answers": equal,
        }
    return figures


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=8)
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
