"""Every option of a steered model: one strict, frozen model in which -M and extra_body meet.

It owns the names, types, defaults and rules across options, the short label that people read and
the fingerprint that keeps conditions apart. It never knows torch, Inspect, files, or how many
blocks a model has: those checks belong to `models.py` and `vector.py`.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from steering.errors import SteeringError
from steering.vocabulary import Operation, Positions, Site, Unit

DEFAULT = "default"
NONE = "none"
DEFAULT_SITE: Site = "resid_post"


class SpecError(SteeringError):
    """An option of a steered model is unknown, of the wrong type, or at odds with another."""


def _option(default: Any, description: str, *, example: str, speed_only: bool = False) -> Any:
    """A field of the spec; `speed_only` says that it can't change an answer."""
    extra: dict[str, Any] = {"example": example, "speed_only": speed_only}
    return Field(default=default, description=description, json_schema_extra=extra)


class SteeringSpec(BaseModel):
    """What a model is asked to do to its own activations, and how it is loaded.

    Made by `parse_options`; all values are final and checked against one another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vector: str = _option(
        DEFAULT,
        "`default` builds the vector of `target` on first use; `none` leaves the model unsteered; "
        "anything else is the path of a .safetensors steering vector",
        example="vectors/medical.safetensors",
    )
    target: str = _option(
        "medical",
        "target task that the default vector is built from: a bundled task or a .jsonl file",
        example="finance",
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
    thinking: bool = _option(False, "let a thinking model think before it answers", example="true")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "auto", "precision of the weights; `auto` is the checkpoint's own", example="bfloat16"
    )
    revision: str | None = _option(None, "branch, tag or commit of a hub model", example="main")
    device: str = _option("auto", "device of the weights", example="cuda:1", speed_only=True)
    batch_size: int = _option(
        32, "rows that are decoded together at the most", example="64", speed_only=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yaml_surprises(cls, value: Any, info: Any) -> Any:
        """YAML turns `x=` into None and `x=on` into True: neither is what was meant."""
        if value is None and info.field_name not in ("layer", "site", "revision"):
            raise ValueError("it is empty; leave the option out or give it a value")
        if isinstance(value, bool) and info.field_name != "thinking":
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

    @field_validator("batch_size")
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value < 1:
            raise ValueError("at least 1 row is needed")
        return value

    @field_validator("vector")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value in (DEFAULT, NONE) or value.endswith(".safetensors"):
            return value
        raise ValueError("`default`, `none` or the path of a .safetensors file is allowed")

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> "SteeringSpec":
        """An option that would be dropped without a word is refused instead."""
        given = self.model_fields_set
        idle: tuple[str, ...] = ()
        reason = ""
        if self.vector == NONE:
            idle, reason = _INTERVENTION[1:], "vector=none leaves the model unsteered"
        elif self.vector != DEFAULT:
            idle, reason = ("target",), "a vector from a file has its own target"
        for name in idle:
            if name in given:
                raise ValueError(f"{name}= has no effect here ({reason}); leave one of the two out")
        if self.operation == "ablate" and given & {"magnitude", "unit"}:
            raise ValueError(
                "operation=ablate removes the whole projection; leave magnitude= and unit= out"
            )
        return self

    @property
    def steered(self) -> bool:
        """Whether anything is done to activations at all."""
        return self.vector != NONE

    def changed(self) -> dict[str, Any]:
        """Options that were given and differ from their defaults and can change an answer."""
        unset = {name: type(self).model_fields[name].default for name in answer_options()}
        if self.vector == DEFAULT:
            unset["site"] = DEFAULT_SITE
        return {name: value for name, value in self._decisive().items() if value != unset[name]}

    def _decisive(self) -> dict[str, Any]:
        """Every option that can change an answer; None is for what is left to the vector's file."""
        options = {name: getattr(self, name) for name in answer_options()}
        if self.vector == DEFAULT and self.site is None:
            options["site"] = DEFAULT_SITE
        return options

    def label(self, digest: str = "") -> str:
        """Short name of the condition, for people.

        Args:
            digest: Hex digest of the content of files that options name. Two files of one name give
                two labels.
        """
        parts: list[str] = []
        if not self.steered:
            name = "baseline"
        else:
            named = self.target if self.vector == DEFAULT else self.vector
            name = named.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
            if name != named:
                name += f"-{digest[:6]}"
            parts = ["ablate" if self.operation == "ablate" else f"x{_number(self.magnitude)}"]
        for option, value in self.changed().items():
            if option in ("vector", "target", "magnitude") or (option, value) == _ABLATE:
                continue
            parts.append(
                f"L{value}" if option == "layer" else f"{_SHORT.get(option, option + '=')}{value}"
            )
        return " ".join([name, *parts])

    def fingerprint(self, **identity: str) -> str:
        """Digest of everything in the spec that can change an answer.

        Args:
            **identity: Digests of what the spec can't see: the weights, the vector's content.

        Returns:
            16 hex digits. Specs that mean the same have the same one.
        """
        options = self._decisive()
        if not self.steered:
            options = {k: v for k, v in options.items() if k not in _INTERVENTION} | {
                "vector": NONE
            }
        canonical = json.dumps({"options": options, "identity": identity}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


_INTERVENTION = ("vector", "target", "layer", "site", "magnitude", "unit", "operation", "positions")
_ABLATE = ("operation", "ablate")
_SHORT = {"unit": "", "operation": "", "positions": "", "site": "", "dtype": ""}


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

    Args:
        options: Raw values, as -M (YAML) or a request's extra_body gives them.
        base: Spec that the options override for one request. Only the intervention can be
            overridden. Naming a `vector` replaces the whole intervention, any other option changes
            just itself; `operation=ablate` lets go of the magnitude, for which it has no use.

    Raises:
        SpecError: An option is unknown, of the wrong type, impossible, or without effect.
    """
    allowed: list[str] = list(SteeringSpec.model_fields if base is None else _INTERVENTION)
    for name in options:
        if name not in allowed:
            raise SpecError(_unknown(name, allowed))
    kept: dict[str, Any] = {}
    if base is not None:
        replaced: tuple[str, ...] = _INTERVENTION if "vector" in options else ()
        if options.get("operation") == "ablate":
            replaced += ("magnitude", "unit")
        kept = {name: getattr(base, name) for name in base.model_fields_set if name not in replaced}
    try:
        return SteeringSpec(**{**kept, **options})
    except ValidationError as error:
        raise SpecError("; ".join(_explain(detail) for detail in error.errors())) from None


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
