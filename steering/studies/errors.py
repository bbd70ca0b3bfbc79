"""The one error class of this room."""

from steering.errors import SteeringError


class StudyError(SteeringError):
    """A study, a comparison, a claim or an audit can't be run or judged as asked."""
