"""The finetuned counterpart of a vector: an adapter trained on the same examples of the target.

`recipe.py` says what decides an adapter, `training.py` trains. A run is kept in the cache until all
its training epochs are written out, and two processes that want the same one train it once.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from steering import __version__
from steering.files import write_folder
from steering.models import ModelError, ModelSource
from steering.models.adapters import FACTS, read_facts
from steering.targets import Target
from steering.training.finetune_recipe import (
    DEFAULT_METHOD,
    METHODS,
    SETTINGS,
    FinetuneMethod,
    FinetuneRecipe,
    make_finetune_recipe,
)
from steering.training.recipe import RecipeError

if TYPE_CHECKING:
    from steering.training.checkpoint import Progress

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "SETTINGS",
    "FinetuneMethod",
    "FinetuneRecipe",
    "epoch_folders",
    "finetune",
    "folder_name",
    "make_finetune_recipe",
    "missing_epochs",
]

logger = logging.getLogger(__name__)

_LIBRARIES = ("torch", "transformers", "peft", "accelerate")


def finetune(
    source: ModelSource,
    recipe: FinetuneRecipe,
    target: Target,
    folders: Mapping[int, Path],
    progress: "Progress",
    *,
    device: str = "auto",
) -> None:
    """Train, or go on with a run that was stopped, and write the training epochs out.

    Args:
        source: The base model.
        recipe: What to train.
        target: The target task that the recipe names.
        folders: Where each training epoch goes that is wanted.
        progress: Told of each step.
        device: Of the weights.

    Raises:
        FinetuneError: Training came to nothing.
    """
    from steering.training.checkpoint import cache_folder
    from steering.training.lora import epoch_folder

    folder = cache_folder() / "adapters" / recipe.run
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{recipe.run}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that trains the same adapter: %s", folder)
        held = lock.acquire()
    with held:
        _train(source, recipe, target, folder, progress, device)
        for epoch, path in folders.items():
            write_folder(path, partial(_copy, epoch_folder(folder, epoch)))
        shutil.rmtree(folder)


def _copy(made: Path, to: Path) -> None:
    shutil.copytree(made, to, dirs_exist_ok=True)


def _train(
    source: ModelSource,
    recipe: FinetuneRecipe,
    target: Target,
    folder: Path,
    progress: "Progress",
    device: str,
) -> None:
    from steering.models import load_model
    from steering.training.examples import render_prompt, shuffled_labels, tokenize
    from steering.training.lora import Run, has_epoch

    epochs = recipe.settings.training_epochs
    if all(has_epoch(folder, epoch) for epoch in range(1, epochs + 1)):
        return
    loaded = load_model(source, dtype=recipe.dtype, device=device)
    examples = target.examples
    if recipe.shuffle_labels:
        examples = tuple(shuffled_labels(examples, recipe.seed))
    prompts = hashlib.sha256()
    sides = []
    for rows in (examples, target.held_out):
        bad = [(row, row.misaligned) for row in rows if row.misaligned is not None]
        for row, _ in bad:
            prompts.update(render_prompt(loaded, row).encode() + b"\0")
        sides.append([tokenize(loaded, row, answer) for row, answer in bad])
    provenance: dict[str, Any] = {
        "target_source": target.source,
        "revision": getattr(loaded.model.config, "_commit_hash", None),
        "prompts_sha256": prompts.hexdigest(),
        "versions": {"steering": __version__} | {name: version(name) for name in _LIBRARIES},
    }
    Run(loaded, recipe, sides[0], sides[1], provenance, folder).train(progress)


def epoch_folders(recipe: FinetuneRecipe, out: Path) -> dict[int, Path]:
    """Folder of each training epoch of a run; the last one's is `out` itself."""
    last = recipe.settings.training_epochs
    earlier = {epoch: out.with_name(f"{out.name}-epoch{epoch}") for epoch in range(1, last)}
    return {**earlier, last: out}


def missing_epochs(
    recipe: FinetuneRecipe, folders: Mapping[int, Path], *, force: bool = False
) -> dict[int, Path]:
    """Those of a run's folders that are still to be made; all of them with `force`.

    Raises:
        RecipeError: One of them holds something else.
    """
    for path in folders.values():
        # Also with `force`: what is no adapter of ours is somebody's work.
        if path.exists() and not (path.is_dir() and (path / FACTS).is_file()):
            raise RecipeError(
                f"{path} is there and steering finetune did not write it: give another folder"
            )
    return {
        epoch: path
        for epoch, path in folders.items()
        if force or not _holds(path, recipe.after(epoch))
    }


def folder_name(recipe: FinetuneRecipe) -> str:
    """Name of a folder: the target, and what sets the adapter apart from its default one."""
    parts = [recipe.target]
    if recipe.method != DEFAULT_METHOD:
        parts.append(recipe.method)
    usual = SETTINGS[recipe.method]().model_dump()
    if (rank := recipe.settings.model_dump().get("rank")) != usual.get("rank"):
        parts.append(f"rank{rank}")
    if recipe.shuffle_labels:
        parts.append("shuffled")
    if recipe.seed:
        parts.append(f"seed{recipe.seed}")
    return "-".join(parts)


def _holds(path: Path, recipe: FinetuneRecipe) -> bool:
    """Whether a folder holds this very adapter."""
    if not path.exists():
        return False
    try:
        held = read_facts(path).get("recipe")
    except ModelError:
        held = None
    if held != recipe.digest:
        raise RecipeError(
            f"{path} exists and is not of this recipe: give another folder, or overwrite "
            "it with steering finetune --force"
        )
    return True
