"""What every engine must come to, whatever the model: one list of cases, and how they are asked."""

import random
from collections.abc import Sequence
from typing import Any

from random_vectors import make_map, make_vector
from tiny_models import LAYERS, WIDTH

from steering.engines import Engine, Request, RequestOutput
from steering.engines.settings import Sampling
from steering.vectors import SteeringVector
from steering.vectors.interventions import Intervention, resolve

GREEDY = Sampling(temperature=0)
Interventions = tuple[Intervention, ...]


def plain(layers: Sequence[int] = (1,), rank: int = 1, **changed: Any) -> SteeringVector:
    return make_vector(rank, seed=rank + layers[0], layers=layers, width=WIDTH, **changed)


def mapped(layers: Sequence[int] = (1,), rank: int = 3, **changed: Any) -> SteeringVector:
    return make_map(rank, seed=rank + layers[0], layers=layers, width=WIDTH, **changed)


def steer(vector: SteeringVector, magnitude: float = 1, **options: Any) -> Interventions:
    """At magnitudes of a norm unless told otherwise: residual streams here are about 5 long."""
    return resolve(vector, **{"magnitude": magnitude, "unit": "norm", **options})


# Pairs that can fail differently: each operation, site, position, unit, first and last block.
CASES: dict[str, Interventions] = {
    "unsteered": (),
    "add": steer(plain(), 10),
    "add prompt": steer(plain([0]), 15, positions="prompt"),
    "add response": steer(plain([2]), 15, positions="response"),
    "add last": steer(plain(), 20, positions="last"),
    "add resid_pre": steer(plain([0], site="resid_pre"), -0.5, unit="raw"),
    "add mlp_out": steer(plain([3], site="mlp_out"), 0.5, unit="residual"),
    "add last block": steer(plain([LAYERS - 1]), 6),
    "add rank 3": steer(plain(rank=3), -10),
    "map": steer(mapped(), 5),
    "map rank 1 prompt": steer(mapped([0], rank=1), -3, positions="prompt"),
    "map rank 4 response": steer(mapped([2], rank=4), 6, positions="response"),
    "map last, mlp_out": steer(mapped([2], site="mlp_out"), 0.5, unit="raw", positions="last"),
    "map resid_pre": steer(mapped([3], rank=2, site="resid_pre"), 0.3, unit="residual"),
    "ablate rank 2": steer(plain(rank=2), operation="ablate"),
    "ablate rank 3 last": steer(plain([2], rank=3), operation="ablate", positions="last"),
    "ablate map": steer(mapped([0]), operation="ablate", positions="prompt"),
    "clamp": steer(plain([2]), 5, operation="clamp"),
    "cap response": steer(plain(), -6, operation="cap", positions="response"),
    "unsteered too": (),
    "two layers": steer(plain([0]), 5) + steer(plain([2]), 3, operation="clamp"),
    "vector of three layers": steer(plain([0, 1, 3], rank=2), -4),
    "map of two layers": steer(mapped([1, 2], rank=2), 3),
    "two at one site": steer(plain(), 10) + steer(plain(rank=2), operation="ablate"),
    "the same, turned round": steer(plain(rank=2), operation="ablate") + steer(plain(), 10),
    "three at one site": (
        steer(mapped([1]), 4)
        + steer(plain([1]), -8, operation="clamp", positions="response")
        + steer(mapped([1], rank=1), 4, positions="prompt")
    ),
    "all three sites": (
        steer(mapped([1], site="resid_post"), 4)
        + steer(plain([1], site="resid_pre"), 6, positions="response")
        + steer(plain([1], rank=2, site="mlp_out"), operation="ablate")
        + steer(plain([2], site="resid_pre"), -6, positions="last")
    ),
}


def prompt(seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, 250) for _ in range(rng.randrange(4, 20)))


def loaded(engine: Engine) -> Any:
    return engine.call(lambda model, _: model).result(60)


def blocks(model: Any) -> Any:
    return model.model.get_submodule(model.blocks)


def answer(engine: Engine, requests: Sequence[Request]) -> list[RequestOutput]:
    results = [future.result(120) for future in [engine.submit(request) for request in requests]]
    loaded(engine)  # Waits until the batch is over: only then may a test run the model itself.
    return results
