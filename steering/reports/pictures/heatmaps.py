"""Pictures of conditions beside each other: a forest of rates, questions, the judge's scores."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from steering.reports.pictures.style import INK, STYLES, empty, error_bars, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.3
_LONGEST = 44
_BINS = np.linspace(0, 100, 11)


def plot_forest(conditions: pd.DataFrame, title: str, signature: str) -> "Figure":
    """EM rates by both rules, a row a condition.

    Thin bars are intervals on questions like these, thick ones on these questions.

    Args:
        conditions: A row each, the first at the top; baselines are drawn hollow.
        title: What was measured.
        signature: How.
    """
    rows = conditions.to_dict("records")
    figure, [axes] = empty(title, signature, size=(7.0, 1.6 + 1.4 * _ROW * len(rows)))
    for number, rule in enumerate(("betley", "moem")):
        colour, marker, _ = STYLES[number]
        column = f"em_{rule}"
        for place, row in enumerate(rows):
            hollow = row["arm"] == "baseline"
            height = place + 0.22 * (number - 0.5)
            these = [100 * row[f"{column}_{end}_these"] for end in ("low", "high")]
            axes.plot(these, [height] * 2, color=colour, linewidth=4, alpha=0.35)
            axes.errorbar(
                [100 * row[column]],
                [height],
                xerr=error_bars([row], column, 100),
                color=colour,
                marker=marker,
                markerfacecolor="white" if hollow else colour,
                markersize=5.5,
                linestyle="none",
                elinewidth=1,
                capsize=2,
                label=f"EM rate ({rule})" if place == 0 else None,
            )
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("EM rate (%); hollow: without a vector")
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def plot_questions(answers: pd.DataFrame, rule: str, title: str, signature: str) -> "Figure":
    """EM rate of each question in each condition; the counts stand in the cells.

    Args:
        answers: A row an answer; conditions come in their order.
        rule: Of the EM rate.
        title: What was measured.
        signature: How.
    """
    column = f"em_{rule}"
    names = answers["model"] + "[" + answers["condition"] + "]"
    order = list(dict.fromkeys(names))
    grouped = answers.groupby([names, "question"], sort=False)[column].agg(["sum", "count"])
    questions = sorted(answers["question"].unique())
    bad, of = (
        grouped[what].unstack().reindex(index=order, columns=questions).to_numpy()
        for what in ("sum", "count")
    )
    # Few questions need no less room for the title, and long names need room beside the cells.
    names_width = 0.07 * max(len(_short(name)) for name in order)
    size = (max(6.5, 2.4 + names_width + 0.62 * len(questions)), 2.2 + _ROW * len(order))
    figure, [axes] = empty(title, signature, size=size)
    axes.grid(False)
    with np.errstate(invalid="ignore"):
        rates = np.ma.masked_invalid(100 * bad / np.where(of > 0, of, np.nan))
    image = axes.imshow(rates, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    small = len(questions) * len(order) <= 600
    for row in range(len(order)):
        for place in range(len(questions)):
            if np.ma.is_masked(rates[row, place]):
                axes.text(place, row, "-", ha="center", va="center", fontsize=6, color=INK)
            elif small:
                dark = rates[row, place] > 55
                axes.text(
                    place,
                    row,
                    f"{bad[row, place]:.0f}/{of[row, place]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if dark else INK,
                )
    axes.set_xticks(range(len(questions)), questions, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(order)), [_short(name) for name in order], fontsize=8)
    figure.colorbar(image, ax=axes, label=f"EM rate (%, {rule})", fraction=0.03)
    return figure


def plot_scores(answers: pd.DataFrame, title: str, signature: str) -> "Figure":
    """How the judge's scores spread, a strip a condition and a dimension; dark is many.

    Args:
        answers: A row an answer; conditions come in their order.
        title: What was measured.
        signature: How.
    """
    names = answers["model"] + "[" + answers["condition"] + "]"
    order = list(dict.fromkeys(names))
    figure = signed(signature, (8.0, 1.8 + _ROW * len(order)))
    panels = figure.subplots(1, 3, sharey=True, squeeze=False)[0]
    for axes, dimension in zip(panels, ("aligned", "coherent", "relevant"), strict=True):
        strips = np.full((len(order), len(_BINS) - 1), np.nan)
        for row, name in enumerate(order):
            scores = answers.loc[names == name, dimension].dropna()
            if len(scores):
                strips[row] = 100 * np.histogram(scores, _BINS)[0] / len(scores)
        image = axes.imshow(
            np.ma.masked_invalid(strips),
            cmap="Greys",
            vmin=0,
            vmax=100,
            aspect="auto",
            extent=(0, 100, len(order) - 0.5, -0.5),
        )
        axes.set_xlabel(f"{dimension} (0-100)", fontsize=9)
        axes.set_xticks([0, 50, 100])
    panels[0].set_yticks(range(len(order)), [_short(name) for name in order], fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    figure.colorbar(image, ax=list(panels), label="share of answers (%)", fraction=0.03)
    return figure


def _name(row: dict[str, object]) -> str:
    size = row.get("num_parameters")
    size_text = f" ({size:.3g} parameters)" if row.get("study") == "scale" and size else ""
    return _short(f"{row['model']}[{row['condition']}]") + size_text


def _short(name: str) -> str:
    """Without the owner of a hub model, and cut in the middle where it is long."""
    model, bracket, label = name.partition("[")
    short = f"{model.rpartition('/')[2]}{bracket}{label}"
    half = _LONGEST // 2
    return short if len(short) <= _LONGEST else f"{short[:half]}...{short[-half:]}"
