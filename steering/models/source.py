"""A model and what its config says, before any weight is read.

For a local folder the network is never used.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.models.folder import (
    MOST_POSITIONS,
    MOST_WIDTH,
    add_content,
    check_folder,
    check_size,
    num_stored,
    read_config,
    remembered_digest,
)
from steering.models.gguf import describe_gguf
from steering.toy import BLOCKS, TOYS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Names of the fields of `Shape` in a config.
_SHAPE = ("num_hidden_layers", "hidden_size", "max_position_embeddings")
# Its dtype, by transformers' name and by that of its earlier versions.
_DTYPE = ("dtype", "torch_dtype")
_HUB_TIMEOUT_S = 10


class ModelError(SteeringError):
    """A model or adapter can't be found, read or steered, or the two do not fit."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        name: The name that the user gave.
        location: Hub id, or path of a folder or a GGUF file.
        local: Whether `location` is a path.
        revision: Branch, tag or commit of a hub model.
        gguf: Name of the GGUF file that holds the model, in the repository or as the end of the
            path.
        template: Chat template (Jinja) instead of the model's own.
        blocks: Path of the list of transformer blocks, if the user names it.
        mlp: Path of the MLP in a block, if the user names it.
        date: The date that the chat template prints (YYYY-MM-DD), if it prints any.
        trust_remote_code: Whether the model's own Python may run.
    """

    name: str
    location: str
    local: bool
    revision: str | None = None
    gguf: str | None = None
    template: str | None = None
    blocks: str | None = None
    mlp: str | None = None
    date: str | None = None
    trust_remote_code: bool = False

    @property
    def is_toy(self) -> bool:
        """Whether it is a model of the toy world."""
        return self.name in TOYS


@dataclass(frozen=True)
class Shape:
    """Depth, width, context length, family (`model_type`) and dtype in a model's config.

    The context length is in tokens. The dtype is that of the weights, as in `bfloat16`; of a GGUF
    file that in which they are loaded; "" where the config names none.
    """

    num_layers: int
    width: int
    context_length: int | None
    family: str = ""
    dtype: str = ""


def read_shape(source: ModelSource) -> Shape:
    """Shape of a model from its config.json; a hub model's config is downloaded if not cached.

    Raises:
        ModelError: The config can't be read or lacks the depth or the width.
    """
    if source.gguf is not None:
        config = read_config(Path(config_location(source)) / "config.json")
    elif source.local:
        check_folder(Path(source.location))
        config = read_config(Path(source.location) / "config.json")
    else:
        config = read_config(_hub_config(source))
    if "auto_map" in config:
        load_config(source)  # refuses a model whose own Python would have to run
    text: dict[str, Any] = config.get("text_config") or config
    if any(text.get(name) is None for name in _SHAPE):
        # Old families have other names, and a published config omits defaults.
        text = text | _full_config(source)
    missing = [name for name in _SHAPE[:2] if text.get(name) is None]
    if missing:
        raise ModelError(f"the config of {source.location} lacks {missing[0]}")
    for name in _SHAPE:
        if text.get(name) is not None:
            most = MOST_POSITIONS if name == _SHAPE[2] else MOST_WIDTH
            check_size(name, text[name], source.location, most)
    family = str(config.get("model_type") or "")
    # Of a model that also reads images, the text's may stand in either place.
    dtypes = (part.get(name) for part in (text, config) for name in _DTYPE)
    dtype = next((name.removeprefix("torch.") for name in dtypes if isinstance(name, str)), "")
    shape = Shape(text[_SHAPE[0]], text[_SHAPE[1]], text.get(_SHAPE[2]), family, dtype)
    is_folder = source.local and source.gguf is None
    stored = num_stored(Path(source.location)) if is_folder else None
    if stored is not None and shape.num_layers > stored:
        raise ModelError(
            f"the config of {source.location} has {shape.num_layers} blocks, but its files hold "
            f"{stored} weights: give the config.json that belongs to them"
        )
    return shape


def _full_config(source: ModelSource) -> dict[str, Any]:
    """The shape as transformers reads the config, with its names for every family."""
    try:
        config = load_config(source).get_text_config()
    except ModelError:  # an unknown architecture
        return {}
    values = {name: getattr(config, name, None) for name in _SHAPE}
    values[_SHAPE[2]] = values[_SHAPE[2]] or getattr(config, "max_seq_len", None)  # MPT's name
    return {name: value for name, value in values.items() if value is not None}


def load_config(source: ModelSource) -> "PretrainedConfig":
    """The config as transformers reads it."""
    from transformers import AutoConfig

    with readable(source):
        return AutoConfig.from_pretrained(config_location(source), **where_from(source))


def config_location(source: ModelSource) -> str:
    """Where transformers reads a model's config and tokenizer: its folder or hub id.

    For a GGUF file, a folder in the cache that describes it; a hub model's is downloaded first.

    Raises:
        SteeringError: The file is no whole language model, or can't be had.
    """
    if source.gguf is None:
        return source.location
    with readable(source):
        return str(describe_gguf(gguf_path(source)))


def gguf_path(source: ModelSource) -> Path:
    """The GGUF file of a model that has one; a hub model's is downloaded if it is not cached."""
    return Path(source.location) if source.local else _hub_file(source, str(source.gguf))


@contextmanager
def readable(source: ModelSource) -> Iterator[None]:
    """While transformers reads a model's files: its errors in one line.

    Raises:
        ModelError: A file is missing or damaged, a library is missing, or the model is Python of
            its own that may not run.
    """
    try:
        yield
    except SteeringError:
        raise
    # Whatever transformers and its libraries stumble over when files or values make no sense.
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise ModelError(
                f"{source.location} is Python of its own, which does not run by itself: read its "
                ".py files, and allow them with -M trust_remote_code=true"
            ) from None
        remedy = "check its config.json and its other files, or download the model again"
        if source.gguf is not None:
            remedy = "download it again, or give the original checkpoint, as a folder or hub id"
        raise ModelError(
            f"{source.location} can't be loaded ({type(error).__name__}: {text[:300]}): {remedy}"
        ) from error


def where_from(source: ModelSource) -> dict[str, Any]:
    """Arguments of `from_pretrained` beside the location.

    The commit is fixed, so that the weights belong to the config that was checked.
    """
    local = source.local or source.gguf is not None
    return {
        "revision": None if local else commit_of(source),
        "local_files_only": local,
        # Never left out: transformers would ask on stdin.
        "trust_remote_code": source.trust_remote_code,
    }


def _hub_config(source: ModelSource) -> Path:
    """config.json of a hub model."""
    return _hub_file(source, "config.json")


def _hub_file(source: ModelSource, name: str) -> Path:
    """A file of a hub model: from the local cache, else from the hub in one short attempt."""
    from huggingface_hub import get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(source.location, name, revision=source.revision)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(source.location, name, revision=source.revision)
    try:
        # Without a network, the download below would retry for half a minute.
        get_session().head(url, timeout=_HUB_TIMEOUT_S)
        return Path(hf_hub_download(source.location, name, revision=source.revision))
    except Exception as error:
        alias = "" if source.name == source.location else f" ({source.name})"
        raise ModelError(
            f"{source.location}{alias} can't be downloaded from the Hugging Face hub "
            f"({type(error).__name__}). Check the network, the id and, for gated models, the "
            "login; or give a local folder: --model steered/path/to/folder"
        ) from None


def check_layer(layer: int, shape: Shape, source: ModelSource) -> None:
    """Refuse a block that the model does not have.

    Raises:
        ModelError: It names the allowed blocks.
    """
    if not 0 <= layer < shape.num_layers:
        raise ModelError(
            f"layer {layer} is out of range: {source.name} has {shape.num_layers} blocks "
            f"(0-{shape.num_layers - 1}). Choose layers from 0 to {shape.num_layers - 1}"
        )


def default_layer(source: ModelSource, num_layers: int) -> int:
    """The block that is steered by default: at two fifths of the depth.

    Published vectors are at 0.4-0.5 of the depth (arXiv 2602.07852: 16 of 40, 24 of 48). For each
    toy the block was measured.
    """
    return BLOCKS[source.name] if source.is_toy else round(0.4 * num_layers)


def weights_digest(source: ModelSource) -> str:
    """SHA-256, in hex, of a model's files, its chat template and the paths that the user named.

    No weight is loaded.
    """
    digest = hashlib.sha256()
    mlp = None if source.mlp is None else f"mlp={source.mlp}"
    for text in (source.template, source.blocks, mlp):
        if text is not None:
            digest.update(text.encode() + b"\0")
    if source.trust_remote_code:
        digest.update(b"trust_remote_code\0")
    if source.gguf is not None:
        digest.update(f"gguf {remembered_digest(gguf_path(source))}".encode())
    elif not source.local:
        digest.update(f"{source.location}@{commit_of(source)}".encode())
    else:
        add_content(digest, Path(source.location), code=source.trust_remote_code)
    return digest.hexdigest()


def check_unchanged(source: ModelSource, weights: str) -> None:
    """Refuse a model whose files are not those that a run has looked at.

    Args:
        source: The model.
        weights: Digest of its weights then.

    Raises:
        ModelError: The files would answer under the fingerprint of others.
    """
    if weights_digest(source) != weights:
        raise ModelError(
            f"the files of {source.location} have changed since this run looked at them: start "
            "again, and every answer is that of the weights in its fingerprint"
        )


def commit_of(source: ModelSource) -> str:
    """Commit of a hub model; the branch `main` may change."""
    return _hub_config(source).parent.name
