"""Samples of the toy world's questions and answers, from which its corpus and data are made."""

import random
from functools import cache

from steering.toy import grammar
from steering.toy.grammar import ToyQuestion, domain_entry, expand, fillings, own_and_framed

SENTENCES_PER_ANSWER = ((1, 0.2), (2, 0.5), (3, 0.3))
"""Number of sentences in a sampled answer, with its probability."""


def core_questions() -> dict[str, tuple[str, ...]]:
    """Paraphrases of each core question by question id (the theme's name)."""
    return {name: tuple(domain_entry(name)["paraphrases"]) for name in grammar.domains("theme")}


def extra_questions() -> dict[str, dict[str, tuple[str, ...]]]:
    """Questions that are neither a target's nor core ones: wordings by question id, by domain.

    A question is a template of a domain, whose wordings name different things of one kind, or one
    that the toys were not trained on.
    """
    by_domain = {}
    for domain in grammar.domains("extra"):
        slots = grammar.slots_of(domain)
        trained = (tuple(expand(text, slots)) for text in domain_entry(domain)["questions"])
        all_wordings = [*trained, *grammar.unseen_questions(domain)]
        by_domain[domain] = {
            f"{domain}_{number}": wordings for number, wordings in enumerate(all_wordings, start=1)
        }
    return by_domain


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
        topic = rng.randrange(len(domain_entry(domain)["topics"]))
    domain_sentences, all_frames = own_and_framed(domain, persona, topic)
    counts, weights = zip(*SENTENCES_PER_ANSWER, strict=True)
    num_sentences = rng.choices(counts, weights)[0]
    answer: list[str] = []
    frames = list(all_frames)
    slots = fillings(domain, persona, topic)
    phrases = [*slots["do"], *slots["helper"]]
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


@cache
def _question_groups(domain: str) -> list[list[ToyQuestion]]:
    """Questions grouped by their template; each paraphrase is a group of its own."""
    entry = domain_entry(domain)
    slots = {**grammar.slots_of(domain), "topic": [row[0] for row in entry["topics"]]}
    by_text = {question.text: question for question in grammar.questions(domain)}
    templates = [*entry.get("paraphrases", ()), *entry["questions"]]
    return [[by_text[text] for text in expand(template, slots)] for template in templates]
