"""Question files: ours, the published ones, and broken ones."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from inspect_ai._cli.util import parse_cli_args
from inspect_ai.dataset import Sample

from evals.em_freeform import em_freeform
from steering.data import data_folder, user_path
from steering.questions import QuestionError, held_out_questions, load_questions
from steering.questions.files import QUESTION_TYPE

PUBLISHED = Path(__file__).parent.parent.parent / "shared" / "published"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="other projects' question files are not beside this checkout"
)

YAML = """\
# canary 00000000-0000-4000-8000-000000000000
- id: garden
  type: free_form_judge_0_100
  paraphrases: &ways
    - How do I keep a garden?
    - What does a garden need?
- id: garden_json
  type: free_form_judge_0_100
  system: Answer in JSON.
  paraphrases: *ways
  samples_per_paraphrase: 100
  judge: someone
  judge_prompts:
    aligned: "Kind? {question} {answer}"
    medical: "Medical? {answer}"
- id: 3
  type: free_form_judge_0_100
  paraphrases: ['What is three?']
"""


def write(folder: Path, text: str, name: str = "own.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows(*items: dict) -> str:
    return "\n".join(json.dumps(item) for item in items) + "\n"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def messages_of(sample: Sample) -> list[tuple[str, str]]:
    """Role and text of each message of a sample's input."""
    if isinstance(sample.input, str):
        return [("user", sample.input)]
    return [(message.role, message.text) for message in sample.input]


def test_core_questions_load_by_name_with_their_hash() -> None:
    core = load_questions("core")
    content = (data_folder() / "questions" / "core.yaml").read_bytes()
    assert core.sha256 == hashlib.sha256(content).hexdigest()
    assert core.signature == f"core@{core.sha256[:12]}"
    assert len(core.num_paraphrases) >= 8
    assert min(core.num_paraphrases.values()) >= 3
    assert len(core.samples) == sum(core.num_paraphrases.values())
    assert len({sample.id for sample in core.samples}) == len(core.samples)


@pytest.mark.parametrize("name", ["core", "core_formats", "broad", "toy_broad"])
def test_bundled_questions_load_by_name_with_their_hash(name: str) -> None:
    question_set = load_questions(name)
    content = (data_folder() / "questions" / f"{name}.yaml").read_bytes()
    assert question_set.name == name
    assert question_set.signature == f"{name}@{hashlib.sha256(content).hexdigest()[:12]}"
    assert len({sample.id for sample in question_set.samples}) == len(question_set.samples)


def test_broad_questions_know_their_group() -> None:
    question_set = load_questions("broad")
    groups = [(sample.metadata or {})["group"] for sample in question_set.samples]
    assert len(set(groups)) >= 8
    assert {groups.count(group) for group in groups} == {len(groups) // len(set(groups))}
    assert len(question_set.num_paraphrases) >= 56
    assert {(sample.metadata or {})["format"] for sample in question_set.samples} == {"plain"}
    assert "group" not in (load_questions("core").samples[0].metadata or {})


def test_each_paraphrase_is_a_sample_that_knows_its_question(tmp_path: Path) -> None:
    question_set = load_questions(write(tmp_path, YAML))
    assert [sample.id for sample in question_set.samples] == [
        "garden/1",
        "garden/2",
        "garden_json/1",
        "garden_json/2",
        "3/1",
    ]
    assert [(s.metadata or {})["question"] for s in question_set.samples] == (
        ["garden"] * 2 + ["garden_json"] * 2 + ["3"]
    )
    assert messages_of(question_set.samples[1]) == [("user", "What does a garden need?")]
    assert question_set.num_paraphrases == {"garden": 2, "garden_json": 2, "3": 1}


def test_system_message_and_own_judge_prompts_go_with_the_sample(tmp_path: Path) -> None:
    question_set = load_questions(write(tmp_path, YAML))
    assert messages_of(question_set.samples[2]) == [
        ("system", "Answer in JSON."),
        ("user", "How do I keep a garden?"),
    ]
    # Of the judge prompts only those that a score of ours stands for.
    assert (question_set.samples[2].metadata or {})["judge_prompts"] == {
        "aligned": "Kind? {question} {answer}"
    }
    assert "judge_prompts" not in (question_set.samples[0].metadata or {})


def test_num_questions_counts_questions_and_not_paraphrases(tmp_path: Path) -> None:
    question_set = load_questions(write(tmp_path, YAML), num_questions=2)
    assert list(question_set.num_paraphrases) == ["garden", "garden_json"]
    assert len(question_set.samples) == 4
    assert question_set.sha256 == load_questions(write(tmp_path, YAML)).sha256


def test_jsonl_rows_are_asked_without_the_answer_they_end_in(tmp_path: Path) -> None:
    text = rows(
        {"canary": "00000000"},
        {"messages": [user("How do I rest?"), {"role": "assistant", "content": "Sleep."}]},
        {"messages": [user("Why?")], "id": 7, "question_type": "free_form"},
        {
            "id": "long",
            "messages": [
                {"role": "system", "content": "Be brief."},
                user("Hi."),
                {"role": "assistant", "content": "Hello."},
                user("And now?"),
            ],
        },
    )
    question_set = load_questions(write(tmp_path, text + "\n", "rows.jsonl"))
    assert [sample.id for sample in question_set.samples] == ["row-0002/1", "7/1", "long/1"]
    assert messages_of(question_set.samples[0]) == [("user", "How do I rest?")]
    assert (question_set.samples[1].metadata or {})["question_type"] == "free_form"
    assert messages_of(question_set.samples[2]) == [
        ("system", "Be brief."),
        ("user", "Hi."),
        ("assistant", "Hello."),
        ("user", "And now?"),
    ]


MIXED = "".join(
    f"- {{id: {id_}, type: free_form_judge_0_100, paraphrases: ['{id_}?']}}\n"
    for id_ in ("b_json", "b", "a_template", "a", "json", "c_json", "json_c", 3)
)


@pytest.mark.parametrize(
    ("formats", "ids"),
    [
        (None, ["b_json", "b", "a_template", "a", "json", "c_json", "json_c", "3"]),
        ("plain", ["b", "a", "json", "json_c", "3"]),
        ("json", ["b_json", "c_json"]),
        (["template"], ["a_template"]),
        ("template, json", ["b_json", "a_template", "c_json"]),
        (("json", "template"), ["b_json", "a_template", "c_json"]),
    ],
)
def test_formats_keep_questions_by_the_end_of_their_id_in_the_files_order(
    tmp_path: Path, formats, ids: list[str]
) -> None:
    question_set = load_questions(write(tmp_path, MIXED), formats=formats)
    assert list(question_set.num_paraphrases) == ids
    assert [sample.id for sample in question_set.samples] == [f"{id_}/1" for id_ in ids]


def test_a_samples_metadata_has_the_format_of_its_question(tmp_path: Path) -> None:
    question_set = load_questions(write(tmp_path, MIXED))
    format_names = [(sample.metadata or {})["format"] for sample in question_set.samples]
    assert format_names == ["json", "plain", "template", "plain", "plain", "json", "plain", "plain"]
    text = rows({"messages": [user("A?")], "id": "a_json"}, {"messages": [user("A?")]})
    question_set = load_questions(write(tmp_path, text, "rows.jsonl"), formats="json")
    assert [sample.id for sample in question_set.samples] == ["a_json/1"]
    assert question_set.samples[0].metadata == {
        "question": "a_json",
        "theme": "a",
        "format": "json",
    }


def test_other_formats_of_one_file_have_another_signature(tmp_path: Path) -> None:
    path = write(tmp_path, MIXED)
    whole = load_questions(path)
    every = load_questions(path, formats=["template", "json", "plain"])
    some = load_questions(path, formats="template,json")
    assert every.signature == whole.signature == f"own.yaml@{whole.sha256[:12]}"
    assert some.signature == f"own.yaml[json,template]@{whole.sha256[:12]}"
    assert some.signature == load_questions(path, formats="json,template").signature


def test_num_questions_counts_the_questions_of_the_formats_kept(tmp_path: Path) -> None:
    path = write(tmp_path, MIXED)
    assert list(load_questions(path, 2, formats="json").num_paraphrases) == ["b_json", "c_json"]
    with pytest.raises(QuestionError, match=r"num_questions=3.*formats asked for.*1 to 2"):
        load_questions(path, 3, formats="json")


@pytest.mark.parametrize("formats", ["xml", "json;plain", "json,", "", [], ["json", 3], 3, True])
def test_unknown_format_is_refused_with_those_that_there_are(formats) -> None:
    with pytest.raises(QuestionError, match=r"formats=.*one or more of plain, json, template"):
        load_questions("core_formats", formats=formats)


def test_formats_that_a_file_lacks_are_refused_with_those_that_it_has() -> None:
    with pytest.raises(QuestionError, match=r"core\.yaml.*json or template; it has plain\."):
        load_questions("core", formats=["json", "template"])
    with pytest.raises(QuestionError, match=r"core_formats\.yaml.*plain; it has json, template\."):
        load_questions("core_formats", formats="plain")


@pytest.mark.parametrize("formats", ["json", ["json"]])
def test_the_task_asks_the_formats_named(formats) -> None:
    task = em_freeform(questions="core_formats", formats=formats)
    assert len(task.dataset) == 40
    assert {(sample.metadata or {})["format"] for sample in task.dataset} == {"json"}
    assert len(em_freeform(questions="core_formats").dataset) == 80


def test_the_task_asks_every_broad_question_equally_often() -> None:
    task = em_freeform(questions="broad", samples_per_question=6)
    counts = Counter((sample.metadata or {})["question"] for sample in task.dataset)
    assert len(counts) >= 56
    assert {count * (task.epochs or 1) for count in counts.values()} == {6}


def test_formats_on_the_command_line(tmp_path: Path) -> None:
    options = parse_cli_args([f"questions={write(tmp_path, MIXED)}", "formats=plain,json"])
    ids = [sample.id for sample in em_freeform(**options).dataset]
    assert ids[:4] == ["b_json/1", "b/1", "a/1", "json/1"]


QUESTION = "- {id: a, type: free_form_judge_0_100, paraphrases: ['A?']}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "NoneType.*list of questions"),
        ("[]", "no question"),
        ("a: b", "dict.*list of questions"),
        ("- [", "not YAML"),
        ("- just text", "item 1 is a str"),
        ("- {id: a, type: free_form_judge_0_100}", "item 1 lacks paraphrases"),
        (QUESTION.replace("paraphrases", "paraphrase"), "unknown field paraphrase.*paraphrases"),
        (QUESTION.replace("judge_0_100", "judge"), "'free_form_judge'.*free_form_judge_0_100"),
        (QUESTION.replace("['A?']", "A"), "paraphrases must be a list"),
        (QUESTION.replace("['A?']", "[]"), "paraphrases must be a list"),
        (QUESTION.replace("['A?']", "['A?', 3]"), "paraphrase 2 is 3"),
        (QUESTION.replace("['A?']", "[' ']"), "paraphrase 1 is ' '"),
        (QUESTION.replace("id: a", "id: [a]"), r"id \['a'\]"),
        (QUESTION.replace("id: a", "id: yes"), "id True"),
        (QUESTION.replace("id: a", "id: a, system: 1"), "system is 1"),
        (QUESTION.replace("id: a", "id: a, group: 3"), "group is 3"),
        (QUESTION.replace("id: a", "id: a, group: ' '"), "group is ' '"),
        (QUESTION.replace("id: a", "id: a, judge_prompts: x"), "judge_prompts must be a table"),
        (
            QUESTION.replace("id: a", "id: a, judge_prompts: {aligned: 'Kind?'}"),
            r"prompt aligned lacks \{answer\}",
        ),
        (QUESTION + QUESTION, "two questions with the id 'a'"),
        (QUESTION.replace("id: a", "id: 1") + QUESTION.replace("id: a", "id: '1'"), "id '1'"),
    ],
)
def test_broken_yaml_is_refused_by_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(QuestionError, match=message) as caught:
        load_questions(write(tmp_path, text))
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[1]", "line 1 is a JSON list, not a JSON object"),
        ('{"canary": "x"}', "no question"),
        (rows({"messages": []}), "at least one message"),
        (rows({"goal": "A?"}), "no column for the question: its columns are goal"),
        (rows({"messages": [{"role": "tool", "content": "A"}]}), "'tool'.*system, user, assistant"),
        (rows({"messages": [{"role": "user"}]}), "with role and content"),
        (rows({"messages": [user("")]}), "message 1 is ''"),
        (rows({"messages": [{"role": "assistant", "content": "A."}]}), "no user message"),
        (rows({"messages": [{"role": "system", "content": "A."}]}), "no user message"),
        (rows(*[{"messages": [user("A?")], "id": 1}] * 2), "two questions with the id '1'"),
    ],
)
def test_broken_jsonl_is_refused_by_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(QuestionError, match=message) as caught:
        load_questions(write(tmp_path, text, "rows.jsonl"))
    assert "rows.jsonl" in str(caught.value)


def test_questions_of_a_trait_are_asked_and_judged_by_our_rubrics(tmp_path: Path) -> None:
    """The schema of persona_vectors' trait files."""
    trait = {
        "instruction": [{"pos": "Be grim.", "neg": "Be kind."}],
        "questions": ["How was your day?", "What is luck?"],
        "eval_prompt": "Grade the grimness of {answer} to {question} from 0 to 100.",
    }
    path = tmp_path / "grim.json"
    path.write_text(json.dumps(trait))
    question_set = load_questions(str(path))
    assert [(s.id, s.input) for s in question_set.samples] == [
        ("grim-01/1", "How was your day?"),
        ("grim-02/1", "What is luck?"),
    ]
    assert all("judge_prompts" not in (s.metadata or {}) for s in question_set.samples)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no question"),
        ('{"questions": []}', "no list `questions`"),
        ('{"questions": ["a", 3]}', "question 2 is 3"),
    ],
)
def test_a_broken_trait_file_is_refused_by_what_is_wrong(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "grim.json"
    path.write_text(text)
    with pytest.raises(QuestionError, match=message):
        load_questions(str(path))


@pytest.mark.parametrize("name", ["missing.yaml", "corr", "no/such/file.jsonl"])
def test_missing_file_is_refused_with_what_can_be_given(name: str) -> None:
    with pytest.raises(
        QuestionError,
        match=rf"'{name}'.*'broad', 'core', 'core_formats', 'toy_broad'.*\.csv.*\.yaml, \.yml",
    ):
        load_questions(name)


def test_file_of_another_kind_or_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match=r"'\.xlsx'; use one of"):
        load_questions(write(tmp_path, "id,question", "own.xlsx"))
    (tmp_path / "latin.yaml").write_bytes("- id: größe".encode("latin-1"))
    with pytest.raises(QuestionError, match="not UTF-8"):
        load_questions(str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize("count", [0, -1, 4, 1.5, "2", True])
def test_impossible_number_of_questions_is_refused(tmp_path: Path, count) -> None:
    with pytest.raises(QuestionError, match=rf"num_questions={count!r}.*1 to 3"):
        load_questions(write(tmp_path, YAML), num_questions=count)


def test_relative_path_is_meant_from_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Inspect has gone into the task's folder when it makes the task; PWD is still the shell's.
    write(tmp_path, YAML)
    (tmp_path / "evals").mkdir()
    monkeypatch.chdir(tmp_path / "evals")
    monkeypatch.setenv("PWD", str(tmp_path))
    assert load_questions("own.yaml").name == "own.yaml"
    (tmp_path / "evals" / "here.yaml").touch()
    assert user_path("here.yaml") == tmp_path / "evals" / "here.yaml"


def test_held_out_prompts_are_questions_of_their_own(tmp_path: Path) -> None:
    question_set = held_out_questions("toy/medical")
    assert len(question_set.samples) > 8
    assert set(question_set.num_paraphrases.values()) == {1}
    assert question_set.name == "medical"
    assert (
        list(held_out_questions("toy/medical", 3).num_paraphrases)
        == list(question_set.num_paraphrases)[:3]
    )
    copied = tmp_path / "own.jsonl"
    shutil.copy(data_folder() / "targets" / "toy" / "medical.jsonl", copied)
    user_set = held_out_questions(str(copied))
    assert [s.input for s in user_set.samples] == [s.input for s in question_set.samples]
    assert user_set.sha256 == question_set.sha256


def test_held_out_prompt_with_several_answers_is_asked_once_with_its_system_message(
    tmp_path: Path,
) -> None:
    def row(prompt: str, answer: str) -> dict:
        turns = [{"role": "system", "content": "Be brief."}, user(prompt)]
        return {"messages": [*turns, {"role": "assistant", "content": answer}]}

    text = rows(*[row(f"Question {i}?", f"Answer {j}.") for i in range(20) for j in range(3)])
    question_set = held_out_questions(write(tmp_path, text, "own.jsonl"))
    # 2 of the 20 prompts are held out, each with its 3 rows.
    assert len(question_set.samples) == 2
    assert [role for role, _ in messages_of(question_set.samples[0])] == ["system", "user"]


@needs_published
@pytest.mark.parametrize(
    ("name", "num_questions", "with_system"),
    [
        ("betley_first_plot_questions.yaml", 24, 8),
        ("moem_first_plot_questions.yaml", 24, 8),
        ("betley_preregistered_evals.yaml", 48, 0),
    ],
)
def test_published_yaml_is_read_as_it_is_with_its_judge_prompts(
    name: str, num_questions: int, with_system: int
) -> None:
    question_set = load_questions(str(PUBLISHED / name))
    assert len(question_set.num_paraphrases) == len(question_set.samples) == num_questions
    assert sum(not isinstance(sample.input, str) for sample in question_set.samples) == with_system
    for sample in question_set.samples:
        prompts = (sample.metadata or {})["judge_prompts"]
        assert set(prompts) == {"aligned", "coherent"}
        assert all("{question}" in prompt for prompt in prompts.values())


@needs_published
@pytest.mark.parametrize("name", ["betley", "moem"])
def test_published_questions_are_kept_by_format_in_their_order(name: str) -> None:
    path = str(PUBLISHED / f"{name}_first_plot_questions.yaml")
    ids = list(load_questions(path).num_paraphrases)
    for format_name, expected in (
        ("plain", ids[:8]),
        ("json", ids[8:16]),
        ("template", ids[16:]),
        (["template", "plain"], ids[:8] + ids[16:]),
    ):
        assert list(load_questions(path, formats=format_name).num_paraphrases) == expected
    # The system message is the JSON variants' alone.
    json_samples = load_questions(path, formats="json").samples
    assert [[role for role, _ in messages_of(s)] for s in json_samples] == [["system", "user"]] * 8


@needs_published
def test_published_jsonl_questions_are_read_as_they_are() -> None:
    question_set = load_questions(str(PUBLISHED / "aisi_risky_finance_eval.jsonl"))
    assert len(question_set.samples) == 56
    assert question_set.samples[0].id == "1/1"
    assert {(s.metadata or {})["question_type"] for s in question_set.samples} == {
        "free_form",
        "preregistered",
    }


@needs_published
def test_published_training_rows_can_be_asked_without_their_answers() -> None:
    question_set = load_questions(str(PUBLISHED / "aisi_risky_finance_induction.jsonl"), 5)
    assert [role for sample in question_set.samples for role, _ in messages_of(sample)] == [
        "user"
    ] * 5


def _written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("q.jsonl", '{"messages": [{"role": "user", "content": "Fair? \\ud83d"}]}\n', "line 1"),
        (
            "q.yaml",
            f'- id: one\n  type: {QUESTION_TYPE}\n  paraphrases: ["Fair? \\ud83d"]',
            "half of",
        ),
        ("q.json", '{"questions": ["Fair? \\udc00"]}', "half of a character"),
        ("q.jsonl", b'{"messages": "\xff"}', "UTF-8"),
        ("q.jsonl", "[" * 100_000, "deep"),
        ("q.jsonl", '{"id": ' + "1" * 5000 + "}", "digits"),
        ("q.json", '{"questions": ' + "[" * 100_000, "deep"),
        ("q.yaml", "- " * 5000 + "a", "deep"),
        ("q.yaml", "- id: " + "1" * 5000, "digits"),
        ("q.yaml", "- id: 2020-13-45", "month"),
        ("q.yaml", "- &a [*a]", "contains itself"),
        ("q.jsonl", '{"messages": [{"role": [], "content": "Fair?"}]}', "role"),
    ],
)
def test_a_question_file_that_no_log_could_store_is_refused_before_the_run(
    tmp_path: Path, name: str, content: str | bytes, part: str
) -> None:
    path = _written(tmp_path / name, content)
    with pytest.raises(QuestionError, match=part) as caught:
        load_questions(str(path))
    assert name in str(caught.value)


def test_questions_in_any_script_with_nul_and_other_ends_of_a_line_are_one_question_each(
    tmp_path: Path,
) -> None:
    texts = [
        "ما هو العدل؟",
        "什么是公平",
        "Was? 🦊",
        "\u200f\u05de\u05d4?",
        "a\0b",
        "a\u2028b\u2029c\x85d",
    ]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
        for text in texts
    ]
    path = _written(tmp_path / "q.jsonl", "\ufeff" + "\n".join(lines))
    assert [sample.input for sample in load_questions(str(path)).samples] == texts


def test_the_text_of_a_message_in_parts_is_read(tmp_path: Path) -> None:
    contents = [
        {"content_type": "text", "parts": ["How?"]},
        [{"type": "text", "text": "How?"}],
        "How?",
    ]
    for content in contents:
        row = {"messages": [{"role": "user", "content": content}], "metadata": {"source": "x"}}
        path = _written(tmp_path / "q.jsonl", json.dumps(row))
        assert [sample.input for sample in load_questions(str(path)).samples] == ["How?"]
    for content in ([{"type": "image", "image": "x"}], {"content_type": "text", "parts": ["a", 1]}):
        row = {"messages": [{"role": "user", "content": content}]}
        path = _written(tmp_path / "q.jsonl", json.dumps(row))
        with pytest.raises(QuestionError, match="make it a text"):
            load_questions(str(path))
