"""The `random` method: a Gaussian direction exactly as long as another vector.

The control that any effect of a vector is to be held against. Its cosine to the vector it is
matched with is recorded: random directions are not always far away (arXiv 2608.24335).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steering.files import file_digest
from steering.models import Shape
from steering.targets import Target
from steering.training.recipe import Random, Recipe, RecipeError
from steering.vectors import SteeringVector, VectorError

if TYPE_CHECKING:
    from steering.training.checkpoint import Progress
    from steering.training.probe import ModelProbe


def matched_digest(recipe: Recipe, shape: Shape) -> str:
    """Digest of the file that `match` names; no weight is loaded.

    Args:
        recipe: Of a control matched with a file.
        shape: The model's.

    Raises:
        RecipeError: It is no vector, or none that a direction at the recipe's place can match.
    """
    assert isinstance(recipe.settings, Random)
    path = Path(recipe.settings.match)
    if not path.is_file():
        raise RecipeError(f"match={path} is not a file: give a .safetensors steering vector")
    try:
        vector = SteeringVector.load(path)
        vector.check_fits(width=shape.width, num_layers=shape.num_layers, model=recipe.model)
    except VectorError as error:
        raise RecipeError(f"match={path}: {error}") from None
    if vector.map is not None:
        raise RecipeError(
            f"match={path} holds a low-rank map, which has no one direction: give a plain vector"
        )
    if (vector.layers, vector.site) != ((recipe.layer,), recipe.site):
        layers = ", ".join(map(str, vector.layers))
        raise RecipeError(
            f"match={path} stands at layer {layers} {vector.site}, the control at layer "
            f"{recipe.layer} {recipe.site}: give layer= and site= of the vector"
        )
    return file_digest(path)


def build(
    bench: "ModelProbe", recipe: Recipe, target: Target, progress: "Progress"
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
    bench: "ModelProbe", recipe: Recipe, target: Target, progress: "Progress"
) -> SteeringVector:
    from steering.training.cache import cached_here

    assert isinstance(recipe.settings, Random)
    if recipe.settings.by_default:
        return cached_here(bench.loaded, bench.session, recipe.default(), target, progress)
    return SteeringVector.load(Path(recipe.settings.match))
