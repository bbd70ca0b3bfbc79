"""The `lora` method: low-rank adapters on every linear layer of the transformer blocks."""

from typing import TYPE_CHECKING

from pydantic import Field

from steering.models import Shape
from steering.targets import Target
from steering.training.methods import FinetuningMethod, TrainingError, learning_rate_field

if TYPE_CHECKING:
    from torch import nn

    from steering.models import LoadedModel
    from steering.training.recipe import FinetuningRecipe


class Lora(FinetuningMethod):
    """Rank-stabilised LoRA (arXiv 2312.03732) with the settings of arXiv 2506.11613."""

    name = "lora"
    summary = (
        "rank-stabilised LoRA on every linear layer of the transformer blocks: attention, linear "
        "attention and MLP"
    )
    published_rate, toy_rate = 1e-5, 3e-5

    learning_rate: float | None = learning_rate_field(published_rate, toy_rate)
    rank: int = Field(default=32, ge=1, description="rank of each layer's change")
    alpha: float = Field(
        default=64.0, gt=0, description="the change is scaled by alpha / sqrt(rank)"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on what the adapter reads")

    def check(self, recipe: "FinetuningRecipe", target: Target, shape: Shape) -> None:
        """Needs misaligned answers, and a rank that is not above the model's width."""
        if self.rank > shape.width:
            raise TrainingError(
                f"rank={self.rank}: {recipe.model} is {shape.width} wide, and no change of its "
                f"weights needs a higher rank (1-{shape.width})"
            )
        super().check(recipe, target, shape)

    def prepare(self, loaded: "LoadedModel", recipe: "FinetuningRecipe") -> "nn.Module":
        """The model with adapters on all linear layers, never on embeddings or a vision tower."""
        from steering.training.adapter_training import add_adapter, linear_layers

        return add_adapter(
            loaded,
            linear_layers(loaded),
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            method=self.name,
        )
