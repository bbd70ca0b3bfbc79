"""Question files: ours and the published ones, read as they are into Inspect samples.

Two schemas: a YAML list of questions with paraphrases (that of Betley et al., ours too), and JSONL
rows with `messages`. Knows files and Inspect's Sample; never a judge or a model. One sample a
paraphrase, with the id `<question>/<index from 1>`; its metadata has the question's id, by which
intervals are clustered, the format that the question asks for, and its group where it has one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

from steering.data import data_folder, user_path
from steering.errors import SteeringError
from steering.targets import Example, load_target

QUESTION_TYPE = "free_form_judge_0_100"
CORE = "core"
# The question files that come with the project, each called by its name.
BUNDLED = (CORE, "core_formats", "broad")
# What an answer is to look like, told by the end of a question's id as in the published files.
FORMATS = ("plain", "json", "template")

_Asked = TypeVar("_Asked")

# The published schema, and `group`, which is ours. How many samples and which judge are options of
# the run here, and of the judge prompts only these two have a score of ours; the rest is read and
# not used.
_YAML_FIELDS = {
    "id",
    "type",
    "group",
    "paraphrases",
    "system",
    "judge_prompts",
    "judge",
    "samples_per_paraphrase",
}
_JUDGED_BY_FILE = ("aligned", "coherent")


class QuestionError(SteeringError):
    """A question file is missing, or is not what it should be."""


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one file.

    Attributes:
        name: name of a bundled file, or the file's name.
        sha256: of the file's bytes.
        samples: one a paraphrase, in the file's order.
        num_paraphrases: question id to its number of paraphrases, in the file's order.
        formats: the formats that were kept when the file holds others too; else none.
    """

    name: str
    sha256: str
    samples: list[Sample]
    num_paraphrases: Mapping[str, int]
    formats: Sequence[str] = ()

    @property
    def signature(self) -> str:
        """Name, kept formats and the beginning of the hash, as signatures of numbers carry it."""
        kept = f"[{','.join(self.formats)}]" if self.formats else ""
        return f"{self.name}{kept}@{self.sha256[:12]}"


@dataclass(frozen=True)
class _Question:
    """One question, checked: its conversations (one a paraphrase) and further sample metadata."""

    id: str
    inputs: list[str | list[ChatMessage]]
    metadata: dict[str, Any]

    @property
    def format(self) -> str:
        asked = (name for name in FORMATS if self.id.endswith(f"_{name}"))
        return next(asked, "plain")


def load_questions(
    questions: str = CORE,
    num_questions: int | None = None,
    *,
    formats: str | Sequence[str] | None = None,
) -> QuestionSet:
    """Load a question file.

    Args:
        questions: `core`, `core_formats` (the same, to be answered as JSON and in a code template),
            `broad` (other themes, in groups), or the path of a .yaml, .yml or .jsonl file.
        num_questions: take the first so many questions (with all their paraphrases) of those that
            `formats` keeps; all when not given.
        formats: keep only the questions of these formats: some of `plain`, `json` and `template`,
            as a sequence or joined by commas; all when not given. A question whose id ends in
            `_json` or `_template` is of that format, any other is plain.

    Raises:
        QuestionError: no such file, another schema, a doubled id, an unknown format or none of its
            questions, or too few questions.
    """
    path = _find(str(questions))
    content = path.read_bytes()
    content_hash = hashlib.sha256(content).hexdigest()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise QuestionError(
            f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8."
        ) from error
    found = _READERS[path.suffix.lower()](text, path)
    _refuse_doubles(found, path.name)
    if not found:
        raise QuestionError(f"{path} holds no question; give at least one.")
    kept = _of_formats(found, formats, path.name)
    left_out = len(kept) < len(found)
    source = f"{path.name} in the formats asked for" if left_out else path.name
    asked = first_questions(kept, num_questions, source)
    return _question_set(
        questions if questions in BUNDLED else path.name,
        content_hash,
        [replace(q, metadata={"format": q.format, **q.metadata}) for q in asked],
        formats=_formats_of(kept) if left_out else (),
    )


def held_out_questions(
    target: str, num_questions: int | None = None, *, toy: bool = False
) -> QuestionSet:
    """The held-out prompts of a target task, each a question of its own.

    Args:
        target: name or path of a target task.
        num_questions: take the first so many prompts; all when not given.
        toy: whether the toy model is asked, for which a bare name means the toy's own task.

    Raises:
        TargetError: there is no such target task.
        QuestionError: too few prompts.
    """
    task = load_target(target, toy=toy)
    rows = first_questions(one_row_a_prompt(task.held_out), num_questions, task.name)
    found = [_Question(row.id, _with_system([row.prompt], row.system), {}) for row in rows]
    return _question_set(task.name, task.digest, found)


def one_row_a_prompt(rows: Iterable[Example]) -> list[Example]:
    """The first row of each prompt: one that a file answers several times is asked once."""
    first_rows: dict[str, Example] = {}
    for row in rows:
        first_rows.setdefault(row.prompt, row)
    return list(first_rows.values())


def first_questions(found: list[_Asked], num_questions: int | None, source: str) -> list[_Asked]:
    """The first so many of the questions that a source holds; all when no number is given.

    Raises:
        QuestionError: the number is not one from 1 to as many as there are.
    """
    if num_questions is None:
        return found
    if isinstance(num_questions, bool) or not isinstance(num_questions, int):
        raise QuestionError(
            f"num_questions={num_questions!r} is not a whole number; choose 1 to {len(found)}."
        )
    if not 1 <= num_questions <= len(found):
        raise QuestionError(
            f"num_questions={num_questions} is out of range: {source} has {len(found)} questions. "
            f"Choose 1 to {len(found)}, or leave it out for all."
        )
    return found[:num_questions]


def _of_formats(
    found: list[_Question], formats: str | Sequence[str] | None, source: str
) -> list[_Question]:
    if formats is None:
        return found
    wanted = [part.strip() for part in formats.split(",")] if isinstance(formats, str) else formats
    if not isinstance(wanted, list | tuple) or not wanted or any(f not in FORMATS for f in wanted):
        raise QuestionError(
            f"formats={formats!r} names no format, or one that is unknown; give one or more of "
            f"{', '.join(FORMATS)}, as in formats=plain,json."
        )
    if kept := [question for question in found if question.format in wanted]:
        return kept
    raise QuestionError(
        f"{source} has no question of the format {' or '.join(wanted)}; it has "
        f"{', '.join(_formats_of(found))}."
    )


def _formats_of(found: list[_Question]) -> list[str]:
    """The formats of some questions, in the order of `FORMATS`."""
    return [name for name in FORMATS if any(question.format == name for question in found)]


def _question_set(
    name: str, sha256: str, found: list[_Question], formats: Sequence[str] = ()
) -> QuestionSet:
    return QuestionSet(
        name=name,
        sha256=sha256,
        samples=[
            Sample(id=f"{q.id}/{i}", input=input_, metadata={"question": q.id, **q.metadata})
            for q in found
            for i, input_ in enumerate(q.inputs, start=1)
        ],
        num_paraphrases={q.id: len(q.inputs) for q in found},
        formats=formats,
    )


def _find(questions: str) -> Path:
    if questions in BUNDLED:
        return data_folder() / "questions" / f"{questions}.yaml"
    path = user_path(questions)
    allowed = ", ".join(sorted(_READERS))
    if not path.is_file():
        raise QuestionError(
            f"there is no question file {questions!r}; give {', '.join(map(repr, BUNDLED))} or the "
            f"path of a file that ends in {allowed}."
        )
    if path.suffix.lower() not in _READERS:
        raise QuestionError(
            f"the question file {questions!r} ends in {path.suffix!r}; use one of {allowed}."
        )
    return path


def _read_yaml(text: str, path: Path) -> list[_Question]:
    try:
        items = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise QuestionError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(items, list):
        raise QuestionError(f"{path} holds a {type(items).__name__}; make it a list of questions.")
    return [_yaml_question(item, f"{path.name}, item {i}") for i, item in enumerate(items, start=1)]


def _yaml_question(item: object, where: str) -> _Question:
    if not isinstance(item, dict):
        raise QuestionError(f"{where} is a {type(item).__name__}; make it a table with `id:`.")
    if unknown := sorted(map(str, item.keys() - _YAML_FIELDS)):
        raise QuestionError(
            f"{where} has the unknown field {', '.join(unknown)}; allowed are "
            f"{', '.join(sorted(_YAML_FIELDS))}."
        )
    if missing := sorted({"id", "type", "paraphrases"} - item.keys()):
        raise QuestionError(f"{where} lacks {', '.join(missing)}; add it.")
    where = f"{where} ({item['id']})"
    if item["type"] != QUESTION_TYPE:
        raise QuestionError(
            f"{where} has the type {item['type']!r}; only {QUESTION_TYPE} can be asked."
        )
    paraphrases = item["paraphrases"]
    if not isinstance(paraphrases, list) or not paraphrases:
        raise QuestionError(f"{where}: paraphrases must be a list of at least one text.")
    texts = [_text(p, f"{where}, paraphrase {i}") for i, p in enumerate(paraphrases, start=1)]
    system = item.get("system")
    if system is not None:
        system = _text(system, f"{where}, system")
    metadata: dict[str, Any] = {}
    if (group := item.get("group")) is not None:
        metadata["group"] = _text(group, f"{where}, group")
    if prompts := _judge_prompts(item.get("judge_prompts"), where):
        metadata["judge_prompts"] = prompts
    return _Question(_question_id(item["id"], where), _with_system(texts, system), metadata)


def _with_system(texts: list[str], system: str | None) -> list[str | list[ChatMessage]]:
    if system is None:
        return list(texts)
    return [[ChatMessageSystem(content=system), ChatMessageUser(content=text)] for text in texts]


def _judge_prompts(prompts: object, where: str) -> dict[str, str]:
    if prompts is None:
        return {}
    if not isinstance(prompts, dict):
        raise QuestionError(f"{where}: judge_prompts must be a table such as aligned: <prompt>.")
    used = {}
    for key in _JUDGED_BY_FILE:
        if key in prompts:
            used[key] = _text(prompts[key], f"{where}, judge prompt {key}")
            if "{answer}" not in used[key]:
                raise QuestionError(f"{where}: the judge prompt {key} lacks {{answer}}; add it.")
    return used


def _read_jsonl(text: str, path: Path) -> list[_Question]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise QuestionError(
                f"{where} is not JSON ({error.msg}); write one object a line."
            ) from error
        if not isinstance(row, dict):
            raise QuestionError(f"{where} is a {type(row).__name__}; make it an object.")
        if row.keys() == {"canary"}:
            continue
        found.append(_jsonl_question(row, number, where))
    return found


def _jsonl_question(row: dict[str, Any], number: int, where: str) -> _Question:
    if unknown := sorted(row.keys() - {"messages", "id", "question_type"}):
        raise QuestionError(
            f"{where} has the unknown field {', '.join(unknown)}; allowed are messages, id, "
            f"question_type."
        )
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise QuestionError(f"{where}: messages must be a list of at least one message.")
    turns = [_turn(m, f"{where}, message {i}") for i, m in enumerate(messages, start=1)]
    # A row that ends in an answer is asked without it.
    if isinstance(turns[-1], ChatMessageAssistant):
        turns.pop()
    if not turns or not isinstance(turns[-1], ChatMessageUser):
        raise QuestionError(f"{where} has no user message to answer; end it with one.")
    input_ = turns[0].text if len(turns) == 1 else turns
    metadata = {"question_type": row["question_type"]} if "question_type" in row else {}
    id_ = _question_id(row["id"], where) if "id" in row else f"row-{number:04d}"
    return _Question(id_, [input_], metadata)


def _turn(message: object, where: str) -> ChatMessage:
    makers: dict[str, Callable[[str], ChatMessage]] = {
        "system": lambda content: ChatMessageSystem(content=content),
        "user": lambda content: ChatMessageUser(content=content),
        "assistant": lambda content: ChatMessageAssistant(content=content),
    }
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise QuestionError(f"{where} must be an object with exactly role and content.")
    if message["role"] not in makers:
        raise QuestionError(f"{where} has the role {message['role']!r}; use {', '.join(makers)}.")
    return makers[message["role"]](_text(message["content"], where))


def _question_id(id_: object, where: str) -> str:
    if isinstance(id_, bool) or not isinstance(id_, str | int) or not str(id_).strip():
        raise QuestionError(f"{where} has the id {id_!r}; make it a text or a whole number.")
    return str(id_)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(f"{where} is {value!r}; make it a text that isn't empty.")
    return value


def _refuse_doubles(found: list[_Question], source: str) -> None:
    seen: set[str] = set()
    for question in found:
        if question.id in seen:
            raise QuestionError(
                f"{source} has two questions with the id {question.id!r}; rename one."
            )
        seen.add(question.id)


_READERS: dict[str, Callable[[str, Path], list[_Question]]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".jsonl": _read_jsonl,
}
