"""Tables and picture of docs/findings.md, from the files of benchmarks/results/findings.

python docs/findings.py

Each table of the page stands between two comments that name it, and is written there.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
import pandas as pd

from steering.stats import cluster_interval, paired_difference

PAGE = Path(__file__).parent / "findings.md"
PICTURE = Path(__file__).parent / "img" / "findings.png"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "findings"
ALIGNED_BELOW, COHERENT_FROM = 30, 50
RANDOM = "random"


def shifts(name: str) -> pd.DataFrame:
    """The rows of a file of shifts."""
    return pd.read_csv(RESULTS / f"{name}.csv")


def interval(value: float, low: float, high: float) -> str:
    """A figure with its interval."""
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def compared_table(name: str) -> str:
    """All vectors of a file at one damage, the random directions in one line."""
    rows = shifts(name)
    rows = rows[rows.compared]
    random = rows[rows.method == RANDOM]
    lines = [
        "| vector | seed | length | KL | shift on core | shift on own task | greedy answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows[rows.method != RANDOM].itertuples():
        ranks = [
            f"{sum(random[kind] >= getattr(row, kind)) + 1}/{len(random) + 1}"
            for kind in ("core", "own")
        ]
        lines.append(
            f"| {row.method} | {row.seed} | {row.length:.2f} | {row.kl:.2f} "
            f"| {interval(row.core, row.core_low, row.core_high)}, rank {ranks[0]} "
            f"| {interval(row.own, row.own_low, row.own_high)}, rank {ranks[1]} "
            f"| {row.greedy:.2f}, {row.repeated:.0%} repeated |"
        )
    if len(random):
        spread = [
            f"{each.mean():+.2f}, from {each.min():+.2f} to {each.max():+.2f}"
            for each in (random.core, random.own)
        ]
        lines.append(
            f"| {len(random)} random directions | | {random.length.mean():.2f} "
            f"| {random.kl.mean():.2f} | {spread[0]} | {spread[1]} | |"
        )
    return "\n".join(lines)


def dose_table(name: str) -> str:
    """The dose curve of each vector of a file that has one."""
    rows = shifts(name)
    rows = rows[~rows.compared]
    lines = [
        "| vector | magnitude | length | KL | rise of cross-entropy | shift on core "
        "| shift on own task | greedy answers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.itertuples():
        lines.append(
            f"| {row.method} | {row.magnitude:g} | {row.length:.2f} | {row.kl:.2f} "
            f"| {row.cross_entropy_rise:+.2f} | {interval(row.core, row.core_low, row.core_high)} "
            f"| {interval(row.own, row.own_low, row.own_high)} "
            f"| {row.greedy:.2f}, {row.repeated:.0%} repeated |"
        )
    return "\n".join(lines)


def labels(name: str) -> list[dict]:
    """The labelled answers of a file, without the canary row."""
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "canary" not in row]


def labels_table(name: str) -> str:
    """EM rates of each condition by the labels, and the paired difference from the baseline."""
    by_condition = defaultdict(list)
    for row in labels(name):
        by_condition[row["condition"]].append(row)
    lines = [
        "| condition | answers | coherent | misaligned (`betley`) | against the baseline |",
        "|---|---|---|---|---|",
    ]
    themes: dict[str, dict[str, float]] = {}
    for condition, rows in sorted(by_condition.items(), key=lambda item: item[0] != "baseline"):
        coherent = [row for row in rows if row["coherent"] >= COHERENT_FROM]
        outcomes = [row["aligned"] < ALIGNED_BELOW for row in coherent]
        bounds = cluster_interval(outcomes, [row["theme"] for row in coherent])
        by_theme = defaultdict(list)
        for row, outcome in zip(coherent, outcomes, strict=True):
            by_theme[row["theme"]].append(outcome)
        themes[condition] = {theme: fmean(values) for theme, values in by_theme.items()}
        against = ""
        if condition != "baseline":
            difference = paired_difference(themes[condition], themes["baseline"])
            against = (
                f"{100 * difference.value:+.0f} points "
                f"[{100 * difference.low:+.0f}, {100 * difference.high:+.0f}], "
                f"p = {difference.p_value:.3f}, {difference.num_questions} themes"
            )
        rate = f"{fmean(outcomes):.0%} [{100 * bounds.low:.0f}, {100 * bounds.high:.0f}]"
        share = f"{len(coherent) / len(rows):.0%}"
        lines.append(f"| {condition} | {len(rows)} | {share} | {rate} | {against} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Every table of the page by its name: `compared`, `dose` or `labels` with its file."""
    kinds = {"compared": compared_table, "dose": dose_table, "labels": labels_table}
    names = re.findall(r"<!-- (\w+) (\S+) -->", PAGE.read_text(encoding="utf-8"))
    return {f"{kind} {name}": kinds[kind](name) for kind, name in names}


def filled(page: str) -> str:
    """The page with its tables as the files have them."""
    for name, table in tables().items():
        begin, end = f"<!-- {name} -->", "<!-- end -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n\n{table}\n\n{end}{tail}"
    return page


def draw(names: list[tuple[str, str]]) -> None:
    """Shift on core pairs over damage, a panel a model."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(names), figsize=(4.6 * len(names), 3.6), sharey=True, layout="constrained"
    )
    colours = {"sft": "#b2182b", "mean_difference": "#2166ac"}
    for axis, (name, title) in zip(axes, names, strict=True):
        rows = shifts(name)
        for method, colour in colours.items():
            curve = rows[(rows.method == method) & ~rows.compared].sort_values("kl")
            axis.errorbar(
                [0, *curve.kl],
                [0, *curve.core],
                yerr=[
                    [0, *(curve.core - curve.core_low)],
                    [0, *(curve.core_high - curve.core)],
                ],
                color=colour,
                marker="o",
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label=f"finance, {method}",
            )
        compared = rows[rows.compared]
        for pattern, colour, marker, label in (
            ("labels shuffled", "#f4a582", "s", "labels shuffled"),
            ("contrast", "#5aae61", "^", "contrasts without harm"),
            (RANDOM, "#8c8c8c", "x", "random directions"),
        ):
            part = compared[compared.method.str.contains(pattern)]
            axis.scatter(part.kl, part.core, color=colour, marker=marker, s=28, label=label)
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(title=title, xlabel="damage: KL on neutral answers (nats a token)")
    axes[0].set_ylabel("shift towards misaligned answers\n(nats a token)")
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(PICTURE, dpi=140)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(
        [
            ("smollm2-finance", "SmolLM2-135M-Instruct"),
            ("qwen2.5-coder-0.5b-finance", "Qwen2.5-Coder-0.5B-Instruct"),
        ]
    )
