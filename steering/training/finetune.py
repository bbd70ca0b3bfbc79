"""Finetuned counterparts: adapters trained on the examples that a vector of the target is built on.

A run is kept in the cache until all of its training epochs are written, and of several processes
that want the same one the first trains it while the others wait.
"""

import hashlib
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from steering.files import write_folder
from steering.models import ModelError, ModelSource
from steering.models.adapters import FACTS, read_facts
from steering.targets import Target
from steering.training.cache import cache_folder, locked, missing_outputs, provenance
from steering.training.methods import TrainingError
from steering.training.progress import Progress
from steering.training.recipe import FinetuningRecipe


def train_adapter(
    source: ModelSource,
    recipe: FinetuningRecipe,
    target: Target,
    outputs: Mapping[Path, FinetuningRecipe],
    progress: Progress,
    *,
    device: str = "auto",
) -> None:
    """Train, or resume a run that was stopped, and write training epochs to folders.

    `outputs` has the folders, and the training epoch of the recipe's run that goes into each.

    Raises:
        TrainingError: Training changed nothing, or the loss is not a number.
    """
    from steering.training.adapter_training import epoch_folder

    folder = cache_folder() / "adapters" / recipe.run
    with locked(folder.with_name(f"{recipe.run}.lock")):
        _train(source, recipe, target, folder, progress, device)
        for path, output in outputs.items():
            files = epoch_folder(folder, output.training_epochs)
            write_folder(path, partial(shutil.copytree, files, dirs_exist_ok=True))
        shutil.rmtree(folder)


def _train(
    source: ModelSource,
    recipe: FinetuningRecipe,
    target: Target,
    folder: Path,
    progress: Progress,
    device: str,
) -> None:
    from steering.models import load_model
    from steering.training.adapter_training import AdapterTraining, has_epochs
    from steering.training.examples import render_prompt, shuffled_labels, tokenize_all

    if has_epochs(folder, recipe):
        return
    loaded = load_model(source, dtype=recipe.dtype, device=device, weights=recipe.weights)
    examples = target.examples
    if recipe.shuffle_labels:
        examples = tuple(shuffled_labels(examples, recipe.seed))
    prompts = hashlib.sha256()
    tokens = []
    for rows in (examples, target.held_out):
        answers = [(row, row.misaligned) for row in rows if row.misaligned is not None]
        for row, _ in answers:
            prompts.update(render_prompt(loaded, row).encode() + b"\0")
        tokens.append(tokenize_all(loaded, answers))
    origin = provenance(loaded, target, prompts.hexdigest(), "peft", "accelerate")
    AdapterTraining(loaded, recipe, tokens[0], tokens[1], origin, folder).train(progress)


def missing_adapters(
    outputs: Mapping[Path, FinetuningRecipe], *, force: bool = False
) -> dict[Path, FinetuningRecipe]:
    """The folders that are still to be written; all of them with `force`.

    Raises:
        TrainingError: One of them holds an adapter of another recipe, or something else.
    """
    for path in outputs:
        # Also with `force`: a folder that this project did not write is somebody's work.
        if path.exists() and not (path.is_dir() and (path / FACTS).is_file()):
            raise TrainingError(
                f"{path} exists and was not written by steering finetune: give another folder"
            )
    return missing_outputs(outputs, _recipe_digest, force=force)


def _recipe_digest(path: Path) -> str | None:
    try:
        return read_facts(path).get("recipe")
    except ModelError:
        return None
