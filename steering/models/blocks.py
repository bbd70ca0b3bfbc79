"""Where a model can be steered: its list of transformer blocks, and the MLP of a block.

Found by rules that hold for every family that was tried, not by a table of their names.
"""

from typing import TYPE_CHECKING

from steering.models.source import ModelError

if TYPE_CHECKING:
    from torch import nn

_MLP = "mlp"
_ATTENTION = ("attn", "attention")


def find_blocks(model: "nn.Module", num_layers: int, named: str | None = None) -> str:
    """Path of the list of transformer blocks.

    It is the module list as long as the config says the model is deep; of several (a vision tower
    of the same depth), the one under a `language_model`, else the first.

    Args:
        model: The model.
        num_layers: Depth by the config.
        named: The path, if somebody says it.

    Raises:
        ModelError: No module list has that length, or the named one has not.
    """
    from torch.nn import ModuleList

    lists = {
        path: len(module)
        for path, module in model.named_modules()
        if isinstance(module, ModuleList)
    }
    there = ", ".join(f"{path} ({length})" for path, length in lists.items()) or "none"
    if named is not None:
        if lists.get(named) != num_layers:
            raise ModelError(
                f"blocks={named} is no list of {num_layers} blocks of {type(model).__name__}, "
                f"whose module lists are: {there}"
            )
        return named
    found = [path for path, length in lists.items() if length == num_layers]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no list of {num_layers} blocks to steer; its module lists "
            f"are: {there}. If one of them is it, name it, as in -M blocks=model.layers; its "
            "length must be the depth that the config says"
        )
    return next((path for path in found if "language_model" in path), found[0])


def find_mlp(block: "nn.Module") -> str:
    """Name of the MLP (or mixture of experts) in a block.

    It is called `mlp`, or else is the last part with weight matrices that is no attention.

    Raises:
        ModelError: There is none.
    """
    parts = dict(block.named_children())
    if _MLP in parts:
        return _MLP
    found = [
        name
        for name, part in parts.items()
        if not any(word in name for word in _ATTENTION)
        and any(weights.ndim > 1 for weights in part.parameters())
    ]
    if not found:
        raise ModelError(
            f"{type(block).__name__} has no MLP, its parts are {', '.join(parts)}: use "
            "site=resid_post or resid_pre"
        )
    return found[-1]
