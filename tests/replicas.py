"""Slow replicas of the arithmetic, for one row and one position, written from the definitions.

NumPy in float64 and Python loops; nothing here comes from the code under test.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def _array(values: Any) -> Vector:
    """Float64, from a tensor (of any dtype and device) or an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def replica(operation: str, hidden: Any, directions: Any, amount: float) -> Vector:
    """One position's activations after one edit.

    Args:
        operation: add, ablate, clamp or cap.
        hidden: [width].
        directions: [width] or [rank, width]; of any length, and for `ablate` at any angle.
        amount: For `add` the multiplier of the direction as it stands; for `clamp` and `cap` the
            projection on the direction scaled to length 1; not read by `ablate`.

    Returns:
        Float64 [width].
    """
    state, span = _array(hidden), np.atleast_2d(_array(directions))
    if operation == "add":
        return state + amount * span[0]
    if operation == "ablate":
        # What is left of the state after its best approximation within the span.
        weights = np.linalg.lstsq(span.T, state, rcond=None)[0]
        return state - span.T @ weights
    unit = span[0] / np.sqrt(sum(x * x for x in span[0]))
    projection = sum(u * h for u, h in zip(unit, state, strict=True))
    if operation == "clamp":
        return state - projection * unit + amount * unit
    if operation == "cap":
        return state if projection <= amount else state - projection * unit + amount * unit
    raise ValueError(operation)


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
