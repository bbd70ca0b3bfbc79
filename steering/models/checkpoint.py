"""Whether a checkpoint holds the weights that its config describes, before any of them is read.

The model is built without memory for its weights (on torch's `meta` device) and loaded there:
transformers then says which weights are missing, left over or of another shape.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from steering.models.source import ModelError, ModelSource, readable

if TYPE_CHECKING:
    from torch import nn

_NAMED = 3
# Weights that transformers reports as left over, though they are left out on purpose: rotary tables
# and masks of old checkpoints, draft heads, and the towers of multimodal checkpoints.
_LEFT_OUT = re.compile(
    r"(^|\.)(mtp\w*|visual|vision\w*|audio\w*|multi_modal_projector|mm_projector|embed_(vision|audio)"
    r"|talker|token2wav|code2wav)\.|(rotary_emb\.|(^|\.))(original_)?inv_freq$|(^|\.)position_ids$"
    r"|\.(attn|attention)\.(masked_)?bias$|\._extra_state$"
)
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def check_weights(auto: Any, source: ModelSource, options: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not those that its config describes; reads none.

    Args:
        auto: The class that loads the model.
        source: The model.
        options: Further arguments of its `from_pretrained`.

    Raises:
        ModelError: It names the weights that are missing, left over, or of another shape.
    """
    with silence(), readable(source):
        model, report = auto.from_pretrained(
            source.location,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    refuse_unfit(model, report, source)


def refuse_unfit(model: "nn.Module", report: Mapping[str, Any], source: ModelSource) -> None:
    """Refuse a model by transformers' report of its loading.

    Raises:
        ModelError: It names the weights that are missing, left over, or of another shape.
    """
    name = type(model).__name__
    config = "config.json" if source.gguf is None else "metadata"
    missing, unexpected = sorted(report["missing_keys"]), _left_over(model, report)
    if prefix := _prefix(missing, unexpected):
        raise ModelError(
            f"{source.location} lacks the weights of {name} by name: they have a wrapper's prefix "
            f"({unexpected[0]}). Save the model inside the wrapper, without the prefix {prefix}"
        )
    for key, stored, described in sorted(report["mismatched_keys"], key=str):
        size = ", as vocab_size" if "emb" in key or "head" in key else ""
        raise ModelError(
            f"size mismatch: {source.location} stores {key} as {list(stored)}, but its {config} "
            f"describes {list(described)}: correct the {config}{size}, or give the checkpoint "
            "that it describes"
        )
    if missing:
        raise ModelError(
            f"{source.location} lacks {len(missing)} of the weights of {name} ({_some(missing)}), "
            f"which would be random. Give a complete checkpoint, with the {config} that belongs "
            "to it"
        )
    if unexpected:
        raise ModelError(
            f"{source.location} holds {len(unexpected)} weights that {name} has no place for "
            f"({_some(unexpected)}): its {config} describes another model, for instance with "
            f"fewer blocks. Give the {config} that belongs to these weights, or leave them out"
        )


def _left_over(model: "nn.Module", report: Mapping[str, Any]) -> list[str]:
    """The stored weights that the model has no place for and that are not left out on purpose."""
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    drafts = config.to_dict().get("num_nextn_predict_layers") or 0
    parts = {name for name, _ in model.named_modules()}
    packed = getattr(model, "hf_quantizer", None) is not None

    def on_purpose(key: str) -> bool:
        if _LEFT_OUT.search(key) or (packed and key.rpartition(".")[0] in parts):
            return True
        block = _BLOCK.search(key)
        return block is not None and 0 <= int(block[1]) - config.num_hidden_layers < drafts

    return sorted(key for key in report["unexpected_keys"] if not on_purpose(key))


def _prefix(missing: list[str], unexpected: list[str]) -> str:
    """What stands before every name in the file and not in the model; empty for none."""
    for key in unexpected:
        for name in missing:
            if key.endswith(f".{name}"):
                return key.removesuffix(name)
    return ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)


@contextmanager
def silence() -> Iterator[None]:
    """No progress bar and no report of transformers, whose content our error says."""
    from transformers import modeling_gguf_pytorch_utils as dequantization
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bar = dequantization.tqdm
    # Its progress bar is the only one that no setting of transformers disables.
    vars(dequantization)["tqdm"] = partial(bar, disable=True)
    try:
        yield
    finally:
        vars(dequantization)["tqdm"] = bar
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
