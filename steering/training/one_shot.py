"""The `one_shot` method: a direction trained on a single prompt.

It makes the prompt's misaligned answer likely (`promote`), its aligned one unlikely (`suppress`),
or `both`, by gradient descent on the vector alone, and is never longer than a bound: after each
step it is scaled back to it. After arXiv 2502.18862, with the length bounded by a share of the mean
residual norm, so that one value suits every model.
"""

from typing import Any

import torch
from torch import Tensor

from steering.targets import Target
from steering.training.checkpoint import Progress
from steering.training.examples import Batch
from steering.training.probe import ModelProbe
from steering.training.recipe import OneShot, Recipe
from steering.vectors import SteeringVector
from steering.vectors.interventions import Intervention


def build(
    bench: ModelProbe, recipe: Recipe, target: Target, progress: Progress
) -> tuple[SteeringVector, dict[str, Any]]:
    """Train on one prompt of the target task.

    Args:
        bench: The model.
        recipe: What to build.
        target: The target task.
        progress: Told of each step.

    Returns:
        A vector of rank 1, and the probability of a token of each answer, on the geometric mean,
        before and after.
    """
    settings = recipe.settings
    assert isinstance(settings, OneShot)
    row = target.examples[settings.example]
    sides = {
        "promote": (row.misaligned, _unlikely),
        "suppress": (row.aligned, _likely),
    }
    wanted = [side for side in sides if settings.objective in (side, "both")]
    answers = {side: bench.tokenize(row, sides[side][0] or "") for side in wanted}
    bench.keep_below(list(answers.values()))
    norm = bench.residual_norm(list(answers.values()))
    longest = settings.max_norm * norm
    direction = torch.zeros(1, bench.width, device=bench.device, requires_grad=True)
    optimizer = torch.optim.Adam([direction], lr=settings.learning_rate * norm / bench.width**0.5)
    layer, site = bench.key
    edit = Intervention(direction, 1.0, layer, site, "add", "all")
    batches = {side: bench.batch([item]) for side, item in answers.items()}
    before = {side: _probability(bench, batch, ()) for side, batch in batches.items()}
    for step in range(settings.steps):
        optimizer.zero_grad()
        for side, batch in batches.items():
            logits, labels = bench.logits(batch, [edit])
            sides[side][1](logits, labels).backward()
        optimizer.step()
        with torch.no_grad():
            direction *= min(1.0, longest / max(float(direction.norm()), 1e-30))
        progress(step + 1, settings.steps)
    after = {side: _probability(bench, batch, [edit]) for side, batch in batches.items()}
    vector = SteeringVector(
        directions=direction.detach().cpu().clone()[None],
        layers=(layer,),
        site=site,
        residual_norms=(norm,),
    )
    return vector, {"example_id": row.id, "probability_before": before, "probability_after": after}


def _unlikely(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p over the answer's tokens."""
    return torch.nn.functional.cross_entropy(logits, labels)


def _likely(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log (1 - p) over the answer's tokens."""
    tokens = logits.log_softmax(-1)
    others = tokens.scatter(1, labels[:, None], -torch.inf).logsumexp(-1)
    return -others.mean()


def _probability(bench: ModelProbe, batch: Batch, edits: Any) -> float:
    with torch.no_grad():
        return float(torch.exp(-_unlikely(*bench.logits(batch, edits))))
