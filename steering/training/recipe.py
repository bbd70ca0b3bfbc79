"""Recipes: everything that decides a vector or an adapter, checked before any weight is loaded.

A recipe is a method with its settings, a model, a target task, and where and how they meet. Its
digest names the result in the cache and in files.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from steering.models import ModelSource, Shape, check_layer, default_layer
from steering.targets import Target
from steering.toy import TOYS
from steering.training.construction import CONSTRUCTION_METHODS, default_method, methods_with
from steering.training.finetuning import DEFAULT_METHOD as DEFAULT_FINETUNING
from steering.training.finetuning import FINETUNING_METHODS
from steering.training.methods import (
    ConstructionMethod,
    FinetuningMethod,
    Method,
    TrainingError,
    make_method,
    short_digest,
)
from steering.vocabulary import RESIDUAL_NORM, Site

DEFAULT_SITE: Site = "resid_post"


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """What vectors and adapters have in common.

    Attributes:
        model: Name of the model, for people.
        weights: Digest of the model's weights.
        target: Name of the target task.
        target_digest: Digest of its rows.
        layer: Block, from 0; None if all of them are trained.
        dtype: Precision of the weights, as the `dtype` option has it.
        seed: Of everything drawn at random.
        shuffle_labels: Whether misaligned and aligned answers are shuffled: the control that shows
            how much of an effect is due to their difference.
        method: The method with its settings.
        date: The date that the model's chat template prints, if it prints any.
    """

    # Fields that do not change the result: they say where the same weights were found.
    _names: ClassVar[tuple[str, ...]] = ("model",)

    model: str
    weights: str
    target: str
    target_digest: str
    layer: int | None
    dtype: str = "auto"
    seed: int = 0
    shuffle_labels: bool = False
    method: Method
    date: str | None = None

    @property
    def digest(self) -> str:
        """16 hex digits, the same for recipes with the same result, whatever the model's name."""
        return short_digest(self.facts() | dict.fromkeys(self._names))

    @property
    def run(self) -> str:
        """As `digest`, and the same for all training epochs of one run."""
        settings = self.method.model_dump(exclude={"training_epochs"})
        return short_digest(self.facts() | dict.fromkeys(self._names) | {"settings": settings})

    @property
    def training_epochs(self) -> int:
        """Number of training epochs; 1 for methods that have none."""
        return int(getattr(self.method, "training_epochs", 1))

    @property
    def file_name(self) -> str:
        """The target, and what differs from the default recipe for it."""
        parts = [self.target]
        if self.method.name != self._default_method():
            parts.append(self.method.name)
        rank, default = (
            getattr(method, "rank", 1) for method in (self.method, type(self.method)())
        )
        if rank != default:
            parts.append(f"rank{rank}")
        if self.shuffle_labels:
            parts.append("shuffled")
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    def _default_method(self) -> str:
        """The method that a file name leaves out."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """The recipe in JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.date is None:  # as in recipes of before, whose digests stay as they were
            del fields["date"]
        return fields | {
            "method": f"{self.method.name}/{self.method.version}",
            "settings": self.method.model_dump(),
        }

    def describes(self, facts: Mapping[str, Any]) -> bool:
        """Whether a result with these facts is this recipe's, whatever the model's name."""
        expected = json.loads(json.dumps(self.facts() | {"recipe": self.digest}))
        return all(
            facts.get(name) == value for name, value in expected.items() if name not in self._names
        )

    def at_epoch(self, epoch: int) -> Self:
        """The recipe of a training epoch of the same run, counted from 1."""
        if epoch == self.training_epochs:
            return self
        return replace(self, method=self.method.model_copy(update={"training_epochs": epoch}))

    def outputs(self, out: Path) -> dict[Path, Self]:
        """Where the result of each training epoch goes, the last epoch, into `out`, first."""
        # The name of a folder may have other dots, as in qwen3.5.
        suffix = ".safetensors" if out.suffix == ".safetensors" else ""
        stem = out.name.removesuffix(suffix)
        earlier = {
            out.with_name(f"{stem}-epoch{epoch}{suffix}"): self.at_epoch(epoch)
            for epoch in range(self.training_epochs - 1, 0, -1)
        }
        return {out: self} | earlier


@dataclass(frozen=True, kw_only=True)
class ConstructionRecipe(TrainingRecipe):
    """Everything that decides a steering vector.

    Attributes:
        site: Where in the block.
        inputs: Digests of what settings name, by setting.
        contrast: Whether the target is a contrast, whose vector has nothing to do with harm.
    """

    layer: int
    method: ConstructionMethod
    site: Site = DEFAULT_SITE
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    contrast: bool = False

    def _default_method(self) -> str:
        return default_method(toy=self.model in TOYS)

    def facts(self) -> dict[str, Any]:
        """The recipe in JSON values."""
        # Steps, lengths and units follow from it: with another kind of norm it is another vector.
        facts = super().facts() | {"norm_kind": RESIDUAL_NORM}
        if not self.contrast:  # as in recipes of before, whose digests stay as they were
            del facts["contrast"]
        return facts

    def default(self) -> "ConstructionRecipe":
        """The recipe of the default vector for the same model, target and place."""
        kind = CONSTRUCTION_METHODS[self._default_method()]
        method = kind().for_model(toy=self.model in TOYS)
        return replace(self, seed=0, shuffle_labels=False, method=method, inputs={})


@dataclass(frozen=True, kw_only=True)
class FinetuningRecipe(TrainingRecipe):
    """Everything that decides an adapter, or a finetuned model.

    Attributes:
        location: Where the base model comes from: `toy`, `hub` or `folder`.
    """

    _names: ClassVar[tuple[str, ...]] = ("model", "location")
    method: FinetuningMethod
    location: str

    def _default_method(self) -> str:
        return DEFAULT_FINETUNING


def make_construction_recipe(
    source: ModelSource,
    shape: Shape,
    target: Target,
    *,
    weights: str,
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    layer: int | None = None,
    site: Site | None = None,
    dtype: str = "auto",
    seed: int = 0,
    shuffle_labels: bool = False,
) -> ConstructionRecipe:
    """Check what a user asks for and say which vector will be built.

    `weights` is the digest of the model's weights, `settings` are those that differ from the
    method's defaults; without `method`, `layer` and `site` the model's default ones are taken.

    Raises:
        TrainingError: A setting is unknown or impossible, or the target does not suit the method.
        ModelError: The model has no such layer.
    """
    if layer is not None:
        check_layer(layer, shape, source)
    settings = settings or {}
    if method is None:
        method = default_method(toy=source.is_toy)
        _check_default_has(settings, method, source)
    recipe = ConstructionRecipe(
        model=source.name,
        weights=weights,
        target=target.name,
        target_digest=target.digest,
        layer=default_layer(source, shape.num_layers) if layer is None else layer,
        site=site or DEFAULT_SITE,
        dtype=dtype,
        seed=seed,
        shuffle_labels=shuffle_labels,
        date=source.date,
        contrast=target.is_contrast,
        method=make_method(CONSTRUCTION_METHODS, method, settings).for_model(toy=source.is_toy),
    )
    recipe.method.check(recipe, target, shape)
    return replace(recipe, inputs=recipe.method.inputs(recipe, shape))


def make_finetuning_recipe(
    source: ModelSource,
    shape: Shape,
    target: Target,
    *,
    weights: str,
    method: str = DEFAULT_FINETUNING,
    settings: Mapping[str, Any] | None = None,
    layer: int | None = None,
    dtype: str = "auto",
    seed: int = 0,
    shuffle_labels: bool = False,
) -> FinetuningRecipe:
    """Check what a user asks for and say which adapter will be trained.

    Arguments are those of `make_construction_recipe`; `layer` is that of a method that trains one.

    Raises:
        TrainingError: A setting is unknown or impossible, or the target lacks the answers or is a
            contrast.
        ModelError: The model has no such layer.
    """
    if target.is_contrast:
        raise TrainingError(
            f"target={target.name} is a contrast, of which vectors are built and no adapters: give "
            "a target task"
        )
    adapter_method = make_method(FINETUNING_METHODS, method, settings or {}).for_model(source)
    name, location = _portable_name(source)
    recipe = FinetuningRecipe(
        model=name,
        location=location,
        weights=weights,
        target=target.name,
        target_digest=target.digest,
        method=adapter_method,
        layer=adapter_method.resolve_layer(layer, source, shape),
        dtype=dtype,
        seed=seed,
        shuffle_labels=shuffle_labels,
        date=source.date,
    )
    adapter_method.check(recipe, target, shape)
    return recipe


def _check_default_has(settings: Mapping[str, Any], method: str, source: ModelSource) -> None:
    """Refuse a setting of other methods where none was named."""
    for setting in settings:
        others = methods_with(setting)
        if others and method not in others:
            names = " or ".join(f"method={name}" for name in others)
            raise TrainingError(
                f"method={method}, the default of {source.name}, has no {setting}: name {names}, "
                f"or leave {setting} out"
            )


def _portable_name(source: ModelSource) -> tuple[str, str]:
    """Name and kind of a model, without any path of this machine."""
    if source.is_toy:
        return source.name, "toy"
    if not source.local:
        return "/".join(filter(None, (source.location, source.gguf))), "hub"
    path = Path(source.name)
    outside = path.is_absolute() or path.parts[:1] in (("~",), ("..",))
    return Path(source.location).name if outside else source.name, "folder"
