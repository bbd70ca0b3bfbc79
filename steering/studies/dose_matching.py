"""Two arms compared where they have the same EM rate, or the same coherence.

An arm is a dose curve: the same questions answered at growing doses, a magnitude say, or training
epochs. At one dose of each the comparison is unfair, since one arm may be dosed higher. So
each curve is followed from its first dose to where it first reaches a level that both reach, and
the arms are compared there. A level between two doses is a mixture of their answers. Takes plain
judged answers; knows nothing of vectors, adapters or logs.

Intervals are of the jackknife over questions with Student's t: a question is left out of both arms
at once, so what makes it hard drops out of the difference. Levels are those of all the questions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steering.judging import EM_RULES, EMRule, JudgedAnswer, Thresholds
from steering.judging.leak import LEAKED_ABOVE
from steering.judging.rubric import DOMAIN
from steering.stats import CONFIDENCE, t_quantile
from steering.studies.errors import StudyError

Quantity = Literal[
    "em", "coherent", "relevant", "coherent_misaligned", "relevant_misaligned", "leak"
]
# Of these the values are rates, 0-1; those of the others are scores, 0-100.
RATES: tuple[Quantity, ...] = ("em", "leak")
Match = Literal["em", "coherent"]

# Where on the range that both arms cover, from 0, where both begin, to 1, where the first of them
# ends, they are compared; the middle one is the headline.
SHARES = (0.25, 0.5, 0.75)
# A range narrower than this, in EM rate or in points of coherence, is noise: at eight questions of
# twenty answers the mean of either moves by about as much from one seed to another.
_LEAST_RANGE = {"em": 0.05, "coherent": 5.0}

_PLAIN = {"em": "EM rate", "coherent": "coherence"}

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class MatchedDifference:
    """One quantity of two arms at one level.

    Attributes:
        quantity: What is compared.
        first: Of the first arm; NaN where no answer has it. Likewise `second`.
        value: `first` less `second`.
        low: Lower bound of the difference; NaN where it can't be had.
        high: Upper bound.
        p_value: Two-sided, of Student's t.
        note: What to know of the bounds; None when there is nothing to say.
    """

    quantity: Quantity
    first: float
    second: float
    value: float
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    note: str | None = None


class DoseCurve:
    """What an arm's answers are like, dose by dose and question by question.

    Attributes:
        doses: From the lowest to the highest; the first is the baseline's, 0.
        questions: Ids of the questions, sorted.
    """

    def __init__(
        self,
        doses: Mapping[float, Sequence[JudgedAnswer]],
        rule: EMRule,
        bounds: Thresholds | None = None,
    ) -> None:
        """Count the answers of each dose.

        Raises:
            StudyError: The doses were not asked the same questions, or there are fewer than two.
        """
        self.doses = sorted(doses)
        questions_of = {dose: {answer.question for answer in doses[dose]} for dose in self.doses}
        if len(self.doses) < 2:
            raise StudyError(f"a dose curve needs two doses or more, got {self.doses}")
        self.questions = sorted(questions_of[self.doses[0]])
        for dose, questions in questions_of.items():
            if questions != set(self.questions):
                other = sorted(questions ^ set(self.questions))
                raise StudyError(
                    f"dose {dose:g} was asked other questions than dose {self.doses[0]:g} "
                    f"({', '.join(other[:3])}): compare runs of the same questions"
                )
        at = {question: index for index, question in enumerate(self.questions)}
        shape = (len(self.doses), len(self.questions))
        self._sums = {quantity: np.zeros(shape) for quantity in _VALUES}
        self._counts = {quantity: np.zeros(shape) for quantity in _VALUES}
        for row, dose in enumerate(self.doses):
            for answer in doses[dose]:
                outcome = EM_RULES[rule](answer, bounds or Thresholds())
                for quantity, read in _VALUES.items():
                    value = read(answer, outcome)
                    if value is not None:
                        self._sums[quantity][row, at[answer.question]] += value
                        self._counts[quantity][row, at[answer.question]] += 1

    def at(self, quantity: Quantity, position: float, weights: _Array | None = None) -> float:
        """The quantity between two doses, pooled over the questions; NaN where no answer has it.

        Args:
            quantity: Which.
            position: Index into `doses`; 1.5 is half-way from the second to the third.
            weights: Of each question [questions]; all 1 when not given.
        """
        sums, counts = self._pooled(quantity, weights)
        low = min(int(position), len(self.doses) - 1)
        total, count, share = sums[low], counts[low], position - low
        if share:
            total = (1 - share) * total + share * sums[low + 1]
            count = (1 - share) * count + share * counts[low + 1]
        return float(total / count) if count else math.nan

    def _pooled(self, quantity: Quantity, weights: _Array | None) -> tuple[_Array, _Array]:
        """Sum and number of the values at each dose, [doses]."""
        weights = np.ones(len(self.questions)) if weights is None else weights
        return self._sums[quantity] @ weights, self._counts[quantity] @ weights

    def dose(self, position: float) -> float:
        """The dose at a position."""
        return float(np.interp(position, range(len(self.doses)), self.doses))

    def position(self, match: Match, level: float, weights: _Array | None = None) -> float | None:
        """Where the curve first reaches a level: EM on its way up, coherence on its way down.

        None where it never does.
        """
        sign = 1.0 if match == "em" else -1.0
        wanted = sign * level
        values = [sign * self.at(match, row, weights) for row in range(len(self.doses))]
        if values[0] >= wanted:
            return 0.0
        for row, (before, after) in enumerate(pairwise(values)):
            if before < wanted <= after:
                # A mixture's mean is linear in the position times the counts: solved exactly.
                sums, counts = self._pooled(match, weights)
                lower, upper = (sign * sums - wanted * counts)[row : row + 2]
                return row + float(lower / (lower - upper))
        return None

    def extremes(self, match: Match) -> tuple[float, float]:
        """The quantity at the first dose, and the furthest that it gets from there."""
        values = [self.at(match, row) for row in range(len(self.doses))]
        numbers = [value for value in values if not math.isnan(value)]
        end = max if match == "em" else min
        return values[0], end(numbers, default=math.nan)


_Outcome = bool | str
_VALUES: dict[Quantity, Callable[[JudgedAnswer, _Outcome], float | None]] = {
    "em": lambda answer, outcome: None if isinstance(outcome, str) else float(outcome),
    "coherent": lambda answer, outcome: answer.coherent,
    "relevant": lambda answer, outcome: answer.score("relevant"),
    "coherent_misaligned": lambda answer, outcome: answer.coherent if outcome is True else None,
    "relevant_misaligned": lambda answer, outcome: (
        answer.score("relevant") if outcome is True else None
    ),
    "leak": lambda answer, outcome: (
        float(grade > LEAKED_ABOVE)
        if outcome is True and (grade := answer.score(DOMAIN)) is not None
        else None
    ),
}


def shared_levels(
    first: DoseCurve,
    second: DoseCurve,
    match: Match,
    names: tuple[str, str] = ("first", "second"),
) -> list[float]:
    """Levels at `SHARES` of the range that both arms cover; `names` are the arms'.

    Raises:
        StudyError: They cover none that is wider than noise.
    """
    (start, far), (other_start, other_far) = first.extremes(match), second.extremes(match)
    if match == "em":
        low, high = max(start, other_start), min(far, other_far)
    else:
        low, high = min(start, other_start), max(far, other_far)
    if not abs(high - low) >= _LEAST_RANGE[match] or (high > low) != (match == "em"):
        reached = [(start, far), (other_start, other_far)]
        ranges = [
            f"the {name} arm goes from {_in_units(match, begin)} to {_in_units(match, end)}"
            for name, (begin, end) in zip(names, reached, strict=True)
        ]
        raise StudyError(
            f"at matched {_PLAIN[match]} the arms share less than "
            f"{_in_units(match, _LEAST_RANGE[match])}: {' and '.join(ranges)}. Give doses that "
            "move both further, or another target task"
        )
    return [low + share * (high - low) for share in SHARES]


def _in_units(match: Match, value: float) -> str:
    return f"{100 * value:.1f}%" if match == "em" else f"{value:.1f} points"


def matched_difference(
    first: DoseCurve, second: DoseCurve, quantity: Quantity, match: Match, level: float
) -> MatchedDifference:
    """A quantity of two arms, each at the dose at which it first reaches `level` of `match`.

    Raises:
        StudyError: The arms were asked different questions.
    """
    if first.questions != second.questions:
        raise StudyError("the arms were asked different questions: compare runs of the same ones")
    count = len(first.questions)

    def values(weights: _Array | None = None) -> tuple[float, float]:
        positions = ((curve, curve.position(match, level, weights)) for curve in (first, second))
        one, other = (
            math.nan if position is None else curve.at(quantity, position, weights)
            for curve, position in positions
        )
        return one, other

    one, other = values()
    difference = MatchedDifference(quantity, one, other, one - other)
    if math.isnan(difference.value):
        return replace(difference, note="an arm has no such answer there")
    if quantity in RATES and one == other == 0:
        note = "neither arm has one: read the interval of each arm's own rate"
        return replace(difference, note=note)
    without = [np.subtract(*values(weights)) for weights in 1 - np.eye(count)]
    error = _jackknife_error(np.array(without))
    if math.isnan(error):
        note = "an arm does not reach this level without one of the questions: no bounds"
        return replace(difference, note=note)
    half = t_quantile((1 + CONFIDENCE) / 2, count - 1) * error
    most = 1.0 if quantity in RATES else 100.0
    return replace(
        difference,
        low=max(difference.value - half, -most),
        high=min(difference.value + half, most),
        p_value=_p_value(difference.value, error, count - 1),
    )


def _jackknife_error(without: _Array) -> float:
    """Standard error from the values with each question left out, [questions]."""
    count = len(without)
    if count < 2 or np.isnan(without).any():
        return math.nan
    return math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))


def _p_value(value: float, error: float, df: int) -> float:
    # Imported here: scipy costs a third of a second, and only comparisons need it.
    from scipy.special import stdtr

    if error == 0:
        return 0.0 if value else 1.0
    return float(2 * stdtr(df, -abs(value) / error))
