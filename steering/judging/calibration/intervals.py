"""Intervals of a judge's figures: how far the pairs that it was tried on can tell.

The pairs are a sample of answers; those of one theme resemble each other, so intervals cluster by
theme as those of EM rates do. Knows judged pairs and arithmetic; never a limit or a log.
"""

import math
from collections.abc import Callable, Sequence

from steering.judging.calibration.task import JudgedPair, decision_pairs, separation_figures
from steering.judging.rubric import DIMENSIONS, KEYS_OF_ALL, SCORE_KEYS, load_rubric
from steering.stats import (
    CONFIDENCE,
    Interval,
    cluster_interval,
    mean,
    mean_interval,
    t_quantile,
)

_NOTHING = Interval(math.nan, math.nan, "nothing to count")


def figure_intervals(pairs: Sequence[JudgedPair]) -> dict[str, Interval]:
    """95% intervals of figures of `calibration_figures`: of all that `LIMITS` names.

    - Shares (`missed`, `false_alarms`, `recall`, `unscored_share`): `cluster_interval`.
    - Means (`error`, `bias`): `mean_interval`.
    - `kappa`: its values at the ends of the intervals of `missed` and `false_alarms`, the share of
      positive labels fixed. Both ends are at their worst at once, so it is rather too wide.
    - `separation_excess`: Student's t on the jackknife's pseudo-values.

    A figure without data, or with data of one theme only, has NaN bounds.
    """
    intervals: dict[str, Interval] = {}
    for key in SCORE_KEYS:
        errors = [(p.theme, n[1] - n[0]) for p in pairs if (n := p.numbers(key)) is not None]
        intervals[f"{key}_error"] = _mean([(theme, abs(error)) for theme, error in errors])
        intervals[f"{key}_bias"] = _mean(errors)
    for name, rows in decision_pairs(pairs).items():
        missed = _share([(theme, not call) for theme, label, call in rows if label])
        alarms = _share([(theme, call) for theme, label, call in rows if not label])
        intervals[f"{name}_missed"], intervals[f"{name}_false_alarms"] = missed, alarms
        positive = mean([label for _, label, _ in rows])
        intervals[f"{name}_kappa"] = Interval(
            _kappa(positive, missed.high, alarms.high), _kappa(positive, missed.low, alarms.low)
        )
    for rubric in map(load_rubric, DIMENSIONS):
        for word in rubric.escapes:
            replies = [
                (pair.theme, reply == word)
                for pair in pairs
                if pair.labels.get(rubric.score) == word and (reply := pair.reply(rubric.score))
            ]
            intervals[f"{word.lower()}_recall"] = _share(replies)
    to_judge = [pair for pair in pairs if pair.kind == "to_judge"]
    intervals["to_judge_bias"] = _mean(
        [
            (p.theme, n[1] - n[0])
            for p in to_judge
            for key in KEYS_OF_ALL
            if (n := p.numbers(key)) is not None
        ]
    )
    intervals["separation_excess"] = jackknife_interval(
        lambda kept: separation_figures(kept)["separation_excess"],
        [pair for pair in pairs if pair.kind == "separation"],
    )
    intervals["unscored_share"] = _share([(p.theme, p.answer.judge_failed) for p in pairs])
    return intervals


def jackknife_interval(
    figure: Callable[[Sequence[JudgedPair]], float], pairs: Sequence[JudgedPair]
) -> Interval:
    """Student's t interval of a figure, with the jackknife's standard error (Tukey 1958).

    Args:
        figure: of pairs.
        pairs: at least three; below that the bounds are NaN.
    """
    n = len(pairs)
    if n < 3:
        return _NOTHING
    without = [figure([*pairs[:i], *pairs[i + 1 :]]) for i in range(n)]
    centre = mean(without)
    error = math.sqrt((n - 1) / n * math.fsum((value - centre) ** 2 for value in without))
    value, half = figure(pairs), t_quantile((1 + CONFIDENCE) / 2, n - 1) * error
    return Interval(value - half, value + half)


def _share(rows: Sequence[tuple[str, bool]]) -> Interval:
    return cluster_interval([outcome for _, outcome in rows], [theme for theme, _ in rows])


def _mean(rows: Sequence[tuple[str, float]]) -> Interval:
    return mean_interval([value for _, value in rows], [theme for theme, _ in rows])


def _kappa(positive: float, missed: float, false_alarms: float) -> float:
    """Cohen's kappa from the share of positive labels and both error rates; NaN where undefined."""
    called = positive * (1 - missed) + (1 - positive) * false_alarms
    agreed = positive * (1 - missed) + (1 - positive) * (1 - false_alarms)
    by_chance = positive * called + (1 - positive) * (1 - called)
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan
