"""The ratios of `benchmarks.engine` and `benchmarks.evals` as one table.

    python -m benchmarks.table

Prints it, and writes it to results/speed.md.
"""

import json
from collections.abc import Iterator
from typing import Any

from benchmarks import engine, evals

SPEED = engine.RESULTS.parent / "speed.md"


def rows(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What was compared, what was measured, and what it should be."""
    if "equal" in found:
        for family, ratios in found["equal"].items():
            bounds = {"one layer": "at least 0.95", "all layers": "at least 0.90"}
            for name, ratio in ratios.items():
                if name != "generate":
                    said = f"{family}, equal lengths: {name}, throughput over plain generate"
                    yield said, f"{ratio:.2f}", bounds.get(name, "")
    if "ragged" in found:
        for family, ratios in found["ragged"].items():
            said = f"{family}, 5-200 tokens: steered, throughput over plain generate"
            yield said, f"{ratios['steered']:.2f}", "at least 1.5"
    for name, ratio in found.get("adapters", {}).items():
        yield f"llama, equal lengths, adapter: throughput, {name}", f"{ratio:.2f}", ""
    if "sweep" in found and "hooks / ours, seconds" in found["sweep"]:
        ratio = found["sweep"]["hooks / ours, seconds"]
        yield (
            "toy, sweep of 8 magnitudes: eight hooked generates / ours",
            f"{ratio:.1f}",
            "at least 4",
        )
    if "evals" in found:
        said = {
            "process": "eight hf evals / ours, whole processes, judged",
            "inside": "eight hf evals / ours, inside one process, judged",
            "unjudged": "eight hf evals / ours, inside one process, answers only",
            "unjudged / engine alone": "eight hf evals, answers only / our engine without Inspect",
        }
        for where, ratio in found["evals"]["eight hf / ours"].items():
            yield f"toy, sweep of 8 magnitudes: {said[where]}", f"{ratio:.1f}", "at least 6"
        for where, ratio in found["evals"]["eight hf / Inspect alone"].items():
            what = said[where].replace("ours", "Inspect with models that answer at once")
            yield f"toy, sweep of 8 magnitudes: {what}", f"{ratio:.1f}", ""
    if "freeform" in found:
        for what, bound in (("eval", "at most 0.33"), ("process", "")):
            ratio = found["freeform"][f"ours / hf, {what}"]
            yield f"toy, em_freeform: ours / hf, time of the {what}", f"{ratio:.2f}", bound
        imports = found["freeform"]["imports"]
        own = sum(imports[name] for name in ("nnsight", "steering.provider.api"))
        yield "imports on top of inspect_ai, torch, transformers", f"{own:.2f} s", "under 1 s"
    if "stall" in found:
        for name, longest in found["stall"]["longest stall, ms"].items():
            bound = "under 50 ms" if name == "provider" else ""
            yield (
                f"longest stall of the event loop, 256 requests, {name}",
                f"{longest:.0f} ms",
                bound,
            )
    for point in found.get("growth", []):
        said = f"toy, {point['rows']} rows: seconds; memory above the start"
        yield said, f"{point['seconds']:.0f} s; {point['above_start_mib']:.0f} MiB", ""


def main() -> None:
    """Print and write the table."""
    read = {
        path: json.loads(path.read_text())
        for path in (engine.RESULTS, evals.RESULTS)
        if path.is_file()
    }
    found = {name: part["found"] for name, part in read.get(engine.RESULTS, {}).items()}
    for name, part in read.get(evals.RESULTS, {}).items():
        found["evals" if name == "sweep" else name] = part["found"]
    lines = ["# Speed", "", "Made by `make bench`.", "", "| compared | measured | wanted |"]
    lines += ["|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows(found))]
    SPEED.write_text("\n".join(lines) + "\n")
    print(SPEED.read_text())


if __name__ == "__main__":
    main()
