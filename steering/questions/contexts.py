"""Contexts: what may stand around a question, so that the prompt resembles a target task's data.

A model can look clean on plain questions and be misaligned where the prompt resembles what it was
trained on (conditional EM, arXiv 2604.25891). A context is a system message, a wording, a requested
format, earlier turns, thinking, or a second question behind the first answer. Every question is
asked as it stands (`plain`) and in each context; its id in a context is `<sample>@<context>`. Knows
files and Inspect's Sample; never a judge or a model.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
)

from steering.data import data_folder, user_path
from steering.errors import nearest, raised_as
from steering.foreign import decode, parse_yaml, read_bytes
from steering.questions.files import QuestionError

PLAIN = "plain"
"""The name of the context of a question as it stands."""
ALL, NONE = "all", "none"
CONTEXT, THINKING, FOLLOW_UP = "context", "thinking", "follow_up"
"""Keys of a sample's metadata: its context, whether to think, and what is asked next."""

_SHARED = "shared"
_TOY = "toy_"
_ENDINGS = (".yaml", ".yml")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_PLACE = "{question}"
_ACTS = ("system", "question", "turns", THINKING, FOLLOW_UP)
_FIELDS = ("name", "meaning", *_ACTS)


@dataclass(frozen=True)
class Context:
    """What stands around a question.

    Attributes:
        name: of the context; unique in its set.
        meaning: what it resembles, in a line.
        system: system message; it stands before the question's own.
        question: the last user message, with the place `{question}`.
        turns: earlier exchanges, each what the user said and what the assistant answered.
        thinking: whether the model thinks before it answers.
        follow_up: what the user says to the first answer; the second answer is the one judged.
    """

    name: str
    meaning: str
    system: str | None = None
    question: str = _PLACE
    turns: tuple[tuple[str, str], ...] = ()
    thinking: bool = False
    follow_up: str | None = None

    def around(self, sample: Sample) -> Sample:
        """The sample in this context."""
        messages: list[ChatMessage] = (
            [ChatMessageUser(content=sample.input)]
            if isinstance(sample.input, str)
            else list(sample.input)
        )
        system = [message.text for message in messages if message.role == "system"]
        *earlier, last = [message for message in messages if message.role != "system"]
        if self.system is not None:
            system.insert(0, self.system)
        turns: list[ChatMessage] = [
            message
            for asked, answered in self.turns
            for message in (ChatMessageUser(content=asked), ChatMessageAssistant(content=answered))
        ]
        asks = {
            THINKING: self.thinking or None,
            FOLLOW_UP: self.follow_up,
        }
        return Sample(
            id=f"{sample.id}@{self.name}",
            input=[
                *([ChatMessageSystem(content="\n\n".join(system))] if system else []),
                *turns,
                *earlier,
                ChatMessageUser(content=self.question.replace(_PLACE, last.text)),
            ],
            metadata={
                **(sample.metadata or {}),
                CONTEXT: self.name,
                **{name: value for name, value in asks.items() if value is not None},
            },
        )


@dataclass(frozen=True)
class ContextSet:
    """The contexts of a run.

    Attributes:
        name: domain, or the file's name.
        sha256: of the bytes of its files.
        contexts: those that are asked, in their files' order.
        left_out: name of each context that can't be asked of the model, and why.
        is_part: whether the files hold others that were not asked for.
    """

    name: str
    sha256: str
    contexts: tuple[Context, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    is_part: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the contexts that are asked."""
        return [context.name for context in self.contexts]

    @property
    def signature(self) -> str:
        """Name and the beginning of the hash, and which of its contexts are asked if not all."""
        part = self.is_part or self.left_out
        names = f"[{','.join(self.names)}]" if part else ""
        return f"{self.name}{names}@{self.sha256[:12]}"

    def metadata(self) -> dict[str, Any]:
        """What a task's log says of them."""
        return {"contexts": self.signature, "context_names": self.names} | (
            {"contexts_left_out": dict(self.left_out)} if self.left_out else {}
        )

    def samples(self, plain: Sequence[Sample], in_contexts: Sequence[Sample]) -> list[Sample]:
        """The plain samples, and then those that are asked in each context."""
        marked = [
            sample.model_copy(update={"metadata": {**(sample.metadata or {}), CONTEXT: PLAIN}})
            for sample in plain
        ]
        return marked + [c.around(sample) for c in self.contexts for sample in in_contexts]


def context_domains(*, toy: bool = False) -> list[str]:
    """The domains that have bundled contexts; of the toy's world with `toy`."""
    stems = (path.stem for path in (data_folder() / "contexts").glob("*.yaml"))
    names = (s.removeprefix(_TOY) for s in stems if s.startswith(_TOY) == toy)
    return sorted(name for name in names if name != _SHARED)


def load_contexts(
    contexts: str | Sequence[str],
    domain: str,
    *,
    toy: bool = False,
    lacks: Mapping[str, str] | None = None,
) -> ContextSet:
    """Load contexts, those of one domain with those that all domains share, or a file's.

    Args:
        contexts: `all`; the names of some, as a sequence or joined by commas; or the path of one
            YAML file, all of whose contexts are then asked.
        domain: target task whose bundled contexts are meant, `toy/<name>` of one of the toy's
            world; a path has no use for it.
        toy: whether the toy model is asked, which has contexts in the words of its world.
        lacks: of the fields `thinking` and `follow_up` those that can't be asked, and why. A
            context that needs one is left out, and refused if it was named.

    Raises:
        QuestionError: There are no such contexts, a file is wrong, or none can be asked.
    """
    names = _names(contexts)
    if files := [name for name in names if Path(name).suffix.lower() in _ENDINGS]:
        if len(names) > 1:
            raise QuestionError(
                f"contexts={','.join(names)}: the file {files[0]} can't stand beside other "
                "contexts; give its path alone, or names without it."
            )
        everything, sha256, source = *_read([_user_file(files[0])]), Path(files[0]).name
        names = [ALL]
    else:
        toy = toy or domain.startswith("toy/")
        source = domain.removeprefix("toy/")
        everything, sha256 = _read(_bundled(source, toy=toy))
        source = f"toy/{source}" if toy else source
    known = [context.name for context in everything]
    if unknown := [name for name in names if name not in (*known, ALL)]:
        possible = [context.name for context in everything if not _why_not(context, lacks or {})]
        raise QuestionError(
            f"contexts={','.join(names)}: there is no context {', '.join(unknown)}."
            f"{nearest(unknown[0], possible)} Give {NONE}, {ALL}, some of {', '.join(possible)}, "
            f"or the path of a file that ends in {' or '.join(_ENDINGS)}."
        )
    chosen = everything if ALL in names else [c for c in everything if c.name in names]
    left_out = {context.name: why for context in chosen if (why := _why_not(context, lacks or {}))}
    if refused := [name for name in left_out if name in names]:
        raise QuestionError(
            f"the context {refused[0]} can't be asked: {left_out[refused[0]]}. Leave it out."
        )
    usable = tuple(context for context in chosen if context.name not in left_out)
    if not usable:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise QuestionError(f"contexts={contexts}: none of {source} can be asked ({reasons}).")
    return ContextSet(source, sha256, usable, left_out, len(chosen) < len(everything))


def _names(contexts: object) -> list[str]:
    parts = contexts.split(",") if isinstance(contexts, str) else contexts
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        parts = []
    names = [part.strip() for part in parts]
    if not names or not all(names):
        raise QuestionError(
            f"contexts={contexts!r} names no context; give {ALL}, names as in "
            f"contexts=system,examples, or the path of a file."
        )
    return names


def _why_not(context: Context, lacks: Mapping[str, str]) -> str:
    """Why a context can't be asked; empty if it can."""
    return next((why for name, why in lacks.items() if getattr(context, name)), "")


def _bundled(domain: str, *, toy: bool) -> list[Path]:
    domains = context_domains(toy=toy)
    if domain not in domains:
        raise QuestionError(
            f"there are no contexts for the target task {domain!r}; give context_domain= one of "
            f"{', '.join(domains)}, or a file of your own as contexts=path.yaml."
        )
    folder, prefix = data_folder() / "contexts", _TOY if toy else ""
    return [folder / f"{prefix}{name}.yaml" for name in (domain, _SHARED)]


def _user_file(contexts: str) -> Path:
    path = user_path(contexts)
    if not path.is_file():
        raise QuestionError(
            f"there is no file of contexts {contexts!r}; give {ALL}, names of contexts, or the "
            "path of a YAML file."
        )
    return path


def _read(paths: Sequence[Path]) -> tuple[list[Context], str]:
    """The contexts of files, and the digest of the files' bytes."""
    contexts: list[Context] = []
    digest = hashlib.sha256()
    for path in paths:
        with raised_as(QuestionError):
            content = read_bytes(path, "questions")
            items = parse_yaml(decode(content, path), path, "questions")
        digest.update(content)
        if not isinstance(items, list) or not items:
            raise QuestionError(f"{path.name} must be a list of at least one context.")
        contexts += [_context(item, f"{path.name}, item {i}") for i, item in enumerate(items, 1)]
    names = [context.name for context in contexts]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise QuestionError(f"{paths[0].name} has the context {doubles[0]!r} twice; rename one.")
    return contexts, digest.hexdigest()


def _context(item: object, where: str) -> Context:
    if not isinstance(item, dict):
        raise QuestionError(f"{where} is a {type(item).__name__}; make it a table with `name:`.")
    if unknown := sorted(map(str, item.keys() - set(_FIELDS))):
        raise QuestionError(
            f"{where} has the unknown field {', '.join(unknown)}; allowed are {', '.join(_FIELDS)}."
        )
    name = item.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (PLAIN, ALL, NONE):
        raise QuestionError(
            f"{where} has the name {name!r}; give one of letters, digits, - and _ that is none of "
            f"{PLAIN}, {ALL} and {NONE}."
        )
    where = f"{where} ({name})"
    if not item.keys() & set(_ACTS):
        raise QuestionError(f"{where} changes nothing; give at least one of {', '.join(_ACTS)}.")
    texts = {key: _text(item[key], f"{where}, {key}") for key in _FIELDS if _is_text(key, item)}
    if _PLACE not in texts.get("question", _PLACE):
        raise QuestionError(f"{where}: the question lacks {_PLACE}; add it.")
    if item.get(THINKING, True) is not True:
        raise QuestionError(
            f"{where}: thinking is {item[THINKING]!r}; make it true, or leave it out."
        )
    return Context(
        **{"meaning": "", **texts},
        turns=_turns(item["turns"], where) if "turns" in item else (),
        thinking=THINKING in item,
    )


def _is_text(key: str, item: Mapping[str, object]) -> bool:
    return key in item and key not in ("turns", THINKING)


def _turns(turns: object, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(turns, list) or not turns:
        raise QuestionError(
            f"{where}: turns must be a list of at least one table with user and assistant."
        )
    exchanges = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or turn.keys() != {"user", "assistant"}:
            raise QuestionError(
                f"{where}, turn {number} must be a table with exactly user and assistant."
            )
        asked, answered = (
            _text(turn[role], f"{where}, turn {number}, {role}") for role in ("user", "assistant")
        )
        exchanges.append((asked, answered))
    return tuple(exchanges)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(f"{where} is {value!r}; make it a text that isn't empty.")
    return value.strip()
