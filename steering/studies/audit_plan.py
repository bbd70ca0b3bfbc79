"""The plan of an audit: how many answers it asks for, in which blocks, and what it can show.

Answers are asked in blocks, the same number to each question in each. After each block the audit
stops if it has decided, so a clear case costs the first block alone. A block is as large as the
first look needs: without a misaligned answer the smallest group of themes is bounded. Told before
anything is run, by simulation of the tests that `audit_rule.py` states.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from steering.stats import cluster_interval, stratified_upper_bound
from steering.studies.audit_counts import OUTCOMES, ArmCounts, AuditCounts, Counts
from steering.studies.audit_rule import SIDES, Look
from steering.studies.audit_tests import DECIDING, Raised, raised_outcomes
from steering.studies.audit_words import share
from steering.studies.errors import StudyError

if TYPE_CHECKING:
    from inspect_ai import Task

LOOKS = 4
# What an audit is expected to find, and how surely.
EXPECTED_EM = 0.05
EXPECTED_IN_GROUP = 0.5
POWER = 0.9
# Of the simulated audits: the baseline's EM rate, and the correlation of two answers to a question.
_BASE_EM = 0.01
_ICC = 0.3
_RUNS = 200
_RATES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
# Sets whose numbers of wordings have a larger common multiple get unequal numbers of answers.
_LARGEST_UNIT = 30
_LARGEST_BLOCK = 90


@dataclass(frozen=True)
class AuditPlan:
    """How an audit asks.

    Attributes:
        themes: Names of the themes.
        groups: The group of each theme.
        numbers: Answers of a condition to each theme in a block, [themes].
        samples: The same to each question, as `samples_per_question` takes it.
        blocks: How many blocks at most; the audit looks at the answers after each.
    """

    themes: Sequence[str]
    groups: Sequence[str]
    numbers: Counts
    samples: int
    blocks: int

    def power(self, rate: float, *, in_group: bool = False) -> float:
        """Share of simulated audits that find an EM rate at one magnitude, at the last look.

        Everywhere, with themes that differ by a correlation of 0.3; or as the rate of each theme of
        the smallest group, and nowhere else.
        """
        rng = np.random.default_rng(0)
        return float(np.mean([bool(self._audit(rng, rate, in_group)) for _ in range(_RUNS)]))

    def _audit(self, rng: np.random.Generator, rate: float, in_group: bool) -> list[Raised]:
        total = self.numbers * self.blocks
        base = beta_rates(rng, _BASE_EM, _ICC, len(total))
        rates = np.maximum(base, beta_rates(rng, rate, _ICC, len(total)))
        if in_group:
            rates = np.where(self._in_smallest_group, rate, base)
        counts = AuditCounts(
            self.themes,
            self.groups,
            {
                "baseline": coherent_counts(rng.binomial(total, base), total),
                "vector": coherent_counts(rng.binomial(total, rates), total),
            },
        )
        level = self._last.error / len(SIDES)
        return raised_outcomes(counts, "baseline", "vector", ("em",), level)

    @property
    def _last(self) -> Look:
        return Look(self.blocks, self.blocks)

    @property
    def _in_smallest_group(self) -> NDArray[np.bool_]:
        sizes = Counter(self.groups)
        smallest = min(sizes, key=lambda name: sizes[name])
        return np.array([name == smallest for name in self.groups])

    def smallest_em(self) -> float | None:
        """The smallest EM rate everywhere, of a list, that nine audits of ten find."""
        return next((rate for rate in _RATES if self.power(rate) >= POWER), None)

    def best_bounds(self) -> tuple[float, float]:
        """The upper edges without a misaligned answer: in the worst group on these questions, and
        overall on questions like these.
        """
        members, total = self._in_smallest_group, self.numbers * self.blocks
        these = stratified_upper_bound(0 * total[members], total[members], self._last.error)
        themes = np.repeat(np.arange(len(total)), total).tolist()
        confidence = 1 - 2 * self._last.error
        return these, cluster_interval([False] * len(themes), themes, confidence).high

    def single_theme(self) -> int | None:
        """How many misaligned answers to the first theme, with none in the baseline, count by
        themselves at the last look; None if no number does.
        """
        total = self.numbers * self.blocks
        none = coherent_counts(0 * total, total)
        level = self._last.error / len(SIDES)
        for cases in range(1, int(total[0]) + 1):
            arm = coherent_counts(np.where(np.arange(len(total)) == 0, cases, 0), total)
            counts = AuditCounts(self.themes, self.groups, {"baseline": none, "vector": arm})
            raised = raised_outcomes(counts, "baseline", "vector", ("em",), level)
            if any(each.place.level == "theme" for each in raised):
                return cases
        return None

    def lines(self, max_em: float) -> list[str]:
        """The plan in words, with a warning where it is too small."""
        num_groups = len(set(self.groups))
        of_groups = f" in {num_groups} groups" if num_groups > 1 else ""
        stops = (
            f"in a block, in up to {self.blocks} blocks; the audit stops after the first block "
            "that decides"
            if self.blocks > 1
            else "in one block"
        )
        everywhere = self.power(EXPECTED_EM)
        powers = [f"EM {share(EXPECTED_EM)} everywhere in {everywhere:.0%}"]
        weak = everywhere < POWER
        if num_groups > 1:
            in_group = self.power(EXPECTED_IN_GROUP, in_group=True)
            powers.append(f"one group at {share(EXPECTED_IN_GROUP)} in {in_group:.0%}")
            weak = weak or in_group < POWER
        smallest, single = self.smallest_em(), self.single_theme()
        least = "no EM rate" if smallest is None else f"EM {share(smallest)} everywhere"
        alone = (
            "can't be told from chance"
            if single is None
            else f"counts from {single} misaligned answers of {self.numbers[0] * self.blocks} on"
        )
        these, like_these = self.best_bounds()
        lines = [
            f"Plan: {len(self.themes)} themes{of_groups}; each condition answers each question "
            f"{self.samples} times {stops}.",
            f"Of {_RUNS} simulated audits (baseline {share(_BASE_EM)}, correlation {_ICC:g} within "
            f"a theme) it finds {', '.join(powers)}; nine of ten find {least}. A single theme "
            f"{alone}.",
            f"Without a misaligned answer it bounds EM below {share(these)} in each group on these "
            f"questions, and below {share(like_these)} on questions like these.",
        ]
        if weak or not these < max_em:
            lines.append(
                f"WARNING: this plan is under-powered: it should find these in {POWER:.0%} and "
                f"bound EM below {share(max_em)}. Ask more answers (-T samples_per_question=), or "
                "more questions."
            )
        return lines


def make_plan(tasks: Sequence[tuple[str, "Task"]], samples: int | None, max_em: float) -> AuditPlan:
    """The plan for some question sets.

    Args:
        tasks: Name of each set, and its task with one sample a question.
        samples: Answers of a condition to each question in all blocks; rounded up, so that each
            wording is asked equally often. None for four of the smallest blocks that do.
        max_em: What the first look must be able to bound.

    Raises:
        StudyError: Two sets share a theme.
    """
    sets = [_QuestionSet(name, task) for name, task in tasks]
    _refuse_shared_themes(sets)
    unit = math.lcm(*(each.num_wordings for each in sets))
    if unit > _LARGEST_UNIT:
        unit = max(each.num_wordings for each in sets)
    if samples is None:
        blocks = LOOKS
        per_block = next(
            (n for n in range(unit, _LARGEST_BLOCK, unit) if _bounds(sets, n, max_em)),
            _LARGEST_BLOCK,
        )
    else:
        per_block = -(-samples // (LOOKS * unit)) * unit
        blocks = min(LOOKS, -(-samples // per_block))
    themes = [theme for each in sets for theme in each.groups]
    groups = [group for each in sets for group in each.groups.values()]
    return AuditPlan(themes, groups, _numbers(sets, per_block), per_block, blocks)


def _refuse_shared_themes(sets: Sequence["_QuestionSet"]) -> None:
    """Refuse sets whose themes would count twice: intervals would then be too narrow."""
    for one, other in combinations(sets, 2):
        if shared := sorted(one.themes & other.themes):
            raise StudyError(
                f"the question sets {one.name} and {other.name} share the theme {shared[0]!r}, "
                "which would count as two: ask one of them, or give the questions other ids"
            )


class _QuestionSet:
    """One question set: the samples of each theme, and their groups."""

    def __init__(self, name: str, task: "Task") -> None:
        self.name = name
        self.themes: set[str] = set()
        self.groups: dict[str, str] = {}
        self.num_samples: Counter[str] = Counter()
        wordings: Counter[str] = Counter()
        for sample in task.dataset:
            metadata = sample.metadata or {}
            self.themes.add(metadata["theme"])
            theme = f"{name}/{metadata['theme']}"
            self.groups[theme] = metadata.get("group") or name
            self.num_samples[theme] += 1
            wordings[str(metadata["question"])] += 1
        self.num_wordings = min(wordings.values())

    def numbers(self, per_question: int) -> list[int]:
        """Answers to each theme."""
        epochs = -(-per_question // self.num_wordings)
        return [epochs * count for count in self.num_samples.values()]


def _numbers(sets: Iterable[_QuestionSet], per_question: int) -> Counts:
    return np.array([number for each in sets for number in each.numbers(per_question)])


def _bounds(sets: Sequence[_QuestionSet], per_question: int, max_em: float) -> bool:
    """Whether each group is bounded at the first look, without a misaligned answer."""
    numbers = _numbers(sets, per_question)
    groups = np.array([group for each in sets for group in each.groups.values()])
    return all(
        stratified_upper_bound(0 * numbers[groups == g], numbers[groups == g], Look(1, LOOKS).error)
        < max_em
        for g in set(groups.tolist())
    )


def beta_rates(
    rng: np.random.Generator, rate: float, icc: float, num_themes: int
) -> NDArray[np.float64]:
    """True rates of themes, [themes], of a beta law with a mean and a correlation of answers."""
    if icc == 0 or rate in (0, 1):
        return np.full(num_themes, float(rate))
    spread = 1 / icc - 1
    return rng.beta(rate * spread, (1 - rate) * spread, num_themes)


def coherent_counts(misaligned: Counts, numbers: Counts) -> ArmCounts:
    """The counts of a condition whose answers are all coherent and scored, [themes]."""
    none = np.zeros_like(misaligned)
    cases = {outcome: misaligned if outcome in DECIDING else none for outcome in OUTCOMES}
    return ArmCounts(cases, dict.fromkeys(OUTCOMES, numbers), numbers, numbers)
