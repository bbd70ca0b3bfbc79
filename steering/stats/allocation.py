"""How many units of each stratum a stratified sample takes."""

import heapq
from collections.abc import Sequence
from math import sqrt

LEAST = 2
"""Units of a stratum from which its variance can be told, where it has so many."""


def allocate(sizes: Sequence[int], spreads: Sequence[float], number: int) -> list[int]:
    """The sizes of the samples of strata that give a weighted mean the smallest variance.

    The exact whole numbers of Neyman's allocation: each next unit goes where size times spread,
    over the root of m (m + 1) with m units there, is largest (Wright 2012, The American
    Statistician 66). Every stratum gets `LEAST` first, or all that it has. A larger number takes
    no unit away.

    Args:
        sizes: Units in each stratum, at least 1.
        spreads: Standard deviation in each stratum, as far as it can be guessed; above 0.
        number: Units of the sample; all of them where there are fewer.

    Returns:
        [strata].

    Raises:
        ValueError: `number` is too small for that.
    """
    counts = [min(LEAST, size) for size in sizes]
    if number < sum(counts):
        raise ValueError(f"{number} units for {len(sizes)} strata, which need {sum(counts)}")
    queue = [
        (-size * spread / sqrt(LEAST * (LEAST + 1)), stratum)
        for stratum, (size, spread) in enumerate(zip(sizes, spreads, strict=True))
        if size > LEAST
    ]
    heapq.heapify(queue)
    for _ in range(min(number, sum(sizes)) - sum(counts)):
        _, stratum = heapq.heappop(queue)
        counts[stratum] += 1
        m = counts[stratum]
        if m < sizes[stratum]:
            priority = sizes[stratum] * spreads[stratum] / sqrt(m * (m + 1))
            heapq.heappush(queue, (-priority, stratum))
    return counts
