"""Vectors and interventions of small random numbers, for tests of the arithmetic."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steering.vectors import LowRankMap, SteeringVector
from steering.vectors.interventions import Intervention, resolve

WIDTH = 7

# What is done, with the ranks that it takes; "map" adds a low-rank map.
KINDS_AND_RANKS = [
    ("add", 1),
    ("add", 3),
    ("map", 1),
    ("map", 3),
    ("clamp", 1),
    ("cap", 1),
    ("ablate", 1),
    ("ablate", 3),
]


def random_tensor(*size: int, seed: int = 0) -> Tensor:
    """Normal numbers of standard deviation 3."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)) * 3


def make_vector(
    rank: int = 1,
    seed: int = 0,
    *,
    layers: Sequence[int] = (1,),
    width: int = WIDTH,
    **changed: Any,
) -> SteeringVector:
    """A random vector for resid_post, unless changed; its norms differ from layer to layer."""
    norms = tuple(20.0 + layer for layer in layers)
    values = {"site": "resid_post", "residual_norms": norms, **changed}
    directions = random_tensor(len(layers), rank, width, seed=seed)
    return SteeringVector(directions, tuple(layers), **values)


def make_map(
    rank: int = 1,
    seed: int = 0,
    *,
    layers: Sequence[int] = (1,),
    width: int = WIDTH,
    **changed: Any,
) -> SteeringVector:
    """The same as a low-rank map, which moves activations about as far as they are long."""
    count = len(layers)
    low_rank_map = LowRankMap(
        reads=random_tensor(count, rank, width, seed=seed + 5000) / (3 * width),
        offsets=random_tensor(count, rank, seed=seed + 6000),
        lengths=tuple(4.0 + layer for layer in layers),
    )
    return make_vector(rank, seed, layers=layers, width=width, map=low_rank_map, **changed)


def intervene(kind: Any = "add", rank: int = 1, seed: int = 0, **options: Any) -> Intervention:
    """A random vector's intervention, of magnitude 1.5 unless changed."""
    vector = (make_map if kind == "map" else make_vector)(rank, seed)
    operation = "add" if kind == "map" else kind
    [intervention] = resolve(vector, operation=operation, **{"magnitude": 1.5, **options})
    return intervention
