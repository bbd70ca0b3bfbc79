"""Run the trials, print a table by kind, each failure, and one line with all counts.

    python -m benchmarks.faults [--trials N] [--seed S] [--only KIND ...]

Ends with 1 when a result was wrong, lost, hung, executed or half-written, or when more than one
trial in a hundred ended in a traceback. A whole run writes results/faults.md.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.faults.trials import FATAL, VERDICTS, Finding
from benchmarks.faults.workers import Tally, run_seeds

RESULTS = Path(__file__).parents[1] / "results" / "faults.md"
# Share of all trials, in per mille; those that take longest come first.
KINDS = {
    "engine": 200,
    "files": 320,
    "judges": 130,
    "provider": 120,
    "logs": 90,
    "writers": 90,
    "caches": 50,
}
# Trials of one seed, where that is more than one.
SIZES = {"judges": 12}
MAX_TRACEBACKS = 0.01


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the arguments say; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=0, help="first seed of every kind")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the results there")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    tallies = run(options.trials, options.seed, options.only, options.processes)
    seconds = time.monotonic() - began
    text = "\n".join(lines(tallies, seconds))
    print(text)
    if options.out is not None:
        options.out.write_text(f"{_HEAD}\n```text\n{text}\n```\n\nRun on {date.today()}.\n")
    return 0 if passes(tallies) else 1


_HEAD = """# Injected faults

`make faults` writes this page; `docs/project/faults.md` says how the suite works.
"""


def run(trials: int, seed: int, kinds: Sequence[str], processes: int) -> dict[str, Tally]:
    """Share the trials out among the kinds and run them."""
    total = sum(KINDS[kind] for kind in kinds)
    tallies = {kind: Tally() for kind in kinds}
    with TemporaryDirectory(prefix="faults-") as root, ThreadPoolExecutor(processes) as pool:
        jobs = []
        for kind in kinds:
            seeds = math.ceil(trials * KINDS[kind] / total / SIZES.get(kind, 1))
            parts = min(processes, math.ceil(seeds / 8))
            for part in range(parts):
                share = range(seed + part, seed + seeds, parts)
                folder = Path(root) / f"{kind}-{part}"
                jobs.append((kind, pool.submit(run_seeds, kind, share, folder, _show)))
        for kind, job in jobs:
            result = job.result()
            tallies[kind].trials += result.trials
            tallies[kind].seconds += result.seconds
            tallies[kind].findings += result.findings
    return tallies


def _show(finding: Finding) -> None:
    print(finding, file=sys.stderr, flush=True)


def lines(tallies: dict[str, Tally], seconds: float) -> list[str]:
    """The table, each failure, and the line with all counts."""
    head = ["kind", "trials", *VERDICTS, "seconds"]
    rows = [
        [name, tally.trials, *(_count([tally], verdict) for verdict in VERDICTS),
         round(tally.seconds)]
        for name, tally in tallies.items()
    ]  # fmt: skip
    widths = [max(len(str(row[column])) for row in [head, *rows]) for column in range(len(head))]
    table = [
        "  ".join(
            str(cell).ljust(width) if column == 0 else str(cell).rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    findings = [str(finding) for tally in tallies.values() for finding in tally.findings]
    total = sum(tally.trials for tally in tallies.values())
    counts = ", ".join(f"{verdict} {_count(tallies.values(), verdict)}" for verdict in FATAL)
    tracebacks = _count(tallies.values(), "traceback")
    share = 100 * tracebacks / total if total else 0.0
    last = f"trials {total}: {counts}, tracebacks {tracebacks} ({share:.1f}%)"
    return [*table, "", *findings, *([""] if findings else []), f"{seconds:.0f} s", last]


def passes(tallies: dict[str, Tally]) -> bool:
    """Whether no trial had a fatal verdict, and at most one in a hundred a traceback."""
    total = sum(tally.trials for tally in tallies.values())
    if any(_count(tallies.values(), verdict) for verdict in FATAL):
        return False
    return _count(tallies.values(), "traceback") <= MAX_TRACEBACKS * total


def _count(tallies: "Sequence[Tally] | object", verdict: str) -> int:
    """Trials with this verdict: a trial with two failures of one sort counts once."""
    return len(
        {
            (finding.kind, finding.seed, finding.what if finding.kind in SIZES else "")
            for tally in tallies  # type: ignore[attr-defined]
            for finding in tally.findings
            if finding.verdict == verdict
        }
    )


if __name__ == "__main__":
    sys.exit(main())
