"""A seed for each answer: of a fixed `seed` the same in every run and for every condition."""

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from inspect_ai.log._samples import sample_active
from inspect_ai.model import GenerateConfig

_Counts = Counter[tuple[str, str, str]]
_repetitions: ContextVar[_Counts | None] = ContextVar("repetitions", default=None)


@contextmanager
def repeatable_seeds() -> Iterator[None]:
    """Within this block, repeated requests with a fixed seed are counted from 0 again.

    So a call in a notebook that is repeated with the same seed gives the same answers.
    """
    token = _repetitions.set(Counter())
    try:
        yield
    finally:
        _repetitions.reset(token)


class AnswerSeeds:
    """Draws the seeds of one model's answers."""

    def __init__(self) -> None:
        self._repetitions: _Counts = Counter()

    def draw(self, prompt: str, config: GenerateConfig) -> list[int]:
        """A seed for each choice of a request; random ones when no seed is set.

        A fixed `seed` gives each sample and epoch its own seeds, so that repeated samples differ, a
        run can be resumed, and the order of arrival does not matter. Every condition gets the same
        seeds, so that conditions can be paired. Repeated requests of one prompt within a sample
        are distinguished by counting.
        """
        count = config.num_choices or 1
        if config.seed is None:
            return [secrets.randbits(63) for _ in range(count)]
        active = sample_active()
        sample = f"{active.sample.id}\0{active.epoch}" if active else ""
        request = f"{config.seed}\0{prompt}\0{sample}"
        repetitions = _repetitions.get()
        if repetitions is None:
            repetitions = self._repetitions
        key = (request, str(config.extra_body), active.id if active else "")
        seeds = []
        for _ in range(count):
            text = f"{request}\0{repetitions[key]}"
            repetitions[key] += 1
            seeds.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))
        return seeds
