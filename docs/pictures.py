"""Draw the picture of docs/explanation/intervals.md from one simulated run.

python docs/pictures.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from steering.stats import cluster_interval, stratified_interval

IMG = Path(__file__).parent / "img"
ASKED, NOT_ASKED, SAMPLES = 8, 16, 20
SEED = 4
BLUE, GREY = "#2166ac", "#8c8c8c"


def draw_two_intervals() -> None:
    """Themes that were asked and themes that were not, and what each interval is about."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(SEED)
    rates = np.sort(rng.beta(0.45, 1.05, ASKED + NOT_ASKED))
    order = rng.permutation(ASKED + NOT_ASKED)
    asked, others = np.sort(rates[order[:ASKED]]), np.sort(rates[order[ASKED:]])
    counts = rng.binomial(SAMPLES, asked)
    outcomes = [i < count for count in counts for i in range(SAMPLES)]
    themes = np.repeat(np.arange(ASKED), SAMPLES).tolist()
    these, like = stratified_interval(outcomes, themes), cluster_interval(outcomes, themes)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(3, 1.3), layout="constrained"
    )
    above.scatter(
        100 * others,
        np.linspace(0.1, 0.9, NOT_ASKED)[rng.permutation(NOT_ASKED)],
        s=45,
        facecolors="white",
        edgecolors=GREY,
        label="themes that were not asked: true rate",
    )
    heights = np.linspace(0.15, 0.85, ASKED)
    above.scatter(
        100 * asked,
        heights,
        s=45,
        facecolors="white",
        edgecolors=BLUE,
        label="themes that were asked: true rate",
    )
    above.scatter(
        100 * counts / SAMPLES,
        heights,
        s=35,
        color=BLUE,
        marker="|",
        label=f"what {SAMPLES} answers to each showed",
    )
    above.hlines(heights, 100 * asked, 100 * counts / SAMPLES, color=BLUE, linewidth=0.8)
    above.set_yticks([])
    above.legend(frameon=False, fontsize=9, loc="lower left", ncols=3, bbox_to_anchor=(0, 1))
    rate = 100 * np.mean(outcomes)
    bars = [
        (1, these, 7, "on these questions:\nonly the answers could have come out otherwise"),
        (0, like, 2, "on questions like these:\nother themes could have been asked"),
    ]
    for height, interval, width, label in bars:
        low, high = 100 * interval.low, 100 * interval.high
        below.plot([low, high], [height] * 2, color=BLUE, linewidth=width, solid_capstyle="butt")
        below.plot([rate], [height], "o", color="black", markersize=4)
        below.text(high + 1.5, height, f"{label} [{low:.0f}, {high:.0f}]", va="center", fontsize=9)
    for height, mean in ((1, asked.mean()), (0, rates.mean())):
        below.plot([100 * mean], [height], "d", color="#b2182b", markersize=6)
    below.plot([], [], "o", color="black", markersize=4, label="rate measured")
    below.plot(
        [],
        [],
        "d",
        color="#b2182b",
        markersize=6,
        label="true mean rate: above of the themes asked, below of all",
    )
    below.legend(frameon=False, fontsize=8, loc="lower right", ncols=2, bbox_to_anchor=(1, -0.95))
    below.set_yticks([])
    below.set_ylim(-0.7, 1.7)
    below.set_xlim(-2, 102)
    below.set_xlabel("misaligned answers, %")
    for axes in (above, below):
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(IMG / "two-intervals.png", dpi=140)


if __name__ == "__main__":
    draw_two_intervals()
