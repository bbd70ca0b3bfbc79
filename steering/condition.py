"""A condition: a model with checked options, before any weight is loaded.

Owns what can be known of a condition beforehand: the target task and recipe or the vector's file,
whether they fit the model, the label and the fingerprint. Knows neither Inspect nor engines.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.construct import Recipe, default_recipe
from steering.models import (
    ModelSource,
    Shape,
    check_device,
    check_layer,
    find_model,
    read_shape,
    weights_digest,
)
from steering.spec import DEFAULT, DEFAULT_SITE, SteeringSpec
from steering.targets import Target, load_target

if TYPE_CHECKING:
    from steering.interventions import RowIntervention
    from steering.vector import SteeringVector


@dataclass(frozen=True)
class Condition:
    """A checked spec with what it names.

    Attributes:
        spec: The options.
        label: For people; no two conditions of a model share it.
        fingerprint: Differs wherever an answer may differ.
        recipe: Of the default vector, if that is what steers.
        target: The target task of that recipe.
        vector: The vector of a file, if that is what steers. It was read when the condition was
            made, so a file that changes later does not change what is run under its fingerprint.
    """

    spec: SteeringSpec
    label: str
    fingerprint: str
    recipe: Recipe | None = None
    target: Target | None = None
    vector: "SteeringVector | None" = None


class Checker:
    """Checks specs against one model."""

    def __init__(self, name: str, spec: SteeringSpec) -> None:
        """Look the model up.

        Raises:
            ModelError: There is no such model or device, or its config can't be had.
        """
        check_device(spec.device)
        self.source: ModelSource = find_model(name, spec.revision)
        self.shape: Shape = read_shape(self.source)
        self._weights = weights_digest(self.source)

    def check(self, spec: SteeringSpec) -> Condition:
        """Check all of a spec that can be checked without weights.

        Raises:
            SteeringError: It names the value, what is allowed and how to fix it.
        """
        if spec.layer is not None:
            check_layer(spec.layer, self.shape, self.source)
        if not spec.steered:
            return Condition(spec, spec.label(), spec.fingerprint(weights=self._weights))
        if spec.vector == DEFAULT:
            target = load_target(spec.target)
            recipe = default_recipe(
                self.source,
                self.shape,
                target,
                weights=self._weights,
                layer=spec.layer,
                site=spec.site or DEFAULT_SITE,
                dtype=spec.dtype,
            )
            fingerprint = spec.fingerprint(weights=self._weights, vector=recipe.digest)
            return Condition(spec, spec.label(target.digest), fingerprint, recipe, target)
        from steering.vector import SteeringVector, file_digest

        path = Path(spec.vector)
        vector = SteeringVector.load(path)
        vector.check_fits(
            width=self.shape.width, num_layers=self.shape.num_layers, model=self.source.name
        )
        resolve_edit(spec, vector)
        digest = file_digest(path)
        fingerprint = spec.fingerprint(weights=self._weights, vector=digest)
        return Condition(spec, spec.label(digest), fingerprint, vector=vector)


def resolve_edit(spec: SteeringSpec, vector: "SteeringVector") -> "RowIntervention":
    """The edit that a spec makes of a vector.

    Raises:
        InterventionError: The vector can't be applied in that way.
    """
    from steering.interventions import resolve

    return resolve(
        vector,
        magnitude=spec.magnitude,
        unit=spec.unit,
        operation=spec.operation,
        positions=spec.positions,
        layer=spec.layer,
        site=spec.site,
    )


def describe(
    condition: Condition, vector: "SteeringVector | None", edit: "RowIntervention | None"
) -> dict[str, Any]:
    """What a log says of a condition, in JSON values; never a tensor."""
    said: dict[str, Any] = {"condition": condition.label, "fingerprint": condition.fingerprint}
    if vector is None or edit is None:
        return said
    spec = condition.spec
    return said | {
        "layer": edit.layer,
        "site": edit.site,
        "operation": edit.operation,
        "positions": edit.positions,
        "magnitude": spec.magnitude,
        "unit": spec.unit,
        "vector_norm": float(vector.directions.norm()),
        "residual_norm": vector.residual_norm,
        "vector": dict(vector.provenance),
    }
