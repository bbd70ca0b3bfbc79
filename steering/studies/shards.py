"""A part of a study, for one machine of several: which conditions are its own.

The parts depend on the grid alone, so machines that know nothing of each other agree.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steering.studies.grid import Point, StudyError

_WRITTEN = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Shard:
    """One of so many parts, counted from 1.

    Attributes:
        number: Which it is.
        count: How many there are.
    """

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.number}/{self.count}"

    @property
    def whole(self) -> bool:
        """Whether it is all of the study."""
        return self.count == 1

    @property
    def is_last(self) -> bool:
        """Whether it takes what stands outside of the grid and trains for itself."""
        return self.number == self.count

    def part(self, points: Sequence[Point]) -> list[Point]:
        """Its conditions: neighbours, so that most models are loaded by one shard only."""
        edges = [len(points) * number // self.count for number in (self.number - 1, self.number)]
        return list(points[slice(*edges)])


def read_shard(text: str | None) -> Shard:
    """A shard as it is typed; None is the whole study.

    Raises:
        StudyError: It is not one of so many.
    """
    if text is None:
        return Shard()
    match = _WRITTEN.fullmatch(text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise StudyError(
            f"--shard {text} is no part of a whole: write which of how many, as in --shard 2/4"
        )
    return Shard(number, count)
