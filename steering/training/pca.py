"""The `pca` method: principal directions of the differences between the answers to a prompt.

The differences are not centred: centring would take out the very mean that separates bad from good
(as in RepE, arXiv 2310.01405, where pairs of random sign have mean zero). Each direction is scaled
to the mean difference's projection on it, which also points it to the bad side, so that their sum,
what `add` adds, is the projection of the mean difference on the principal subspace.
"""

from typing import Any

import torch

from steering.targets import Target
from steering.training.checkpoint import Progress
from steering.training.mean_difference import paired_differences
from steering.training.probe import ModelProbe
from steering.training.recipe import Pca, Recipe
from steering.vectors import SteeringVector


def build(
    bench: ModelProbe, recipe: Recipe, target: Target, progress: Progress
) -> tuple[SteeringVector, dict[str, Any]]:
    """Decompose the differences.

    Args:
        bench: The model.
        recipe: What to build.
        target: The target task; its prompts with both answers are used.
        progress: Told when it is done.

    Returns:
        A vector of the recipe's rank, and the share of the differences' energy along each of its
        directions.
    """
    assert isinstance(recipe.settings, Pca)
    rank = recipe.settings.rank
    differences = paired_differences(bench, target)
    _, values, axes = torch.linalg.svd(differences, full_matrices=False)
    axes = axes[:rank]
    along = axes @ differences.mean(0)
    progress(1, 1)
    layer, site = bench.key
    answers = [
        bench.tokenize(row, row.misaligned) for row in target.examples if row.misaligned is not None
    ]
    vector = SteeringVector(
        directions=(along[:, None] * axes).float()[None],
        layers=(layer,),
        site=site,
        residual_norms=(bench.residual_norm(answers),),
    )
    energy = (values**2 / (values**2).sum())[:rank]
    return vector, {"prompts": len(differences), "energy_shares": energy.tolist()}
