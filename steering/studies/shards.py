"""A part of a study, for one machine of several.

The parts depend on the grid alone, so machines that know nothing of each other agree.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steering.studies.errors import StudyError
from steering.studies.eval_sets import StudyCondition


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 1, of `count`."""

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        """As --shard takes it."""
        return f"{self.number}/{self.count}"

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole study."""
        return self.count == 1

    @property
    def is_last(self) -> bool:
        """Whether it runs the conditions whose vectors or adapters the study builds itself."""
        return self.number == self.count

    def part(self, conditions: Sequence[StudyCondition]) -> list[StudyCondition]:
        """Its conditions: neighbours, so that most models are loaded by one shard only."""
        start, end = (len(conditions) * n // self.count for n in (self.number - 1, self.number))
        return list(conditions[start:end])


def read_shard(text: str | None) -> Shard:
    """A shard from its text, as in 2/4; None is the whole study.

    Raises:
        StudyError: The text is not N/M with 1 <= N <= M.
    """
    if text is None:
        return Shard()
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise StudyError(f"--shard {text} is not a shard: write N/M, 1 <= N <= M, as --shard 2/4")
    return Shard(number, count)
