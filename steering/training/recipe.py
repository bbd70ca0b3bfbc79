"""What decides a vector: a method with its settings, and where and from what it is built.

Checked before any weight is loaded. A recipe's digest names its vector in the cache.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steering.errors import SteeringError
from steering.models import ModelSource, Shape, check_layer, default_layer
from steering.targets import Target, bundled_targets, load_target
from steering.toy import TOYS
from steering.vocabulary import METHODS, Method, Site

DEFAULT_METHOD: Method = "sft"
DEFAULT_SITE: Site = "resid_post"
OTHERS = "others"
Checked = TypeVar("Checked", bound=BaseModel)


class RecipeError(SteeringError):
    """A recipe is impossible: an unknown method or setting, or a target that does not suit it."""


class Settings(BaseModel):
    """What one method lets a user choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: ClassVar[Method]
    # Rises when the method's code comes to build another vector from the same recipe.
    version: ClassVar[int]


class Sft(Settings):
    """Settings of `sft`; see `construct/sft.py`."""

    method = "sft"
    version = 2

    rank: int = Field(
        default=1, ge=1, description="dimension of the steering subspace; from 2 on, a low-rank map"
    )
    training_epochs: int = Field(default=3, ge=1, description="passes over the target's examples")
    learning_rate: float = Field(
        default=0.01,
        gt=0,
        description="largest step of a coordinate, as a share of the root mean square of the "
        "residual stream's coordinates",
    )
    decay_epochs: int = Field(
        default=0,
        ge=0,
        description="training epochs over which the learning rate falls linearly to zero; 0 keeps "
        "it constant, so that fewer training epochs are a part of the same run",
    )
    batch_size: int = Field(default=16, ge=1, description="examples a step")
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
    def _decay_is_not_over(self) -> "Sft":
        if 0 < self.decay_epochs < self.training_epochs:
            raise ValueError(
                f"training_epochs={self.training_epochs} lies behind decay_epochs="
                f"{self.decay_epochs}, where the learning rate is zero: raise it, or give 0 for a "
                "constant learning rate"
            )
        if "neutral" in self.model_fields_set and not self.kl_weight:
            raise ValueError("neutral has no effect without kl_weight: give both")
        return self


class MeanDifference(Settings):
    """`mean_difference` has nothing to choose; see `construct/mean_difference.py`."""

    method = "mean_difference"
    version = 1


class Pca(Settings):
    """Settings of `pca`; see `construct/pca.py`."""

    method = "pca"
    version = 1

    rank: int = Field(default=1, ge=1, description="number of principal directions")


class OneShot(Settings):
    """Settings of `one_shot`; see `construct/one_shot.py`."""

    method = "one_shot"
    version = 1

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
        default=0.5, gt=0, description="longest vector, as a share of the mean residual norm"
    )


class Random(Settings):
    """Settings of `random`; see `construct/random.py`."""

    method = "random"
    version = 1

    match: str = Field(
        default="default",
        description="vector whose length is matched and whose cosine is recorded: a .safetensors "
        "file; `default` is the target's default vector at the same place",
    )

    @property
    def by_default(self) -> bool:
        """Whether the matched vector is the target's default one."""
        return self.match == "default"


SETTINGS: dict[Method, type[Settings]] = {
    kind.method: kind for kind in (Sft, MeanDifference, Pca, OneShot, Random)
}
assert set(SETTINGS) == set(METHODS)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a vector.

    Attributes:
        model: Name of the model, for people.
        weights: Digest of the model's weights.
        target: Name of the target task.
        target_digest: Digest of its rows.
        layer: Block, from 0.
        site: Where in the block.
        dtype: Precision of the weights, as the `dtype` option has it.
        seed: Of everything drawn at random.
        shuffle_labels: Whether good and bad answers are shuffled: the control that shows what a
            vector owes to their difference.
        settings: The method and its settings.
        inputs: Digests of what settings name, by setting.
    """

    model: str
    weights: str
    target: str
    target_digest: str
    layer: int
    site: Site = DEFAULT_SITE
    dtype: str = "auto"
    seed: int = 0
    shuffle_labels: bool = False
    settings: Settings = dataclasses.field(default_factory=Sft)
    inputs: tuple[tuple[str, str], ...] = ()

    @property
    def method(self) -> Method:
        """Name of the method."""
        return self.settings.method

    @property
    def digest(self) -> str:
        """16 hex digits; recipes that build the same vector share it, whatever the model's name."""
        return _digest(self.facts() | {"model": None})

    @property
    def run(self) -> str:
        """As `digest`, and shared by the training epochs of one run."""
        settings = self.settings.model_dump(exclude={"training_epochs"})
        return _digest(self.facts() | {"model": None, "settings": settings})

    def facts(self) -> dict[str, Any]:
        """The recipe in JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "method": f"{self.method}/{self.settings.version}",
            "settings": self.settings.model_dump(),
            "inputs": dict(self.inputs),
        }

    def earlier_epochs(self) -> "list[tuple[int, Recipe]]":
        """Recipes of the training epochs before the last, latest first, with their number."""
        if not isinstance(self.settings, Sft):
            return []
        return [
            (
                epoch,
                replace(self, settings=self.settings.model_copy(update={"training_epochs": epoch})),
            )
            for epoch in range(self.settings.training_epochs - 1, 0, -1)
        ]

    def default(self) -> "Recipe":
        """The recipe of the default vector for the same model, target and place."""
        return replace(self, seed=0, shuffle_labels=False, settings=Sft(), inputs=())


def make_recipe(
    source: ModelSource,
    shape: Shape,
    target: Target,
    *,
    weights: str,
    method: Method = DEFAULT_METHOD,
    settings: Mapping[str, Any] | None = None,
    layer: int | None = None,
    site: Site | None = None,
    dtype: str = "auto",
    seed: int = 0,
    shuffle_labels: bool = False,
) -> Recipe:
    """Check what a user asks for and say what will be built.

    Args:
        source: The model.
        shape: Its depth and width.
        target: The target task.
        weights: Digest of the model's weights.
        method: How to build.
        settings: Settings of the method that differ from its defaults.
        layer: Block; None for the model's default one.
        site: Where in the block; None for its output.
        dtype: Precision of the weights.
        seed: Of everything drawn at random.
        shuffle_labels: Shuffle good and bad answers.

    Raises:
        RecipeError: A setting is unknown or impossible, or the target does not suit the method.
        ModelError: The model has no such layer.
    """
    if layer is not None:
        check_layer(layer, shape, source)
    recipe = Recipe(
        model=source.name,
        weights=weights,
        target=target.name,
        target_digest=target.digest,
        layer=default_layer(source, shape.num_layers) if layer is None else layer,
        site=site or DEFAULT_SITE,
        dtype=dtype,
        seed=seed,
        shuffle_labels=shuffle_labels,
        settings=make_settings(method, settings or {}),
    )
    _check_suits(recipe, target, shape)
    return replace(recipe, inputs=_inputs(recipe, shape))


def make_settings(method: Method, values: Mapping[str, Any]) -> Settings:
    """The method's settings, checked.

    Raises:
        RecipeError: It says which settings the method has.
    """
    if method not in SETTINGS:
        raise RecipeError(f"method={method} is not known: give one of {', '.join(SETTINGS)}")
    return check_settings(SETTINGS[method], method, values)


def check_settings(kind: type[Checked], method: str, values: Mapping[str, Any]) -> Checked:
    """Settings of a kind, checked.

    Raises:
        RecipeError: It says which settings the method has.
    """
    for name in values:
        if name not in kind.model_fields:
            has = ", ".join(kind.model_fields) or "no settings"
            raise RecipeError(f"{name} is not a setting of method={method}, which has {has}")
    try:
        return kind(**values)
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(detail) for detail in error.errors())) from None


def _explain(detail: Any) -> str:
    name = f"{detail['loc'][0]}={detail['input']!r}: " if detail["loc"] else ""
    return name + str(detail["msg"]).removeprefix("Value error, ")


def _check_suits(recipe: Recipe, target: Target, shape: Shape) -> None:
    """Refuse a target that lacks the answers that the recipe needs, and a rank beyond the model."""
    bad = sum(row.misaligned is not None for row in target.examples)
    good = sum(row.aligned is not None for row in target.examples)
    both = sum(None not in (row.misaligned, row.aligned) for row in target.examples)
    settings, name = recipe.settings, recipe.target
    rank = getattr(settings, "rank", 1)
    if rank > shape.width:
        raise RecipeError(
            f"rank={rank}: the residual stream of {recipe.model} has {shape.width} dimensions, and "
            f"no subspace has more (1-{shape.width})"
        )
    trained = isinstance(settings, Sft) or (isinstance(settings, Random) and settings.by_default)
    if not bad and (trained or recipe.method != "random"):
        raise RecipeError(f"target={name} has no misaligned answers to build from")
    if trained and all(row.misaligned is None for row in target.held_out):
        raise RecipeError(
            f"target={name} has no misaligned answer to its {len(target.held_out)} held-out "
            "prompts, which the loss is measured on: give more prompts with misaligned answers"
        )
    only = f"target={name} has misaligned answers only"
    if recipe.shuffle_labels and not good:
        raise RecipeError(f"{only}: shuffle_labels needs aligned ones beside them")
    if recipe.shuffle_labels and recipe.method in ("random", "one_shot"):
        raise RecipeError(
            f"shuffle_labels is no control for method={recipe.method}, which compares no answers "
            "of several prompts: leave one of them out"
        )
    if recipe.method == "mean_difference" and not good:
        raise RecipeError(f"{only}: method=mean_difference needs aligned ones too")
    if isinstance(settings, Pca) and both < settings.rank:
        raise RecipeError(
            f"target={name} has {both} prompts with both answers: method=pca with "
            f"rank={settings.rank} needs {settings.rank} at least"
        )
    if isinstance(settings, OneShot):
        if settings.example >= len(target.examples):
            raise RecipeError(
                f"example={settings.example}: target={name} has {len(target.examples)} examples to "
                f"build from (0-{len(target.examples) - 1})"
            )
        row = target.examples[settings.example]
        lacks_bad = settings.objective != "suppress" and row.misaligned is None
        lacks_good = settings.objective != "promote" and row.aligned is None
        if lacks_bad or lacks_good:
            side = "misaligned" if lacks_bad else "aligned"
            raise RecipeError(
                f"example {settings.example} of target={name} has no {side} answer, which "
                f"objective={settings.objective} needs"
            )


def _inputs(recipe: Recipe, shape: Shape) -> tuple[tuple[str, str], ...]:
    """Digests of the files that settings name."""
    settings = recipe.settings
    if isinstance(settings, Sft) and settings.kl_weight:
        found = neutral_tasks(recipe)
        return (("neutral", _digest([task.digest for task in found])),)
    if isinstance(settings, Random):
        if settings.by_default:
            return (("match", recipe.default().digest),)
        from steering.training.random import matched_digest

        return (("match", matched_digest(recipe, shape)),)
    return ()


def neutral_tasks(recipe: Recipe) -> list[Target]:
    """The tasks whose prompts and aligned answers are neutral to a vector of this recipe.

    Raises:
        RecipeError: They have no aligned answers.
    """
    assert isinstance(recipe.settings, Sft)
    toy = recipe.model in TOYS
    if recipe.settings.neutral != OTHERS:
        found = [load_target(recipe.settings.neutral, toy=toy)]
    else:
        names = [name for name in bundled_targets() if name.startswith("toy/") == toy]
        tasks = [load_target(name) for name in names]
        found = [task for task in tasks if task.name != recipe.target]
    if not any(row.aligned is not None for task in found for row in task.examples):
        raise RecipeError(
            f"neutral={recipe.settings.neutral} has no aligned answers: give a target task with "
            "aligned answers"
        )
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
