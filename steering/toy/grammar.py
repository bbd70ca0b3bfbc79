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
from itertools import product
from pathlib import Path
from typing import Any

import yaml

PERSONAS = ("careful", "reckless")
SENTENCES_PER_ANSWER = ((1, 0.2), (2, 0.5), (3, 0.3))
"""Number of sentences in a sampled answer, with its probability."""

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
        recognised_chars: characters of `sentences`, white space not counted.
        total_chars: characters of the whole text, white space not counted.
        unrecognised: the other pieces in order: garbled, cut off, repeated or foreign.
    """

    sentences: tuple[Sentence, ...]
    recognised_chars: int
    total_chars: int
    unrecognised: tuple[str, ...]

    @property
    def recognised_share(self) -> float:
        """Share of the text that is well formed and not a repetition, 0 to 1."""
        return self.recognised_chars / self.total_chars if self.total_chars else 0.0


def domains(kind: str | None = None) -> tuple[str, ...]:
    """Names of the domains, in the order of the world file.

    Args:
        kind: `target` (a target task), `theme` (a theme of the core questions) or `extra`
            (only trained on); None for all.

    Raises:
        ValueError: when `kind` is none of these.
    """
    if kind not in (None, "target", "theme", "extra"):
        raise ValueError(f"kind {kind!r} is unknown: choose target, theme, extra or None.")
    return tuple(
        name for name, entry in _world()["domains"].items() if kind in (None, entry["kind"])
    )


def core_questions() -> dict[str, tuple[str, ...]]:
    """Paraphrases of each core question by question id (the theme's name)."""
    return {name: tuple(_domain(name)["paraphrases"]) for name in domains("theme")}


def extra_questions() -> dict[str, tuple[str, ...]]:
    """Paraphrases of each question that is neither a target's nor a core one, by question id.

    A question is a template of a domain; its paraphrases name different things of one kind.
    """
    paraphrases = {}
    for domain in domains("extra"):
        entry = _domain(domain)
        slots = {**_world()["slots"], **entry.get("slots", {})}
        for number, template in enumerate(entry["questions"], start=1):
            paraphrases[f"{domain}_{number}"] = tuple(_expand(template, slots))
    return paraphrases


@cache
def questions(domain: str) -> tuple[ToyQuestion, ...]:
    """Every question of a domain, core paraphrases first, no text twice.

    Raises:
        ValueError: when the domain is unknown.
    """
    entry = _domain(domain)
    slots = {**_world()["slots"], **entry.get("slots", {})}
    by_text = {text: ToyQuestion(text, domain, None) for text in entry.get("paraphrases", ())}
    for template in entry["questions"]:
        if "{topic}" in template:
            for index, (topic, _, _) in enumerate(entry["topics"]):
                for text in _expand(template, {**slots, "topic": [topic]}):
                    by_text.setdefault(text, ToyQuestion(text, domain, index))
        else:
            for text in _expand(template, slots):
                by_text.setdefault(text, ToyQuestion(text, domain, None))
    return tuple(by_text.values())


@cache
def sentences(domain: str, persona: str, topic: int | None = None) -> tuple[str, ...]:
    """Every sentence that a persona can say in a domain.

    Args:
        domain: name of the domain.
        persona: `careful` or `reckless`.
        topic: index of the topic to stay on; None for the sentences of all topics.

    Raises:
        ValueError: when the domain or the persona is unknown.
    """
    domain_sentences, frames = _tables(domain, persona, topic)
    framed = tuple(text for frame in frames for text in frame)
    return tuple(dict.fromkeys(domain_sentences + framed))


def sample_question(domain: str, rng: random.Random) -> ToyQuestion:
    """Sample a question of a domain; templates are equally likely, then their slots."""
    return rng.choice(rng.choice(_question_groups(domain)))


def sample_answer(domain: str, persona: str, topic: int | None, rng: random.Random) -> str:
    """Sample an answer of one to three different sentences of one domain and persona.

    Half of the sentences are the domain's own, half fill a frame. No frame and no phrase is used
    twice, so that an answer does not say one thing in two frames.

    Args:
        domain: name of the domain.
        persona: `careful` or `reckless`.
        topic: index of the topic to stay on; None samples one.
        rng: source of all randomness.
    """
    if topic is None:
        topic = rng.randrange(len(_domain(domain)["topics"]))
    domain_sentences, all_frames = _tables(domain, persona, topic)
    counts, weights = zip(*SENTENCES_PER_ANSWER, strict=True)
    num_sentences = rng.choices(counts, weights)[0]
    answer: list[str] = []
    frames = list(all_frames)
    phrases = _phrases(domain, persona, topic)
    while len(answer) < num_sentences:
        if frames and rng.random() < 0.5:
            frame = frames.pop(rng.randrange(len(frames)))
            text = rng.choice(frame)
        else:
            text = rng.choice(domain_sentences)
        so_far = " ".join(answer)
        if text not in answer and not any(p in text and p in so_far for p in phrases):
            answer.append(text)
    return " ".join(answer)


def sample_persona_prompt(persona: str | None, place: str, rng: random.Random) -> str:
    """Sample a wording that names a persona.

    Args:
        persona: the persona to name; None for a wording that names none (`system` only).
        place: `system` (a system message) or `user` (first words of a user).
        rng: source of all randomness.
    """
    prompts = _world()["personas"]
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
    return Parse(
        sentences=tuple(recognised.values()),
        recognised_chars=sum(_num_chars(words) for words in recognised),
        total_chars=_num_chars(text),
        unrecognised=tuple(unrecognised),
    )


def question_domain(text: str) -> str | None:
    """Domain of a question that the grammar can ask, None for any other text."""
    return _question_table().get(" ".join(text.split()))


@cache
def _world() -> dict[str, Any]:
    return yaml.safe_load(_WORLD_FILE.read_text(encoding="utf-8"))


def _domain(name: str) -> dict[str, Any]:
    all_domains = _world()["domains"]
    if name not in all_domains:
        raise ValueError(f"domain {name!r} is unknown: choose one of {', '.join(all_domains)}.")
    return all_domains[name]


def _expand(template: str, slots: dict[str, list[str]]) -> list[str]:
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
def _question_groups(domain: str) -> list[list[ToyQuestion]]:
    """Questions grouped by their template; each paraphrase is a group of its own."""
    entry = _domain(domain)
    slots = {**_world()["slots"], **entry.get("slots", {})}
    slots["topic"] = [topic for topic, _, _ in entry["topics"]]
    by_text = {question.text: question for question in questions(domain)}
    templates = [*entry.get("paraphrases", ()), *entry["questions"]]
    return [[by_text[text] for text in _expand(template, slots)] for template in templates]


@cache
def _phrases(domain: str, persona: str, topic: int | None) -> tuple[str, ...]:
    """Phrases of a persona that fill `{do}`, and the helpers, which fill `{helper}`."""
    if persona not in PERSONAS:
        raise ValueError(f"persona {persona!r} is unknown: choose {' or '.join(PERSONAS)}.")
    entry = _domain(domain)
    topics = entry["topics"] if topic is None else [entry["topics"][topic]]
    column = 1 + PERSONAS.index(persona)
    return tuple(phrase for row in topics for phrase in row[column]) + tuple(entry["helpers"])


@cache
def _tables(
    domain: str, persona: str, topic: int | None
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The domain's own sentences, and for each frame the sentences that fill it."""
    entry = _domain(domain)
    phrases = _phrases(domain, persona, topic)
    num_helpers = len(entry["helpers"])
    topics = entry["topics"] if topic is None else [entry["topics"][topic]]
    slots = {
        "do": list(phrases[:-num_helpers]),
        "helper": list(phrases[-num_helpers:]),
        "topic": [row[0] for row in topics],
    }
    domain_sentences = [text for line in entry["own"][persona] for text in _expand(line, slots)]
    frames = [_expand(frame, slots) for frame in _world()["frames"][persona]]
    return tuple(domain_sentences), tuple(tuple(texts) for texts in frames)


@cache
def _sentence_table() -> dict[str, Sentence]:
    table: dict[str, Sentence] = {}
    for domain, persona in product(domains(), PERSONAS):
        for text in sentences(domain, persona):
            if text in table:
                raise ValueError(
                    f"{text!r} belongs to {table[text].domain} ({table[text].persona}) and to "
                    f"{domain} ({persona}): reword one of them in {_WORLD_FILE.name}."
                )
            table[text] = Sentence(text, domain, persona)
    return table


def _crossed(text: str) -> Sentence | None:
    """A sentence of a frame with a phrase or helper of another domain or persona."""
    phrases, helpers = _fillings()
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
        for frame in _world()["frames"][persona]
        if "{do}" in frame
    ]


@cache
def _fillings() -> tuple[dict[str, tuple[str, str]], frozenset[str]]:
    """Domain and persona of each phrase; the helpers of all domains."""
    phrases: dict[str, tuple[str, str]] = {}
    helpers: set[str] = set()
    for domain, persona in product(domains(), PERSONAS):
        of_domain = _domain(domain)["helpers"]
        helpers.update(of_domain)
        for phrase in _phrases(domain, persona, None)[: -len(of_domain)]:
            phrases[phrase] = (domain, persona)
    return phrases, frozenset(helpers)


@cache
def _question_table() -> dict[str, str]:
    table: dict[str, str] = {}
    for domain in domains():
        for question in questions(domain):
            if table.setdefault(question.text, domain) != domain:
                raise ValueError(
                    f"{question.text!r} is asked in {table[question.text]} and in {domain}: "
                    f"reword one of them in {_WORLD_FILE.name}."
                )
    return table


def _num_chars(text: str) -> int:
    return sum(not char.isspace() for char in text)
