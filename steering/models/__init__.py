"""Which model a name means, where its blocks are, and how it is loaded and spoken to.

Owns aliases, the look at a model's config before weights are touched, loading, and chat rendering.
Never knows steering options or engines.
"""

from steering.models.blocks import find_blocks, find_mlp
from steering.models.chat import (
    PLAIN_TEMPLATE,
    answer_end_token,
    encode,
    read_template,
    render_chat,
    split_thought,
)
from steering.models.loading import (
    EVERY,
    QUANTIZED,
    LoadedModel,
    check_device,
    check_dtype,
    end_tokens,
    family_of,
    import_code,
    load_model,
    load_tokenizer,
)
from steering.models.source import (
    ALIASES,
    ModelError,
    ModelSource,
    Shape,
    check_layer,
    commit_of,
    default_layer,
    find_model,
    load_config,
    read_shape,
    weights_digest,
)

__all__ = [
    "ALIASES",
    "EVERY",
    "PLAIN_TEMPLATE",
    "QUANTIZED",
    "LoadedModel",
    "ModelError",
    "ModelSource",
    "Shape",
    "answer_end_token",
    "check_device",
    "check_dtype",
    "check_layer",
    "commit_of",
    "default_layer",
    "encode",
    "end_tokens",
    "family_of",
    "find_blocks",
    "find_mlp",
    "find_model",
    "import_code",
    "load_config",
    "load_model",
    "load_tokenizer",
    "read_shape",
    "read_template",
    "render_chat",
    "split_thought",
    "weights_digest",
]
