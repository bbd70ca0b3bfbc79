"""Controls of a vector: random directions that move activations as far as it does."""

from dataclasses import replace

import torch
from torch.nn.functional import cosine_similarity

from steering.vectors.errors import VectorError
from steering.vectors.steering_vector import SteeringVector

# A random direction that shares this much with the vector is no control: another is drawn.
MOST_COSINE = 0.3
_DRAWS = 100


def draw_controls(vector: SteeringVector, count: int) -> list[SteeringVector]:
    """Random directions as long as a vector, layer by layer.

    Drawn again while the cosine to the vector exceeds 0.3 at some layer, which in few dimensions
    happens often. The cosine stands in the provenance. Of a low-rank map, the mean length of what
    it adds counts.

    Raises:
        VectorError: The model is too narrow for directions that differ.
    """
    moved = vector.directions.double().sum(1)  # [layers, width]
    lengths = torch.tensor(vector.lengths, dtype=torch.float64)[:, None]
    controls: list[SteeringVector] = []
    for seed in range(_DRAWS * count):
        if len(controls) == count:
            break
        noise = torch.randn(
            vector.directions.shape, generator=torch.Generator().manual_seed(seed)
        ).double()
        cosine = float(cosine_similarity(noise.sum(1), moved, dim=1).abs().max())
        if cosine <= MOST_COSINE:
            scale = (lengths / noise.sum(1).norm(dim=1, keepdim=True))[:, :, None]
            provenance = {"method": "random", "seed": seed, "measured": {"cosine": cosine}}
            directions = (noise * scale).float()
            controls.append(replace(vector, directions=directions, map=None, provenance=provenance))
    if len(controls) < count:
        raise VectorError(
            f"no random direction of width {vector.width} keeps its cosine to the vector under "
            f"{MOST_COSINE}: take no controls (--controls 0)"
        )
    return controls
