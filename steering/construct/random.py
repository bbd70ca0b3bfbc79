"""The `random` method: a Gaussian direction exactly as long as another vector.

The control that any effect of a vector is to be held against. Its cosine to the vector it is
matched with is recorded: random directions are not always far away (arXiv 2608.24335).
"""

from pathlib import Path
from typing import Any

import torch

from steering.construct.recipe import Random, Recipe
from steering.construct.training import Progress
from steering.construct.workbench import Workbench
from steering.targets import Target
from steering.vector import SteeringVector, VectorError


def build(
    bench: Workbench, recipe: Recipe, target: Target, progress: Progress
) -> tuple[SteeringVector, dict[str, Any]]:
    """Draw a direction; the recipe's seed says which.

    Args:
        bench: The model.
        recipe: What to build.
        target: The target task of the default vector, if that is what is matched.
        progress: Told of the steps of building that, and when it is done.

    Returns:
        A vector of rank 1, with the length of the matched one and its residual norm; and the
        cosine between the two.

    Raises:
        VectorError: The matched vector stands at another place or is no single direction.
    """
    assert isinstance(recipe.settings, Random)
    matched = _matched(bench, recipe, target, progress)
    direction = torch.randn(
        bench.width, generator=torch.Generator().manual_seed(recipe.seed), dtype=torch.float64
    )
    [length] = matched.lengths
    direction *= length / direction.norm()
    other = matched.directions.sum(1)[0].double()
    vector = SteeringVector(
        directions=direction.float()[None, None],
        layers=matched.layers,
        site=matched.site,
        residual_norms=matched.residual_norms,
    )
    cosine = torch.nn.functional.cosine_similarity(direction, other, dim=0)
    progress(1, 1)
    return vector, {"cosine": float(cosine), "matched_length": length}


def _matched(
    bench: Workbench, recipe: Recipe, target: Target, progress: Progress
) -> SteeringVector:
    from steering.construct import cached_here

    assert isinstance(recipe.settings, Random)
    layer, site = bench.key
    if recipe.settings.match == "default":
        return cached_here(bench.loaded, bench.session, recipe.default(), target, progress)
    matched = SteeringVector.load(Path(recipe.settings.match))
    if (matched.layers, matched.site) != ((layer,), site):
        places = f"layers {list(matched.layers)} {matched.site}"
        raise VectorError(
            f"match={recipe.settings.match} stands at {places}, the control at layer {layer} "
            f"{site}: give layer= and site= of the vector"
        )
    return matched
