"""What every method of building a vector or finetuning a model has, and how methods are found.

A method is one class in one file: its settings are the fields, `check` says what it requires of the
target and the model, and it builds. The files lie in `construction/` and `finetuning/`; a file that
is added there is a method that every option, command and page knows. Importing this room brings no
torch: methods import it where they build.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steering.errors import SteeringError
from steering.models import ModelSource, Shape
from steering.targets import Target

if TYPE_CHECKING:
    import torch
    from torch import nn

    from steering.models import LoadedModel
    from steering.training.probe import ModelProbe
    from steering.training.progress import Progress
    from steering.training.recipe import ConstructionRecipe, FinetuningRecipe
    from steering.vectors import SteeringVector

AnyMethod = TypeVar("AnyMethod", bound="Method")


class TrainingError(SteeringError):
    """A vector or adapter can't be built: a setting, the target or a file is not suitable."""


class Method(BaseModel):
    """A method with its settings.

    Attributes:
        name: As options and files name it.
        summary: What it builds, for help and documentation.
        version: Increment it when the method's output changes for the same recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    summary: ClassVar[str]
    version: ClassVar[int] = 1


class ConstructionMethod(Method):
    """A method of building a steering vector.

    Attributes:
        compares_labels: Whether shuffled labels are a control: the method reads the answers of
            several prompts.
        is_seeded: Whether another seed gives another vector from the same rows.
        toy_settings: Defaults of the toys, where they differ from those of the fields, which are
            for language models.
    """

    compares_labels: ClassVar[bool] = True
    is_seeded: ClassVar[bool] = True
    toy_settings: ClassVar[Mapping[str, Any]] = {}

    def for_model(self, *, toy: bool) -> Self:
        """The method with the toys' defaults, if it is for a toy, in place of what is not given."""
        missing = set(self.toy_settings) - self.model_fields_set if toy else set()
        return self.model_copy(update={name: self.toy_settings[name] for name in missing})

    def check(self, recipe: "ConstructionRecipe", target: Target, shape: Shape) -> None:
        """Refuse a target or a model that the method can't build from.

        Raises:
            TrainingError: The message says what is missing.
        """
        rank = getattr(self, "rank", 1)
        if rank > shape.width:
            raise TrainingError(
                f"rank={rank}: the residual stream of {recipe.model} has {shape.width} dimensions, "
                f"and no subspace has more (1-{shape.width})"
            )
        if recipe.shuffle_labels and not self.compares_labels:
            raise TrainingError(
                f"shuffle_labels is no control for method={self.name}, which does not compare the "
                "answers of several prompts: leave one of them out"
            )
        if recipe.shuffle_labels:
            require_aligned(target, "shuffle_labels")

    def inputs(self, recipe: "ConstructionRecipe", shape: Shape) -> dict[str, str]:
        """Digests of what settings name (files, other tasks), by setting."""
        return {}

    def build(
        self,
        probe: "ModelProbe",
        recipe: "ConstructionRecipe",
        target: Target,
        progress: "Progress",
    ) -> "tuple[SteeringVector, dict[str, Any]]":
        """Build the vector, on the model's thread.

        Args:
            probe: The model at the recipe's layer and site.
            recipe: What to build.
            target: The target task, its labels shuffled already if the recipe says so.
            progress: Called after each step.

        Returns:
            The vector, and what was measured while building it, in JSON values.
        """
        raise NotImplementedError


class FinetuningMethod(Method):
    """A method of training a finetuned counterpart, with the settings that all of them have.

    Attributes:
        published_rate: Default learning rate, as published (arXiv 2506.11613).
        toy_rate: Default learning rate of the toy. It has a twentieth of the published data, and
            its rate is a few times higher, such that EM rises over the training epochs rather than
            at once.
        autocast: Whether weights are float32 and run in the precision of the checkpoint.
    """

    published_rate: ClassVar[float]
    toy_rate: ClassVar[float]
    autocast: ClassVar[bool] = False

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
    def _steps_are_whole(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size={self.batch_size} is no multiple of micro_batch_size="
                f"{self.micro_batch_size}: change one of them"
            )
        return self

    def for_model(self, source: ModelSource) -> Self:
        """The method with the learning rate of this model, if none was given."""
        if self.learning_rate is not None:
            return self
        rate = self.toy_rate if source.is_toy else self.published_rate
        return self.model_copy(update={"learning_rate": rate})

    def resolve_layer(self, layer: int | None, source: ModelSource, shape: Shape) -> int | None:
        """The block that is trained; None if all of them are.

        Raises:
            TrainingError: A layer was given to a method that trains every block.
        """
        if layer is not None:
            raise TrainingError(
                f"layer={layer} has no effect with method={self.name}, which trains every block: "
                "leave it out, or give a method of one block (rank1)"
            )
        return None

    def check(self, recipe: "FinetuningRecipe", target: Target, shape: Shape) -> None:
        """Refuse a target or a model that the method can't train on.

        Raises:
            TrainingError: The message says what is missing.
        """
        require_misaligned(target, held_out=True)
        if recipe.shuffle_labels:
            require_aligned(target, "shuffle_labels")

    def prepare(self, loaded: "LoadedModel", recipe: "FinetuningRecipe") -> "nn.Module":
        """The module to train, whose parameters that need a gradient are trained.

        The model may be changed.
        """
        raise NotImplementedError

    def write(
        self,
        module: Any,
        loaded: "LoadedModel",
        recipe: "FinetuningRecipe",
        folder: Path,
        dtype: "torch.dtype",
    ) -> None:
        """Write what was trained into an empty folder: by default an adapter in peft's format.

        `module` is what `prepare` returned, `dtype` the precision of the checkpoint.
        """
        from steering.training.adapter_training import write_adapter

        write_adapter(module, recipe.model, folder)


def learning_rate_field(published: float, toy: float) -> Any:
    """The field `learning_rate` of a finetuning method, which names its defaults."""
    return Field(
        default=None,
        gt=0,
        description=f"of AdamW without weight decay; by default {published:g}, as published "
        f"(toy: {toy:g})",
    )


def length_field() -> Any:
    """The field `length` of a construction method whose vector has no natural length."""
    return Field(
        default=0.1,
        ge=0,
        description="length of the vector at magnitude 1, as a share of the residual norm; 0 keeps "
        "that of the difference (as on the toy)",
    )


def find_methods(package: str, kind: type[AnyMethod], default: str) -> dict[str, type[AnyMethod]]:
    """The methods whose files lie in a package, by name: the default one, then the others.

    Every module of the package defines one class, whose base class is `kind`.
    """
    paths = import_module(package).__path__
    modules = [import_module(f"{package}.{module.name}") for module in iter_modules(paths)]
    methods = {
        entry.name: entry
        for module in modules
        for entry in vars(module).values()
        if isinstance(entry, type)
        and issubclass(entry, kind)
        and entry.__module__ == module.__name__
    }
    return {default: methods.pop(default)} | methods


def make_method(
    methods: Mapping[str, type[AnyMethod]], name: str, settings: Mapping[str, Any]
) -> AnyMethod:
    """A method with these settings; the others take their defaults.

    Raises:
        TrainingError: There is no such method or setting, or a setting is impossible.
    """
    if name not in methods:
        raise TrainingError(f"method={name} is unknown: give one of {', '.join(methods)}")
    fields = methods[name].model_fields
    for setting in settings:
        if setting not in fields:
            allowed = ", ".join(fields) or "no settings"
            raise TrainingError(f"{setting} is not a setting of method={name}, which has {allowed}")
    try:
        return methods[name](**settings)
    except ValidationError as error:
        raise TrainingError("; ".join(map(_explain, error.errors()))) from None


def require_misaligned(target: Target, *, held_out: bool) -> None:
    """Refuse a target without misaligned answers to train on.

    With `held_out`, held-out ones are needed too, to measure the loss on.

    Raises:
        TrainingError: There are none.
    """
    parts = [("examples", target.examples), ("held-out prompts", target.held_out)]
    for name, rows in parts if held_out else parts[:1]:
        if all(row.misaligned is None for row in rows):
            raise TrainingError(
                f"target={target.name} has no misaligned answer among its {len(rows)} {name}: give "
                "more prompts with misaligned answers"
            )


def require_aligned(target: Target, reason: str, instead: str = "") -> None:
    """Refuse a target without aligned answers, which the option `reason` needs.

    `instead` is what a user can do but add some; without it, leave the option out.

    Raises:
        TrainingError: There are none.
    """
    if all(row.aligned is None for row in target.examples):
        raise TrainingError(
            f"target={target.name} has misaligned answers only: {reason} needs aligned ones too; "
            f"add some, or {instead or f'leave {reason} out'}"
        )


def short_digest(value: Any) -> str:
    """16 hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _explain(detail: Any) -> str:
    """One problem that pydantic found, in one sentence."""
    setting = f"{detail['loc'][0]}={detail['input']!r}: " if detail["loc"] else ""
    return setting + str(detail["msg"]).removeprefix("Value error, ")
