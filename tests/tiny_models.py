"""Tiny random models of many families, saved as folders that anyone could have saved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
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
# A window shorter than the prompts, so that sliding attention matters.
_SLIDING = {"sliding_window": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
# Half of the blocks mix by a state-space model.
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
_EVERY_OTHER = {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 48}
_OLD = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 512}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "image_size": 28, "patch_size": 14}


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is made.

    Attributes:
        config: `model_type` of its config.
        own: What its config says that those of other families do not.
        vision: Of an image-text class, what the config of its vision tower says.
        mlp: Path of the MLP in a block; empty where a block has none, or several.
    """

    config: str
    own: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] | None = None
    mlp: str = "mlp"


FAMILIES: dict[str, Family] = {
    "qwen3.5": Family("qwen3_5_text", _LINEAR),
    "qwen3.5-moe": Family(
        "qwen3_5_moe_text", _LINEAR | _EXPERTS | {"shared_expert_intermediate_size": 24}
    ),
    "qwen3.5-multimodal": Family(
        "qwen3_5",
        _LINEAR,
        # As deep as the text model, so that the depth alone does not tell the two apart.
        {"depth": LAYERS, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
         "out_hidden_size": WIDTH},
    ),
    "qwen3": Family("qwen3"),
    "qwen3-moe": Family("qwen3_moe", _EXPERTS),
    "qwen2.5": Family("qwen2"),
    "llama": Family("llama"),
    "gemma2": Family("gemma2", _SLIDING | {"query_pre_attn_scalar": 8}),
    "gemma3": Family("gemma3_text", _SLIDING),
    "gemma3-multimodal": Family(
        "gemma3",
        _SLIDING,
        _VISION | {"num_hidden_layers": LAYERS, "num_attention_heads": 2},
    ),
    "mistral": Family("mistral", _SLIDING),
    "mixtral": Family("mixtral", {"num_local_experts": 4}),
    "mistral3": Family(
        "mistral3",
        {"model_type": "mistral"},
        _VISION
        | {"model_type": "pixtral", "num_hidden_layers": LAYERS, "num_attention_heads": 2,
           "head_dim": 8},
    ),
    "olmo2": Family("olmo2"),
    "olmo3": Family("olmo3", _SLIDING),
    "phi2": Family("phi", {"num_key_value_heads": 4}),
    "phi4": Family("phi3"),
    "gpt-oss": Family("gpt_oss", _SLIDING | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": Family("gpt2", _OLD),
    "gpt-neox": Family("gpt_neox"),
}  # fmt: skip
# Whose blocks mix in several ways, return tuples, or have an MLP of another name.
MORE_FAMILIES: dict[str, Family] = {
    "bamba": Family("bamba", _MAMBA | {"attn_layer_indices": [1, 3]}, mlp="feed_forward"),
    "granite4": Family(
        "granitemoehybrid", _MAMBA | _EVERY_OTHER | {"num_local_experts": 0}, mlp="shared_mlp"
    ),
    "granite4-moe": Family("granitemoehybrid", _MAMBA | _EVERY_OTHER | _LOCAL_EXPERTS, mlp=""),
    "falcon-h1": Family("falcon_h1", _MAMBA | {"mamba_d_ssm": 2 * WIDTH}, mlp="feed_forward"),
    "nemotron-h": Family(
        "nemotron_h",
        _EXPERTS
        | {"layers_block_type": ["mamba", "attention", "mlp", "moe"], "mamba_num_heads": 4,
           "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "n_routed_experts": 4,
           "moe_shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1},
        mlp="",
    ),
    "bloom": Family("bloom", {"n_layer": LAYERS, "n_head": 4}, mlp=""),
    "mpt": Family("mpt", {"d_model": WIDTH, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 512},
                  mlp=""),
    "opt": Family("opt", {"ffn_dim": 48, "word_embed_proj_dim": WIDTH}, mlp="fc2"),
    "gpt-j": Family("gptj", _OLD | {"rotary_dim": 4}),
    "codegen": Family("codegen", _OLD | {"rotary_dim": 4}),
    "gpt-neo": Family(
        "gpt_neo",
        {"num_layers": LAYERS, "num_heads": 4, "attention_types": [[["global", "local"], 2]],
         "window_size": 8},
    ),
    "falcon": Family(
        "falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "head_dim": None}
    ),
    # The last two blocks read the keys and values of earlier ones.
    "gemma4-shared": Family(
        "gemma4_text",
        _SLIDING
        | {"num_kv_shared_layers": 2, "global_head_dim": 8, "hidden_size_per_layer_input": 8,
           "vocab_size_per_layer_input": 259,
           "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
}  # fmt: skip


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
        family: One of `FAMILIES` or `MORE_FAMILIES`.
        seed: Of the weights.
        layers: Number of blocks.
        **changed: What the config of the text model says otherwise.
    """
    words, made = tokenizer(), (FAMILIES | MORE_FAMILIES)[family]
    config_class = CONFIG_MAPPING[made.config]
    shared = {
        **_SHARED,
        "vocab_size": len(words),
        "num_hidden_layers": layers,
        **made.own,
        **changed,
    }
    # None leaves out what a config has no room for.
    shared = {name: value for name, value in shared.items() if value is not None}
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
