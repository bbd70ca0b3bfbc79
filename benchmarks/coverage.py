"""Coverage of the 95% intervals, by simulation.

    python -m benchmarks.coverage

Questions' rates follow a beta distribution and answers to a question a binomial one: 1,000 runs a
row, with 8 questions of 25 answers and 24 of 20. Differences are between two conditions of the same
questions; half of a question's effect is in both (a Gaussian copula). Writes results/coverage.md.
Two minutes on one thread.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats

from steering.stats import cluster_interval, paired_difference

RESULTS = Path(__file__).parent / "results" / "coverage.md"
RUNS = 1000
SEED = 20250117
RATES = [(8, 25, icc, rate) for icc in (0.1, 0.5) for rate in (0.1, 0.3, 0.5)] + [
    (questions, samples, icc, rate)
    for questions, samples in ((8, 25), (24, 20))
    for icc in (0.0, 0.1, 0.5)
    for rate in (0.02, 0.05)
]
DIFFERENCES = [
    (questions, 20, icc, base, other)
    for questions in (8, 24)
    for icc in (0.1, 0.5)
    for base, other in ((0.02, 0.02), (0.1, 0.1), (0.1, 0.3), (0.3, 0.5))
]
HEAD = f"""# Coverage of the 95% intervals

Written by `python -m benchmarks.coverage`: {RUNS:,} runs in each row, with beta-binomial
answers. The standard error of a coverage of 95% is 0.7 points. ICC is the correlation of
two answers to one question. The coverage should be 93 to 97%. A smaller coverage is marked
narrow, a larger one wide.

## Rates

`cluster_interval`: Wilson interval with the effective number of answers, Student's t.
"""


class Tally:
    """How often an interval covered the truth, and how wide it was."""

    def __init__(self) -> None:
        self.num_covering = 0
        self.widths: list[float] = []

    def add(self, low: float, high: float, truth: float) -> None:
        self.num_covering += low <= truth <= high
        self.widths.append(high - low)

    def __str__(self) -> str:
        coverage = 100 * self.num_covering / len(self.widths)
        mark = "" if 93 <= coverage <= 97 else " **narrow**" if coverage < 93 else " wide"
        return f"{coverage:.1f}%{mark} | {np.mean(self.widths):.2f}"


def question_rates(rate: float, icc: float, normals: np.ndarray) -> np.ndarray:
    """True rates of questions [questions], of a beta law with mean `rate` and correlation `icc`."""
    if icc == 0:
        return np.full(len(normals), rate)
    spread = 1 / icc - 1
    return stats.beta.ppf(stats.norm.cdf(normals), rate * spread, (1 - rate) * spread)


def rate_row(questions: int, samples: int, icc: float, rate: float) -> str:
    rng = np.random.default_rng(SEED)
    wilson = Tally()
    clusters = np.repeat(np.arange(questions), samples).tolist()
    for _ in range(RUNS):
        true = question_rates(rate, icc, rng.standard_normal(questions))
        outcomes = rng.random((questions, samples)) < true[:, None]
        interval = cluster_interval(outcomes.ravel().tolist(), clusters)
        wilson.add(interval.low, interval.high, rate)
    return f"| {questions} x {samples} | {icc} | {rate} | {wilson} |"


def difference_row(questions: int, samples: int, icc: float, base: float, other: float) -> str:
    rng = np.random.default_rng(SEED)
    student = Tally()
    for _ in range(RUNS):
        shared = rng.standard_normal(questions)
        rates = []
        for rate in (other, base):
            normals = math.sqrt(0.5) * (shared + rng.standard_normal(questions))
            counts = rng.binomial(samples, question_rates(rate, icc, normals))
            rates.append({str(q): count / samples for q, count in enumerate(counts)})
        difference = paired_difference(*rates)
        student.add(difference.low, difference.high, other - base)
    return f"| {questions} x {samples} | {icc} | {base}, {other} | {student} |"


def lines() -> Iterator[str]:
    yield HEAD
    yield "| questions x samples | ICC | rate | coverage | width |"
    yield "|---|---|---|---|---|"
    yield from (rate_row(*row) for row in RATES)
    yield "\n## Differences of two conditions, paired by question\n"
    yield "`paired_difference`: Student's t over the differences of the questions.\n"
    yield "| questions x samples | ICC | rates | coverage | width |"
    yield "|---|---|---|---|---|"
    yield from (difference_row(*row) for row in DIFFERENCES)


def main() -> None:
    text = ""
    for line in lines():
        print(line, flush=True)
        text += line + "\n"
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
