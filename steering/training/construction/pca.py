"""The `pca` method: principal directions of the differences between the answers to a prompt.

The differences are not centred: centring would remove the very mean that separates misaligned from
aligned answers (as in RepE, arXiv 2310.01405, where pairs of random sign have mean zero). Each
direction is scaled to the projection of the mean difference on it, which also points it to the
misaligned side. The sum of the directions, which `add` adds, is then the projection of the mean
difference on the principal subspace.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from steering.models import Shape
from steering.targets import Target
from steering.training.construction.mean_difference import of_length, paired_differences
from steering.training.methods import (
    ConstructionMethod,
    TrainingError,
    length_field,
    require_misaligned,
)

if TYPE_CHECKING:
    from steering.training.probe import ModelProbe
    from steering.training.progress import Progress
    from steering.training.recipe import ConstructionRecipe
    from steering.vectors import SteeringVector


class Pca(ConstructionMethod):
    """Principal directions of paired differences."""

    name = "pca"
    summary = "principal directions of the differences between the answers to a prompt"
    version = 2
    is_seeded = False
    toy_settings: ClassVar[Mapping[str, Any]] = {"length": 0.0}

    length: float = length_field()
    rank: int = Field(default=1, ge=1, description="number of principal directions")

    def check(self, recipe: "ConstructionRecipe", target: Target, shape: Shape) -> None:
        """Needs as many prompts with both answers as directions."""
        super().check(recipe, target, shape)
        require_misaligned(target, held_out=False)
        pairs = sum(None not in (row.misaligned, row.aligned) for row in target.examples)
        if pairs < self.rank:
            raise TrainingError(
                f"target={target.name} has {pairs} prompts with both answers: method=pca with "
                f"rank={self.rank} needs {self.rank} at least"
            )

    def build(
        self,
        probe: "ModelProbe",
        recipe: "ConstructionRecipe",
        target: Target,
        progress: "Progress",
    ) -> "tuple[SteeringVector, dict[str, Any]]":
        """A vector of rank `rank`, and the share of the differences' energy along each direction.

        Only prompts with both answers are used.
        """
        import torch

        differences = paired_differences(probe, target)
        _, values, axes = torch.linalg.svd(differences, full_matrices=False)
        axes = axes[: self.rank]
        projections = axes @ differences.mean(0)
        progress(1, 1)
        norm = probe.residual_norm(probe.tokenize_misaligned(target.examples))
        directions = of_length((projections[:, None] * axes).float(), self.length * norm)
        vector = probe.vector(directions, norm)
        energy = (values**2 / (values**2).sum())[: self.rank]
        return vector, {"prompts": len(differences), "energy_shares": energy.tolist()}
