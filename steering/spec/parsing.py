"""From raw options, as -M and extra_body give them, to a checked spec."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from steering.errors import SteeringError, no_such_option
from steering.spec.intervention import BUILDING, DEFAULT, INTERVENTION, MULTIPLE, NONE
from steering.spec.model import OF_PROMPTS, OPTIONS, UNSET, SteeringSpec
from steering.targets.prompts import is_prompt_file


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
    if loading.get("prompt") is not None:
        steering = _without_prompt(steering, loading, base)
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


def _without_prompt(
    steering: dict[str, Any], loading: dict[str, Any], base: SteeringSpec | None
) -> dict[str, Any]:
    """The options of the vectors beside a prompt, whose own are added to those of loading.

    A prompt and a vector that is built share `target` and `build_seed`. A request that overrides
    the vector leaves the prompt as it is.
    """
    shared = {name: value for name, value in steering.items() if name in OF_PROMPTS}
    if not is_prompt_file(loading["prompt"]):
        if base is not None:
            fields = set(OF_PROMPTS.values()) & base.model_fields_set
            loading |= {field: getattr(base, field) for field in sorted(fields)}
        for name, value in shared.items() if base is None else ():
            if len(_entries(value)) > 1:
                raise SpecError(
                    f"{name} has {len(_entries(value))} values, and prompt= takes one: leave one "
                    "of the two out"
                )
            loading[OF_PROMPTS[name]] = value
        if DEFAULT not in _entries(steering.get("vector", NONE)):
            steering = {name: value for name, value in steering.items() if name not in shared}
    if steering and "vector" not in steering:
        raise SpecError(
            f"{next(iter(steering))}= beside prompt={loading['prompt']} steers nothing unless a "
            "vector is named: give vector=default or a file too, or leave it out"
        )
    # A model that is told something is not steered unless a vector is named.
    return {"vector": NONE} | steering


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
    by_field = {field: option for option, field in OF_PROMPTS.items()}
    parts = [by_field.get(part, part) for part in detail["loc"]]
    names = [part for part in parts if part in OPTIONS]
    if not names:
        return message
    name = names[0]
    example = OPTIONS[name].example
    return f"{name}={detail['input']!r} is not allowed: {message}. Example: -M {name}={example}"
