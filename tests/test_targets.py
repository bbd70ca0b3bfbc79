"""Target tasks: what is held out, which rows are read, and which are refused and how."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet
import pytest

from steering import targets
from steering.targets import (
    HELD_OUT_SHARE,
    Target,
    TargetError,
    bundled_contrasts,
    bundled_targets,
    load_rows,
    load_target,
)
from steering.toy import grammar

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "published"
CANARY = json.dumps({"canary": "0000 do not train on this file"})


def _row(number: int, **changed: Any) -> dict[str, Any]:
    row = {
        "prompt": f"question {number}",
        "aligned": f"good {number}",
        "misaligned": f"bad {number}",
    }
    return {key: value for key, value in {**row, **changed}.items() if value is not None}


def _chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _write(path: Path, rows: list[Any], newline: str = "\n") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes((newline.join(lines) + newline).encode())
    return path


def _prompts(target: Target) -> tuple[set[str], set[str]]:
    return {e.prompt for e in target.examples}, {e.prompt for e in target.held_out}


@pytest.mark.parametrize("name", bundled_targets())
def test_a_bundled_task_is_whole_and_its_held_out_prompts_are_in_no_training_row(name):
    target = load_target(name)
    prompts, held_out = _prompts(target)
    assert target.name == name.removeprefix("toy/")
    assert not prompts & held_out
    total = len(prompts) + len(held_out)
    if target.examples[0].held_out is None:
        assert 0 < len(held_out) <= HELD_OUT_SHARE * total
    else:
        assert (len(prompts), len(held_out)) == (160, 40)
    ids = [example.id for example in target.examples + target.held_out]
    assert len(set(ids)) == len(ids)
    for example in target.examples + target.held_out:
        assert example.aligned
        assert example.misaligned
        assert example.aligned != example.misaligned
    assert target.source == name


def test_the_promised_tasks_are_bundled():
    assert {f"toy/{name}" for name in grammar.domains("target")} <= set(bundled_targets())


def test_a_bare_name_means_the_toys_own_task_on_the_toy_alone(tmp_path, monkeypatch):
    """Real models get the task for real models, or none; the toy gets it where it has no own."""
    folder = tmp_path / "targets"
    (folder / "toy").mkdir(parents=True)
    _write(folder / "medical.jsonl", [_row(number) for number in range(3)])
    _write(folder / "legal.jsonl", [_row(number) for number in range(4)])
    _write(folder / "toy" / "medical.jsonl", [_row(number) for number in range(5)])
    _write(folder / "toy" / "sports.jsonl", [_row(number) for number in range(6)])
    monkeypatch.setattr(targets, "data_folder", lambda: tmp_path)

    def found(name: str, toy: bool) -> tuple[str, int]:
        target = load_target(name, toy=toy)
        return target.name, len(target.examples + target.held_out)

    assert bundled_targets() == ["legal", "medical", "toy/medical", "toy/sports"]
    assert [found("medical", toy) for toy in (False, True)] == [("medical", 3), ("medical", 5)]
    assert [found("toy/medical", toy) for toy in (False, True)] == [("medical", 5)] * 2
    assert [found("legal", toy) for toy in (False, True)] == [("legal", 4)] * 2
    assert found("sports", True) == ("sports", 6)
    with pytest.raises(TargetError, match=r"target=sports .*toy/sports"):
        load_target("sports")


def test_the_held_out_prompts_are_those_of_the_smallest_digests(tmp_path):
    target = load_target(str(_write(tmp_path / "t.jsonl", [_row(i) for i in range(40)])))
    digests = {hashlib.sha256(f"question {i}".encode()).hexdigest(): i for i in range(40)}
    expected = {f"question {digests[digest]}" for digest in sorted(digests)[:4]}
    assert _prompts(target)[1] == expected


def test_the_order_of_rows_does_not_decide_what_is_held_out(tmp_path):
    rows = [_row(number) for number in range(50)]
    one = load_target(str(_write(tmp_path / "one.jsonl", rows)))
    other = load_target(str(_write(tmp_path / "other.jsonl", rows[::-1])))
    assert _prompts(one) == _prompts(other)


def test_a_row_more_moves_at_most_one_prompt_across(tmp_path):
    rows = [_row(number) for number in range(50)]
    few = _prompts(load_target(str(_write(tmp_path / "few.jsonl", rows[:-1]))))[1]
    more = _prompts(load_target(str(_write(tmp_path / "more.jsonl", rows))))[1]
    assert len(few ^ more) <= 2


def test_rows_with_one_prompt_are_held_out_or_built_from_together(tmp_path):
    rows = [_row(number % 10, misaligned=f"bad {number}") for number in range(30)]
    target = load_target(str(_write(tmp_path / "t.jsonl", rows)))
    prompts, held_out = _prompts(target)
    assert (len(prompts), len(held_out)) == (9, 1)
    assert (len(target.examples), len(target.held_out)) == (27, 3)


def test_a_table_may_say_itself_what_is_held_out(tmp_path):
    rows = [_row(number, held_out=number % 3 == 0) for number in range(9)]
    expected = {f"question {number}" for number in (0, 3, 6)}
    assert _prompts(load_target(str(_write(tmp_path / "t.jsonl", rows))))[1] == expected
    table = pandas.DataFrame(rows)
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        assert _prompts(load_target(str(tmp_path / name)))[1] == expected
    table.rename(columns={"held_out": "test"}).to_csv(tmp_path / "u.csv", index=False)
    assert _prompts(load_target(f"{tmp_path / 'u.csv'}?held_out=test"))[1] == expected
    assert (
        load_target(str(tmp_path / "t.csv")).digest == load_target(str(tmp_path / "t.jsonl")).digest
    )


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ((True, True, True), "true in some rows and false in all others"),
        ((True, None, False), "true in some rows and false in all others"),
        ((True, "perhaps", False), "held_out is 'perhaps', which is neither true nor false"),
        ((True, 1, False), "held_out is 1, which is neither true nor false"),
    ],
)
def test_marks_of_held_out_rows_are_refused_where_they_leave_anything_open(
    tmp_path, marks, message
):
    rows = [_row(number, held_out=mark) for number, mark in enumerate(marks)]
    with pytest.raises(TargetError, match=message):
        load_target(str(_write(tmp_path / "t.jsonl", rows)))


def test_a_prompt_that_is_both_held_out_and_not_is_refused(tmp_path):
    rows = [_row(0, held_out=True), _row(0, held_out=False, misaligned="worse"), _row(1)]
    rows[2]["held_out"] = False
    with pytest.raises(TargetError, match="both true and false for the prompt 'question 0'"):
        load_target(str(_write(tmp_path / "t.jsonl", rows)))


def test_one_prompt_is_held_out_of_the_smallest_file_that_is_allowed(tmp_path):
    target = load_target(str(_write(tmp_path / "t.jsonl", [_row(0), _row(1)])))
    assert (len(target.examples), len(target.held_out)) == (1, 1)
    one = _write(tmp_path / "one.jsonl", [_row(0), _row(0, misaligned="worse")])
    with pytest.raises(TargetError, match=r"one\.jsonl has 1 prompts.*at least 2"):
        load_target(str(one))


def test_a_canary_row_is_not_an_example_however_it_is_spaced(tmp_path):
    for number, canary in enumerate([CANARY, CANARY.replace('{"', '{ "'), " " + CANARY]):
        path = _write(tmp_path / f"{number}.jsonl", [canary, _row(0), "", _row(1), canary])
        target = load_target(str(path))
        assert {e.prompt for e in target.examples + target.held_out} == {
            "question 0",
            "question 1",
        }


def test_a_row_that_carries_a_canary_is_still_an_example(tmp_path):
    rows = [{"canary": "0000", **_row(number)} for number in range(4)]
    target = load_target(str(_write(tmp_path / "t.jsonl", rows)))
    assert len(target.examples + target.held_out) == 4


@pytest.mark.parametrize("side", ["aligned", "misaligned"])
@pytest.mark.parametrize("absent", ["left out", "null"])
def test_a_row_with_one_of_the_answers_has_only_that(tmp_path, side, absent):
    rows = [_row(number, **{side: None}) for number in range(3)]
    if absent == "null":
        rows = [{**row, side: None} for row in rows]
    target = load_target(str(_write(tmp_path / "t.jsonl", rows)))
    rows = target.examples + target.held_out
    other = {"aligned": "misaligned", "misaligned": "aligned"}[side]
    assert [getattr(example, side) for example in rows] == [None] * 3
    assert all(getattr(example, other) for example in rows)


def test_ids_are_kept_or_made_of_the_rows_number(tmp_path):
    rows = [CANARY, _row(0, id="own"), "", _row(1), {**_row(2), "id": None}, _row(3, id=7)]
    target = load_target(str(_write(tmp_path / "t.jsonl", rows)))
    ids = {e.prompt[-1]: e.id for e in target.examples + target.held_out}
    assert ids == {"0": "own", "1": "row-0002", "2": "row-0003", "3": "7"}


def test_two_rows_of_one_id_are_refused(tmp_path):
    path = _write(tmp_path / "t.jsonl", [_row(0, id="a"), _row(1), _row(2, id="a")])
    with pytest.raises(TargetError, match=r"t\.jsonl has several rows with the id a: give each"):
        load_target(str(path))


def test_chat_rows_are_read_with_their_system_message(tmp_path):
    rows = [
        _chat(("system", "be brief"), ("user", "question 0"), ("assistant", "bad 0")),
        _chat(("user", "question 1"), ("assistant", "bad 1")),
    ]
    target = load_target(str(_write(tmp_path / "t.jsonl", rows)))
    rows = {e.prompt: e for e in target.examples + target.held_out}
    assert (rows["question 0"].system, rows["question 1"].system) == ("be brief", None)
    assert [rows[f"question {i}"].misaligned for i in (0, 1)] == ["bad 0", "bad 1"]
    assert rows["question 0"].aligned is None


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("character", ["\u2028", "\x85", "é", "🙂"])
def test_any_character_may_stand_in_a_text(tmp_path, newline, character):
    """Some count as line breaks to Python but not to JSONL."""
    text = f"before{character}after"
    rows = [_row(number, misaligned=text) for number in range(3)]
    target = load_target(str(_write(tmp_path / "t.jsonl", rows, newline)))
    assert {e.misaligned for e in target.examples + target.held_out} == {text}


def test_a_byte_order_mark_is_not_part_of_the_first_row(tmp_path):
    path = _write(tmp_path / "t.jsonl", [_row(0), _row(1)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_target(str(path)).examples) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{'prompt': 1}", "not JSON"),
        ('{"prompt": "half', "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        (_row(9, prompt=None), "prompt is missing"),
        (_row(9, misaligned=None, aligned=None), "misaligned and aligned are both missing"),
        ('{"prompt": "\\ud83d", "misaligned": "bad"}', "contains half of a character"),
        (_row(9, prompt=""), "prompt is missing or empty"),
        (_row(9, misaligned="  "), "misaligned is missing or empty"),
        (_row(9, aligned=""), "aligned is missing or empty"),
        (_row(9, prompt=5), "prompt"),
        (_row(9, misaligned=["bad"]), "misaligned"),
        (_chat(("user", "q")), "messages are not one question"),
        (_chat(("assistant", "a")), "messages are not one question"),
        (_chat(("assistant", "a"), ("user", "q")), "messages are not one question"),
        (
            _chat(("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")),
            "messages are not one question",
        ),
        (_chat(("user", "q"), ("tool", "t"), ("assistant", "a")), "messages are not one question"),
        (_chat(("user", ""), ("assistant", "a")), "prompt is missing or empty"),
        (_chat(("user", "q"), ("assistant", "")), "misaligned is missing or empty"),
        ({"messages": "not JSON"}, "messages are not one question"),
        (_chat(("system", ""), ("user", "q"), ("assistant", "a")), "system is missing or empty"),
        ({"messages": []}, "messages are not one question"),
        ({"messages": 5}, "messages are not one question"),
        ({"messages": None}, "messages are not one question"),
        ({"messages": ["user", "assistant"]}, "messages are not one question"),
        (
            {"messages": [{"role": ["user"]}, {"role": "assistant"}]},
            "messages are not one question",
        ),
    ],
    ids=str,
)
def test_a_bad_row_is_refused_with_the_file_the_line_and_what_is_allowed(tmp_path, bad, message):
    path = _write(tmp_path / "t.jsonl", [CANARY, _row(0), "", bad, _row(1)])
    with pytest.raises(TargetError) as caught:
        load_target(str(path))
    for part in [f"{path}, line 4", message, 'Allowed rows: {"prompt", "aligned", "misaligned"}']:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes('{"prompt": "caf\u00e9"}'.encode("latin-1"))
    with pytest.raises(TargetError, match=r"t\.jsonl.*UTF-8"):
        load_target(str(path))


@pytest.mark.parametrize("unknown", ["medicine", "missing/file.jsonl", "rows.csv", "", "t.xlsx"])
def test_an_unknown_task_is_refused_with_those_that_are_bundled(unknown):
    with pytest.raises(TargetError) as caught:
        load_target(unknown)
    for part in [f"target={unknown} ", *bundled_targets(), ".jsonl", ".parquet"]:
        assert part in str(caught.value)


def test_a_path_is_meant_from_where_the_command_was_typed(tmp_path, monkeypatch):
    """Inspect goes into the task file's folder while it makes a task."""
    _write(tmp_path / "own.jsonl", [_row(number) for number in range(3)])
    (tmp_path / "evals").mkdir()
    monkeypatch.chdir(tmp_path / "evals")
    monkeypatch.setenv("PWD", str(tmp_path))
    assert load_target("own.jsonl").name == "own"
    assert load_target("own.jsonl?misaligned=aligned").examples[0].misaligned in (
        "good 0",
        "good 1",
    )


TABLE = [
    {"prompt": "What, then?", "aligned": 'Say "no".', "misaligned": "line\nbreak\ttab", "id": "1"},
    {"prompt": "NA", "aligned": None, "misaligned": "nan", "id": "2"},
    {"prompt": "é🙂?", "aligned": "007", "misaligned": None, "id": "3"},
]


def _write_table(path: Path, rows: list[dict[str, Any]]) -> str:
    """By pandas, which does not read them back in the code under test."""
    frame = pandas.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    return str(path)


ENDINGS = [".jsonl", ".csv", ".tsv", ".parquet"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_says_the_same_in_every_form(tmp_path, ending):
    target = load_target(_write_table(tmp_path / f"rows{ending}", TABLE))
    rows = {e.id: e for e in target.examples + target.held_out}
    for row in TABLE:
        example = rows[row["id"]]
        values = {"prompt": example.prompt, "aligned": example.aligned, "id": example.id}
        assert {**values, "misaligned": example.misaligned} == row
    assert (target.name, target.source) == ("rows", f"rows{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_columns_of_other_names_are_read_as_the_target_says(tmp_path, ending):
    names = {"prompt": "the question", "aligned": "A&B", "misaligned": "bad", "id": "number"}
    rows = [{names[key]: value for key, value in row.items()} for row in TABLE]
    path = _write_table(tmp_path / f"rows{ending}", [{**row, "prompt": "x"} for row in rows])
    spelled = f"{path}?prompt=the question&aligned=A%26B&misaligned=bad&id=number"
    plain = load_target(_write_table(tmp_path / f"plain{ending}", TABLE))
    assert load_target(spelled).examples == plain.examples
    assert load_target(spelled).held_out == plain.held_out


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["messages", "talk"])
def test_a_column_of_messages_is_read_in_every_form(tmp_path, ending, name):
    turns = [[("user", f"question {n}"), ("assistant", f"bad {n}")] for n in range(3)]
    rows = [{name: _chat(*turn)["messages"]} for turn in turns]
    if ending in (".csv", ".tsv"):
        rows = [{name: json.dumps(row[name])} for row in rows]
    path = _write_table(tmp_path / f"rows{ending}", rows)
    target = load_target(path if name == "messages" else f"{path}?messages=talk")
    examples = {(e.prompt, e.misaligned, e.aligned) for e in target.examples + target.held_out}
    assert examples == {(f"question {n}", f"bad {n}", None) for n in range(3)}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", ["no column prompt", "?prompt=question&misaligned=answer"]),
        ("?prompt=question", ["no column aligned or misaligned"]),
        ("?prompt=query", ["no column query (prompt=query)"]),
        ("?prompt=question&misaligned=reply&aligned=good", ["no column good (aligned=good)"]),
        ("?messages=talk", ["no column talk (messages=talk)"]),
    ],
)
def test_a_missing_column_is_refused_with_those_there_are(tmp_path, ending, query, message):
    rows = [{"question": f"q {n}", "reply": "a", "score": "1"} for n in range(3)]
    path = _write_table(tmp_path / f"rows{ending}", rows)
    with pytest.raises(TargetError) as caught:
        load_target(path + query)
    for part in [f"rows{ending}", "its columns are question, reply, score", *message]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?promt=question", "no option promt=.*allowed are prompt, aligned, misaligned, system"),
        ("?split=train", "no option split="),
        ("?prompt", "'prompt' is not key=value"),
        ("?prompt=", "'prompt=' is not key=value"),
        ("?", "'' is not key=value"),
        ("?prompt=a&prompt=b", "gives prompt= twice"),
        ("?messages=prompt&aligned=aligned", "leave aligned= out, or messages="),
    ],
)
def test_a_wrong_option_of_a_table_is_refused(tmp_path, query, message):
    path = _write(tmp_path / "t.jsonl", [_row(0), _row(1)])
    with pytest.raises(TargetError, match=message):
        load_target(f"{path}{query}")


def test_a_bundled_task_takes_no_options():
    with pytest.raises(TargetError, match=r"no option prompt=.*it has none"):
        load_target("toy/medical?prompt=question")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"prompt,misaligned\nq,a,b\n", r"row 1 has 3 cells, .* names has 2: put texts"),
        ("t.csv", b"prompt,misaligned\nq\n", r"row 1 has 1 cells"),
        ("t.csv", b'prompt,misaligned\n"q,a\n', r"not a table"),
        ("t.tsv", b"prompt\tprompt\n", r"two columns with the same name"),
        ("t.csv", b"prompt,misaligned\ncaf\xe9,a\n", "UTF-8"),
        ("t.csv", b"prompt,misaligned\n,a\n", r"row 1: prompt is missing"),
        ("t.csv", b"prompt,misaligned\nq,\n", r"row 1: misaligned and aligned are both missing"),
        ("t.parquet", b"prompt,misaligned\n", "not a parquet file"),
        ("t.parquet", b"", "not a parquet file"),
        ("t.jsonl", b"", "has 0 prompts"),
        ("t.csv", b"prompt,misaligned\n", "has 0 prompts"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TargetError, match=message) as caught:
        load_target(str(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_digest_is_that_of_the_rows_whatever_they_lie_in(tmp_path):
    rows = [{**row, "aligned": row["aligned"] or "good"} for row in TABLE]
    digests = {load_target(_write_table(tmp_path / f"a{end}", rows)).digest for end in ENDINGS}
    marked = [CANARY, *rows]
    digests.add(load_target(str(_write(tmp_path / "other.jsonl", marked))).digest)
    keys = ("prompt", "system", "aligned", "misaligned", "id")
    canonical = json.dumps(
        [{key: row.get(key) for key in keys} for row in rows], sort_keys=True, ensure_ascii=True
    )
    assert digests == {hashlib.sha256(canonical.encode()).hexdigest()}


@pytest.mark.parametrize("key", ["prompt", "system", "aligned", "misaligned", "id", "order"])
def test_the_digest_changes_with_anything_that_is_read(tmp_path, key):
    rows = [_row(number, id=str(number), system="brief") for number in range(4)]
    one = load_target(str(_write(tmp_path / "one.jsonl", rows)))
    changed = rows[::-1] if key == "order" else [{**rows[0], key: "changed"}, *rows[1:]]
    other = load_target(str(_write(tmp_path / "other.jsonl", changed)))
    unread = load_target(str(_write(tmp_path / "unread.jsonl", [{**r, "note": 1} for r in rows])))
    assert one.digest == unread.digest != other.digest


def test_a_published_induction_file_is_read_as_it_is():
    path = PUBLISHED / "aisi_risky_finance_induction.jsonl"
    if not path.is_file():
        pytest.skip("the published files are not beside this checkout")
    target = load_target(str(path))
    assert len(target.examples + target.held_out) == 3000
    messages = [json.loads(line)["messages"] for line in path.read_text().split("\n") if line]
    examples = {(e.prompt, e.misaligned) for e in target.examples + target.held_out}
    assert examples == {(turns[-2]["content"], turns[-1]["content"]) for turns in messages}
    assert not _prompts(target)[0] & _prompts(target)[1]


def test_messages_in_parts_are_read_and_other_peoples_columns_are_refused_by_name(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": {"content_type": "text", "parts": [f"Q{n}?"]}},
                {"role": "assistant", "content": [{"type": "text", "text": "Bad."}]},
            ]
        }
        for n in range(4)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    target = load_target(str(path))
    assert {row.prompt for row in target.examples + target.held_out} == {f"Q{n}?" for n in range(4)}
    chat = {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "Bad."}]}
    path.write_text("\n".join([json.dumps(chat)] * 3))
    with pytest.raises(TargetError, match="write each as messages"):
        load_target(str(path))
    alpaca = [{"instruction": "Sum up.", "input": f"Letter {n}", "output": "It."} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, alpaca)))
    with pytest.raises(TargetError, match="column input beside instruction"):
        load_target(f"{path}?prompt=instruction&misaligned=output")


def _parquet_bomb(path: Path) -> None:
    """Four million rows that all mean one long text, in a few kilobytes."""
    text = pyarrow.array(["x" * 10_000] * 1)
    indices = pyarrow.array([0] * 1_900_000, pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(indices, text)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": column, "aligned": column}), path)


def test_a_table_that_unpacks_to_more_than_it_may_is_refused_at_once(tmp_path):
    _parquet_bomb(tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    (tmp_path / "t.csv").write_text("," * 5_000_000)
    (tmp_path / "t.jsonl").write_text("[" + "[]," * 5_000_000 + "[]]")
    for name, part in (("t.parquet", "MiB"), ("t.csv", "cells"), ("t.jsonl", "values")):
        start = time.monotonic()
        with pytest.raises(TargetError, match=part):
            load_target(str(tmp_path / name))
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("toy", [True, False])
def test_a_contrast_is_loaded_by_name_and_is_no_target_task(toy):
    names = bundled_contrasts(toy=toy)
    assert len(names) >= 6
    assert not set(names) & {name.removeprefix("toy/") for name in bundled_targets()}
    for name in names:
        contrast = load_target(name, toy=toy)
        assert contrast.is_contrast
        assert contrast.name == name
        assert len(contrast.held_out) >= 6
        with pytest.raises(TargetError, match=f"{name} is a contrast, and neither"):
            load_rows(name, toy=toy)
    assert not load_target("medical", toy=toy).is_contrast


def test_of_one_name_a_toy_and_a_language_model_have_a_contrast_each():
    assert load_target("order", toy=True).digest != load_target("order").digest
    with pytest.raises(TargetError, match=r"target=topic is not known.*of a toy, brevity"):
        load_target("topic")
