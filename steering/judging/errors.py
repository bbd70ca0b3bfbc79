"""The judging room's error class."""

from steering.errors import SteeringError


class JudgingError(SteeringError):
    """A rubric, judge, threshold, protocol, task option or calibration pair can't be used."""
