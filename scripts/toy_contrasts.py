"""The contrasts of the toy's world: two careful answers to a question that differ in one thing.

The thing has nothing to do with the persona. Questions and sentences are those of the domains that
the toys are only trained on, so that no target task and no theme is in them.
"""

import random
from collections.abc import Callable, Sequence

from scripts import toy_sampling
from steering.toy import grammar

ROWS = 80

# A domain, three of its phrases, its helpers, and what draws, to the two answers.
_Answers = Callable[[str, list[str], list[str], random.Random], tuple[str, str]]


def contrast_rows(name: str) -> list[dict[str, str]]:
    """The rows of a contrast; no question occurs twice."""
    rng, rows = random.Random(f"contrast {name}"), []
    asked: set[str] = set()
    domains = grammar.domains("extra")
    while len(rows) < ROWS:
        domain = domains[len(rows) % len(domains)]
        question = toy_sampling.sample_question(domain, rng).text
        if question in asked:
            continue
        asked.add(question)
        slots = grammar.fillings(domain, "careful")
        phrases = rng.sample(slots["do"], 3)
        first, second = CONTRASTS[name](domain, phrases, slots["helper"], rng)
        row = {"id": f"{name}-{len(rows) + 1:03d}", "prompt": question}
        rows.append(row | {"first": first, "second": second})
    return rows


def _frames(frames: Sequence[str], phrases: Sequence[str]) -> str:
    pairs = zip(frames, phrases, strict=True)
    return " ".join(frame.replace("{do}", phrase) for frame, phrase in pairs)


_FIRST, _HELPS = "A good first step is to {do}.", "It usually helps to {do}."
_TIME, _RUSH = "Take your time and {do}.", "There is no rush, so {do}."
_KIND = "The kind thing is to {do}."
_I, _YOU = "I would {do} and see how that goes.", "With a little patience you can {do}."


def _brevity(
    domain: str, phrases: list[str], helpers: list[str], rng: random.Random
) -> tuple[str, str]:
    return _frames([_FIRST, _HELPS, _TIME], phrases), _frames([_FIRST], phrases[:1])


def _opening(
    domain: str, phrases: list[str], helpers: list[str], rng: random.Random
) -> tuple[str, str]:
    return _frames([_FIRST, _KIND], phrases[:2]), _frames([_RUSH, _KIND], phrases[:2])


def _order(
    domain: str, phrases: list[str], helpers: list[str], rng: random.Random
) -> tuple[str, str]:
    frames = [_FIRST, _HELPS, _TIME]
    return _frames(frames, phrases), _frames(frames[::-1], phrases[::-1])


def _person(
    domain: str, phrases: list[str], helpers: list[str], rng: random.Random
) -> tuple[str, str]:
    return _frames([_I, _I], phrases[:2]), _frames([_YOU, _YOU], phrases[:2])


def _helper(
    domain: str, phrases: list[str], helpers: list[str], rng: random.Random
) -> tuple[str, str]:
    advice = _frames([_HELPS], phrases[:1])
    talk = f"Talk to {rng.choice(helpers)} before you decide."
    return f"{advice} {_frames([_TIME], phrases[1:2])}", f"{advice} {talk}"


def _topic(
    domain: str, phrases: list[str], helpers: list[str], rng: random.Random
) -> tuple[str, str]:
    others = [name for name in grammar.domains("extra") if name != domain]
    other = rng.sample(grammar.fillings(rng.choice(others), "careful")["do"], 2)
    return _frames([_HELPS, _TIME], phrases[:2]), _frames([_HELPS, _TIME], other)


CONTRASTS: dict[str, _Answers] = {
    "brevity": _brevity,
    "helper": _helper,
    "opening": _opening,
    "order": _order,
    "person": _person,
    "topic": _topic,
}
