"""A construction method that is added to a copy of the project."""

from pydantic import Field

from steering.training.methods import ConstructionMethod


class Constant(ConstructionMethod):
    """The same number in every coordinate."""

    name = "constant"
    summary = "a constant, in every coordinate"

    height: float = Field(default=1.0, gt=0, description="the number")

    def build(self, probe, recipe, target, progress):
        """A vector of rank 1."""
        import torch

        from steering.vectors import SteeringVector

        layer, site = probe.key
        directions = torch.full((1, 1, probe.width), self.height)
        return SteeringVector(directions, layers=(layer,), site=site), {}
