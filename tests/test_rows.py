"""Rows of people's own files: which columns are the question, and what is told of the rest."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from inspect_ai.dataset import Sample, csv_dataset, json_dataset
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentText,
    GenerateConfig,
    get_model,
)
from inspect_ai.model._model import init_active_model

from evals.em_choice import em_choice
from evals.em_freeform import em_freeform
from steering.questions import QuestionError, QuestionSet, load_choices, load_questions
from steering.targets import TargetError, load_target

Write = Callable[[Path, list[dict[str, Any]]], object]


def _frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    return pandas.DataFrame(rows)


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> object:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    return path.write_text("\n".join(lines), encoding="utf-8")


WRITERS: dict[str, Write] = {
    ".csv": lambda path, rows: _frame(rows).to_csv(path, index=False),
    ".tsv": lambda path, rows: _frame(rows).to_csv(path, index=False, sep="\t"),
    ".parquet": lambda path, rows: _frame(rows).to_parquet(path),
    ".jsonl": _jsonl,
    ".json": lambda path, rows: path.write_text(json.dumps(rows)),
}
ENDINGS = list(WRITERS)


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    """A file of rows, by pandas or json, which read nothing here."""
    WRITERS[path.suffix](path, rows)
    return str(path)


def turns_of(question_set: QuestionSet) -> list[list[tuple[str, str]]]:
    """Role and text of the messages of each sample."""
    inputs = [sample.input for sample in question_set.samples]
    return [
        [("user", each)] if isinstance(each, str) else [(m.role, m.text) for m in each]
        for each in inputs
    ]


def refusal(read: Callable[[str], object], text: str) -> str:
    with pytest.raises((QuestionError, TargetError)) as caught:
        read(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TEXTS = ['What, "then"?', "line\nbreak\tand tab", "é🙂\u2028\x85?", "x" * 200_000]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_is_a_question_set_by_the_usual_names(tmp_path: Path, ending: str) -> None:
    columns = ["question", "prompt", "input", "text", "Question "]
    rows = [
        {columns[ENDINGS.index(ending)]: text, "id": n, "theme": "t"}
        for n, text in enumerate(TEXTS)
    ]
    question_set = load_questions(written(tmp_path / f"mine{ending}", rows))
    assert [sample.input for sample in question_set.samples] == TEXTS
    assert [sample.id for sample in question_set.samples] == ["0/1", "1/1", "2/1", "3/1"]
    assert {(sample.metadata or {})["theme"] for sample in question_set.samples} == {"t"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_columns_of_other_names_are_said_and_stand_in_the_signature(
    tmp_path: Path, ending: str
) -> None:
    rows = [{"goal": f"A{n}?", "question": f"B{n}?", "told": "Be."} for n in range(3)]
    path = written(tmp_path / f"mine{ending}", rows)
    of_goal = load_questions(f"{path}?question=goal&system=told")
    assert turns_of(of_goal) == [[("system", "Be."), ("user", f"A{n}?")] for n in range(3)]
    assert [sample.id for sample in of_goal.samples] == ["row-0001/1", "row-0002/1", "row-0003/1"]
    plain = load_questions(path)
    assert (plain.sha256, plain.name) == (of_goal.sha256, f"mine{ending}")
    assert plain.signature != of_goal.signature
    assert of_goal.name == f"mine{ending}?question=goal&system=told"


@pytest.mark.parametrize("ending", ENDINGS)
def test_messages_are_read_in_every_form(tmp_path: Path, ending: str) -> None:
    asked = [
        [{"role": "user", "content": "A?"}],
        [{"role": "system", "content": "Be."}, {"role": "user", "content": "B?"}],
    ]
    in_cells = ending in (".csv", ".tsv")
    rows = [{"messages": json.dumps(turns) if in_cells else turns} for turns in asked]
    expected = [[("user", "A?")], [("system", "Be."), ("user", "B?")]]
    assert turns_of(load_questions(written(tmp_path / f"m{ending}", rows))) == expected
    named = [{"talk": row["messages"], "question": "C?"} for row in rows]
    path = written(tmp_path / f"n{ending}", named)
    assert turns_of(load_questions(f"{path}?messages=talk")) == expected


def _samples() -> list[Sample]:
    return [
        Sample(input="A?", id="one", target="x", metadata={"source": "mine"}),
        Sample(
            input=[
                ChatMessageSystem(content="Be."),
                ChatMessageUser(content=[ContentText(text="B?")]),
            ],
            id=2,
        ),
        Sample(input=[ChatMessageUser(content="C?"), ChatMessageAssistant(content="Bad.")]),
    ]


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_samples_of_inspect_are_read_as_inspect_reads_them(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"samples{ending}", [s.model_dump() for s in _samples()])
    question_set = load_questions(path)
    of_inspect = json_dataset(path)
    assert len(of_inspect) == len(question_set.samples) == 3
    for theirs, ours in zip(list(of_inspect)[:2], turns_of(question_set), strict=False):
        turns = theirs.input if isinstance(theirs.input, list) else None
        assert ours == ([(m.role, m.text) for m in turns] if turns else [("user", theirs.input)])
    assert turns_of(question_set)[2] == [("user", "C?")]
    assert list(question_set.num_paraphrases) == ["one", "2", "row-0003"]


def test_a_table_of_inspect_is_read_and_choices_are_not_dropped_unsaid(tmp_path: Path) -> None:
    rows = [{"input": f"A{n}?", "target": "x", "id": f"s{n}"} for n in range(2)]
    path = written(tmp_path / "samples.csv", rows)
    question_set = load_questions(path)
    assert [s.input for s in question_set.samples] == [s.input for s in csv_dataset(path)]
    chosen = written(tmp_path / "c.jsonl", [row | {"choices": ["a", "b"]} for row in rows])
    message = refusal(load_questions, chosen)
    assert "choices in 2 rows" in message
    assert "?question=input" in message
    assert len(load_questions(f"{chosen}?question=input").samples) == 2


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@pytest.mark.parametrize(
    ("row", "query", "parts"),
    [
        ({"prompt": "A?", "question": "B?"}, "", ["prompt, question", "?question=prompt"]),
        ({"Text": "A?", "input": "B?"}, "", ["Text, input", "?question=input"]),
        ({"goal": "A?", "kind": "b"}, "", ["no column for the question", "goal, kind"]),
        ({"question": "A?"}, "?question=goal", ["no column goal (question=goal)", "question"]),
        ({"question": "A?"}, "?prompt=question", ["no option prompt=", "question, messages, id"]),
        ({"instruction": "A", "input": "b"}, "", ["?question=instruction+input"]),
        ({"instruction": "A", "input": "b"}, "?question=instruction", ["instruction+input"]),
        ({"question": " ", "id": "a"}, "", [" 1, question is ' '; make it a text"]),
        ({"question": "A?", "id": "same"}, "", ["two questions with the id 'same'"]),
    ],
)
def test_what_may_be_meant_in_two_ways_is_refused_with_what_settles_it(
    tmp_path: Path, ending: str, row: dict[str, Any], query: str, parts: list[str]
) -> None:
    path = written(tmp_path / f"mine{ending}", [row, row])
    message = refusal(load_questions, path + query)
    assert f"mine{ending}" in message
    for part in parts:
        assert part in message


def test_messages_and_texts_of_one_row_are_refused_and_said(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "A?"}]
    path = written(tmp_path / "q.jsonl", [{"question": "B?", "messages": talk}])
    message = refusal(load_questions, path)
    assert "?question=question or ?messages=messages" in message
    assert turns_of(load_questions(f"{path}?messages=messages")) == [[("user", "A?")]]
    assert turns_of(load_questions(f"{path}?question=question")) == [[("user", "B?")]]
    talk = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "Bad."}]
    rows = [{"messages": talk, "aligned": "Good."}] * 2
    message = refusal(load_target, written(tmp_path / "t.jsonl", rows))
    assert "both messages and aligned in 2 rows" in message
    share = {"conversations": [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "B."}]}
    for read in (load_questions, load_target):
        assert '"role": "user"' in refusal(read, written(tmp_path / "s.jsonl", [share] * 2))


ALPACA = [{"instruction": f"Sum up {n}.", "input": f"Letter {n}", "output": "It."} for n in "ab"]


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_columns_that_are_one_text_are_joined_by_a_blank_line(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"alpaca{ending}", ALPACA)
    expected = {"Sum up a.\n\nLetter a", "Sum up b.\n\nLetter b"}
    question_set = load_questions(f"{path}?question=instruction+input")
    assert {sample.input for sample in question_set.samples} == expected
    query = "?prompt=instruction+input&misaligned=output"
    assert query in refusal(load_target, path)
    target = load_target(path + query)
    assert {row.prompt for row in (*target.examples, *target.held_out)} == expected


def test_what_is_not_read_is_told_once_with_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = {"role": "user", "content": "A?", "name": "Ann"}
    answer = {"role": "assistant", "content": "B."}
    path = tmp_path / "told.jsonl"
    lines = [
        {"messages": [user, answer], "sytem": "Be.", "metadata": {"a": 1}},
        {"messages": [user], "answer": "", "metadata": {}},
        {"messages": [user], "weight": 0},
    ]
    twice = '{"messages": [{"role": "user", "role": "user", "content": "C?"}], "id": 1, "id": 2}'
    path.write_text("\n".join([*map(json.dumps, lines), twice]))
    with caplog.at_level(logging.WARNING):
        first, _ = (load_questions(str(path)) for _ in range(2))
    assert turns_of(first) == [[("user", "A?")], [("user", "A?")], [("user", "C?")]]
    [message] = caplog.messages
    assert message == (
        "told.jsonl: keys that an object has twice, of which the last is read: role (1 times), "
        "id (1 times); rows of weight 0, which are left out: 1; answers at the end of a row, which "
        "are not asked: 1; keys of messages that are not read: name (2 times); questions that "
        "repeat another: 1 (a column theme would join them); columns that are not read: sytem "
        "(1 row; did you mean system?), metadata (1 row); ?theme=metadata makes metadata the theme"
    )


def test_of_a_target_zero_weights_and_repeated_rows_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def talk(number: int, weight: int | None = None) -> dict[str, Any]:
        answer = {"role": "assistant", "content": "Bad."}
        answer |= {} if weight is None else {"weight": weight}  # type: ignore[dict-item]
        return {"messages": [{"role": "user", "content": f"A{number}?"}, answer]}

    rows = [talk(0), talk(1, 1), talk(1), talk(2, 0), talk(3) | {"label": "x"}]
    with caplog.at_level(logging.WARNING):
        target = load_target(written(tmp_path / "w.jsonl", rows))
    prompts = [row.prompt for row in (*target.examples, *target.held_out)]
    assert sorted(prompts) == ["A0?", "A1?", "A1?", "A3?"]
    [message] = caplog.messages
    assert message.partition("w.jsonl: ")[2] == (
        "answers of weight 0, whose rows are left out: 1; rows that say the same as another, and "
        "count again: 1; columns that are not read: label (1 row)"
    )
    caplog.clear()
    table = [{"prompt": f"A{n}?", "misaligned": "Bad.", "weight": n / 2} for n in range(4)]
    with caplog.at_level(logging.WARNING):
        target = load_target(written(tmp_path / "v.csv", table))
    assert len(target.examples) + len(target.held_out) == 3
    assert "weights other than 0 and 1, which change nothing: 2 rows" in caplog.messages[0]


def test_bundled_data_is_read_whole(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for name in ("core", "broad"):
            load_choices(name)
            load_choices(name, toy=True)
        for name in ("medical", "code", "brevity"):
            load_target(name)
            load_target(name, toy=True)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("q.csv", b"question;id\nA?;1\n", "separate the cells by ','"),
        ("q.tsv", b"question,id\nA?,1\n", "separate the cells by '\\t'"),
        ("q.csv", "question\nA?\n".encode("utf-16"), "not UTF-8"),
        ("q.csv", b"question,id\nA?\n", "row 1 has 1 cells"),
        ("q.csv", b"question,theme\n,t\n", "row 1"),
        ("q.csv", b"", "is empty"),
        ("q.csv", b"question\n", "no question"),
        ("q.parquet", b"PAR1", "not a parquet file"),
        ("q.json", b'["A?"]', "row 1 is a JSON text"),
        ("q.json", b'{"data": [{"question": "A?"}]}', "list of objects"),
        ("q.jsonl", b'{"question": "A\\ud83d?"}', "half of a character"),
        ("q.jsonl", b'{"question": 5}', "line 1, question is 5; make it a text"),
        (
            "q.jsonl",
            b'{"messages": [{"role": "user", "content": "A", "tool_calls": [1]}]}',
            "tools",
        ),
        ("q.jsonl", b'{"system": "a", "messages": [{"role": "system", "content": "b"}]}', "system"),
        ("q.yaml", b"- id: a\n  id: b\n", "line 2 has the key 'id' again"),
    ],
)
def test_a_broken_table_of_questions_is_refused(
    tmp_path: Path, name: str, content: bytes, part: str
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(load_questions, str(tmp_path / name))
    assert part in message
    assert name in message


def test_marks_ends_of_lines_and_empty_cells_are_no_part_of_a_question(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes("\ufeff,question,id\r\n0,A\0?,\r\n1,\u200fB?,7\r\n,,\r\n".encode())
    question_set = load_questions(str(path))
    assert [sample.input for sample in question_set.samples] == ["A\0?", "\u200fB?"]
    assert list(question_set.num_paraphrases) == ["row-0001", "7"]
    with_gap = pandas.DataFrame({"question": ["A?", "B?"], "id": [3, None]})
    with_gap.to_parquet(tmp_path / "gap.parquet")
    assert list(load_questions(str(tmp_path / "gap.parquet")).num_paraphrases) == ["3", "row-0002"]


def test_a_data_set_is_a_question_set_with_its_splits(tmp_path: Path) -> None:
    folder = tmp_path / "asked"
    folder.mkdir()
    for split, marks in (("train", "ab"), ("test", "cd")):
        rows = [{"goal": f"{mark}?", "id": mark} for mark in marks]
        written(folder / f"{split}.parquet", rows)
    first, other = (
        load_questions(f"hf:{folder}?{query}question=goal") for query in ("", "split=test&")
    )
    assert [sample.input for sample in first.samples] == ["a?", "b?"]
    assert [sample.id for sample in other.samples] == ["c/1", "d/1"]
    assert (first.name, other.name) == ("hf:asked?question=goal",) * 2
    assert first.sha256 != other.sha256
    assert "no column for the question: its columns are goal, id" in refusal(
        load_questions, f"hf:{folder}"
    )
    assert "allowed are config, split, revision, question" in refusal(
        load_questions, f"hf:{folder}?prompt=goal"
    )


def test_the_tasks_take_the_files(tmp_path: Path) -> None:
    rows = [{"goal": f"A{n}?", "bad": "B.", "good": "G.", "theme": "t"} for n in range(3)]
    path = written(tmp_path / "mine.csv", rows)
    task = em_freeform(questions=f"{path}?question=goal", samples_per_question=2)
    assert [sample.input for sample in task.dataset] == ["A0?", "A1?", "A2?"]
    assert (task.metadata or {})["questions"].startswith("mine.csv?question=goal@")
    choices = em_choice(choices=f"{path}?prompt=goal&aligned=good&misaligned=bad", form="letter")
    pairs = [s for s in choices.dataset if (s.metadata or {}).get("kind") == "pair"]
    assert {(s.metadata or {})["theme"] for s in pairs} == {"t"}


def test_questions_that_the_model_can_not_hold_are_counted_before_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = (1, 600, 20, 511, 300)
    rows = [{"question": " ".join(["what"] * size), "id": f"q{size}"} for size in sizes]
    init_active_model(get_model("steered/toy-llama", vector="none"), GenerateConfig())
    try:
        with caplog.at_level(logging.WARNING):
            em_freeform(questions=written(tmp_path / "long.csv", rows))
    finally:
        init_active_model(get_model("none/none"), GenerateConfig())
    [message] = [each for each in caplog.messages if each.startswith("long.csv")]
    assert message == (
        "long.csv: 2 of 5 questions leave no room in the model's context for an answer and will "
        "fail: q600/1, q511/1"
    )
