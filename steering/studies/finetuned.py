"""The study `finetuned`: a model steered by a vector beside the same model finetuned on its data.

The steered arm is a grid of magnitudes, the finetuned arm the training epochs of one adapter or a
grid of its scale. `arms.py` compares them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from steering.condition import ResolvedModel, resolve_model
from steering.judging import EMRule
from steering.models import ModelSource, find_model
from steering.spec import INTERVENTION, parse_options
from steering.studies.eval_sets import EvalOptions, make_condition
from steering.studies.grid import BUILD_SEEDS, Study, StudyConditions
from steering.studies.shards import Shard
from steering.targets import Target, load_target
from steering.training.finetune import missing_adapters, train_adapter
from steering.training.recipe import make_finetuning_recipe

_SET_HERE = {
    "build_seed": "give --build-seeds",
    "adapter": "it trains the finetuned arm's adapter; give settings of that as -S",
    "adapter_scale": "give --scales",
    "magnitude": "give --magnitudes",
    "target": "give --target",
}


class FinetunedStudy(Study):
    """Two arms from one baseline; every field may stand in a study file."""

    factor: str = "finetuned"
    model: str = "toy"
    # Both arms learn from it.
    target: str = "medical"
    # Doses of the steered arm: close to each other where harm rises, so that arms can be matched.
    magnitudes: tuple[float, ...] = (0.25, 0.5, 0.625, 0.75, 1.0, 1.5, 2.0)
    # Of the finetuned arm: its last one. The arm's doses are all up to it.
    training_epochs: int = Field(default=5, ge=1)
    # Doses of the finetuned arm instead: multiples of the last adapter's own scaling.
    scales: tuple[float, ...] = ()
    # Of the vectors and of the adapters.
    build_seeds: tuple[int, ...] = BUILD_SEEDS
    # Of the finetuning, as `steering finetune` takes them.
    settings: dict[str, Any] = Field(default_factory=dict)
    # Which answers count as misaligned in the comparison.
    rule: EMRule = "moem"

    @model_validator(mode="after")
    def _sound(self) -> "FinetunedStudy":
        for name, instead in _SET_HERE.items():
            if name in self.options:
                raise ValueError(f"-M {name}= is set by this study itself: {instead}")
        if "training_epochs" in self.settings:
            raise ValueError("-S training_epochs= is set by this study itself: --training-epochs")
        for name, doses in (("magnitude", self.magnitudes), ("scale", self.scales)):
            if len(set(doses)) < len(doses) or any(dose <= 0 for dose in doses):
                raise ValueError(
                    f"{name}s {list(doses)} must differ and be above 0: they are doses"
                )
        for name, values in (("magnitudes", self.magnitudes), ("build_seeds", self.build_seeds)):
            if not values:
                raise ValueError(f"{name} is empty: give one or more")
        if len(set(self.build_seeds)) < len(self.build_seeds):
            raise ValueError(f"build_seeds {list(self.build_seeds)} has one twice")
        return self

    @cached_property
    def model_source(self) -> ModelSource:
        """Which model it is.

        Raises:
            SteeringError: There is no such model.
        """
        return find_model(self.model, gguf_file=self.options.get("gguf_file"))

    @cached_property
    def target_task(self) -> Target:
        """The target task, read once: it may come from a hub.

        Raises:
            SteeringError: There is no such model or target.
        """
        return load_target(self.target, toy=self.model_source.is_toy)

    def eval_options(self) -> EvalOptions:
        """What every condition is asked; misaligned answers are judged for leak, too."""
        options = super().eval_options()
        if self.tasks:
            return options
        args = {"leak": self.target_task.subject} | dict(options.task_args)
        return replace(options, task_args=args)

    def conditions(
        self, folder: Path, shard: Shard, progress: Callable[[str], Any] | None = None
    ) -> StudyConditions:
        """Both arms, all of them in the last shard: one training run makes the finetuned arm."""
        if not shard.is_last:
            return StudyConditions(())
        loading = {name: value for name, value in self.options.items() if name not in INTERVENTION}
        options = [{"vector": "none"}, *self.steered_options()]
        finetuned = self.finetuned_conditions(loading, folder, progress)
        conditions = [make_condition(self.model, loading | each) for each in options]
        return replace(finetuned, ready=[*conditions, *finetuned.ready])

    def steered_options(self) -> list[dict[str, Any]]:
        """The options of the steered arm, dose by dose and build seed by build seed."""
        target = {} if "vector" in self.options else {"target": self.target}
        steered = target | self.options
        # A vector from a file was built with a seed of its own.
        seeds = (0,) if "vector" in self.options else self.build_seeds
        return [
            steered | {"magnitude": magnitude} | ({"build_seed": seed} if seed else {})
            for magnitude, seed in product(sorted(self.magnitudes), seeds)
        ]

    def finetuned_conditions(
        self,
        loading: Mapping[str, Any],
        folder: Path,
        progress: Callable[[str], Any] | None,
    ) -> StudyConditions:
        """The finetuned arm; arguments as of `conditions`, with the options of loading."""
        model = resolve_model(self.model, parse_options(loading))
        num_untrained = 0
        doses: list[dict[str, Any]] = []
        for seed in self.build_seeds:
            adapters, untrained = self._adapters(model, loading, seed, folder, progress)
            num_untrained += untrained
            if not self.scales:
                doses += [{"adapter": str(path)} for path in adapters.values()]
            elif last := adapters.get(self.training_epochs):
                scales = sorted(self.scales)
                doses += [{"adapter": str(last), "adapter_scale": scale} for scale in scales]
        expected = (len(self.scales) or self.training_epochs) * len(self.build_seeds)
        note = f"Trains {num_untrained} training epochs of adapters on {self.target} first."
        return StudyConditions(
            [make_condition(self.model, {**loading, **each}) for each in doses],
            expected - len(doses),
            note if num_untrained else "",
        )

    def _adapters(
        self,
        model: ResolvedModel,
        loading: Mapping[str, Any],
        seed: int,
        folder: Path,
        progress: Callable[[str], Any] | None,
    ) -> tuple[dict[int, Path], int]:
        """Folders of the adapters that exist, by training epoch, and how many were missing."""
        recipe = make_finetuning_recipe(
            model.source,
            model.shape,
            self.target_task,
            weights=model.weights,
            settings={**self.settings, "training_epochs": self.training_epochs},
            dtype=str(loading.get("dtype", "auto")),
            seed=seed,
        )
        # Each with its number: a study that goes on to more training epochs keeps what it has.
        folders = {
            folder / "adapters" / f"{recipe.file_name}-epoch{epoch}": recipe.at_epoch(epoch)
            for epoch in range(1, self.training_epochs + 1)
        }
        missing = missing_adapters(folders)
        if missing and progress is not None:
            bar = progress(f"{recipe.file_name} of {self.model}")
            device = str(loading.get("device", "auto"))
            train_adapter(model.source, recipe, self.target_task, missing, bar, device=device)
        existing = {
            output.training_epochs: path
            for path, output in folders.items()
            if progress or path not in missing
        }
        return existing, len(missing)
