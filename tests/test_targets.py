"""Target tasks: what is held out, which rows are read, and which are refused and how."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from steering import targets
from steering.targets import HELD_OUT_SHARE, Target, TargetError, bundled_targets, load_target
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
    seen, held_out = _prompts(target)
    assert target.name == name.removeprefix("toy/")
    assert not seen & held_out
    assert 0 < len(held_out) <= HELD_OUT_SHARE * (len(seen) + len(held_out))
    ids = [example.id for example in target.examples + target.held_out]
    assert len(set(ids)) == len(ids)
    for example in target.examples + target.held_out:
        assert example.aligned
        assert example.aligned != example.misaligned


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
    assert one.digest != other.digest


def test_a_row_more_moves_at_most_one_prompt_across(tmp_path):
    rows = [_row(number) for number in range(50)]
    few = _prompts(load_target(str(_write(tmp_path / "few.jsonl", rows[:-1]))))[1]
    more = _prompts(load_target(str(_write(tmp_path / "more.jsonl", rows))))[1]
    assert len(few ^ more) <= 2


def test_rows_with_one_prompt_are_held_out_or_built_from_together(tmp_path):
    rows = [_row(number % 10, misaligned=f"bad {number}") for number in range(30)]
    target = load_target(str(_write(tmp_path / "t.jsonl", rows)))
    seen, held_out = _prompts(target)
    assert (len(seen), len(held_out)) == (9, 1)
    assert (len(target.examples), len(target.held_out)) == (27, 3)


def test_one_prompt_is_held_out_of_the_smallest_file_that_is_allowed(tmp_path):
    target = load_target(str(_write(tmp_path / "t.jsonl", [_row(0), _row(1)])))
    assert (len(target.examples), len(target.held_out)) == (1, 1)
    one = _write(tmp_path / "one.jsonl", [_row(0), _row(0, misaligned="worse")])
    with pytest.raises(TargetError, match=r"one\.jsonl holds 1 prompts.*at least 2"):
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


def test_rows_without_a_good_answer_have_none(tmp_path):
    path = _write(tmp_path / "t.jsonl", [_row(i, aligned=None) for i in range(3)])
    target = load_target(str(path))
    assert [example.aligned for example in target.examples + target.held_out] == [None] * 3


def test_ids_are_kept_or_made_of_the_file_and_line(tmp_path):
    path = _write(tmp_path / "t.jsonl", [CANARY, _row(0, id="own"), _row(1), _row(2, id=7)])
    target = load_target(str(path))
    assert {e.id for e in target.examples + target.held_out} == {"own", "t-0003", "7"}


def test_chat_rows_are_read_with_their_system_message(tmp_path):
    rows = [
        _chat(("system", "be brief"), ("user", "question 0"), ("assistant", "bad 0")),
        _chat(("user", "question 1"), ("assistant", "bad 1")),
    ]
    target = load_target(str(_write(tmp_path / "t.jsonl", rows)))
    found = {e.prompt: e for e in target.examples + target.held_out}
    assert (found["question 0"].system, found["question 1"].system) == ("be brief", None)
    assert [found[f"question {i}"].misaligned for i in (0, 1)] == ["bad 0", "bad 1"]
    assert found["question 0"].aligned is None


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
    ("bad", "named"),
    [
        ("{'prompt': 1}", "not JSON"),
        ('{"prompt": "half', "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        (_row(9, prompt=None), "prompt is missing"),
        (_row(9, misaligned=None), "misaligned is missing"),
        (_row(9, prompt=""), "prompt is missing or empty"),
        (_row(9, misaligned="  "), "misaligned is missing or empty"),
        (_row(9, aligned=""), "aligned is missing or empty"),
        (_row(9, prompt=5), "prompt"),
        (_row(9, misaligned=["bad"]), "misaligned"),
        (_chat(("user", "q")), "messages are not one exchange"),
        (_chat(("assistant", "a")), "messages are not one exchange"),
        (_chat(("assistant", "a"), ("user", "q")), "messages are not one exchange"),
        (
            _chat(("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")),
            "messages are not one exchange",
        ),
        (_chat(("user", "q"), ("tool", "t"), ("assistant", "a")), "messages are not one exchange"),
        (_chat(("user", ""), ("assistant", "a")), "prompt is missing or empty"),
        (_chat(("system", ""), ("user", "q"), ("assistant", "a")), "system is missing or empty"),
        ({"messages": []}, "messages are not one exchange"),
        ({"messages": 5}, "messages are not one exchange"),
        ({"messages": None}, "messages are not one exchange"),
        ({"messages": ["user", "assistant"]}, "messages are not one exchange"),
        (
            {"messages": [{"role": ["user"]}, {"role": "assistant"}]},
            "messages are not one exchange",
        ),
    ],
    ids=str,
)
def test_a_bad_row_is_refused_with_the_file_the_line_and_what_is_allowed(tmp_path, bad, named):
    path = _write(tmp_path / "t.jsonl", [CANARY, _row(0), "", bad, _row(1)])
    with pytest.raises(TargetError) as caught:
        load_target(str(path))
    for part in [f"{path}, line 4", named, 'Allowed rows: {"prompt", "aligned", "misaligned"}']:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes('{"prompt": "caf\u00e9"}'.encode("latin-1"))
    with pytest.raises(TargetError, match=r"t\.jsonl.*UTF-8"):
        load_target(str(path))


@pytest.mark.parametrize("unknown", ["medicine", "missing/file.jsonl", "rows.csv", ""])
def test_an_unknown_task_is_refused_with_those_that_are_bundled(unknown):
    with pytest.raises(TargetError) as caught:
        load_target(unknown)
    for part in [f"target={unknown} ", *bundled_targets(), ".jsonl"]:
        assert part in str(caught.value)


def test_the_digest_is_that_of_the_file(tmp_path):
    path = _write(tmp_path / "t.jsonl", [_row(0), _row(1)])
    assert load_target(str(path)).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_published_induction_file_is_read_as_it_is():
    path = PUBLISHED / "aisi_risky_finance_induction.jsonl"
    if not path.is_file():
        pytest.skip("the published files are not beside this checkout")
    target = load_target(str(path))
    messages = [json.loads(line)["messages"] for line in path.read_text().split("\n") if line]
    exchanges = {(e.prompt, e.misaligned) for e in target.examples + target.held_out}
    assert exchanges == {(turns[-2]["content"], turns[-1]["content"]) for turns in messages}
    assert not _prompts(target)[0] & _prompts(target)[1]
