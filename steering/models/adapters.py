"""Adapters: the folder of one, its facts, and whether it fits a model.

An adapter is a LoRA in peft's format: `adapter_config.json` and `adapter_model.safetensors`. Those
that `steering finetune` wrote also have `steering.json`, with the facts of their training. All
checks here run before any weight of the model is loaded; of the adapter's weights only the header
is read.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steering.errors import SteeringError
from steering.files import file_digest, recover_folder
from steering.foreign import parse_json, read_text
from steering.models import ModelError, ModelSource, Shape, weights_digest
from steering.models.folder import stored_shapes

FORMAT = "steering-adapter/1"
FACTS = "steering.json"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# The settings of peft that are supported. All others must be empty: sequences of one batch can't
# have them individually, or they change the base weights, or a later peft has added them.
_SUPPORTED = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
    *("use_rslora", "init_lora_weights", "target_modules", "exclude_modules", "bias"),
    *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    # Without effect by themselves.
    *("megatron_core", "qalora_group_size", "eva_config", "corda_config", "runtime_config"),
    *("loftq_config", "lora_ga_config"),
}
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "biases of its own",
    "modules_to_save": "whole modules of its own",
    "target_parameters": "adapted parameters outside of linear layers",
    "trainable_token_indices": "tokens of its own",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
}
# Initialisations that leave the base weights as they are, and so matter only before training.
_INITS = ("true", "false", "none", "gaussian", "eva", "orthogonal")
_WEIGHT = re.compile(r"base_model\.model\.(.+)\.lora_(?:(?:A|B)\.weight|embedding_(?:A|B))")
# Layers that read the residual stream, and those that write it.
_READERS = re.compile(r"\.([qkv]_proj|gate_proj|up_proj|gate_up_proj|in_proj_\w+)\.lora_A")
_WRITERS = re.compile(r"\.(o_proj|down_proj|out_proj)\.lora_B")
# A vision tower has a width of its own.
_TOWER = re.compile("vision|visual")
_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Adapter:
    """An adapter that a request may name.

    Attributes:
        folder: Its folder.
        digest: SHA-256 of its weights and its config, in hex.
        scale: Multiplier of its own scaling.
        facts: Content of its `steering.json`; empty for an adapter from elsewhere.
    """

    folder: Path
    digest: str
    scale: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def name(self) -> str:
        """Its name in a loaded model, which must not contain a dot."""
        return f"{self.digest[:16]}x{self.scale!r}".replace(".", "_")


def find_adapter(
    location: str, source: ModelSource, shape: Shape, weights: str, scale: float = 1.0
) -> Adapter:
    """Find an adapter and check that it fits a model of this shape and with weights of this digest.

    The location is a folder, or the id of an adapter on the Hugging Face hub, which is downloaded.

    Raises:
        ModelError: It is missing, damaged, unsupported, or of another model.
    """
    folder = _folder(location)
    config = _read_config(folder / CONFIG, location)
    shapes = read_adapter_shapes(folder / WEIGHTS, location)
    facts = read_facts(folder) if (folder / FACTS).exists() else {}
    _check_base(location, config, facts, source, weights)
    _check_shapes(location, shapes, source, shape)
    return Adapter(folder, _digest(folder), scale, facts)


def _digest(folder: Path) -> str:
    sums = file_digest(folder / WEIGHTS) + file_digest(folder / CONFIG)
    return hashlib.sha256(sums.encode()).hexdigest()


def check_unchanged(adapter: Adapter) -> None:
    """Refuse an adapter whose files have changed since it was found, or that holds other weights.

    Raises:
        ModelError: They would answer under the digest of the files before.
    """
    location = adapter.folder.name
    if _digest(adapter.folder) != adapter.digest:
        raise ModelError(
            f"the files of adapter={location} have changed since this run looked at them: start "
            "again"
        )
    _check_names(location, read_adapter_shapes(adapter.folder / WEIGHTS, location))


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `steering.json` beside the weights and their config, with their digests."""
    paths = [*folder.glob("*.safetensors"), *folder.glob(CONFIG)]
    sums = {path.name: file_digest(path) for path in sorted(paths)}
    content = {"format": FORMAT} | dict(facts) | {"sha256": sums}
    (folder / FACTS).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of `steering.json`, after a check of the digests in it.

    Raises:
        ModelError: It is missing or damaged, or the weights or their config have changed.
    """
    path = folder / FACTS
    try:
        facts: dict[str, Any] = parse_json(read_text(path, "config"), path, "config")
        form, sums = facts["format"], dict(facts["sha256"])
    except (SteeringError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{path} can't be read ({error}): give a folder that steering finetune wrote"
        ) from None
    if form != FORMAT:
        raise ModelError(f"{path} has the format {form}; {FORMAT} is needed")
    for name, digest in sums.items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise ModelError(f"{folder / name} is missing or damaged: train it again")
    return facts


def _folder(location: str) -> Path:
    folder = Path(location).expanduser()
    recover_folder(folder)
    if folder.is_dir():
        return folder.resolve()
    if location.count("/") != 1 or location.startswith((".", "/", "~")):
        raise ModelError(
            f"adapter={location} is not a folder: give one that holds {CONFIG}, or the id of an "
            "adapter on the Hugging Face hub (owner/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(location, allow_patterns=[CONFIG, WEIGHTS, FACTS]))
    except Exception as error:
        raise ModelError(
            f"adapter={location} is not a folder, and can't be downloaded from the Hugging Face "
            f"hub ({type(error).__name__}): check the network, the id and, if it is gated, the "
            "login; or give a folder"
        ) from None


def _read_config(path: Path, location: str) -> dict[str, Any]:
    if not path.exists():
        raise ModelError(
            f"adapter={location} has no {CONFIG}: give a folder written by peft or steering "
            "finetune (give a fully finetuned model as the model itself)"
        )
    try:
        config = parse_json(read_text(path, "config"), path, "config")
        kind = config["peft_type"]
    except (SteeringError, TypeError, KeyError) as error:
        raise ModelError(
            f"{CONFIG} of adapter={location} can't be read ({type(error).__name__}: {error}): "
            "download the folder again"
        ) from None
    if kind != "LORA":
        raise ModelError(f"adapter={location} is a {kind}; only LORA is supported")
    # An empty list of tokens or modules is a setting too.
    beyond = [name for name, value in config.items() if name not in _SUPPORTED and value]
    unsupported = [_UNSUPPORTED.get(name, f"{name}={config[name]}") for name in beyond]
    if config.get("bias", "none") != "none":
        unsupported.append("biases of its own")
    if str(config.get("init_lora_weights")).lower() not in _INITS:
        unsupported.append(
            "an init that may change the base weights "
            f"(init_lora_weights={config['init_lora_weights']})"
        )
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    if type(rank) is not int or rank < 1:
        raise ModelError(
            f"{CONFIG} of adapter={location} has r={rank!r}: a whole number above 0 is needed"
        )
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ModelError(
            f"{CONFIG} of adapter={location} has lora_alpha={alpha!r}: a number is needed"
        )
    if unsupported:
        raise ModelError(
            f"adapter={location} has {unsupported[0]}, which is not supported in a batch with "
            "other sequences: merge it into its model (peft's merge_and_unload) and give that model"
        )
    return dict(config)


def read_adapter_shapes(path: Path, location: str) -> Mapping[str, tuple[int, ...]]:
    """Shape of each tensor, read from the file's header."""
    if not path.exists():
        raise ModelError(
            f"adapter={location} has no {WEIGHTS}: only safetensors are read, since loading them "
            "runs no code. Save it again with peft's save_pretrained"
        )
    try:
        return stored_shapes(path)
    except SteeringError as error:
        raise ModelError(
            f"{WEIGHTS} of adapter={location} is damaged ({error}): download or train it again"
        ) from None


def _check_base(
    location: str,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    source: ModelSource,
    weights: str,
) -> None:
    """Refuse an adapter whose config or facts name another model."""
    if facts:
        # The template and the paths that the user names are no part of what it was trained on.
        files = replace(source, template=None, blocks=None, mlp=None)
        if facts.get("weights") not in (weights, weights_digest(files)):
            raise ModelError(
                f"adapter={location} was trained on {facts.get('model')} with weights "
                f"{str(facts.get('weights'))[:12]}, but {source.name} has {weights[:12]}: steer "
                "that model, or train an adapter of this one with steering finetune"
            )
        return
    base = str(config.get("base_model_name_or_path") or "")
    # Mirrors of a model differ in their owner only; the name of a local folder proves nothing.
    is_id = base.count("/") == 1 and not Path(base).is_dir()
    names = {name.rpartition("/")[2].lower() for name in (base, source.location)}
    if is_id and not source.local and source.gguf is None and len(names) > 1:
        raise ModelError(
            f"adapter={location} is of {base}, not of {source.location}: steer that model, or "
            f"correct base_model_name_or_path in {CONFIG} if the two are the same"
        )


def _check_shapes(
    location: str, shapes: Mapping[str, tuple[int, ...]], source: ModelSource, shape: Shape
) -> None:
    """Refuse an adapter of a model of another width or depth."""
    if not shapes:
        raise ModelError(f"adapter={location} has no weights: train it again")
    _check_names(location, shapes)
    for name, dims in shapes.items():
        if _TOWER.search(name):
            continue
        width = dims[-1] if _READERS.search(name) else dims[0] if _WRITERS.search(name) else None
        if width not in (None, shape.width):
            raise ModelError(
                f"adapter={location} is of a model of width {width}, but {source.name} has width "
                f"{shape.width}: steer the model that it was trained on"
            )
        block = _BLOCK.search(name)
        if block and int(block[1]) >= shape.num_layers:
            raise ModelError(
                f"adapter={location} changes block {block[1]}, but {source.name} has blocks "
                f"0-{shape.num_layers - 1}: steer the model that it was trained on"
            )


def _check_names(location: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter that holds more than the LoRA of layers: peft would load that too."""
    for name, dims in shapes.items():
        if not _WEIGHT.fullmatch(name):
            raise ModelError(
                f"adapter={location} holds {name} {list(dims)}, which is not a LoRA of a layer "
                "(embeddings, heads, biases and magnitudes would change the model that other "
                "sequences use): merge it into its model (peft's merge_and_unload) and give that "
                "model, or save it without them (save_embedding_layers=False)"
            )
