"""How long work tells how far it is: a function, and a bar on the terminal."""

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in total) after each step."""


def progress_bar(caption: str) -> Progress:
    """A bar on stderr, which appears with the first step."""
    bars: list[tqdm[Any]] = []

    def advance(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(desc=caption, unit="step", mininterval=1))
        # A method that first builds the vector that it is matched with counts twice.
        bars[0].total = total
        bars[0].update(done - bars[0].n)
        if done == total:
            bars.pop().close()

    return advance
