"""The interventions of each request: the model's own, or those that the request brings."""

import asyncio
import json
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspect_ai.log._samples import sample_active
from inspect_ai.model import GenerateConfig
from inspect_ai.util import display_counter, display_type

from steering.condition import (
    Condition,
    VectorFile,
    VectorRecipe,
    apply_vectors,
    resolve_condition,
)
from steering.engines import Engine
from steering.errors import warn_once
from steering.provider.messages import ProviderError
from steering.provider.scoring import BESIDES
from steering.spec import parse_options
from steering.training.cache import cached_vector

if TYPE_CHECKING:
    from steering.training.progress import Progress
    from steering.vectors import SteeringVector
    from steering.vectors.interventions import Intervention

    # The interventions of a condition, and their description for the log.
    Applied = tuple[tuple[Intervention, ...], dict[str, Any]]


class RequestInterventions:
    """Finds the condition of a request and resolves its interventions, each condition once.

    Attributes:
        condition: The model's own condition, that of every request without an override.
    """

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self._overrides: dict[str, Condition] = {}
        self._building: dict[str, Future[SteeringVector]] = {}
        self._applied: dict[str, Applied] = {}

    def condition_of(self, config: GenerateConfig) -> Condition:
        """The condition of a request; its `extra_body` may hold intervention options as `steering`.

        Raises:
            SteeringError: These options are impossible.
        """
        override = (config.extra_body or {}).get("steering")
        if override is None:
            return self.condition
        if not isinstance(override, dict):
            raise ProviderError(
                f"extra_body holds steering={override!r}; options are needed, such as "
                '{"steering": {"magnitude": 2}}'
            )
        override = {name: value for name, value in override.items() if name not in BESIDES}
        key = json.dumps(override, sort_keys=True)
        if key not in self._overrides:
            spec = parse_options(override, base=self.condition.spec)
            self._overrides[key] = resolve_condition(self.condition.model, spec)
        return self._overrides[key]

    async def apply(self, condition: Condition, engine: Callable[[], Engine]) -> "Applied":
        """A condition's interventions and their description.

        The same condition gets the same objects: the engine tells rows of one condition by that.
        `engine` gives the engine on which a vector is built that is not in the cache.
        """
        if condition.fingerprint not in self._applied:
            vectors = [await self.vector(source, engine) for source in condition.vectors]
            self._applied.setdefault(condition.fingerprint, apply_vectors(condition, vectors))
        return self._applied[condition.fingerprint]

    async def vector(
        self, source: VectorFile | VectorRecipe, engine: Callable[[], Engine]
    ) -> "SteeringVector":
        """The vector of a file, or of a recipe that is built if it is not in the cache."""
        if isinstance(source, VectorFile):
            return source.vector
        return await self._build(source, engine(), self.condition.model.source.name)

    async def _build(self, source: VectorRecipe, engine: Engine, model: str) -> "SteeringVector":
        """The recipe's vector, built once, if it is not in the cache."""
        if source.digest not in self._building:
            progress = _progress(f"building the {source.recipe.target} vector of {model}")
            self._building[source.digest] = cached_vector(
                engine, source.recipe, source.target, progress
            )
        try:
            # Shielded, since other requests wait for it when this one is cancelled.
            return await asyncio.shield(asyncio.wrap_future(self._building[source.digest]))
        except Exception:
            self._building.pop(source.digest, None)
            raise


def warn_of_vectors(condition: Condition) -> None:
    """Say when a file's vector steers another layer or model than that which it was made at."""
    shape, source = condition.model.shape, condition.model.source
    for options, origin in zip(condition.spec.interventions, condition.vectors, strict=True):
        if not isinstance(origin, VectorFile):
            continue
        from steering.vectors.origin import other_model

        name, vector = Path(options.vector).name, origin.vector
        if options.layer not in (None, *vector.layers):
            warn_once(
                f"{name} was built at layer {vector.layers[0]} and is moved to layer "
                f"{options.layer}: if it has no effect there, it may still have one at its own "
                "layer"
            )
        problem = other_model(
            vector,
            (source.name, source.location),
            family=shape.family,
            weights=condition.model.weights,
        )
        if problem:
            warn_once(f"{name} steers {source.name}, and {problem}")


def _progress(caption: str) -> "Progress":
    """A progress bar, or a counter where Inspect's display fills the terminal."""
    fills_terminal = display_type() in ("full", "conversation", "rich")
    if sample_active() is not None and sys.stdout.isatty() and fills_terminal:
        loop = asyncio.get_running_loop()

        async def show(step: int, total: int) -> None:
            display_counter(caption, f"{step}/{total}")

        def report(step: int, total: int) -> None:
            asyncio.run_coroutine_threadsafe(show(step, total), loop)

        return report
    from steering.training.progress import progress_bar

    return progress_bar(caption)
