"""Adapters of small random models, as peft saves them."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from steering.models import find_model, read_shape, weights_digest
from steering.models.adapters import Adapter, find_adapter

# Every linear layer of the blocks of any family here.
LAYERS = r".*\.layers\.\d+\..*(proj|proj_\w+)"


def save_adapter(model: Path, out: Path, seed: int = 0, size: float = 0.2, **options: Any) -> Path:
    """Save a random LoRA of a model; `size` is the standard deviation of its lora_B."""
    base = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LAYERS, **options}
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=size)
    adapted.save_pretrained(out)
    # As one that was trained elsewhere: nothing of this machine.
    change_config(out, base_model_name_or_path="someone/model")
    return out


def change_config(folder: Path, **values: Any) -> None:
    """Change values of the adapter's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def adapter_at(model: Path, location: str | Path, scale: float = 1.0) -> Adapter:
    """What a condition makes of an adapter's folder."""
    source = find_model(str(model))
    return find_adapter(str(location), source, read_shape(source), weights_digest(source), scale)


def blocks(model: Any) -> Any:
    """The transformer blocks of a plain or a peft model."""
    return next(m for n, m in model.named_modules() if n.endswith("layers"))


def peft_alone(model: Path, adapter: Path) -> PeftModel:
    """The finetuned model as peft loads it, with nothing of ours."""
    base = AutoModelForCausalLM.from_pretrained(model)
    loaded = PeftModel.from_pretrained(base, adapter)
    assert isinstance(loaded, PeftModel)
    return loaded.eval()
