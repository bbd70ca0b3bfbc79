"""Whether an adapter's weights are those of a model's layers, before any weight is loaded.

peft builds the adapter's layers in a model without memory for weights; the shapes are compared with
those in the file's header.
"""

import functools
import re
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steering.models import ModelError, ModelSource, build_empty
from steering.models.adapters import CONFIG, WEIGHTS, Adapter, read_adapter_shapes

if TYPE_CHECKING:
    from peft import LoraConfig

_PATTERNS_S = 1
_PLAIN = re.compile(r"[\w.]+")


@functools.lru_cache(maxsize=64)
def check_layers(adapter: Adapter, source: ModelSource, weights: str) -> None:
    """Refuse an adapter whose weights are not those of the model's layers that its config names.

    The model and the adapter's layers are built without memory for weights. A pair that was
    accepted is not checked again; `weights` is the digest of the model's weights.

    Raises:
        ModelError: It names the weight and both shapes.
    """
    import torch
    from peft import get_peft_model, get_peft_model_state_dict

    location = adapter.folder.name
    stored = read_adapter_shapes(adapter.folder / WEIGHTS, location)
    model = build_empty(source)
    try:
        config = peft_config(adapter, [name for name, _ in model.named_modules()])
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            adapted: Any = get_peft_model(model, config, low_cpu_mem_usage=True)
        needed = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        message = " ".join(str(error).split())[:300]
        raise ModelError(
            f"adapter={location} does not fit {source.name} ({message}): steer the model that it "
            "was trained on"
        ) from None
    for name in sorted(stored.keys() | needed.keys()):
        if name not in needed:
            raise ModelError(
                f"adapter={location} holds {name}, for which {source.name} has no layer that its "
                "target_modules name: steer the model that it was trained on"
            )
        if name not in stored:
            raise ModelError(
                f"adapter={location} lacks {name}, which its target_modules name: download or "
                "train it again"
            )
        if stored[name] != tuple(needed[name].shape):
            raise ModelError(
                f"adapter={location} stores {name} as {list(stored[name])}, but {source.name} and "
                f"its {CONFIG} need {list(needed[name].shape)}: steer the model that it was "
                "trained on"
            )


def peft_config(adapter: Adapter, modules: Sequence[str]) -> "LoraConfig":
    """The config of an adapter for peft, without any regular expression of the file's.

    Those that it has are matched here, within a second, since peft would match them without bound.

    Args:
        adapter: The adapter.
        modules: Names of the modules of the model, without adapters.

    Raises:
        ModelError: A pattern is none, or takes longer.
    """
    from peft import LoraConfig

    config: Any = LoraConfig.from_pretrained(str(adapter.folder))
    config.init_lora_weights = True
    # Whether the adapter is the model's is checked by its layers; peft would warn of another name.
    config.base_model_name_or_path = None
    deadline = time.monotonic() + _PATTERNS_S

    def names(option: str, pattern: str) -> list[str]:
        return _matching(pattern, modules, deadline, f"{option} of adapter={adapter.folder.name}")

    for option in ("target_modules", "exclude_modules"):
        value = getattr(config, option)
        if isinstance(value, str) and value != "all-linear":
            setattr(config, option, names(option, value))
    for option in ("rank_pattern", "alpha_pattern"):
        values = getattr(config, option) or {}
        if not all(_PLAIN.fullmatch(key) for key in values):
            # The first pattern that matches a module counts.
            pairs = [(key, names(option, rf"(.*\.)?({key})")) for key in reversed(values)]
            setattr(config, option, {name: values[key] for key, names in pairs for name in names})
    layers = config.layers_pattern or []
    for text in [layers] if isinstance(layers, str) else layers:
        if not _PLAIN.fullmatch(text):
            raise ModelError(
                f"layers_pattern={text[:80]!r} of adapter={adapter.folder.name} is not supported: "
                "give the name of a list of blocks, as layers"
            )
    assert isinstance(config, LoraConfig)
    return config


def _matching(pattern: str, names: Sequence[str], deadline: float, where: str) -> list[str]:
    import regex  # unlike re, it has a timeout

    try:
        compiled = regex.compile(pattern)
        return [
            name
            for name in names
            if compiled.fullmatch(name, timeout=max(deadline - time.monotonic(), 1e-3))
        ]
    except TimeoutError:
        reason = "takes too long to match"
    except regex.error as error:
        reason = f"is not a regular expression ({error})"
    raise ModelError(f"{where} {reason} ({pattern[:80]}): name the layers in a list")
