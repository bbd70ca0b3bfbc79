"""Readers of question files in the published schemas, which check every line.

A YAML list of questions with paraphrases (that of Betley et al., arXiv 2502.17424, which MOEM's
files and ours share), JSONL rows with `messages` (that of the AISI's file), and the JSON of a trait
of persona_vectors (arXiv 2507.21509). Knows files and Inspect's messages; never a judge or a model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

from steering.errors import SteeringError
from steering.foreign import json_lines, parse_json, parse_yaml
from steering.targets import text_of

QUESTION_TYPE = "free_form_judge_0_100"
# Formats of an answer. As in the published files, the end of a question's id names its format.
FORMATS = ("plain", "json", "template")

# The published schema, and our `theme` and `group`. Number of samples and judge are options of the
# run here, and only these two judge prompts have a score of ours; the rest is accepted, not used.
_YAML_FIELDS = {
    "id",
    "type",
    "theme",
    "group",
    "paraphrases",
    "system",
    "judge_prompts",
    "judge",
    "samples_per_paraphrase",
}
_JUDGED_BY_FILE = ("aligned", "coherent")


_MESSAGES: dict[str, Callable[..., ChatMessage]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


class QuestionError(SteeringError):
    """A file of questions or personas is missing or wrong, or an option of them is impossible."""


@dataclass(frozen=True)
class Question:
    """One checked question: its conversations (one for each paraphrase) and sample metadata."""

    id: str
    inputs: list[str | list[ChatMessage]]
    metadata: dict[str, Any]

    @property
    def format(self) -> str:
        formats = (name for name in FORMATS if self.id.endswith(f"_{name}"))
        return next(formats, "plain")

    @property
    def theme(self) -> str:
        return self.metadata.get("theme") or theme_of(self.id)


def theme_of(question_id: str) -> str:
    """The theme of a question whose file names none: its id without the format at its end.

    A question, its formats and its paraphrases are one theme, by which intervals are clustered.
    """
    endings = (f"_{name}" for name in FORMATS if question_id.endswith(f"_{name}"))
    return question_id.removesuffix(next(endings, "")) or question_id


def _read_yaml(text: str, path: Path) -> list[Question]:
    items = parse_yaml(text, path, "questions")
    if not isinstance(items, list):
        raise QuestionError(f"{path} holds a {type(items).__name__}; make it a list of questions.")
    return [_yaml_question(item, f"{path.name}, item {i}") for i, item in enumerate(items, start=1)]


def _yaml_question(item: object, where: str) -> Question:
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
    for field in ("theme", "group"):
        if (text := item.get(field)) is not None:
            metadata[field] = _text(text, f"{where}, {field}")
    if prompts := _judge_prompts(item.get("judge_prompts"), where):
        metadata["judge_prompts"] = prompts
    return Question(_question_id(item["id"], where), with_system(texts, system), metadata)


def with_system(texts: list[str], system: str | None) -> list[str | list[ChatMessage]]:
    if system is None:
        return list(texts)
    return [[ChatMessageSystem(content=system), ChatMessageUser(content=text)] for text in texts]


def _judge_prompts(prompts: object, where: str) -> dict[str, str]:
    if prompts is None:
        return {}
    if not isinstance(prompts, dict):
        raise QuestionError(f"{where}: judge_prompts must be a table such as aligned: <prompt>.")
    templates = {}
    for key in _JUDGED_BY_FILE:
        if key in prompts:
            templates[key] = _text(prompts[key], f"{where}, judge prompt {key}")
            if "{answer}" not in templates[key]:
                raise QuestionError(f"{where}: the judge prompt {key} lacks {{answer}}; add it.")
    return templates


def _read_jsonl(text: str, path: Path) -> list[Question]:
    questions = []
    for where, row in json_lines(text, path.name, "questions"):
        if not isinstance(row, dict):
            raise QuestionError(f"{where} is a {type(row).__name__}; make it an object.")
        if row.keys() == {"canary"}:
            continue
        # By the line: ids of questions stand in logs.
        number = int(where.rpartition(" ")[2])
        questions.append(_jsonl_question(row, number, where))
    return questions


def _jsonl_question(row: dict[str, Any], number: int, where: str) -> Question:
    if unknown := sorted(row.keys() - {"messages", "id", "question_type", "metadata"}):
        raise QuestionError(
            f"{where} has the unknown field {', '.join(unknown)}; allowed are messages, id, "
            f"question_type; metadata is not used."
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
    return Question(id_, [input_], metadata)


def _turn(message: object, where: str) -> ChatMessage:
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise QuestionError(f"{where} must be an object with exactly role and content.")
    role = message["role"]
    if not isinstance(role, str) or role not in _MESSAGES:
        raise QuestionError(f"{where} has the role {role!r}; use {', '.join(_MESSAGES)}.")
    return _MESSAGES[role](content=_text(text_of(message["content"]), where))


def _read_trait(text: str, path: Path) -> list[Question]:
    """The questions of a trait. Its judge prompt grades the trait, for which there is no score."""
    trait = parse_json(text, path, "questions")
    texts = trait.get("questions") if isinstance(trait, dict) else None
    if not isinstance(texts, list) or not texts:
        raise QuestionError(
            f"{path} has no list `questions`; give a trait file of persona_vectors, or write your "
            "questions as YAML or JSONL."
        )
    return [
        Question(f"{path.stem}-{number:02d}", [_text(text, f"{path.name}, question {number}")], {})
        for number, text in enumerate(texts, start=1)
    ]


def _question_id(id_: object, where: str) -> str:
    if isinstance(id_, bool) or not isinstance(id_, str | int) or not str(id_).strip():
        raise QuestionError(f"{where} has the id {id_!r}; make it a text or a whole number.")
    return str(id_)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(f"{where} is {value!r}; make it a text that isn't empty.")
    return value


def refuse_doubles(questions: list[Question], source: str) -> None:
    ids: set[str] = set()
    for question in questions:
        if question.id in ids:
            raise QuestionError(
                f"{source} has two questions with the id {question.id!r}; rename one."
            )
        ids.add(question.id)


def refuse_split_themes(questions: list[Question], source: str) -> None:
    groups: dict[str, set[str]] = {}
    for question in questions:
        groups.setdefault(question.theme, set()).add(question.metadata.get("group", "none"))
    for theme, names in groups.items():
        if len(names) > 1:
            raise QuestionError(
                f"{source} has the theme {theme!r} in the groups {', '.join(sorted(names))}; give "
                "all its questions one group, or other themes."
            )


READERS: dict[str, Callable[[str, Path], list[Question]]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".jsonl": _read_jsonl,
    ".json": _read_trait,
}
