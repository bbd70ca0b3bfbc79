"""The error of this room."""

from steering.errors import SteeringError


class VectorError(SteeringError):
    """A vector, its file or a set of vectors can't be used as asked."""
