"""How steering vectors are made: a recipe in, a `SteeringVector` out.

One module a method. A recipe says everything that decides the vector, so its digest names it
in the cache, and two processes that want the same one build it once.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from steering import __version__
from steering.engines import Engine
from steering.models import ModelSource, Shape, default_layer
from steering.targets import Target
from steering.vocabulary import Site

if TYPE_CHECKING:
    from steering.engines._nnsight import Session
    from steering.models import LoadedModel
    from steering.vector import SteeringVector

logger = logging.getLogger(__name__)

# The number rises when the method's code comes to build another vector from the same recipe.
METHOD = "sft/1"

Progress = Callable[[int, int], None]
"""Told (steps done, steps in all) after each step."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a vector built by the `sft` method.

    Attributes:
        model: Name of the model, for people.
        weights: Digest of the model's weights.
        target: Name of the target task.
        target_digest: Digest of its file.
        layer: Block, from 0.
        site: Where in the block.
        dtype: Precision of the weights, as the `dtype` option has it.
        training_epochs: Passes over the target's examples.
        learning_rate: Largest step a coordinate takes, as a share of the root mean square of the
            residual stream's coordinates at the site, so that one value suits every model.
        batch_size: Examples a step.
        seed: Of the order of the examples.
    """

    model: str
    weights: str
    target: str
    target_digest: str
    layer: int
    site: Site = "resid_post"
    dtype: str = "auto"
    training_epochs: int = 3
    learning_rate: float = 0.02
    batch_size: int = 16
    seed: int = 0

    @property
    def digest(self) -> str:
        """16 hex digits; recipes that build the same vector share it, whatever the model's name."""
        decisive = dataclasses.asdict(self) | {"model": None, "method": METHOD}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def default_recipe(
    source: ModelSource,
    shape: Shape,
    target: Target,
    *,
    weights: str,
    layer: int | None,
    site: Site,
    dtype: str,
) -> Recipe:
    """The recipe that is used when a user names no vector; `weights` is the weights' digest."""
    return Recipe(
        model=source.name,
        weights=weights,
        target=target.name,
        target_digest=target.digest,
        layer=default_layer(source, shape.num_layers) if layer is None else layer,
        site=site,
        dtype=dtype,
    )


def vector_cache() -> Path:
    """Folder of built vectors; the environment variable STEERING_CACHE moves it."""
    root = os.environ.get("STEERING_CACHE")
    return (Path(root) if root else user_cache_path("steering", appauthor=False)) / "vectors"


def cached_vector(
    engine: Engine, recipe: Recipe, target: Target, progress: Progress
) -> "Future[SteeringVector]":
    """The recipe's vector, from the cache or built now on the engine's thread.

    Args:
        engine: Engine of the model.
        recipe: What to build.
        target: The target task that the recipe names.
        progress: Told of each step, if the vector must be built.
    """
    from steering.construct.sft import build_sft
    from steering.vector import SteeringVector

    path = vector_cache() / f"{recipe.target}-{recipe.digest}.safetensors"

    def work(loaded: "LoadedModel", session: "Session") -> SteeringVector:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            logger.warning("waiting for another process that builds the same vector: %s", path)
            held = lock.acquire()
        with held:
            if not path.exists():
                build_sft(loaded, session, recipe, target, progress).save(path)
        return SteeringVector.load(path)

    return engine.call(work)


def provenance(recipe: Recipe, **measured: float | int) -> dict[str, object]:
    """What a vector's file says of its making."""
    return {"method": METHOD, "version": __version__} | dataclasses.asdict(recipe) | measured
