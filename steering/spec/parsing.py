"""From raw options, as -M and extra_body give them, to a checked spec."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from steering.errors import SteeringError, no_such_option
from steering.spec.intervention import (
    BUILDING,
    DEFAULT,
    INTERVENTION,
    MULTIPLE,
    NONE,
    UNSAID,
    InterventionOptions,
)
from steering.spec.model import SteeringSpec


class SpecError(SteeringError):
    """An option of a steered model is unknown, of the wrong type, or at odds with another."""


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
            raise SpecError(no_such_option(name, allowed))
    kept: dict[str, Any] = {}
    if base is not None:
        replaced: tuple[str, ...] = INTERVENTION if "vector" in options else ()
        if options.get("operation") == "ablate":
            replaced += MULTIPLE
        kept = {name: value for name, value in base.given().items() if name not in replaced}
    first, *others = _dealt({**kept, **options})
    try:
        spec = SteeringSpec(**first)
        spec._more = tuple(InterventionOptions(**part) for part in others)
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
    operations = _column("operation", options.get("operation", UNSAID), len(vectors))
    parts: list[dict[str, Any]] = [{} for _ in vectors]
    for name, value in options.items():
        if name not in INTERVENTION:
            parts[0][name] = value
            continue
        column = _column(name, value, len(vectors))
        if len(_several(value)) == 1:
            fits = [
                not (name in BUILDING and vector != DEFAULT)
                and not (name in MULTIPLE and operation == "ablate")
                for vector, operation in zip(vectors, operations, strict=True)
            ]
            # An option that fits none is left in, for the rules to refuse.
            column = [
                entry if fit or not any(fits) else UNSAID
                for entry, fit in zip(column, fits, strict=True)
            ]
        for part, entry in zip(parts, column, strict=True):
            if entry != UNSAID:
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


def _explain(detail: Any) -> str:
    """One problem that pydantic found, in one sentence."""
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    extra = SteeringSpec.model_fields[name].json_schema_extra
    example = extra["example"] if isinstance(extra, dict) else ""
    return f"{name}={detail['input']!r} is not allowed: {message}. Example: -M {name}={example}"
