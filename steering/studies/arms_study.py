"""The study `arms`: the steered model beside everything else that might explain what it does.

From one baseline: vectors of the target task at growing magnitudes, the same model finetuned on the
task, told to behave so or shown examples of it, and controls: contrasts that have nothing to do
with harm, shuffled labels and random directions. Every condition is asked held-out pairs of the
target task, pairs of unrelated questions and neutral answers; where there is a judge, questions,
too. `matched_arms.py` compares the arms and `arm_claims.py` has the claims.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from steering.spec import INTERVENTION
from steering.studies.eval_sets import CHOICES, EvalOptions, make_condition
from steering.studies.finetuned import FinetunedStudy
from steering.studies.grid import StudyConditions
from steering.studies.shards import Shard
from steering.targets import bundled_contrasts

# Of toys, which read 512 tokens, and lose their language at a magnitude of 2.
TOY_DOSES: dict[str, tuple[float, ...]] = {"examples": (1, 4)}

ArmName = Literal["steered", "finetuned", "prompted", "contrast", "shuffled", "random"]


class ArmsStudy(FinetunedStudy):
    """All arms from one baseline; every field may stand in a study file."""

    factor: str = "arms"
    # Which are run; the steered arm is what the others are compared with.
    arms: tuple[ArmName, ...] = get_args(ArmName)
    magnitudes: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    scales: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    # Numbers of examples that a model is shown.
    examples: tuple[int, ...] = (4, 16)
    # Of the controls, whose vectors are shorter or do less: they have to do as much damage.
    control_magnitudes: tuple[float, ...] = (1.0, 2.0, 4.0)
    # Contrasts, a vector of each; empty for all that come with the model's world.
    contrasts: tuple[str, ...] = Field(default=())

    @model_validator(mode="after")
    def _complete(self) -> "ArmsStudy":
        if "vector" in self.options:
            raise ValueError("-M vector= is set by this study itself, which builds every vector")
        if "prompt" in self.options:
            raise ValueError("-M prompt= is set by this study itself: give --examples")
        if "steered" not in self.arms:
            raise ValueError("arms lacks steered, which the others are compared with: add it")
        if not self.tasks and self.choice_sets() == []:
            raise ValueError(
                "-T choices=none leaves nothing to compare arms by: give core or broad"
            )
        for name in ("control_magnitudes", "examples"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or any(value <= 0 for value in values):
                raise ValueError(f"{name} {list(values)} must differ and be above 0")
        return self

    def choice_sets(self) -> list[EvalOptions]:
        """Pairs of unrelated questions, and held-out pairs of the target task."""
        sets = super().choice_sets()
        own = [replace(each, task_args={CHOICES: self.target}) for each in sets]
        return [*sets, *own]

    def conditions(
        self, folder: Path, shard: Shard, progress: Callable[[str], Any] | None = None
    ) -> StudyConditions:
        """All arms, in the last shard, as of `FinetunedStudy`."""
        if not shard.is_last:
            return StudyConditions(())
        finetuned = StudyConditions(())
        loading = {name: value for name, value in self.options.items() if name not in INTERVENTION}
        options: list[dict[str, Any]] = [{"vector": "none"}, *self.steered_options()]
        if "finetuned" in self.arms:
            finetuned = self.finetuned_conditions(loading, folder, progress)
        options += self._prompts() if "prompted" in self.arms else []
        options += self._controls()
        conditions = [make_condition(self.model, loading | each) for each in options]
        return StudyConditions(
            [*conditions, *finetuned.ready], finetuned.num_missing, finetuned.note
        )

    def _prompts(self) -> list[dict[str, Any]]:
        kinds: list[dict[str, Any]] = [{"prompt": "persona"}]
        kinds += [{"prompt": "examples", "prompt_examples": count} for count in self.examples]
        return [
            kind | {"target": self.target} | _seeded(seed)
            for kind, seed in product(kinds, self.build_seeds)
        ]

    def _controls(self) -> list[dict[str, Any]]:
        """Controls at their magnitudes; a contrast is a unit of its own and has one build seed."""
        acting = {k: v for k, v in self.options.items() if k in INTERVENTION}
        kinds: list[dict[str, Any]] = []
        if "contrast" in self.arms:
            is_toy = self.model_source.is_toy
            names = self.contrasts or bundled_contrasts(toy=is_toy)
            kinds += [acting | {"target": name} for name in names]
        of_target = acting | {"target": self.target}
        for seed in self.build_seeds:
            if "shuffled" in self.arms:
                kinds.append(of_target | {"shuffle_labels": True} | _seeded(seed))
            if "random" in self.arms:
                kinds.append(of_target | {"method": "random"} | _seeded(seed))
        return [
            kind | {"magnitude": magnitude}
            for kind, magnitude in product(kinds, sorted(self.control_magnitudes))
        ]


def _seeded(seed: int) -> dict[str, Any]:
    return {"build_seed": seed} if seed else {}
