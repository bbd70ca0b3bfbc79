"""Every option of a steered model: one strict, frozen model in which -M and extra_body meet.

It owns the names, types, defaults and rules across options, the short label that people read and
the fingerprint that keeps conditions apart. It never knows torch, Inspect, files, or how many
blocks a model has: those checks belong to `models.py` and `vector.py`.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from steering.construct.recipe import DEFAULT_METHOD, DEFAULT_SITE, Sft
from steering.errors import SteeringError
from steering.vocabulary import Method, Operation, Positions, Site, Unit

DEFAULT = "default"
NONE = "none"


class SpecError(SteeringError):
    """An option of a steered model is unknown, of the wrong type, or at odds with another."""


def _option(default: Any, description: str, *, example: str, speed_only: bool = False) -> Any:
    """A field of the spec; `speed_only` says that it can't change an answer."""
    extra: dict[str, Any] = {"example": example, "speed_only": speed_only}
    return Field(default=default, description=description, json_schema_extra=extra)


class Intervention(BaseModel):
    """One vector and what is done with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vector: str = _option(
        DEFAULT,
        "`default` builds the vector of `target` on first use; `none` leaves the model unsteered; "
        "anything else is the path of a .safetensors steering vector",
        example="vectors/medical.safetensors",
    )
    target: str = _option(
        "medical",
        "target task that the default vector is built from: a bundled task, a file, or a data set",
        example="finance",
    )
    method: Method = _option(
        DEFAULT_METHOD, "how the default vector is built", example="mean_difference"
    )
    rank: int = _option(
        Sft.model_fields["rank"].default,
        "dimension of the steering subspace of the default vector (`sft` and `pca`)",
        example="4",
    )
    training_epochs: int = _option(
        Sft.model_fields["training_epochs"].default,
        "training epoch after which the default vector is taken (`sft`)",
        example="2",
    )
    build_seed: int = _option(0, "seed of building the default vector", example="1")
    shuffle_labels: bool = _option(
        False,
        "build the default vector from shuffled good and bad answers: a control",
        example="true",
    )
    layer: int | None = _option(
        None,
        "block to steer, counted from 0 (default: the recipe's or the vector's own)",
        example="2",
    )
    site: Site | None = _option(
        None,
        "where in the block to steer (default: the vector's own, `resid_post` for the default one)",
        example="mlp_out",
    )
    magnitude: float = _option(1.0, "multiplier of the vector, in `unit`", example="2.5")
    unit: Unit = _option("raw", "what `magnitude` is a multiple of", example="residual")
    operation: Operation = _option("add", "what is done with the vector", example="ablate")
    positions: Positions = _option("all", "tokens that are steered", example="response")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yaml_surprises(cls, value: Any, info: Any) -> Any:
        """YAML turns `x=` into None and `x=on` into True: neither is what was meant."""
        if value is None and info.field_name not in ("layer", "site", "revision"):
            raise ValueError("it is empty; leave the option out or give it a value")
        if isinstance(value, bool) and info.field_name not in ("thinking", "shuffle_labels"):
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
        raise ValueError("`default`, `none` or the path of a .safetensors file is allowed")

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> "Intervention":
        """An option that would be dropped without a word is refused instead."""
        given = self.model_fields_set
        idle: tuple[str, ...] = ()
        reason = ""
        if self.vector == NONE:
            idle = tuple(name for name in INTERVENTION if name != "vector")
            reason = "vector=none leaves the model unsteered"
        elif self.vector != DEFAULT:
            idle, reason = _BUILDING, "a vector from a file is built already"
        for name in idle:
            if name in given:
                raise ValueError(f"{name}= has no effect here ({reason}); leave one of the two out")
        if self.operation == "ablate" and given & set(_MULTIPLE):
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
        return options

    @classmethod
    def _answer_options(cls) -> list[str]:
        return [name for name in answer_options() if name in cls.model_fields]

    def label(self, digest: str = "") -> str:
        """Short name, for people.

        Args:
            digest: Hex digest of the content of files that options name. Two files of one name give
                two labels.
        """
        parts: list[str] = []
        if self.vector == NONE:
            name = "baseline"
        else:
            named = self.target if self.vector == DEFAULT else self.vector
            name = re.split(r"[/\\\\]", named.partition("?")[0])[-1].rsplit(".", 1)[0]
            if name != named:
                name += f"-{digest[:6]}"
            parts = ["ablate" if self.operation == "ablate" else f"x{_number(self.magnitude)}"]
        for option, value in self.changed().items():
            if option in ("vector", "target", "magnitude") or (option, value) == _ABLATE:
                continue
            said = "shuffled" if option == "shuffle_labels" else value
            parts.append(f"{_SHORT.get(option, option + '=')}{said}")
        return " ".join([name, *parts])


class SteeringSpec(Intervention):
    """What a model is asked to do to its own activations, and how it is loaded.

    Made by `parse_options`; all values are final and checked against one another. The intervention
    options are those of the first vector.
    """

    thinking: bool = _option(False, "let a thinking model think before it answers", example="true")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "auto", "precision of the weights; `auto` is the checkpoint's own", example="bfloat16"
    )
    revision: str | None = _option(None, "branch, tag or commit of a hub model", example="main")
    device: str = _option("auto", "device of the weights", example="cuda:1", speed_only=True)
    batch_size: int = _option(
        32, "rows that are decoded together at the most", example="64", speed_only=True
    )

    _more: tuple[Intervention, ...] = PrivateAttr(())

    @field_validator("batch_size")
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value < 1:
            raise ValueError("at least 1 row is needed")
        return value

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What is done with each vector, in the order in which they act; empty when unsteered."""
        return (self, *self._more) if self.steered else ()

    @property
    def steered(self) -> bool:
        """Whether anything is done to activations at all."""
        return self.vector != NONE

    def label(self, digest: str = "", *more: str) -> str:
        """Short name of the condition, for people; one digest for each vector's files."""
        labels = [super().label(digest)]
        digests = [*more, *[""] * len(self._more)]
        labels += [part.label(own) for part, own in zip(self._more, digests, strict=False)]
        return " + ".join(labels)

    def given(self) -> dict[str, Any]:
        """The options that were given, as `parse_options` takes them."""
        parts = self.interventions or (self,)
        found: dict[str, Any] = {}
        for name in sorted({name for part in parts for name in part.model_fields_set}):
            values = [
                getattr(part, name) if name in part.model_fields_set else _UNSAID for part in parts
            ]
            several = name in INTERVENTION and len(parts) > 1
            found[name] = values if several else values[0]
        return found

    def fingerprint(self, **identity: str) -> str:
        """Digest of everything in the spec that can change an answer.

        Args:
            **identity: Digests of what the spec can't see: the weights, the vectors' content.

        Returns:
            16 hex digits. Specs that mean the same have the same one.
        """
        options = self._decisive()
        if not self.steered:
            options = {k: v for k, v in options.items() if k not in INTERVENTION} | {"vector": NONE}
        content: dict[str, Any] = {"options": options, "identity": identity}
        if self._more:
            content["more"] = [part._decisive() for part in self._more]
        canonical = json.dumps(content, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


INTERVENTION = tuple(Intervention.model_fields)
_BUILDING = ("target", "method", "rank", "training_epochs", "build_seed", "shuffle_labels")
_MULTIPLE = ("magnitude", "unit")
_ABLATE = ("operation", "ablate")
_UNSAID = ""
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
}


def _number(value: float) -> str:
    """The shortest digits that give back the same number, 2 rather than 2.0."""
    return repr(value).removesuffix(".0")


def answer_options() -> list[str]:
    """Names of the options that can change an answer, in the order of the spec."""
    return [
        name
        for name, field in SteeringSpec.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and not field.json_schema_extra["speed_only"]
    ]


def parse_options(options: Mapping[str, Any], base: SteeringSpec | None = None) -> SteeringSpec:
    """Check options and make the spec of them.

    Several vectors, as a list or separated by commas, act in their order. Every other option of an
    intervention then holds for each of them that it can have an effect on, or is a list too, with
    an entry for each vector; an empty entry leaves the option at its default.

    Args:
        options: Raw values, as -M (YAML) or a request's extra_body gives them.
        base: Spec that the options override for one request. Only the intervention can be
            overridden. Naming a `vector` replaces the whole intervention, any other option changes
            just itself; `operation=ablate` lets go of the magnitude, for which it has no use.

    Raises:
        SpecError: An option is unknown, of the wrong type, impossible, or without effect.
    """
    allowed: list[str] = list(SteeringSpec.model_fields if base is None else INTERVENTION)
    for name in options:
        if name not in allowed:
            raise SpecError(_unknown(name, allowed))
    kept: dict[str, Any] = {}
    if base is not None:
        replaced: tuple[str, ...] = INTERVENTION if "vector" in options else ()
        if options.get("operation") == "ablate":
            replaced += _MULTIPLE
        kept = {name: value for name, value in base.given().items() if name not in replaced}
    first, *others = _dealt({**kept, **options})
    try:
        spec = SteeringSpec(**first)
        spec._more = tuple(Intervention(**part) for part in others)
    except ValidationError as error:
        raise SpecError("; ".join(_explain(detail) for detail in error.errors())) from None
    return spec


def _dealt(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each vector; those of the model stay with the first."""
    vectors = _several(options.get("vector", DEFAULT))
    if len(vectors) == 1:
        return [{**options, **({"vector": vectors[0]} if "vector" in options else {})}]
    if NONE in vectors:
        raise SpecError("vector=none leaves the model unsteered: no other vector may stand beside")
    operations = _column("operation", options.get("operation", _UNSAID), len(vectors))
    parts: list[dict[str, Any]] = [{} for _ in vectors]
    for name, value in options.items():
        if name not in INTERVENTION:
            parts[0][name] = value
            continue
        column = _column(name, value, len(vectors))
        if len(_several(value)) == 1:
            fits = [
                not (name in _BUILDING and vector != DEFAULT)
                and not (name in _MULTIPLE and operation == "ablate")
                for vector, operation in zip(vectors, operations, strict=True)
            ]
            # An option that fits none is left in, for the rules to refuse.
            column = [
                entry if fit or not any(fits) else _UNSAID
                for entry, fit in zip(column, fits, strict=True)
            ]
        for part, entry in zip(parts, column, strict=True):
            if entry != _UNSAID:
                part[name] = entry
    return parts


def _several(value: Any) -> list[Any]:
    """The entries of a list, or of a text with commas; a single value is a list of itself."""
    if isinstance(value, str) and "," in value:
        return [entry.strip() for entry in value.split(",")]
    return list(value) if isinstance(value, (list, tuple)) and value else [value]


def _column(name: str, value: Any, count: int) -> list[Any]:
    """One entry for each vector."""
    entries = _several(value)
    if len(entries) not in (1, count):
        raise SpecError(
            f"{name} has {len(entries)} values for {count} vectors: give one, or one for each"
        )
    return entries * (count // len(entries))


def _unknown(name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{name} is not an option here.{hint} Allowed: {', '.join(allowed)}."


def _explain(detail: Any) -> str:
    """One problem that pydantic found, in one sentence."""
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    extra = SteeringSpec.model_fields[name].json_schema_extra
    example = extra["example"] if isinstance(extra, dict) else ""
    return f"{name}={detail['input']!r} is not allowed: {message}. Example: -M {name}={example}"
