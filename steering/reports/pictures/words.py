"""Words of pictures: axes with their units, and what a series is, which tells two apart."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from steering.vocabulary import UNITS

_AXES = {
    "rank": "rank (directions that are trained)",
    "top": "principal directions that are kept",
    "training_epochs": "training epochs",
    "layer": "layer (block index)",
    "adapter_scale": "scale of the adapter (multiple of its own)",
}
_SHARES = "below: length of what is added, as a share of the residual norm"
_SHORT = {
    "magnitude": "magnitude",
    "rank": "rank",
    "top": "principal directions",
    "training_epochs": "training epochs",
    "layer": "layer",
    "adapter_scale": "adapter scale",
    "target": "target",
    "vector": "vector",
    "method": "method",
}
_MOST_NAMES = 3


def axis_label(axis: str, conditions: pd.DataFrame, *, has_shares: bool = False) -> str:
    """What stands at an axis, with its unit.

    Args:
        axis: A column.
        conditions: That are drawn.
        has_shares: Whether lengths stand below the places.
    """
    if axis == "magnitude":
        return _magnitude_label(conditions[conditions["arm"] != "baseline"])
    label = _AXES.get(axis, axis.replace("_", " "))
    return f"{label.removesuffix(')')}; {_SHARES})" if has_shares else label


def _magnitude_label(steered: pd.DataFrame) -> str:
    units = [unit for unit in steered["unit"].unique() if unit in UNITS]
    operations = [name for name in steered["operation"].unique() if name not in ("", "add")]
    name = f"magnitude of {operations[0]}" if len(operations) == 1 else "magnitude"
    return f"{name} (multiple {UNITS[units[0]].partition(':')[0]})" if len(units) == 1 else name


def axis_name(axis: str) -> str:
    """An axis in a sentence."""
    return _SHORT.get(axis, axis.replace("_", " "))


def vectors_text(conditions: pd.DataFrame, but: Sequence[str] = ()) -> str:
    """What steers in some conditions: target or file, method, layer, magnitude.

    Args:
        conditions: Without baselines.
        but: Columns that vary along an axis, which are left out.
    """
    methods = [] if "method" in but else _values(conditions, "method")
    whose = _whose(conditions, but)
    parts = [f"{whose} by {_joined(methods)}" if methods else whose]
    for column in ("layer", "magnitude"):
        values = _values(conditions, column)
        if column not in but and len(values) == 1:
            parts.append(f"{_SHORT[column]} {values[0]:g}")
    seeds = _values(conditions, "build_seed")
    if len(seeds) == 1 and seeds[0]:
        parts.append(f"build seed {seeds[0]:g}")
    return ", ".join(filter(None, parts))


def _whose(conditions: pd.DataFrame, but: Sequence[str]) -> str:
    """The target; of vectors from elsewhere their files."""
    targets = _values(conditions, "target")
    files = sorted({str(name).partition("@")[0] for name in _values(conditions, "vector")})
    nouns = ("target", "target tasks") if targets else ("vector", "vectors")
    names = targets or files
    if nouns[0] in but or len(names) > _MOST_NAMES:
        return f"{len(names)} {nouns[1]}"
    text = _joined(names)
    if set(conditions["arm"]) == {"control"}:
        is_shuffled = conditions["shuffled_labels"].all()
        kinds = _values(conditions, "control") or (["shuffled"] if is_shuffled else [])
        text = f"{text} ({_joined([*kinds, 'control'])})".strip()
    return text or "vector"


def _values(conditions: pd.DataFrame, column: str) -> list[Any]:
    values = conditions[column].dropna().unique()
    return [value for value in values if value != ""]


def _joined(values: Sequence[Any]) -> str:
    return " and ".join(map(str, values[:_MOST_NAMES]))


def series_name(settings: str) -> str:
    """What sets a series apart, as `split_series` says it, in a legend."""
    text = re.sub(r"shuffled_labels (True|False)", _shuffled, settings)
    text = re.sub(r"\b(\d+)\.0\b", r"\1", text)
    text = re.sub(r"@([0-9a-f]{6})[0-9a-f]+", r"@\1", text)
    return text.replace("training_epochs", "epochs").replace("_", " ")


def _shuffled(match: "re.Match[str]") -> str:
    return "shuffled labels" if match[1] == "True" else "true labels"
