"""What a vector was made for: the operation, and the model."""

import re
from collections.abc import Iterable

from steering.vectors.errors import VectorError
from steering.vectors.steering_vector import SteeringVector
from steering.vocabulary import OPERATIONS


def check_added(vector: SteeringVector, name: str) -> None:
    """Refuse to add a vector that its tool does not add, unless that is asked for.

    Args:
        vector: The vector.
        name: Of its file, for the error.

    Raises:
        VectorError: It is meant for another operation.
    """
    operation = vector.provenance.get("operation")
    if operation in OPERATIONS and operation != "add":
        raise VectorError(
            f"vector={name} is meant for operation={operation}: give -M operation={operation}, or "
            "-M operation=add to add it all the same"
        )


def other_model(vector: SteeringVector, names: Iterable[str], *, family: str, weights: str) -> str:
    """Whether a vector says that it was made on another model than that which it meets.

    Args:
        vector: The vector.
        names: Of the model, with or without an owner or folder.
        family: The model's `model_type`, which control vectors name instead.
        weights: Digest of its weights.

    Returns:
        What differs, in words; empty if nothing does, or the file says nothing.
    """
    digest = vector.provenance.get("weights")
    if digest == weights or (not vector.model and digest is None):
        return ""
    names = (*names, family, family.removesuffix("_text"))
    if vector.model and _core(vector.model) not in {_core(name) for name in names}:
        return f"it was made on {vector.model}"
    if digest is not None:
        return f"it was made on other files of {vector.model or 'a model'} (weights or template)"
    return ""


def _core(name: str) -> str:
    """The last part of a name, in letters and digits alone."""
    return re.sub("[^a-z0-9]", "", re.split(r"[/\\\\]", name.rstrip("/"))[-1].lower())
