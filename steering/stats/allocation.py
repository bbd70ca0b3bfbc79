"""How many units of each stratum a stratified sample takes."""

import heapq
from collections.abc import Sequence
from math import sqrt


def allocate(sizes: Sequence[int], spreads: Sequence[float], number: int) -> list[int]:
    """The sizes of the samples of strata that give a weighted mean the smallest variance.

    The exact whole numbers of Neyman's allocation: each next unit goes where size times spread,
    over the root of m (m + 1) with m units there, is largest (Wright 2012, The American
    Statistician 66). Every stratum gets one first. A larger number takes no unit away.

    Args:
        sizes: Units in each stratum, at least 1.
        spreads: Standard deviation in each stratum, as far as it can be guessed; above 0.
        number: Units of the sample; all of them where there are fewer.

    Returns:
        [strata].

    Raises:
        ValueError: There are more strata than `number`.
    """
    if number < len(sizes):
        raise ValueError(f"{number} units for {len(sizes)} strata: each needs one")
    counts = [1] * len(sizes)
    queue = [
        (-size * spread / sqrt(2), stratum)
        for stratum, (size, spread) in enumerate(zip(sizes, spreads, strict=True))
        if size > 1
    ]
    heapq.heapify(queue)
    for _ in range(min(number, sum(sizes)) - len(sizes)):
        _, stratum = heapq.heappop(queue)
        counts[stratum] += 1
        m = counts[stratum]
        if m < sizes[stratum]:
            priority = sizes[stratum] * spreads[stratum] / sqrt(m * (m + 1))
            heapq.heappush(queue, (-priority, stratum))
    return counts
