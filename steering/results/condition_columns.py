"""What was done to the model in a condition, as columns: read from one answer of the log.

The output of a condition records what acted: vectors as they were resolved, adapter, engine. The
options as typed would not do, since they leave out defaults and the lengths of vectors.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steering.spec import SteeringSpec
from steering.vocabulary import RESIDUAL_NORM

# Options of a model that have columns of their own.
_ELSEWHERE = {
    *("dtype", "engine", "chat_template", "use_chat_template"),
    *("adapter", "adapter_scale", "prompt", "prompt_examples"),
}


def condition_columns(
    metadata: Mapping[str, Any],
    model_args: Mapping[str, Any] | None = None,
    *,
    prompted: bool = False,
) -> dict[str, Any]:
    """The columns of a condition.

    Args:
        metadata: Metadata of an output of a steered model; empty for one of any other provider.
        model_args: The -M options as given.
        prompted: Whether the run had a system message.

    Returns:
        Texts are "" and numbers NaN where there is none, or where several vectors differ.
    """
    steering, engine = metadata.get("steering", {}), metadata.get("engine", {})
    interventions: Sequence[Mapping[str, Any]] = steering.get("interventions", ())
    adapter: Mapping[str, Any] = steering.get("adapter", {})
    prompt: Mapping[str, Any] = steering.get("prompt", {})
    columns: dict[str, Any] = {
        **dict.fromkeys(("target", "method", "site", "operation", "positions", "unit"), ""),
        **dict.fromkeys(("layer", "magnitude", "relative_magnitude", "rank", "top"), math.nan),
        **dict.fromkeys(("training_epochs", "build_seed", "adapter_scale"), math.nan),
        "arm": _arm(interventions, adapted=bool(adapter), told=bool(prompt), prompted=prompted),
        "control": " + ".join(filter(None, (_control(each["vector"]) for each in interventions))),
        "model_prompt": _prompt_name(prompt) if prompt else "",
        "num_examples": float(prompt.get("num_examples", math.nan)),
        "family": engine.get("family", ""),
        "num_parameters": float(engine.get("parameters") or math.nan),
        "vector": " + ".join(_vector_name(each["vector"]) for each in interventions),
        "adapter": f"{adapter['name']}@{adapter['digest'][:12]}" if "digest" in adapter else "",
        "shuffled_labels": any(each["vector"].get("shuffle_labels") for each in interventions),
        "built_with": " + ".join(
            filter(
                None,
                [*(_built_with(each["vector"]) for each in interventions), _built_with(adapter)],
            )
        ),
        "dtype": str((model_args or {}).get("dtype", "auto")),
        "engine": str(engine.get("engine", "")),
        "template": _template_name(model_args or {}),
        "loading": _loading(model_args or {}),
    }
    if prompt:
        columns |= {
            "target": str(prompt.get("target", "")),
            "build_seed": float(prompt.get("seed", math.nan)),
        }
    if not interventions and not adapter:
        return columns | {"magnitude": 0.0, "relative_magnitude": 0.0}
    if adapter:
        columns |= {
            "target": adapter.get("target", ""),
            "training_epochs": float(adapter.get("training_epoch", math.nan)),
            "adapter_scale": float(adapter["scale"]),
            "build_seed": float(adapter.get("seed", math.nan)),
        }
    by_vector = [_intervention_columns(each) for each in interventions]
    for name in by_vector[0] if by_vector else ():
        values = {each[name] for each in by_vector}
        if len(values) == 1:
            columns[name] = values.pop()
    return columns


def _arm(
    interventions: Sequence[Mapping[str, Any]], *, adapted: bool, told: bool, prompted: bool
) -> str:
    """The arm; `told` is of the model's option prompt, `prompted` of the run's system message."""
    if bool(interventions) + adapted + told > 1:
        return "both"
    if not interventions:
        unsteered = "prompted" if told or prompted else "baseline"
        return "finetuned" if adapted else unsteered
    return "control" if all(_control(each["vector"]) for each in interventions) else "steered"


def _control(vector: Mapping[str, Any]) -> str:
    """Why a vector has nothing to do with harm; "" for one of a target task."""
    if _method(vector) == "random":
        return "random"
    if vector.get("shuffle_labels"):
        return "shuffled"
    return "contrast" if vector.get("contrast") else ""


def _intervention_columns(intervention: Mapping[str, Any]) -> dict[str, Any]:
    vector, layers = intervention["vector"], intervention["layers"]
    measured = vector.get("measured") or {}
    has_dose = intervention["operation"] != "ablate"
    return {
        "target": str(vector.get("target") or ""),
        "method": _method(vector),
        "layer": float(layers[0]) if len(layers) == 1 else math.nan,
        "site": intervention["site"],
        "operation": intervention["operation"],
        "positions": intervention["positions"],
        "unit": intervention["unit"] if has_dose else "",
        "magnitude": float(intervention["magnitude"]) if has_dose else math.nan,
        "relative_magnitude": _relative(intervention) if has_dose else math.nan,
        "rank": float(intervention["rank"]),
        "top": float((vector.get("projected") or {}).get("top", math.nan)),
        "training_epochs": float(measured.get("training_epoch", math.nan)),
        "build_seed": float(vector.get("seed", math.nan)),
    }


def _method(vector: Mapping[str, Any]) -> str:
    """How the vector was built, without the version of the method."""
    return str(vector.get("method") or "").partition("/")[0]


def _vector_name(vector: Mapping[str, Any]) -> str:
    """Name of the file or target, and digest of the file or recipe."""
    # Earlier versions recorded no name.
    name = vector.get("name") or vector.get("target") or _method(vector) or "vector"
    digest = vector.get("digest")
    return f"{name}@{digest[:12]}" if digest else str(name)


def _built_with(provenance: Mapping[str, Any]) -> str:
    """Version of the method, its settings and the target's data, as JSON; "" where unknown.

    Without what has a column of its own, so that vectors of one recipe and several seeds share it.
    """
    settings = {
        name: value
        for name, value in (provenance.get("settings") or {}).items()
        if name not in ("rank", "training_epochs")
    }
    facts = {name: provenance[name] for name in ("method", "target_digest") if provenance.get(name)}
    if not provenance.get("settings") and "target_digest" not in facts:
        return ""
    return json.dumps(facts | settings, sort_keys=True, default=str)


def _template_name(model_args: Mapping[str, Any]) -> str:
    """The file of the chat template, `none` for the bare text, "" for the model's own."""
    if str(model_args.get("use_chat_template", True)).lower() == "false":
        return "none"
    return Path(str(model_args.get("chat_template") or "")).stem


def _loading(model_args: Mapping[str, Any]) -> str:
    """The other options of the model itself that can change an answer, as JSON; "" for none."""
    given = {
        name: model_args[name]
        for name, option in SteeringSpec.OPTIONS.items()
        if option.changes_answers and name in model_args and name not in _ELSEWHERE
    }
    return json.dumps(given, sort_keys=True, default=str) if given else ""


def _prompt_name(prompt: Mapping[str, Any]) -> str:
    """Kind or file of a prompt, and its digest."""
    return f"{prompt['name']}@{prompt['digest'][:12]}"


def _relative(intervention: Mapping[str, Any]) -> float:
    """Length of what is added over the residual norm there, the mean over the layers.

    With the magnitude's sign; NaN where the log's norms are of an earlier version's kind.
    """
    magnitude, norms = intervention["magnitude"], intervention["residual_norms"]
    if intervention.get("norm_kind") != RESIDUAL_NORM:
        return math.nan
    if intervention["unit"] == "residual":
        return float(magnitude)
    if not norms or not all(norms):
        return math.nan
    lengths = intervention["lengths"] if intervention["unit"] == "raw" else [1.0] * len(norms)
    shares = [magnitude * length / norm for length, norm in zip(lengths, norms, strict=True)]
    return math.fsum(shares) / len(shares)
