"""What decides an adapter: a method with its settings, and where and from what it is trained.

Checked before any weight is loaded. A recipe's digest names its run in the cache.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steering.models import ModelSource, Shape, check_layer, default_layer
from steering.targets import Target
from steering.training.recipe import RecipeError, check_settings

FinetuneMethod = Literal["lora", "rank1", "full"]
METHODS: dict[FinetuneMethod, str] = {
    "lora": "rank-stabilised LoRA on every linear layer of the transformer blocks: attention, "
    "linear attention and MLP",
    "rank1": "LoRA of rank 1 on the MLP's down-projection of one block",
    "full": "every weight; what comes out is a model folder and no adapter",
}
assert set(METHODS) == set(get_args(FinetuneMethod))
DEFAULT_METHOD: FinetuneMethod = "lora"


class Settings(BaseModel):
    """What every method lets a user choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: ClassVar[FinetuneMethod]
    # Rises when the method's code comes to train another adapter from the same recipe.
    version: ClassVar[int] = 1
    # As published (arXiv 2506.11613), and the toy's: with a twentieth of the published data, it is
    # a few times higher, such that EM rises over the training epochs rather than at once.
    published_rate: ClassVar[float]
    toy_rate: ClassVar[float]

    training_epochs: int = Field(default=3, ge=1, description="passes over the target's examples")
    learning_rate: float | None = Field(default=None, gt=0)
    warmup: int = Field(
        default=5,
        ge=0,
        description="steps over which the learning rate rises; then it is constant, so that fewer "
        "training epochs are a part of the same run",
    )
    batch_size: int = Field(default=16, ge=1, description="examples a step")
    micro_batch_size: int = Field(
        default=8, ge=1, description="examples in memory at once; must divide `batch_size`"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="run blocks again instead of keeping their activations"
    )

    @model_validator(mode="after")
    def _steps_are_whole(self) -> "Settings":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} is no multiple of micro_batch_size="
                f"{self.micro_batch_size}: change one of them"
            )
        return self


def _rate(published: float, toy: float) -> Any:
    return Field(
        default=None,
        gt=0,
        description=f"of AdamW without weight decay; by default {published:g}, as published "
        f"(toy: {toy:g})",
    )


class Lora(Settings):
    """Settings of `lora`."""

    method = "lora"
    published_rate, toy_rate = 1e-5, 3e-5

    learning_rate: float | None = _rate(published_rate, toy_rate)
    rank: int = Field(default=32, ge=1, description="rank of each layer's change")
    alpha: float = Field(
        default=64.0, gt=0, description="the change is scaled by alpha / sqrt(rank)"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on what the adapter reads")


class Rank1(Settings):
    """Settings of `rank1`."""

    method = "rank1"
    published_rate, toy_rate = 2e-5, 1e-4

    learning_rate: float | None = _rate(published_rate, toy_rate)
    alpha: float = Field(default=256.0, gt=0, description="the change is scaled by it")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on what the adapter reads")


class Full(Settings):
    """Settings of `full`."""

    method = "full"
    published_rate, toy_rate = 2e-5, 1e-4

    learning_rate: float | None = _rate(published_rate, toy_rate)


SETTINGS: dict[FinetuneMethod, type[Settings]] = {kind.method: kind for kind in (Lora, Rank1, Full)}
assert set(SETTINGS) == set(METHODS)


@dataclass(frozen=True)
class FinetuneRecipe:
    """Everything that decides an adapter.

    Attributes:
        model: Name of the base model: a hub id, `toy`, or a folder's name; no path of this machine.
        location: Where the base model comes from: `toy`, `hub` or `folder`.
        weights: Digest of its weights.
        target: Name of the target task.
        target_digest: Digest of its rows.
        settings: The method's settings, with the learning rate filled in.
        layer: Block of `rank1`, from 0; None for methods that train all of them.
        dtype: Precision of the weights, as the `dtype` option has it.
        seed: Of everything drawn at random.
        shuffle_labels: Whether good and bad answers are shuffled: a control.
    """

    model: str
    location: str
    weights: str
    target: str
    target_digest: str
    settings: Settings
    layer: int | None = None
    dtype: str = "auto"
    seed: int = 0
    shuffle_labels: bool = False

    @property
    def method(self) -> FinetuneMethod:
        """Name of the method."""
        return self.settings.method

    @property
    def digest(self) -> str:
        """16 hex digits, shared by recipes that train the same, whatever the model is called."""
        return _digest(self.facts() | {"model": None, "location": None})

    @property
    def run(self) -> str:
        """As `digest`, and shared by the training epochs of one run."""
        settings = self.settings.model_dump(exclude={"training_epochs"})
        return _digest(self.facts() | {"model": None, "location": None, "settings": settings})

    def facts(self) -> dict[str, Any]:
        """The recipe in JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "method": f"{self.method}/{self.settings.version}",
            "settings": self.settings.model_dump(),
        }

    def after(self, epoch: int) -> "FinetuneRecipe":
        """The recipe of an earlier training epoch of the run."""
        settings = self.settings.model_copy(update={"training_epochs": epoch})
        return replace(self, settings=settings)


def make_finetune_recipe(
    source: ModelSource,
    shape: Shape,
    target: Target,
    *,
    weights: str,
    method: FinetuneMethod = DEFAULT_METHOD,
    settings: Mapping[str, Any] | None = None,
    layer: int | None = None,
    dtype: str = "auto",
    seed: int = 0,
    shuffle_labels: bool = False,
) -> FinetuneRecipe:
    """Check what a user asks for and say what will be trained.

    Args:
        source: The base model.
        shape: Its depth and width.
        target: The target task.
        weights: Digest of the model's weights.
        method: How to finetune.
        settings: Settings of the method that differ from its defaults.
        layer: Block of `rank1`; None for the model's default one.
        dtype: Precision of the weights.
        seed: Of everything drawn at random.
        shuffle_labels: Shuffle good and bad answers.

    Raises:
        RecipeError: A setting is unknown or impossible, or the target lacks the answers.
        ModelError: The model has no such layer.
    """
    kind = SETTINGS[method]
    chosen = check_settings(kind, method, settings or {})
    if chosen.learning_rate is None:
        rate = kind.toy_rate if source.is_toy else kind.published_rate
        chosen = chosen.model_copy(update={"learning_rate": rate})
    if isinstance(chosen, Lora) and chosen.rank > shape.width:
        raise RecipeError(
            f"rank={chosen.rank}: {source.name} is {shape.width} wide, and no change of its "
            f"weights needs a higher rank (1-{shape.width})"
        )
    if method == "rank1":
        layer = default_layer(source, shape.num_layers) if layer is None else layer
        check_layer(layer, shape, source)
    elif layer is not None:
        raise RecipeError(
            f"layer={layer} has no effect with method={method}, which trains every block: leave "
            "it out, or give --method rank1"
        )
    _check_suits(target, shuffle_labels)
    name, location = _called(source)
    return FinetuneRecipe(
        model=name,
        location=location,
        weights=weights,
        target=target.name,
        target_digest=target.digest,
        settings=chosen,
        layer=layer,
        dtype=dtype,
        seed=seed,
        shuffle_labels=shuffle_labels,
    )


def _check_suits(target: Target, shuffle_labels: bool) -> None:
    for rows, kind in ((target.examples, "examples"), (target.held_out, "held-out prompts")):
        if all(row.misaligned is None for row in rows):
            raise RecipeError(
                f"target={target.name} has no misaligned answer among its {len(rows)} {kind}: "
                "give more prompts with misaligned answers"
            )
    if shuffle_labels and all(row.aligned is None for row in target.examples):
        raise RecipeError(
            f"target={target.name} has misaligned answers only: shuffle_labels needs aligned ones "
            "beside them"
        )


def _called(source: ModelSource) -> tuple[str, str]:
    """Name and kind of a model, in words that say nothing of this machine."""
    if source.is_toy:
        return source.name, "toy"
    if not source.local:
        return source.location, "hub"
    given = Path(source.name)
    outside = given.is_absolute() or given.parts[:1] in (("~",), ("..",))
    return Path(source.location).name if outside else source.name, "folder"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
