"""Tensors and facts of other tools, read as a steering vector.

Files of several formats hold the same things: a tensor, or tensors by block, with or without facts
beside them. Owns what each layout means and what must be said of those that leave it open; knows no
files. The formats are in docs/how-to/vectors.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steering.vectors.errors import VectorError
from steering.vectors.formats.places import operation_in, place_of, site_of
from steering.vectors.formats.rows import (
    Rows,
    Statement,
    direction,
    facts_of,
    kind_of,
    shown,
    tensor_in,
    vector_of_rows,
)
from steering.vectors.formats.tools import is_steer_file, moem, steer_file, steering_vectors
from steering.vectors.steering_vector import SteeringVector
from steering.vocabulary import CONVENTIONS, Operation, Site

_VECTOR_KEYS = ("steering_vector", "vector", "direction", "vectors", "directions", "v", "vec")
_LAYER_KEYS = ("layer", "layer_idx", "layer_index", "layer_id", "block", "hookpoint", "hook_point")
_SITE_KEYS = ("site", "hook_name", "component", "layer_type", "hook_type")
_MODEL_KEYS = ("model", "model_name", "model_id", "model_hint", "base_model")
_MULTIPLIER_KEYS = ("alpha", "scale", "coefficient", "coeff", "multiplier", "strength")


def vector_of(content: Any, statement: Statement) -> SteeringVector:
    """The vector that a tensor, an array, or a container of them stands for.

    Raises:
        VectorError: It stands for none, or for several, and how to say which.
    """
    facts = content if isinstance(content, Mapping) else {}
    facts = {str(key): value for key, value in facts.items()}
    if is_steer_file(content):
        return steer_file(content, statement)
    operation = statement.operation or operation_in(facts)
    if isinstance(tensor_in(content), Tensor):
        return _of_tensor(tensor_in(content), statement, operation, {})
    if "layer_activations" in facts:
        rest = {key: value for key, value in facts.items() if key != "layer_activations"}
        return vector_of_rows(steering_vectors(facts), statement, operation, facts_of(rest))
    if key := next((name for name in _VECTOR_KEYS if name in facts), None):
        return _named(facts, key, statement, operation)
    if rows := _by_block(content):
        return vector_of_rows(rows, statement, operation, facts_of(facts))
    tensors = [key for key, value in facts.items() if isinstance(tensor_in(value), Tensor)]
    if len(tensors) == 1:
        rest = facts_of(facts)
        return _of_tensor(tensor_in(facts[tensors[0]]), statement, operation, rest)
    raise VectorError(
        f"it holds {kind_of(content)}; needed are a tensor [width], a tensor of rows [blocks, "
        "width], such tensors by block ({2: tensor}), or one with its block as 'vector' and "
        "'layer'"
    )


def _named(
    facts: dict[str, Any], key: str, statement: Statement, operation: Operation | None
) -> SteeringVector:
    """A tensor under the name of one, with its block beside it or not."""
    value, rest = facts[key], {name: each for name, each in facts.items() if name != key}
    if key == "steering_vector" and "layer_idx" in facts:
        return vector_of_rows(moem(facts), statement, operation, facts_of(rest))
    if isinstance(value, Mapping):
        rows = _by_block(value)
        if rows is None:
            raise VectorError(f"its {key} is {kind_of(value)}; tensors by block are needed")
        return vector_of_rows(rows, statement, operation, facts_of(rest))
    tensor = tensor_in(value)
    if not isinstance(tensor, Tensor):
        raise VectorError(f"its {key} is {kind_of(value)}; a tensor [width] is needed")
    layer_key = next((name for name in _LAYER_KEYS if rest.get(name) is not None), None)
    if layer_key is None:
        return _of_tensor(tensor, statement, operation, rest)
    layer, site = _layer_in(layer_key, rest[layer_key])
    if tensor.squeeze().ndim != 1:
        asked = statement.layer
        if isinstance(asked, int) and asked != layer:
            raise VectorError(
                f"its {layer_key} is {layer}, and {asked} is asked for: leave the layer out"
            )
        if asked is None or statement.convention == "rank":
            statement = replace(statement, layer=layer, site=statement.site or site)
        return _of_tensor(tensor, statement, operation, rest)
    site_key = next((name for name in _SITE_KEYS if isinstance(rest.get(name), str)), None)
    if site_key is not None:
        site = site_of(rest[site_key])
    rows = Rows("dict", {layer: direction(key, tensor)}, site, notes=_multiplier_note(rest))
    tool = rest.pop("imported_from", "dict")
    return vector_of_rows(replace(rows, tool=tool), statement, operation, facts_of(rest))


def _layer_in(key: str, value: Any) -> tuple[int, Site | None]:
    """The block that a fact names, and the site if it names one."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and np.size(value) == 1:
        value = value.item()
    if isinstance(value, str) and (place := place_of(value)) is not None:
        return place
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise VectorError(f"its {key} is {shown(value)}; the number of a block is needed")
    return value, None


def _multiplier_note(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """That a multiplier beside a vector is not applied."""
    return tuple(
        f"the file's {key} {facts[key]:g} is not applied: give it as the magnitude"
        for key in _MULTIPLIER_KEYS
        if type(facts.get(key)) in (int, float) and facts[key] != 1
    )


def _of_tensor(
    tensor: Tensor, statement: Statement, operation: Operation | None, facts: Mapping[str, Any]
) -> SteeringVector:
    """A tensor without a block: one direction, or rows whose meaning must be said."""
    facts, notes = facts_of(facts), _multiplier_note(facts)
    if tensor.numel() == max(tensor.shape, default=0):
        return vector_of_rows(_single(tensor, statement, notes), statement, operation, facts)
    if tensor.ndim != 2:
        raise VectorError(
            f"it is a tensor {list(tensor.shape)}; [width] or [rows, width] is needed: save the "
            "direction that is meant to steer alone"
        )
    convention = statement.convention
    if convention is None and statement.depth is not None and len(tensor) == statement.depth + 1:
        convention = "blocks+embedding"
    if convention is None:
        count = len(tensor)
        layer = statement.layer if isinstance(statement.layer, int) else count // 2
        example = {"convention": "blocks", "layer": str(layer)}
        raise VectorError(
            f"it is a tensor [{count}, {tensor.shape[1]}], and what its rows are must be said: "
            f"those of {count} blocks (blocks), of the embedding and {count - 1} blocks "
            f"(blocks+embedding, as hidden_states has them), or {count} directions of one block "
            f"(rank). For example {statement.remedy(**example)}"
        )
    if convention == "rank":
        return _subspace(tensor, statement, operation, facts)
    rows = _hidden_states(tensor) if convention == "blocks+embedding" else _blocks(tensor)
    if statement.depth not in (None, rows.depth):
        raise VectorError(
            f"its {len(tensor)} rows are those of a model of {rows.depth} blocks by the convention "
            f"{convention}, and the model has {statement.depth}: give another convention "
            f"({', '.join(CONVENTIONS)})"
        )
    rows = replace(rows, notes=(*rows.notes, *notes))
    return vector_of_rows(rows, statement, operation, {**facts, "convention": convention})


def _single(
    tensor: Tensor,
    statement: Statement,
    notes: tuple[str, ...],
    shape: Sequence[int] | None = None,
) -> Rows:
    """A single direction, as refusal_direction and CAA save it: its layer stands elsewhere."""
    layer = statement.layer
    if not isinstance(layer, int):
        raise VectorError(
            f"it is a tensor {shape or [*tensor.shape]}, and no layer stands beside it: name the "
            f"block to whose output it is added, as in {statement.remedy(layer='2')}"
        )
    site = statement.site or "resid_post"
    place = "added to the output of" if site == "resid_post" else f"steering {site} of"
    note = f"the file does not say where its direction acts: it is {place} block {layer}"
    rows = {layer: direction("tensor", tensor)}
    return Rows("tensor", rows, notes=(f"{note} (site {site})", *notes))


def _blocks(tensor: Tensor) -> Rows:
    rows = {block: direction(f"row {block}", row) for block, row in enumerate(tensor)}
    return Rows("rows", rows, depth=len(tensor))


def _hidden_states(tensor: Tensor) -> Rows:
    """Rows are those of transformers' hidden_states: the embedding, then the block outputs.

    The last of the hidden_states is the output of the final norm, so the last row is not a
    direction of the residual stream.
    """
    if len(tensor) < 3:
        raise VectorError(f"it is a tensor {list(tensor.shape)}; [blocks + 1, width] is needed")
    depth = len(tensor) - 1
    rows = {block: direction(f"row {block + 1}", tensor[block + 1]) for block in range(depth - 1)}
    note = (
        f"the tensor has {depth + 1} rows, read as hidden_states of a model of {depth} "
        f"blocks: row 0 (embedding) and row {depth} (behind the final norm) are not the output of "
        "a block and are left out, row i is layer i - 1"
    )
    return Rows("rows", rows, "resid_post", depth, notes=(note,))


def _subspace(
    tensor: Tensor, statement: Statement, operation: Operation | None, facts: Mapping[str, Any]
) -> SteeringVector:
    """Several directions of one block."""
    rows = _single(tensor[:1], statement, (), list(tensor.shape))
    vector = vector_of_rows(rows, statement, operation, {**facts, "convention": "rank"})
    directions = torch.stack([direction(f"row {i}", row) for i, row in enumerate(tensor)])
    return replace(vector, directions=directions[None])


def _by_block(content: Any) -> Rows | None:
    """Tensors by block, as a number or a name; None if the keys are none or not all of them."""
    if not isinstance(content, Mapping) or not content:
        return None
    if all(type(key) is int for key in content):
        rows = {block: direction(f"layer {block}", row) for block, row in content.items()}
        note = (
            "the file has only numbers and tensors: they are read as blocks, numbered from 0, and "
            "directions that act at their outputs unless a site is named"
        )
        return Rows("dict", rows, notes=(note,))
    tensors = {key: each for key, each in content.items() if isinstance(tensor_in(each), Tensor)}
    names = _layer_names(content, tensors)
    places = {key: place_of(names.get(key, key)) for key in tensors if isinstance(key, str)}
    by_key = {key: place for key, place in places.items() if place is not None}
    if not by_key or len(by_key) < len(tensors):
        return None
    if len({layer for layer, _ in by_key.values()}) < len(by_key):
        raise VectorError(
            f"several of its tensors act on one block ({', '.join(map(str, tensors))}): save one"
        )
    sites = {site for _, site in by_key.values()}
    if len(sites) > 1:
        raise VectorError(f"its tensors act at several sites ({', '.join(tensors)}): save one")
    rows = {place[0]: direction(key, tensors[key]) for key, place in by_key.items()}
    return Rows("dict", rows, next(iter(sites)), together=bool(names))


def _layer_names(content: Mapping[Any, Any], tensors: Mapping[Any, Any]) -> dict[str, str]:
    """The module of each tensor `layer_<i>` where a list names them (psyctl): i is no block."""
    names = content.get("layer_names")
    if not isinstance(names, str):
        return {}
    parts = [part for part in names.replace('"', "'").split("'")[1::2] if part]
    if {f"layer_{index}" for index in range(len(parts))} != set(tensors):
        raise VectorError(
            f"its layer_names are {shown(names)[:80]!r}, its tensors {', '.join(map(str, tensors))}"
            ": there must be a name for each"
        )
    return {f"layer_{index}": name for index, name in enumerate(parts)}
