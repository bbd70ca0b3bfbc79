"""Adapters: the folder that holds one, what it says of itself, and whether it fits a model.

An adapter is a LoRA in peft's form: `adapter_config.json` and `adapter_model.safetensors`. Those
that `steering finetune` wrote have `steering.json` beside them, which says what made them.
Everything here is looked at before any weight of the model is loaded; of the adapter's own weights
only the header.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steering.files import file_digest
from steering.models import ModelError, ModelSource, Shape

FORMAT = "steering-adapter/1"
FACTS = "steering.json"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# Settings of peft that rows of one batch can't have each for themselves, or that change the base.
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "biases of its own",
    "modules_to_save": "whole modules of its own",
    "target_parameters": "adapted parameters outside of linear layers",
    "trainable_token_indices": "tokens of its own",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
}
# Inits that leave a residual in the base weights; the others only say how training began.
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq")
# Layers that read the residual stream, and those that write it.
_READERS = re.compile(r"\.([qkv]_proj|gate_proj|up_proj|gate_up_proj|in_proj_\w+)\.lora_A")
_WRITERS = re.compile(r"\.(o_proj|down_proj|out_proj)\.lora_B")
# Images are read at a width of their own.
_TOWER = re.compile("vision|visual")
_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Adapter:
    """An adapter that rows may carry.

    Attributes:
        folder: Where it lies.
        digest: Of its weights and its config, in hex.
        scale: What its own scaling is multiplied by.
        facts: What its `steering.json` says; empty for one from elsewhere.
    """

    folder: Path
    digest: str
    scale: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def name(self) -> str:
        """Name under which a model holds it: no dot is allowed in it."""
        return f"{self.digest[:16]}x{self.scale!r}".replace(".", "_")


def find_adapter(
    location: str, source: ModelSource, shape: Shape, weights: str, scale: float = 1.0
) -> Adapter:
    """Look at an adapter for a model.

    Args:
        location: A folder, or the id of an adapter on the Hugging Face hub, which is fetched.
        source: The model.
        shape: Its depth and width.
        weights: Digest of its weights.
        scale: What the adapter's own scaling is to be multiplied by.

    Raises:
        ModelError: It says what is wrong and how to mend it.
    """
    folder = _folder(location)
    config = _read_config(folder / CONFIG, location)
    shapes = _read_shapes(folder / WEIGHTS, location)
    facts = read_facts(folder) if (folder / FACTS).exists() else {}
    _check_base(location, config, facts, source, weights)
    _check_shapes(location, shapes, source, shape)
    sums = file_digest(folder / WEIGHTS) + file_digest(folder / CONFIG)
    return Adapter(folder, hashlib.sha256(sums.encode()).hexdigest(), scale, facts)


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `steering.json` beside the weights and their config, with their digests."""
    told = [*folder.glob("*.safetensors"), *folder.glob(CONFIG)]
    sums = {path.name: file_digest(path) for path in sorted(told)}
    said = {"format": FORMAT} | dict(facts) | {"sha256": sums}
    (folder / FACTS).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def read_facts(folder: Path) -> dict[str, Any]:
    """What `steering.json` says, once what lies beside it is what it was written for.

    Raises:
        ModelError: It is missing, not ours, or the weights or their config are others.
    """
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text())
        form, sums = facts["format"], dict(facts["sha256"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{path} can't be read ({error}): give a folder that steering finetune wrote"
        ) from None
    if form != FORMAT:
        raise ModelError(f"{path} holds {form}; {FORMAT} is needed")
    for name, said in sums.items():
        if not (folder / name).is_file() or file_digest(folder / name) != said:
            raise ModelError(f"{folder / name} is missing or damaged: train it again")
    return facts


def _folder(location: str) -> Path:
    folder = Path(location).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if location.count("/") != 1 or location.startswith((".", "/", "~")):
        raise ModelError(
            f"adapter={location} is no folder: give one that holds {CONFIG}, or the id of an "
            "adapter on the Hugging Face hub (owner/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(location, allow_patterns=[CONFIG, WEIGHTS, FACTS]))
    except Exception as error:
        raise ModelError(
            f"adapter={location} is no folder here, and can't be had from the Hugging Face hub "
            f"({type(error).__name__}): check the network, the id and, for gated ones, the login; "
            "or give a folder"
        ) from None


def _read_config(path: Path, location: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
        kind = config["peft_type"]
    except FileNotFoundError:
        raise ModelError(
            f"adapter={location} holds no {CONFIG}: give a folder that peft or steering finetune "
            "wrote (a whole finetuned model is given as the model itself)"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{CONFIG} of adapter={location} can't be read ({type(error).__name__}: {error}): get "
            "the folder again"
        ) from None
    if kind != "LORA":
        raise ModelError(f"adapter={location} is a {kind}; only LORA is supported")
    said = [meaning for name, meaning in _UNSUPPORTED.items() if config.get(name)]
    if config.get("bias", "none") != "none":
        said.append("biases of its own")
    if str(config.get("init_lora_weights")).lower().startswith(_BASE_CHANGING):
        said.append(f"an init that changes the base weights ({config['init_lora_weights']})")
    if said:
        raise ModelError(
            f"adapter={location} has {said[0]}, which rows of one batch can't have each for "
            "themselves: merge it into its model (peft's merge_and_unload) and give that model"
        )
    return dict(config)


def _read_shapes(path: Path, location: str) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor, from the file's header."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise ModelError(
            f"adapter={location} holds no {WEIGHTS}: only safetensors are read, since loading them "
            "runs no code. Save it again with peft's save_pretrained"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{WEIGHTS} of adapter={location} is damaged ({error}): get or train it again"
        ) from None


def _check_base(
    location: str,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    source: ModelSource,
    weights: str,
) -> None:
    """Refuse an adapter that says that it is of another model."""
    if facts:
        if facts.get("weights") != weights:
            raise ModelError(
                f"adapter={location} was trained on {facts.get('model')} with weights "
                f"{str(facts.get('weights'))[:12]}, but {source.name} has {weights[:12]}: steer "
                "that model, or train an adapter of this one with steering finetune"
            )
        return
    named = config.get("base_model_name_or_path") or ""
    # Mirrors of a model differ in their owner; of a local folder the name says nothing.
    is_id = named.count("/") == 1 and not Path(named).is_dir()
    if is_id and not source.local and _last(named) != _last(source.location):
        raise ModelError(
            f"adapter={location} is of {named}, not of {source.location}: steer that model, or "
            f"correct base_model_name_or_path in {CONFIG} if the two are the same"
        )


def _last(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _check_shapes(
    location: str, shapes: Mapping[str, tuple[int, ...]], source: ModelSource, shape: Shape
) -> None:
    """Refuse an adapter of a model of another width or depth."""
    if not shapes:
        raise ModelError(f"adapter={location} holds no weights: train it again")
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
