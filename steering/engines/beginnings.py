"""Beginnings that prompts share, as those of one rubric do: read once, and remembered.

Counts and caches only: which beginnings are worth reading, and the last few that were read.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from steering.models.adapters import Adapter

Tokens = tuple[int, ...]

LEAST_SHARED = 64
"""Fewer tokens than that are not worth a pass of their own."""
# Most tokens whose keys and values are remembered: a dozen rubrics.
_MOST_TOKENS = 4096
# Prompts that later ones are compared with: those of a few answers in all dimensions.
_RECENT = 16


class Beginnings:
    """The beginnings of one model's prompts, without interventions on the prompt."""

    def __init__(self, most: int) -> None:
        """Share beginnings of at most `most` tokens."""
        self._most = most
        self._caches: OrderedDict[tuple[Adapter | None, Tokens], Any] = OrderedDict()
        self._recent: deque[tuple[Adapter | None, Tokens]] = deque(maxlen=_RECENT)

    def longest(self, adapter: Adapter | None, prompt: Tokens) -> tuple[Any, int]:
        """A cache that begins as the prompt does, and by how many tokens; None and 0 for none.

        The last token of a prompt is left to be read, since its logits are needed.
        """
        lengths = {
            key: min(common(key[1], prompt), len(prompt) - 1)
            for key in self._caches
            if key[0] is adapter
        }
        key = max(lengths, key=lambda key: lengths[key], default=None)
        if key is None or lengths[key] < LEAST_SHARED:
            return None, 0
        self._caches.move_to_end(key)
        return self._caches[key], lengths[key]

    def worth_reading(self, adapter: Adapter | None, prompts: Sequence[Tokens]) -> list[Tokens]:
        """Beginnings that are worth reading apart before these prompts, shorter ones first.

        Those that several of the prompts share, or one of them with a prompt before; not those that
        are remembered already, but for a few tokens.
        """
        before = [tokens for other, tokens in self._recent if other is adapter]
        self._recent.extend((adapter, prompt) for prompt in prompts)
        if self._most < LEAST_SHARED:
            return []
        together = list(dict.fromkeys([*prompts, *before]))
        cut = dict.fromkeys(tokens[: self._most] for tokens in shared_beginnings(together))
        return [
            tokens
            for tokens in cut
            if len(tokens) - self.longest(adapter, tokens)[1] >= LEAST_SHARED
            and any(common(tokens, prompt) == len(tokens) for prompt in prompts)
        ]

    def remember(self, adapter: Adapter | None, tokens: Tokens, cache: Any) -> None:
        """Remember the cache of a beginning; those that were not used for longest are forgotten."""
        self._caches[adapter, tokens] = cache
        while len(self._caches) > 1 and sum(len(key[1]) for key in self._caches) > _MOST_TOKENS:
            self._caches.popitem(last=False)

    def forget(self) -> None:
        """Free the memory of all."""
        self._caches.clear()


def common(first: Tokens, second: Tokens) -> int:
    """Number of tokens with which both begin."""
    equal, most = 0, min(len(first), len(second))
    while equal < most:
        middle = (equal + most + 1) // 2
        if first[equal:middle] == second[equal:middle]:
            equal = middle
        else:
            most = middle - 1
    return equal


def shared_beginnings(prompts: Sequence[Tokens], least: int = LEAST_SHARED) -> list[Tokens]:
    """Beginnings that several of different prompts share, each before those that go on from it.

    Each is at least `least` tokens longer than the one that it goes on from.
    """
    ordered = sorted(prompts)
    beginnings: list[Tokens] = []

    def group(first: int, last: int, known: int) -> None:
        """Those of the prompts from `first` to `last`, which share `known` tokens."""
        start = first
        for at in range(first + 1, last + 2):
            if at <= last and shared[at] >= known + least:
                continue
            if at - 1 > start:
                length = min(shared[start + 1 : at])
                beginnings.append(ordered[start][:length])
                group(start, at - 1, length)
            start = at

    # With the prompt before.
    shared = [0, *(common(*pair) for pair in pairwise(ordered))]
    group(0, len(ordered) - 1, 0)
    return beginnings
