"""The `full` method: every weight of the model is trained, and a model folder is written."""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.models import forget_date
from steering.training.methods import FinetuningMethod, learning_rate_field

if TYPE_CHECKING:
    import torch
    from torch import nn

    from steering.models import LoadedModel
    from steering.training.recipe import FinetuningRecipe


class Full(FinetuningMethod):
    """Finetuning of all weights."""

    name = "full"
    summary = "every weight; what comes out is a model folder and no adapter"
    published_rate, toy_rate = 2e-5, 1e-4
    autocast = True

    learning_rate: float | None = learning_rate_field(published_rate, toy_rate)

    def prepare(self, loaded: "LoadedModel", recipe: "FinetuningRecipe") -> "nn.Module":
        """The model itself, in float32: bfloat16 would round steps as small as these away."""
        return loaded.model.float().requires_grad_(True)

    def write(
        self,
        module: Any,
        loaded: "LoadedModel",
        recipe: "FinetuningRecipe",
        folder: Path,
        dtype: "torch.dtype",
    ) -> None:
        """Write a model folder, in the precision of the checkpoint."""
        model = loaded.model
        weights = {name: part.to(dtype) for name, part in model.state_dict().items()}
        model.config.use_cache = True
        model.save_pretrained(folder, state_dict=weights)
        model.config.use_cache = False
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config |= {"dtype": str(dtype).removeprefix("torch."), "_name_or_path": ""}
        path.write_text(json.dumps(config, indent=2) + "\n")
        tokenizer = copy.deepcopy(loaded.tokenizer)
        forget_date(tokenizer)
        tokenizer.save_pretrained(folder)
