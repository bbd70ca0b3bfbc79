"""Build steering vectors and finetuned counterparts: what `steering build` and `finetune` do.

Names and options in, vectors or folders out. Whatever can be checked is checked before a weight is
loaded, and a run that was stopped resumes from its last finished training epoch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from steering.condition import ResolvedModel, resolve_model
from steering.errors import no_such_option
from steering.models import EVERY
from steering.spec import OPTIONS, SteeringSpec, parse_options
from steering.targets import Target, load_target
from steering.training.cache import cached_vector, missing_outputs, read_cached, vector_path
from steering.training.finetune import missing_adapters, train_adapter
from steering.training.finetuning import DEFAULT_METHOD as DEFAULT_FINETUNING
from steering.training.methods import TrainingError
from steering.training.progress import progress_bar
from steering.training.recipe import (
    ConstructionRecipe,
    make_construction_recipe,
    make_finetuning_recipe,
)
from steering.vocabulary import Site

if TYPE_CHECKING:
    from steering.vectors import SteeringVector

# Options of loading a model, which building takes as keyword arguments.
LOADING = [option.name for option in OPTIONS.values() if option.flag]


def build(
    model: str,
    target: str = "medical",
    *,
    method: str | None = None,
    layer: int | None = None,
    site: Site | None = None,
    training_epochs: int | None = None,
    rank: int | None = None,
    seed: int = 0,
    shuffle_labels: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    **loading: Any,
) -> "SteeringVector":
    """Build the steering vector of a target task, or take it from the cache.

    Args:
        model: toy, an alias, a hub id, a folder or a GGUF file.
        target: Target task: a bundled one, a file, or a data set.
        method: Name of the construction method; None for the model's default one, which is
            mean_difference, and sft of a toy.
        layer: Block, from 0; None for the model's default one.
        site: Where in the block; None for its output.
        training_epochs: Passes over the examples; None for the method's default.
        rank: Dimension of the steering subspace; None for the method's default.
        seed: Of everything drawn at random.
        shuffle_labels: Shuffle misaligned and aligned answers: a control.
        settings: Other settings of the method, by name.
        out: Folder or .safetensors file, into which the vector of every training epoch is written;
            None writes no file besides the cache.
        force: Overwrite vectors of other recipes.
        **loading: How the model is loaded: dtype, device, revision, chat_template,
            use_chat_template, blocks.

    Returns:
        The vector of the last training epoch.

    Raises:
        SteeringError: An option is unknown or impossible, or a file would be overwritten.
    """
    vectors = build_files(
        model,
        target,
        seeds=(seed,),
        out=out,
        force=force,
        settings=settings,
        training_epochs=training_epochs,
        rank=rank,
        method=method,
        layer=layer,
        site=site,
        shuffle_labels=shuffle_labels,
        loading=loading,
    )
    return next(iter(vectors.values()))


def build_files(
    model: str,
    target: str,
    *,
    seeds: Sequence[int],
    out: str | Path | None,
    force: bool = False,
    loading: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    training_epochs: int | None = None,
    rank: int | None = None,
    **options: Any,
) -> "dict[Path, SteeringVector]":
    """As `build`, for several seeds; all files are checked before anything is built.

    `options` are those of `steering.training.recipe.make_construction_recipe`.

    Returns:
        The vectors by file. Of each seed the last training epoch comes first.
    """
    from steering.engines import shared_engine
    from steering.vectors import SteeringVector

    settings = _merge_settings(settings, training_epochs=training_epochs, rank=rank)
    spec, resolved, task = _resolve(model, target, loading or {})
    recipes = [
        make_construction_recipe(
            resolved.source,
            resolved.shape,
            task,
            weights=resolved.weights,
            dtype=spec.dtype,
            seed=seed,
            settings=settings,
            **options,
        )
        for seed in dict.fromkeys(seeds)
    ]
    if out is None:
        outputs = {vector_path(recipe): recipe for recipe in recipes}
        missing = {path: recipe for path, recipe in outputs.items() if read_cached(recipe) is None}
    else:
        outputs = _vector_files(recipes, Path(out))
        missing = missing_outputs(outputs, _recipe_digest, force=force)
    if missing:
        _check_writable(next(iter(missing)).parent)
        engine = shared_engine(
            resolved.source, dtype=spec.dtype, device=spec.device, weights=resolved.weights
        )
    for path, recipe in missing.items():
        # The last epoch comes first; building it puts the others into the checkpoint.
        bar = progress_bar(f"{path.stem} of {model}")
        vector = cached_vector(engine, recipe, task, bar).result()
        if out is not None:
            vector.save(path)
    return {path: SteeringVector.load(path) for path in outputs}


def finetune(
    model: str,
    target: str = "medical",
    *,
    method: str = DEFAULT_FINETUNING,
    layer: int | None = None,
    training_epochs: int | None = None,
    rank: int | None = None,
    seed: int = 0,
    shuffle_labels: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    **loading: Any,
) -> list[Path]:
    """Train the finetuned counterpart of a vector of the same target task.

    Arguments that are not listed are those of `build`.

    Args:
        method: Name of the finetuning method.
        layer: Block of a method that trains one; None for that of a vector.
        rank: Rank of a LoRA adapter; None for the method's default.
        out: Folder of the last training epoch; None for adapters/ and the target's name. Earlier
            epochs go into folders beside it.

    Returns:
        The folder of each training epoch, the last one first; `load_model(model, adapter=folder)`
        takes one.

    Raises:
        SteeringError: An option is unknown or impossible, a folder would be overwritten, or
            training changed nothing.
    """
    _check_device(str(loading.get("device", "auto")))
    spec, resolved, task = _resolve(model, target, loading)
    recipe = make_finetuning_recipe(
        resolved.source,
        resolved.shape,
        task,
        weights=resolved.weights,
        method=method,
        settings=_merge_settings(settings, training_epochs=training_epochs, rank=rank),
        layer=layer,
        dtype=spec.dtype,
        seed=seed,
        shuffle_labels=shuffle_labels,
    )
    folder = Path("adapters", recipe.file_name) if out is None else Path(out)
    outputs = recipe.outputs(folder)
    if missing := missing_adapters(outputs, force=force):
        _check_writable(folder.parent)
        bar = progress_bar(f"{folder.name} of {model}")
        train_adapter(resolved.source, recipe, task, missing, bar, device=spec.device)
    return list(outputs)


def _resolve(
    model: str, target: str, loading: Mapping[str, Any]
) -> tuple[SteeringSpec, ResolvedModel, Target]:
    for name in loading:
        if name not in LOADING:
            raise TrainingError(no_such_option(name, LOADING, "of building"))
    spec = parse_options(loading)
    resolved = resolve_model(model, spec)
    return spec, resolved, load_target(target, toy=resolved.source.is_toy)


def _merge_settings(settings: Mapping[str, Any] | None, **options: Any) -> dict[str, Any]:
    """The settings, and those that have an option of their own."""
    overrides = {name: value for name, value in options.items() if value is not None}
    for name in overrides:
        if name in (settings or {}):
            raise TrainingError(f"{name} is given twice: leave one of them out")
    return {**(settings or {}), **overrides}


def _vector_files(
    recipes: Sequence[ConstructionRecipe], out: Path
) -> dict[Path, ConstructionRecipe]:
    """Where each training epoch of each recipe goes."""
    if out.suffix == ".safetensors":
        if len(recipes) > 1:
            raise TrainingError(f"--out {out} is one file for several seeds: give a folder")
        return recipes[0].outputs(out)
    files: dict[Path, ConstructionRecipe] = {}
    for recipe in recipes:
        files |= recipe.outputs(out / f"{recipe.file_name}.safetensors")
    return files


def _recipe_digest(path: Path) -> str | None:
    from steering.vectors import SteeringVector, VectorError

    try:
        return SteeringVector.load(path).provenance.get("recipe")
    except VectorError:
        return None


def _check_writable(folder: Path) -> None:
    """Create the folder that is written to, so that a failure does not come after the build."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"--out {folder} can't be created ({error}): give another folder"
        ) from None
    try:
        # Permissions are not enough: a file system may refuse all the same.
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TrainingError(
            f"--out {folder} can't be written to ({error.strerror}): give another folder"
        ) from None


def _check_device(device: str) -> None:
    name, _, index = device.partition(":")
    if device == EVERY:
        raise TrainingError(
            f"device={EVERY}: training runs on one device; leave it out, or name one. A model that "
            "is too large for it fits with dtype=nf4"
        )
    if index not in ("", "0"):
        raise TrainingError(
            f"device={device}: training runs on the first device that it sees; give {name} and "
            f"choose the device by its environment variable, as in CUDA_VISIBLE_DEVICES={index}"
        )
