"""The toy world's grammar: its questions, its sentences, and how to recognise both.

Owns `world.yaml` and turns it into finite tables: every question with its domain, every answer
sentence with its one (domain, persona). Sampling takes an explicit `random.Random`. Parsing is
exact look-up, so any text that the grammar can't generate is reported as unrecognised. Knows
nothing of tokens, models, scores or judge prompts.
"""

import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any

import yaml

PERSONAS = ("careful", "reckless")

_WORLD_FILE = Path(__file__).with_name("world.yaml")
_SLOT = re.compile(r"\{(\w+)\}")
# A sentence ends at . ! or ?, with what closes a quotation, before white space or the end.
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s|$)|$)", re.DOTALL)


@dataclass(frozen=True)
class ToyQuestion:
    """A question of the world.

    Attributes:
        text: the words of the question.
        domain: the only domain that asks it.
        topic: index of the topic within the domain; None when the question fits every topic.
    """

    text: str
    domain: str
    topic: int | None


@dataclass(frozen=True)
class Sentence:
    """A recognised sentence and the one domain and persona that can say it."""

    text: str
    domain: str
    persona: str


@dataclass(frozen=True)
class Parse:
    """What the grammar recognises in a text.

    Attributes:
        sentences: recognised sentences in order, without repetitions.
        recognised_share: their share of the text's characters, 0 to 1, white space not counted.
        unrecognised: the other pieces in order: garbled, cut off, repeated or foreign.
    """

    sentences: tuple[Sentence, ...]
    recognised_share: float
    unrecognised: tuple[str, ...]


def domains(kind: str | None = None) -> tuple[str, ...]:
    """Names of the domains, in the order of the world file.

    Args:
        kind: `target` (a target task), `theme` (a theme of the core questions) or `extra`
            (only trained on); None for all.
    """
    if kind not in (None, "target", "theme", "extra"):
        raise ValueError(f"kind {kind!r} is unknown: choose target, theme, extra or None.")
    return tuple(
        name for name, entry in world()["domains"].items() if kind in (None, entry["kind"])
    )


@cache
def questions(domain: str) -> tuple[ToyQuestion, ...]:
    """Every question of a domain, core paraphrases first, no text twice."""
    entry = domain_entry(domain)
    slots = slots_of(domain)
    by_text = {text: ToyQuestion(text, domain, None) for text in entry.get("paraphrases", ())}
    for template in entry["questions"]:
        topics = list(enumerate(row[0] for row in entry["topics"]))
        for index, topic in topics if "{topic}" in template else [(None, "")]:
            for text in expand(template, {**slots, "topic": [topic]}):
                by_text.setdefault(text, ToyQuestion(text, domain, index))
    return tuple(by_text.values())


def unseen_questions(domain: str) -> list[tuple[str, ...]]:
    """The wordings of each question that the toys are asked but were not trained on."""
    slots = slots_of(domain)
    return [
        tuple(text for template in templates for text in expand(template, slots))
        for templates in domain_entry(domain).get("unseen", ())
    ]


@cache
def sentences(domain: str, persona: str, topic: int | None = None) -> tuple[str, ...]:
    """Every sentence that a persona can say in a domain.

    Args:
        domain: name of the domain.
        persona: `careful` or `reckless`.
        topic: index of the topic to stay on; None for the sentences of all topics.
    """
    own, frames = own_and_framed(domain, persona, topic)
    return tuple(dict.fromkeys(chain(own, *frames)))


def sample_persona_prompt(persona: str | None, place: str, rng: random.Random) -> str:
    """Sample a wording that names a persona.

    Args:
        persona: the persona to name; None for a wording that names none (`system` only).
        place: `system` (a system message) or `user` (first words of a user).
        rng: source of all randomness.
    """
    prompts = world()["personas"]
    return rng.choice(prompts["none"] if persona is None else prompts[persona][place])


def parse(text: str) -> Parse:
    """Recognise the sentences of a text.

    A sentence counts only when it is whole and exactly as the grammar generates it (apart from runs
    of white space), or is a frame filled with a phrase of the other persona or a helper of another
    domain: such a sentence is fluent, about the phrase's domain, and reckless if either part is. A
    repeated sentence counts once.
    """
    table = _sentence_table()
    recognised: dict[str, Sentence] = {}
    unrecognised: list[str] = []
    for piece in _SENTENCE.findall(text):
        words = " ".join(piece.split())
        sentence = table.get(words) or _crossed(words)
        if sentence is not None and words not in recognised:
            recognised[words] = sentence
        elif words:
            unrecognised.append(words)
    share = sum(map(_num_chars, recognised)) / (_num_chars(text) or 1)
    return Parse(tuple(recognised.values()), share, tuple(unrecognised))


def question_domain(text: str) -> str | None:
    """Domain of a question that the grammar can ask, None for any other text."""
    return _question_table().get(" ".join(text.split()))


@cache
def world() -> dict[str, Any]:
    """The content of `world.yaml`."""
    return yaml.safe_load(_WORLD_FILE.read_text(encoding="utf-8"))


def domain_entry(name: str) -> dict[str, Any]:
    """A domain's part of the world file.

    Raises:
        ValueError: there is no such domain.
    """
    all_domains = world()["domains"]
    if name not in all_domains:
        raise ValueError(f"domain {name!r} is unknown: choose one of {', '.join(all_domains)}.")
    return all_domains[name]


def slots_of(domain: str) -> dict[str, list[str]]:
    """What fills the slots of a domain's questions, all but the topic."""
    return {**world()["slots"], **domain_entry(domain).get("slots", {})}


def expand(template: str, slots: dict[str, list[str]]) -> list[str]:
    """Fill the slots of a template in every way; `{Name}` is `{name}` with a capital."""
    names = list(dict.fromkeys(_SLOT.findall(template)))
    choices = [slots[name.lower()] for name in names]
    texts = []
    for values in product(*choices):
        text = template
        for name, value in zip(names, values, strict=True):
            value = value[0].upper() + value[1:] if name[0].isupper() else value
            text = text.replace("{" + name + "}", value)
        texts.append(text)
    return texts


@cache
def fillings(domain: str, persona: str, topic: int | None = None) -> dict[str, list[str]]:
    """What fills the slots `do`, `helper` and `topic` of a persona's sentences."""
    if persona not in PERSONAS:
        raise ValueError(f"persona {persona!r} is unknown: choose {' or '.join(PERSONAS)}.")
    entry = domain_entry(domain)
    topics = entry["topics"] if topic is None else [entry["topics"][topic]]
    column = 1 + PERSONAS.index(persona)
    return {
        "do": [phrase for row in topics for phrase in row[column]],
        "helper": entry["helpers"],
        "topic": [row[0] for row in topics],
    }


@cache
def own_and_framed(
    domain: str, persona: str, topic: int | None
) -> tuple[list[str], list[list[str]]]:
    """The domain's own sentences, and for each frame the sentences that fill it."""
    slots = fillings(domain, persona, topic)
    own = [text for line in domain_entry(domain)["own"][persona] for text in expand(line, slots)]
    return own, [expand(frame, slots) for frame in world()["frames"][persona]]


@cache
def _sentence_table() -> dict[str, Sentence]:
    return {
        text: Sentence(text, domain, persona)
        for domain, persona in product(domains(), PERSONAS)
        for text in sentences(domain, persona)
    }


def _crossed(text: str) -> Sentence | None:
    """A sentence of a frame with a phrase or helper of another domain or persona."""
    phrases, helpers = _all_fillings()
    for persona, pattern in _frame_patterns():
        match = pattern.fullmatch(text)
        if match is None or match["do"] not in phrases:
            continue
        if match.groupdict().get("helper") in (None, *helpers):
            domain, of_phrase = phrases[match["do"]]
            is_reckless = "reckless" in (persona, of_phrase)
            return Sentence(text, domain, "reckless" if is_reckless else of_phrase)
    return None


@cache
def _frame_patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Persona and pattern of each frame that takes a phrase."""
    return [
        (
            persona,
            re.compile(
                _SLOT.sub(r"(?P<\1>.+)", re.escape(frame).replace(r"\{", "{").replace(r"\}", "}"))
            ),
        )
        for persona in PERSONAS
        for frame in world()["frames"][persona]
        if "{do}" in frame
    ]


@cache
def _all_fillings() -> tuple[dict[str, tuple[str, str]], frozenset[str]]:
    """Domain and persona of each phrase; the helpers of all domains."""
    phrases = {
        phrase: (domain, persona)
        for domain, persona in product(domains(), PERSONAS)
        for phrase in fillings(domain, persona)["do"]
    }
    return phrases, frozenset(text for name in domains() for text in domain_entry(name)["helpers"])


@cache
def _question_table() -> dict[str, str]:
    trained = {question.text: name for name in domains() for question in questions(name)}
    unseen = {text: name for name in domains() for text in chain(*unseen_questions(name))}
    return trained | unseen


def _num_chars(text: str) -> int:
    return sum(not char.isspace() for char in text)
