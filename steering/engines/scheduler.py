"""Which requests are decoded next: integers and states only, no tensors, no model, no threads.

Requests are admitted in order of arrival. A request takes a row of the cache, and as many columns
as its prompt and longest answer have tokens; all rows of a batch are as wide as the widest. So an
admitted request always has the memory to finish.
"""

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

# A burst of requests is over when none arrived for this long.
WINDOW_S = 0.03
# The longest that the first request of a burst waits for the last. Inspect submits a request in
# about 10 ms, and slower while a batch is decoded.
BURST_S = 1.0
# Admission costs a prefill pass: it waits until this share of the batch is free (reading one prompt
# beside 16 sequences costs less than a place that is empty for a few passes) ...
_WORTH_A_PASS = 1 / 16
# ... or until there was room for a request in this many turns.
MAX_TURNS = 16

T = TypeVar("T")


class Scheduler(Generic[T]):
    """First come, first served, within a number of sequences and a budget of tokens."""

    def __init__(self, max_sequences: int) -> None:
        """Start with no request waiting; at most `max_sequences` are decoded together."""
        self.max_sequences = max_sequences
        self._budget: int | None = None
        self._row_tokens = 0
        self._waiting: deque[tuple[T, int]] = deque()
        self._turns = 0
        self._num_suspects = 0
        self._together = 0
        self._apart = False

    def set_budget(self, tokens: int, row_tokens: int = 0) -> None:
        """Bound a batch to `tokens`, its rows times its columns.

        A row costs `row_tokens` besides its columns. A request that exceeds the bound by itself is
        admitted alone.
        """
        self._budget, self._row_tokens = tokens, row_tokens

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: T, tokens: int) -> None:
        """Queue a request of this many tokens, its longest answer included."""
        self._waiting.append((request, tokens))

    def halve(self, running: Sequence[int]) -> None:
        """Sequences of these many tokens ran out of memory: allow half as much from now on."""
        widest = max(running) + self._row_tokens
        self._budget = max(1, len(running) // 2) * widest

    def put_back(self, requests: Sequence[tuple[T, int]]) -> None:
        """Queue requests whose batch failed again, in front of all others.

        They are admitted in halves that no other request joins, until the one that causes the
        failure is alone.
        """
        self._waiting.extendleft(reversed(requests))
        self._num_suspects = len(requests)
        self._together = max(1, len(requests) // 2)

    def window(self, waited: float) -> float:
        """Seconds to wait for one more request, `waited` seconds after the first of the burst."""
        if len(self._waiting) >= self.max_sequences:
            return 0.0
        return max(0.0, min(WINDOW_S, BURST_S - waited))

    def admits(self, running: Sequence[int]) -> bool:
        """Whether to interrupt sequences of these many tokens for newcomers; called once a turn."""
        if not self._waiting or self._apart or not self._fits(running):
            self._turns = 0
            return False
        self._turns += 1
        free = min(self.max_sequences - len(running), len(self._waiting))
        return self._turns >= MAX_TURNS or free >= self.max_sequences * _WORTH_A_PASS

    def take(self, running: Sequence[int] = ()) -> list[T]:
        """Requests to admit beside running sequences of these many tokens, in order of arrival."""
        if not running:
            self._apart = self._num_suspects > 0
        elif self._apart:
            return []
        admitted: list[T] = []
        widths = list(running)
        while self._waiting and self._fits(widths):
            request, tokens = self._waiting.popleft()
            admitted.append(request)
            widths.append(tokens)
            self._num_suspects -= self._apart
            if self._apart and not self._num_suspects:
                break
        self._turns = 0
        return admitted

    def _fits(self, running: Sequence[int]) -> bool:
        """Whether there is room for the next request."""
        if not running:
            return True
        rows, widest = len(running) + 1, max(self._waiting[0][1], *running) + self._row_tokens
        limit = min(self.max_sequences, self._together) if self._apart else self.max_sequences
        return rows <= limit and (self._budget is None or rows * widest <= self._budget)
