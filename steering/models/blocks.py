"""Where a model can be steered: its list of transformer blocks, and the MLP of a block.

Found by structure and by the names in use; where those leave a choice, the user makes it.
"""

import inspect
import re
from typing import TYPE_CHECKING

from steering.models.source import ModelError

if TYPE_CHECKING:
    from torch import nn

# What transformers and vLLM call the MLP of a block, or a part of it.
_MLP_NAMES = {
    "mlp", "mlps", "mlp_block", "feed_forward", "feedforward", "ffn", "ff",
    "moe", "block_sparse_moe", "experts", "shared_expert", "shared_experts", "shared_mlp",
    "residual_mlp", "dense_mlp",
}  # fmt: skip
# Of a part with a name that says nothing, such as `mixer`.
_MLP_CLASS = re.compile(r"(mlp|moe|ffn|feedforward|experts)(block|layer)?$", re.IGNORECASE)
# The two matrices of an MLP that is no module (OPT, XGLM); the output of the second is the MLP's.
_LOOSE_MLP = ("fc1", "fc2")


def find_blocks(model: "nn.Module", num_layers: int, path: str | None = None) -> str:
    """Path of the list of transformer blocks.

    It is the module list whose length is the depth in the config; of several (a vision tower of the
    same depth), the one under a `language_model`.

    Args:
        model: The model.
        num_layers: The depth in its config.
        path: The list, if the user names it.

    Raises:
        ModelError: No module list, or not the named one, has that length; or several have it.
    """
    from torch.nn import ModuleList

    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, ModuleList)
    }
    all_lists = ", ".join(f"{name} ({len(module)})" for name, module in lists.items()) or "none"
    if path is not None:
        if path not in lists or len(lists[path]) != num_layers:
            raise ModelError(
                f"blocks={path} is not a list of {num_layers} blocks of {type(model).__name__}, "
                f"whose module lists are: {all_lists}"
            )
        return path
    # Lists of single layers (norms, embeddings) and of experts within a block are not blocks.
    candidates = [
        name
        for name, module in lists.items()
        if len(module) == num_layers
        and all(any(block.children()) for block in module)
        and not any(name.startswith(f"{other}.") for other in lists)
    ]
    if not candidates:
        raise ModelError(
            f"{type(model).__name__} has no list of {num_layers} blocks to steer; its module lists "
            f"are: {all_lists}. To use one of them, name it, as in -M blocks=model.layers; its "
            "length must be the depth in the config"
        )
    of_text = [name for name in candidates if "language_model" in name] or candidates
    if len(of_text) > 1:
        raise ModelError(
            f"{type(model).__name__} has several lists of {num_layers} blocks: "
            f"{', '.join(of_text)}. Name the one to steer, as in -M blocks={of_text[0]}"
        )
    return of_text[0]


def find_mlp(block: "nn.Module", path: str | None = None) -> str:
    """Path of the MLP (or mixture of experts) in a block, whose output joins the residual stream.

    Args:
        block: A transformer block.
        path: The part, if the user names it.

    Raises:
        ModelError: There is none, or not the named one; several parts could be it; or its output is
            the residual stream itself.
    """
    kind, parts = type(block).__name__, dict(block.named_children())
    all_parts = ", ".join(f"{name} ({type(part).__name__})" for name, part in parts.items())
    if path is not None:
        if path not in dict(block.named_modules()) or not path:
            raise ModelError(f"mlp={path} is not a part of {kind}, whose parts are: {all_parts}")
        return path
    candidates = [
        name
        for name, part in parts.items()
        if (name in _MLP_NAMES or _MLP_CLASS.search(type(part).__name__))
        # vLLM packs matrices for CPUs and leaves empty parameters in their place.
        and any(weights.ndim > 1 or not weights.numel() for weights in part.parameters())
    ]
    if not candidates and all(name in parts for name in _LOOSE_MLP):
        return _LOOSE_MLP[-1]
    if not candidates:
        raise ModelError(
            f"{kind} has no part that is known as its MLP; its parts are: {all_parts}. Use "
            "site=resid_post or resid_pre, or name the part, as in -M mlp=feed_forward"
        )
    if len(candidates) > 1:
        raise ModelError(
            f"site=mlp_out: {' and '.join(candidates)} of {kind} could each be its MLP. Name the "
            f"one to steer, as in -M mlp={candidates[0]}, or use site=resid_post"
        )
    [name] = candidates
    if "residual" in inspect.signature(parts[name].forward).parameters:
        inside = ", ".join(f"{name}.{part}" for part, _ in parts[name].named_children())
        raise ModelError(
            f"site=mlp_out: {type(parts[name]).__name__} adds the residual stream to its output. "
            f"Use site=resid_post, or name the part within that ends the MLP, as in -M mlp={name}."
            f"PART; there are: {inside}"
        )
    return name
