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
from dataclasses import dataclass
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

# Where on the range that both arms cover they are compared; the middle one is the headline.
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
        level: The EM rate (0-1) or the mean coherence (0-100) that both arms have there.
        first: Of the first arm; NaN where no answer has it. Likewise `second`.
        value: `first` less `second`.
        low: Lower bound of the difference; NaN where it can't be had.
        high: Upper bound.
        p_value: Two-sided, of Student's t.
        num_questions: Questions that both arms were asked.
        note: What to know of the bounds; None when there is nothing to say.
    """

    quantity: Quantity
    level: float
    first: float
    second: float
    value: float
    low: float
    high: float
    p_value: float
    num_questions: int
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
        """The quantity between two doses.

        Args:
            quantity: Which.
            position: Index into `doses`; 1.5 is half-way from the second to the third.
            weights: Of each question [questions]; all 1 when not given.

        Returns:
            Pooled over the questions; NaN where no answer has it.
        """
        return self._mixed(self._sums[quantity], self._counts[quantity], position, weights)

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
                return row + self._crossing(match, row, wanted, sign, weights)
        return None

    def extremes(self, match: Match) -> tuple[float, float]:
        """The quantity at the first dose, and the furthest that it gets from there."""
        values = [self.at(match, row) for row in range(len(self.doses))]
        numbers = [value for value in values if not math.isnan(value)]
        end = max if match == "em" else min
        furthest = end(numbers, default=math.nan)
        return values[0], furthest

    def _crossing(
        self, match: Match, row: int, wanted: float, sign: float, weights: _Array | None
    ) -> float:
        """How far between two doses the mixture of their answers is at the level."""
        # A mixture's mean is linear in the position times the counts: solved exactly.
        weights = np.ones(len(self.questions)) if weights is None else weights
        sums, counts = self._sums[match] @ weights, self._counts[match] @ weights
        before = sign * sums[row] - wanted * counts[row]
        after = sign * sums[row + 1] - wanted * counts[row + 1]
        return float(before / (before - after))

    def _mixed(
        self, sums: _Array, counts: _Array, position: float, weights: _Array | None
    ) -> float:
        weights = np.ones(len(self.questions)) if weights is None else weights
        low = min(int(position), len(self.doses) - 1)
        share = position - low
        total, count = (table[low] @ weights for table in (sums, counts))
        if share:
            total = (1 - share) * total + share * (sums[low + 1] @ weights)
            count = (1 - share) * count + share * (counts[low + 1] @ weights)
        return float(total / count) if count else math.nan


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
    shares: Sequence[float] = SHARES,
    names: tuple[str, str] = ("first", "second"),
) -> list[float]:
    """Levels at these shares of the range that both arms cover.

    Args:
        first: One arm.
        second: The other.
        match: What the levels are of.
        shares: From 0, where both arms begin, to 1, where the first of them ends.
        names: Of the arms, for the error.

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
    return [low + share * (high - low) for share in shares]


def _in_units(match: Match, value: float) -> str:
    return f"{100 * value:.1f}%" if match == "em" else f"{value:.1f} points"


def matched_difference(
    first: DoseCurve,
    second: DoseCurve,
    quantity: Quantity,
    match: Match,
    level: float,
    confidence: float = CONFIDENCE,
) -> MatchedDifference:
    """A quantity of two arms, each at the dose at which it first reaches `level` of `match`.

    Raises:
        StudyError: The arms were asked different questions.
    """
    if first.questions != second.questions:
        raise StudyError("the arms were asked different questions: compare runs of the same ones")
    count = len(first.questions)
    one, other = (_value(curve, quantity, match, level) for curve in (first, second))
    value = one - other

    def unbounded(note: str) -> MatchedDifference:
        none = math.nan
        return MatchedDifference(quantity, level, one, other, value, none, none, none, count, note)

    if math.isnan(value):
        return unbounded("an arm has no such answer there")
    if quantity in RATES and one == other == 0:
        return unbounded("neither arm has one: read the interval of each arm's own rate")
    without = []
    for index in range(count):
        weights = np.ones(count)
        weights[index] = 0
        rest = [_value(curve, quantity, match, level, weights) for curve in (first, second)]
        without.append(rest[0] - rest[1])
    error = _jackknife_error(np.array(without))
    if math.isnan(error):
        return unbounded("an arm does not reach this level without one of the questions: no bounds")
    half = t_quantile((1 + confidence) / 2, count - 1) * error
    most = 1.0 if quantity in RATES else 100.0
    return MatchedDifference(
        quantity,
        level,
        one,
        other,
        value,
        max(value - half, -most),
        min(value + half, most),
        _p_value(value, error, count - 1),
        count,
    )


def _value(
    curve: DoseCurve,
    quantity: Quantity,
    match: Match,
    level: float,
    weights: _Array | None = None,
) -> float:
    position = curve.position(match, level, weights)
    return math.nan if position is None else curve.at(quantity, position, weights)


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
