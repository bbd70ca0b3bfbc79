"""When requests become a batch. Counts and times only: no tensors, no model, no threads.

This one gathers for a short window and then fills a batch in order of arrival. A faster one may
take waiting rows in as others finish; it would answer the same question, `take`.
"""

from collections import deque
from typing import Generic, TypeVar

# Long enough for Inspect to hand over the requests of one burst, too short to be felt.
WINDOW_S = 0.03

T = TypeVar("T")


class Scheduler(Generic[T]):
    """First come, first served, at most `max_rows` together."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self._waiting: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: T) -> None:
        """A request arrived."""
        self._waiting.append(request)

    def window(self) -> float:
        """Seconds worth waiting for more requests before a batch starts; 0 when it is full."""
        return 0.0 if len(self._waiting) >= self.max_rows else WINDOW_S

    def take(self) -> list[T]:
        """The next batch."""
        return [self._waiting.popleft() for _ in range(min(self.max_rows, len(self._waiting)))]
