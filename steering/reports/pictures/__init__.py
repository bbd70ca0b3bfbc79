"""Pictures of frames: which belong to what was run, and how each is to be read.

Each takes frames and draws a matplotlib figure; nothing here reads logs or counts anything.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import pandas as pd
from pandas.api.types import is_numeric_dtype

from steering.errors import printable
from steering.reports.pictures.arms import arm_points, plot_arms
from steering.reports.pictures.curves import (
    CHOICE_FIGURES,
    FIGURES,
    plot_along,
    plot_choices,
    plot_front,
    plot_metric,
    plot_spectrum,
)
from steering.reports.pictures.heatmaps import plot_forest, plot_grid, plot_questions, plot_scores
from steering.reports.pictures.lines import Line, counts_text, line_of, number_text
from steering.reports.pictures.parts import (
    AXES_OF_STUDIES,
    MOST_VALUES,
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
from steering.reports.pictures.style import MOST_SERIES
from steering.reports.pictures.unjudged import choice_pictures, metric_pictures
from steering.reports.pictures.words import axis_name, series_name, vectors_text
from steering.results.corrections import EXACT
from steering.results.schema import KEYS, SIGNED
from steering.results.seed_figures import over_seeds, theme_means
from steering.results.series import AskedAlike, asked_alike, split_series
from steering.results.settings import NONE, settings_of

__all__ = [
    "Line",
    "Picture",
    "arm_points",
    "choice_pictures",
    "line_of",
    "metric_pictures",
    "pictures_of",
    "plot_along",
    "plot_arms",
    "plot_choices",
    "plot_forest",
    "plot_front",
    "plot_grid",
    "plot_questions",
    "plot_scores",
    "plot_spectrum",
    "signature_of",
]

# What a study may cross with each other.
_CROSSED = ("magnitude", "layer", "rank", "top", "training_epochs", "target", "vector", "method")
# More conditions than this make a picture that nobody can read.
_MOST_ROWS = 60


def pictures_of(
    answers: pd.DataFrame, conditions: pd.DataFrame, spectrum: Sequence[float] = ()
) -> Iterator[Picture]:
    """The pictures that belong to what was run, study by study and model by model.

    Args:
        answers: A row an answer.
        conditions: A row a condition.
        spectrum: Singular values of a set of vectors that the study `rank` projected on.
    """
    answers, conditions = with_printable_names(answers), with_printable_names(conditions)
    means = theme_means(answers, FIGURES) if len(answers) else answers
    for (study, questions), of_study in conditions.groupby(["study", "questions"], sort=False):
        several = conditions.loc[conditions["study"] == study, "questions"].nunique() > 1
        tail = f"-{slug(str(questions))}" if several else ""
        rows = answers[(answers["study"] == study) & (answers["questions"] == questions)]
        for model, of_model in of_study.groupby("model", sort=False):
            of = f"{model}, {without_digest(str(questions))}" if several else str(model)
            for picture in _of_model(str(study), of, of_model, spectrum, means):
                yield replace(picture, name=picture.name + tail)
        head = f"{slug(str(study))}-" if study else ""
        if len(of_study) <= _MOST_ROWS:
            for picture in _of_conditions(of_study, rows):
                yield replace(picture, name=f"{head}{picture.name}{tail}")


def _of_conditions(conditions: pd.DataFrame, answers: pd.DataFrame) -> Iterator[Picture]:
    order = list(conditions["condition"].unique())
    ordered = answers.sort_values(
        "condition", key=lambda labels: labels.map(order.index), kind="stable"
    )
    signature = signature_of(conditions)
    question_set = without_digest(conditions["questions"].iloc[0])
    models = conditions["model"].unique()
    of = f"{', '.join(models[:MOST_VALUES])}{' and more' if len(models) > MOST_VALUES else ''}"
    if len(others := conditions[conditions["arm"] != "baseline"]):
        of = f"{of}, {vectors_text(others)}"
    of = f"{of}, {question_set}"
    yield Picture(
        "forest",
        f"EM rates of all conditions, {of}",
        "A row a condition, with 95% intervals: thin on questions like these, thick on these "
        "questions. Hollow marks are without a vector. On the right, the difference to the "
        "baseline, paired by theme, each theme weighing alike.",
        signature,
        partial(plot_forest, conditions, f"EM rates with 95% intervals: {of}"),
    )
    yield Picture(
        "questions",
        f"EM rate by question, {of}",
        "Misaligned answers of those that the rule counts, by question and condition, shaded by "
        "rate. A dash: no scorable answers.",
        signature,
        partial(plot_questions, ordered, "moem", f"EM rate by question: {of}"),
    )
    yield Picture(
        "scores",
        f"The judge's scores, {of}",
        "How the scores of each condition spread over 0 to 100, shaded by share of answers. Two "
        "ends with nothing between are a judge that is sure.",
        signature,
        partial(plot_scores, ordered, f"How the judge's scores spread: {of}"),
    )


def _of_model(
    study: str, model: str, of_model: pd.DataFrame, spectrum: Sequence[float], means: pd.DataFrame
) -> Iterator[Picture]:
    """Those of one model; `model` is what it is called in a title."""
    tail = f"-{slug(of_model['model'].iloc[0].rpartition('/')[2])}"
    signature = signature_of(of_model)
    for axis in AXES_OF_STUDIES.get(study, ()):
        name = f"{axis.replace('_', '-')}{tail}"
        for number, asked in enumerate(asked_alike(of_model)):
            for picture in _along(model, asked, axis, means, signature):
                yield replace(picture, name=f"{name}{numbered(number)}{picture.name}")
    if study:
        for picture in _grids(model, of_model, AXES_OF_STUDIES.get(study, ()), means, signature):
            yield replace(picture, name=f"{slug(study)}-{picture.name}{tail}")
    if study == "rank" and len(spectrum):
        yield Picture(
            f"spectrum{tail}",
            f"Spectrum of the vectors, {model}",
            "Energy of the vectors of several target tasks, each scaled to length 1, along their "
            "principal directions: bars each, the line the first so many together.",
            signature,
            partial(plot_spectrum, spectrum, f"{model}: how many directions the vectors share"),
        )
    if study == "finetuned" and {"steered", "finetuned"} <= set(of_model["arm"]):
        target = of_model.loc[of_model["arm"] == "steered", "target"].iloc[0]
        yield Picture(
            f"front{tail}",
            f"What EM costs in coherence, {model}, {target}",
            "Each curve goes from the baseline through the growing doses of an arm, pale ones of "
            "further build seeds. The further up and right, the more misaligned for the coherence "
            "that it keeps.",
            signature,
            partial(plot_front, of_model, "moem", f"{model}, {target}: what EM costs in coherence"),
        )


def _along(
    model: str, asked: AskedAlike, axis: str, means: pd.DataFrame, signature: str
) -> Iterator[Picture]:
    """The curves along an axis of conditions that were asked alike, `MOST_SERIES` a picture."""
    rows = asked.answers
    steered = rows[rows[axis].notna() & rows["arm"].isin(["steered", "control"])]
    if axis == "rank":
        steered = steered[steered["top"].isna()]
    series = [each for each in series_along(steered, axis) if each.answers[axis].nunique() > 1]
    bases = rows[rows["arm"] == "baseline"].to_dict("records")
    for number, part in enumerate(in_parts(series)):
        lines = lines_of(part, axis, means, FIGURES)
        whose = vectors_text(pd.concat(each.answers for each in part), [axis])
        of = ", ".join(filter(None, [model, whose, series_name(asked.settings)]))
        yield Picture(
            numbered(number),
            f"EM along the {axis_name(axis)}, {of}",
            f"EM rates by both rules, and mean coherence and relevance of all answers. "
            f"{bars_text(lines)}",
            signature,
            partial(
                plot_along,
                lines,
                axis,
                f"{of}\nEM along the {axis_name(axis)}; {counts_text(lines)}",
                bases[0] if bases else None,
            ),
        )


def _grids(
    model: str,
    of_model: pd.DataFrame,
    first: Sequence[str],
    means: pd.DataFrame,
    signature: str,
) -> Iterator[Picture]:
    """A picture of each two axes that the study crosses, for all that they don't cover."""
    steered = of_model[of_model["arm"] == "steered"]
    varied = [name for name in _CROSSED if steered[name].nunique() > 1]
    # Vectors differ along most axes; they are one of their own where nothing else tells them apart.
    rest = [*(name for name in varied if name != "vector"), "build_seed"]
    if "vector" in varied and not _tells(steered, rest):
        varied.remove("vector")
    varied.sort(key=lambda name: name not in first)
    drawn: set[frozenset[str]] = set()
    for across, down in combinations(varied, 2):
        rows = steered[steered[across].notna() & steered[down].notna()]
        groups = series_along(rows, across, down)
        for number, group in enumerate(groups):
            cells = _cells(group.answers, across, down, means)
            shape = cells[across].nunique(), cells[down].nunique()
            # Of one target each vector is another one: two axes on a line cross nothing.
            if min(shape) < 2 or len(cells) < min(shape) * 2:
                continue
            labels = frozenset(group.answers["condition"])
            if labels in drawn:
                continue
            drawn.add(labels)
            whose = vectors_text(group.answers, [across, down])
            of = f"{axis_name(down)} and {axis_name(across)}"
            yield Picture(
                f"{across}-by-{down}{numbered(number)}".replace("_", "-"),
                f"EM over {of}, {model}, {whose}",
                "EM rates by both rules and mean coherence in each cell, over all build seeds.",
                signature,
                partial(
                    plot_grid,
                    cells,
                    across,
                    down,
                    f"{model}, {whose}\nEM over {of}; n = {number_text(cells['n'])} answers a cell",
                ),
            )


def _tells(steered: pd.DataFrame, columns: Sequence[str]) -> bool:
    """Whether the vector tells conditions apart that have one value in each of some columns."""
    return bool((steered.groupby([*columns], dropna=False)["vector"].nunique() > 1).any())


def _cells(rows: pd.DataFrame, across: str, down: str, means: pd.DataFrame) -> pd.DataFrame:
    """A row a place on both axes, over its build seeds."""
    parts = []
    for _, of_row in rows.groupby(down, sort=False):
        is_single = of_row[across].is_unique
        parts.append(of_row if is_single else over_seeds(of_row, means, across, FIGURES))
    return pd.concat(parts) if parts else rows
