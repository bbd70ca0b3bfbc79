"""Vectors and edits of small random numbers, for tests of the arithmetic."""

from typing import Any

import torch
from torch import Tensor

from steering.interventions import RowIntervention, resolve
from steering.vector import SteeringVector

WIDTH = 7


def random_tensor(*size: int, seed: int = 0) -> Tensor:
    """Normal numbers of standard deviation 3."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)) * 3


def make_vector(rank: int = 1, seed: int = 0, **changed: Any) -> SteeringVector:
    """A random vector of `WIDTH` for resid_post of block 1, unless changed."""
    values = {"layer": 1, "site": "resid_post", "residual_norm": 20.0, **changed}
    return SteeringVector(random_tensor(rank, WIDTH, seed=seed), **values)


def make_edit(
    operation: Any = "add", rank: int = 1, seed: int = 0, **options: Any
) -> RowIntervention:
    """A random vector's edit, of magnitude 1.5 unless changed."""
    return resolve(make_vector(rank, seed), operation=operation, **{"magnitude": 1.5, **options})


# Each operation with the ranks that it takes.
OPERATIONS_AND_RANKS = [("add", 1), ("clamp", 1), ("cap", 1), ("ablate", 1), ("ablate", 3)]
