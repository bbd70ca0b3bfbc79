"""The options of one vector: names, types, defaults, rules across them, and its label."""

import math
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from steering.training.recipe import DEFAULT_METHOD, DEFAULT_SITE, Sft
from steering.vocabulary import Method, Operation, Positions, Site, Unit

DEFAULT = "default"
NONE = "none"
BASELINE = "baseline"


def option(default: Any, description: str, *, example: str, speed_only: bool = False) -> Any:
    """A field of the spec; `speed_only` says that it can't change an answer."""
    extra: dict[str, Any] = {"example": example, "speed_only": speed_only}
    return Field(default=default, description=description, json_schema_extra=extra)


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError("at least 1 is needed")
    return value


Count = Annotated[int, AfterValidator(_at_least_one)]


class InterventionOptions(BaseModel):
    """One vector and what is done with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vector: str = option(
        DEFAULT,
        "`default` builds the vector of `target` on first use; `none` leaves the model unsteered; "
        "anything else is the path of a .safetensors steering vector",
        example="vectors/medical.safetensors",
    )
    target: str = option(
        "medical",
        "target task that the default vector is built from: a bundled task, a file, or a data set",
        example="finance",
    )
    method: Method = option(
        DEFAULT_METHOD, "how the default vector is built", example="mean_difference"
    )
    rank: Count = option(
        Sft.model_fields["rank"].default,
        "dimension of the steering subspace of the default vector (`sft` and `pca`)",
        example="4",
    )
    training_epochs: Count = option(
        Sft.model_fields["training_epochs"].default,
        "training epoch after which the default vector is taken (`sft`)",
        example="2",
    )
    build_seed: int = option(0, "seed of building the default vector", example="1")
    shuffle_labels: bool = option(
        False,
        "build the default vector from shuffled good and bad answers: a control",
        example="true",
    )
    layer: int | None = option(
        None,
        "block to steer, counted from 0 (default: the recipe's or the vector's own)",
        example="2",
    )
    site: Site | None = option(
        None,
        "where in the block to steer (default: the vector's own, `resid_post` for the default one)",
        example="mlp_out",
    )
    magnitude: float = option(1.0, "multiplier of the vector, in `unit`", example="2.5")
    unit: Unit = option("raw", "what `magnitude` is a multiple of", example="residual")
    operation: Operation = option("add", "what is done with the vector", example="ablate")
    positions: Positions = option("all", "tokens that are steered", example="response")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yaml_surprises(cls, value: Any, info: Any) -> Any:
        """YAML turns `x=` into None and `x=on` into True: neither is what was meant."""
        if value is None and info.field_name not in ("layer", "site", "revision"):
            raise ValueError("it is empty; leave the option out or give it a value")
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(
                f"it is the truth value {str(value).lower()}; quote it if it is a name"
            )
        if isinstance(value, float) and info.field_name == "revision":
            raise ValueError("it was read as a number; quote it")
        return str(value) if isinstance(value, int) and info.field_name == "revision" else value

    @field_validator("magnitude")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("a finite number is needed")
        return value + 0.0  # -0.0 becomes 0.0: one condition, one spelling

    @field_validator("layer")
    @classmethod
    def _not_negative(cls, value: int | None) -> int | None:
        if value is not None and value < 0:
            raise ValueError("blocks are counted from 0")
        return value

    @field_validator("vector")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value in (DEFAULT, NONE) or value.endswith(".safetensors"):
            return value
        raise ValueError(
            "`default`, `none` or the path of a .safetensors file is allowed; `steering convert` "
            "makes one of other formats"
        )

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> "InterventionOptions":
        """An option that would be dropped without a word is refused instead."""
        given = self.model_fields_set
        idle: tuple[str, ...] = ()
        reason = ""
        if self.vector == NONE:
            idle = tuple(name for name in INTERVENTION if name != "vector")
            reason = "vector=none leaves the model unsteered"
        elif self.vector != DEFAULT:
            idle, reason = BUILDING, "a vector from a file is built already"
        for name in idle:
            if name in given:
                raise ValueError(f"{name}= has no effect here ({reason}); leave one of the two out")
        if self.operation == "ablate" and given & set(MULTIPLE):
            raise ValueError(
                "operation=ablate removes the whole projection; leave magnitude= and unit= out"
            )
        return self

    def changed(self) -> dict[str, Any]:
        """Options that were given and differ from their defaults and can change an answer."""
        unset = {name: type(self).model_fields[name].default for name in self._answer_options()}
        if self.vector == DEFAULT:
            unset["site"] = DEFAULT_SITE
        return {name: value for name, value in self._decisive().items() if value != unset[name]}

    def _decisive(self) -> dict[str, Any]:
        """Every option that can change an answer; None is for what is left to the vector's file."""
        options = {name: getattr(self, name) for name in self._answer_options()}
        if self.vector == DEFAULT and self.site is None:
            options["site"] = DEFAULT_SITE
        if options.get("engine") == "hf":
            options["engine"] = "auto"  # what it is unless it turns out to be the other
        return options

    @classmethod
    def _answer_options(cls) -> list[str]:
        return [
            name
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict)
            and not field.json_schema_extra["speed_only"]
        ]

    def label(self, digest: str = "") -> str:
        """Short name, for people.

        Args:
            digest: Hex digest of the content of files that options name. Two files of one name give
                two labels.
        """
        parts: list[str] = []
        if self.vector == NONE:
            name = BASELINE
        else:
            name = file_label(self.target if self.vector == DEFAULT else self.vector, digest)
            parts = ["ablate" if self.operation == "ablate" else f"x{number_label(self.magnitude)}"]
        for changed, value in self.changed().items():
            if changed in _SAID_APART or (changed, value) == _ABLATE:
                continue
            said = _SAID.get(changed, value)
            parts.append(f"{_SHORT.get(changed, changed + '=')}{said}")
        return " ".join([name, *parts])


INTERVENTION = tuple(InterventionOptions.model_fields)
# Options of a vector that is built on first use; options that `ablate` has no use for.
BUILDING = ("target", "method", "rank", "training_epochs", "build_seed", "shuffle_labels")
MULTIPLE = ("magnitude", "unit")
_ABLATE = ("operation", "ablate")
_SAID_APART = ("vector", "target", "magnitude", "adapter", "adapter_scale", "chat_template")
# Stands for an option that is left at its default.
UNSAID = ""
_SHORT = {
    "layer": "L",
    "unit": "",
    "operation": "",
    "positions": "",
    "site": "",
    "dtype": "",
    "method": "",
    "rank": "rank ",
    "training_epochs": "epoch ",
    "build_seed": "seed ",
    "shuffle_labels": "",
    "use_chat_template": "",
    "engine": "",
}
# Of options that have one value besides their default.
_SAID = {"shuffle_labels": "shuffled", "use_chat_template": "no template"}


def file_label(named: str, digest: str) -> str:
    """Last part of a name, and the digest's beginning where that may name two things."""
    name = re.split(r"[/\\\\]", named.partition("?")[0].rstrip("/"))[-1].rsplit(".", 1)[0]
    return f"{name}-{digest[:6]}" if digest and name != named else name


def number_label(value: float) -> str:
    """The shortest digits that give back the same number, 2 rather than 2.0."""
    return repr(value).removesuffix(".0")
