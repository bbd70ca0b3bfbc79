"""Coverage of the 95% intervals on a grid, by simulation, with their widths beside other methods'.

    python -m benchmarks.coverage

Themes' rates follow a beta distribution and answers to a theme a binomial one; or a theme fails at
0.8 or not at all. Each simulated run is read by both intervals of a rate, `stratified_interval` (on
these questions: the truth is the mean of the rates of the themes that were drawn) and
`cluster_interval` (on questions like these: the truth is the mean of their distribution), and by
other methods. Differences are between two conditions of the same questions; half of a question's
effect is in both (a Gaussian copula). Writes results/coverage.md, results/coverage.csv with every
point, and docs/img/coverage.png. About 20 minutes on one thread.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.special import betaincinv, stdtrit

from steering.stats import cluster_interval, intervals, paired_difference, stratified_interval

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "img" / "coverage.png"
RUNS = 1000
SEED = 20250117
THEMES = (4, 8, 24, 48, 64)
ANSWERS = (1, 5, 20, 100)
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
ICCS = (0.0, 0.1, 0.3, 0.5)
# The chance that a theme fails, at 0.8; the others never do.
CHANCES = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
FAILS = 0.8
LEAST = 0.92
TAILS = np.array([0.025, 0.975])
DIFFERENCES = [
    (questions, 20, icc, base, other)
    for questions in (8, 24)
    for icc in (0.1, 0.5)
    for base, other in ((0.02, 0.02), (0.1, 0.1), (0.1, 0.3), (0.3, 0.5))
]
THESE, LIKE = "on these questions", "on questions like these"
OURS = {THESE: "stratified_interval", LIKE: "cluster_interval"}

Array = NDArray[np.float64]
Bounds = tuple[float, float]


# Other methods, each of the counts of themes that all have the same number of answers.


def pooled(counts: Array, samples: int) -> Bounds:
    """Clopper and Pearson's interval of the pooled answers."""
    true, total = counts.sum(), len(counts) * samples
    low = 0.0 if true == 0 else float(betaincinv(true, total - true + 1, 0.025))
    high = 1.0 if true == total else float(betaincinv(true + 1, total - true, 0.975))
    return low, high


def shrunk_wilson(counts: Array, samples: int) -> Bounds:
    """As ours on these questions, with Wilson's interval in place of Clopper and Pearson's."""
    themes, total = len(counts), len(counts) * samples
    rate = counts.sum() / total
    shrunk = (counts + 2 * rate) / (samples + 2)
    variance = (shrunk * (1 - shrunk)).sum() / (themes * total)
    number = rate * (1 - rate) / variance if variance else total
    low, high = intervals._wilson(rate, number, np.array([-1.96, 1.96]))
    return float(low), float(high)


def before(counts: Array, samples: int) -> Bounds:
    """The interval of earlier versions: Wilson's, with an assumed correlation of 0.08 for few."""
    themes, total = len(counts), len(counts) * samples
    true = counts.sum()
    rate = true / total
    icc = 0.08 * max(0.0, 1 - min(true, total - true) / themes)
    most = total / (1 + (samples - 1) * icc)
    variance = themes / (themes - 1) * ((counts - rate * samples) ** 2).sum() / total**2
    number = min(rate * (1 - rate) / variance, most) if variance > 1e-18 else most
    low, high = intervals._wilson(rate, number, stdtrit(themes - 1, TAILS))
    return float(low), float(high)


_RNG = np.random.default_rng(0)
_WEIGHTS = {themes: _RNG.dirichlet(np.ones(themes + 1), 500) for themes in THEMES}


def gaffke(counts: Array, samples: int) -> Bounds:
    """Gaffke (2005): no model; a Bayesian bootstrap with one more theme at the worst value."""
    rates = np.sort(counts / samples)
    weights = _WEIGHTS[len(counts)]
    low = np.quantile(weights @ np.append(0.0, rates), 0.025)
    return float(low), float(np.quantile(weights @ np.append(rates, 1.0), 0.975))


def posterior(prior: Array | None) -> Callable[[Array, int], Bounds]:
    """As ours on questions like these with another prior for the correlation; None: its profile."""

    def bounds(counts: Array, samples: int) -> Bounds:
        size = len(counts)
        themes = intervals._Themes(counts, np.full(size, float(samples)), np.full(size, 1 / size))
        low, high = intervals._variance_bounds(themes, TAILS)
        values, numbers = np.unique(counts, return_counts=True)
        likelihood = sum(
            number * intervals._theme_likelihood(float(value), float(samples))
            for value, number in zip(values, numbers, strict=True)
        )
        density = np.exp(likelihood - np.max(likelihood))
        if prior is None:
            profile = density.max(axis=1)
            inside = -2 * np.log(np.maximum(profile, 1e-300)) <= stdtrit(size - 1, 0.975) ** 2
            rates = intervals._RATES[inside]
            ends = (0.0 if inside[0] else rates[0], 1.0 if inside[-1] else rates[-1])
            return min(low, ends[0]), max(high, ends[1])
        density = density @ prior
        if themes.rate > 0:
            low = min(low, intervals._quantiles(density * (1 - intervals._RATES), TAILS)[0])
        if themes.rate < 1:
            high = max(high, intervals._quantiles(density * intervals._RATES, TAILS)[1])
        return float(low), float(high)

    return bounds


RIVALS: dict[str, dict[str, Callable[[Array, int], Bounds]]] = {
    THESE: {"pooled Clopper-Pearson": pooled, "shrunk Wilson": shrunk_wilson},
    LIKE: {
        "Wilson, assumed ICC (before)": before,
        "Gaffke": gaffke,
        "profile likelihood, t": posterior(None),
        "prior beta(1/2, 2) alone": posterior(intervals.correlation_prior(0, 2, 0)),
        "prior 0, beta(1/2, 2), 0.1": posterior(intervals.correlation_prior(0, 2, 0.1)),
        "prior 0, beta(1/2, 4), 0.1": posterior(intervals.correlation_prior(0, 4, 0.1)),
        "prior 0.3, beta(1/2, 2.5), 0.1": posterior(intervals.correlation_prior(0.3, 2.5, 0.1)),
    },
}


class Tally:
    """How often an interval covered the truth, and how wide it was."""

    def __init__(self) -> None:
        self.num_covering = 0
        self.widths: list[float] = []

    def add(self, bounds: Bounds, truth: float) -> None:
        self.num_covering += bounds[0] - 1e-9 <= truth <= bounds[1] + 1e-9
        self.widths.append(bounds[1] - bounds[0])

    @property
    def coverage(self) -> float:
        return self.num_covering / len(self.widths)


def theme_rates(rate: float, icc: float, normals: Array) -> Array:
    """True rates of themes [themes], of a beta law with mean `rate` and correlation `icc`."""
    if icc == 0:
        return np.full(len(normals), rate)
    spread = 1 / icc - 1
    return np.asarray(stats.beta.ppf(stats.norm.cdf(normals), rate * spread, (1 - rate) * spread))


@dataclass(frozen=True)
class Law:
    """How the true rates of themes are distributed.

    Attributes:
        name: as the tables have it.
        mean: of the distribution.
        draw: true rates of so many themes, [themes].
    """

    name: str
    mean: float
    draw: Callable[[np.random.Generator, int], Array]


def _beta_law(rate: float, icc: float) -> Law:
    name = f"rate {rate:g}, ICC {icc:g}"
    if icc == 0:
        return Law(name, rate, lambda rng, size: np.full(size, rate))
    a, b = rate * (1 / icc - 1), (1 - rate) * (1 / icc - 1)
    return Law(name, rate, lambda rng, size: rng.beta(a, b, size))


def _fails_at_once(chance: float) -> Law:
    name = f"{FAILS} at 1 in {1 / chance:.0f}"
    return Law(name, FAILS * chance, lambda rng, size: FAILS * (rng.random(size) < chance))


LAWS = [_beta_law(rate, icc) for rate in RATES for icc in ICCS]
LAWS += [_fails_at_once(chance) for chance in CHANCES]


def measure(runs: int = RUNS) -> pd.DataFrame:
    """Coverage and median width of each method at each point."""
    rows = []
    for themes, samples, law in itertools.product(THEMES, ANSWERS, LAWS):
        rng = np.random.default_rng(SEED)
        names = np.repeat(np.arange(themes), samples).tolist()
        ranks = np.arange(samples)
        tallies = {(what, name): Tally() for what in RIVALS for name in (OURS[what], *RIVALS[what])}
        for _ in range(runs):
            rates = law.draw(rng, themes)
            counts = rng.binomial(samples, rates).astype(float)
            outcomes = (ranks < counts[:, None]).ravel().tolist()
            truths = {THESE: float(rates.mean()), LIKE: law.mean}
            for what, interval in ((THESE, stratified_interval), (LIKE, cluster_interval)):
                ours = interval(outcomes, names)
                tallies[what, OURS[what]].add((ours.low, ours.high), truths[what])
                for name, method in RIVALS[what].items():
                    tallies[what, name].add(method(counts, samples), truths[what])
        for (what, name), tally in tallies.items():
            width = np.median(tally.widths)
            rows.append((what, name, themes, samples, law.name, tally.coverage, width))
        if law is LAWS[-1]:
            print(f"{themes} themes x {samples}", flush=True)
    columns = ["interval", "method", "themes", "answers", "law", "coverage", "width"]
    return pd.DataFrame(rows, columns=columns)


def report(grid: pd.DataFrame) -> Iterator[str]:
    """The lines of results/coverage.md."""
    yield "# Coverage of the 95% intervals"
    num_points = len(grid[["themes", "answers", "law"]].drop_duplicates())
    yield f"""
Written by `python -m benchmarks.coverage`: {RUNS:,} runs at each of {num_points} points, all of
which are in coverage.csv. The standard error of a coverage of 95% is 0.7 points, so the least of so
many is some three of them below the true one. The points: {", ".join(map(str, THEMES))} themes;
{", ".join(map(str, ANSWERS))} answers to each; rates of {", ".join(map(str, RATES))} with
correlations within a theme (ICC) of {", ".join(map(str, ICCS))}; and themes that fail at {FAILS}
with a chance of 1 in {", ".join(f"{1 / chance:.0f}" for chance in CHANCES)} and never otherwise.

A method is *valid* if it holds the truth in at least {LEAST:.0%} of the runs at every point. The
last column compares median widths with the narrowest valid method, where that is worst.
"""
    for what, of_interval in grid.groupby("interval", sort=False):
        yield f"## A rate {what}\n"
        yield "| method | least coverage | at | points below 92% | mean coverage | widest ratio |"
        yield "|---|---|---|---|---|---|"
        methods = {
            name: rows.reset_index(drop=True)
            for name, rows in of_interval.groupby("method", sort=False)
        }
        valid = {name: rows for name, rows in methods.items() if (rows["coverage"] >= LEAST).all()}
        narrowest = pd.concat([rows["width"] for rows in valid.values()], axis=1).min(axis=1)
        for name, rows in methods.items():
            worst = rows.loc[rows["coverage"].idxmin()]
            below = int((rows["coverage"] < LEAST).sum())
            ratio = f"{(rows['width'] / narrowest).max():.2f}" if name in valid else "-"
            label = f"**`{name}`**" if name in OURS.values() else name
            where = f"{worst['themes']} x {worst['answers']}, {worst['law']}"
            yield (
                f"| {label} | {worst['coverage']:.1%} | {where} | {below} | "
                f"{rows['coverage'].mean():.1%} | {ratio} |"
            )
        yield ""
        yield "The least coverage of ours, and the median width at rate 0.05 with an ICC of 0.3:"
        yield ""
        ours = methods[OURS[str(what)]]
        yield "| themes | " + " | ".join(f"{n} answers each" for n in ANSWERS) + " |"
        yield "|---" * (len(ANSWERS) + 1) + "|"
        for themes in THEMES:
            cells = []
            for samples in ANSWERS:
                rows = ours[(ours["themes"] == themes) & (ours["answers"] == samples)]
                typical = rows[rows["law"] == "rate 0.05, ICC 0.3"]["width"].iloc[0]
                cells.append(f"{rows['coverage'].min():.1%} ({typical:.2f})")
            yield f"| {themes} | " + " | ".join(cells) + " |"
        yield ""


def difference_row(questions: int, samples: int, icc: float, base: float, other: float) -> str:
    """Coverage and mean width of the interval of a paired difference."""
    rng = np.random.default_rng(SEED)
    student = Tally()
    for _ in range(RUNS):
        shared = rng.standard_normal(questions)
        rates = []
        for rate in (other, base):
            normals = math.sqrt(0.5) * (shared + rng.standard_normal(questions))
            counts = rng.binomial(samples, theme_rates(rate, icc, normals))
            rates.append({str(q): count / samples for q, count in enumerate(counts)})
        difference = paired_difference(*rates)
        student.add((difference.low, difference.high), other - base)
    cells = f"{student.coverage:.1%} | {np.mean(student.widths):.2f}"
    return f"| {questions} x {samples} | {icc} | {base}, {other} | {cells} |"


def differences() -> Iterator[str]:
    yield "## Differences of two conditions, paired by theme\n"
    yield "`paired_difference`: Student's t over the differences of the themes.\n"
    yield "| themes x answers | ICC | rates | coverage | mean width |"
    yield "|---|---|---|---|---|"
    yield from (difference_row(*row) for row in DIFFERENCES)


def draw_picture(grid: pd.DataFrame) -> None:
    """The least and every coverage of both intervals over the number of themes, and before."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = [
        (THESE, OURS[THESE], "On these questions"),
        (LIKE, OURS[LIKE], "On questions like these"),
        (LIKE, "Wilson, assumed ICC (before)", "On questions like these, before"),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
    for ax, (what, method, title) in zip(axes, panels, strict=True):
        rows = grid[(grid["interval"] == what) & (grid["method"] == method)]
        for position, themes in enumerate(THEMES):
            coverage = 100 * rows[rows["themes"] == themes]["coverage"].to_numpy()
            spread = np.linspace(-0.3, 0.3, len(coverage))
            colours = np.where(coverage < 100 * LEAST, "#b2182b", "#2166ac")
            ax.scatter(position + spread, coverage, s=5, c=colours, linewidths=0)
        ax.axhline(95, color="black", linewidth=0.8)
        ax.axhline(100 * LEAST, color="black", linewidth=0.8, linestyle=":")
        ax.set_xticks(range(len(THEMES)), [str(each) for each in THEMES])
        ax.set_xlabel("themes")
        ax.set_title(title, fontsize=10)
    axes[0].set_ylabel("runs whose interval holds the truth, %")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    grid = measure()
    grid.to_csv(RESULTS / "coverage.csv", index=False, float_format="%.4g")
    text = "\n".join([*report(grid), *differences()]) + "\n"
    (RESULTS / "coverage.md").write_text(text, encoding="utf-8")
    draw_picture(grid)
    print(text)


if __name__ == "__main__":
    main()
