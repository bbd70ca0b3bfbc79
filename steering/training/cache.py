"""How steering vectors are made: a recipe in, a `SteeringVector` out.

One module a method, with one function each: `build(bench, recipe, target, progress)` gives the
vector and what was measured of it. A recipe says everything that decides the vector, so its digest
names it in the cache, and two processes that want the same one build it once.
"""

import logging
from concurrent.futures import Future
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from steering import __version__
from steering.engines import Engine
from steering.targets import Target
from steering.training.recipe import (
    DEFAULT_METHOD,
    DEFAULT_SITE,
    SETTINGS,
    Recipe,
    RecipeError,
    make_recipe,
    make_settings,
)

if TYPE_CHECKING:
    from steering.engines._nnsight import Session
    from steering.models import LoadedModel
    from steering.training.checkpoint import Progress
    from steering.vectors import SteeringVector

__all__ = [
    "DEFAULT_METHOD",
    "DEFAULT_SITE",
    "SETTINGS",
    "Recipe",
    "RecipeError",
    "build_vector",
    "cached_here",
    "cached_vector",
    "make_recipe",
    "make_settings",
    "vector_path",
]

logger = logging.getLogger(__name__)

_LIBRARIES = ("torch", "transformers", "nnsight")


def vector_path(recipe: Recipe) -> Path:
    """Where the cache keeps the recipe's vector."""
    from steering.training.checkpoint import cache_folder

    return cache_folder() / "vectors" / f"{recipe.target}-{recipe.digest}.safetensors"


def cached_vector(
    engine: Engine, recipe: Recipe, target: Target, progress: "Progress"
) -> "Future[SteeringVector]":
    """The recipe's vector, from the cache or built now on the engine's thread.

    Args:
        engine: Engine of the model.
        recipe: What to build.
        target: The target task that the recipe names.
        progress: Told of each step, if the vector must be built.
    """
    return engine.call(
        lambda loaded, session: cached_here(loaded, session, recipe, target, progress)
    )


def cached_here(
    loaded: "LoadedModel", session: "Session", recipe: Recipe, target: Target, progress: "Progress"
) -> "SteeringVector":
    """As `cached_vector`, for what runs on the model's thread already."""
    from steering.vectors import SteeringVector

    path = vector_path(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of the run, whose training epochs share a log.
    lock = FileLock(path.with_name(f"{recipe.run}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that builds the same vector: %s", path)
        held = lock.acquire()
    with held:
        if not path.exists():
            build_vector(loaded, session, recipe, target, progress).save(path)
    return SteeringVector.load(path)


def build_vector(
    loaded: "LoadedModel", session: "Session", recipe: Recipe, target: Target, progress: "Progress"
) -> "SteeringVector":
    """Build the recipe's vector now, on the model's thread.

    Args:
        loaded: The model.
        session: Its nnsight session.
        recipe: What to build.
        target: The target task that the recipe names.
        progress: Told of each step.

    Returns:
        The vector, with the recipe and what was measured in its provenance.
    """
    from steering.training.examples import shuffled_labels
    from steering.training.probe import ModelProbe

    bench = ModelProbe(loaded, session, recipe.layer, recipe.site)
    if recipe.shuffle_labels:
        target = replace(target, examples=tuple(shuffled_labels(target.examples, recipe.seed)))
    module = import_module(f"steering.training.{recipe.method}")
    vector, measured = module.build(bench, recipe, target, progress)
    facts = recipe.facts()
    del facts["model"], facts["layer"], facts["site"]
    return replace(
        vector,
        model=recipe.model,
        depth=loaded.shape.num_layers,
        provenance=facts
        | {
            "recipe": recipe.digest,
            "target_source": target.source,
            "revision": getattr(loaded.model.config, "_commit_hash", None),
            "prompts_sha256": bench.prompts.hexdigest(),
            "versions": _versions(),
            "measured": measured,
        },
    )


@cache
def _versions() -> dict[str, str]:
    return {"steering": __version__} | {name: version(name) for name in _LIBRARIES}
