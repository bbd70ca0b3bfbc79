"""Vectors are built once: from a recipe to a `SteeringVector`, by way of the cache.

The digest of a recipe names its vector in the cache, and of several processes that want the same
one the first builds it while the others wait.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from steering import __version__
from steering.engines import Engine
from steering.files import cache_folder
from steering.targets import Target
from steering.training.methods import TrainingError
from steering.training.progress import Progress
from steering.training.recipe import ConstructionRecipe, TrainingRecipe

if TYPE_CHECKING:
    from steering.engines._nnsight import Session
    from steering.models import LoadedModel
    from steering.vectors import SteeringVector

logger = logging.getLogger(__name__)

AnyRecipe = TypeVar("AnyRecipe", bound=TrainingRecipe)


def check_cache() -> None:
    """Refuse a cache that can't be written, before a model is loaded for it.

    Raises:
        TrainingError: It can't be created or written.
    """
    folder = cache_folder() / "vectors"
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "no rights to write" if place.is_dir() else "not a folder"
        raise TrainingError(
            f"the cache {folder} can't be written ({place}: {reason}): set STEERING_CACHE to a "
            "folder that can"
        )


def vector_path(recipe: ConstructionRecipe) -> Path:
    """Where the cache keeps the recipe's vector."""
    return cache_folder() / "vectors" / f"{recipe.target}-{recipe.digest}.safetensors"


def cached_vector(
    engine: Engine, recipe: ConstructionRecipe, target: Target, progress: Progress
) -> "Future[SteeringVector]":
    """The recipe's vector, from the cache or built now on the engine's thread.

    `target` is the task that the recipe names; `progress` is called after each step of building.
    """
    return engine.call(
        lambda loaded, session: cached_here(loaded, session, recipe, target, progress)
    )


def cached_here(
    loaded: "LoadedModel",
    session: "Session",
    recipe: ConstructionRecipe,
    target: Target,
    progress: Progress,
) -> "SteeringVector":
    """As `cached_vector`, for code that runs on the model's thread already."""
    from steering.vectors import SteeringVector

    path = vector_path(recipe)
    # The training epochs of a run share its checkpoint, so they share the lock.
    with locked(path.with_name(f"{recipe.run}.lock")):
        vector = read_cached(recipe)
        if vector is None:
            if path.exists():
                logger.warning(
                    "%s is damaged or of another recipe: the vector is built again", path
                )
            build_vector(loaded, session, recipe, target, progress).save(path)
            vector = SteeringVector.load(path)
    return vector


def read_cached(recipe: ConstructionRecipe) -> "SteeringVector | None":
    """The recipe's vector in the cache.

    None if there is none, or if what stands in its place is damaged or of another recipe: a file's
    name proves nothing.
    """
    from steering.vectors import SteeringVector, VectorError

    try:
        vector = SteeringVector.load(vector_path(recipe))
    except VectorError:
        return None
    place = {"layer": vector.layers[0], "site": vector.site}
    return vector if recipe.describes({**vector.provenance, **place}) else None


def build_vector(
    loaded: "LoadedModel",
    session: "Session",
    recipe: ConstructionRecipe,
    target: Target,
    progress: Progress,
) -> "SteeringVector":
    """Build the recipe's vector now, on the model's thread; its provenance has the recipe and what
    was measured."""
    from steering.training.examples import shuffled_labels
    from steering.training.probe import ModelProbe

    probe = ModelProbe(loaded, session, recipe.layer, recipe.site)
    if recipe.shuffle_labels:
        target = replace(target, examples=tuple(shuffled_labels(target.examples, recipe.seed)))
    vector, measured = recipe.method.build(probe, recipe, target, progress)
    facts = recipe.facts()
    del facts["model"], facts["layer"], facts["site"]
    origin = provenance(loaded, target, probe.prompts.hexdigest(), "nnsight")
    return replace(
        vector,
        model=recipe.model,
        depth=loaded.shape.num_layers,
        provenance=facts | origin | {"recipe": recipe.digest, "measured": measured},
    )


def provenance(
    loaded: "LoadedModel", target: Target, prompts_sha256: str, *libraries: str
) -> dict[str, Any]:
    """Where a vector or adapter comes from, beside its recipe.

    `libraries` are those that took part besides torch and transformers.
    """
    names = ("torch", "transformers", *libraries)
    return {
        "target_source": target.source,
        "revision": getattr(loaded.model.config, "_commit_hash", None),
        "prompts_sha256": prompts_sha256,
        "versions": {"steering": __version__} | {name: version(name) for name in names},
    }


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file of a run; if another process holds it, say so and wait.

    Raises:
        TrainingError: The cache can't be written to.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hold = lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that builds the same: %s", path.stem)
        hold = lock.acquire()
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    with hold:
        try:
            yield
        except OSError as error:  # a disk that fills up while a vector is built
            raise _unwritable(path.parent, error) from None


def _unwritable(folder: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"the cache {folder} can't be written to ({error.strerror}): free some space, or set "
        "STEERING_CACHE to another folder"
    )


def missing_outputs(
    outputs: Mapping[Path, AnyRecipe],
    recipe_digest: Callable[[Path], str | None],
    *,
    force: bool = False,
) -> dict[Path, AnyRecipe]:
    """The files or folders that are still to be written; all of them with `force`.

    `recipe_digest` reads the digest of the recipe from one of them; None if it has none.

    Raises:
        TrainingError: One of them exists and was built by another recipe.
    """
    missing = {}
    for path, recipe in outputs.items():
        if force or not path.exists():
            missing[path] = recipe
        elif recipe_digest(path) != recipe.digest:
            raise TrainingError(
                f"{path} exists and is not of this recipe: give another --out, or overwrite it "
                "with --force"
            )
    return missing
