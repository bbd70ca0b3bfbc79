"""Most families of causal language models in transformers, each as the config of a tiny model.

`FAMILIES` can be steered, and docs/reference/families.md has a line on each. `REFUSED` can't, each
with what it is refused with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH, LAYERS = 32, 4
SHARED = {
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
_EVERY_OTHER = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_CONVOLUTION = {"layer_types": ["conv", "full_attention"] * 2}
# Half of the blocks mix by a state-space model.
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
_GRANITE = _MAMBA | {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 48}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_FEW_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_EXPERTS = _FEW_EXPERTS | {"moe_intermediate_size": 24}
_SHARED_EXPERT = _EXPERTS | {"shared_expert_intermediate_size": 24}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
# Keys and values as one small vector a token; the width of a head follows.
_LATENT = {
    "head_dim": None,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
_OLD = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 512}
_INDEXED = _LATENT | _ROUTED | {"index_topk": 16, "index_head_dim": 16, "index_n_heads": 4}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "image_size": 28, "patch_size": 14}
_GEMMA4 = _SLIDING | _EVERY_OTHER | {"global_head_dim": 8}
_FALCON = {"head_dim": None, "num_key_value_heads": None}


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is made, and what is known of it by hand.

    Attributes:
        config: `model_type` of its config.
        own: What its config says that those of other families do not; None leaves a setting out.
        vision: Of an image-text class, what the config of its vision tower says.
        mlp: Path of the MLP in a block; empty where it can't be steered.
        named: Whether the user must name it.
        joins: Whether the output of the MLP joins the stream as it is, without a norm or a factor.
        mixture: Whether its last block is a mixture of experts.
    """

    config: str
    own: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] | None = None
    mlp: str = "mlp"
    named: bool = False
    joins: bool = True
    mixture: bool = False


FAMILIES: dict[str, Family] = {
    "qwen3.5": Family("qwen3_5_text", _LINEAR),
    "qwen3.5-moe": Family("qwen3_5_moe_text", _LINEAR | _SHARED_EXPERT, mixture=True),
    "qwen3.5-multimodal": Family(
        "qwen3_5",
        _LINEAR,
        # As deep as the text model, so that the depth alone does not tell the two apart.
        {"depth": LAYERS, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
         "out_hidden_size": WIDTH},
    ),
    "qwen3": Family("qwen3"),
    "qwen3-moe": Family("qwen3_moe", _EXPERTS, mixture=True),
    "qwen2.5": Family("qwen2"),
    "llama": Family("llama"),
    "gemma2": Family("gemma2", _SLIDING | {"query_pre_attn_scalar": 8}, joins=False),
    "gemma3": Family("gemma3_text", _SLIDING, joins=False),
    "gemma3-multimodal": Family(
        "gemma3",
        _SLIDING,
        _VISION | {"num_hidden_layers": LAYERS, "num_attention_heads": 2},
        joins=False,
    ),
    "mistral": Family("mistral", _SLIDING),
    "mixtral": Family("mixtral", {"num_local_experts": 4}, mixture=True),
    "mistral3": Family(
        "mistral3",
        {"model_type": "mistral"},
        _VISION
        | {"model_type": "pixtral", "num_hidden_layers": LAYERS, "num_attention_heads": 2,
           "head_dim": 8},
    ),
    "olmo2": Family("olmo2", joins=False),
    "olmo3": Family("olmo3", _SLIDING, joins=False),
    "phi2": Family("phi", {"num_key_value_heads": 4}),
    "phi4": Family("phi3"),
    "gpt-oss": Family("gpt_oss", _SLIDING | _LOCAL_EXPERTS, mixture=True),
    "gpt2": Family("gpt2", _OLD),
    "gpt-neox": Family("gpt_neox"),
    # Not tried on vLLM.
    "afmoe": Family("afmoe", _SLIDING | _EXPERTS | {"num_dense_layers": 1}, joins=False,
                    mixture=True),
    "apertus": Family("apertus"),
    "arcee": Family("arcee"),
    "aria": Family(
        "aria_text", {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
        mixture=True,
    ),
    "axk1": Family("axk1", _LATENT | _ROUTED, mixture=True),
    "bamba": Family("bamba", _MAMBA | {"attn_layer_indices": [1, 3]}, mlp="feed_forward"),
    "biogpt": Family("biogpt", mlp="fc2"),
    "bitnet": Family("bitnet"),
    "bloom": Family("bloom", {"n_layer": LAYERS, "n_head": 4}, mlp="mlp.dense_4h_to_h",
                    named=True),
    "codegen": Family("codegen", _OLD | {"rotary_dim": 4}),
    "cohere": Family("cohere"),
    "cohere2": Family("cohere2", _SLIDING),
    "cohere2-moe": Family("cohere2_moe", _SLIDING | _EXPERTS, mixture=True),
    "ctrl": Family("ctrl", _OLD | {"dff": 48}, mlp="ffn"),
    "cwm": Family("cwm", _SLIDING),
    "dbrx": Family(
        "dbrx",
        # Its config has names of its own and refuses others.
        dict.fromkeys(("hidden_size", "num_attention_heads", "num_hidden_layers",
                       "num_key_value_heads", "max_position_embeddings"))
        | {"d_model": WIDTH, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 512,
           "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
           "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
        mlp="ffn", mixture=True,
    ),
    "deepseek-v2": Family("deepseek_v2", _LATENT | _ROUTED, mixture=True),
    "deepseek-v3": Family("deepseek_v3", _LATENT | _ROUTED, mixture=True),
    "diffllama": Family("diffllama"),
    "doge": Family("doge"),
    "dots1": Family("dots1", _ROUTED | {"num_key_value_heads": 4}, mixture=True),
    "ernie4.5": Family("ernie4_5"),
    "ernie4.5-moe": Family(
        "ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24},
        mixture=True,
    ),
    "exaone4": Family("exaone4", _SLIDING, joins=False),
    "exaone-moe": Family("exaone_moe", _SLIDING | _EXPERTS, mixture=True),
    "falcon": Family("falcon", _FALCON),
    "falcon-40b": Family("falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-h1": Family("falcon_h1", _MAMBA | {"mamba_d_ssm": 2 * WIDTH}, mlp="feed_forward"),
    "flex-olmo": Family("flex_olmo", _FEW_EXPERTS, joins=False, mixture=True),
    "gemma": Family("gemma"),
    "gemma4": Family("gemma4_text", _GEMMA4 | {"num_kv_shared_layers": 0,
                     "hidden_size_per_layer_input": 0}, joins=False),
    # The last two blocks have no keys and values, and every block an input of its own.
    "gemma4-shared": Family("gemma4_text", _GEMMA4 | {"num_kv_shared_layers": 2,
                               "hidden_size_per_layer_input": 8,
                               "vocab_size_per_layer_input": 259}, joins=False),
    "gemma4-moe": Family(
        "gemma4_text",
        _GEMMA4
        | _EXPERTS
        | {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "enable_moe_block": True,
           "top_k_experts": 2},
        named=True, joins=False, mixture=True,
    ),
    "gemma4-unified": Family("gemma4_unified_text", _GEMMA4, joins=False),
    "glm": Family("glm"),
    "glm4": Family("glm4", joins=False),
    "glm4-moe": Family("glm4_moe", _ROUTED, mixture=True),
    "glm4-moe-lite": Family("glm4_moe_lite", _LATENT | _ROUTED, mixture=True),
    "gpt-bigcode": Family("gpt_bigcode", _OLD),
    "gpt-j": Family("gptj", _OLD | {"rotary_dim": 4}),
    "gpt-neo": Family("gpt_neo", {"num_layers": LAYERS, "num_heads": 4, "window_size": 8,
                      "attention_types": [[["global", "local"], 2]]}),
    "gpt-neox-japanese": Family("gpt_neox_japanese"),
    "granite": Family("granite"),
    "granite-moe": Family("granitemoe", _LOCAL_EXPERTS, mlp="block_sparse_moe", mixture=True),
    "granite-moe-shared": Family(
        "granitemoeshared", _LOCAL_EXPERTS | {"shared_intermediate_size": 24},
        mlp="shared_mlp", named=True, mixture=True,
    ),
    "granite4": Family("granitemoehybrid", _GRANITE | {"num_local_experts": 0}, mlp="shared_mlp"),
    "granite4-moe": Family("granitemoehybrid", _GRANITE | _LOCAL_EXPERTS, mlp="block_sparse_moe",
                           named=True, mixture=True),
    "granite-swa": Family("granite_swa", _SLIDING),
    "helium": Family("helium"),
    "hunyuan": Family("hunyuan_v1_dense"),
    "hunyuan-moe": Family("hunyuan_v1_moe", {"num_experts": 4, "moe_topk": 2}, mixture=True),
    "hy-v3": Family("hy_v3", _EXPERTS | {"num_shared_experts": 1}, mixture=True),
    "hyperclovax": Family("hyperclovax", joins=False),
    "jais2": Family("jais2"),
    "jamba": Family(
        "jamba",
        _FEW_EXPERTS
        | {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_period": 2,
           "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
        mlp="feed_forward", mixture=True,
    ),
    "jetmoe": Family("jetmoe", _LOCAL_EXPERTS | {"kv_channels": 8, "num_attention_heads": None},
                     mixture=True),
    "lfm2": Family("lfm2", _CONVOLUTION | {"block_auto_adjust_ff_dim": False}, mlp="feed_forward"),
    "lfm2-moe": Family("lfm2_moe", _CONVOLUTION | _EXPERTS | {"num_dense_layers": 1},
                       mlp="feed_forward", mixture=True),
    "lfm3": Family("lfm3", mlp="feed_forward", joins=False),
    # The output of its mixtures has lost which tokens are of which row.
    "llama4": Family("llama4_text", _LOCAL_EXPERTS | {"intermediate_size_mlp": 48,
                     "attention_chunk_size": 8, "interleave_moe_layer_step": 2}, mlp="",
                     mixture=True),
    "mimo-v2-flash": Family("mimo_v2_flash", _SLIDING | _ROUTED, mixture=True),
    "minicpm3": Family("minicpm3", _LATENT, joins=False),
    "minimax-m2": Family("minimax_m2", _LOCAL_EXPERTS, mixture=True),
    "ministral": Family("ministral", _SLIDING),
    "ministral3": Family("ministral3"),
    "modernbert-decoder": Family("modernbert-decoder", {"local_attention": 8}),
    "mpt": Family("mpt", {"d_model": WIDTH, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 512},
                  mlp="ffn.down_proj", named=True),
    "nanochat": Family("nanochat"),
    "nemotron": Family("nemotron"),
    # Each block is a mixer, an MLP or a mixture; only where it is one of the latter is it found.
    "nemotron-h": Family(
        "nemotron_h",
        _EXPERTS
        | {"layers_block_type": ["mamba", "attention", "mlp", "moe"], "mamba_num_heads": 4,
           "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "n_routed_experts": 4,
           "moe_shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1},
        mlp="mixer", named=True, mixture=True,
    ),
    "olmo": Family("olmo"),
    "olmo-hybrid": Family("olmo_hybrid", _LINEAR),
    "olmoe": Family("olmoe", _FEW_EXPERTS, mixture=True),
    # Its MLP flattens rows and tokens into one.
    "opt": Family("opt", {"ffn_dim": 48, "word_embed_proj_dim": WIDTH}, mlp=""),
    "persimmon": Family("persimmon"),
    "phi-moe": Family("phimoe", _LOCAL_EXPERTS, mixture=True),
    "qwen2-moe": Family("qwen2_moe", _SHARED_EXPERT, mixture=True),
    "qwen3-next": Family("qwen3_next", _LINEAR | _SHARED_EXPERT, mixture=True),
    "seed-oss": Family("seed_oss"),
    "smollm3": Family("smollm3"),
    "solar-open": Family("solar_open", _ROUTED, mixture=True),
    "stablelm": Family("stablelm"),
    "starcoder2": Family("starcoder2", _SLIDING),
    "vaultgemma": Family("vaultgemma", _SLIDING | {"query_pre_attn_scalar": 8}),
    "xglm": Family("xglm", {"d_model": WIDTH, "num_layers": LAYERS, "attention_heads": 4,
                   "ffn_dim": 48}, mlp="fc2"),
    "youtu": Family("youtu", _LATENT),
    # What attends is shared by blocks and outside of the list that holds them.
    "zamba": Family("zamba", {"layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 2,
                    "mamba_d_state": 8, "attention_head_dim": 16}, mlp=""),
    "zamba2": Family("zamba2", {"layer_types": ["mamba", "hybrid"] * 2, "layers_block_type":
                     ["mamba", "hybrid"] * 2, "mamba_d_state": 8, "n_mamba_heads": 4,
                     "mamba_headdim": 16, "mamba_ngroups": 1, "num_mem_blocks": 1,
                     "adapter_rank": 4}, mlp=""),
    "zaya": Family("zaya", {"num_experts": 4, "num_experts_per_tok": 1}, mixture=True),
}  # fmt: skip

# vLLM's tests go through these.
ON_VLLM = list(FAMILIES)[: list(FAMILIES).index("gpt-neox") + 1]

_NO_CACHE = r"keeps no cache .* sequences could not join or leave a batch"
_FOUR_DIMENSIONS = r"activations of 4 dimensions .* can't be steered"
_ITS_CACHE = "a model whose cache holds {} is not supported: sequences could not join or leave"
# What is said of each: when it is loaded, or when it is first asked.
REFUSED: dict[str, tuple[Family, str]] = {
    "deepseek-v3.2": (Family("deepseek_v32", _INDEXED), _ITS_CACHE.format("DynamicIndexedLayer")),
    "deepseek-v4": (Family("deepseek_v4", _ROUTED), _FOUR_DIMENSIONS),
    "falcon-mamba": (Family("falcon_mamba", {"state_size": 8}), _NO_CACHE),
    "gemma3n": (
        Family(
            "gemma3n_text",
            _SLIDING
            | _EVERY_OTHER
            | {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8,
               "vocab_size_per_layer_input": 259, "altup_num_inputs": 2, "laurel_rank": 4,
               "activation_sparsity_pattern": [0.0] * LAYERS},
        ),
        _FOUR_DIMENSIONS,
    ),
    "glm-moe-dsa": (Family("glm_moe_dsa", _INDEXED), _ITS_CACHE.format("DynamicIndexedLayer")),
    "hrm": (Family("hrm_text"), r"has no list of \d+ blocks to steer"),
    "longcat": (
        Family("longcat_flash", _LATENT | _ROUTED | {"num_layers": LAYERS, "zero_expert_num": 1,
               "expert_ffn_hidden_size": 24, "ffn_hidden_size": 48, "moe_topk": 2}),
        "has no list of 4 blocks to steer",
    ),
    "mamba": (Family("mamba", {"state_size": 8}), _NO_CACHE),
    "mamba2": (Family("mamba2", {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1}),
               _NO_CACHE),
    "minimax": (
        Family("minimax", _LOCAL_EXPERTS | {"layer_types": ["linear_attention",
               "full_attention"] * 2, "block_size": 16}),
        _ITS_CACHE.format("MiniMaxCache"),
    ),
    "openai-gpt": (Family("openai-gpt", _OLD), _NO_CACHE),
    "recurrent-gemma": (
        Family("recurrent_gemma", {"lru_width": WIDTH, "attention_window_size": 8}), _NO_CACHE,
    ),
    "rwkv": (Family("rwkv", {"attention_hidden_size": WIDTH}), _NO_CACHE),
}  # fmt: skip
