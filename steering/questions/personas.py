"""Rollouts under personas: prompts of a target task, each asked under system messages.

A mean-difference vector can be built from a model's own judged answers as an aligned and as a
misaligned persona. The idea is that of persona_vectors (arXiv 2507.21509), which asks each question
under every message. We ask each prompt under one message of each persona, in turn, which covers
more prompts with the same number of answers. Knows files and Inspect's Sample; never a judge or a
model.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser

from steering.data import data_folder, user_path
from steering.errors import raised_as
from steering.foreign import decode, parse_yaml, read_bytes
from steering.questions.files import QuestionError
from steering.questions.sets import CORE, QuestionSet, first_questions, one_row_a_prompt
from steering.targets import load_target
from steering.toy.grammar import sample_persona_prompt

PERSONAS = ("aligned", "misaligned")

_TOY_NAMES = {"aligned": "careful", "misaligned": "reckless"}
_TOY_MESSAGES = 5
_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class PersonaSet:
    """System messages of both personas.

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
        toy: whether the toy model is asked. It knows only the personas of its own world, so `core`
            then means these.

    Raises:
        QuestionError: no such file, another schema, or a message that occurs twice.
    """
    if personas == CORE and toy:
        return _toy_personas()
    bundled = data_folder() / "personas" / "core.yaml"
    path = bundled if personas == CORE else user_path(str(personas))
    if not path.is_file() or path.suffix.lower() not in _ENDINGS:
        raise QuestionError(
            f"personas={personas} is no persona file; give {CORE!r} or the path of a file that "
            f"ends in {' or '.join(_ENDINGS)}."
        )
    with raised_as(QuestionError):
        content = read_bytes(path, "questions")
        table = parse_yaml(decode(content, path), path, "questions")
    name = CORE if personas == CORE else path.name
    return PersonaSet(name, hashlib.sha256(content).hexdigest(), _check(table, path.name))


def rollout_questions(
    target: str, personas: str = CORE, num_questions: int | None = None, *, toy: bool = False
) -> QuestionSet:
    """The prompts that a vector may be built from, each under both personas.

    A persona's messages alternate over the prompts. Each prompt is a question with two samples,
    with the ids `<row>/aligned-<k>` and `<row>/misaligned-<k>`, where k is the position of the
    message in its list, from 1; the sample's metadata names its persona. The message replaces the
    row's own system message. The prompts of `held_out_questions` are never among them.

    Arguments as of `held_out_questions` and `load_personas`.

    Raises:
        TargetError: there is no such target task.
        QuestionError: there are no such personas, or too few prompts.
    """
    persona_set = load_personas(personas, toy=toy)
    task = load_target(target, toy=toy)
    rows = first_questions(one_row_a_prompt(task.examples), num_questions, task.name)
    samples = []
    for index, row in enumerate(rows):
        for persona, messages in persona_set.messages.items():
            place = index % len(messages)
            turns = ChatMessageSystem(content=messages[place]), ChatMessageUser(content=row.prompt)
            metadata = {"question": row.id, "persona": persona}
            name = f"{row.id}/{persona}-{place + 1}"
            samples.append(Sample(id=name, input=list(turns), metadata=metadata))
    return QuestionSet(
        name=f"{task.name}+{persona_set.name}",
        sha256=_hash(task.digest, persona_set.sha256),
        samples=samples,
        num_paraphrases={row.id: len(PERSONAS) for row in rows},
    )


def _toy_personas() -> PersonaSet:
    """A fixed sample of the wordings of the toy's world."""
    rng = random.Random(0)
    messages = {}
    for persona, name in _TOY_NAMES.items():
        wordings = (sample_persona_prompt(name, "system", rng) for _ in range(20 * _TOY_MESSAGES))
        messages[persona] = list(dict.fromkeys(wordings))[:_TOY_MESSAGES]
    return PersonaSet("toy", _hash(json.dumps(messages)), messages)


def _check(table: object, where: str) -> dict[str, list[str]]:
    if not isinstance(table, dict) or set(table) != set(PERSONAS):
        raise QuestionError(
            f"{where} must be a table with exactly the keys {' and '.join(PERSONAS)}, each a list "
            "of system messages."
        )
    earlier: set[str] = set()
    for persona in PERSONAS:
        messages = table[persona]
        if not isinstance(messages, list) or not messages:
            raise QuestionError(f"{where}: {persona} must be a list of at least one message.")
        for place, message in enumerate(messages, start=1):
            if not isinstance(message, str) or not message.strip():
                raise QuestionError(
                    f"{where}, {persona}, message {place} is {message!r}; make it a text that "
                    "isn't empty."
                )
            if message in earlier:
                raise QuestionError(
                    f"{where}, {persona}, message {place} occurs twice ({message!r}); reword one."
                )
            earlier.add(message)
    return {persona: table[persona] for persona in PERSONAS}


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
