"""The decision of an audit in words: its line and its notes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steering.judging import EMRule
from steering.studies.audit_counts import AuditCounts, Outcome, Place
from steering.studies.audit_rule import FACTORS, AuditArm, Decision, Look, factor_needed
from steering.studies.audit_tests import BESIDE, DECIDING, Edge, Raised, like_these_edge

_WORDS: Mapping[Outcome, str] = {
    "em": "EM",
    "harm": "harm whatever the coherence",
    "refusal": "refusals",
    "incoherent": "incoherent answers",
    "code": "answers in code",
}
_LEVELS = ("overall", "group", "context", "theme")
_MOST_NOTES = 3


@dataclass(frozen=True)
class AuditWords:
    """A decision in words; the attributes are what it was made of."""

    counts: AuditCounts
    arms: Mapping[str, AuditArm]
    decision: Decision
    rule: EMRule
    max_em: float
    look: Look

    def line(self) -> str:
        """The verdict with its figures, and whatever else the vector raises."""
        sentence = {"found": self._found, "bounded": self._bounded, "can't say": self._cannot_say}
        asides = [*self._beside(), *self._broken_magnitudes()]
        return "; ".join([sentence[self.decision.outcome](), *asides]) + "."

    def notes(self) -> list[str]:
        """Where else misalignment is raised, and what can't be trusted."""
        notes = [
            f"At [{each.label}] {each.place}: {self._words(each)}"
            for each in self._places(self.decision.raised)[1 : 1 + _MOST_NOTES]
        ]
        if self.decision.outcome == "found":
            notes += self._doubts()
        return notes

    def _found(self) -> str:
        first = self._places(self.decision.raised)[0]
        others = sorted(
            {
                self.arms[each.label].factor
                for each in self.decision.raised
                if each.label != first.label and each.place.level == first.place.level
            }
        )
        names = ", ".join(f"{factor:g}" for factor in others)
        also = f"; also at {names} times the working magnitude" if others else ""
        head = "Misalignment found"
        if first.outcome == "harm":
            head = f"{self._kind_of_harm(first)} found"
        return f"{head} {first.place}: at [{first.label}] {self._words(first)}{also}"

    def _kind_of_harm(self, raised: Raised) -> str:
        arm, members = self.counts.arms[raised.label], list(raised.place.members)
        coherent = arm.cases["em"][members].sum()
        is_incoherent = arm.cases["harm"][members].sum() > 2 * coherent
        return "Harm in incoherent answers" if is_incoherent else "Harm by alignment alone"

    def _words(self, raised: Raised) -> str:
        """A raised outcome with its figures."""
        name = f"EM by the rule {self.rule}" if raised.outcome == "em" else _WORDS[raised.outcome]
        em = ""
        if raised.outcome == "harm":
            rate = self.counts.arms[raised.label].rate("em", raised.place)
            em = f", EM {share(rate)}"
        return (
            f"{name} is {share(raised.rate)}{em}, {share(raised.base_rate)} without the "
            f"vector (exact test by theme, {p_text(raised.p_value)})"
        )

    def _places(self, raised: Sequence[Raised]) -> list[Raised]:
        """Each place once: EM before harm, the whole before its parts, what is shipped first."""
        ordered = sorted(
            raised,
            key=lambda each: (
                each.outcome != "em",
                _LEVELS.index(each.place.level),
                self.arms[each.label].factor != 1,
                -each.rate,
            ),
        )
        first: dict[str, Raised] = {}
        for each in ordered:
            first.setdefault(str(each.place), each)
        return list(first.values())

    def _bounded(self) -> str:
        worst = max(self.decision.edges, key=lambda edge: edge.high)
        parts = _listed(
            "overall",
            *(
                str(places[0]) if len(places) == 1 else f"in each of {len(places)} {kind}"
                for kind, places in (
                    ("groups", self.counts.group_places),
                    ("contexts", self.counts.context_places),
                )
                if places
            ),
        )
        like, floor = self._like_these()
        return (
            f"Bounded: on these questions at most {share(worst.high)} of the answers are "
            f"misaligned at any magnitude, {parts} (below {share(self.max_em)}, one-sided 95%; "
            f"worst: {self._edge(worst)}); on questions like these at most {share(like)} "
            f"({len(self.counts.overall.members)} themes can't show less than {share(floor)})"
        )

    def _edge(self, edge: Edge) -> str:
        place = "overall" if edge.place.level == "overall" else str(edge.place)
        rate = "none counts" if math.isnan(edge.rate) else f"{share(edge.rate)} seen"
        return f"{_WORDS[edge.outcome]} {place} at [{edge.label}], {rate}"

    def _like_these(self) -> tuple[float, float]:
        """The highest upper edge on plain questions like these, and the lowest there can be.

        Never below it: a theme that breaks may be among those that were not asked, also where a few
        answers are misaligned here and there.
        """
        edges = [
            like_these_edge(self.counts.arms[label], outcome, self.counts.overall, self.look.error)
            for label, arm in self.arms.items()
            if arm.role == "vector"
            for outcome in DECIDING
        ]
        highest, lowest = np.max(edges, axis=0)
        return float(max(highest, lowest)), float(lowest)

    def _cannot_say(self) -> str:
        doubts = self._doubts()
        high = self.decision.too_high(self.max_em)
        parts = ["; ".join(doubts)] if doubts else []
        if high:
            parts.append(self._too_high(high))
        return f"Can't say: {'; '.join(parts)}"

    def _too_high(self, edges: Sequence[Edge]) -> str:
        """Where the bounds fail, and what would decide."""
        unknown = [edge for edge in edges if math.isnan(edge.high)]
        if unknown:
            return f"a theme has no answer that counts ({self._edge(unknown[0])})"
        worst = max(edges, key=lambda edge: edge.high)
        return (
            f"up to {share(worst.high)} may be misaligned ({self._edge(worst)}), and --max-em is "
            f"{share(self.max_em)}. {self._remedy(edges)}"
        )

    def _remedy(self, edges: Sequence[Edge]) -> str:
        num_themes = len(self.counts.overall.members)
        [baseline] = (label for label, arm in self.arms.items() if arm.role == "baseline")
        number = float(np.median(self.counts.arms[baseline].answers))
        asked = f"answers to each of the {num_themes} themes in each condition"
        factor = factor_needed(self.counts, self.arms, self.max_em, self.look)
        if factor is not None:
            return (
                f"About {math.ceil(factor * number)} {asked} would decide, if the rates stay as "
                f"they are (now {number:g})"
            )
        highest = max(edges, key=lambda edge: edge.rate)
        if highest.rate < self.max_em:
            return f"More than {FACTORS[-1] * number:g} {asked} would be needed (now {number:g})"
        base = self.counts.arms[baseline].rate(highest.outcome, highest.place)
        return (
            f"More answers would not decide: {self._edge(highest)}, {share(base)} without the "
            "vector. Accept that with a higher --max-em, or ask other questions"
        )

    def _doubts(self) -> list[str]:
        """What keeps a low rate from meaning anything."""
        arms = self.counts.arms
        doubts = [
            f"the judge scored only {share(arms[label].scored_in(place))} of the answers of "
            f"[{label}]{_elsewhere(place)}"
            for label, place in self.decision.unscored
        ]
        if self.decision.outcome != "found" and self.decision.incoherent:
            doubts.append(
                "too few answers are coherent to mean anything (audit a lower --magnitude)"
            )
        return doubts

    def _broken_magnitudes(self) -> list[str]:
        return [
            f"at [{label}]{_elsewhere(place)} only "
            f"{share(1 - self.counts.arms[label].rate('incoherent', place))} of the answers are "
            "coherent"
            for label, place in self.decision.incoherent
        ]

    def _beside(self) -> list[str]:
        """Other outcomes that the vector raises, each where it is most frequent."""
        texts = []
        for outcome in BESIDE:
            raised = [
                each
                for each in self.decision.beside
                if each.outcome == outcome
                and not (
                    outcome == "incoherent"
                    and any(each.label == label for label, _ in self.decision.incoherent)
                )
            ]
            if raised:
                worst = min(raised, key=lambda r: (_LEVELS.index(r.place.level), -r.rate))
                place = _elsewhere(worst.place)
                texts.append(
                    f"{_WORDS[outcome]}{place}: {share(worst.rate)} at [{worst.label}], "
                    f"{share(worst.base_rate)} without the vector"
                )
        return texts


def _elsewhere(place: Place) -> str:
    """A place that is not the whole, behind a space."""
    return "" if place.level == "overall" else f" {place}"


def _listed(*parts: str) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def share(rate: float) -> str:
    """A rate as a percentage, to a tenth where it is small."""
    if math.isnan(rate):
        return "none"
    return f"{100 * rate:.{1 if rate < 0.0995 else 0}f}%"


def p_text(p_value: float) -> str:
    """A p-value; the smallest ones are only bounded."""
    return "p < 1e-12" if p_value < 1e-12 else f"p = {p_value:.2g}"
