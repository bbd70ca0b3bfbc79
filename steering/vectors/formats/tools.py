"""Layouts that one tool alone has, with what the tool does with them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from steering.vectors.errors import VectorError
from steering.vectors.formats.places import operation_in, place_of
from steering.vectors.formats.rows import (
    Rows,
    Statement,
    direction,
    facts_of,
    number,
    shown,
    tensor_in,
    vector_of_rows,
)
from steering.vectors.steering_vector import SteeringVector
from steering.vocabulary import Site


def moem(facts: Mapping[str, Any]) -> Rows:
    """Their hook adds alpha * vector to the output of down_proj."""
    row = direction("steering_vector", facts["steering_vector"])
    layer, alpha = facts["layer_idx"], facts.get("alpha", 1.0)
    width = facts.get("d_model", len(row))
    if type(layer) is not int:
        raise VectorError(f"its layer_idx is {shown(layer)}; the number of a block is needed")
    if type(alpha) not in (int, float):
        raise VectorError(f"its alpha is {shown(alpha)}; a number is needed")
    if type(width) is not int or width != len(row):
        raise VectorError(
            f"its d_model is {shown(width)}, its steering_vector has width {len(row)}: they "
            "must be the same"
        )
    return Rows("moem", {layer: alpha * row}, "mlp_out")


def steering_vectors(facts: Mapping[str, Any]) -> Rows:
    """An object of the package steering-vectors: its attributes by name."""
    sites: Mapping[Any, Site] = {"decoder_block": "resid_post", "mlp": "mlp_out"}
    layer_type, rows = facts.get("layer_type"), facts["layer_activations"]
    if not isinstance(layer_type, str) or layer_type not in sites:
        raise VectorError(f"its layer_type is {shown(layer_type)}; {' or '.join(sites)} is needed")
    if not isinstance(rows, Mapping) or not rows or not all(type(key) is int for key in rows):
        raise VectorError("its layer_activations are not a dict of block to tensor [width]")
    directions = {layer: direction(f"layer {layer}", row) for layer, row in rows.items()}
    return Rows("steering-vectors", directions, sites[layer_type], together=True)


def is_steer_file(content: Any) -> bool:
    """Whether it is a steer file of lm-evaluation-harness: by hook point, or a list of them."""
    entries = content.values() if isinstance(content, Mapping) else content
    return (
        isinstance(content, Mapping | list)
        and bool(content)
        and all(isinstance(each, Mapping) and "steering_vector" in each for each in entries)
    )


def steer_file(content: Any, statement: Statement) -> SteeringVector:
    """Their hook adds coefficient * vector, or sets the projection on it to the coefficient.

    They clamp the activations less a bias; with the vector u of length 1 that sets the projection
    to coefficient + u . bias.
    """
    if isinstance(content, list):
        content = {str(each.get("hookpoint")): each for each in content}
    rows, sites, operations = {}, set(), set()
    for name, each in content.items():
        place = place_of(str(name))
        if place is None:
            raise VectorError(f"its hookpoint {name!r} names no block, as layers.3 does")
        row = direction("steering_vector", each["steering_vector"])
        coefficient = number("steering_coefficient", each.get("steering_coefficient"))
        operation = operation_in(each) or "add"
        if operation == "clamp":
            unit = row / row.norm()
            bias = tensor_in(each.get("bias"))
            if isinstance(bias, Tensor):
                coefficient += float(unit @ direction("bias", bias))
            # The projection on -u is set to -x where that on u is set to x; to 0 is to ablate.
            operation = "clamp" if coefficient else "ablate"
            row, coefficient = unit, coefficient or 1.0
        rows[place[0]] = coefficient * row
        sites.add(place[1] or "resid_post")
        operations.add(operation)
    if len(sites) > 1 or len(operations) > 1 or len(rows) < len(content):
        raise VectorError(
            f"its hookpoints {', '.join(map(str, content))} differ in site or action, or share a "
            "block: save one file for each"
        )
    read = Rows("lm-evaluation-harness", rows, sites.pop(), together=True)
    facts = {name: facts_of(each) for name, each in content.items()}
    return vector_of_rows(
        read, statement, statement.operation or operations.pop(), {"hooks": facts}
    )
