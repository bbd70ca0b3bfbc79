"""How often an audit is right, by simulation of its default plan.

    python -m benchmarks.audit_power

Simulates the answers of whole audits of `core`, plain and in contexts, and of `broad`, and judges
them with the audit's own rule, look after look. Writes results/audit_power.md. About ten minutes on
one thread.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steering.questions.contexts import PLAIN
from steering.studies.audit_counts import AuditCounts
from steering.studies.audit_plan import AuditPlan, beta_rates, coherent_counts, make_plan
from steering.studies.audit_rule import MAX_EM, SIDES, AuditArm, Look, decide
from steering.studies.eval_sets import EvalOptions, load_task

RESULTS = Path(__file__).parent / "results" / "audit_power.md"
RUNS = 500
SEED = 20260128
SETS = ("core", "broad")
CONTEXTS = {"contexts": "all", "context_domain": "medical"}
CONTEXT = "system"
RATES = (0.01, 0.03, 0.05, 0.1)
ICCS = (0.1, 0.3, 0.5, 0.8)
BASE = 0.01
BASE_ICC = 0.3
ARMS = {"baseline": AuditArm("baseline")} | {f"x{s:g}": AuditArm("vector", s) for s in SIDES}
WORKING = "x1"

Rates = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tally:
    """What simulated audits came to; `cost` is the mean share of the plan's answers."""

    outcomes: Counter[str]
    cost: float

    def share(self, outcome: str) -> str:
        return f"{100 * self.outcomes[outcome] / self.outcomes.total():.1f}%"

    def cells(self) -> str:
        shares = (self.share(outcome) for outcome in ("found", "bounded", "can't say"))
        return f"{' | '.join(shares)} | {100 * self.cost:.0f}%"


def simulate(plan: AuditPlan, rng: np.random.Generator, rates: Rates) -> tuple[str, int]:
    """The verdict of one audit, and how many blocks it took."""
    cases = {label: np.zeros(len(plan.themes), dtype=np.int64) for label in ARMS}
    for block in range(1, plan.blocks + 1):
        for label in ARMS:
            cases[label] = cases[label] + rng.binomial(plan.numbers, rates[label])
        numbers = plan.numbers * block
        arms = {label: coherent_counts(cases[label], numbers) for label in ARMS}
        counts = AuditCounts(plan.themes, plan.groups, arms, plan.contexts)
        outcome = decide(counts, ARMS, MAX_EM, Look(block, plan.blocks)).outcome
        if outcome != "can't say":
            break
    return outcome, block


class Scene:
    """Where and how much the vector misaligns, and what the baseline does."""

    def __init__(self, plan: AuditPlan) -> None:
        self.plan = plan
        self.num_cells = len(plan.themes)
        groups, contexts = np.array(plan.groups), np.array(plan.contexts)
        self.plain = contexts == PLAIN
        self.num_themes = int(self.plain.sum())
        # The last group of broad: one of seven themes.
        self.group = (groups == groups[-1]) & self.plain
        self.context = contexts == CONTEXT

    def alike(self, rng: np.random.Generator, rate: float, icc: float) -> Rates:
        """The vector does nothing."""
        base = beta_rates(rng, rate, icc, self.num_cells)
        return dict.fromkeys(ARMS, base)

    def everywhere(self, rng: np.random.Generator, rate: float, icc: float) -> Rates:
        """Misaligned on all plain questions, at the working magnitude only."""
        return self._within(rng, self.plain, rate, icc)

    def in_group(self, rng: np.random.Generator, rate: float, icc: float) -> Rates:
        """The same share of all answers, but all of it in one group."""
        of_group = rate * self.num_themes / int(self.group.sum())
        return self._within(rng, self.group, of_group, icc)

    def in_context(self, rng: np.random.Generator, rate: float, icc: float) -> Rates:
        """Misaligned in one context; plain questions, and all other contexts, as the baseline."""
        return self._within(rng, self.context, rate, icc)

    def group_at(self, rng: np.random.Generator, rate: float, icc: float) -> Rates:
        """One group at a rate, each of its themes."""
        return self._raised(rng, np.where(self.group, rate, 0.0))

    def theme_at(self, rng: np.random.Generator, rate: float, icc: float) -> Rates:
        """One theme at a rate."""
        return self._raised(rng, np.where(np.arange(self.num_cells) == 0, rate, 0.0))

    def bad_alike(self, rng: np.random.Generator, rate: float, icc: float) -> Rates:
        """One group at a rate in every condition, and all else clean."""
        return dict.fromkeys(ARMS, np.where(self.group, rate, 0.0))

    def _within(
        self, rng: np.random.Generator, cells: np.ndarray, rate: float, icc: float
    ) -> Rates:
        raised = np.zeros(self.num_cells)
        raised[cells] = beta_rates(rng, rate, icc, int(cells.sum()))
        return self._raised(rng, raised)

    def _raised(self, rng: np.random.Generator, raised: np.ndarray) -> Rates:
        base = beta_rates(rng, BASE, BASE_ICC, self.num_cells)
        return dict.fromkeys(ARMS, base) | {WORKING: np.maximum(base, raised)}


def tally(scene: Scene, where: str, rate: float, icc: float) -> Tally:
    """Simulated audits of one cell."""
    rng = np.random.default_rng(SEED)
    outcomes: Counter[str] = Counter()
    blocks = 0
    for _ in range(RUNS):
        outcome, used = simulate(scene.plan, rng, getattr(scene, where)(rng, rate, icc))
        outcomes[outcome] += 1
        blocks += used
    return Tally(outcomes, blocks / RUNS / scene.plan.blocks)


def lines() -> Iterator[str]:
    asked = [
        (name, load_task(EvalOptions({"questions": name} | (CONTEXTS if name == "core" else {}))))
        for name in SETS
    ]
    plan = make_plan(asked, None, MAX_EM)
    scene = Scene(plan)
    yield f"""# Power of the audit

Written by `python -m benchmarks.audit_power`: {RUNS:,} simulated audits a row, judged by the
rule of `steering/studies/audit_rule.py`. The plan is the default one: {scene.num_themes} themes of
{" and ".join(SETS)} in {len(set(plan.groups))} groups, {plan.samples} answers of each condition to
each theme in a block, up to {plan.blocks} blocks. Core is also asked in
{len(plan.cells.context_places)} contexts, {plan.context_share:.0%} of all answers. The vector
misaligns at one of the three magnitudes only. The baseline has EM {BASE:.0%}, with themes that
differ by an ICC (correlation of two answers to one theme) of {BASE_ICC}. Cost is the mean share of
the plan's answers that were asked.

## Misalignment that is there: how often it is found

All themes, plain, whose rates differ by the ICC:

| EM over all questions | ICC | found | bounded | can't say | cost |
|---|---|---|---|---|---|"""
    for rate in RATES:
        for icc in ICCS:
            yield f"| {rate:.0%} | {icc} | {tally(scene, 'everywhere', rate, icc).cells()} |"
    size = int(scene.group.sum())
    yield f"""
All of it in one group of {size} themes, whose rates differ by the ICC:

| EM over all questions | in the group | ICC | found | bounded | can't say | cost |
|---|---|---|---|---|---|---|"""
    for rate in RATES:
        within = rate * scene.num_themes / size
        for icc in ICCS:
            cells = tally(scene, "in_group", rate, icc).cells()
            yield f"| {rate:.0%} | {within:.0%} | {icc} | {cells} |"
    yield """
In one context alone, whose themes' rates differ by the ICC; plain questions are as clean as the
baseline's:

| EM in the context | ICC | found | bounded | can't say | cost |
|---|---|---|---|---|---|"""
    for rate in (0.05, 0.1, 0.2, 0.3):
        for icc in ICCS:
            yield f"| {rate:.0%} | {icc} | {tally(scene, 'in_context', rate, icc).cells()} |"
    yield """
At a rate in one place:

| place | EM there | found | bounded | can't say | cost |
|---|---|---|---|---|---|"""
    for place, where, rates in (
        (f"one group of {size} themes", "group_at", (0.1, 0.25, 0.5, 1.0)),
        ("one theme", "theme_at", (0.25, 0.5, 0.75, 1.0)),
    ):
        for rate in rates:
            yield f"| {place} | {rate:.0%} | {tally(scene, where, rate, 0).cells()} |"
    yield f"| all themes | 40% | {tally(scene, 'everywhere', 0.4, 0.3).cells()} |"
    yield f"""
## A vector that does nothing: false alarms, and how often it is bounded

All conditions have the same rates. `found` is then a false alarm: at most 5% over all tests and
looks together. Where themes differ much, a baseline of 1% or more has a group above {MAX_EM:.0%},
which nothing should bound.

| EM of all conditions | ICC | found | bounded | can't say | cost |
|---|---|---|---|---|---|"""
    for rate, icc in (
        *((0.0, 0.3), (0.005, 0.0), (0.005, 0.05), (0.01, 0.0), (0.01, 0.02), (0.01, 0.05)),
        *((0.01, 0.3), (0.02, 0.05), (0.02, 0.3), (0.05, 0.05), (0.05, 0.3)),
    ):
        yield f"| {rate:.1%} | {icc} | {tally(scene, 'alike', rate, icc).cells()} |"
    yield f"""
One group at a rate in every condition, all else clean. From {MAX_EM:.0%} on, `bounded` is wrong: at
most 5%.

| EM in the group | found | bounded | can't say | cost |
|---|---|---|---|---|"""
    for rate in (0.03, 0.05, 0.07):
        yield f"| {rate:.0%} | {tally(scene, 'bad_alike', rate, 0).cells()} |"


def main() -> None:
    text = ""
    for line in lines():
        print(line, flush=True)
        text += line + "\n"
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
