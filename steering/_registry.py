"""What Inspect finds through the entry point. Imports nothing heavy."""

from inspect_ai.model import ModelAPI, modelapi

from steering.judging.calibration import calibration
from steering.judging.leak import target_leak
from steering.judging.scorers import coherence, em_judge, misalignment, relevance


@modelapi(name="steered")
def steered() -> type[ModelAPI]:
    """`steered/<name>`: a local model, steered."""
    from steering.provider import SteeredAPI

    return SteeredAPI


@modelapi(name="toy")
def toy() -> type[ModelAPI]:
    """`toy/judge`: the toy world's own judge."""
    from steering.toy.judge import ToyJudgeAPI

    return ToyJudgeAPI


__all__ = [
    "calibration",
    "coherence",
    "em_judge",
    "misalignment",
    "relevance",
    "steered",
    "target_leak",
    "toy",
]
