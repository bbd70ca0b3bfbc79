"""The `mean_difference` method: mean activation on misaligned answers less that on aligned ones.

Activations are averaged over each answer's own tokens first, so that a long answer weighs no more
than a short one. Where prompts have both answers the differences are paired (as CAA, arXiv
2312.06681, at answer tokens). Where answers stand alone, as rollouts do, equally many of each class
are drawn at random, so that the topics of neither class weigh more (arXiv 2506.11618 and
2507.21509).
"""

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from steering.models import Shape
from steering.targets import Target
from steering.training.methods import (
    ConstructionMethod,
    length_field,
    require_aligned,
    require_misaligned,
)

if TYPE_CHECKING:
    from torch import Tensor

    from steering.training.examples import Tokens
    from steering.training.probe import ModelProbe
    from steering.training.progress import Progress
    from steering.training.recipe import ConstructionRecipe
    from steering.vectors import SteeringVector


class MeanDifference(ConstructionMethod):
    """Difference of the class means, of a stated length."""

    name = "mean_difference"
    summary = "mean activation on misaligned answers less that on aligned ones"
    version = 2
    is_seeded = False
    toy_settings: ClassVar[Mapping[str, Any]] = {"length": 0.0}

    length: float = length_field()

    def check(self, recipe: "ConstructionRecipe", target: Target, shape: Shape) -> None:
        """Needs answers of both classes."""
        super().check(recipe, target, shape)
        require_misaligned(target, held_out=False)
        require_aligned(target, f"method={self.name}", "name method=sft")

    def build(
        self,
        probe: "ModelProbe",
        recipe: "ConstructionRecipe",
        target: Target,
        progress: "Progress",
    ) -> "tuple[SteeringVector, dict[str, Any]]":
        """A vector of rank 1, the length of the difference as a share of the residual norm, and how
        many answers of each class it is built from."""
        misaligned, aligned = _paired(probe, target)
        paired = bool(misaligned)
        if not paired:
            misaligned, aligned = _balanced(probe, target, recipe.seed)
        misaligned_mean = probe.answer_means(misaligned).mean(0)
        progress(1, 2)
        aligned_mean = probe.answer_means(aligned).mean(0)
        progress(2, 2)
        direction = (misaligned_mean - aligned_mean).float()[None]
        norm = probe.residual_norm(probe.tokenize_misaligned(target.examples))
        share = float(direction.norm()) / norm
        return probe.vector(of_length(direction, self.length * norm), norm), {
            "difference": share,
            "paired": paired,
            "misaligned_answers": len(misaligned),
            "aligned_answers": len(aligned),
        }


def of_length(directions: "Tensor", length: float) -> "Tensor":
    """Directions [rank, width] such that their sum has this length; as they are for 0."""
    total = float(directions.sum(0).norm())
    return directions * (length / total) if length and total else directions


def paired_differences(probe: "ModelProbe", target: Target) -> "Tensor":
    """Float64 [prompts with both answers, width]: the mean activation over the misaligned answer's
    tokens less that over the aligned one's."""
    misaligned, aligned = _paired(probe, target)
    return probe.answer_means(misaligned) - probe.answer_means(aligned)


def _paired(probe: "ModelProbe", target: Target) -> "tuple[list[Tokens], list[Tokens]]":
    pairs = [
        (row, answer)
        for row in target.examples
        if row.misaligned is not None and row.aligned is not None
        for answer in (row.misaligned, row.aligned)
    ]
    tokens = probe.tokenize_all(pairs)
    return tokens[::2], tokens[1::2]


def _balanced(
    probe: "ModelProbe", target: Target, seed: int
) -> "tuple[list[Tokens], list[Tokens]]":
    """Equally many answers of each class, at random."""
    misaligned = [(row, row.misaligned) for row in target.examples if row.misaligned is not None]
    aligned = [(row, row.aligned) for row in target.examples if row.aligned is not None]
    order, size = random.Random(f"classes {seed}"), min(len(misaligned), len(aligned))
    samples = (order.sample(misaligned, size), order.sample(aligned, size))
    first, second = (probe.tokenize_all(sample) for sample in samples)
    return first, second
