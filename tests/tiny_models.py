"""Tiny random models of many families, saved as folders that anyone could have saved."""

from pathlib import Path
from typing import Any

import torch
from model_families import FAMILIES, LAYERS, REFUSED, SHARED, WIDTH
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)

__all__ = ["END", "LAYERS", "START", "TEMPLATE", "WIDTH", "save_tiny", "tokenizer"]

END, PAD, START = "<|end|>", "<|pad|>", "<|start|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes: it can read and write anything."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([END, PAD, START, *alphabet])}
    bytes_only = Tokenizer(models.BPE(vocabulary, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        eos_token=END,
        pad_token=PAD,
        bos_token=START,
        chat_template=TEMPLATE,
    )


def save_tiny(
    folder: Path, family: str, seed: int = 0, layers: int = LAYERS, **changed: Any
) -> Path:
    """Save a random model of a family, with its tokenizer; returns the folder.

    Args:
        folder: Where to.
        family: One of `FAMILIES` or `REFUSED`.
        seed: Of the weights.
        layers: Number of blocks.
        **changed: What the config of the text model says otherwise.
    """
    words = tokenizer()
    made = FAMILIES.get(family) or REFUSED[family][0]
    config_class = CONFIG_MAPPING[made.config]
    settings = {
        **SHARED,
        "vocab_size": len(words),
        "num_hidden_layers": layers,
        **made.own,
        **changed,
    }
    shared = {name: value for name, value in settings.items() if value is not None}
    if made.vision is None:
        config = config_class(**shared)
    else:
        config = config_class(text_config=shared, vision_config=dict(made.vision))
    torch.manual_seed(seed)
    auto = AutoModelForImageTextToText if made.vision is not None else AutoModelForCausalLM
    model = auto.from_config(config)
    model.generation_config.eos_token_id = 0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
