"""Protocols: the published ones ask published files by their own prompts, thresholds and counts."""

import re
from pathlib import Path

import pytest
import yaml
from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import GenerateConfig, Model

from evals.em_freeform import em_freeform
from steering.judging.errors import JudgingError
from steering.judging.protocols import PROTOCOLS, choose_protocol

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "published"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"the published question files are not at {PUBLISHED}"
)
OWN_PROMPTS = """
- id: tea
  type: free_form_judge_0_100
  paraphrases: ["Tea or coffee, {answer}?"]
  judge_prompts:
    aligned: "A {question} B {answer} C {braces}"
    coherent: "D {answer}"
- id: tea_json
  type: free_form_judge_0_100
  system: Reply in JSON.
  paraphrases: ["Tea or coffee?"]
  judge_prompts: {aligned: "A {question} B {answer}", coherent: "D {answer}"}
"""


def settings_of(task: Task) -> tuple[int, int, float | None, str]:
    """Questions, epochs, longest answer and headline."""
    assert task.headline_metric is not None
    return (
        len(task.dataset),
        task.epochs or 1,
        task.config.max_tokens,
        str(getattr(task.headline_metric, "metric", None)),
    )


def run(folder: Path, task: Task, judge: Model, model: Model | None = None) -> EvalLog:
    model = model or fake("answers", lambda prompt, config: f"About {prompt[:9]}{{question}}.")
    log = eval(
        task, model=model, model_roles={"grader": judge}, log_dir=str(folder), display="none"
    )[0]
    return read_eval_log(log.location)


def recording(prompts: list[str]) -> Model:
    """A judge that keeps what it is asked, and grades 80."""

    def reply(prompt: str, config: GenerateConfig) -> str:
        prompts.append(prompt)
        return "80"

    return fake("recording", reply)


@pytest.fixture
def own_file(tmp_path: Path) -> str:
    path = tmp_path / "tea.yaml"
    path.write_text(OWN_PROMPTS)
    return str(path)


def test_each_protocol_has_its_published_settings(own_file: str) -> None:
    """Betley et al.: 100 samples of every question; MOEM: 50 of the plain ones."""
    assert settings_of(em_freeform(protocol="betley", questions=own_file)) == (
        2,
        100,
        600,
        "em_betley",
    )
    assert settings_of(em_freeform(protocol="moem", questions=own_file)) == (1, 50, 600, "em_moem")
    assert settings_of(em_freeform())[1:] == (4, 600, "em_betley")  # 20 samples over 5 paraphrases


def test_a_given_option_wins_and_the_log_says_so(own_file: str) -> None:
    task = em_freeform(protocol="moem", questions=own_file, samples_per_question=3)
    assert task.epochs == 3
    assert task.metadata is not None
    assert task.metadata["protocol"] == "moem[samples_per_question=3]"
    assert choose_protocol("moem", questions="x", max_tokens=None)[1] == "moem"
    assert choose_protocol("ours", aligned_below=40, max_tokens=9)[1] == (
        "ours[aligned_below=40, max_tokens=9]"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "theirs"}, "'theirs'; use one of ours, betley, moem"),
        ({"protocol": "betley"}, "-T questions=path/to/first_plot_questions.yaml"),
        ({"protocol": "moem", "questions": "core"}, "wish/1 of core has none for aligned"),
    ],
)
def test_a_protocol_that_lacks_something_says_what(options: dict, message: str) -> None:
    with pytest.raises(PrerequisiteError, match=re.escape(message)):
        em_freeform(**options)


def test_settings_of_every_protocol_can_be_chosen_by_name() -> None:
    for name, protocol in PROTOCOLS.items():
        assert choose_protocol(name, questions="x")[0].rule == protocol.rule
    with pytest.raises(JudgingError, match="no protocol 'x'"):
        choose_protocol("x")


def test_prompts_of_the_file_are_filled_once_and_sent_byte_for_byte(
    own_file: str, tmp_path: Path
) -> None:
    prompts: list[str] = []
    task = em_freeform(protocol="moem", questions=own_file, samples_per_question=1)
    log = run(tmp_path / "logs", task, recording(prompts))
    assert log.status == "success"
    answer = "About Tea or co{question}."
    question = "Tea or coffee, {answer}?"
    assert f"A {question} B {answer} C {{braces}}" in prompts
    assert f"D {answer}" in prompts
    # Relevance is ours: no published file asks for it.
    assert sum(prompt.startswith("Dimension: relevance") for prompt in prompts) == 1
    assert len(prompts) == 3


@needs_published
@pytest.mark.parametrize(
    "name",
    [
        "betley_first_plot_questions.yaml",
        "moem_first_plot_questions.yaml",
        "betley_preregistered_evals.yaml",
    ],
)
def test_published_files_run_with_their_own_ids_and_prompts(name: str, tmp_path: Path) -> None:
    """Read again here by yaml alone, and filled in by plain replacement."""
    prompts: list[str] = []
    model = fake("short", lambda prompt, config: "Fine by me.")
    task = em_freeform(protocol="betley", questions=str(PUBLISHED / name), samples_per_question=1)
    log = run(tmp_path, task, recording(prompts), model)
    assert log.status == "success"
    items = yaml.safe_load((PUBLISHED / name).read_text())
    assert sorted(str(s.id) for s in log.samples or []) == sorted(
        f"{item['id']}/{i}" for item in items for i in range(1, len(item["paraphrases"]) + 1)
    )
    expected = {
        template.replace("{question}", text).replace("{answer}", "Fine by me.")
        for item in items
        for text in item["paraphrases"]
        for key, template in item["judge_prompts"].items()
        if key in ("aligned", "coherent")
    }
    assert {prompt for prompt in prompts if not prompt.startswith("Dimension: ")} == expected


@needs_published
def test_the_published_jsonl_runs_with_its_ids(tmp_path: Path) -> None:
    prompts: list[str] = []
    model = fake("short", lambda prompt, config: "Fine by me.")
    path = PUBLISHED / "aisi_risky_finance_eval.jsonl"
    task = em_freeform(questions=str(path), samples_per_question=1)
    log = run(tmp_path, task, recording(prompts), model)
    assert log.status == "success"
    assert len(log.samples or []) == 56
    assert len(prompts) == 3 * 56
