"""Which model a name means, where its blocks are, and how it is loaded and spoken to.

Owns aliases, the look at a model's config before weights are touched, loading, and chat rendering.
Never knows steering options or engines. A local folder never makes anything reach for a hub.
"""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.errors import SteeringError
from steering.toy import BLOCKS, TOYS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ALIASES = {
    "qwen3.5": "Qwen/Qwen3.5-9B",
    "qwen3.5-0.8b": "Qwen/Qwen3.5-0.8B",
    "qwen3.5-2b": "Qwen/Qwen3.5-2B",
    "qwen3.5-4b": "Qwen/Qwen3.5-4B",
    "qwen3.5-9b": "Qwen/Qwen3.5-9B",
    "qwen3.5-27b": "Qwen/Qwen3.5-27B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen2.5-14b": "Qwen/Qwen2.5-14B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "gemma3-4b": "google/gemma-3-4b-it",
}
_HUB_TIMEOUT_S = 10
# Weights up to this size are hashed whole; larger ones by name, size and time of change.
_HASHED_WHOLE = 64 * 2**20


class ModelError(SteeringError):
    """A model can't be found, read or steered."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        name: What the user called it.
        location: Hub id, or path of a folder.
        local: Whether `location` is a folder.
        revision: Branch, tag or commit of a hub model.
    """

    name: str
    location: str
    local: bool
    revision: str | None = None

    @property
    def is_toy(self) -> bool:
        """Whether it is a model of the toy world."""
        return self.name in TOYS


@dataclass(frozen=True)
class Shape:
    """What a model's config says, before any weight is read."""

    num_layers: int
    width: int
    context_length: int | None


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """Say what a name means: a toy, a local folder, an alias, or a hub id. Touches no network.

    Raises:
        ModelError: It is none of these, or the folder holds no model.
    """
    folder = Path(name).expanduser()
    if revision is not None and (name in TOYS or folder.is_dir()):
        raise ModelError(
            f"revision={revision} has no effect on {name}, which is local: leave it out"
        )
    if name in TOYS:
        return ModelSource(name, str(TOYS[name]), local=True)
    if folder.is_dir():
        weights = [path for end in ("safetensors", "bin") for path in folder.glob(f"*.{end}")]
        if not (folder / "config.json").is_file() or not weights:
            raise ModelError(
                f"the folder {name} holds no model (config.json and weights): give a folder that "
                "save_pretrained wrote"
            )
        return ModelSource(name, str(folder.resolve()), local=True)
    location = ALIASES.get(name.lower(), name)
    if location.count("/") != 1 or location.startswith((".", "/", "~")):
        raise ModelError(
            f"no model is called {name}: allowed are {', '.join([*TOYS, *ALIASES])}, a hub id "
            "(owner/name), or the path of a local folder"
        )
    return ModelSource(name, location, local=False, revision=revision)


def read_shape(source: ModelSource) -> Shape:
    """Depth and width of a model from its config.json; a hub model's config is fetched if need be.

    Raises:
        ModelError: The config can't be had or does not say.
    """
    path = Path(source.location) / "config.json" if source.local else _hub_config(source)
    config = json.loads(path.read_text())
    text = config.get("text_config", config)
    try:
        return Shape(
            num_layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            context_length=text.get("max_position_embeddings"),
        )
    except KeyError as error:
        raise ModelError(f"the config of {source.location} does not say {error}") from None


def _hub_config(source: ModelSource) -> Path:
    """config.json of a hub model: from the local cache, else from the hub with one short try."""
    from huggingface_hub import (
        get_session,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    cached = try_to_load_from_cache(source.location, "config.json", revision=source.revision)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(source.location, "config.json", revision=source.revision)
    try:
        # The download below retries for half a minute before it says that there is no network.
        get_session().head(url, timeout=_HUB_TIMEOUT_S)
        return Path(hf_hub_download(source.location, "config.json", revision=source.revision))
    except Exception as error:
        called = "" if source.name == source.location else f" (called {source.name})"
        raise ModelError(
            f"{source.location}{called} can't be had from the Hugging Face hub "
            f"({type(error).__name__}). Check the network, the id and, for gated models, the "
            "login; or give a local folder: --model steered/path/to/folder"
        ) from None


def check_layer(layer: int, shape: Shape, source: ModelSource) -> None:
    """Refuse a block that the model does not have.

    Raises:
        ModelError: It says which blocks there are.
    """
    if not 0 <= layer < shape.num_layers:
        raise ModelError(
            f"layer {layer} is out of range: {source.name} has {shape.num_layers} blocks "
            f"(0-{shape.num_layers - 1}). Choose -M layer=0..{shape.num_layers - 1}"
        )


def default_layer(source: ModelSource, num_layers: int) -> int:
    """The block that is steered when nobody says which: two fifths of the way up.

    The published vectors stand at 0.4-0.5 of the depth (arXiv 2602.07852: 16 of 40, 24 of 48). Of
    the toys each has a block of its own, which was measured.
    """
    return BLOCKS[source.name] if source.is_toy else round(0.4 * num_layers)


def weights_digest(source: ModelSource) -> str:
    """What tells a model's weights from another's, in hex; no weight is loaded."""
    digest = hashlib.sha256()
    if not source.local:
        digest.update(f"{source.location}@{_commit(source)}".encode())
    else:
        for path in sorted(Path(source.location).iterdir()):
            if path.suffix not in (".safetensors", ".json", ".jinja", ".bin", ".txt", ".model"):
                continue
            stat = path.stat()
            digest.update(path.name.encode())
            if stat.st_size <= _HASHED_WHOLE:
                digest.update(path.read_bytes())
            else:
                digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _commit(source: ModelSource) -> str:
    """Commit of a hub model; `main` may move on, so its name tells nothing."""
    return _hub_config(source).parent.name


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have. `auto` is always there.

    Raises:
        ModelError: It says which devices there are.
    """
    if device in ("auto", "cpu"):
        return
    import torch

    there = ["cpu"]
    if found := torch.accelerator.current_accelerator(check_available=True):
        there += [f"{found.type}:{index}" for index in range(torch.accelerator.device_count())]
    if device not in (*there, *(name.partition(":")[0] for name in there)):
        raise ModelError(f"device={device} is not on this machine: it has {', '.join(there)}")


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        model: The transformers model, in eval mode, frozen.
        tokenizer: Its tokenizer.
        blocks: Path of the list of transformer blocks inside `model`.
        shape: Depth and width.
        end_tokens: Ids that end an answer.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    blocks: str
    shape: Shape
    end_tokens: tuple[int, ...]

    def accepts(self, argument: str) -> bool:
        """Whether the model's forward pass takes this argument."""
        return argument in inspect.signature(self.model.forward).parameters


def import_code(source: ModelSource) -> None:
    """Import torch, transformers and the model's own code, which takes seconds; no weights."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    revision = None if source.local else _commit(source)
    config = AutoConfig.from_pretrained(
        source.location, revision=revision, local_files_only=source.local
    )
    MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def load_model(source: ModelSource, *, dtype: str = "auto", device: str = "auto") -> LoadedModel:
    """Load weights and tokenizer.

    Args:
        source: What `find_model` said.
        dtype: `auto` (the checkpoint's own) or the name of a torch dtype.
        device: `auto` (an accelerator if there is one) or a torch device.

    Raises:
        ModelError: Weights are missing from the checkpoint, or the blocks can't be found.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if device == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else 0
        device = str(found or "cpu")
    if device == "cpu":
        # Advice on GPU kernels, and a bar for a load that takes a blink, would only distract.
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    # Pinned, so that the weights are those of the config that was checked.
    revision = None if source.local else _commit(source)
    where: dict[str, Any] = {"revision": revision, "local_files_only": source.local}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source.location,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        output_loading_info=True,
        **where,
    )
    model, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{source.location} lacks {len(missing)} weights of {type(model).__name__} "
            f"({missing[0]}, ...): it would answer with random ones. Give a complete checkpoint"
        )
    tokenizer = AutoTokenizer.from_pretrained(source.location, **where)
    model = model.to(torch.device(device)).eval().requires_grad_(False)
    shape = read_shape(source)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        blocks=find_blocks(model, shape.num_layers),
        shape=shape,
        end_tokens=_end_tokens(model, tokenizer, source),
    )


def find_blocks(model: "torch.nn.Module", num_layers: int) -> str:
    """Path of the list of transformer blocks.

    It is the module list as long as the config says the model is deep; of several (a vision tower
    of the same depth), the one under a `language_model`, else the first.

    Raises:
        ModelError: No module list has that length.
    """
    from torch.nn import ModuleList

    found = [
        path
        for path, module in model.named_modules()
        if isinstance(module, ModuleList) and len(module) == num_layers
    ]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no list of {num_layers} blocks to steer: "
            "this architecture is not supported"
        )
    return next((path for path in found if "language_model" in path), found[0])


def _end_tokens(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", source: ModelSource
) -> tuple[int, ...]:
    config = model.generation_config
    ids = getattr(config, "eos_token_id", None)
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        raise ModelError(
            f"neither the generation config nor the tokenizer of {source.location} names an end "
            "token: each answer would run to max_tokens. Add eos_token_id to generation_config.json"
        )
    return tuple(ids) if isinstance(ids, list) else (ids,)


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[dict[str, str]],
    *,
    thinking: bool = False,
    answered: bool = False,
) -> str:
    """The prompt as the model reads it; the one way in which any condition or training renders it.

    Args:
        tokenizer: The model's tokenizer.
        messages: `{"role", "content"}` of each turn.
        thinking: Let a thinking model think.
        answered: Whether the last message is the assistant's, rendered as a finished turn.

    Raises:
        ModelError: The tokenizer has no chat template, or its template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template: steering needs a "
            "chat model. Add a chat_template.jinja to the folder"
        )
    from jinja2.exceptions import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=not answered,
            enable_thinking=thinking,
        )
    except TemplateError as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} refuses the messages ({error})"
        ) from None
    assert isinstance(text, str)
    return text


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of rendered text. The template has put the special tokens in, so none is added."""
    return tokenizer.encode(text, add_special_tokens=False)


def answer_end_token(tokenizer: "PreTrainedTokenizerBase", end_tokens: Sequence[int]) -> int:
    """The one of the model's end tokens that its chat template puts behind an answer."""
    answer = "An answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    tail = render_chat(tokenizer, turns, answered=True).rpartition(answer)[2]
    return next((token for token in encode(tokenizer, tail) if token in end_tokens), end_tokens[0])
