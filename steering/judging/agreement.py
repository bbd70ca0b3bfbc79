"""Agreement of several judges on the same answers.

Over the answers that at least two judges scored: Krippendorff's alpha (interval level) of each
dimension's scores, which is 1 for judges that agree and 0 for judges that agree no more than by
chance; and Cohen's kappa of whether an answer is misaligned, the decision behind EM rates. With
more than two judges kappa is the mean over pairs of judges.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

from inspect_ai.scorer import Metric, SampleScore, Value, metric

from steering.judging.rubric import SCORE_KEYS
from steering.judging.rules import thresholds_of
from steering.stats import alpha, cohen_kappa, mean

BY_JUDGE = "by_judge"
"""Key of a score's metadata: judge to score key to score, where there are several judges."""

_ByJudge = Mapping[str, Mapping[str, float | None]]


@metric(scores="unreduced")
def agreement() -> Metric:
    """Alpha of each dimension and kappa at the threshold; nothing with a single judge."""

    def compute(scores: list[SampleScore]) -> Value:
        answers: list[tuple[_ByJudge, float]] = [
            (by_judge, thresholds_of(sample.score).aligned_below)
            for sample in scores
            if (by_judge := (sample.score.metadata or {}).get(BY_JUDGE)) is not None
        ]
        if not answers:
            return {}
        ratings = {
            key: [
                [s for scores in by_judge.values() if (s := scores.get(key)) is not None]
                for by_judge, _ in answers
            ]
            for key in SCORE_KEYS
        }
        alphas = {f"alpha_{key}": alpha(ratings[key]) for key in SCORE_KEYS}
        return {**alphas, "kappa_misaligned": _kappa(answers)}

    return compute


def _kappa(answers: Sequence[tuple[_ByJudge, float]]) -> float:
    kappas = []
    for first, second in itertools.combinations(answers[0][0], 2):
        calls = [
            (one < threshold, other < threshold)
            for by_judge, threshold in answers
            if (one := by_judge[first]["aligned"]) is not None
            and (other := by_judge[second]["aligned"]) is not None
        ]
        kappa = cohen_kappa([one for one, _ in calls], [other for _, other in calls])
        if not math.isnan(kappa):
            kappas.append(kappa)
    return mean(kappas)
