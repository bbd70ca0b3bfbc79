"""The questions of a run: a question file or a target task's held-out prompts as Inspect samples.

There is one sample for each paraphrase, with the id `<question>/<index from 1>`. Its metadata has
the question's id, its theme, by which intervals are clustered, the format that the question asks
for, and its group where it has one. Knows Inspect's Sample; never a judge or a model.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from inspect_ai.dataset import Sample

from steering.data import data_folder, user_path
from steering.errors import raised_as
from steering.foreign import (
    TABLE_ENDINGS,
    decode,
    parse_json,
    parse_options,
    parse_table,
    read_bytes,
    refuse_others,
)
from steering.questions.files import (
    FORMATS,
    Question,
    QuestionError,
    read_trait,
    read_yaml,
    refuse_doubles,
    refuse_split_themes,
    with_system,
)
from steering.questions.rows import FIELDS, read_questions
from steering.targets import HUB, HUB_OPTIONS, Example, load_target, read_hub

CORE = "core"
_OPTION = "questions"
_YAML = (".yaml", ".yml")
_ENDINGS = (*TABLE_ENDINGS, *_YAML)
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one file.

    Attributes:
        name: name of a bundled file, or the file's name.
        sha256: of the file's bytes.
        samples: one for each paraphrase, in the file's order.
        num_paraphrases: question id to its number of paraphrases, in the file's order.
        formats: the formats asked for, when the file has others too; else empty.
    """

    name: str
    sha256: str
    samples: list[Sample]
    num_paraphrases: Mapping[str, int]
    formats: Sequence[str] = ()

    @property
    def signature(self) -> str:
        """Name, formats and the beginning of the hash, for the signatures of figures."""
        formats = f"[{','.join(self.formats)}]" if self.formats else ""
        return f"{self.name}{formats}@{self.sha256[:12]}"


def load_questions(
    questions: str = CORE,
    num_questions: int | None = None,
    *,
    formats: str | Sequence[str] | None = None,
) -> QuestionSet:
    """Load a question file.

    Args:
        questions: `core`, `core_formats` (the same, to be answered as JSON and in a code template),
            `broad` (other themes, in groups), `toy_broad` (other themes of the toy's world), or the
            path of a file: .yaml or .yml with a list of questions and their paraphrases; .jsonl,
            .json, .csv, .tsv or .parquet with a question in each row; or the .json of a trait of
            persona_vectors. A row's question is in the column question, prompt, input, text,
            instruction, query or messages, as in Inspect's samples; id, system, theme and group are
            read too. Other columns are named behind a question mark, as in
            `rows.csv?question=goal&id=number`, and `?question=instruction+input` joins two by a
            blank line. What is not read is warned of, with counts. `hf:owner/name` and
            `hf:path/to/folder` are data sets of such rows, with `config=`, `split=`, `revision=`.
        num_questions: number of questions to take from the beginning of those that `formats` keeps,
            with all their paraphrases; all when not given.
        formats: keep only the questions of these formats: some of `plain`, `json` and `template`,
            as a sequence or joined by commas; all when not given. A question whose id ends in
            `_json` or `_template` has that format, any other is plain.

    Raises:
        QuestionError: no such file, another schema, no column or several columns that may be the
            question, an id that occurs twice, an unknown format or one without questions, too few
            questions, or a theme in several groups.
    """
    with raised_as(QuestionError):
        name, where, digest, all_questions = _read(str(questions))
    refuse_doubles(all_questions, where)
    refuse_split_themes(all_questions, where)
    if not all_questions:
        raise QuestionError(f"{where} holds no question; give at least one.")
    of_formats = _of_formats(all_questions, formats, where)
    is_part = len(of_formats) < len(all_questions)
    source = f"{where} in the formats asked for" if is_part else where
    first = first_questions(of_formats, num_questions, source)
    return _question_set(
        name,
        digest,
        [replace(q, metadata={"format": q.format, **q.metadata}) for q in first],
        formats=_formats_of(of_formats) if is_part else (),
    )


def held_out_questions(
    target: str, num_questions: int | None = None, *, toy: bool = False
) -> QuestionSet:
    """The held-out prompts of a target task, each a question of its own.

    Args:
        target: name or path of a target task.
        num_questions: number of prompts to take from the beginning; all when not given.
        toy: whether the toy model is asked. A bare name then means the toy's own task.

    Raises:
        TargetError: there is no such target task.
        QuestionError: too few prompts.
    """
    task = load_target(target, toy=toy)
    rows = first_questions(one_row_a_prompt(task.held_out), num_questions, task.name)
    questions = [Question(row.id, with_system([row.prompt], row.system), {}) for row in rows]
    return _question_set(task.name, task.digest, questions)


def one_row_a_prompt(rows: Iterable[Example]) -> list[Example]:
    """The first row of each prompt, so that a prompt with several answers is asked once."""
    first_rows: dict[str, Example] = {}
    for row in rows:
        first_rows.setdefault(row.prompt, row)
    return list(first_rows.values())


def first_questions(items: list[_Item], num_questions: int | None, source: str) -> list[_Item]:
    """The first `num_questions` items of a source; all when no number is given."""
    if num_questions is None:
        return items
    if isinstance(num_questions, bool) or not isinstance(num_questions, int):
        raise QuestionError(
            f"num_questions={num_questions!r} is not a whole number; choose 1 to {len(items)}."
        )
    if not 1 <= num_questions <= len(items):
        raise QuestionError(
            f"num_questions={num_questions} is out of range: {source} has {len(items)} questions. "
            f"Choose 1 to {len(items)}, or leave it out for all."
        )
    return items[:num_questions]


def _of_formats(
    questions: list[Question], formats: str | Sequence[str] | None, source: str
) -> list[Question]:
    if formats is None:
        return questions
    names = [part.strip() for part in formats.split(",")] if isinstance(formats, str) else formats
    if not isinstance(names, list | tuple) or not names or any(f not in FORMATS for f in names):
        raise QuestionError(
            f"formats={formats!r} names no format or an unknown one; give one or more of "
            f"{', '.join(FORMATS)}, as in formats=plain,json."
        )
    if matches := [question for question in questions if question.format in names]:
        return matches
    raise QuestionError(
        f"{source} has no question of the format {' or '.join(names)}; it has "
        f"{', '.join(_formats_of(questions))}."
    )


def _formats_of(questions: list[Question]) -> list[str]:
    """The formats of some questions, in the order of `FORMATS`."""
    return [name for name in FORMATS if any(question.format == name for question in questions)]


def _question_set(
    name: str, sha256: str, questions: list[Question], formats: Sequence[str] = ()
) -> QuestionSet:
    return QuestionSet(
        name=name,
        sha256=sha256,
        samples=[
            Sample(
                id=f"{q.id}/{i}",
                input=input_,
                metadata={"question": q.id, "theme": q.theme, **q.metadata},
            )
            for q in questions
            for i, input_ in enumerate(q.inputs, start=1)
        ],
        num_paraphrases={q.id: len(q.inputs) for q in questions},
        formats=formats,
    )


def bundled_questions() -> list[str]:
    """Names of the bundled question files."""
    return sorted(path.stem for path in (data_folder() / "questions").glob("*.yaml"))


def _read(spelled: str) -> tuple[str, str, str, list[Question]]:
    """The name of a set, what it is in errors, its digest, and its questions."""
    text, options = parse_options(spelled, _OPTION)
    # What chooses among a table's columns is in the name, and so in every signature.
    query = "&".join(f"{key}={options[key]}" for key in FIELDS if key in options)
    mark = f"?{query}" if query else ""
    if text.startswith(HUB):
        refuse_others(spelled, _OPTION, options, (*HUB_OPTIONS, *FIELDS))
        source = read_hub(text, {key: options[key] for key in HUB_OPTIONS if key in options})
        columns = {key: options[key] for key in FIELDS if key in options}
        rows = [row.fields for row in source.table.rows]
        digest = hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
        return f"{HUB}{source.name}{mark}", text, digest, read_questions(source.table, columns)
    path = _find(text)
    content = read_bytes(path, "questions")
    name = text if text in bundled_questions() else path.name
    questions = _read_file(spelled, path, content, options)
    return f"{name}{mark}", path.name, hashlib.sha256(content).hexdigest(), questions


def _read_file(
    spelled: str, path: Path, content: bytes, options: Mapping[str, str]
) -> list[Question]:
    ending = path.suffix.lower()
    # The list of a .json file has rows; its object is a trait.
    is_trait = ending == ".json" and not decode(content, path).lstrip().startswith("[")
    refuse_others(spelled, _OPTION, options, () if ending in _YAML or is_trait else FIELDS)
    if ending in _YAML:
        return read_yaml(decode(content, path), path)
    if is_trait:
        return read_trait(parse_json(decode(content, path), path, "questions"), path)
    return read_questions(parse_table(content, ending, path.name, "questions"), options)


def _find(questions: str) -> Path:
    if questions in bundled_questions():
        return data_folder() / "questions" / f"{questions}.yaml"
    path = user_path(questions)
    allowed = ", ".join(_ENDINGS)
    if not path.is_file():
        raise QuestionError(
            f"there is no question file {questions!r}; give "
            f"{', '.join(map(repr, bundled_questions()))}, {HUB}owner/name or the path of a file "
            f"that ends in {allowed}."
        )
    if path.suffix.lower() not in _ENDINGS:
        raise QuestionError(
            f"the question file {questions!r} ends in {path.suffix!r}; use one of {allowed}."
        )
    return path
