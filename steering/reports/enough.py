"""How many themes, or answers, it takes to keep a bound on a rate, by the interval that decides it.

Counts in, a number out: nothing is drawn or assumed, the interval itself is computed for more
themes like these, or for more answers to the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from steering.stats import Interval, cluster_interval, stratified_interval

# With this many answers a theme is known: more of them narrow no interval on questions like these.
_MANY_ANSWERS = 100
# A number of answers above which nothing is looked for.
_MOST_ANSWERS = 200_000


@dataclass(frozen=True)
class ThemeCounts:
    """How many answers to each theme count, and how many of them have the outcome.

    Attributes:
        true: Answers with the outcome, a number a theme; a mean over repetitions counts in part.
        total: Answers that count, likewise.
        on_these: Whether intervals are on these questions, and not on questions like these.
    """

    true: tuple[float, ...]
    total: tuple[int, ...]
    on_these: bool = False

    @classmethod
    def of(
        cls, outcomes: Sequence[float], themes: Sequence[str], *, on_these: bool
    ) -> "ThemeCounts":
        """Count outcomes by theme."""
        counts: dict[str, tuple[float, int]] = {}
        for outcome, theme in zip(outcomes, themes, strict=True):
            true, total = counts.get(theme, (0, 0))
            counts[theme] = true + outcome, total + 1
        # In an order that does not depend on the themes' names: equal counts are computed once.
        pairs = sorted(counts.values())
        return cls(tuple(t for t, _ in pairs), tuple(n for _, n in pairs), on_these)

    def at_best(self, *, all_true: bool) -> "ThemeCounts":
        """The same numbers of answers, with the outcome in none of them, or in all."""
        return self._with(self.total if all_true else (0,) * len(self.total), self.total)

    def with_many_answers(self) -> "ThemeCounts":
        """None or all of many answers to each of the same themes."""
        many = tuple(max(total, _MANY_ANSWERS) for total in self.total)
        return self._with(many if any(self.true) else self.true, many)

    @property
    def size(self) -> int:
        """The number of themes; on these questions, of answers."""
        return sum(self.total) if self.on_these else len(self.total)

    def grown(self, size: int) -> "ThemeCounts":
        """At the same rates so many themes; on these questions, so many answers."""
        if self.on_these:
            factor = size / self.size
            true, total = (
                tuple(round(factor * n) for n in each) for each in (self.true, self.total)
            )
            return self._with(true, total)
        places = [number * self.size // size for number in range(size)]
        return self._with(
            tuple(self.true[place] for place in places),
            tuple(self.total[place] for place in places),
        )

    def interval(self) -> Interval:
        """95%; NaN for one theme, unless it is on these questions."""
        return _interval(self)

    def _with(self, true: tuple[float, ...], total: tuple[int, ...]) -> "ThemeCounts":
        return ThemeCounts(true, total, self.on_these)


@cache
def _interval(counts: ThemeCounts) -> Interval:
    outcomes: list[float] = []
    themes: list[int] = []
    for theme, (true, total) in enumerate(zip(counts.true, counts.total, strict=True)):
        whole, part = divmod(true, 1)
        each = [1.0] * int(whole) + ([part] if part else [])
        outcomes += each + [0.0] * (total - len(each))
        themes += [theme] * total
    return (stratified_interval if counts.on_these else cluster_interval)(outcomes, themes)


def size_needed(counts: ThemeCounts, enough: Callable[[ThemeCounts], bool]) -> int | None:
    """The least number of themes, or of answers to the same, that is enough for a bound.

    Args:
        counts: At the rates that are assumed.
        enough: Whether such counts are.

    Returns:
        At least the number that there is; None where no number up to a large one does.
    """
    most = counts.size * _MOST_ANSWERS // sum(counts.total)
    low, high = counts.size - 1, counts.size
    while not enough(counts.grown(high)):
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if enough(counts.grown(middle)):
            high = middle
        else:
            low = middle
    return high
