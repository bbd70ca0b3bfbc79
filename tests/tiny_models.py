"""Tiny random models of several families, saved as folders that anyone could have saved."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5TextConfig,
)

END, PAD, START = "<|end|>", "<|pad|>", "<|start|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
WIDTH, LAYERS = 32, 4
_SHARED = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "bos_token_id": 2,
    # Large enough that neighbouring tokens get clearly different logits.
    "initializer_range": 0.2,
}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


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


def save_tiny(folder: Path, family: str, seed: int = 0, layers: int = LAYERS) -> Path:
    """Save a random model of a family, with its tokenizer; returns the folder."""
    words = tokenizer()
    shared = {**_SHARED, "vocab_size": len(words), "num_hidden_layers": layers}
    torch.manual_seed(seed)
    model: torch.nn.Module
    if family == "qwen3.5":
        model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**shared, **_LINEAR))
    elif family == "qwen3.5-multimodal":
        vision = {
            "depth": LAYERS,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        }
        config = Qwen3_5Config(text_config={**shared, **_LINEAR}, vision_config=vision)
        model = Qwen3_5ForConditionalGeneration(config)
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shared))
    elif family == "gemma3":
        # A window shorter than the prompts, so that sliding attention matters.
        model = Gemma3ForCausalLM(Gemma3TextConfig(**shared, sliding_window=8))
    else:
        raise ValueError(family)
    model.generation_config.eos_token_id = 0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
