"""Steering vectors: their file, the arithmetic of an intervention, and the tables of a batch."""

from steering.vectors.errors import VectorError
from steering.vectors.steering_vector import LowRankMap, SteeringVector

__all__ = ["LowRankMap", "SteeringVector", "VectorError"]
