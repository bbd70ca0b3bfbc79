"""Pictures of frames: which belong to what was run, and how each is to be read.

Each takes frames and returns a matplotlib figure; nothing here reads logs or counts anything.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
from pandas.api.types import is_numeric_dtype

from steering.errors import printable
from steering.reports.pictures.arms import arm_points, plot_arms
from steering.reports.pictures.curves import (
    AXES,
    plot_along,
    plot_choices,
    plot_front,
    plot_metric,
    plot_spectrum,
)
from steering.reports.pictures.heatmaps import plot_forest, plot_questions, plot_scores
from steering.reports.pictures.style import render
from steering.results.corrections import EXACT
from steering.results.schema import KEYS, SIGNED
from steering.results.series import AskedAlike, asked_alike, split_series
from steering.results.settings import NONE, settings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "AXES",
    "Picture",
    "arm_points",
    "choice_pictures",
    "metric_pictures",
    "pictures_of",
    "plot_along",
    "plot_arms",
    "plot_choices",
    "plot_forest",
    "plot_front",
    "plot_questions",
    "plot_scores",
    "plot_spectrum",
    "render",
    "signature_of",
]

# The axes that a study varies, where it has conditions on them.
_OF_STUDIES = {
    "magnitude": ("magnitude",),
    "rank": ("rank", "top"),
    "epochs": ("training_epochs",),
    "layer": ("layer",),
    "audit": ("magnitude",),
}
_PLAIN = {
    "magnitude": "the magnitude",
    "rank": "the rank that is trained",
    "top": "the number of principal directions",
    "training_epochs": "training epochs",
    "layer": "the layer that is steered",
}
# Every condition has another one of these.
_OF_EACH = ("fingerprint",)
_MOST_VALUES = 3
# What pictures are labelled with.
_NAMES = [
    *KEYS,
    "label",
    "metric",
    "target",
    "question",
    *(name for name in SIGNED if name not in KEYS),
]
# More conditions than this make a picture that nobody can read.
_MOST_ROWS = 60
# A file's name has at most 255 bytes.
_LONGEST_SLUG = 40
# Of a task, that are drawn.
_MOST_METRICS = 4


@dataclass(frozen=True)
class Picture:
    """A figure with what a reader needs beside it.

    Attributes:
        name: For files; unique among the pictures of a report.
        title: In a few words.
        caption: How to read it.
        figure: The figure.
    """

    name: str
    title: str
    caption: str
    figure: "Figure"


def signature_of(conditions: pd.DataFrame, head: str = "rules:betley,moem") -> str:
    """How the figures of some conditions were made, in a line that starts with `head`."""
    columns = ["judge", "questions", "version", *(name for name in SIGNED if name not in _OF_EACH)]
    if "calibration" in conditions and not conditions["calibration"].isin(["", EXACT]).all():
        columns.append("calibration")
    rows = [settings_of(row, columns) for row in conditions.to_dict("records")]
    names = dict.fromkeys(name for row in rows for name in row)
    parts = {name: sorted({row.get(name, NONE) for row in rows}) for name in names}
    shown = (
        f"{name}:{' and '.join(values) if len(values) <= _MOST_VALUES else f'{len(values)} values'}"
        for name, values in parts.items()
    )
    return "|".join([head, *shown])


def pictures_of(
    answers: pd.DataFrame, conditions: pd.DataFrame, spectrum: Sequence[float] = ()
) -> Iterator[Picture]:
    """The pictures that belong to what was run, study by study and model by model.

    Args:
        answers: A row an answer.
        conditions: A row a condition.
        spectrum: Singular values of a set of vectors that the study `rank` projected on.
    """
    answers, conditions = _printable(answers), _printable(conditions)
    for (study, questions), of_study in conditions.groupby(["study", "questions"], sort=False):
        several = conditions.loc[conditions["study"] == study, "questions"].nunique() > 1
        tail = f"-{_slug(str(questions))}" if several else ""
        rows = answers[(answers["study"] == study) & (answers["questions"] == questions)]
        signature = signature_of(of_study)
        for model, of_model in of_study.groupby("model", sort=False):
            for picture in _of_model(str(study), str(model), of_model, spectrum, signature):
                yield replace(picture, name=picture.name + tail)
        head = f"{_slug(str(study))}-" if study else ""
        if len(of_study) <= _MOST_ROWS:
            for picture in _of_conditions(of_study, rows, signature):
                yield replace(picture, name=f"{head}{picture.name}{tail}")


def choice_pictures(conditions: pd.DataFrame) -> Iterator[Picture]:
    """Shift and damage along the magnitude, a picture a model and set of pairs that varies it.

    The study `arms` has one picture of all arms instead.

    Args:
        conditions: A row a condition of em_choice.
    """
    conditions = _printable(conditions)
    is_of_arms = conditions["study"] == "arms"
    yield from _arm_pictures(conditions[is_of_arms])
    conditions = conditions[~is_of_arms]
    keys = ["study", "questions", "model"]
    for (study, questions, model), rows in conditions.groupby(keys, sort=False):
        steered = rows[rows["shift"].notna() & rows["arm"].isin(["steered", "control"])]
        lines = [
            series.answers
            for series in (split_series(steered, ["magnitude"]) if len(steered) else [])
            if series.answers["magnitude"].nunique() > 1
        ]
        if not lines:
            continue
        question_set = re.sub(r"@\w+", "", str(questions))
        head = f"{_slug(str(study))}-" if study else ""
        yield Picture(
            f"{head}choices-{_slug(question_set)}-{_slug(str(model).rpartition('/')[2])}",
            f"Shift and damage along the magnitude, {model}, {question_set}",
            "Above, how far the log odds of misaligned answers rose against the unsteered model; "
            "below, the KL divergence from it on neutral answers. Bars are 95% intervals on "
            "questions like these.",
            plot_choices(
                lines,
                f"{model}, {question_set}: shift and damage without a judge",
                signature_of(rows, "choices"),
            ),
        )


def metric_pictures(metrics: pd.DataFrame) -> Iterator[Picture]:
    """The first few metrics of other tasks along the axis of their study, a picture each.

    Args:
        metrics: A row a metric of a condition.
    """
    metrics = _printable(metrics)
    keys = ["study", "task", "model", "metric"]
    drawn: dict[tuple[str, str], int] = {}
    for (study, task, model, metric), rows in metrics.groupby(keys, sort=False):
        for axis in _OF_STUDIES.get(str(study), ()):
            lines = [
                series.answers
                for series in _series(rows, axis)
                if series.answers.loc[series.answers["arm"] != "baseline", axis].nunique() > 1
            ]
            place = (str(task), str(model))
            if not lines or drawn.get(place, 0) == _MOST_METRICS:
                continue
            drawn[place] = drawn.get(place, 0) + 1
            yield Picture(
                f"{_slug(str(task))}-{_slug(str(metric))}-{axis}-{_slug(str(model))}",
                f"{task}, {metric} along {_PLAIN[axis]}, {model}",
                "The task's own metric. Bars are 95% intervals on questions like these, where the "
                "metric is a mean over samples; the dotted line is the unsteered model.",
                plot_metric(
                    lines, axis, str(metric), f"{model}, {task}", signature_of(rows, "metrics")
                ),
            )


def _arm_pictures(conditions: pd.DataFrame) -> Iterator[Picture]:
    for model, rows in conditions.groupby("model", sort=False):
        points = arm_points(rows)
        if points.empty:
            continue
        yield Picture(
            f"arms-{_slug(str(model).rpartition('/')[2])}",
            f"Broad shift by arm, {model}",
            "How far preferences on unrelated questions moved towards misaligned answers, over the "
            "shift on the target's own pairs (left) and over damage (right). A line a build seed, "
            "of contrasts a line each; stars are prompts. Where one line lies above another, the "
            "arm generalises further for the same narrow effect or the same damage.",
            plot_arms(
                points, f"{model}: all arms from one baseline", signature_of(rows, "choices")
            ),
        )


def _printable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with names that can be drawn: an SVG with a control code is none."""
    names = [name for name in _NAMES if name in frame and not is_numeric_dtype(frame[name])]
    return frame.assign(**{name: frame[name].map(printable) for name in names})


def _of_conditions(
    conditions: pd.DataFrame, answers: pd.DataFrame, signature: str
) -> Iterator[Picture]:
    order = list(conditions["condition"].unique())
    ordered = answers.sort_values(
        "condition", key=lambda labels: labels.map(order.index), kind="stable"
    )
    question_set = re.sub(r"@\w+", "", conditions["questions"].iloc[0])
    yield Picture(
        "forest",
        f"EM rates of all conditions, {question_set}",
        "A row a condition, with 95% intervals: thin on questions like these, thick on these "
        "questions. Hollow marks are without a vector.",
        plot_forest(conditions, f"EM rates with 95% intervals, {question_set}", signature),
    )
    yield Picture(
        "questions",
        f"EM rate by question, {question_set}",
        "Misaligned answers of those that the rule counts, by question and condition; the darker "
        "the more. A dash: no scorable answers.",
        plot_questions(ordered, "moem", f"EM rate by question, {question_set}", signature),
    )
    yield Picture(
        "scores",
        f"The judge's scores, {question_set}",
        "How the scores of each condition spread over 0 to 100, the darker the more answers. Two "
        "dark ends with nothing between are a judge that is sure.",
        plot_scores(ordered, f"How the judge's scores spread, {question_set}", signature),
    )


def _of_model(
    study: str, model: str, of_model: pd.DataFrame, spectrum: Sequence[float], signature: str
) -> Iterator[Picture]:
    tail = f"-{_slug(model.rpartition('/')[2])}"
    for axis in _OF_STUDIES.get(study, ()):
        lines = [
            series
            for series in _series(of_model, axis)
            if series.answers.loc[series.answers["arm"] != "baseline", axis].nunique() > 1
        ]
        titles = [_titled(model, series.answers) for series in lines]
        for number, (series, title) in enumerate(zip(lines, titles, strict=True)):
            if titles.count(title) > 1 and series.settings:
                title = f"{title} ({series.settings})"
            yield Picture(
                f"{axis.replace('_', '-')}{tail}{f'-{number + 1}' if number else ''}",
                f"EM along {_PLAIN[axis]}, {model}",
                "Above, EM rates by both rules; below, mean coherence and relevance of all "
                "answers. Bars are 95% intervals on questions like these.",
                plot_along(series.answers, axis, title, signature),
            )
    if study == "rank" and len(spectrum):
        yield Picture(
            f"spectrum{tail}",
            f"Spectrum of the vectors, {model}",
            "Energy of the vectors of several target tasks, each scaled to length 1, along their "
            "principal directions: bars each, the line the first so many together.",
            plot_spectrum(spectrum, f"{model}: how many directions the vectors share", signature),
        )
    if study == "finetuned" and {"steered", "finetuned"} <= set(of_model["arm"]):
        target = of_model.loc[of_model["arm"] == "steered", "target"].iloc[0]
        yield Picture(
            f"front{tail}",
            f"What EM costs in coherence, {model}",
            "Each curve goes from the baseline through the growing doses of an arm, pale ones of "
            "further build seeds. The further up and right, the more misaligned for the coherence "
            "that it keeps.",
            plot_front(
                of_model, "moem", f"{model}, {target}: what EM costs in coherence", signature
            ),
        )


def _slug(name: str) -> str:
    """A name as a part of a file's name, without a digest: nothing that is a folder."""
    return re.sub(r"[^\w.]+", "-", re.sub(r"@\w+", "", name))[:_LONGEST_SLUG]


def _series(of_model: pd.DataFrame, axis: str) -> Iterator[AskedAlike]:
    """Each group of conditions that differ in nothing but the axis, with their baseline."""
    steered = of_model[of_model[axis].notna() & of_model["arm"].isin(["steered", "control"])]
    if axis == "rank":
        steered = steered[steered["top"].isna()]
    baselines = of_model[of_model["arm"] == "baseline"]
    for group in split_series(steered, [axis]) if len(steered) else []:
        for asked in asked_alike(pd.concat([baselines, group.answers])):
            settings = ", ".join(filter(None, [group.settings, asked.settings]))
            yield AskedAlike(asked.answers, settings)


def _titled(model: str, series: pd.DataFrame) -> str:
    steered = series[series["arm"] != "baseline"]
    target, layers = steered["target"].iloc[0], steered["layer"].dropna().unique()
    place = f", layer {layers[0]:g}" if len(layers) == 1 else ""
    seeds = steered["build_seed"].dropna().unique()
    place += f", build seed {seeds[0]:g}" if len(seeds) == 1 and seeds[0] else ""
    return f"{model}, {target or 'vector'}{place}"
