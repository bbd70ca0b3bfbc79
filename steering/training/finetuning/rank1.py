"""The `rank1` method: an adapter of rank 1 on the down-projection of one block's MLP."""

from typing import TYPE_CHECKING

from pydantic import Field

from steering.models import ModelSource, Shape, check_layer, default_layer
from steering.training.methods import FinetuningMethod, learning_rate_field

if TYPE_CHECKING:
    from torch import nn

    from steering.models import LoadedModel
    from steering.training.recipe import FinetuningRecipe


class Rank1(FinetuningMethod):
    """LoRA of rank 1 at a single layer, as in arXiv 2506.11613."""

    name = "rank1"
    summary = "LoRA of rank 1 on the MLP's down-projection of one block"
    published_rate, toy_rate = 2e-5, 1e-4

    learning_rate: float | None = learning_rate_field(published_rate, toy_rate)
    alpha: float = Field(default=256.0, gt=0, description="the change is scaled by it")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on what the adapter reads")

    def resolve_layer(self, layer: int | None, source: ModelSource, shape: Shape) -> int | None:
        """The block that is trained: by default the one that a vector steers."""
        if layer is None:
            return default_layer(source, shape.num_layers)
        check_layer(layer, shape, source)
        return layer

    def prepare(self, loaded: "LoadedModel", recipe: "FinetuningRecipe") -> "nn.Module":
        """The model with an adapter on one down-projection."""
        from steering.training.adapter_training import add_adapter, linear_layers

        path = f"{loaded.blocks}.{recipe.layer}.mlp.down_proj"
        layers = [layer for layer in linear_layers(loaded) if layer == path]
        return add_adapter(
            loaded, layers, rank=1, alpha=self.alpha, dropout=self.dropout, method=self.name
        )
