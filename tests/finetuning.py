"""Adapters of tiny models, trained as the command trains them."""

from pathlib import Path
from typing import Any

from building import TARGET
from safetensors.torch import load_file
from torch import Tensor

from steering.models import find_model, read_shape, weights_digest
from steering.targets import Target
from steering.training.finetune import train_adapter
from steering.training.progress import Progress
from steering.training.recipe import FinetuningRecipe, make_finetuning_recipe


def recipe_for(folder: Path, target: Target = TARGET, **options: Any) -> FinetuningRecipe:
    """The recipe that a user's options come to; what is no option of all methods is a setting."""
    common = ("method", "layer", "dtype", "seed", "shuffle_labels")
    source = find_model(str(folder))
    return make_finetuning_recipe(
        source,
        read_shape(source),
        target,
        weights=weights_digest(source),
        settings={name: value for name, value in options.items() if name not in common},
        **{name: value for name, value in options.items() if name in common},
    )


def train(
    folder: Path,
    out: Path,
    target: Target = TARGET,
    progress: Progress = lambda *_: None,
    **options: Any,
) -> Path:
    """Train and write every training epoch; returns the last one's folder."""
    recipe = recipe_for(folder, target, **options)
    source = find_model(str(folder))
    train_adapter(source, recipe, target, recipe.outputs(out), progress, device="cpu")
    return out


def tensors(folder: Path) -> dict[str, Tensor]:
    """What the adapter holds."""
    return load_file(folder / "adapter_model.safetensors")
