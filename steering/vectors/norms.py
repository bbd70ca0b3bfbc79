"""The residual norm: how long the activations of a site typically are.

It is the mean L2 norm over answer tokens, attention sinks left out. A sink is a token whose
activations are many times as long as those of its neighbours (arXiv 2309.17453, 2402.17762): mostly
the first token of a prompt, which is no answer token, but also some inside of answers. Where there
is none, the residual norm is the plain mean; sinks that are less than half of the tokens don't move
it. Change `RESIDUAL_NORM` in the vocabulary together with what this module computes.
"""

import torch
from torch import Tensor

# A token whose activations are longer than this many times the median is a sink. Of SmolLM2 and of
# the toys the others reach at most 3 times the median, sinks 5 to 190 times.
_SINK = 4.0


def without_sinks(hidden: Tensor) -> Tensor:
    """The activations [tokens, width] that are at most 4 times as long as the median."""
    lengths = torch.linalg.vector_norm(hidden.float(), dim=-1)
    return hidden[lengths <= _SINK * lengths.median()]


def residual_norm(hidden: Tensor) -> float:
    """Mean L2 norm of activations [tokens, width], sinks left out."""
    return torch.linalg.vector_norm(without_sinks(hidden).double(), dim=-1).mean().item()
