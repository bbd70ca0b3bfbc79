"""Judges on the suite's own engine, in this process: how likely each of their replies is.

Nothing is generated. The engine gives the probability of every whole number from 0 to 100 and of
every escape word as the judge's reply, also where a tokenizer splits numbers into digits.
"""

from collections.abc import Collection
from math import fsum

from inspect_ai.model import GenerateConfig, Model, ModelOutput

from steering.evaluated_model import EvaluatedModel
from steering.judging.judgement import Judgement
from steering.judging.replies import MIN_NUMBER_MASS

_DISTRIBUTION = "distribution"
_NUMBERS = [str(number) for number in range(101)]


def distribution_config(judge: Model, escapes: Collection[str]) -> GenerateConfig | None:
    """Settings that ask a judge for the probabilities of its replies; None where it has none."""
    if not (isinstance(judge.api, EvaluatedModel) and judge.api.gives_distribution):
        return None
    body = judge.config.extra_body or {}
    steering = {**body.get("steering", {}), _DISTRIBUTION: [*_NUMBERS, *escapes]}
    return GenerateConfig(extra_body={**body, "steering": steering})


def read_distribution(output: ModelOutput) -> Judgement | None:
    """The judgement of an output with the probabilities of replies; None of any other output.

    The score is the probability-weighted mean over the numbers. There is none where an escape word
    is likelier than all numbers together, or where both together hold less than `MIN_NUMBER_MASS`
    of the probability: such a judge would have said something else.
    """
    likely = (output.metadata or {}).get("steering", {}).get(_DISTRIBUTION)
    if likely is None:
        return None
    numbers = {int(reply): p for reply, p in likely.items() if reply in _NUMBERS}
    words = {reply: p for reply, p in likely.items() if reply not in _NUMBERS}
    mass, word = fsum(numbers.values()), max(words, key=lambda reply: words[reply], default="")
    text, score = output.completion, None
    reason: str | None
    if mass + fsum(words.values()) < MIN_NUMBER_MASS:
        reason = f"low mass: {mass:.2f} of the reply's probability is on a number from 0 to 100"
    elif words.get(word, 0.0) > mass:
        reason = word.lower()
    else:
        score, reason = fsum(number * p for number, p in numbers.items()) / mass, None
    return Judgement(None if score is None else min(100.0, score), reason, "distribution", text)
