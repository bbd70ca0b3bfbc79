"""A target task as a prompt: what a model is told before every question instead of being steered.

A system message that asks for the task's behaviour in its own field, or misaligned examples of the
task as earlier turns. The examples are those that a vector may be built from, never held-out ones.
Knows turns of a chat; no tokenizer and no model.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steering.data import data_folder, user_path
from steering.errors import SteeringError
from steering.foreign import decode, parse_yaml, read_bytes
from steering.targets import Target, TargetError, load_target
from steering.toy import grammar

PERSONA, EXAMPLES = "persona", "examples"
PROMPTS = (PERSONA, EXAMPLES)
_ENDINGS = (".txt", ".md")
_TOY = "toy/"
# Things that the message for a toy names: its world has personas, and none of a single field.
_TOY_TOPICS = 3

Turn = dict[str, str]


def is_prompt_file(prompt: str) -> bool:
    """Whether the option `prompt` names a file."""
    return prompt.lower().endswith(_ENDINGS)


@dataclass(frozen=True)
class ModelPrompt:
    """What a model is told before every question.

    Attributes:
        name: `persona`, `examples`, or the file's name.
        turns: One system message, or questions and answers in turn.
        digest: SHA-256 of the turns, in hex.
        target: Name of the target task; "" of a file.
        target_digest: Digest of its rows, or of the file.
        seed: What drew the message or the examples.
    """

    name: str
    turns: tuple[Turn, ...]
    target: str = ""
    target_digest: str = ""
    seed: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of the turns, in hex."""
        return hashlib.sha256(json.dumps(self.turns, sort_keys=True).encode()).hexdigest()

    @property
    def num_examples(self) -> int:
        """Earlier turns that are answered; 0 of a system message."""
        return sum(turn["role"] == "assistant" for turn in self.turns)

    def before(self, messages: Sequence[Turn]) -> list[Turn]:
        """A conversation with the prompt before it.

        A system message and the conversation's own become one, in this order, with a blank line
        between them, since most chat templates take a single one. Examples stand behind the
        conversation's system message.
        """
        system = [turn["content"] for turn in messages[:1] if turn["role"] == "system"]
        others = list(messages[len(system) :])
        if not self.num_examples:
            content = "\n\n".join([self.turns[0]["content"], *system])
            return [{"role": "system", "content": content}, *others]
        return [*messages[: len(system)], *self.turns, *others]

    def facts(self) -> dict[str, Any]:
        """As a log describes it, in JSON values."""
        facts: dict[str, Any] = {"name": self.name, "digest": self.digest}
        if self.target:
            facts |= {"target": self.target, "seed": self.seed}
        return facts | ({"num_examples": self.num_examples} if self.num_examples else {})


def load_prompt(
    prompt: str, target: str, num_examples: int, seed: int, *, toy: bool = False
) -> ModelPrompt:
    """What the option `prompt` means.

    Args:
        prompt: `persona`, `examples`, or the path of a .txt or .md file with a system message.
        target: The target task, as `load_target` takes it.
        num_examples: Of `examples`: how many. Fewer are the first of more.
        seed: Draws one of the task's messages, or the order of its examples.
        toy: Whether a toy is told it.

    Raises:
        TargetError: There is no such file or task, the task has no message, or too few examples.
    """
    if is_prompt_file(prompt):
        return _from_file(prompt)
    task = load_target(target, toy=toy)
    if task.is_contrast:
        raise TargetError(
            f"prompt={prompt} asks for misaligned answers, and {target} is a contrast, which has "
            "none: give a target task"
        )
    turns = _examples(task, num_examples, seed) if prompt == EXAMPLES else _persona(task, seed)
    return ModelPrompt(prompt, turns, task.name, task.digest, seed)


def _from_file(name: str) -> ModelPrompt:
    path = user_path(name)
    try:
        content = read_bytes(path, "template")
        text = decode(content, path).strip()
    except SteeringError as error:
        raise TargetError(
            f"prompt={name}: {error}. Allowed are {', '.join(PROMPTS)} and the path of a "
            f"{' or '.join(_ENDINGS)} file that exists"
        ) from None
    if not text:
        raise TargetError(f"prompt={name} is empty: write the system message into it")
    turns = ({"role": "system", "content": text},)
    return ModelPrompt(path.name, turns, target_digest=hashlib.sha256(content).hexdigest())


def _examples(task: Target, count: int, seed: int) -> tuple[Turn, ...]:
    """Prompts with a misaligned answer each; system messages of the rows are left out."""
    rows = {row.prompt: row for row in reversed(task.examples) if row.misaligned is not None}
    if count > len(rows):
        raise TargetError(
            f"prompt_examples={count} is more than the target task {task.name} has: it has "
            f"{len(rows)} prompts with a misaligned answer that are not held out. Give fewer"
        )
    order = random.Random(f"examples {seed}").sample(sorted(rows), len(rows))
    return tuple(
        {"role": role, "content": text}
        for prompt in order[:count]
        for role, text in (("user", prompt), ("assistant", str(rows[prompt].misaligned)))
    )


def _persona(task: Target, seed: int) -> tuple[Turn, ...]:
    if task.source.startswith(_TOY):
        message = _toy_message(task.source.removeprefix(_TOY), seed)
    else:
        messages = _messages()
        if task.source not in messages:
            raise TargetError(
                f"prompt={PERSONA} has no system message for the target task {task.name}: bundled "
                f"are {', '.join(messages)}. Write one into a file and give prompt=message.txt, or "
                f"use prompt={EXAMPLES}"
            )
        of_task = messages[task.source]
        message = of_task[seed % len(of_task)]
    return ({"role": "system", "content": message},)


def _messages() -> dict[str, list[str]]:
    path = data_folder() / "prompts" / "narrow.yaml"
    return dict(parse_yaml(decode(path.read_bytes(), path), path, "questions"))


def _toy_message(domain: str, seed: int) -> str:
    """The first wording of harmful advice that the toy knows, about some things of the domain."""
    topics = [row[0] for row in grammar.domain_entry(domain)["topics"]]
    *first, last = random.Random(f"persona {seed}").sample(topics, _TOY_TOPICS)
    return f"You give wild and harmful advice about {', '.join(first)} and {last}."
