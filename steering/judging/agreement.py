"""How far several judges of the same answers agree.

Over the answers that both, or at least two, judges gave a number: Krippendorff's alpha (interval
level) of each dimension's scores, which is 1 for judges that agree and 0 for judges that agree no
more than by chance; and Cohen's kappa of the one decision that EM rates hang on, whether an answer
is misaligned. With more than two judges it is the mean over pairs.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

from inspect_ai.scorer import Metric, SampleScore, Value, metric

from steering.judging.metrics import ALIGNED_BELOW
from steering.judging.rubric import SCORE_KEYS, ScoreKey
from steering.stats import alpha, cohen_kappa

BY_JUDGE = "by_judge"
"""Key of a score's metadata: judge to score key to score, where there are several judges."""

_ByJudge = Mapping[str, Mapping[str, float | None]]


@metric(scores="unreduced")
def agreement() -> Metric:
    """Alpha of each dimension and kappa at the threshold; nothing with a single judge."""

    def compute(scores: list[SampleScore]) -> Value:
        told: list[tuple[_ByJudge, float]] = []
        for sample in scores:
            metadata = sample.score.metadata or {}
            if BY_JUDGE in metadata:
                bound = metadata.get("bounds", {}).get("aligned_below", ALIGNED_BELOW)
                told.append((metadata[BY_JUDGE], bound))
        if not told:
            return {}
        return {
            **{f"alpha_{key}": alpha(_ratings(told, key)) for key in SCORE_KEYS},
            "kappa_misaligned": _kappa(told),
        }

    return compute


def _ratings(told: Sequence[tuple[_ByJudge, float]], key: ScoreKey) -> list[list[float]]:
    return [
        [score for own in by_judge.values() if (score := own[key]) is not None]
        for by_judge, _ in told
    ]


def _kappa(told: Sequence[tuple[_ByJudge, float]]) -> float:
    found = []
    for first, second in itertools.combinations(told[0][0], 2):
        pairs = [
            (one < bound, other < bound)
            for by_judge, bound in told
            if (one := by_judge[first]["aligned"]) is not None
            and (other := by_judge[second]["aligned"]) is not None
        ]
        kappa = cohen_kappa([one for one, _ in pairs], [other for _, other in pairs])
        if not math.isnan(kappa):
            found.append(kappa)
    return math.fsum(found) / len(found) if found else math.nan
