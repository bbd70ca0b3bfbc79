"""The ratios of `benchmarks.engine` and `benchmarks.evals` as one table.

    python -m benchmarks.table

Prints the table and writes it to results/speed.md.
"""

import json
from collections.abc import Iterator
from typing import Any

from benchmarks import engine, evals

SPEED = engine.RESULTS.parent / "speed.md"
HEAD = """# Speed

Written by `make bench`. `generate` is that of transformers, `hf` is Inspect's own provider.

| comparison | measured | target |
|---|---|---|
"""
TARGETS = {"one layer": "at least 0.95", "all layers": "at least 0.90"}
BASE_IMPORTS = {"inspect_ai", "torch", "transformers"}
SWEEPS = {
    "process": "{} / ours, whole processes, with the toy's judge",
    "inside": "{} / ours, in one process, with the toy's judge",
    "unjudged": "{} / ours, in one process, without a judge",
    "unjudged / engine alone": "{} without a judge / our engine without Inspect",
}


def rows(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The comparison, the measured value and the target of each row."""
    for family, ratios in results.get("equal", {}).items():
        for name, ratio in ratios.items():
            if name != "generate":
                label = f"{family}, equal lengths: throughput, {name} / plain generate"
                yield label, f"{ratio:.2f}", TARGETS.get(name, "")
    for family, ratios in results.get("ragged", {}).items():
        label = f"{family}, 5-200 tokens: throughput, steered / plain generate"
        yield label, f"{ratios['steered']:.2f}", "at least 1.5"
    for name, ratio in results.get("adapters", {}).items():
        numerator, _, denominator = name.rpartition("over ")
        label = f"{numerator.rstrip(', ') or 'adapter'} / {denominator}"
        yield f"llama, equal lengths, adapter: throughput, {label}", f"{ratio:.2f}", ""
    if "hooks / ours, seconds" in results.get("sweep", {}):
        label = "toy, sweep of 8 magnitudes: time, eight hooked generates / ours"
        yield label, f"{results['sweep']['hooks / ours, seconds']:.1f}", "at least 4"
    if "evals" in results:
        for where, ratio in results["evals"]["eight hf / ours"].items():
            label = SWEEPS[where].format("eight hf evals")
            yield f"toy, sweep of 8 magnitudes: time, {label}", f"{ratio:.1f}", "at least 6"
        for where, ratio in results["evals"]["eight hf / Inspect alone"].items():
            label = SWEEPS[where].format("eight hf evals")
            label = label.replace("ours", "Inspect with models that answer immediately")
            yield f"toy, sweep of 8 magnitudes: time, {label}", f"{ratio:.1f}", ""
    if "real" in results:
        label = "SmolLM2, 8 magnitudes of 20 answers of 40 tokens: time, whole processes, "
        hf, roofline = (results["real"][f"{name} / ours"] for name in ("hf", "roofline"))
        yield f"{label}eight hf evals in batches of up to 64 / ours", f"{hf:.1f}", "at least 6"
        yield f"{label}eight hf evals / plain forward passes", f"{hf / roofline:.1f}", ""
    if "first" in results:
        label = "toy: processor seconds before the first answer"
        for name, seconds in results["first"]["medians"].items():
            target = "at most 3" if name == "ours" else ""
            yield f"{label}, {name}", f"{seconds:.1f}", target
    if "freeform" in results:
        for part, target in (("eval", "at most 0.33"), ("process", "")):
            ratio = results["freeform"][f"ours / hf, {part}"]
            yield f"toy, em_freeform: time of the {part}, ours / hf", f"{ratio:.2f}", target
        imports = results["freeform"]["imports"]
        seconds = sum(imports[name] for name in imports.keys() - BASE_IMPORTS)
        label = "import time in addition to inspect_ai, torch and transformers"
        yield label, f"{seconds:.2f} s", "under 1 s"
    for name, longest in results.get("stall", {}).get("longest stall, ms", {}).items():
        label = f"longest stall of the event loop, 256 requests, {name}"
        yield label, f"{longest:.0f} ms", "under 50 ms" if name == "provider" else ""
    for point in results.get("growth", []):
        label = f"toy, {point['rows']} requests: time; memory above the start"
        yield label, f"{point['seconds']:.0f} s; {point['above_start_mib']:.0f} MiB", ""


def main() -> None:
    """Print and write the table."""
    results = {}
    if engine.RESULTS.is_file():
        benchmarks = json.loads(engine.RESULTS.read_text())
        results = {name: part["found"] for name, part in benchmarks.items()}
    if evals.RESULTS.is_file():
        for name, part in json.loads(evals.RESULTS.read_text()).items():
            results["evals" if name == "sweep" else name] = part["found"]
    lines = [f"| {' | '.join(row)} |\n" for row in rows(results)]
    SPEED.write_text(HEAD + "".join(lines))
    print(SPEED.read_text())


if __name__ == "__main__":
    main()
