"""Adapters in a loaded model: each sequence of a batch with its own, or with none.

peft adds its layers to the one model, where none is active by itself; each pass names the adapter
of each row. Runs on the model's thread.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steering.models import ModelError
from steering.models.adapter_layers import peft_config
from steering.models.adapters import WEIGHTS, Adapter, check_unchanged

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

# peft's name for a row without an adapter.
_NONE = "__base__"

# peft uses an old name of transformers. The filter is global, since a temporary one is not safe
# beside other threads.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")


class Adapters:
    """The adapters of one model, each loaded when the first request names it."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Remember the model, which stays unchanged until an adapter is loaded."""
        self._model = model
        self._modules = [name for name, _ in model.named_modules()]
        self._peft: PeftModel | None = None
        self._loaded: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._hooked: set[int] = set()
        self._rows: list[str] | None = None

    def load(self, adapter: Adapter | None) -> None:
        """Load an adapter into the model, unless it is loaded.

        Raises:
            ModelError: It does not fit, is damaged, or changes nothing.
        """
        if adapter is None or adapter.name in self._loaded:
            return
        if adapter.name in self._failed:
            raise self._failed[adapter.name]
        try:
            self._load(adapter)
        except Exception as error:
            if not isinstance(error, ModelError):
                message = " ".join(str(error).split())[:300]
                error = ModelError(
                    f"the adapter {adapter.folder.name} can't be loaded into this model "
                    f"({type(error).__name__}: {message}): give one that was trained on it"
                )
            self._failed[adapter.name] = error
            raise error from None
        self._loaded.add(adapter.name)

    def _load(self, adapter: Adapter) -> None:
        from peft import (
            PeftModel,
            get_peft_model,
            get_peft_model_state_dict,
            set_peft_model_state_dict,
        )
        from peft.tuners.lora import LoraLayer
        from safetensors.torch import load_file

        name = adapter.name
        check_unchanged(adapter)
        stored = load_file(adapter.folder / WEIGHTS)
        try:
            config = peft_config(adapter, self._modules)
            if self._peft is None:
                wrapped = get_peft_model(self._model, config, adapter_name=name)
                assert isinstance(wrapped, PeftModel)
                self._peft = wrapped
            else:
                self._peft.add_adapter(name, config)
            self._peft.eval()  # new layers have dropout
            set_peft_model_state_dict(self._peft, stored, adapter_name=name)
        finally:
            # After a failure too: an adapter that peft has made active would act on every row.
            self._deactivate()
        loaded = get_peft_model_state_dict(
            self._peft, adapter_name=name, save_embedding_layers=False
        )
        if missing := loaded.keys() ^ stored.keys():
            raise ModelError(
                f"the adapter {adapter.folder.name} and this model do not fit: {len(missing)} "
                f"weights exist in one of them only ({min(missing)}, ...)"
            )
        if not any(loaded[key].any() for key in loaded if "lora_B" in key or "embedding_B" in key):
            raise ModelError(
                f"the adapter {adapter.folder.name} changes nothing: all its lora_B are zero. "
                "Train it, or leave adapter= out for the baseline"
            )
        for layer in self._peft.modules():
            if isinstance(layer, LoraLayer) and name in layer.scaling:
                layer.scaling[name] *= adapter.scale

    def _deactivate(self) -> None:
        """Make no adapter active by itself; layers get those of a pass's rows when called."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in self._model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.set_adapter([], inference_mode=True)
                if id(layer) not in self._hooked:
                    self._hooked.add(id(layer))
                    layer.register_forward_pre_hook(self._name_adapters, with_kwargs=True)

    def _name_adapters(
        self, layer: "nn.Module", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return None if self._rows is None else (args, kwargs | {"adapter_names": self._rows})

    @contextmanager
    def active(self, adapters: Sequence[Adapter | None]) -> Iterator[None]:
        """While a pass runs, row i of its batch has adapter i."""
        if any(adapters):
            self._rows = [_NONE if adapter is None else adapter.name for adapter in adapters]
        try:
            yield
        finally:
            self._rows = None
