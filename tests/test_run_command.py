"""The command that a frame records for a condition runs it again, as it stands."""

from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import EvalConfig, EvalLog, read_eval_log
from inspect_ai.model import GenerateConfig, ModelConfig
from scripted_logs import GOOD, write_log
from shell import REPO
from typed_commands import as_typed

from steering.results.run_columns import run_columns
from steering.results.run_command import run_command


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> EvalLog:
    folder = tmp_path_factory.mktemp("logs")
    return read_eval_log(str(write_log(folder, "one", {"q": [GOOD]})), header_only=True)


def _changed(header: EvalLog, plan: GenerateConfig | None = None, **facts: Any) -> EvalLog:
    evaluation = header.eval.model_copy(update=facts)
    plan_of = header.plan.model_copy(update={"config": plan} if plan else {})
    return header.model_copy(update={"eval": evaluation, "plan": plan_of})


def test_all_judges_and_their_settings_are_in_the_command(header: EvalLog) -> None:
    cold = ModelConfig(
        model="mockllm/one",
        config=GenerateConfig(temperature=0.25, max_connections=3),
        args={"custom_outputs": []},
        base_url="http://localhost:1/v1",
    )
    roles = {"grader": [cold, ModelConfig(model="mockllm/two")], "user": ModelConfig(model="m/n")}
    typed = as_typed(run_command(_changed(header, model_roles=roles)))["model_roles"]
    first, second = typed["grader"]
    assert (str(first), second, typed["user"]) == ("mockllm/one", "mockllm/two", "m/n")
    assert first.config.temperature == 0.25
    assert first.model_args == {"custom_outputs": []}
    assert first.api.base_url == "http://localhost:1/v1"
    two = {"grader": [ModelConfig(model="mockllm/one"), ModelConfig(model="mockllm/two")]}
    line = run_command(_changed(header, model_roles=two))
    assert "--model-role grader=mockllm/one,mockllm/two" in line


def test_every_setting_of_a_run_is_in_its_command(header: EvalLog) -> None:
    """As Inspect's own command line reads it back, whatever YAML makes of the text."""
    model_args = {
        "vector": ["a b.safetensors", "default"],
        "magnitude": 1e-06,
        "revision": "1e5",
        "layer": None,
        "shuffle_labels": True,
        "prompt": "it's {odd}: #1.txt",
    }
    task_args = {"questions": "true", "num_questions": 3, "formats": ["plain", "json"]}
    settings = {
        "temperature": 0.5,
        "top_k": 7,
        "seed": 11,
        "stop_seqs": ["END", "\n\n"],
        "logit_bias": {42: -10.0},
        "logprobs": True,
        "internal_tools": False,
        "system_message": "Say - 'no'.",
        "extra_body": {"steering": {"magnitude": 2}},
    }
    config = EvalConfig(limit=(4, 9), sample_id=["q/0", "q/1"], epochs=5)
    log = _changed(
        header,
        GenerateConfig(**settings),
        model="steered/toy[medical x1]",
        model_args=model_args,
        task_args_passed=task_args,
        config=config,
        # Of a model that Python made: what the run says goes first.
        model_generate_config=GenerateConfig(temperature=0.9, best_of=2, max_connections=8),
    )
    typed = as_typed(run_command(log))
    assert typed["model"] == "steered/toy"
    assert typed["model_args"] == model_args
    assert typed["task_args"] == task_args
    assert (typed["limit"], typed["sample_id"]) == ((4, 9), ["q/0", "q/1"])
    assert typed["epochs"].epochs == 5
    generated = GenerateConfig(
        **{n: v for n, v in typed.items() if n in GenerateConfig.model_fields}
    )
    expected = settings | {"best_of": 2}
    assert generated.model_dump(exclude_none=True, include=set(expected)) == expected
    # The frame has them too.
    columns = run_columns(log)
    assert (columns["temperature"], columns["seed"]) == (0.5, 11)
    assert '"best_of": 2' in columns["sampling"]
    assert "max_connections" not in columns["sampling"]


def test_no_folder_of_the_author_is_in_a_command(
    header: EvalLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite's own tasks are named by their package, from wherever they were run."""
    metadata = {"steering_version": "1"}
    for file in (REPO / "evals" / "em_freeform.py", Path("/a/b/evals/em_freeform.py")):
        ours = _changed(header, task="em_freeform", task_file=str(file), metadata=metadata)
        assert as_typed(run_command(ours))["tasks"] == ["steering/em_freeform"]
    # Another's file of that name is no task of this suite.
    other = _changed(header, task="em_freeform", task_file="evals/em_freeform.py", metadata={})
    assert as_typed(run_command(other))["tasks"] == ["evals/em_freeform.py"]
    monkeypatch.chdir(tmp_path)
    vector = str(tmp_path / "vectors" / "medical.safetensors")
    log = _changed(
        header,
        task_file=str(tmp_path / "mine" / "task.py"),
        task_registry_name="small",
        model_args={"vector": vector, "adapter": "/elsewhere/lora"},
    )
    typed = as_typed(run_command(log))
    assert typed["tasks"] == ["mine/task.py@small"]
    assert typed["model_args"] == {
        "vector": "vectors/medical.safetensors",
        "adapter": "/elsewhere/lora",
    }
