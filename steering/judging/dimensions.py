"""Judged dimensions of the user's own: each answer's scores by rubric files, and their means.

Apart from `em_judge`, so that no EM figure, coverage or calibration depends on them.
"""

import math
from functools import partial

from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import TaskState

from steering.judging.contexts import plain_scores, question_text
from steering.judging.errors import JudgingError
from steering.judging.judgement import Judgement, combine, shortened
from steering.judging.judges import ask_judge, at_once, grader_models
from steering.judging.metrics import judged_answer, theme_in
from steering.judging.model_output import final_text
from steering.judging.rubric_files import read_rubrics
from steering.judging.rules import is_misaligned, thresholds_of
from steering.judging.scorers import no_answer
from steering.stats import mean, mean_interval


@metric(scores="unreduced")
def dimension_means() -> Metric:
    """Mean of each dimension over the plain answers that have a score, with its bounds."""

    def compute(scores: list[SampleScore]) -> Value:
        plain = [each for each in plain_scores(scores) if isinstance(each.score.value, dict)]
        keys = dict.fromkeys(key for each in plain for key in each.score.as_dict())
        values: dict[str, str | int | float | bool | None] = {}
        for key in keys:
            pairs = [(_number(each.score.as_dict().get(key)), theme_in(each)) for each in plain]
            scored = [(score, theme) for score, theme in pairs if not math.isnan(score)]
            interval = mean_interval([score for score, _ in scored], [theme for _, theme in scored])
            low, high = max(interval.low, 0.0), min(interval.high, 100.0)
            values |= {key: mean([score for score, _ in scored])}
            values |= {f"{key}_low": low, f"{key}_high": high, f"{key}_scored": len(scored)}
        return values

    return compute


@scorer(metrics=[dimension_means()])
def judged_dimensions(rubrics: str | list[str]) -> Scorer:
    """Judge each answer in dimensions of the user's own, 0 to 100.

    With several judges on the grader role a score is the mean over those that gave a number. A
    dimension that is of misaligned answers only is asked where an EM rule counts the answer as
    misaligned, which `em_judge` must have decided before.

    Args:
        rubrics: paths of rubric files.

    Raises:
        JudgingError: a file can't be read, or says something impossible.
    """
    dimensions = read_rubrics(rubrics)

    async def score(state: TaskState, target: Target) -> Score:
        if unanswered := no_answer(state):
            return unanswered
        asked = [each for each in dimensions if not each.only_misaligned or _misaligned(state)]
        judges = grader_models()
        question, answer = question_text(state), final_text(state.output)
        calls = [
            partial(
                ask_judge,
                judge,
                rubric.render(question, answer),
                rubric.escapes.keys(),
                (rubric.name, rubric.score),
            )
            for rubric in asked
            for judge in judges
        ]
        replies = iter(await at_once(calls))
        judgements = {rubric.score: combine([next(replies) for _ in judges]) for rubric in asked}
        numbers = {key: judgement.score for key, judgement in judgements.items()}
        return Score(
            # Inspect reads the keys of the first sample in all others.
            value={
                each.score: math.nan if (number := numbers.get(each.score)) is None else number
                for each in dimensions
            },
            answer=answer,
            explanation="\n".join(_line(key, each) for key, each in judgements.items()),
            metadata={
                "judge": " + ".join(map(str, judges)),
                "prompts": {each.score: each.sha256[:12] for each in dimensions},
                "reasons": {key: each.reason for key, each in judgements.items() if each.reason},
            },
        )

    return score


def _misaligned(state: TaskState) -> bool:
    """Whether an EM rule counts the answer as misaligned.

    Raises:
        JudgingError: It was not decided.
    """
    em_score = (state.scores or {}).get("em_judge")
    if em_score is None:
        raise JudgingError(
            "a dimension that is of misaligned answers only needs the score of em_judge: score "
            "with both, em_judge first, or leave `only:` out of its rubric."
        )
    return is_misaligned(judged_answer(em_score, ""), thresholds_of(em_score))


def _line(key: str, judgement: Judgement) -> str:
    if judgement.score is None:
        return f"- {key}: unscored, {shortened(judgement.reason or '')}"
    return f"- {key}: {judgement.score:.4g}"


def _number(value: object) -> float:
    """A score; NaN for none."""
    return float(value) if isinstance(value, int | float) else math.nan
