"""Slow replicas of the arithmetic, for one row and one position, written from the definitions.

NumPy in float64 and Python loops; nothing here comes from the code under test.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def _array(values: Any) -> Vector:
    """Float64, from a tensor (of any dtype and device) or an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def _dot(one: Vector, other: Vector) -> float:
    return float(sum(a * b for a, b in zip(one, other, strict=True)))


def length(vector: Any) -> float:
    """L2 norm of [width]."""
    return _dot(_array(vector), _array(vector)) ** 0.5


def sum_of(directions: Any) -> Vector:
    """[width], from [rank, width]."""
    return np.array([sum(column) for column in _array(directions).T])


def replica(operation: str, hidden: Any, directions: Any, amount: float) -> Vector:
    """One position's activations after one operation with plain directions.

    Args:
        operation: add, ablate, clamp or cap.
        hidden: [width].
        directions: [width] or [rank, width]; of any length, and for `ablate` at any angle.
        amount: For `add` the multiplier of the directions' sum as it stands; for `clamp` and `cap`
            the projection on the direction scaled to length 1; not read by `ablate`.

    Returns:
        Float64 [width].
    """
    state, span = _array(hidden), np.atleast_2d(_array(directions))
    if operation == "add":
        return state + amount * sum_of(span)
    if operation == "ablate":
        # What is left of the state after its best approximation within the span.
        weights = np.linalg.lstsq(span.T, state, rcond=None)[0]
        return state - span.T @ weights
    [direction] = span
    unit = direction / length(direction)
    projection = _dot(unit, state)
    if operation == "clamp":
        return state - projection * unit + amount * unit
    if operation == "cap":
        return state if projection <= amount else state - projection * unit + amount * unit
    raise ValueError(operation)


def replica_of_map(hidden: Any, writes: Any, reads: Any, offsets: Any, amount: float) -> Vector:
    """One position's activations after h + amount * B^T (A h + b).

    Args:
        hidden: h, [width].
        writes: B, [rank, width].
        reads: A, [rank, width].
        offsets: b, [rank].
        amount: Multiplier of the whole map.

    Returns:
        Float64 [width].
    """
    state = _array(hidden)
    after = state.copy()
    for write, read, offset in zip(_array(writes), _array(reads), _array(offsets), strict=True):
        strength = _dot(read, state) + offset
        for index, part in enumerate(write):
            after[index] += amount * strength * part
    return after


def edited(hidden: Any, interventions: Sequence[Any]) -> Vector:
    """One position's activations [width] after several interventions, one after the other."""
    state = _array(hidden)
    for intervention in interventions:
        if intervention.reads is None:
            state = replica(intervention.operation, state, intervention.basis, intervention.amount)
        else:
            assert intervention.operation == "add"
            state = replica_of_map(
                state,
                intervention.basis,
                intervention.reads,
                intervention.offsets,
                intervention.amount,
            )
    return state


def is_steered(positions: str, index: int, prompt_length: int) -> bool:
    """Whether `positions` names the token at `index` of a row's own unpadded sequence.

    The sequence is the prompt and then what was generated.
    """
    return {
        "all": True,
        "prompt": index < prompt_length,
        "response": index >= prompt_length,
        "last": index == prompt_length - 1,
    }[positions]
