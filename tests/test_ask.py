"""A steered model asked from Python: the same answers as the provider's, without an event loop."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from tiny_models import WIDTH

import steering
from steering import SteeredModel
from steering.errors import SteeringError
from steering.provider.api import SteeredAPI
from steering.vectors import SteeringVector

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 10}
DRAWN: dict[str, Any] = {"temperature": 1, "max_tokens": 10}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a vector that changes every answer of the tiny model."""
    path = tmp_path_factory.mktemp("vectors") / "push.safetensors"
    directions = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(0))
    SteeringVector(directions, (1,), "resid_post", (4.0,)).save(path)
    return {"vector": str(path), "magnitude": 6}


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("qwen3.5")


@pytest.fixture(scope="module")
def model(folder: Path, options: dict[str, Any]) -> SteeredModel:
    return steering.load_model(str(folder), **options)


def test_a_prompt_gets_the_answer_and_the_label_that_inspect_gets(
    model: SteeredModel, folder: Path, options: dict[str, Any]
) -> None:
    evaluated = get_model(f"steered/{folder}", **options)
    output = asyncio.run(evaluated.generate("Hello", config=GenerateConfig(**GREEDY)))
    answer = model.answer("Hello", **GREEDY)
    assert isinstance(answer, steering.Answer)
    assert answer.text == model.ask("Hello", **GREEDY) == output.completion
    assert answer.stop_reason == output.stop_reason
    assert output.usage is not None
    assert answer.num_tokens == output.usage.output_tokens
    assert repr(model) == str(evaluated) == f"steered/{folder}[{answer.condition}]"
    assert output.metadata is not None
    assert answer.steering == output.metadata["steering"]


def test_many_prompts_are_answered_in_their_order_and_in_one_batch(model: SteeredModel) -> None:
    prompts = [f"Question {number}?" for number in range(6)]
    together = model.ask(prompts, **GREEDY)
    assert together == [model.ask(prompt, **GREEDY) for prompt in prompts]
    engine = model._model.api._engine  # type: ignore[attr-defined]
    before = engine.telemetry()
    model.ask(prompts, temperature=0, max_tokens=40)
    after = engine.telemetry()
    assert after.passes - before.passes < (after.tokens - before.tokens) / 2


def test_an_intervention_of_one_call_leaves_the_model_as_it_was(
    model: SteeredModel, folder: Path
) -> None:
    plain = steering.load_model(str(folder), vector="none").ask("Hello", **GREEDY)
    steered = model.ask("Hello", **GREEDY)
    assert model.ask("Hello", vector="none", **GREEDY) == plain != steered
    assert model.ask("Hello", magnitude=0, **GREEDY) == plain
    assert model.ask("Hello", **GREEDY) == steered


def test_a_conversation_and_a_system_message_are_rendered(
    model: SteeredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    rendered = SteeredAPI._rendered

    def record(self: SteeredAPI, *args: Any) -> Any:
        prompts.append(rendered(self, *args)[0])
        return rendered(self, *args)

    monkeypatch.setattr(SteeredAPI, "_rendered", record)
    turns = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    one = model.ask(turns, system="Be kind.", **GREEDY)
    several = model.ask([turns, "Four?", [ChatMessageUser(content="Five?")]], **GREEDY)
    assert isinstance(one, str)
    assert len(several) == 3
    expected = "user: One?<|end|>assistant: Two.<|end|>user: Three?<|end|>assistant: "
    assert prompts[0] == f"<|start|>system: Be kind.<|end|>{expected}"
    assert prompts[1] == f"<|start|>{expected}"


def test_a_seed_repeats_the_answers_of_a_call_and_not_an_answer(model: SteeredModel) -> None:
    four = model.ask(["Hello"] * 4, seed=11, **DRAWN)
    assert len(set(four)) == 4
    assert model.ask(["Hello"] * 4, seed=11, **DRAWN) == four
    assert model.ask("Hello", seed=11, **DRAWN) == four[0]
    assert model.ask("Hello", seed=12, **DRAWN) not in four
    assert model.ask(["Hello"] * 4, **DRAWN) != model.ask(["Hello"] * 4, **DRAWN)


def test_an_answer_ends_at_a_stop_text(model: SteeredModel) -> None:
    whole = model.ask("Hello", **GREEDY)
    assert model.ask("Hello", stop=whole[3:5], **GREEDY) == whole[: whole.index(whole[3:5])]


def test_a_notebook_that_runs_an_event_loop_can_ask(model: SteeredModel) -> None:
    async def cell() -> str:
        return model.ask("Hello", **GREEDY)

    assert asyncio.run(cell()) == model.ask("Hello", **GREEDY)


@pytest.mark.parametrize(
    ("prompts", "settings", "parts"),
    [
        ("Hello", {"max_token": 5}, ["max_token is not", "Did you mean max_tokens?", "magnitude"]),
        ("Hello", {"dtype": "float32"}, ["dtype is not an option of a question"]),
        ("Hello", {"layer": 99}, ["layer 99", "4 blocks (0-3)"]),
        ("Hello", {"magnitude": "abc"}, ["magnitude='abc'", "valid number"]),
        ([], {}, ["no prompt", "at least one"]),
        ([["Hello"]], {}, ["['Hello'] is no prompt", "list of messages"]),
        (5, {}, ["5 is no prompt", "a conversation"]),
        ({"role": "user", "content": "Hello"}, {}, ["is no prompt", "a list of messages"]),
        (["a", {"role": "user", "content": "b"}], {}, ["mixes messages with prompts"]),
        ([{"role": "tool", "content": "b"}], {}, ["'tool'", "system, user, assistant"]),
        ([{"role": "user"}], {}, ["is no message", "content"]),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    model: SteeredModel, prompts: Any, settings: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(SteeringError) as error:
        model.ask(prompts, **settings)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_model_that_cannot_be_loaded_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(SteeringError, match="Did you mean magnitude"):
        steering.load_model(str(folder), magnitud=2)
    with pytest.raises(SteeringError, match="give a local folder"):
        steering.load_model("nobody/nothing")
