"""From raw options, as -M and extra_body give them, to a checked spec."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from steering.errors import SteeringError, no_such_option
from steering.spec.intervention import BUILDING, DEFAULT, INTERVENTION, MULTIPLE, NONE
from steering.spec.model import OPTIONS, UNSET, SteeringSpec


class SpecError(SteeringError):
    """An option of a steered model is unknown, of the wrong type, or at odds with another."""


def parse_options(options: Mapping[str, Any], base: SteeringSpec | None = None) -> SteeringSpec:
    """Check options and make the spec of them.

    Several vectors, as a list or separated by commas, act in their order. Every other option of an
    intervention then holds for each of them that it can have an effect on, or is a list too, with
    an entry for each vector; an empty entry leaves the option at its default.

    Args:
        options: Raw values, as -M (YAML) or a request's extra_body gives them.
        base: Spec that the options override for one request. Only the interventions can be
            overridden. Naming a `vector` replaces them all, any other option changes just itself;
            `operation=ablate` drops the magnitude, for which it has no use.

    Raises:
        SpecError: An option is unknown, of the wrong type, impossible, or without effect.
    """
    allowed: list[str] = list(OPTIONS if base is None else INTERVENTION)
    for name in options:
        if name not in allowed:
            raise SpecError(no_such_option(name, allowed))
    if base is not None:
        replaced: tuple[str, ...] = INTERVENTION if "vector" in options else ()
        if options.get("operation") == "ablate":
            replaced += MULTIPLE
        inherited = {n: value for n, value in base.as_options().items() if n not in replaced}
        options = {**inherited, **options}
    loading = {name: value for name, value in options.items() if name not in INTERVENTION}
    steering = {name: options[name] for name in INTERVENTION if name in options}
    if loading.get("adapter") is not None:
        if steering and "vector" not in steering:
            raise SpecError(
                f"{next(iter(steering))}= beside adapter= steers nothing unless a vector is named: "
                "give vector=default or a file too, or leave it out"
            )
        # A finetuned counterpart is not steered unless a vector is named.
        steering = {"vector": NONE} | steering
    try:
        return SteeringSpec(interventions=_by_vector(steering), **loading)
    except ValidationError as error:
        raise SpecError("; ".join(_explain(detail) for detail in error.errors())) from None


def _by_vector(options: Mapping[str, Any]) -> tuple[Any, ...]:
    """The raw options of each vector."""
    vectors = _entries(options.get("vector", DEFAULT))
    if len(vectors) == 1:
        return ({**options, **({"vector": vectors[0]} if "vector" in options else {})},)
    if NONE in vectors:
        raise SpecError("vector=none leaves the model unsteered: no other vector may stand beside")
    operations = _column("operation", options.get("operation", UNSET), len(vectors))
    parts: list[dict[str, Any]] = [{} for _ in vectors]
    for name, value in options.items():
        column = _column(name, value, len(vectors))
        if len(_entries(value)) == 1:
            fits = [
                not (name in BUILDING and vector != DEFAULT)
                and not (name in MULTIPLE and operation == "ablate")
                for vector, operation in zip(vectors, operations, strict=True)
            ]
            # An option that fits none is left in, for the rules to refuse.
            column = [
                entry if fit or not any(fits) else UNSET
                for entry, fit in zip(column, fits, strict=True)
            ]
        for part, entry in zip(parts, column, strict=True):
            if entry != UNSET:
                part[name] = entry
    return tuple(parts)


def _entries(value: Any) -> list[Any]:
    """The entries of a list, or of a text with commas; a single value is a list of itself."""
    if isinstance(value, str) and "," in value:
        return [entry.strip() for entry in value.split(",")]
    return list(value) if isinstance(value, (list, tuple)) and value else [value]


def _column(name: str, value: Any, count: int) -> list[Any]:
    """One entry for each vector."""
    entries = _entries(value)
    if len(entries) not in (1, count):
        raise SpecError(
            f"{name} has {len(entries)} values for {count} vectors: give one, or one for each"
        )
    return entries * (count // len(entries))


def _explain(detail: Any) -> str:
    """One problem that pydantic found, in one sentence."""
    message = detail["msg"].removeprefix("Value error, ")
    names = [part for part in detail["loc"] if part in OPTIONS]
    if not names:
        return message
    name = names[0]
    example = OPTIONS[name].example
    return f"{name}={detail['input']!r} is not allowed: {message}. Example: -M {name}={example}"
