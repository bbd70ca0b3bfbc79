"""Questions in the rows of a table, by the usual names of columns.

A row is one question: a text, or the messages of a conversation that ends in what the user asks.
Samples of Inspect are such rows. Knows Inspect's messages; never a judge or a model.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

from steering.errors import raised_as
from steering.foreign import (
    SHAREGPT,
    SHAREGPT_REMEDY,
    Table,
    TableRow,
    Turn,
    choose_columns,
    existing,
    is_empty,
    read_turns,
    report_unread,
    rows_text,
    text_in,
    unread_notes,
    without_weightless,
)
from steering.questions.files import Question, QuestionError, question_id, text_of

_USUAL = {
    "question": ("question", "prompt", "input", "text", "instruction", "query"),
    "messages": ("messages",),
    **{name: (name,) for name in ("id", "system", "theme", "group", "question_type")},
}
FIELDS = tuple(_USUAL)
"""What a column can be: the option of that name says which."""
# A column of Inspect's samples, without which some questions make no sense.
_CHOICES = "choices"
_ALPACA = ("instruction", "input")

_MESSAGES: dict[str, Callable[..., ChatMessage]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def read_questions(table: Table, options: Mapping[str, str]) -> list[Question]:
    """The questions of a table, in its order; what is not read is warned of once.

    Args:
        table: The rows.
        options: One of `FIELDS` to the table's name for it, where it has no usual one.

    Raises:
        QuestionError: No column or several columns may be the question, or a row has none.
    """
    with raised_as(QuestionError):
        table = without_weightless(table)
        if not table.rows:
            return []
        columns = _choose(table, options)
        unread = Counter[str]()
        questions, num_cut = [], 0
        for row in table.rows:
            turns = _turns(row, columns, unread)
            # A row that ends in an answer is asked without it.
            if turns[-1].role == "assistant":
                turns.pop()
                num_cut += 1
            questions.append(_question(row, columns, turns))
    notes = [*table.notes]
    if num_cut:
        notes.append(f"answers at the end of a row, which are not asked: {num_cut}")
    notes += unread_notes(unread)
    if num_again := len(questions) - len({_texts_of(question) for question in questions}):
        remedy = "" if "theme" in columns else " (a column theme would join them)"
        notes.append(f"questions that repeat another: {num_again}{remedy}")
    names = [name for names in columns.values() for name in names]
    report_unread(replace(table, notes=tuple(notes)), names, FIELDS, option="theme")
    return questions


def _choose(table: Table, options: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    named = options.get("question")
    if named in (None, "instruction") and all(map(table.num_filled, _ALPACA)):
        raise QuestionError(
            f"{table.where} has the column input beside instruction, as Alpaca does: join them by "
            "a blank line with ?question=instruction+input, or say ?question=input."
        )
    columns = choose_columns(table, _USUAL, options)
    ways = [field for field in ("question", "messages") if field in columns]
    if not ways:
        if SHAREGPT in table.columns:
            raise QuestionError(f"{table.where} holds {SHAREGPT_REMEDY}.")
        raise QuestionError(
            f"{table.where} has no column for the question: {existing(table)}. Call it question, "
            "or say which it is, as in questions='file.csv?question=name'."
        )
    if len(ways) > 1:
        options_of = [field for field in ways if field in options]
        if len(options_of) != 1:
            names = [columns[field][0] for field in ways]
            raise QuestionError(
                f"{table.where}: each of the columns {' and '.join(names)} may hold the question: "
                f"say which, as in ?question={names[0]} or ?messages={names[1]}."
            )
        ways.remove(options_of[0])
        del columns[ways[0]]
    if not options and (count := table.num_filled(_CHOICES)):
        raise QuestionError(
            f"{table.where} has {_CHOICES} in {rows_text(count)}, which free-form questions are "
            f"asked without: write them into the question, or say that they are not meant, as in "
            f"?question={(columns.get('question') or columns['messages'])[0]}."
        )
    return columns


def _turns(
    row: TableRow, columns: Mapping[str, tuple[str, ...]], unread: Counter[str]
) -> list[Turn]:
    field = "question" if "question" in columns else "messages"
    value = text_in(row, columns[field])
    if field == "messages" or isinstance(value, list):
        turns = read_turns(value, row.place, "questions", unread)
    else:
        turns = [Turn("user", text_of(value, f"{row.place}, {'+'.join(columns[field])}"))]
    system = text_in(row, columns.get("system", ()))
    if not is_empty(system):
        if any(turn.role == "system" for turn in turns):
            raise QuestionError(
                f"{row.place} has a system message in its messages and in the column system; "
                "leave one out."
            )
        turns.insert(0, Turn("system", system))
    return turns


def _question(row: TableRow, columns: Mapping[str, tuple[str, ...]], turns: list[Turn]) -> Question:
    if not turns or turns[-1].role != "user":
        raise QuestionError(f"{row.place} has no user message to answer; end it with one.")
    messages = [
        _MESSAGES[turn.role](content=text_of(turn.text, f"{row.place}, message {number}"))
        for number, turn in enumerate(turns, start=1)
    ]
    input_ = messages[0].text if len(messages) == 1 else messages
    values = {key: row.fields.get(names[0]) for key, names in columns.items()}
    metadata: dict[str, Any] = {
        key: text_of(str(value) if isinstance(value, int) else value, f"{row.place}, {key}")
        for key in ("theme", "group", "question_type")
        if not is_empty(value := values.get(key))
    }
    id_ = values.get("id")
    # A table of pandas has whole numbers with a gap among them as fractions.
    id_ = int(id_) if isinstance(id_, float) and id_.is_integer() else id_
    name = f"row-{row.number:04d}" if is_empty(id_) else question_id(id_, row.place)
    return Question(name, [input_], metadata)


def _texts_of(question: Question) -> tuple[tuple[str, str], ...]:
    [input_] = question.inputs
    if isinstance(input_, str):
        return (("user", input_),)
    return tuple((message.role, message.text) for message in input_)
