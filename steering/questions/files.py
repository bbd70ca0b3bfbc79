"""Readers of question files in the published schemas, which check every entry.

A YAML list of questions with paraphrases (that of Betley et al., arXiv 2502.17424, which MOEM's
files and ours share), and the JSON of a trait of persona_vectors (arXiv 2507.21509). Tables are
read by `rows.py`. Knows Inspect's messages; never a judge or a model.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser

from steering.errors import SteeringError
from steering.foreign import parse_yaml

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


def read_yaml(text: str, path: Path) -> list[Question]:
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
    texts = [text_of(p, f"{where}, paraphrase {i}") for i, p in enumerate(paraphrases, start=1)]
    system = item.get("system")
    if system is not None:
        system = text_of(system, f"{where}, system")
    metadata: dict[str, Any] = {}
    for field in ("theme", "group"):
        if (text := item.get(field)) is not None:
            metadata[field] = text_of(text, f"{where}, {field}")
    if prompts := _judge_prompts(item.get("judge_prompts"), where):
        metadata["judge_prompts"] = prompts
    return Question(question_id(item["id"], where), with_system(texts, system), metadata)


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
            templates[key] = text_of(prompts[key], f"{where}, judge prompt {key}")
            if "{answer}" not in templates[key]:
                raise QuestionError(f"{where}: the judge prompt {key} lacks {{answer}}; add it.")
    return templates


def read_trait(trait: object, path: Path) -> list[Question]:
    """The questions of a trait. Its judge prompt grades the trait, for which there is no score."""
    texts = trait.get("questions") if isinstance(trait, dict) else None
    if not isinstance(texts, list) or not texts:
        raise QuestionError(
            f"{path} has no list `questions`; give a trait file of persona_vectors, or a list of "
            "objects with a question each."
        )
    return [
        Question(
            f"{path.stem}-{number:02d}", [text_of(text, f"{path.name}, question {number}")], {}
        )
        for number, text in enumerate(texts, start=1)
    ]


def question_id(id_: object, where: str) -> str:
    """The id of a question as a text; refused where it is no text and no whole number."""
    if isinstance(id_, bool) or not isinstance(id_, str | int) or not str(id_).strip():
        raise QuestionError(f"{where} has the id {id_!r}; make it a text or a whole number.")
    return str(id_)


def text_of(value: object, where: str) -> str:
    """A value that is a text and not empty; anything else is refused."""
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(f"{where} is {value!r}; make it a text that isn't empty.")
    return value


def refuse_doubles(questions: list[Question], source: str) -> None:
    """Refuse questions with one id."""
    counts = Counter(question.id for question in questions)
    if doubles := [name for name, count in counts.items() if count > 1]:
        others = f", and so for {len(doubles) - 1} more ids" if len(doubles) > 1 else ""
        raise QuestionError(
            f"{source} has {_number(counts[doubles[0]])} questions with the id {doubles[0]!r}"
            f"{others}; give each its own id, or leave the ids out."
        )


def _number(count: int) -> str:
    return "two" if count == 2 else str(count)


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
