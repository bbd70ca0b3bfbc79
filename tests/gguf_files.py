"""GGUF files of tiny random models, written as llama.cpp's converter writes those of large ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tiny_models import TEMPLATE, save_tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

# The names that llama.cpp has for families, and for the numbers in their configs.
ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
NUMBERS = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "vocab_size": "vocab_size",
}
NORMAL, CONTROL = 1, 3


def save_pair(folder: Path, family: str = "llama", **changed: Any) -> tuple[Path, Path]:
    """A tiny model as a folder, and as a GGUF file of the same float32 values."""
    words = _tokenizer()
    save_tiny(folder, family, vocab_size=len(words), **changed)
    words.save_pretrained(folder)
    return folder, write_gguf(folder, folder.with_suffix(".gguf"))


def _tokenizer() -> PreTrainedTokenizerFast:
    """Tokens of bytes, and one of two: a GGUF file has merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|end|>", "<|pad|>", "<|start|>", *alphabet, "th"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    bytes_only = Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        bos_token="<|start|>",
        chat_template=TEMPLATE,
    )


def write_gguf(
    folder: Path,
    path: Path,
    quantization: gguf.GGMLQuantizationType | None = None,
    metadata: Mapping[str, Any] | None = None,
    left_out: str = "",
) -> Path:
    """Write a folder's model as a GGUF file.

    Args:
        folder: The model.
        path: The file.
        quantization: Of the matrices; None for float32.
        metadata: Values that differ, by key; None leaves the key out.
        left_out: Beginning of the names of tensors that are left out.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, words = model.config, AutoTokenizer.from_pretrained(folder)
    architecture = ARCHITECTURES[config.model_type]
    facts: dict[str, Any] = {"general.name": "Tiny"}
    for name, key in NUMBERS.items():
        if getattr(config, name, None) is not None:
            facts[f"{architecture}.{key}"] = getattr(config, name)
    facts[f"{architecture}.rope.freq_base"] = float(config.rope_parameters["rope_theta"])
    state = json.loads(words.backend_tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    special = set(words.all_special_tokens)
    facts |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if t in special else NORMAL for t in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in state["merges"]],
        "tokenizer.ggml.bos_token_id": words.bos_token_id,
        "tokenizer.ggml.eos_token_id": words.eos_token_id,
        "tokenizer.ggml.padding_token_id": words.pad_token_id,
        "tokenizer.chat_template": words.chat_template,
    }
    facts |= dict(metadata or {})
    writer = gguf.GGUFWriter(path, facts.pop("general.architecture", architecture))
    for key, value in facts.items():
        if value is not None:
            _add(writer, key, value)
    names = gguf.get_tensor_name_map(_arch(architecture), config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        tied = name == "lm_head.weight" and config.tie_word_embeddings
        if known is None or tied or (left_out and known.startswith(left_out)):
            continue
        values = _as_stored(tensor, name, config).numpy()
        if quantization is not None and values.ndim == 2:
            packed = gguf.quantize(values, quantization)
            writer.add_tensor(known, packed, raw_dtype=quantization)
        else:
            writer.add_tensor(known, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _as_stored(tensor: torch.Tensor, name: str, config: Any) -> torch.Tensor:
    """A weight as llama.cpp has it: of a Llama, rotary pairs stand side by side."""
    if config.model_type == "llama" and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_" in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape).contiguous()
    return tensor.contiguous()


def _arch(name: str) -> gguf.MODEL_ARCH:
    return next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        return writer.add_array(key, value)
    kinds = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
    return kinds[type(value)](key, value)


def dequantized(folder: Path, quantization: gguf.GGMLQuantizationType) -> dict[str, torch.Tensor]:
    """The weights of a folder after a round trip through a quantization of GGML."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 2:
            # A row is quantized in blocks, whatever the order of the rows.
            packed = gguf.quantize(tensor.numpy().astype(np.float32), quantization)
            tensor = torch.from_numpy(gguf.dequantize(packed, quantization))
        weights[name] = tensor
    return weights
