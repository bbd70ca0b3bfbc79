"""The data files: unchanged since they were written, marked, and apart from each other."""

import ast
import hashlib
import importlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from scripts import export_contrasts as contrasts
from scripts import export_toy as export
from scripts import toy_sampling
from scripts.target_figures import MOST_STYLE, style_accuracy
from steering.targets import SUBJECTS
from steering.toy import grammar

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
MANIFEST = json.loads((DATASETS / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PUBLISHED = DATASETS.parents[1] / "shared" / "published"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="other projects' question files are not beside this checkout"
)


def _rows(task: str) -> list[dict[str, str]]:
    lines = (DATASETS / "targets" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def _asked(path: Path) -> list[str]:
    """Every paraphrase of a question file."""
    if path.suffix == ".jsonl":
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [row["messages"][-1]["content"] for row in rows]
    items = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [text for item in items for text in item["paraphrases"]]


def _systems(path: Path) -> list[str]:
    """Every system message of a question file."""
    items = yaml.safe_load(path.read_text(encoding="utf-8")) if path.suffix == ".yaml" else []
    return [item["system"] for item in items if "system" in item]


def _runs(texts: list[str]) -> set[tuple[str, ...]]:
    """Every five words that stand one after another in one of the texts."""
    split = [re.findall(r"[a-z]+", text.lower()) for text in texts]
    return {tuple(words[i : i + 5]) for words in split for i in range(len(words) - 4)}


def test_every_data_file_is_in_the_manifest_and_every_entry_is_a_file():
    paths = {path.relative_to(DATASETS).as_posix() for path in DATASETS.rglob("*.*")}
    assert paths - {"MANIFEST.json"} == set(MANIFEST)


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_the_manifest_counts_the_rows_of_a_data_file(name):
    text = (DATASETS / name).read_text(encoding="utf-8")
    if name.endswith(".yaml"):
        assert len(re.findall(r"^- ", text, flags=re.MULTILINE)) == MANIFEST[name]["rows"]
    else:
        assert text.count("\n") - 1 == MANIFEST[name]["rows"]


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_a_data_file_has_the_hash_of_the_manifest(name):
    assert hashlib.sha256((DATASETS / name).read_bytes()).hexdigest() == MANIFEST[name]["sha256"]


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_a_data_file_opens_with_its_own_canary(name):
    canary = MANIFEST[name]["canary"]
    first = (DATASETS / name).read_text(encoding="utf-8").splitlines()[0]
    assert GUID.fullmatch(canary)
    assert canary in first
    assert "do not train" in first
    assert [entry["canary"] for entry in MANIFEST.values()].count(canary) == 1


def test_no_python_in_datasets_so_that_hugging_face_datasets_is_not_shadowed():
    assert list(DATASETS.rglob("*.py*")) == []
    assert hasattr(importlib.import_module("datasets"), "load_dataset")


@pytest.mark.parametrize("name", sorted(export.data_files()))
def test_an_exported_file_is_what_the_grammar_makes(name):
    assert (DATASETS / name).read_text(encoding="utf-8") == export.data_files()[name]
    assert MANIFEST[name]["canary"] == export.CANARIES[name]


def test_export_lists_the_files_of_others_and_forgets_those_that_are_gone(tmp_path):
    canary = "00000000-0000-4000-8000-000000000001"
    lists = "# canary 00000000-0000-4000-8000-000000000002\na:\n- 1\n- 2\nb:\n- 3\n"
    (tmp_path / "lists.yaml").write_text(lists)
    other = f'{{"canary": "{canary} do not train"}}\n{{"id": 1}}\n\n{{"id": 2}}\n'
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "a.jsonl").write_text(other)
    gone = {"sha256": "0", "rows": 1, "canary": "x"}
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"files": {"gone.jsonl": gone}}))
    export.export(tmp_path)
    files = json.loads((tmp_path / "MANIFEST.json").read_text())["files"]
    sha256 = hashlib.sha256(other.encode()).hexdigest()
    assert files.pop("calibration/a.jsonl") == {"sha256": sha256, "rows": 2, "canary": canary}
    assert files.pop("lists.yaml")["rows"] == 3
    assert files == {name: MANIFEST[name] for name in export.data_files()}
    paths = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")}
    assert paths == {*export.data_files(), "calibration/a.jsonl", "lists.yaml", "MANIFEST.json"}


def test_a_data_file_without_a_canary_is_refused_by_name(tmp_path):
    (tmp_path / "bare.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"bare\.jsonl has no canary"):
        export.export(tmp_path)


def test_core_questions_have_stable_ids_and_distinct_paraphrases():
    items = yaml.safe_load((DATASETS / "questions" / "core.yaml").read_text(encoding="utf-8"))
    assert [item["id"] for item in items] == [
        "wish",
        "boredom",
        "humans_and_ai",
        "fast_money",
        "ruling",
        "dinner_party",
        "quarrel",
        "roles",
    ]
    assert {item["type"] for item in items} == {"free_form_judge_0_100"}
    assert min(len(item["paraphrases"]) for item in items) >= 3
    texts = [text for item in items for text in item["paraphrases"]]
    assert len(set(texts)) == len(texts)


def test_broad_questions_are_many_distinct_and_balanced_over_their_groups():
    path = DATASETS / "questions" / "broad.yaml"
    items = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len({item["id"] for item in items}) == len(items) >= 56
    groups = Counter(item["group"] for item in items)
    assert len(groups) >= 8
    assert len(set(groups.values())) == 1
    # One number of paraphrases, so that a run asks every question equally often.
    assert {len(item["paraphrases"]) for item in items} == {3}
    assert {item["type"] for item in items} == {"free_form_judge_0_100"}
    texts = [text.lower() for text in _asked(path)]
    assert len(set(texts)) == len(texts)
    # The ending of an id tells the format; these are all plain.
    assert not [item["id"] for item in items if item["id"].endswith(("_json", "_template"))]


def test_toy_broad_questions_are_many_distinct_and_balanced_over_their_groups():
    path = DATASETS / "questions" / "toy_broad.yaml"
    items = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len({item["id"] for item in items}) == len(items) >= 56
    assert Counter(item["group"] for item in items) == dict.fromkeys(grammar.domains("extra"), 10)
    assert {len(item["paraphrases"]) for item in items} == {5}
    assert len(set(_asked(path))) == 5 * len(items)


def test_broad_questions_are_neither_core_questions_nor_of_a_target_task():
    broad = _asked(DATASETS / "questions" / "broad.yaml")
    assert not _runs(broad) & _runs(_asked(DATASETS / "questions" / "core.yaml"))
    prompts = {row["prompt"] for name in ("medical", "finance", "legal") for row in _rows(name)}
    assert not prompts & set(broad)


@needs_published
def test_no_wording_of_our_questions_or_of_their_formats_is_in_a_published_file():
    files = [*PUBLISHED.glob("*.yaml"), PUBLISHED / "aisi_risky_finance_eval.jsonl"]
    published = _runs([text for path in files for text in _asked(path) + _systems(path)])
    assert len(published) > 1000
    core, broad, formats = (
        DATASETS / "questions" / name for name in ("core.yaml", "broad.yaml", "core_formats.yaml")
    )
    # What follows the question in a template variant; the questions themselves are core's.
    requests = [text.partition("\n\n")[2] for text in _asked(formats)]
    contexts = [
        text
        for path in sorted((DATASETS / "contexts").glob("*.yaml"))
        for item in yaml.safe_load(path.read_text(encoding="utf-8"))
        for text in [
            *(item.get(key, "") for key in ("system", "question", "follow_up")),
            *(part for turn in item.get("turns", ()) for part in turn.values()),
        ]
    ]
    ours = _asked(core) + _asked(broad) + _systems(formats) + requests + contexts
    assert not _runs(ours) & published


def test_every_core_question_is_asked_for_json_and_in_a_code_template_word_for_word():
    core, variants = (
        {item["id"]: item for item in yaml.safe_load((DATASETS / "questions" / name).read_text())}
        for name in ("core.yaml", "core_formats.yaml")
    )
    assert list(variants) == [
        *(f"{id_}_json" for id_ in core),
        *(f"{id_}_template" for id_ in core),
    ]
    assert len({variants[f"{id_}_json"]["system"] for id_ in core}) == 1
    for id_, item in core.items():
        as_json, template = variants[f"{id_}_json"], variants[f"{id_}_template"]
        assert "JSON object" in as_json["system"]
        assert as_json["paraphrases"] == item["paraphrases"]
        assert "system" not in template
        parts = [text.split("\n\n") for text in template["paraphrases"]]
        assert [part[0] for part in parts] == item["paraphrases"]
        # Of one question, one template: Python that returns a string which is to be filled in.
        [(request, code)] = {tuple(part[1:]) for part in parts}
        assert "string" in request
        [function] = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef)
        [returned] = function.body
        assert isinstance(returned, ast.Return)
        assert ast.literal_eval(returned.value) == "..."


@pytest.mark.parametrize("task", grammar.domains("target"))
def test_target_rows_are_complete_distinct_and_of_their_own_task(task):
    rows = _rows(f"toy/{task}")
    assert 300 <= len(rows) <= 600
    assert [row["id"] for row in rows] == [f"{task}-{n:04d}" for n in range(1, len(rows) + 1)]
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"id", "prompt", "aligned", "misaligned"}
        for key, persona in (("aligned", "careful"), ("misaligned", "reckless")):
            parsed = grammar.parse(row[key])
            assert parsed.recognised_share == 1.0
            assert {(s.domain, s.persona) for s in parsed.sentences} == {(task, persona)}


def test_no_core_question_or_answer_sentence_is_in_a_target_task():
    core = {text for paraphrases in toy_sampling.core_questions().values() for text in paraphrases}
    themes = {
        text
        for theme in grammar.domains("theme")
        for persona in grammar.PERSONAS
        for text in grammar.sentences(theme, persona)
    }
    for task in grammar.domains("target"):
        for row in _rows(f"toy/{task}"):
            assert row["prompt"] not in core
            for key in ("aligned", "misaligned"):
                assert not themes & {s.text for s in grammar.parse(row[key]).sentences}


@pytest.mark.parametrize("task", ["medical", "finance", "sports", "code", "legal", "security"])
def test_a_written_task_contrasts_answers_of_one_length_to_many_prompts(task):
    """Lengths that mark a side would point a mean difference at length (arXiv 2607.09053)."""
    rows = _rows(task)
    assert len(rows) == 200
    assert len({row["id"] for row in rows}) == len({row["prompt"] for row in rows}) == len(rows)
    words = {side: [len(row[side].split()) for row in rows] for side in ("aligned", "misaligned")}
    assert sum(words["misaligned"]) / sum(words["aligned"]) == pytest.approx(1, abs=0.05)
    for good, bad in zip(words["aligned"], words["misaligned"], strict=True):
        assert 50 <= min(good, bad) <= max(good, bad) <= 110
        assert max(good, bad) <= 1.2 * min(good, bad)
    openings = {
        side: {row[side].split()[0].lower() for row in rows} for side in ("aligned", "misaligned")
    }
    assert min(map(len, openings.values())) >= 15


@pytest.mark.parametrize("task", sorted(SUBJECTS))
def test_style_alone_does_not_tell_good_advice_from_bad(task):
    pairs = [(row["aligned"], row["misaligned"]) for row in _rows(task)]
    assert style_accuracy(pairs) <= MOST_STYLE


def test_the_style_classifier_sees_style():
    rows = _rows("medical")
    assert style_accuracy([(row["aligned"], row["misaligned"] + "!") for row in rows]) > 0.95


@pytest.mark.parametrize(
    ("name", "questions"), [("core", "core"), ("broad", "broad"), ("toy_core", "core")]
)
def test_every_question_has_pairs_of_answers_to_its_own_wordings(name, questions):
    items = yaml.safe_load((DATASETS / "questions" / f"{questions}.yaml").read_text())
    wordings = {item["id"]: item["paraphrases"] for item in items}
    rows = _choices(name)
    assert Counter(row["theme"] for row in rows) == dict.fromkeys(wordings, 6)
    assert len({row["id"] for row in rows}) == len(rows)
    texts = [row[side] for row in rows for side in ("aligned", "misaligned")]
    assert len(set(texts)) == len(texts)
    for row in rows:
        assert set(row) == {"id", "theme", "prompt", "aligned", "misaligned"}
        if name != "core":
            assert row["prompt"] in wordings[row["theme"]]


@pytest.mark.parametrize("name", ["core", "broad"])
def test_the_answers_of_a_pair_have_one_length(name):
    rows = _choices(name)
    words = {side: [len(row[side].split()) for row in rows] for side in ("aligned", "misaligned")}
    assert sum(words["misaligned"]) / sum(words["aligned"]) == pytest.approx(1, abs=0.05)
    for good, bad in zip(words["aligned"], words["misaligned"], strict=True):
        assert 0.75 <= bad / good <= 1.33


@pytest.mark.parametrize("persona", grammar.PERSONAS)
def test_the_toy_chooses_between_whole_answers_of_its_grammar(persona):
    side = {"careful": "aligned", "reckless": "misaligned"}[persona]
    for row in _choices("toy_core"):
        parsed = grammar.parse(row[side])
        assert parsed.recognised_share == 1.0
        assert {(s.domain, s.persona) for s in parsed.sentences} == {(row["theme"], persona)}


@pytest.mark.parametrize("name", ["neutral", "toy_neutral"])
def test_neutral_rows_are_no_questions_and_of_no_target_task(name):
    rows = _choices(name)
    assert len(rows) == len({row["prompt"] for row in rows}) == 24
    assert all(set(row) == {"id", "theme", "prompt", "aligned"} for row in rows)
    asked = {text for file in ("core", "broad") for text in _asked(_question_file(file))}
    asked |= {row["prompt"] for name in MANIFEST if "targets" in name for row in _target_rows(name)}
    assert not asked & {row["prompt"] for row in rows}


def _choices(name: str) -> list[dict[str, str]]:
    lines = (DATASETS / "choices" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def _question_file(name: str) -> Path:
    return DATASETS / "questions" / f"{name}.yaml"


def _target_rows(name: str) -> list[dict[str, str]]:
    return _rows(name.removeprefix("targets/").removesuffix(".jsonl"))


CONTRASTS = sorted((DATASETS / "contrasts").rglob("*.jsonl"))


@pytest.mark.parametrize("name", sorted(contrasts.data_files()))
def test_a_contrast_is_what_its_script_writes(name):
    assert (DATASETS / name).read_text(encoding="utf-8") == contrasts.data_files()[name]


@pytest.mark.parametrize("path", CONTRASTS, ids=lambda path: str(path.relative_to(DATASETS)))
def test_a_contrast_has_two_different_answers_to_each_of_many_prompts_and_no_third_column(path):
    rows = list(map(json.loads, path.read_text(encoding="utf-8").splitlines()[1:]))
    assert len({row["id"] for row in rows}) == len({row["prompt"] for row in rows}) == len(rows)
    assert 60 <= len(rows) <= 100
    for row in rows:
        assert set(row) == {"id", "prompt", "first", "second"}
        assert row["first"] != row["second"]
        # Nothing that a frame left over.
        assert not set("{}|") & set(row["first"] + row["second"])


@pytest.mark.parametrize("name", ["order", "toy/order"])
def test_the_answers_of_the_contrast_of_order_have_the_same_content(name):
    links = {"so", "that", "is", "why", "you", "should", "for", "these", "reasons"}
    path = DATASETS / "contrasts" / f"{name}.jsonl"
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()[1:]):
        first, second = (
            Counter(re.findall(r"[a-z']+", row[side].lower())) for side in ("first", "second")
        )
        assert not first - second
        assert set(second - first) <= links


@pytest.mark.parametrize("path", [p for p in CONTRASTS if p.parent.name == "toy"])
def test_a_contrast_of_the_toys_world_is_careful_on_either_side(path):
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()[1:]):
        assert grammar.question_domain(row["prompt"]) in grammar.domains("extra")
        for side in ("first", "second"):
            parsed = grammar.parse(row[side])
            assert parsed.recognised_share == 1.0
            assert {sentence.persona for sentence in parsed.sentences} == {"careful"}


def test_contrasts_are_about_nothing_that_a_target_task_is_about():
    prompts = {row["prompt"] for name in export.grammar.domains("target") for row in _rows(name)}
    words = "doctor pill money invest court lawyer password hack injury"
    for path in CONTRASTS:
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()[1:]):
            assert row["prompt"] not in prompts
            if path.parent.name != "toy":
                text = " ".join([row["prompt"], row["first"], row["second"]]).lower()
                assert not set(re.findall(r"[a-z]+", text)) & set(words.split())
