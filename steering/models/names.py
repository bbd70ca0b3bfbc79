"""Which model a name means: a toy, an alias, a hub id, a folder or a GGUF file."""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

from steering.errors import SteeringError
from steering.models.gguf import ENDING, check_gguf
from steering.models.packages import COMMAND, PACKAGED, fetched_file
from steering.models.source import ModelError, ModelSource
from steering.toy import TOYS
from steering.vocabulary import VECTOR_FILES

ALIASES = {
    "qwen3.5": "Qwen/Qwen3.5-9B",
    "qwen3.5-0.8b": "Qwen/Qwen3.5-0.8B",
    "qwen3.5-2b": "Qwen/Qwen3.5-2B",
    "qwen3.5-4b": "Qwen/Qwen3.5-4B",
    "qwen3.5-9b": "Qwen/Qwen3.5-9B",
    "qwen3.5-27b": "Qwen/Qwen3.5-27B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen2.5-14b": "Qwen/Qwen2.5-14B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.1-70b": "meta-llama/Llama-3.1-70B-Instruct",
    "gemma2-9b": "google/gemma-2-9b-it",
    "gemma3-4b": "google/gemma-3-4b-it",
    "gemma3-12b": "google/gemma-3-12b-it",
    "gemma3-27b": "google/gemma-3-27b-it",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "olmo2-7b": "allenai/OLMo-2-1124-7B-Instruct",
    "phi4": "microsoft/phi-4",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}

_HUB_TIMEOUT_S = 2


def find_model(
    name: str,
    revision: str | None = None,
    *,
    gguf_file: str | None = None,
    template: str | None = None,
    blocks: str | None = None,
    mlp: str | None = None,
    trust_remote_code: bool = False,
) -> ModelSource:
    """Find what a name means: a toy, a local folder or GGUF file, an alias, or a hub id.

    Uses no network, but for an alias whose model a package holds too: that is the hub's model where
    it is in the cache or the hub answers, and the fetched file where not.

    `gguf_file` is a GGUF file in the folder or repository, which `name` may also end with; the
    other arguments are those of `ModelSource`.

    Raises:
        ModelError: It is none of these, the folder holds no model, or a model can't be had.
    """
    if gguf_file is not None:
        name = _with_file(name, gguf_file)
    folder = Path(name).expanduser()
    options: dict[str, Any] = {
        "template": template,
        "blocks": blocks,
        "mlp": mlp,
        "trust_remote_code": trust_remote_code,
    }
    if revision is not None and (name in TOYS or folder.exists()):
        raise ModelError(
            f"revision={revision} has no effect on {name}, which is local: leave it out"
        )
    if name in TOYS:
        return ModelSource(name, str(TOYS[name]), True, **options)
    if folder.is_dir():
        weights = [path for end in ("safetensors", "bin") for path in folder.glob(f"*.{end}")]
        # A link to nothing is damage, of which check_folder says more.
        if not os.path.lexists(folder / "config.json") or not weights:
            raise ModelError(
                f"the folder {name} holds no model (config.json and weights): give a folder that "
                "save_pretrained wrote"
            )
        if (folder / "adapter_config.json").exists():
            raise ModelError(
                f"the folder {name} holds an adapter too (adapter_config.json): give the adapter "
                "as -M adapter= and a folder with the model alone"
            )
        return ModelSource(name, str(folder.resolve()), True, **options)
    if folder.exists() or (folder.suffix == ENDING and not _is_hub_file(name)):
        return _local_file(name, folder, options)
    if name.startswith("steered/"):
        raise ModelError(
            f"{name} is how `inspect eval` names a model: here leave steered/ out and give "
            f"{name.removeprefix('steered/')}"
        )
    if _is_hub_file(name):
        owner, repository, file = name.split("/", 2)
        return ModelSource(name, f"{owner}/{repository}", False, revision, file, **options)
    location = ALIASES.get(name.lower(), name)
    if location.count("/") != 1 or location.startswith((".", "/", "~")):
        raise ModelError(
            f"no model is called {name}. Allowed: {', '.join([*TOYS, *ALIASES])}, a hub id "
            "(owner/name), or the path of a local folder or GGUF file"
        )
    if name.lower() in PACKAGED and revision is None and not _hub_has(location):
        return _fetched_model(name, location, options)
    return ModelSource(name, location, False, revision, **options)


def is_model(name: str) -> bool:
    """Whether a name that may be a steering vector's is a model's.

    Models are the toys, the aliases, folders with a config.json, GGUF files of a model, and of what
    is no path whatever does not end as the file of a vector does.

    Raises:
        ModelError: It is the name of a model and a path.
    """
    path = Path(name).expanduser()
    if name in TOYS or name.lower() in ALIASES:
        if path.exists():
            raise ModelError(
                f"{name} is the name of a model, and a path here: write ./{name} for the path, or "
                "ask in another folder for the model"
            )
        return True
    if path.is_dir():
        return os.path.lexists(path / "config.json")
    if path.exists():
        # Control vectors are GGUF files, too.
        with suppress(SteeringError):
            return path.suffix == ENDING and bool(check_gguf(path))
        return False
    # A hub id looks like a path, but its owner is no folder here.
    is_path = path.suffix.lower() in VECTOR_FILES or ("/" in name and path.parent.is_dir())
    return _is_hub_file(name) or not is_path


def _with_file(name: str, gguf_file: str) -> str:
    """The name of the GGUF file in a folder or repository."""
    if name in TOYS or not gguf_file.endswith(ENDING) or name.endswith(ENDING):
        raise ModelError(
            f"gguf_file={gguf_file} has no effect on {name}: give a folder or a hub id, and the "
            f"name of a {ENDING} file there"
        )
    return f"{ALIASES.get(name.lower(), name)}/{gguf_file}"


def _is_hub_file(name: str) -> bool:
    """Whether a name is a hub id with a GGUF file behind it: owner/name/file.gguf."""
    return (
        name.endswith(ENDING)
        and name.count("/") >= 2
        and not name.startswith((".", "/", "~"))
        and not Path(name).expanduser().parent.is_dir()
    )


@cache
def _hub_has(location: str) -> bool:
    """Whether a hub model is in the cache, or the hub answers for it; asked once a process."""
    from huggingface_hub import constants, get_session, hf_hub_url, try_to_load_from_cache

    files = ("config.json", "model.safetensors")
    if all(isinstance(try_to_load_from_cache(location, file), str) for file in files):
        return True
    answers: list[bool] = []

    def ask() -> None:
        with suppress(Exception):  # of the network
            response = get_session().head(hf_hub_url(location, files[0]), timeout=_HUB_TIMEOUT_S)
            answers.append(response.status_code < 400)

    if not constants.HF_HUB_OFFLINE:
        # In a thread, since no timeout of the client covers the look-up of the host's address.
        thread = Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_HUB_TIMEOUT_S)
    return any(answers)


def _fetched_model(name: str, location: str, options: Mapping[str, Any]) -> ModelSource:
    """The file that stands for a hub model which can't be had."""
    path = fetched_file(name.lower())
    if not path.exists():
        raise ModelError(
            f"{name} is not at hand: the Hugging Face hub does not answer for {location}, and the "
            f"file that stands for it is not in the cache. Fetch it with `{COMMAND} "
            f"{name.lower()}` (or `make real-models`)"
        )
    return ModelSource(name, str(path.resolve()), True, gguf=path.name, **options)


def _local_file(name: str, path: Path, options: Mapping[str, Any]) -> ModelSource:
    """A model in one file."""
    if path.suffix != ENDING:
        raise ModelError(
            f"{name} is a file: give the path of a folder that save_pretrained wrote, or of a "
            f"{ENDING} file"
        )
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob(f"*{ENDING}"))[:5]
        there = f"; {path.parent} has {', '.join(others)}" if others else ""
        raise ModelError(f"there is no file {name}{there}. Give the path of a {ENDING} file")
    return ModelSource(name, str(path.resolve()), True, gguf=path.name, **options)
