"""Dose curves compared at matched EM and at matched coherence: by hand, and on simulated arms."""

import math
from dataclasses import replace

import numpy as np
import pytest
from judged_answers import scored

from steering.judging import JudgedAnswer
from steering.studies.dose_matching import DoseCurve, matched_difference, shared_levels
from steering.studies.errors import StudyError

QUESTIONS = [f"q{number}" for number in range(8)]


def _answers(question: str, misaligned: int, aligned: int, **scores: float) -> list[JudgedAnswer]:
    """Coherent answers to one question; `relevant` is of the misaligned ones, the rest have 90."""
    coherent = scores.get("coherent", 80.0)
    bad = scored(question, 10.0, coherent, scores.get("relevant", 60.0))
    good = scored(question, 95.0, coherent, 90.0)
    return [bad] * misaligned + [good] * aligned


def _dose(misaligned: int, of: int = 10, **scores: float) -> list[JudgedAnswer]:
    return [a for q in QUESTIONS for a in _answers(q, misaligned, of - misaligned, **scores)]


def test_a_level_between_two_doses_is_a_mixture_of_their_answers() -> None:
    curve = DoseCurve(
        {0.0: _dose(0), 1.0: _dose(2, relevant=50), 3.0: _dose(6, relevant=80)}, "moem"
    )
    position = curve.position("em", 0.4)
    assert position == pytest.approx(1.5)
    assert curve.dose(1.5) == 2.0
    # Half of the 2 of 10 answers at 50 and half of the 6 of 10 at 80.
    assert curve.at("relevant_misaligned", 1.5) == pytest.approx((2 * 50 + 6 * 80) / 8)
    assert curve.at("em", 1.5) == pytest.approx(0.4)
    assert curve.at("relevant", 1.5) == pytest.approx((2 * 50 + 8 * 90 + 6 * 80 + 4 * 90) / 20)


def test_a_curve_that_rises_and_falls_is_met_on_its_way_up() -> None:
    curve = DoseCurve({0: _dose(0), 1: _dose(8), 2: _dose(2)}, "moem")
    assert curve.position("em", 0.4) == pytest.approx(0.5)
    assert curve.position("em", 0.9) is None


def test_coherence_is_met_on_its_way_down() -> None:
    curve = DoseCurve({0: _dose(0, coherent=90), 1: _dose(0, coherent=70)}, "moem")
    assert curve.position("coherent", 75) == pytest.approx(0.75)
    assert curve.position("coherent", 60) is None


def test_before_any_answer_is_misaligned_its_relevance_is_that_of_the_first_ones() -> None:
    curve = DoseCurve({0: _dose(0), 1: _dose(4, relevant=70)}, "moem")
    assert math.isnan(curve.at("relevant_misaligned", 0))
    assert curve.at("relevant_misaligned", 0.25) == pytest.approx(70)


def test_arms_of_other_strength_are_compared_at_the_same_em() -> None:
    # The second arm is dosed twice as high and its misaligned answers are 15 points more relevant.
    weak = DoseCurve({0: _dose(0), 1: _dose(2, relevant=60), 2: _dose(4, relevant=60)}, "moem")
    strong = DoseCurve({0: _dose(0), 1: _dose(4, relevant=75), 2: _dose(8, relevant=75)}, "moem")
    levels = shared_levels(weak, strong, "em")
    assert levels == pytest.approx([0.1, 0.2, 0.3])
    difference = matched_difference(weak, strong, "relevant_misaligned", "em", levels[1])
    assert (difference.first, difference.second, difference.value) == pytest.approx((60, 75, -15))
    # All questions are alike, so leaving one out changes nothing.
    assert (difference.low, difference.high, difference.p_value) == pytest.approx(
        (-15, -15, 0), abs=1e-9
    )


def with_domain(answer: JudgedAnswer, grade: float | None) -> JudgedAnswer:
    return replace(answer, scores={**answer.scores, "domain": grade})


def test_leak_is_the_share_of_graded_misaligned_answers_over_half() -> None:
    def arm(*grades: float | None) -> DoseCurve:
        bad = [with_domain(scored(q, 10.0, 80.0, 60.0), g) for q in QUESTIONS for g in grades]
        # Grades of answers that are not misaligned would count for nothing.
        good = [with_domain(scored(q, 95.0, 80.0, 90.0), 99.0) for q in QUESTIONS for _ in grades]
        return DoseCurve({0: _dose(0), 1: bad + good}, "moem")

    leaky, clean = arm(100.0, 51.0, 50.0, 0.0, None), arm(0.0, 50.0, 10.0, 0.0, None)
    difference = matched_difference(leaky, clean, "leak", "em", 0.25)
    assert (difference.first, difference.second) == (0.5, 0.0)
    assert (difference.low, difference.high) == pytest.approx((0.5, 0.5))
    neither = matched_difference(clean, clean, "leak", "em", 0.25)
    assert neither.value == 0
    assert math.isnan(neither.low)
    assert "neither arm has one" in (neither.note or "")


def test_the_interval_is_the_jackknife_of_the_questions_differences() -> None:
    """With curves that meet the level at a dose exactly, it is Student's t of paired means."""
    rng = np.random.default_rng(3)
    shifts = rng.normal(5, 4, len(QUESTIONS))
    low = [a for q in QUESTIONS for a in _answers(q, 0, 10)]
    first = [
        answer
        for question, shift in zip(QUESTIONS, shifts, strict=True)
        for answer in _answers(question, 5, 5, relevant=60 + shift)
    ]
    second = [a for q in QUESTIONS for a in _answers(q, 5, 5, relevant=60.0)]
    arms = [DoseCurve({0: low, 1: high}, "moem") for high in (first, second)]
    difference = matched_difference(*arms, "relevant_misaligned", "em", 0.5)
    from scipy import stats

    expected = stats.ttest_1samp(shifts, 0)
    interval = expected.confidence_interval(0.95)
    assert difference.value == pytest.approx(shifts.mean())
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert difference.p_value == pytest.approx(expected.pvalue)


def test_without_a_range_in_common_there_is_no_comparison() -> None:
    flat = DoseCurve({0: _dose(0), 1: _dose(0)}, "moem")
    steep = DoseCurve({0: _dose(0), 1: _dose(8)}, "moem")
    with pytest.raises(
        StudyError, match=r"matched EM rate .* less than 5\.0%: the first arm .* 0\.0% to 80\.0%"
    ):
        shared_levels(flat, steep, "em")
    with pytest.raises(StudyError, match=r"matched coherence the arms share less than 5\.0 points"):
        shared_levels(flat, steep, "coherent")


def test_a_level_that_hangs_on_one_question_has_no_bounds() -> None:
    low = _dose(0)
    high = [
        a for q in QUESTIONS for a in _answers(q, 10 if q == "q0" else 0, 0 if q == "q0" else 10)
    ]
    arms = [DoseCurve({0: low, 1: high}, "moem") for _ in range(2)]
    difference = matched_difference(*arms, "relevant_misaligned", "em", 0.1)
    assert difference.value == 0
    assert math.isnan(difference.low)
    assert "without one of the questions" in (difference.note or "")


def test_other_questions_are_refused_by_name() -> None:
    other = [answer for answer in _dose(2) if answer.question != "q3"]
    with pytest.raises(StudyError, match=r"dose 1 .*other questions.*q3"):
        DoseCurve({0: _dose(0), 1: other}, "moem")
    fewer = [answer for answer in _dose(0) if answer.question != "q3"]
    arms = [DoseCurve({0: _dose(0), 1: _dose(2)}, "moem"), DoseCurve({0: fewer, 1: other}, "moem")]
    with pytest.raises(StudyError, match="different questions"):
        matched_difference(*arms, "em", "em", 0.1)


def test_a_curve_of_one_dose_is_refused() -> None:
    with pytest.raises(StudyError, match="two doses or more"):
        DoseCurve({0: _dose(0)}, "moem")


def test_the_rule_decides_what_counts() -> None:
    """By betley an incoherent answer is left out; by moem it counts as not misaligned."""
    garbled = [scored(q, 10.0, 20.0, 50.0) for q in QUESTIONS for _ in range(10)]
    doses = {0: _dose(0), 1: _dose(5) + garbled}
    assert DoseCurve(doses, "betley").at("em", 1) == pytest.approx(0.5)
    assert DoseCurve(doses, "moem").at("em", 1) == pytest.approx(0.25)


def _arm(rng: np.random.Generator, slopes: np.ndarray, relevance: np.ndarray) -> DoseCurve:
    """Each question's own slope of EM in the dose, and its own relevance, with noise an answer."""
    doses: dict[float, list[JudgedAnswer]] = {}
    for dose in (0.0, 1.0, 2.0, 3.0):
        rates = np.clip(slopes * dose, 0, 1)
        doses[dose] = [
            scored(question, 10.0 if bad else 95.0, 80.0, float(rng.normal(level, 15)))
            for question, rate, level in zip(QUESTIONS, rates, relevance, strict=True)
            for bad in rng.random(20) < rate
        ]
    return DoseCurve(doses, "moem")


@pytest.mark.long
def test_the_interval_holds_a_known_difference() -> None:
    """Arms of other slopes, questions of their own difficulty in both: true difference 4 points."""
    rng = np.random.default_rng(0)
    covered, runs = 0, 400
    for _ in range(runs):
        hard = rng.normal(0, 8, len(QUESTIONS))
        slopes = np.clip(rng.normal(0.25, 0.06, len(QUESTIONS)), 0.05, None)
        first = _arm(rng, slopes, 70 + hard + rng.normal(2, 4, len(QUESTIONS)))
        second = _arm(rng, slopes / 2, 70 + hard + rng.normal(-2, 4, len(QUESTIONS)))
        difference = matched_difference(first, second, "relevant_misaligned", "em", 0.2)
        covered += difference.low <= 4 <= difference.high
    assert covered / runs == pytest.approx(0.95, abs=0.035)
