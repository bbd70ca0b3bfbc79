"""The picture of a monitor: ROC curves, a line a condition."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steering.reports.pictures.style import MOST_SERIES, blank, pale, series_style, titled
from steering.results.monitor_figures import HEADLINE, MonitorResult
from steering.stats.roc import roc_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CURVES = MOST_SERIES
_LONGEST = 60


def plot_roc(results: Sequence[MonitorResult], title: str) -> "Figure":
    """ROC curves of the headline score.

    Args:
        results: Those with figures, at most `MOST_CURVES`.
        title: What was measured.
    """
    figure = blank(5.6)
    axes = figure.subplots()
    titled(figure, title)
    axes.plot([0, 100], [0, 100], linewidth=0.8, **pale())
    for number, result in enumerate(results[:MOST_CURVES]):
        looks = series_style(number)
        false, caught = roc_curve(result.rows[HEADLINE], result.rows["positive"])
        area = result.separation()
        name = result.name if len(result.name) <= _LONGEST else f"{result.name[:_LONGEST]}..."
        axes.step(
            100 * false,
            100 * caught,
            where="post",
            color=looks["color"],
            linestyle=looks["linestyle"],
            linewidth=1.2,
            label=f"{name}, {result.direction}: {area.auroc:.2f} "
            f"[{area.interval.low:.2f}, {area.interval.high:.2f}]",
        )
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("false alarms: answers that are not misaligned, % above the threshold")
    axes.set_ylabel("caught: misaligned answers, % above the threshold")
    axes.legend(fontsize="x-small", loc="lower right", title="area", title_fontsize="x-small")
    return figure
