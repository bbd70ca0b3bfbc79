"""Who is decoded next: integers and states only, no tensors, no model, no threads.

Requests wait in order of arrival and nobody overtakes. A request takes a row, and as many columns
as its prompt and longest answer have tokens; all rows of a batch are as wide as the widest. So a
request that was let in always has the memory to end.
"""

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

# A burst is over when nothing came for this long; too short to be felt.
WINDOW_S = 0.03
# The longest that the first of a burst waits for the last. Inspect hands over a request in about
# 10 ms, and slower while a batch is being decoded beside it.
BURST_S = 1.0
# Letting rows in costs a pass of its own: it waits until this share of the batch is free (reading
# one prompt beside 16 rows costs less than a place that is empty for a few passes) ...
_WORTH_A_PASS = 1 / 16
# ... or until this many turns have gone by with room for somebody.
MAX_TURNS = 16

T = TypeVar("T")


class Scheduler(Generic[T]):
    """First come, first served, within a number of rows and a budget of tokens."""

    def __init__(self, max_rows: int) -> None:
        """Start with nobody waiting.

        Args:
            max_rows: Rows that are decoded together at the most.
        """
        self.max_rows = max_rows
        self._budget: int | None = None
        self._row_tokens = 0
        self._waiting: deque[tuple[T, int]] = deque()
        self._turns = 0
        self._num_suspects = 0
        self._together = 0
        self._apart = False

    def set_budget(self, tokens: int, row_tokens: int = 0) -> None:
        """Bound what rows take together; a request that exceeds it by itself is let in alone.

        Args:
            tokens: Rows times columns.
            row_tokens: What a row takes besides its columns, in tokens.
        """
        self._budget, self._row_tokens = tokens, row_tokens

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: T, tokens: int) -> None:
        """A request arrived that takes this many tokens, its longest answer included."""
        self._waiting.append((request, tokens))

    def halve(self, running: Sequence[int]) -> None:
        """Rows that take these many tokens were too much: allow half as much from now on."""
        widest = max(running) + self._row_tokens
        self._budget = max(1, len(running) // 2) * widest

    def put_back(self, requests: Sequence[tuple[T, int]]) -> None:
        """Requests whose batch failed come back, in front of all others.

        They are taken in halves that nobody else joins: the one that is to blame ends up alone,
        and the others get by without it.
        """
        self._waiting.extendleft(reversed(requests))
        self._num_suspects = len(requests)
        self._together = max(1, len(requests) // 2)

    def window(self, waited: float) -> float:
        """Seconds worth waiting for one more request before a batch starts; 0 is not at all.

        Args:
            waited: Seconds since the first request of the burst.
        """
        if len(self._waiting) >= self.max_rows:
            return 0.0
        return max(0.0, min(WINDOW_S, BURST_S - waited))

    def lets_in(self, running: Sequence[int]) -> bool:
        """Whether to interrupt the running batch for newcomers; asked once a turn.

        Args:
            running: Tokens that each running row takes.
        """
        if not self._waiting or self._apart or not self._fits(running):
            self._turns = 0
            return False
        self._turns += 1
        free = min(self.max_rows - len(running), len(self._waiting))
        return self._turns >= MAX_TURNS or free >= self.max_rows * _WORTH_A_PASS

    def take(self, running: Sequence[int] = ()) -> list[T]:
        """The requests that join rows which take these many tokens, in order of arrival."""
        if not running:
            self._apart = self._num_suspects > 0
        elif self._apart:
            return []
        taken: list[T] = []
        widths = list(running)
        while self._waiting and self._fits(widths):
            request, tokens = self._waiting.popleft()
            taken.append(request)
            widths.append(tokens)
            self._num_suspects -= self._apart
            if self._apart and not self._num_suspects:
                break
        self._turns = 0
        return taken

    def _fits(self, running: Sequence[int]) -> bool:
        """Whether the next in line has room."""
        if not running:
            return True
        rows, widest = len(running) + 1, max(self._waiting[0][1], *running) + self._row_tokens
        limit = min(self.max_rows, self._together) if self._apart else self.max_rows
        return rows <= limit and (self._budget is None or rows * widest <= self._budget)
