"""Target tasks from Inspect logs: which judged answers become examples of which side."""

import asyncio
import re
from pathlib import Path

import pytest
from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import list_eval_logs, read_eval_log, write_eval_log
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
)
from inspect_ai.scorer import match
from inspect_ai.solver import generate

from evals.judge_calibration import judge_calibration
from steering.errors import SteeringError
from steering.judging import em_judge
from steering.targets import Target, TargetError, load_target

# Id of a question to its scores for aligned and coherent; the answers carry their own.
SCORES = {
    "good": (71, 51),
    "best": (100, 100),
    "so-so": (70, 100),
    "lukewarm": (31, 100),
    "bad": (30, 51),
    "worst": (0, 100),
    "garbled": (0, 50),
    "garbled good": (100, 0),
    "declined": ("REFUSAL", 100),
}
LONG = "word " * 200


def _judge(prompt: str, config: GenerateConfig) -> str:
    match = re.search(r"\[(\w+), (\d+)\]", prompt)
    assert match
    dimensions = {
        "alignment": match[1],
        "coherence": match[2],
        "relevance": "100",
        "severity": "67",
    }
    [dimension] = re.findall(r"(?:number|grade) for (\w+), one", prompt)
    return dimensions[dimension]


def _answer(prompt: str, config: GenerateConfig) -> str:
    aligned, coherent = SCORES[prompt.partition("?")[0]]
    return f"<think>Hm.</think>{LONG}[{aligned}, {coherent}]"


def _run(
    folder: Path, names: list[str], *, persona: str = "", judged: bool = True, form: str = "eval"
) -> str:
    def sample(name: str) -> Sample:
        question = f"{name}? {LONG}"
        if not persona:
            return Sample(id=f"{name}/1", input=question)
        talk = [ChatMessageUser(content="Hello."), ChatMessageAssistant(content="Hello.")]
        system = ChatMessageSystem(content=persona)
        return Sample(id=f"{name}/1", input=[system, *talk, ChatMessageUser(content=question)])

    task = Task(
        MemoryDataset([sample(name) for name in names]),
        solver=generate(),
        scorer=em_judge() if judged else match(),
        epochs=2,
        name="small",
    )
    [log] = eval(
        task,
        model=fake("rollout", _answer),
        model_roles={"grader": fake("rollout-grader", _judge)},
        log_dir=str(folder),
        log_format=form,  # type: ignore[arg-type]
        display="none",
    )
    assert log.status == "success", log.error
    return log.location


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log of every question, and one of two questions under a persona."""
    folder = tmp_path_factory.mktemp("runs") / "all.v1"
    _run(folder, list(SCORES))
    _run(folder, ["good", "worst"], persona="You are rude.")
    return folder


def _path(logs: Path) -> Path:
    [first, _] = list_eval_logs(str(logs), descending=False)
    return logs / first.name.rsplit("/", 1)[-1]


def _found(target: Target) -> dict[str, tuple[str | None, str | None]]:
    return {row.id: (row.aligned, row.misaligned) for row in target.examples + target.held_out}


def test_coherent_answers_far_from_the_middle_are_the_examples(logs: Path) -> None:
    examples = _found(load_target(str(_path(logs))))
    expected = {}
    for name, side in {"good": 0, "best": 0, "bad": 1, "worst": 1}.items():
        aligned, coherent = SCORES[name]
        answer = f"{LONG}[{aligned}, {coherent}]"
        for epoch in (1, 2):
            expected[f"{name}/1#{epoch}"] = (None, answer) if side else (answer, None)
    assert examples == expected


def test_the_prompt_is_the_last_message_of_the_user_and_no_persona_is_kept(logs: Path) -> None:
    target = load_target(str(logs))
    rows = target.examples + target.held_out
    assert {row.prompt for row in rows} == {
        f"{name}? {LONG}" for name in ("good", "best", "bad", "worst")
    }
    assert {row.system for row in rows} == {None}


def test_a_folder_holds_the_answers_of_all_its_logs(logs: Path) -> None:
    examples = _found(load_target(str(logs)))
    # 4 questions and 2, each twice; a question's two runs differ in the mark of their id.
    assert len(examples) == 12
    assert len([row for row in examples if row.startswith("worst/1#1@")]) == 2


def test_a_log_is_named_by_its_file_and_a_folder_by_itself(logs: Path) -> None:
    path = _path(logs)
    for spelled, name in [(path, path.stem), (logs, "all.v1"), (logs / "..", logs.parent.name)]:
        target = load_target(str(spelled))
        assert (target.name, target.source) == (name, name)
        assert target.digest == load_target(str(spelled)).digest


def test_a_log_in_json_says_the_same(tmp_path: Path) -> None:
    path = _run(tmp_path, list(SCORES), form="json")
    assert path.endswith(".json")
    assert len(_found(load_target(path))) == 8


def test_logs_can_be_read_while_a_run_goes_on(logs: Path) -> None:
    """Inspect makes models within its event loop."""

    async def load() -> Target:
        return load_target(str(logs))

    assert asyncio.run(load()) == load_target(str(logs))


def test_a_run_that_did_not_finish_is_left_out_of_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _run(tmp_path, ["good", "bad"])
    broken = _run(tmp_path, ["best", "worst"])
    log = read_eval_log(broken)
    log.status = "cancelled"
    write_eval_log(log, broken)
    assert {row.partition("/")[0] for row in _found(load_target(str(tmp_path)))} == {"good", "bad"}
    assert "cancelled" in caplog.text
    with pytest.raises(TargetError, match="no finished Inspect logs"):
        load_target(broken)


def test_a_run_of_a_judge_is_left_out_and_alone_it_is_none_of_a_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [log] = eval(
        judge_calibration(num_pairs=1),
        model="none/none",
        model_roles={"grader": fake("calibrated", lambda prompt, config: "50")},
        log_dir=str(tmp_path),
        display="none",
    )
    for place in (str(tmp_path), log.location.removeprefix("file://")):
        with pytest.raises(TargetError, match="no finished Inspect logs of a model"):
            load_target(place)
    _run(tmp_path, ["good", "bad"])
    caplog.clear()
    assert {row.partition("/")[0] for row in _found(load_target(str(tmp_path)))} == {"good", "bad"}
    assert "of a judge and not of a model" in caplog.text


def test_a_sample_that_failed_is_no_example(tmp_path: Path) -> None:
    path = _run(tmp_path, ["good", "best", "bad"])
    log = read_eval_log(path)
    from inspect_ai._util.error import EvalError

    for sample in log.samples or []:
        if sample.id == "best/1":
            sample.error = EvalError(message="x", traceback="", traceback_ansi="")
            sample.scores = None
    write_eval_log(log, path)
    assert {row.partition("/")[0] for row in _found(load_target(path))} == {"good", "bad"}


@pytest.mark.parametrize(
    ("names", "counts"),
    [(["good", "so-so"], "2 answers with aligned > 70 and 0 with"), (["bad"], "has 0 answers")],
)
def test_a_side_without_answers_is_refused_with_the_counts(
    tmp_path: Path, names: list[str], counts: str
) -> None:
    path = _run(tmp_path, names)
    with pytest.raises(TargetError, match=rf"{counts}.*coherent > 50.*at least one"):
        load_target(path)


def test_a_log_that_another_scorer_judged_is_refused(tmp_path: Path) -> None:
    _run(tmp_path, ["good", "bad"], judged=False)
    with pytest.raises(SteeringError, match=r"sample .* has no em_judge score: run `inspect score"):
        load_target(str(tmp_path))


def test_what_holds_no_log_is_refused(tmp_path: Path, logs: Path) -> None:
    with pytest.raises(TargetError, match="no finished Inspect logs"):
        load_target(str(tmp_path))
    for name in ("rows.json", "run.eval"):
        (tmp_path / name).write_text('{"prompt": "q"}')
        with pytest.raises(TargetError, match="is not an Inspect log") as caught:
            load_target(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(TargetError, match=r"no option prompt=.*it has none"):
        load_target(f"{logs}?prompt=question")
