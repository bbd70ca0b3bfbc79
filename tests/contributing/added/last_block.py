"""A finetuning method that is added to a copy of the project."""

from pydantic import Field

from steering.training.methods import FinetuningMethod


class LastBlock(FinetuningMethod):
    """LoRA on the linear layers of the last block."""

    name = "last_block"
    summary = "LoRA on the last block only"
    published_rate, toy_rate = 1e-3, 1e-3

    width: int = Field(default=2, ge=1, description="rank of each layer's change")

    def prepare(self, loaded, recipe):
        """The model with adapters on its last block."""
        from steering.training.adapter_training import add_adapter, linear_layers

        last = f"{loaded.blocks}.{loaded.shape.num_layers - 1}."
        layers = [path for path in linear_layers(loaded) if path.startswith(last)]
        return add_adapter(
            loaded, layers, rank=self.width, alpha=2.0, dropout=0.0, method=self.name
        )
