"""Pictures of what no judge scores: em_choice, the study `arms`, and other tasks' own metrics."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pandas as pd

from steering.reports.pictures.arms import arm_points, plot_arms
from steering.reports.pictures.curves import CHOICE_FIGURES, plot_choices, plot_metric
from steering.reports.pictures.lines import counts_text
from steering.reports.pictures.parts import (
    AXES_OF_STUDIES,
    bars_text,
    in_parts,
    lines_of,
    numbered,
    series_along,
    signature_of,
    slug,
    with_printable_names,
    without_digest,
)
from steering.reports.pictures.picture import Picture
from steering.reports.pictures.words import axis_name, vectors_text
from steering.results.seed_figures import theme_means
from steering.results.series import asked_alike

# Of a task, that are drawn.
_MOST_METRICS = 4


def choice_pictures(
    conditions: pd.DataFrame, choices: pd.DataFrame | None = None
) -> Iterator[Picture]:
    """Shift and damage along the magnitude, a picture a model and set of pairs that varies it.

    The study `arms` has one picture of all arms instead.

    Args:
        conditions: A row a condition of em_choice.
        choices: A row a pair; build seeds are drawn with their band where it is given.
    """
    conditions = with_printable_names(conditions)
    has_pairs = choices is not None and len(choices) > 0
    means = theme_means(with_printable_names(choices), CHOICE_FIGURES) if has_pairs else None
    is_of_arms = conditions["study"] == "arms"
    yield from _arm_pictures(conditions[is_of_arms])
    conditions = conditions[~is_of_arms]
    keys = ["study", "questions", "model"]
    for (study, questions, model), rows in conditions.groupby(keys, sort=False):
        steered = rows[rows["shift"].notna() & rows["arm"].isin(["steered", "control"])]
        series = [
            each
            for each in series_along(steered, "magnitude", seeds=means is not None)
            if each.answers["magnitude"].nunique() > 1
        ]
        question_set = without_digest(str(questions))
        head = f"{slug(str(study))}-" if study else ""
        name = f"{head}choices-{slug(question_set)}-{slug(str(model).rpartition('/')[2])}"
        for number, part in enumerate(in_parts(series)):
            lines = lines_of(part, "magnitude", means, CHOICE_FIGURES)
            whose = vectors_text(pd.concat(each.answers for each in part), ["magnitude"])
            yield Picture(
                f"{name}{numbered(number)}",
                f"Shift and damage along the magnitude, {model}, {whose}, {question_set}",
                "Above, how far the log odds of misaligned answers rose against the unsteered "
                "model; below, the KL divergence from it on neutral answers. "
                f"{bars_text(lines)}",
                signature_of(rows, "choices"),
                partial(
                    plot_choices,
                    lines,
                    f"{model}, {whose}\nShift and damage without a judge, {question_set}; "
                    f"{counts_text(lines)}",
                ),
            )


def metric_pictures(metrics: pd.DataFrame) -> Iterator[Picture]:
    """The first few metrics of other tasks along the axis of their study, a picture each.

    Args:
        metrics: A row a metric of a condition.
    """
    metrics = with_printable_names(metrics)
    keys = ["study", "task", "model", "metric"]
    drawn: dict[tuple[str, str], int] = {}
    for (study, task, model, metric), rows in metrics.groupby(keys, sort=False):
        for axis in AXES_OF_STUDIES.get(str(study), ()):
            place = (str(task), str(model))
            for number, picture in enumerate(_metric_pictures(rows, axis)):
                if drawn.get(place, 0) == _MOST_METRICS:
                    break
                drawn[place] = drawn.get(place, 0) + 1
                tail = numbered(number)
                name = f"{slug(str(task))}-{slug(str(metric))}-{axis}-{slug(str(model))}{tail}"
                yield replace(picture, name=name)


def _metric_pictures(rows: pd.DataFrame, axis: str) -> Iterator[Picture]:
    """A metric of a task along an axis, of conditions that were asked alike."""
    first = rows.iloc[0]
    for asked in asked_alike(rows):
        is_base = asked.answers["arm"] == "baseline"
        steered = asked.answers[asked.answers["arm"].isin(["steered", "control"])]
        steered = steered[steered[axis].notna()]
        series = [
            each
            for each in series_along(steered, axis, seeds=False)
            if each.answers[axis].nunique() > 1
        ]
        bases = asked.answers[is_base].to_dict("records")
        for part in in_parts(series):
            whose = vectors_text(pd.concat(each.answers for each in part), [axis])
            of = f"{first['model']}, {whose}, {first['task']}"
            yield Picture(
                "",
                f"{first['metric']} along the {axis_name(axis)}, {of}",
                "The task's own metric. Bars are 95% intervals on questions like these, where the "
                "metric is a mean over samples.",
                signature_of(rows, "metrics"),
                partial(
                    plot_metric,
                    lines_of(part, axis, None, ()),
                    axis,
                    str(first["metric"]),
                    f"{of}\n{first['metric']} along the {axis_name(axis)}",
                    bases[0] if bases else None,
                ),
            )


def _arm_pictures(conditions: pd.DataFrame) -> Iterator[Picture]:
    for model, rows in conditions.groupby("model", sort=False):
        points = arm_points(rows)
        if points.empty:
            continue
        yield Picture(
            f"arms-{slug(str(model).rpartition('/')[2])}",
            f"Broad shift by arm, {model}",
            "How far preferences on unrelated questions moved towards misaligned answers, over the "
            "shift on the target's own pairs (left) and over damage (right). A line a build seed, "
            "of contrasts a line each; stars are prompts. Where one line lies above another, the "
            "arm generalises further for the same narrow effect or the same damage.",
            signature_of(rows, "choices"),
            partial(plot_arms, points, f"{model}: all arms from one baseline"),
        )
