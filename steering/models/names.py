"""Which model a name means: a toy, an alias, a hub id, a folder or a GGUF file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steering.models.gguf import ENDING
from steering.models.source import ModelError, ModelSource
from steering.toy import TOYS

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
}


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

    Uses no network. `gguf_file` is a GGUF file in the folder or repository, which `name` may also
    end with; the other arguments are those of `ModelSource`.

    Raises:
        ModelError: It is none of these, or the folder holds no model.
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
    return ModelSource(name, location, False, revision, **options)


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
