"""The picture of a monitor: ROC curves, a line a condition."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steering.reports.pictures.style import INK, PALE, STYLES, signed
from steering.results.monitor_figures import HEADLINE, MonitorResult
from steering.stats.roc import roc_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CURVES = 8
_LONGEST = 60


def plot_roc(results: Sequence[MonitorResult], title: str, signature: str) -> "Figure":
    """ROC curves of the headline score.

    Args:
        results: Those with figures, at most `MOST_CURVES`.
        title: What was measured.
        signature: How the figures were made.
    """
    figure = signed(signature, (6.4, 5.2))
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot([0, 100], [0, 100], color=PALE, linewidth=0.8)
    for number, result in enumerate(results[:MOST_CURVES]):
        colour, _, line = STYLES[number % len(STYLES)]
        false, caught = roc_curve(result.rows[HEADLINE], result.rows["positive"])
        area = result.separation()
        name = result.name if len(result.name) <= _LONGEST else f"{result.name[:_LONGEST]}..."
        axes.step(
            100 * false,
            100 * caught,
            where="post",
            color=colour,
            linestyle=line,
            linewidth=1.2 if number < len(STYLES) else 2.2,
            label=f"{name}, {result.direction}: {area.auroc:.2f} "
            f"[{area.interval.low:.2f}, {area.interval.high:.2f}]",
        )
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("false alarms: answers that are not misaligned, % above the threshold")
    axes.set_ylabel("caught: misaligned answers, % above the threshold")
    axes.legend(frameon=False, fontsize=7, loc="lower right", title="area", title_fontsize=7)
    return figure
