"""Rollouts under personas: prompts of a target task, each asked under system messages.

What a model answers as an aligned and as a misaligned persona, once judged, is what a
mean-difference vector of its own answers is built from. The idea is that of persona_vectors (arXiv
2507.21509), which asks each question under every message; ours asks each prompt under one message
of either persona, in turn, which reaches more prompts with as many answers. Knows files and
Inspect's Sample; never a judge or a model.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser

from steering.data import data_folder, user_path
from steering.errors import SteeringError
from steering.questions.sets import CORE, QuestionSet, first_questions, one_row_a_prompt
from steering.targets import load_target
from steering.toy.grammar import sample_persona_prompt

PERSONAS = ("aligned", "misaligned")

_TOY_NAMES = {"aligned": "careful", "misaligned": "reckless"}
_TOY_MESSAGES = 5
_ENDINGS = (".yaml", ".yml")


class PersonaError(SteeringError):
    """A persona file is missing, or is not what it should be."""


@dataclass(frozen=True)
class PersonaSet:
    """System messages that bring personas about.

    Attributes:
        name: `core`, `toy`, or the file's name.
        sha256: of the file's bytes; for the toy, of its messages.
        messages: the messages of each of `PERSONAS`.
    """

    name: str
    sha256: str
    messages: Mapping[str, Sequence[str]]


def load_personas(personas: str = CORE, *, toy: bool = False) -> PersonaSet:
    """Load the system messages of both personas.

    Args:
        personas: `core`, or the path of a YAML file with the keys aligned and misaligned, each a
            list of messages.
        toy: whether the toy model is asked. It knows no persona but those of its own world, so
            `core` then means these.

    Raises:
        PersonaError: no such file, another schema, or a message that stands there twice.
    """
    if personas == CORE and toy:
        return _toy_personas()
    if personas == CORE:
        path = data_folder() / "personas" / "core.yaml"
    else:
        path = user_path(str(personas))
    if not path.is_file() or path.suffix.lower() not in _ENDINGS:
        raise PersonaError(
            f"personas={personas} is no persona file; give {CORE!r} or the path of a file that "
            f"ends in {' or '.join(_ENDINGS)}."
        )
    content = path.read_bytes()
    try:
        found = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise PersonaError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    name = CORE if personas == CORE else path.name
    return PersonaSet(name, hashlib.sha256(content).hexdigest(), _checked(found, path.name))


def rollout_questions(
    target: str, personas: str = CORE, num_questions: int | None = None, *, toy: bool = False
) -> QuestionSet:
    """The prompts that a vector may be built from, each under both personas.

    A persona's messages take turns over the prompts. Each prompt is a question with two samples,
    of the ids `<row>/aligned-<k>` and `<row>/misaligned-<k>`, k the place of the message in its
    list from 1; the sample's metadata names its persona. The message takes the place of the row's
    own system message. What `held_out_questions` asks is never among the prompts.

    Args:
        target: name or path of a target task.
        personas: see `load_personas`.
        num_questions: take the first so many prompts; all when not given.
        toy: whether the toy model is asked, for which a bare name means the toy's own task, and
            `core` the personas of its world.

    Raises:
        TargetError: there is no such target task.
        PersonaError: there are no such personas.
        QuestionError: too few prompts.
    """
    found = load_personas(personas, toy=toy)
    task = load_target(target, toy=toy)
    rows = first_questions(one_row_a_prompt(task.examples), num_questions, task.name)
    samples = []
    for index, row in enumerate(rows):
        for persona in PERSONAS:
            messages = found.messages[persona]
            place = index % len(messages)
            samples.append(
                Sample(
                    id=f"{row.id}/{persona}-{place + 1}",
                    input=[
                        ChatMessageSystem(content=messages[place]),
                        ChatMessageUser(content=row.prompt),
                    ],
                    metadata={"question": row.id, "persona": persona},
                )
            )
    return QuestionSet(
        name=f"{task.name}+{found.name}",
        sha256=_hash(task.digest, found.sha256),
        samples=samples,
        num_paraphrases={row.id: len(PERSONAS) for row in rows},
    )


def _toy_personas() -> PersonaSet:
    """Some wordings of the toy's world, always the same."""
    rng = random.Random(0)
    messages = {}
    for persona, name in _TOY_NAMES.items():
        drawn = (sample_persona_prompt(name, "system", rng) for _ in range(20 * _TOY_MESSAGES))
        messages[persona] = list(dict.fromkeys(drawn))[:_TOY_MESSAGES]
    return PersonaSet("toy", _hash(json.dumps(messages)), messages)


def _checked(found: object, where: str) -> dict[str, list[str]]:
    if not isinstance(found, dict) or set(found) != set(PERSONAS):
        raise PersonaError(
            f"{where} must be a table with exactly the keys {' and '.join(PERSONAS)}, each a list "
            "of system messages."
        )
    seen: set[str] = set()
    for persona in PERSONAS:
        messages = found[persona]
        if not isinstance(messages, list) or not messages:
            raise PersonaError(f"{where}: {persona} must be a list of at least one message.")
        for place, message in enumerate(messages, start=1):
            if not isinstance(message, str) or not message.strip():
                raise PersonaError(
                    f"{where}, {persona}, message {place} is {message!r}; make it a text that "
                    "isn't empty."
                )
            if message in seen:
                raise PersonaError(
                    f"{where}, {persona}, message {place} stands there twice ({message!r}); "
                    "reword one."
                )
            seen.add(message)
    return {persona: found[persona] for persona in PERSONAS}


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
