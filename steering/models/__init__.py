"""Models: what a name means, where the blocks are, how weights load and chats are rendered.

Owns aliases, reading of a model's config before its weights, loading, and chat templates. Never
knows steering options or engines.
"""

from steering.models.blocks import find_blocks, find_mlp
from steering.models.chat import (
    answer_end_token,
    can_think,
    encode,
    render_chat,
    split_thought,
)
from steering.models.loading import (
    EVERY,
    QUANTIZED,
    LoadedModel,
    build_empty,
    check_checkpoint,
    check_device,
    check_dtype,
    end_tokens,
    family_of,
    import_code,
    load_model,
    load_tokenizer,
)
from steering.models.names import ALIASES, find_model, is_model
from steering.models.source import (
    ModelError,
    ModelSource,
    Shape,
    check_layer,
    check_unchanged,
    commit_of,
    default_layer,
    load_config,
    read_shape,
    weights_digest,
)
from steering.models.templates import (
    PLAIN_TEMPLATE,
    check_template,
    date_of,
    forget_date,
    read_template,
    template_of,
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
    "build_empty",
    "can_think",
    "check_checkpoint",
    "check_device",
    "check_dtype",
    "check_layer",
    "check_template",
    "check_unchanged",
    "commit_of",
    "date_of",
    "default_layer",
    "encode",
    "end_tokens",
    "family_of",
    "find_blocks",
    "find_mlp",
    "find_model",
    "forget_date",
    "import_code",
    "is_model",
    "load_config",
    "load_model",
    "load_tokenizer",
    "read_shape",
    "read_template",
    "render_chat",
    "split_thought",
    "template_of",
    "weights_digest",
]
