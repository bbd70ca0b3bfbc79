"""Where a model can be steered: its list of transformer blocks, and the MLP of a block.

Found by rules that hold for every tested family, not by a table of names.
"""

from typing import TYPE_CHECKING

from steering.models.source import ModelError

if TYPE_CHECKING:
    from torch import nn

_MLP = "mlp"
_ATTENTION = ("attn", "attention")


def find_blocks(model: "nn.Module", num_layers: int, path: str | None = None) -> str:
    """Path of the list of transformer blocks.

    It is the module list whose length is the depth in the config; of several (a vision tower of the
    same depth), the one under a `language_model`, else the first; `path`, if the user names one.

    Raises:
        ModelError: No module list, or not the named one, has that length.
    """
    from torch.nn import ModuleList

    lists = {
        name: len(module)
        for name, module in model.named_modules()
        if isinstance(module, ModuleList)
    }
    all_lists = ", ".join(f"{name} ({length})" for name, length in lists.items()) or "none"
    if path is not None:
        if lists.get(path) != num_layers:
            raise ModelError(
                f"blocks={path} is not a list of {num_layers} blocks of {type(model).__name__}, "
                f"whose module lists are: {all_lists}"
            )
        return path
    candidates = [name for name, length in lists.items() if length == num_layers]
    if not candidates:
        raise ModelError(
            f"{type(model).__name__} has no list of {num_layers} blocks to steer; its module lists "
            f"are: {all_lists}. To use one of them, name it, as in -M blocks=model.layers; its "
            "length must be the depth in the config"
        )
    return next((name for name in candidates if "language_model" in name), candidates[0])


def find_mlp(block: "nn.Module") -> str:
    """Name of the MLP (or mixture of experts) in a block.

    It is called `mlp`, or else is the last part with weight matrices that is not attention.

    Raises:
        ModelError: There is none.
    """
    parts = dict(block.named_children())
    if _MLP in parts:
        return _MLP
    candidates = [
        name
        for name, part in parts.items()
        if not any(word in name for word in _ATTENTION)
        and any(weights.ndim > 1 for weights in part.parameters())
    ]
    if not candidates:
        raise ModelError(
            f"{type(block).__name__} has no MLP, its parts are {', '.join(parts)}: use "
            "site=resid_post or resid_pre"
        )
    return candidates[-1]
