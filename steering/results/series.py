"""Which answers may be compared: those asked alike, and those that differ in some axes only.

A condition is never mixed with one that was asked differently, and conditions stand in one stratum
only where nothing but its axes and the build seed differ. What is left out is named. A column that
a frame does not have counts as the same everywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from steering.results.counted_runs import ResultError
from steering.results.schema import COMPARED

# How the model was loaded and prompted: the same for all conditions of a model, and different
# between models.
_LOADED = ("dtype", "engine", "template", "loading", "prompt_sha256")
# How answers were asked for and judged. Conditions that differ in one of these are not compared.
ASKED = ("task", *(name for name in COMPARED if name not in _LOADED), "seed")
# What was done to the model.
_INTERVENTION = (
    *("target", "method", "vector", "adapter", "shuffled_labels", "layer", "rank", "top"),
    *("model_prompt", "num_examples"),
    *("training_epochs", "build_seed", "adapter_scale"),
    *("site", "operation", "positions", "unit", "magnitude", "built_with"),
)
# What has another value at another place of an axis. Files whose making is unknown follow nothing:
# two of them are two things.
_FOLLOWS = {
    "vector": ("build_seed", "target", "rank", "top", "training_epochs", "layer"),
    "adapter": ("build_seed", "target", "training_epochs"),
    "built_with": ("target",),
    "rank": ("top",),
    "model_prompt": ("build_seed", "num_examples", "target"),
}
_FILES = ("vector", "adapter")
# The axes that a study varies; of any other run a series is along the magnitude.
_AXES = {
    "rank": ("rank", "top"),
    "epochs": ("training_epochs",),
    "layer": ("layer",),
}
_MOST_NAMES = 3


@dataclass(frozen=True)
class AskedAlike:
    """Answers that were asked for and judged in the same way.

    Attributes:
        answers: A row an answer.
        settings: What sets them apart from other groups, as in "temperature 0.5"; "" where all
            answers were asked alike.
        left_out: Conditions without a counterpart that was asked like them.
    """

    answers: pd.DataFrame
    settings: str = ""
    left_out: tuple[str, ...] = ()


def asked_alike(answers: pd.DataFrame) -> list[AskedAlike]:
    """Split the answers of one study into groups that were asked alike.

    A group without a baseline, or with nothing beside it, is left out of the others and named
    there; where no group is complete, the largest stands for all.

    Args:
        answers: Of one model, or of several; as `read_answers` gives them.
    """
    answers, left_out = _loaded_alike(answers)
    columns = _differing(answers, ASKED)
    if not columns:
        return [AskedAlike(answers, left_out=tuple(left_out))]
    groups = [(_words(rows, columns), rows) for _, rows in answers.groupby(columns, dropna=False)]
    complete = [group for group in groups if _is_complete(group[1])]
    judged = complete or [max(groups, key=lambda group: group[1]["condition"].nunique())]
    others = [group for group in groups if not any(group is one for one in judged)]
    left_out += [_names(rows, settings) for settings, rows in others]
    return [AskedAlike(rows, settings, tuple(left_out)) for settings, rows in judged]


def _loaded_alike(answers: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Of each model the answers of one way of loading it, and what is left out."""
    parts, left_out = [], []
    for _, rows in answers.groupby("model", sort=False):
        if columns := _differing(rows, _LOADED):
            groups = [group for _, group in rows.groupby(columns, dropna=False)]
            groups.sort(key=lambda g: (_is_complete(g), g["condition"].nunique()))
            left_out += [_names(group, _words(group, columns)) for group in groups[:-1]]
            rows = groups[-1]
        parts.append(rows)
    return (pd.concat(parts) if left_out else answers), left_out


def _is_complete(rows: pd.DataFrame) -> bool:
    arms = set(rows["arm"])
    return "baseline" in arms and len(arms) > 1


def _differing(rows: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    return [name for name in columns if name in rows and rows[name].nunique(dropna=False) > 1]


def _words(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    values = ((name, rows[name].iloc[0]) for name in columns)
    return ", ".join(f"{name} {'-' if pd.isna(v) or v == '' else v}" for name, v in values)


def _names(rows: pd.DataFrame, reason: str) -> str:
    conditions = rows[["model", "condition"]].drop_duplicates()
    models = conditions["model"] if conditions["model"].nunique() > 1 else [""] * len(conditions)
    names = [f"{m}[{label}]" for m, label in zip(models, conditions["condition"], strict=True)]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more} ({reason})"


def strata(answers: pd.DataFrame, axes: Sequence[str], arm: str = "steered") -> list[AskedAlike]:
    """The conditions of an arm in groups that differ in nothing but some axes and the build seed.

    Where other options were crossed with the axes, each combination of them is a stratum: at two
    magnitudes, two studies of the layer. What differs between models only, such as the default
    layer, makes none.

    Args:
        answers: Of one model or several, asked alike.
        axes: Columns that may differ within a stratum.
        arm: Of the conditions beside the baseline.

    Returns:
        The answers of each stratum with those of the baselines, and what sets it apart. Conditions
        that have no place on any axis are left out by name, in the first.

    Raises:
        ResultError: Two conditions stand at one place and no column tells them apart.
    """
    baselines, rows = answers[answers["arm"] == "baseline"], answers[answers["arm"] == arm]
    on_axis = rows[list(axes)].notna().any(axis=1)
    off, rows = rows[~on_axis], rows[on_axis]
    left_out = (_names(off, f"no {axes[0]}"),) if len(off) else ()
    parts = split_series(rows, (*axes, "build_seed"))
    for part in parts:
        if doubled := _doubled(part.answers, axes):
            raise ResultError(f"{doubled}: judge them apart, each in a folder of its own")
    return [
        AskedAlike(
            pd.concat([baselines[baselines["model"].isin(part.answers["model"])], part.answers]),
            part.settings,
            left_out if number == 0 else (),
        )
        for number, part in enumerate(parts)
    ]


def split_series(rows: pd.DataFrame, axes: Sequence[str]) -> list[AskedAlike]:
    """The conditions in series: each is a condition less the axes.

    Within a series nothing differs but the axes, and what has to differ along them. Claims,
    pictures and tables have their series from here. What differs between models only, such as the
    default layer, makes none.

    Args:
        rows: A row an answer or a row a condition, of one arm.
        axes: Columns that may differ; with `build_seed`, vectors of several seeds are one series.

    Returns:
        The rows of each series in their order, and what sets it apart from the others.
    """
    # A condition has one value in each of these columns: it is enough to look at one row of it.
    codes = rows.groupby(["model", "condition"], sort=False, observed=True).ngroup().to_numpy()
    is_first = ~pd.Index(codes).duplicated()
    table = rows[is_first].assign(_code=codes[is_first])
    table = table.assign(**_unknown_files(table))
    columns = [name for name in (*_INTERVENTION, *_UNKNOWN) if name in table and name not in axes]
    following = [name for name in columns if set(_FOLLOWS.get(name, ())) & set(axes)]
    crossed = [name for name in columns if name not in following and _varies(table, name)]
    groups = _groups(table, crossed) if crossed else [table]
    parts = []
    for group in groups:
        free = [name for name in following if not _is_determined(group, name, axes)]
        parts += _split(group, free, axes) if free else [group]
    names = _telling(parts, axes)
    return [AskedAlike(rows[np.isin(codes, part["_code"])], _words(part, names)) for part in parts]


def series_numbers(conditions: pd.DataFrame, study: str) -> pd.Series:
    """The series along a study's axis that each condition belongs to, counted from 1.

    Baselines belong to all series, and have 0.

    Args:
        conditions: A row a condition, with an index of its own.
        study: Factor of the study.
    """
    numbers = pd.Series(0, index=conditions.index)
    others = conditions[conditions["arm"] != "baseline"]
    for _, of_arm in others.groupby("arm", sort=True):
        for series in split_series(of_arm, (*_AXES.get(study, ("magnitude",)), "build_seed")):
            numbers[series.answers.index] = numbers.max() + 1
    return numbers


_UNKNOWN = tuple(f"_unknown_{name}" for name in _FILES)


def _unknown_files(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The files of which nothing says how they were made."""
    if "built_with" not in table:
        return {}
    is_unknown = table["built_with"].astype(str) == ""
    names = [name for name in _FILES if name in table]
    return {f"_unknown_{name}": table[name].astype(str).where(is_unknown, "") for name in names}


def _telling(parts: Sequence[pd.DataFrame], axes: Sequence[str]) -> list[str]:
    """As few columns as tell the series apart: each tells more of them apart."""
    firsts = pd.concat([part.iloc[:1] for part in parts])
    names: list[str] = []
    number = 1
    # A vector of another layer is another file: the layer says more.
    columns = [name for name in _INTERVENTION if name in firsts and name not in axes]
    for name in sorted(columns, key=_FILES.__contains__):
        if number == len(firsts):
            break
        if len(firsts[[*names, name]].drop_duplicates()) > number:
            names.append(name)
            number = len(firsts[names].drop_duplicates())
    return names


def _varies(table: pd.DataFrame, name: str) -> bool:
    """Whether the conditions of some model differ in a column."""
    counts = table.groupby("model", observed=True)[name].nunique(dropna=False)
    return bool((counts > 1).any())


def _is_determined(group: pd.DataFrame, name: str, axes: Sequence[str]) -> bool:
    """Whether a column has one value at each place of the axes that it follows."""
    place = ["model", *(axis for axis in axes if axis in _FOLLOWS[name] and axis in group)]
    counts = group.groupby(place, dropna=False, observed=True)[name].nunique(dropna=False)
    return bool((counts <= 1).all())


def _groups(rows: pd.DataFrame, columns: Sequence[str]) -> list[pd.DataFrame]:
    keys = [
        rows[c] if pd.api.types.is_numeric_dtype(rows[c]) else rows[c].astype(str) for c in columns
    ]
    return [group for _, group in rows.groupby(keys, dropna=False, sort=True)]


def _split(group: pd.DataFrame, free: Sequence[str], axes: Sequence[str]) -> list[pd.DataFrame]:
    """Groups apart by what follows the axes and has two values at one place, such as two files.

    As it was where that tears apart what has to differ along an axis: every vector of the study
    `rank` has one rank.
    """
    parts = _groups(group, free)
    torn = [
        axis
        for axis in axes
        if axis != "build_seed" and any(axis in _FOLLOWS[name] for name in free)
    ]
    if not torn:
        return parts
    longest = max(len(part[torn].drop_duplicates()) for part in parts)
    return parts if longest == len(group[torn].drop_duplicates()) else [group]


def _doubled(rows: pd.DataFrame, axes: Sequence[str]) -> str:
    """Two conditions that stand at one place with one build seed, if any do."""
    place = [name for name in ("model", *axes, "build_seed") if name in rows]
    conditions = rows[[*place, "condition"]].drop_duplicates()
    twice = conditions[conditions.duplicated(place, keep=False)]
    if twice.empty:
        return ""
    first = twice.sort_values([*place, "condition"]).iloc[0]
    same = (twice[place].isna() & first[place].isna()) | (twice[place] == first[place])
    labels = sorted(twice.loc[same.all(axis=1), "condition"])
    where = " ".join(f"{name} {first[name]}" for name in axes)
    return f"[{labels[0]}] and [{labels[1]}] both stand at {where}"


def baseline_of(answers: pd.DataFrame) -> pd.DataFrame:
    """The baseline's answers, of one model.

    Raises:
        ResultError: There are two baselines.
    """
    rows = answers[answers["arm"] == "baseline"]
    labels = sorted(rows["condition"].unique())
    if len(labels) > 1:
        raise ResultError(f"there are {len(labels)} baselines, [{labels[0]}] and [{labels[1]}]")
    return rows
