"""A judge at home: seconds a verdict, what shared beginnings save, and its calibration.

    python -m benchmarks.local_judges MODEL [--pairs 34] [--dtype bfloat16]

The judge reads the first calibration pairs in all dimensions. The first of them are judged with the
shared beginnings of their prompts (the rubrics, which other pairs have left behind) and without, in
turns, so that a busy machine slows both, and their scores are compared. Then `judge_calibration`
runs on all. Times are seconds of the processor,
which other programs don't lengthen. Appends to `benchmarks/results/local_judges.md`.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from inspect_ai import eval
from inspect_ai.model import Model, get_model

from steering.engines.beginnings import Beginnings
from steering.judging.calibration.intervals import figure_intervals
from steering.judging.calibration.labelled import Pair, load_pairs
from steering.judging.calibration.limits import LIMITS, judge_verdict
from steering.judging.calibration.task import calibration_figures, calibration_task, judged_pair
from steering.judging.judgement import Judgement
from steering.judging.judges import ask_judge, at_once
from steering.judging.rubric import DIMENSIONS, load_rubric

RESULTS = Path(__file__).parent / "results" / "local_judges.md"


def verdicts(judge: Model, pairs: Sequence[Pair]) -> list[Judgement]:
    """The judgements of pairs in every dimension, asked at once."""
    calls = []
    for pair in pairs:
        for rubric in map(load_rubric, DIMENSIONS):
            prompt = rubric.render(pair.question, pair.answer)
            calls.append(
                lambda prompt=prompt, rubric=rubric: ask_judge(judge, prompt, rubric.escapes)
            )
    return asyncio.run(at_once(calls))


def share(judge: Model, shares: bool) -> None:
    """Forget what beginnings are remembered, and share further ones or none."""

    def change(*_: Any) -> None:
        scorer = judge.api._engine._worker._scorer
        scorer._beginnings = Beginnings(scorer._decoder.most_beginning if shares else 0)

    judge.api._engine.call(change).result()


def reuse(judge: Model, pairs: Sequence[Pair], turns: int) -> tuple[float, float, float]:
    """Processor seconds a verdict without and with shared beginnings; largest difference.

    The first two pairs only load the model and leave the rubrics behind.
    """
    verdicts(judge, pairs[:1])
    seconds: dict[bool, list[float]] = {True: [], False: []}
    scores: dict[bool, list[float | None]] = {}
    for turn in range(turns):
        for shares in (bool(turn % 2), not turn % 2):
            share(judge, shares)
            if shares:
                verdicts(judge, pairs[:2])
            start = time.process_time()
            judgements = verdicts(judge, pairs[2:])
            seconds[shares].append((time.process_time() - start) / len(judgements))
            scores[shares] = [judgement.score for judgement in judgements]
    share(judge, True)
    gaps = [
        abs(one - other)
        for one, other in zip(scores[True], scores[False], strict=True)
        if one is not None and other is not None
    ]
    assert [s is None for s in scores[True]] == [s is None for s in scores[False]]
    return median(seconds[False]), median(seconds[True]), max(gaps, default=0.0)


def calibrated(judge: Model, num_pairs: int) -> tuple[list[str], float, float]:
    """Rows of the table of figures, and processor and wall seconds a verdict."""
    start = time.process_time(), time.monotonic()
    [log] = eval(
        calibration_task(load_pairs(num_pairs=num_pairs)),
        model="none/none", model_roles={"grader": judge}, display="none",
    )  # fmt: skip
    used = time.process_time() - start[0], time.monotonic() - start[1]
    assert log.samples, log.error
    scores = [(sample.id, (sample.scores or {})["calibration"]) for sample in log.samples]
    pairs = [judged_pair(score, str(name)) for name, score in scores]
    figures, intervals = calibration_figures(pairs), figure_intervals(pairs)
    rows = [
        f"| `{limit.figure}` | {figures[limit.figure]:.3g} | "
        f"{intervals[limit.figure].low:.3g} to {intervals[limit.figure].high:.3g} | {limit} | "
        f"{limit.verdict(intervals[limit.figure])} |"
        for limit in LIMITS
    ]
    forms = Counter(
        reason.partition(":")[0] if (reason := score.metadata["reasons"].get(key)) else method
        for _, score in scores
        for key, method in score.metadata["methods"].items()
    )
    rows += [
        "",
        f"Verdict: **{judge_verdict(intervals)}**. Replies: "
        + ", ".join(f"{count} {form}" for form, count in forms.most_common())
        + ".",
    ]
    for name, seconds in zip(("processor", "wall"), used, strict=True):
        rows[-1] += f" Seconds ({name}): {seconds:,.0f}."
    count = len(scores) * len(DIMENSIONS)
    return rows, used[0] / count, used[1] / count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a name, a hub id or the path of a folder or file")
    parser.add_argument("--name", help="in the table")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pairs", type=int, default=34)
    parser.add_argument(
        "--compared", type=int, default=4, help="pairs judged in both ways; 0 skips that"
    )
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    judge = get_model(f"steered/{arguments.model}", vector="none", dtype=arguments.dtype)
    judge.api._engine.call(lambda *_: None).result()  # which loads the weights
    reused = []
    if arguments.compared:
        compared = load_pairs(num_pairs=arguments.compared + 2).pairs
        without, shared, gap = reuse(judge, compared, arguments.turns)
        count = arguments.compared * len(DIMENSIONS)
        reused = [
            f"| processor seconds a verdict, {count} prompts, nothing shared | {without:.2f} |",
            f"| the same, beginnings shared | {shared:.2f} |",
            f"| ratio | {without / shared:.2f} |",
            f"| largest difference of a score | {gap:.2g} |",
        ]
        print("\n".join(reused), flush=True)
    rows, processor, wall = calibrated(judge, arguments.pairs)
    lengths = mean(
        len(load_rubric(each).render(pair.question, pair.answer))
        for pair in load_pairs(num_pairs=arguments.pairs).pairs
        for each in DIMENSIONS
    )
    count = arguments.pairs * len(DIMENSIONS)
    lines = [
        "",
        f"## {arguments.name or Path(arguments.model).name}, {arguments.dtype}",
        "",
        f"Prompts have {lengths:,.0f} characters on average. One thread.",
        "",
        "| what | value |",
        "|---|---|",
        *reused,
        f"| {count} verdicts of `judge_calibration`, processor seconds a verdict | "
        f"{processor:.2f} |",
        f"| the same, wall seconds on a busy machine | {wall:.2f} |",
        "",
        f"Calibration on the first {arguments.pairs} pairs:",
        "",
        "| figure | value | 95% interval | limit | verdict |",
        "|---|---|---|---|---|",
        *rows,
    ]
    print("\n".join(lines))
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
