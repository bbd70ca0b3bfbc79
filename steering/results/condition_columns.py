"""What was done to the model in a condition, as columns: read from what one answer's log says.

A condition's own output tells what acted: vectors as they were resolved, adapter, engine. Options
as typed would not do, since they leave out defaults and the lengths of vectors. Knows neither
scores nor files.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

TEXTS = ("arm", "target", "method", "site", "operation", "positions", "unit", "family")
NUMBERS = (
    "layer",
    "magnitude",
    "relative_magnitude",
    "rank",
    "top",
    "training_epochs",
    "build_seed",
    "adapter_scale",
    "num_parameters",
)


def condition_facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a condition.

    Args:
        told: Metadata of an output of a steered model; empty for one of any other provider.

    Returns:
        A value for each of `TEXTS` ("" where there is none) and of `NUMBERS` (NaN where there is
        none, or where several vectors differ).
    """
    steering, engine = told.get("steering", {}), told.get("engine", {})
    uses: Sequence[Mapping[str, Any]] = steering.get("interventions", ())
    adapter: Mapping[str, Any] = steering.get("adapter", {})
    facts: dict[str, Any] = dict.fromkeys(TEXTS, "") | dict.fromkeys(NUMBERS, math.nan)
    facts["arm"] = _arm(uses, bool(adapter))
    facts["family"] = engine.get("family", "")
    facts["num_parameters"] = float(engine.get("parameters") or math.nan)
    if not uses and not adapter:
        return facts | {"magnitude": 0.0, "relative_magnitude": 0.0}
    if adapter:
        facts |= {
            "target": adapter.get("target", ""),
            "training_epochs": float(adapter.get("training_epoch", math.nan)),
            "adapter_scale": float(adapter["scale"]),
        }
    columns = [_use_facts(use) for use in uses]
    for name in columns[0] if columns else ():
        values = {column[name] for column in columns}
        if len(values) == 1:
            facts[name] = values.pop()
    return facts


def _arm(uses: Sequence[Mapping[str, Any]], adapted: bool) -> str:
    if not uses:
        return "finetuned" if adapted else "baseline"
    if adapted:
        return "both"
    made = [use["vector"] for use in uses]
    control = all(_method(v) == "random" or v.get("shuffle_labels") for v in made)
    return "control" if control else "steered"


def _use_facts(use: Mapping[str, Any]) -> dict[str, Any]:
    vector, layers = use["vector"], use["layers"]
    measured = vector.get("measured") or {}
    acts = use["operation"] != "ablate"
    return {
        "target": str(vector.get("target") or ""),
        "method": _method(vector),
        "layer": float(layers[0]) if len(layers) == 1 else math.nan,
        "site": use["site"],
        "operation": use["operation"],
        "positions": use["positions"],
        "unit": use["unit"] if acts else "",
        "magnitude": float(use["magnitude"]) if acts else math.nan,
        "relative_magnitude": _relative(use) if acts else math.nan,
        "rank": float(use["rank"]),
        "top": float((vector.get("projected") or {}).get("top", math.nan)),
        "training_epochs": float(measured.get("training_epoch", math.nan)),
        "build_seed": float(vector.get("seed", math.nan)),
    }


def _method(vector: Mapping[str, Any]) -> str:
    """How the vector was built, without the version of the method."""
    return str(vector.get("method") or "").partition("/")[0]


def _relative(use: Mapping[str, Any]) -> float:
    """Length of what is added over the mean residual norm there, the mean over the layers.

    With the magnitude's sign.
    """
    magnitude, norms = use["magnitude"], use["residual_norms"]
    if use["unit"] == "residual":
        return float(magnitude)
    if not norms or not all(norms):
        return math.nan
    lengths = use["lengths"] if use["unit"] == "raw" else [1.0] * len(norms)
    shares = [magnitude * length / norm for length, norm in zip(lengths, norms, strict=True)]
    return math.fsum(shares) / len(shares)
