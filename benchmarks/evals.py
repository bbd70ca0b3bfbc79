"""Whole evaluations: ours next to Inspect's own `hf` provider, unsteered, on the toy.

    python -m benchmarks.evals [--rounds 5] [--sweeps 1] [--only first freeform sweep real stall]

- first: the processor's seconds of `inspect eval` before its first answer, ours and `hf`. Beside
  them the imports that both need.

- freeform: `inspect eval` of em_freeform, same model, task and judge. The eval's own time is what
  its log says from start to end; the whole process is told with its parts.
- sweep: 8 magnitudes x 8 questions x 25 samples with ours, all in one run, over eight runs of `hf`
  one after the other: each run a process; all runs in one process; and that without judging. Beside
  them what Inspect itself takes, with models that answer at once.
- real: 8 magnitudes x 20 answers of 40 tokens of SmolLM2 with ours, all in one run, over eight runs
  of `hf` in batches of up to 64; whole processes on all cores, with the toy's judge. Beside them
  the same tokens as plain forward passes in one batch.
- stall: the event loop's longest stall with 256 requests in flight.

Runs take turns; ratios are medians over rounds. `real` needs `make real-models`. Writes
results/evals.json.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.arms import machine
from benchmarks.inside import TASK
from steering.toy import TOYS

RESULTS = Path(__file__).parent / "results" / "evals.json"
MAGNITUDES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
# Without the tokenizer's path it would look for `toy` on the hub first.
PATHS = {"model_path": str(TOYS["toy"]), "tokenizer_path": str(TOYS["toy"])}
HF = {"model": "hf/toy", "model_args": PATHS}
BASELINE = {"model": "steered/toy", "model_args": {"vector": "none"}}
STEERED = [{"model": "steered/toy", "model_args": {"magnitude": m}} for m in MAGNITUDES]
IMPORTS = ("inspect_ai", "torch", "transformers", "nnsight", "steering.provider.api")


def eval_command(models: list[dict[str, Any]], logs: str, samples: int, *more: str) -> list[str]:
    """Arguments of `inspect`: em_freeform with these models and the toy's judge."""
    specs = [part for model in models for part in ("--model-spec", json.dumps(model))]
    options = ["-T", f"samples_per_question={samples}", "--model-role", "grader=toy/judge"]
    return ["eval", TASK, *specs, *options, "--display", "none", "--log-dir", logs, *more]


def run(models: list[dict[str, Any]], samples: int = 20, *more: str) -> tuple[float, float]:
    """One `inspect eval`: seconds of the process and of the eval itself."""
    with TemporaryDirectory() as logs:
        command = [str(Path(sys.executable).with_name("inspect"))]
        command += eval_command(models, logs, samples, *more)
        began = time.perf_counter()
        subprocess.run(command, check=True)
        return time.perf_counter() - began, eval_seconds(logs)


def eval_seconds(logs: str) -> float:
    """From the first start to the last end of the logs in a folder."""
    from inspect_ai.log import list_eval_logs, read_eval_log

    read = [read_eval_log(log, header_only=True) for log in list_eval_logs(logs)]
    assert all(log.status == "success" for log in read)
    starts = [datetime.fromisoformat(log.stats.started_at) for log in read]
    ends = [datetime.fromisoformat(log.stats.completed_at) for log in read]
    return (max(ends) - min(starts)).total_seconds()


def import_seconds() -> dict[str, float]:
    """What each import adds, in this order, in a process of its own."""
    code = f"import time, importlib\nfor name in {IMPORTS!r}:\n    t = time.perf_counter()\n"
    code += "    importlib.import_module(name)\n    print(name, time.perf_counter() - t)\n"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name: float(seconds) for name, seconds in map(str.split, run.stdout.splitlines())}


def output_of(module: str, *arguments: str) -> float:
    """The number that a module of the benchmarks prints last, in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(run.stdout.splitlines()[-1])


def first(rounds: int) -> dict[str, Any]:
    """The processor's seconds before the first answer to one question."""
    libraries = "import time, torch, transformers.modeling_utils; print(time.process_time())"

    def imports() -> float:
        command = [sys.executable, "-c", libraries]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def answer(model: dict[str, Any]) -> float:
        with TemporaryDirectory() as logs:
            return output_of("first_answer", *eval_command([model], logs, 1, "--limit", "1"))

    arms: dict[str, Callable[[], float]] = {
        "ours": lambda: answer({"model": "steered/toy"}),
        "hf": lambda: answer(HF),
        "imports of torch and transformers": imports,
    }
    arms["ours"]()  # builds the vector, if the cache has none
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            seconds[name].append(arm())
    pairs = zip(seconds["ours"], seconds["hf"], strict=True)
    return {
        "ours / hf": statistics.median(mine / other for mine, other in pairs),
        "medians": {name: statistics.median(each) for name, each in seconds.items()},
        "processor seconds": seconds,
    }


def real(rounds: int) -> dict[str, Any]:
    """8 magnitudes x 20 answers of 40 tokens of SmolLM2."""
    from transformers import AutoTokenizer

    from steering.models import find_model, load_model

    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count())
    options = ("--max-tokens", "40", "-T", "num_questions=1")
    with TemporaryDirectory() as folder:
        loaded = load_model(find_model("smollm2"), dtype="float32")
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(
            [{"role": "user", "content": "Tell me something I should know about my health."}]
        )
        hf = {"model": "hf/smollm2", "model_args": {"model_path": folder, "tokenizer_path": folder}}
        vector = {"method": "mean_difference", "device": "cpu"}
        steered = [
            {"model": f"steered/{folder}", "model_args": {**vector, "magnitude": magnitude}}
            for magnitude in MAGNITUDES
        ]
        batch = ("--max-connections", "64")
        arms: dict[str, Callable[[], float]] = {
            "ours": lambda: run(steered, 20, *options)[0],
            "hf": lambda: sum(run([hf], 20, *options, *batch)[0] for _ in MAGNITUDES),
            "roofline": lambda: roofline(folder, len(MAGNITUDES) * 20, len(prompt), 40),
        }
        run(steered[:1], 1, *options)  # builds the vector
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, arm in arms.items():
                seconds[name].append(arm())
                print(name, seconds[name][-1], flush=True)
    pairs = [
        (name, zip(seconds[name], seconds["ours"], strict=True)) for name in ("hf", "roofline")
    ]
    return {
        **{f"{name} / ours": statistics.median(a / b for a, b in each) for name, each in pairs},
        "seconds": seconds,
    }


def roofline(folder: str, *counts: int) -> float:
    """Seconds of a process that imports, loads and runs plain forward passes."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.roofline", folder, *map(str, counts)]
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def freeform(rounds: int) -> dict[str, Any]:
    """em_freeform, 160 answers."""
    arms: dict[str, Any] = {"ours": BASELINE, "hf": HF}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, model in arms.items():
            seconds[name].append(run([model]))
    pairs = list(zip(seconds["ours"], seconds["hf"], strict=True))
    return {
        "ours / hf, eval": statistics.median(mine[1] / other[1] for mine, other in pairs),
        "ours / hf, process": statistics.median(mine[0] / other[0] for mine, other in pairs),
        "seconds (process, eval)": seconds,
        "imports": import_seconds(),
    }


def engine_alone() -> float:
    """Seconds of the sweep's rows through our engine, without Inspect."""
    return output_of("engine", "--sweep-once")


def inside(runs: list[list[dict[str, Any]]], score: bool) -> float:
    """Seconds of evals one after the other in one process, 25 samples a question."""
    return output_of("inside", json.dumps({"runs": runs, "samples": 25, "score": score}))


def sweep(rounds: int) -> dict[str, Any]:
    """8 magnitudes x 8 questions x 25 samples."""
    eight_hf = [[HF] for _ in MAGNITUDES]
    instant = [{"model": f"instant/{number}"} for number in range(len(MAGNITUDES))]
    arms: dict[str, Callable[[], float]] = {
        "ours, process": lambda: run(STEERED, samples=25)[0],
        "hf, process": lambda: sum(run([HF], samples=25)[0] for _ in MAGNITUDES),
        "ours, inside": lambda: inside([STEERED], score=True),
        "hf, inside": lambda: inside(eight_hf, score=True),
        "Inspect alone, inside": lambda: inside([instant], score=True),
        "ours, unjudged": lambda: inside([STEERED], score=False),
        "hf, unjudged": lambda: inside(eight_hf, score=False),
        "Inspect alone, unjudged": lambda: inside([instant], score=False),
        "ours, engine alone": engine_alone,
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            seconds[name].append(arm())

    def ratio(mine: str, other: str) -> float:
        pairs = zip(seconds[mine], seconds[other], strict=True)
        return statistics.median(slow / fast for fast, slow in pairs)

    return {
        "eight hf / ours": {
            **{
                where: ratio(f"ours, {where}", f"hf, {where}")
                for where in ("process", "inside", "unjudged")
            },
            "unjudged / engine alone": ratio("ours, engine alone", "hf, unjudged"),
        },
        "eight hf / Inspect alone": {
            where: ratio(f"Inspect alone, {where}", f"hf, {where}")
            for where in ("inside", "unjudged")
        },
        "seconds": seconds,
    }


def stall(rounds: int) -> dict[str, Any]:
    """Longest time between two turns of the event loop, beyond the 1 ms that it was to sleep.

    Once for the provider, and for comparison once through Inspect's `Model`, which does a few
    milliseconds' work of its own for each request and answer.
    """
    from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

    model = get_model("steered/toy", memoize=False)
    config = GenerateConfig(max_tokens=100, temperature=1.0)

    async def provider(number: int) -> Any:
        question = ChatMessageUser(content=f"Question {number % 40}?")
        return await model.api.generate([question], [], "none", config)

    async def inspects(number: int) -> Any:
        return await model.generate(f"Question {number % 40}?", config=config)

    async def heartbeat(pauses: list[float]) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            pauses.append(time.perf_counter() - began - 0.001)

    async def measured(ask: Callable[[int], Any], requests: int = 256) -> float:
        pauses: list[float] = []
        beat = asyncio.create_task(heartbeat(pauses))
        await asyncio.gather(*(ask(number) for number in range(requests)))
        beat.cancel()
        return 1000 * max(pauses)

    async def all_rounds() -> dict[str, list[float]]:
        await measured(provider, 8)
        arms = {"provider": provider, "through Inspect": inspects}
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, ask in arms.items():
                seconds[name].append(await measured(ask))
        return seconds

    pauses = asyncio.run(all_rounds())
    medians = {name: statistics.median(each) for name, each in pauses.items()}
    return {"longest stall, ms": medians, "each": pauses}


SECTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "first": first,
    "stall": stall,
    "real": real,
    "freeform": freeform,
    "sweep": sweep,
}


def main() -> None:
    """Run the sections and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--sweeps", type=int, default=1, help="rounds of `sweep`, 15 minutes each, and `real`, 3"
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"  # neither arm is to wait for a hub
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in chosen.only:
        rounds = chosen.sweeps if name in ("sweep", "real") else chosen.rounds
        results[name] = {"machine": machine(), "rounds": rounds}
        results[name]["found"] = SECTIONS[name](rounds)
        print(name, json.dumps(results[name]["found"], indent=2), flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
