"""Adapters inside of a loaded model: each row of a batch with its own, or with none.

peft puts its layers into the one model, where they do nothing by themselves; a pass says which row
has which adapter. Runs on the model's thread.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steering.models import ModelError
from steering.models.adapters import Adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

# peft's own word for a row without an adapter.
_NONE = "__base__"

# peft asks transformers for it by an old name. The filter is the process's, since setting one for a
# while is not safe beside other threads.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")


class Adapters:
    """The adapters of one model; the first row that has one brings it in."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Take note of the model, which is left as it is until an adapter comes."""
        self._model = model
        self._peft: PeftModel | None = None
        self._held: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._hooked: set[int] = set()
        self._rows: list[str] | None = None

    def load(self, adapter: Adapter | None) -> None:
        """Bring an adapter into the model, if it is not there yet.

        Raises:
            ModelError: It does not fit, is damaged, or would change nothing.
        """
        if adapter is None or adapter.name in self._held:
            return
        if adapter.name in self._failed:
            raise self._failed[adapter.name]
        try:
            self._load(adapter)
        except Exception as error:
            told = " ".join(str(error).split())[:300]
            self._failed[adapter.name] = (
                error
                if isinstance(error, ModelError)
                else ModelError(
                    f"the adapter {adapter.folder.name} can't be put into this model "
                    f"({type(error).__name__}: {told}): give one that was trained on it"
                )
            )
            raise self._failed[adapter.name] from None
        self._held.add(adapter.name)

    def _load(self, adapter: Adapter) -> None:
        from peft import PeftModel, get_peft_model_state_dict
        from peft.tuners.lora import LoraLayer
        from safetensors.torch import load_file

        name, folder = adapter.name, str(adapter.folder)
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self._model, folder, adapter_name=name)
            else:
                self._peft.load_adapter(folder, adapter_name=name)
        finally:
            # Also after a failure half-way: what peft has made active would act on every row.
            self._rest()
        stored = load_file(adapter.folder / "adapter_model.safetensors")
        held = get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)
        if missing := held.keys() ^ stored.keys():
            raise ModelError(
                f"the adapter {adapter.folder.name} and this model do not fit: {len(missing)} "
                f"weights stand in one of them only ({min(missing)}, ...)"
            )
        if not any(held[key].any() for key in held if "lora_B" in key or "embedding_B" in key):
            raise ModelError(
                f"the adapter {adapter.folder.name} changes nothing: all its lora_B are zero. "
                "Train it, or leave adapter= out for the baseline"
            )
        for layer in self._peft.modules():
            if isinstance(layer, LoraLayer) and name in layer.scaling:
                layer.scaling[name] *= adapter.scale

    def _rest(self) -> None:
        """No adapter acts by itself; the layers learn of each pass's rows as they are called."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in self._model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.set_adapter([], inference_mode=True)
                if id(layer) not in self._hooked:
                    self._hooked.add(id(layer))
                    layer.register_forward_pre_hook(self._tell, with_kwargs=True)

    def _tell(
        self, layer: "nn.Module", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return None if self._rows is None else (args, kwargs | {"adapter_names": self._rows})

    @contextmanager
    def acting(self, rows: Sequence[Adapter | None]) -> Iterator[None]:
        """While a pass runs, each of its rows has its adapter."""
        if any(rows):
            self._rows = [_NONE if adapter is None else adapter.name for adapter in rows]
        try:
            yield
        finally:
            self._rows = None
