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
    LoadedModel,
    check_device,
    check_dtype,
    import_code,
    load_model,
)
from steering.models.source import (
    ALIASES,
    ModelError,
    ModelSource,
    Shape,
    check_layer,
    default_layer,
    find_model,
    read_shape,
    weights_digest,
)

__all__ = [
    "ALIASES",
    "EVERY",
    "PLAIN_TEMPLATE",
    "LoadedModel",
    "ModelError",
    "ModelSource",
    "Shape",
    "answer_end_token",
    "check_device",
    "check_dtype",
    "check_layer",
    "default_layer",
    "encode",
    "find_blocks",
    "find_mlp",
    "find_model",
    "import_code",
    "load_model",
    "read_shape",
    "read_template",
    "render_chat",
    "split_thought",
    "weights_digest",
]
