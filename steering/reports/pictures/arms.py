"""The picture of the study `arms`: broad shift over narrow shift and over damage, a line an arm."""

from typing import TYPE_CHECKING

import pandas as pd

from steering.reports.pictures.style import blank, pale, titled, wrapped
from steering.results.choices import set_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour, marker and line of each arm. Contrasts are a line each.
_STYLES = {
    "steered": ("#0072B2", "o", "-"),
    "finetuned": ("#D55E00", "s", "--"),
    "contrast": ("#009E73", "^", ":"),
    "shuffled": ("#CC79A7", "D", "-."),
    "random": ("#777777", "x", "-."),
    "prompted": ("#333333", "*", ""),
}
_UNITS = {"contrast": "target"}


def arm_points(conditions: pd.DataFrame) -> pd.DataFrame:
    """A row a condition of one model: its arm, unit, dose, narrow and broad shift, and damage.

    Without rows where the target's own pairs or others are missing.

    Args:
        conditions: A row a condition of em_choice and set of pairs.
    """
    rows = conditions[conditions["shift"].notna() & ~conditions["arm"].isin(["baseline", "both"])]
    targets = rows.loc[rows["arm"] == "steered", "target"].unique()
    is_own = rows["questions"].map(set_name).isin(targets)
    own = rows[is_own].set_index("fingerprint")["shift"]
    others = rows[~is_own & rows["fingerprint"].isin(own.index)]
    arm = others["arm"].mask(others["arm"] == "control", others["control"])
    seed = others["build_seed"].fillna(0).map("{:g}".format)
    unit = seed.mask(arm == "contrast", others["target"]).mask(arm == "prompted", "")
    points = others.assign(_arm=arm, _unit=unit, narrow=others["fingerprint"].map(own))
    points["_dose"] = points["magnitude"].mask(arm == "finetuned", points["adapter_scale"])
    return points.sort_values(["_arm", "_unit", "_dose"], kind="stable")


def plot_arms(points: pd.DataFrame, title: str) -> "Figure":
    """Broad shift over narrow shift, left, and over damage, right, both from the baseline on.

    Args:
        points: As `arm_points` gives them.
        title: What was compared.
    """
    from matplotlib.ticker import StrMethodFormatter

    figure = blank(4.0)
    panels = figure.subplots(1, 2, sharey=True)
    titled(figure, title)
    labels = {"narrow": "narrow: shift on the target's own pairs", "kl": "damage: KL, neutral"}
    for axes, column in zip(panels, labels, strict=True):
        axes.axhline(0, linewidth=0.8, **pale())
        axes.set_xlabel(wrapped(f"{labels[column]} (nats a token)", figure.get_figwidth() / 2 - 1))
        for arm, (colour, marker, line) in _STYLES.items():
            of_arm = points[points["_arm"] == arm]
            for number, (_, unit) in enumerate(of_arm.groupby("_unit", sort=False)):
                begin = [] if arm == "prompted" else [0.0]
                axes.plot(
                    [*begin, *unit[column]],
                    [*begin, *unit["shift"]],
                    color=colour,
                    marker=marker,
                    linestyle=line or "none",
                    markersize=8 if arm == "prompted" else 4,
                    linewidth=1.2,
                    alpha=0.9 if number == 0 else 0.5,
                    label=arm if number == 0 else None,
                )
    # A handful of conditions with lost language would press all others into a corner.
    panels[1].set_xscale("symlog", linthresh=0.01)
    panels[1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panels[0].set_ylabel("broad: shift on unrelated questions\n(nats a token)")
    panels[0].legend(loc="best")
    return figure
