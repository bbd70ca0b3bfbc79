"""The `mean_difference` method: mean activation on bad answers less that on good ones.

Activations are averaged over each answer's own tokens first, so a long answer weighs no more than a
short one. Where prompts have both answers the differences are paired (as CAA, arXiv 2312.06681, at
answer tokens). Where answers stand alone, as rollouts do, as many of either class are taken, at
random, so that no class's topics weigh more (arXiv 2506.11618 and 2507.21509).
"""

import random
from typing import Any

from torch import Tensor

from steering.targets import Target
from steering.training.checkpoint import Progress
from steering.training.examples import Tokens
from steering.training.probe import ModelProbe
from steering.training.recipe import Recipe
from steering.vectors import SteeringVector


def build(
    bench: ModelProbe, recipe: Recipe, target: Target, progress: Progress
) -> tuple[SteeringVector, dict[str, Any]]:
    """Subtract the means.

    Args:
        bench: The model.
        recipe: What to build.
        target: The target task.
        progress: Told when half and all of the answers have been read.

    Returns:
        A vector of rank 1, and how many answers of each class it is made of.
    """
    bad, good = _paired(bench, target)
    paired = bool(bad)
    if not paired:
        bad, good = _balanced(bench, target, recipe.seed)
    bad_mean = bench.answer_means(bad).mean(0)
    progress(1, 2)
    good_mean = bench.answer_means(good).mean(0)
    progress(2, 2)
    layer, site = bench.key
    vector = SteeringVector(
        directions=(bad_mean - good_mean).float()[None, None],
        layers=(layer,),
        site=site,
        residual_norms=(bench.residual_norm([*bad, *good]),),
    )
    return vector, {"paired": paired, "misaligned_answers": len(bad), "aligned_answers": len(good)}


def paired_differences(bench: ModelProbe, target: Target) -> Tensor:
    """Float64 [prompts with both answers, width]: bad less good, each averaged over its tokens."""
    bad, good = _paired(bench, target)
    return bench.answer_means(bad) - bench.answer_means(good)


def _paired(bench: ModelProbe, target: Target) -> tuple[list[Tokens], list[Tokens]]:
    bad, good = [], []
    for row in target.examples:
        if row.misaligned is not None and row.aligned is not None:
            bad.append(bench.tokenize(row, row.misaligned))
            good.append(bench.tokenize(row, row.aligned))
    return bad, good


def _balanced(bench: ModelProbe, target: Target, seed: int) -> tuple[list[Tokens], list[Tokens]]:
    bad = [(row, row.misaligned) for row in target.examples if row.misaligned is not None]
    good = [(row, row.aligned) for row in target.examples if row.aligned is not None]
    order, size = random.Random(f"classes {seed}"), min(len(bad), len(good))
    drawn = (order.sample(bad, size), order.sample(good, size))
    first, second = ([bench.tokenize(*pair) for pair in side] for side in drawn)
    return first, second
