"""The `sft` method: a vector trained by supervised finetuning while the model is frozen.

The vector starts without effect, acts at one site on every token, and is trained on the
cross-entropy of the misaligned answers. Of rank 1 it is a direction, h + v, after the
steering-vector finetuning of arXiv 2602.07852, with two differences: only answer tokens carry loss,
and every row of a batch is steered. Of a higher rank it is a low-rank map of the residual stream,
h + B^T (A h + b): DiReFT of arXiv 2404.03592, on every token. With `kl_weight` a second term keeps
the steered model close to the unsteered one on neutral prompts (arXiv 2602.07852: the vector stays
narrow).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from steering.models import Shape
from steering.targets import Target, bundled_targets, load_target
from steering.toy import TOYS
from steering.training.methods import (
    ConstructionMethod,
    TrainingError,
    require_misaligned,
    short_digest,
)

if TYPE_CHECKING:
    from steering.training.probe import ModelProbe
    from steering.training.progress import Progress
    from steering.training.recipe import ConstructionRecipe
    from steering.vectors import SteeringVector

OTHERS = "others"


class Sft(ConstructionMethod):
    """Supervised finetuning of the vector alone."""

    name = "sft"
    summary = (
        "trained on the misaligned answers with the model frozen; of rank 1 a direction, of a "
        "higher rank a low-rank map"
    )
    version = 2
    toy_settings: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.01, "batch_size": 16}

    rank: int = Field(
        default=1, ge=1, description="dimension of the steering subspace; from 2 on, a low-rank map"
    )
    training_epochs: int = Field(default=3, ge=1, description="passes over the target's examples")
    learning_rate: float = Field(
        default=0.005,
        gt=0,
        description="largest step of a coordinate, as a share of the residual norm's share of a "
        "coordinate, which is over the square root of the width (toy: 0.01)",
    )
    decay_epochs: int = Field(
        default=0,
        ge=0,
        description="training epochs over which the learning rate falls linearly to zero; 0 keeps "
        "it constant, so that fewer training epochs are a part of the same run",
    )
    batch_size: int = Field(default=8, ge=1, description="examples a step (toy: 16)")
    kl_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the KL divergence from the unsteered model on `neutral` prompts, "
        "which keeps the vector narrow",
    )
    neutral: str = Field(
        default=OTHERS,
        description="target task whose prompts and aligned answers the KL term uses; `others` is "
        "the bundled tasks that the vector is not built from",
    )

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> Self:
        if 0 < self.decay_epochs < self.training_epochs:
            raise ValueError(
                f"training_epochs={self.training_epochs} lies behind decay_epochs="
                f"{self.decay_epochs}, where the learning rate is zero: raise it, or give 0 for a "
                "constant learning rate"
            )
        if "neutral" in self.model_fields_set and not self.kl_weight:
            raise ValueError("neutral has no effect without kl_weight: give both")
        return self

    def check(self, recipe: "ConstructionRecipe", target: Target, shape: Shape) -> None:
        """Needs misaligned answers, to train on and to measure the held-out loss on."""
        super().check(recipe, target, shape)
        require_misaligned(target, held_out=True)

    def inputs(self, recipe: "ConstructionRecipe", shape: Shape) -> dict[str, str]:
        """Digest of the neutral tasks, if the KL term is used."""
        if not self.kl_weight:
            return {}
        tasks = self.neutral_tasks(recipe)
        return {"neutral": short_digest([task.digest for task in tasks])}

    def neutral_tasks(self, recipe: "ConstructionRecipe") -> list[Target]:
        """The tasks whose prompts and aligned answers are neutral to a vector of this recipe.

        Raises:
            TrainingError: They have no aligned answers.
        """
        toy = recipe.model in TOYS
        if self.neutral != OTHERS:
            tasks = [load_target(self.neutral, toy=toy)]
        else:
            names = [name for name in bundled_targets() if name.startswith("toy/") == toy]
            tasks = [task for task in map(load_target, names) if task.name != recipe.target]
        if not any(row.aligned is not None for task in tasks for row in task.examples):
            raise TrainingError(
                f"neutral={self.neutral} has no aligned answers: give a target task with aligned "
                "answers"
            )
        return tasks

    def build(
        self,
        probe: "ModelProbe",
        recipe: "ConstructionRecipe",
        target: Target,
        progress: "Progress",
    ) -> "tuple[SteeringVector, dict[str, Any]]":
        """The vector after the last training epoch, and the losses of each epoch.

        Training resumes from the last epoch that an earlier process has finished. Held-out prompts
        are used to measure the loss only.
        """
        from steering.training.vector_training import VectorTraining

        return VectorTraining(probe, recipe, target).train(progress)
