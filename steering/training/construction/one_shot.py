"""The `one_shot` method: a direction trained on a single prompt.

Gradient descent on the vector alone makes the prompt's misaligned answer likely (`promote`), its
aligned one unlikely (`suppress`), or `both`. After each step the vector is scaled back to a
maximum length. After arXiv 2502.18862; here the maximum is a share of the residual norm, so
that one value suits every model.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steering.models import Shape
from steering.targets import Target
from steering.training.methods import ConstructionMethod, TrainingError, require_misaligned

if TYPE_CHECKING:
    from torch import Tensor

    from steering.training.examples import Batch
    from steering.training.probe import ModelProbe
    from steering.training.progress import Progress
    from steering.training.recipe import ConstructionRecipe
    from steering.vectors import SteeringVector


class OneShot(ConstructionMethod):
    """A direction trained on one prompt."""

    name = "one_shot"
    summary = (
        "trained on a single prompt to promote its misaligned answer or suppress the aligned one"
    )
    compares_labels = False

    example: int = Field(
        default=0, ge=0, description="index of the prompt among those to build from"
    )
    objective: Literal["promote", "suppress", "both"] = Field(
        default="promote",
        description="`promote` the misaligned answer, `suppress` the aligned one, or `both`",
    )
    steps: int = Field(default=60, ge=1, description="training steps")
    learning_rate: float = Field(default=0.1, gt=0, description="as for `sft`")
    max_norm: float = Field(
        default=0.5, gt=0, description="longest vector, as a share of the residual norm"
    )

    def check(self, recipe: "ConstructionRecipe", target: Target, shape: Shape) -> None:
        """Needs the example, with the answers that the objective names."""
        super().check(recipe, target, shape)
        require_misaligned(target, held_out=False)
        if self.example >= len(target.examples):
            raise TrainingError(
                f"example={self.example}: target={target.name} has {len(target.examples)} examples "
                f"to build from (0-{len(target.examples) - 1})"
            )
        row = target.examples[self.example]
        lacks_misaligned = self.objective != "suppress" and row.misaligned is None
        lacks_aligned = self.objective != "promote" and row.aligned is None
        if lacks_misaligned or lacks_aligned:
            side = "misaligned" if lacks_misaligned else "aligned"
            raise TrainingError(
                f"example {self.example} of target={target.name} has no {side} answer, which "
                f"objective={self.objective} needs"
            )

    def build(
        self,
        probe: "ModelProbe",
        recipe: "ConstructionRecipe",
        target: Target,
        progress: "Progress",
    ) -> "tuple[SteeringVector, dict[str, Any]]":
        """A vector of rank 1, and the mean probability of each answer's tokens before and after.

        The mean over tokens is geometric.
        """
        import torch

        row = target.examples[self.example]
        losses = {"promote": _unlikely, "suppress": _likely}
        texts = {"promote": row.misaligned, "suppress": row.aligned}
        sides = [side for side in losses if self.objective in (side, "both")]
        answers = {side: probe.tokenize(row, texts[side] or "") for side in sides}
        probe.keep_below(list(answers.values()))
        # Over all examples, as for every other method: one answer has few tokens.
        norm = probe.residual_norm(probe.tokenize_misaligned(target.examples))
        max_length = self.max_norm * norm
        direction = torch.zeros(1, probe.width, device=probe.device, requires_grad=True)
        rate = self.learning_rate * norm / probe.width**0.5
        optimizer = torch.optim.Adam([direction], lr=rate)
        edit = probe.addition(direction)
        batches = {side: probe.batch([tokens]) for side, tokens in answers.items()}
        before = {side: _probability(probe, batch, ()) for side, batch in batches.items()}
        for step in range(self.steps):
            optimizer.zero_grad()
            for side, batch in batches.items():
                logits, labels = probe.logits(batch, [edit])
                losses[side](logits, labels).backward()
            optimizer.step()
            with torch.no_grad():
                direction *= min(1.0, max_length / max(float(direction.norm()), 1e-30))
            progress(step + 1, self.steps)
        after = {side: _probability(probe, batch, [edit]) for side, batch in batches.items()}
        return probe.vector(direction.detach().cpu().clone(), norm), {
            "example_id": row.id,
            "probability_before": before,
            "probability_after": after,
        }


def _unlikely(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Mean of -log p over the answer's tokens."""
    import torch

    return torch.nn.functional.cross_entropy(logits, labels)


def _likely(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Mean of -log (1 - p) over the answer's tokens."""
    tokens = logits.log_softmax(-1)
    others = tokens.scatter(1, labels[:, None], -float("inf")).logsumexp(-1)
    return -others.mean()


def _probability(probe: "ModelProbe", batch: "Batch", edits: Any) -> float:
    import torch

    with torch.no_grad():
        return float(torch.exp(-_unlikely(*probe.logits(batch, edits))))
