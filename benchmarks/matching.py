"""How far arms are matched right between doses: `python -m benchmarks.matching`.

Two arms follow one law, so that the harmful answers of both are alike wherever both do harm equally
often; but each was asked at doses of its own. Their difference at matched harm should leave out 0
in no more than 5% of the runs, and a difference of 12 points that is there should be seen. Writes
`benchmarks/results/matching.md`.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from steering.studies.dose_matching import DoseCurve, matched_difference, shared_levels
from steering.studies.errors import StudyError

RESULTS = Path(__file__).parent / "results" / "matching.md"
ANSWERS, NOISE, AHEAD = 20, 15.0, 12.0

_Array = NDArray[np.float64]
# The rate of harm of each theme at a dose, from the theme's own logit; and the coherence of harmful
# answers at the dose.
LAWS: dict[str, tuple[Callable[[float, _Array], _Array], Callable[[float], float]]] = {
    "harm logistic in the dose": (lambda d, a: expit(-4 + 2.2 * d + a), lambda d: 95 - 14 * d),
    "harm logistic in its logarithm": (
        lambda d, a: expit(2.5 * math.log(max(d, 0.02)) + a), lambda d: 95 - 10 * d,
    ),
    "harm saturates": (
        lambda d, a: 0.01 + 0.98 * (1 - math.exp(-0.7 * d)) * expit(a + 2.5), lambda d: 95 - 12 * d,
    ),
    "harm linear": (
        lambda d, a: np.clip(0.01 + 0.24 * d * expit(a + 2), 0, 1), lambda d: 95 - 12 * d,
    ),
    "coherence falls ever faster": (
        lambda d, a: expit(-4 + 2.2 * d + a), lambda d: 95 - 6 * d * d,
    ),
}  # fmt: skip
GRIDS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "fine and coarse": ((0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3), (0, 1, 2, 3)),
    "shifted": ((0, 0.5, 1, 1.5, 2, 2.5, 3), (0, 0.8, 1.6, 2.4, 3.2)),
    "one with two doses": ((0, 1, 2), (0, 0.5, 1, 1.5, 2, 2.5)),
    "far apart": ((0, 0.5, 1, 2, 3), (0, 1.3, 2.6)),
}
# Themes, build seeds, standard deviation between vectors in logits of the rate.
SIZES = ((8, 1, 0.0), (24, 1, 0.0), (8, 3, 0.3))


def curve(
    rng: np.random.Generator,
    law: str,
    doses: Sequence[float],
    size: tuple[int, int, float],
    logits: _Array,
    scores: _Array,
    ahead: float = 0.0,
) -> DoseCurve:
    """An arm's answers, drawn: `logits` and `scores` are the themes' own, [themes]."""
    harm, coherence = LAWS[law]
    themes, seeds, spread = size
    of_seed = rng.normal(0, 1, (seeds, 2)) * (spread, 5 * spread)
    # The baseline is asked once.
    cells = [(dose, seed) for dose in doses for seed in range(seeds if dose else 1)]
    rates, means = (
        np.array(values)
        for values in zip(
            *(
                (
                    harm(dose, logits + of_seed[seed, 0] * (dose > 0)),
                    coherence(dose) + scores + of_seed[seed, 1] * (dose > 0) + ahead,
                )
                for dose, seed in cells
            ),
            strict=True,
        )
    )
    shape = (len(cells), themes, ANSWERS)
    cell, theme = (axis.ravel() for axis in np.indices(shape)[:2])
    harmful = rng.random(shape) < rates[..., None]
    answers = pd.DataFrame(
        {
            "dose": np.array([dose for dose, _ in cells], dtype=float)[cell],
            "build_seed": np.array([seed if dose else math.nan for dose, seed in cells])[cell],
            "theme": theme,
            "aligned": np.where(harmful, 10.0, 95.0).ravel(),
            "coherent": (means[..., None] + rng.normal(0, NOISE, shape)).ravel(),
            "relevant": 80.0,
            "leak": math.nan,
            "severity": math.nan,
            "aligned_below": 30.0,
            "em_moem": 0.0,
        }
    )
    return DoseCurve(answers, "moem")


def outcomes(
    law: str, grid: str, size: tuple[int, int, float], ahead: float, runs: int
) -> Counter[str]:
    """How often the interval lies above 0, below 0, around it, or can't be said."""
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for _ in range(runs):
        themes = size[0]
        logits, scores = rng.normal(0, 0.8, themes), rng.normal(0, 6, themes)
        first, second = (
            curve(
                rng, law, doses, size, logits + rng.normal(0, 0.2, themes),
                scores + rng.normal(0, 2, themes), extra,
            )
            for doses, extra in zip(GRIDS[grid], (ahead, 0.0), strict=True)
        )  # fmt: skip
        try:
            level = shared_levels(first, second, "harm")[1]
            difference = matched_difference(first, second, "coherent_harmful", "harm", level)
        except StudyError:
            counts["unknown"] += 1
            continue
        counts["above"] += difference.low > 0
        counts["below"] += difference.high < 0
    return counts


def main() -> None:
    """Simulate, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    lines = [
        "# Arms matched between doses",
        "",
        f"`python -m benchmarks.matching --runs {runs}`. Coherence of harmful answers at matched "
        f"harm, {ANSWERS} answers to a theme at each dose. First figure: of {runs:,} runs with "
        "both arms under one law, how many intervals leave out 0 (nominal: 5%). Second: of a third "
        f"as many with {AHEAD:g} points between them, how many lie above 0. Third: in how many of "
        "the first it can't be said, since doses are too far apart. In %.",
        "",
        "| law | doses | "
        + " | ".join(f"{t} themes, {s} build seed{'s' * (s > 1)}" for t, s, _ in SIZES)
        + " |",
        f"|---|---|{'---|' * len(SIZES)}",
    ]
    for law in LAWS:
        for grid in GRIDS:
            cells = []
            for size in SIZES:
                same = outcomes(law, grid, size, 0.0, runs)
                few = max(runs // 3, 1)
                ahead = outcomes(law, grid, size, AHEAD, few)
                wrong = same["above"] + same["below"]
                cells.append(
                    f"{100 * wrong / runs:.1f}, {100 * ahead['above'] / few:.0f}, "
                    f"{100 * same['unknown'] / runs:.0f}"
                )
            lines.append(f"| {law} | {grid} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
