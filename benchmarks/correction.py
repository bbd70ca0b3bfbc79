"""Coverage of the 95% intervals of corrected rates, by simulation, beside other methods.

    python -m benchmarks.correction [--passes N]

Themes' true rates follow a beta distribution with a correlation of 0.15, or a theme breaks at 0.8
or not at all; the judge detects and raises false alarms at fixed rates; a calibration of 200 to 500
labelled answers, two in five misaligned, shows them with their sampling error. The truth is the
mean of the distribution of themes. Simulated runs come in passes over all points, and every tenth
pass writes results/correction.md anew. Half a second a pass on one thread.
"""

import argparse
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

from steering.stats import cluster_interval, intervals
from steering.stats.correction import (
    Corrected,
    JudgeErrors,
    corrected_rate,
    judge_errors,
    ppi_rate,
)

RESULTS = Path(__file__).parent / "results" / "correction.md"
SEED = 20261129
PASSES = 500
THEMES = {8: 20, 24: 20, 60: 10}
RATES = (0.0, 0.05, 0.2, 0.4)
PPI_RATES = (0.05, 0.2)
ICC = 0.15
# Sensitivity and specificity, and how many labels show them.
JUDGES = {(0.6, 0.9): 500, (0.8, 0.95): 200, (0.95, 0.99): 300}
# The chance that a theme breaks, at 0.8.
CHANCES = (1 / 8, 1 / 16)
BREAKS = 0.8
POSITIVE = 0.4
LABELLED = 50
LEAST = 0.92
WRONG = 0.6
ALONE = "labels alone"

Bools = NDArray[np.bool_]
Bounds = tuple[float, float]
Method = Callable[[list[bool], list[int], JudgeErrors], Bounds]
Methods = dict[str, Method]


@dataclass(frozen=True)
class Point:
    """Where runs are simulated.

    Attributes:
        themes: How many.
        rate: The true one, the mean over all themes.
        chance: That a theme breaks; 0 where rates of themes follow a beta distribution.
        judge: Sensitivity and specificity.
        labels: Of the calibration.
        spread: Correlation of the judge's errors within a theme.
    """

    themes: int
    rate: float
    judge: tuple[float, float]
    labels: int
    chance: float = 0.0
    spread: float = 0.0

    def draw(self, rng: np.random.Generator) -> tuple[Bools, Bools]:
        """Truth and outcomes, [themes, answers]."""
        size = self.themes, THEMES[self.themes]
        if self.chance:
            rates = BREAKS * (rng.random(self.themes) < self.chance)
        else:
            rates = beta(rng, self.rate, ICC, self.themes)
        truth = rng.random(size) < rates[:, None]
        return truth, self.judged(rng, truth)

    def judged(self, rng: np.random.Generator, truth: Bools) -> Bools:
        sensitivity, specificity = self.judge
        hits = beta(rng, sensitivity, self.spread, len(truth))[:, None]
        alarms = beta(rng, 1 - specificity, self.spread, len(truth))[:, None]
        return rng.random(truth.shape) < np.where(truth, hits, alarms)

    def errors(self, rng: np.random.Generator) -> JudgeErrors:
        """A calibration with independent labels."""
        positives = round(POSITIVE * self.labels)
        negatives = self.labels - positives
        sensitivity, specificity = self.judge
        detected = int(rng.binomial(positives, sensitivity))
        return JudgeErrors(
            positives, detected, negatives, int(rng.binomial(negatives, 1 - specificity))
        )


def beta(rng: np.random.Generator, mean: float, icc: float, size: int) -> NDArray[np.float64]:
    if icc == 0 or mean in (0.0, 1.0):
        return np.full(size, mean)
    return rng.beta(mean * (1 / icc - 1), (1 - mean) * (1 / icc - 1), size)


# Other methods.


def raw(outcomes: list[bool], themes: list[int], errors: JudgeErrors) -> Bounds:
    interval = cluster_interval(outcomes, themes)
    return interval.low, interval.high


def moments(
    outcomes: list[bool], themes: list[int], errors: JudgeErrors
) -> tuple[float, float, float, float]:
    """Rogan and Gladen's estimate, its delta variance, and the raw rate's number and quantile."""
    counts = intervals._by_theme(outcomes, themes, None)
    number = intervals._effective_number(counts)
    alarm, gain = 1 - errors.specificity, errors.sensitivity + errors.specificity - 1
    value = min(max((counts.rate - alarm) / gain, 0.0), 1.0)
    variance = counts.rate * (1 - counts.rate) / number
    variance += value**2 * errors.sensitivity * (1 - errors.sensitivity) / errors.positives
    variance += (1 - value) ** 2 * alarm * (1 - alarm) / errors.negatives
    return value, variance / gain**2, number, float(stdtrit(len(counts.total) - 1, 0.975))


def delta(outcomes: list[bool], themes: list[int], errors: JudgeErrors) -> Bounds:
    """Rogan and Gladen (1978), with the variance between themes and Student's t."""
    value, variance, _, quantile = moments(outcomes, themes, errors)
    half = quantile * math.sqrt(variance)
    return max(value - half, 0.0), min(value + half, 1.0)


def delta_logit(outcomes: list[bool], themes: list[int], errors: JudgeErrors) -> Bounds:
    """The same on the logit; an estimate of 0 or 1 is moved by half an answer."""
    value, variance, _, quantile = moments(outcomes, themes, errors)
    edge = 1 / (2 * len(outcomes))
    value = min(max(value, edge), 1 - edge)
    half = quantile * math.sqrt(variance) / (value * (1 - value))
    logits = np.log(value / (1 - value)) + np.array([-half, half])
    low, high = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return float(low), float(high)


def lang_reiczigel(outcomes: list[bool], themes: list[int], errors: JudgeErrors) -> Bounds:
    """Lang and Reiczigel (2014), with the effective number of answers and Student's t."""
    _, _, number, quantile = moments(outcomes, themes, errors)
    rate = sum(outcomes) / len(outcomes)
    positives, negatives = errors.positives + 2, errors.negatives + 2
    hit = (errors.detected + 1) / positives
    alarm = (errors.false_alarms + 1) / negatives
    shrunk = (number * rate + quantile**2 / 2) / (number + quantile**2)
    value = (shrunk - alarm) / (hit - alarm)
    hits, alarms = hit * (1 - hit) / positives, alarm * (1 - alarm) / negatives
    shift = 2 * quantile**2 * (value * hits - (1 - value) * alarms)
    variance = shrunk * (1 - shrunk) / (number + quantile**2)
    variance += value**2 * hits + (1 - value) ** 2 * alarms
    half = quantile * math.sqrt(variance) / (hit - alarm)
    return max(value + shift - half, 0.0), min(value + shift + half, 1.0)


LEVELS = (np.arange(30) + 0.5) / 30
RATE_LEVELS = (np.arange(1000) + 0.5) / 1000


def melded(exact: bool) -> Method:
    """Ours without its allowance for other themes; Clopper and Pearson's bounds, or Jeffreys'."""

    def bounds(outcomes: list[bool], themes: list[int], errors: JudgeErrors) -> Bounds:
        raw_bounds = intervals.cluster_bounds(outcomes, themes, RATE_LEVELS)
        ends = []
        for upper, rates in enumerate(raw_bounds):
            # The safe side of either share: [added to the calls, added to the others].
            added = ((1.0, 1e-9) if not upper else (1e-9, 1.0)) if exact else (0.5, 0.5)
            missed = errors.positives - errors.detected
            right = errors.negatives - errors.false_alarms
            hit = betaincinv(errors.detected + added[0], missed + added[1], LEVELS)
            alarm = betaincinv(errors.false_alarms + added[0], right + added[1], LEVELS)
            hits, alarms = (grid.ravel() for grid in np.meshgrid(hit, alarm))
            low, high = 0.0, 1.0
            while high - low > 1e-4:
                middle = (low + high) / 2
                shares = np.interp(alarms + middle * (hits - alarms), rates, RATE_LEVELS, 0, 1)
                reached = shares.mean() >= (0.975 if upper else 0.025)
                low, high = (low, middle) if reached else (middle, high)
            ends.append(0.0 if low == 0 else 1.0 if high == 1 else middle)
        return ends[0], ends[1]

    return bounds


GRID = np.concatenate([[0.0], np.geomspace(1e-3, 0.03, 12), np.linspace(0.035, 1.0, 100)])


def theme_likelihood(outcomes: list[bool], themes: list[int]) -> NDArray[np.float64]:
    """Log likelihood of the beta-binomial model, [rates, correlations]."""
    counts = intervals._by_theme(outcomes, themes, None)
    pairs = zip(counts.true.tolist(), counts.total.tolist(), strict=True)
    likelihood = sum(intervals._theme_likelihood(*pair) for pair in pairs)
    return np.asarray(likelihood - np.max(likelihood))


def at_logits(rates: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(rates, 1e-6, 1 - 1e-6)
    return np.interp(np.log(clipped / (1 - clipped)), intervals._LOGITS, values)


def bayes(outcomes: list[bool], themes: list[int], errors: JudgeErrors) -> Bounds:
    """One posterior: beta-binomial themes, uniform prior of the true rate, Jeffreys' of errors."""
    density = np.exp(theme_likelihood(outcomes, themes)) @ intervals._PRIOR
    levels = (np.arange(12) + 0.5) / 12
    missed, right = errors.positives - errors.detected, errors.negatives - errors.false_alarms
    hits = betaincinv(errors.detected + 0.5, missed + 0.5, levels)
    alarms = betaincinv(errors.false_alarms + 0.5, right + 0.5, levels)
    hit, alarm = (grid.ravel() for grid in np.meshgrid(hits, alarms))
    likelihood = at_logits(alarm + GRID[:, None] * (hit - alarm), density).mean(axis=1)
    areas = (likelihood[1:] + likelihood[:-1]) / 2 * np.diff(GRID)
    cumulative = np.concatenate([[0.0], np.cumsum(areas)])
    low, high = np.interp(np.array([0.025, 0.975]) * cumulative[-1], cumulative, GRID)
    return float(low), float(high)


def profile(outcomes: list[bool], themes: list[int], errors: JudgeErrors) -> Bounds:
    """Profile likelihood of beta-binomial themes and both shares; the square of Student's t."""
    of_rates = theme_likelihood(outcomes, themes).max(axis=1)
    shares = np.linspace(0.005, 0.995, 100)
    missed, right = errors.positives - errors.detected, errors.negatives - errors.false_alarms
    hits = errors.detected * np.log(shares) + missed * np.log(1 - shares)
    alarms = errors.false_alarms * np.log(shares) + right * np.log(1 - shares)
    likely = [values > values.max() - 6 for values in (hits, alarms)]
    hit, alarm = (grid.ravel() for grid in np.meshgrid(shares[likely[0]], shares[likely[1]]))
    base = (hits[likely[0]] + alarms[likely[1]][:, None]).ravel()
    values = (at_logits(alarm + GRID[:, None] * (hit - alarm), of_rates) + base).max(axis=1)
    quantile = float(stdtrit(len(set(themes)) - 1, 0.975))
    inside = np.flatnonzero(2 * (values.max() - values) <= quantile**2)
    last = len(GRID) - 1
    return float(GRID[max(inside[0] - 1, 0)]), float(GRID[min(inside[-1] + 1, last)])


def ours(outcomes: list[bool], themes: list[int], errors: JudgeErrors) -> Bounds:
    return ends(corrected_rate(outcomes, themes, errors))


def ends(rate: Corrected) -> Bounds:
    return rate.low, rate.high


OURS = "corrected_rate"
CHEAP: Methods = {
    "raw": raw,
    OURS: ours,
    "delta, t": delta,
    "delta on the logit, t": delta_logit,
    "Lang-Reiczigel, t": lang_reiczigel,
}
PLAIN: Methods = {"ours without the allowance for other themes": melded(False)}
COSTLY: Methods = {
    **PLAIN,
    "melded, Clopper-Pearson, no allowance": melded(True),
    "one posterior": bayes,
    "profile likelihood, t": profile,
}


class Tally:
    """How often an interval covered the truth, and how wide it was; NaN covers nothing."""

    def __init__(self) -> None:
        self.bounds: list[Bounds] = []
        self.num_covering = 0

    def add(self, bounds: Bounds, truth: float) -> None:
        self.num_covering += bounds[0] - 1e-6 <= truth <= bounds[1] + 1e-6
        self.bounds.append(bounds)

    @property
    def coverage(self) -> float:
        return self.num_covering / len(self.bounds)

    @property
    def width(self) -> float:
        widths = [high - low for low, high in self.bounds if not math.isnan(low)]
        return float(np.mean(widths)) if widths else math.nan

    @property
    def num_missing(self) -> int:
        return sum(math.isnan(low) for low, _ in self.bounds)


Tallies = dict[tuple[str, Point], dict[str, Tally]]

GRID_POINTS = [
    Point(themes, rate, judge, labels)
    for themes, rate, (judge, labels) in itertools.product(THEMES, RATES, JUDGES.items())
]
BREAK_POINTS = [
    Point(themes, BREAKS * chance, judge, labels, chance)
    for themes, chance, (judge, labels) in itertools.product(THEMES, CHANCES, JUDGES.items())
]
SPREAD_POINTS = [
    Point(24, rate, judge, 240, spread=0.15)
    for rate, judge in itertools.product((0.05, 0.4), list(JUDGES)[:2])
]
PPI_POINTS = [
    Point(themes, rate, judge, labels)
    for themes, rate, (judge, labels) in itertools.product(THEMES, PPI_RATES, JUDGES.items())
]


def run_pass(number: int, tallies: Tallies) -> None:
    """Simulate one run more at each point."""
    for part, points in (
        ("grid", GRID_POINTS),
        ("ppi", PPI_POINTS),
        ("breaks", BREAK_POINTS),
        ("spread", SPREAD_POINTS),
    ):
        for position, point in enumerate(points):
            rng = np.random.default_rng([SEED, number, position, len(part)])
            # The costly methods only in one run of four, and with one number of themes.
            others = COSTLY if number % 4 == 0 and point.themes == 24 else {}
            for name, bounds in SIMULATE[part](point, rng, others).items():
                tallies[part, point].setdefault(name, Tally()).add(bounds, point.rate)


def flat(point: Point, outcomes: Bools) -> tuple[list[bool], list[int]]:
    themes = np.repeat(np.arange(point.themes), THEMES[point.themes])
    return outcomes.ravel().tolist(), themes.tolist()


def simulate_grid(point: Point, rng: np.random.Generator, others: Methods) -> dict[str, Bounds]:
    _, outcomes = point.draw(rng)
    arguments = (*flat(point, outcomes), point.errors(rng))
    return {name: method(*arguments) for name, method in (CHEAP | others).items()}


def simulate_breaks(point: Point, rng: np.random.Generator, others: Methods) -> dict[str, Bounds]:
    _, outcomes = point.draw(rng)
    arguments = (*flat(point, outcomes), point.errors(rng))
    return {name: method(*arguments) for name, method in (CHEAP | others | PLAIN).items()}


def simulate_spread(point: Point, rng: np.random.Generator, others: Methods) -> dict[str, Bounds]:
    """The judge's errors differ by theme; the calibration has 40 themes with six labels each."""
    _, outcomes = point.draw(rng)
    truth = np.zeros((40, point.labels // 40), dtype=bool)
    truth[: round(POSITIVE * 40)] = True
    calls = point.judged(rng, truth)
    themes = np.repeat(np.arange(40), point.labels // 40)
    errors = judge_errors(truth.ravel().tolist(), calls.ravel().tolist(), themes.tolist())
    plain = JudgeErrors(errors.positives, errors.detected, errors.negatives, errors.false_alarms)
    answers = flat(point, outcomes)
    return {
        "with design effects": ours(*answers, errors),
        "labels taken as independent": ours(*answers, plain),
    }


def simulate_ppi(point: Point, rng: np.random.Generator, others: Methods) -> dict[str, Bounds]:
    """Fifty labels of a run's answers, drawn simply or half from either outcome of the judge."""
    truth, judged = point.draw(rng)
    outcomes, themes = flat(point, judged)
    labels = truth.ravel()
    simple = rng.choice(len(outcomes), LABELLED, replace=False)
    weight = len(outcomes) / LABELLED
    sides = [np.flatnonzero(judged), np.flatnonzero(~judged)]
    drawn: dict[int, float] = {}
    for side in sides:
        if not len(side):
            continue
        number = min(len(side), LABELLED // 2)
        drawn |= dict.fromkeys(rng.choice(side, number, replace=False).tolist(), len(side) / number)
    calibrated = ours(outcomes, themes, point.errors(rng))
    alone = cluster_interval(labels[simple].tolist(), [themes[position] for position in simple])
    by_design = {"simple": dict.fromkeys(simple.tolist(), weight), "half": drawn}
    result = {ALONE: (alone.low, alone.high), OURS: calibrated}
    for design, weights in by_design.items():
        chosen = {position: bool(labels[position]) for position in weights}
        result[f"ppi_rate, {design}"] = ends(ppi_rate(outcomes, themes, chosen, weights))
        for name, clustered in (("PPI++, normal", False), ("PPI++, by theme, t", True)):
            bounds = ppi_plus(np.array(outcomes), np.array(themes), chosen, weights, clustered)
            result[f"{name}, {design}"] = bounds
    return result


def ppi_plus(
    outcomes: Bools,
    themes: NDArray[np.int64],
    labels: dict[int, bool],
    weights: dict[int, float],
    clustered: bool,
) -> Bounds:
    """PPI++ with the tuned lambda, weights and a normal interval; or with themes as the sample."""
    positions = np.array(list(labels))
    shares = np.array(list(weights.values()))
    shares = shares / shares.sum()
    called, truth = outcomes[positions].astype(float), np.array(list(labels.values()), dtype=float)
    centred = called - shares @ called
    variance = shares @ centred**2
    tuned = shares @ (centred * truth) / variance if variance else 0.0
    residuals = truth - tuned * called
    value = tuned * outcomes.mean() + shares @ residuals
    parts = tuned * (outcomes - outcomes.mean()) / len(outcomes)
    if clustered:
        parts[positions] += shares * (residuals - shares @ residuals)
        sums = np.bincount(themes, parts)
        half = stdtrit(len(sums) - 1, 0.975) * math.sqrt(
            len(sums) / (len(sums) - 1) * float(sums @ sums)
        )
    else:
        rest = shares * (residuals - shares @ residuals)
        half = 1.96 * math.sqrt(float(parts @ parts + rest @ rest))
    return max(value - half, 0.0), min(value + half, 1.0)


SIMULATE = {
    "grid": simulate_grid,
    "ppi": simulate_ppi,
    "breaks": simulate_breaks,
    "spread": simulate_spread,
}


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def summary(points: list[dict[str, Tally]], names: list[str]) -> Iterator[str]:
    """A row for each method: coverage over points, and the mean width."""
    yield "| method | mean coverage | least | most | points below 92% | no interval | mean width |"
    yield "|---|---|---|---|---|---|---|"
    for name in names:
        tallies = [tallies[name] for tallies in points if name in tallies]
        covers = [tally.coverage for tally in tallies]
        missing = np.mean([tally.num_missing / len(tally.bounds) for tally in tallies])
        width = np.nanmean([tally.width for tally in tallies])
        yield (
            f"| {name} | {percent(float(np.mean(covers)))} | {percent(min(covers))} | "
            f"{percent(max(covers))} | {sum(cover < LEAST for cover in covers)} of {len(covers)} | "
            f"{percent(float(missing))} | {width:.3f} |"
        )
    yield ""


def by_point(rates: tuple[float, ...], cell: Callable[[Point], str]) -> Iterator[str]:
    """A table of themes and rates by judges."""
    yield "| themes | rate | " + " | ".join(f"judge {s}, {c}" for s, c in JUDGES) + " |"
    yield "|---|---|" + "---|" * len(JUDGES)
    for themes, rate in itertools.product(THEMES, rates):
        cells = [cell(Point(themes, rate, judge, labels)) for judge, labels in JUDGES.items()]
        yield f"| {themes} | {rate} | " + " | ".join(cells) + " |"
    yield ""


def report(tallies: Tallies, passes: int) -> Iterator[str]:
    """The lines of results/correction.md."""
    parts: dict[str, dict[Point, dict[str, Tally]]] = defaultdict(dict)
    for (part, point), of_methods in tallies.items():
        parts[part][point] = of_methods
    grid = parts["grid"]
    answers = ", ".join(f"{themes} themes with {number} each" for themes, number in THEMES.items())
    judges = ", ".join(f"{s} and {c} ({labels})" for (s, c), labels in JUDGES.items())
    yield f"""# Rates corrected for a judge's errors: coverage of the 95% intervals

Written by `python -m benchmarks.correction --passes {passes}`: {passes} runs at each point, so the
standard error of a coverage of 95% is {percent(math.sqrt(0.95 * 0.05 / passes))}, and the least of
many lies some three of them below the true one. Answers: {answers}; correlation within a theme
{ICC}. The truth is the mean over all themes. An interval that is NaN counts as one that misses.

## From a calibration: `corrected_rate`

Rates {", ".join(map(str, RATES))}; sensitivity and specificity (labels in the calibration):
{judges}.
"""
    yield from summary(list(grid.values()), list(CHEAP))
    wrong = {point: rows for point, rows in grid.items() if rows["raw"].coverage < WRONG}
    yield f"At the {len(wrong)} points where the raw interval holds it in under {WRONG:.0%}:\n"
    yield from summary(list(wrong.values()), list(CHEAP))
    inner = [rows for point, rows in wrong.items() if point.rate]
    yield f"At the {len(inner)} of these where the rate is not 0:\n"
    yield from summary(inner, list(CHEAP))
    yield "More methods, which cost more: 24 themes, a quarter of the runs.\n"
    yield from summary(
        [rows for point, rows in grid.items() if point.themes == 24], [OURS, *COSTLY]
    )
    yield "Coverage of ours (mean width), and of the raw interval:\n"

    def both(point: Point) -> str:
        texts = [
            f"{percent(row.coverage)} ({row.width:.2f})"
            for row in (grid[point][OURS], grid[point]["raw"])
        ]
        return ", raw ".join(texts)

    yield from by_point(RATES, both)
    yield f"""## Themes that break at {BREAKS} or not at all

With a chance of {", ".join(f"1 in {1 / chance:.0f}" for chance in CHANCES)}. False alarms come to
all themes alike. They hide that misaligned answers come by theme, so an interval that reads the
spread between themes from the outcomes is too short where no theme that breaks was asked.
"""
    yield from summary(list(parts["breaks"].values()), [*CHEAP, *PLAIN])
    yield """## A judge whose errors differ by theme

Correlation of 0.15 within a theme, in the run and in a calibration of 40 themes with six labels
each; `judge_errors` measures the design effects.
"""
    spread = list(parts["spread"].values())
    yield from summary(spread, list(spread[0]))
    yield from ppi_report(parts["ppi"])


def ppi_report(points: dict[Point, dict[str, Tally]]) -> Iterator[str]:
    yield f"""## From {LABELLED} labels of the run's own answers: `ppi_rate`

Drawn simply at random, or half from the answers that the judge calls misaligned and half from the
others. Beside it the interval of as many labels alone, simply drawn, and `corrected_rate`.
"""
    yield from summary(list(points.values()), list(next(iter(points.values()))))
    for other in (ALONE, OURS):
        yield f"How much narrower `ppi_rate` is than {other}, in mean width (drawn simply, half):\n"

        def narrower(point: Point, other: str = other) -> str:
            rows = points[point]
            widths = [rows[f"ppi_rate, {design}"].width for design in ("simple", "half")]
            return ", ".join(f"{1 - width / rows[other].width:+.0%}" for width in widths)

        yield from by_point(PPI_RATES, narrower)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=PASSES)
    passes = parser.parse_args().passes
    tallies: Tallies = defaultdict(dict)
    for number in range(passes):
        run_pass(number, tallies)
        if number % 10 == 9 or number + 1 == passes:
            text = "\n".join(report(tallies, number + 1)) + "\n"
            RESULTS.write_text(text, encoding="utf-8")
            print(f"pass {number + 1}", flush=True)
    print(text)


if __name__ == "__main__":
    main()
