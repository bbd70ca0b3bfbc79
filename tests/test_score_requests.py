"""Given answers through Inspect: what `extra_body={"steering": {"score": [...]}}` gives."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import blocks, loaded, plain
from hook_reference import reference_logits
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver

from steering import condition
from steering.engines import shared_engine
from steering.errors import SteeringError
from steering.models import find_model
from steering.provider import api

ANSWERS = ["I help you.", "No", "I do not care at all."]


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


@pytest.fixture
def vector_file(tmp_path: Path) -> Path:
    path = tmp_path / "vector.safetensors"
    plain().save(path)
    return path


def scoring(answers: Any = ANSWERS, **options: Any) -> GenerateConfig:
    return GenerateConfig(extra_body={"steering": {"score": answers, **options}})


def ask(model: Model, config: GenerateConfig, messages: Any = "Hello") -> ModelOutput:
    return asyncio.run(model.generate(messages, config=config))


def logprobs(output: ModelOutput) -> list[list[float]]:
    return [
        [item.logprob for item in choice.logprobs.content] if choice.logprobs else []
        for choice in output.choices
    ]


def expected(folder: Path, prompt: str, answer: str, interventions: Any = ()) -> list[float]:
    """By plain hooks; the tokens are the bytes of the text."""
    engine = shared_engine(find_model(str(folder)), device="cpu")
    model = loaded(engine)
    ids, tokens = (
        model.tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer)
    )
    logits = reference_logits(model.model, blocks(model), ids, tokens, interventions)[:-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


def test_a_choice_for_each_answer_with_the_log_probability_of_each_token(folder: Path) -> None:
    output = ask(get_model(f"steered/{folder}", vector="none"), scoring())
    assert [choice.message.text for choice in output.choices] == ANSWERS
    assert {choice.stop_reason for choice in output.choices} == {"stop"}
    prompt = "<|start|>user: Hello<|end|>assistant: "
    for values, answer in zip(logprobs(output), ANSWERS, strict=True):
        assert values == pytest.approx(expected(folder, prompt, answer), abs=2e-4)
    assert output.choices[1].logprobs is not None
    assert [item.token for item in output.choices[1].logprobs.content] == ["N", "o"]
    assert output.usage is not None
    assert output.usage.input_tokens == len("user: Hello") + len("assistant: ") + 2
    assert output.usage.output_tokens == sum(map(len, ANSWERS))
    assert output.metadata is not None
    assert "divergences" not in output.metadata["steering"]
    assert output.metadata["engine"]["scored_per_s"] > 0


def test_a_condition_scores_as_it_steers_and_says_how_far_it_diverges(
    folder: Path, vector_file: Path
) -> None:
    model = get_model(f"steered/{folder}", vector=str(vector_file), magnitude=6)
    steered = ask(model, scoring(divergence=True))
    assert steered.metadata is not None
    record = steered.metadata["steering"]
    assert list(map(len, record["divergences"])) == list(map(len, ANSWERS))
    assert all(value > 0 for row in record["divergences"] for value in row)
    assert record["largest_change"][0] > 0
    [intervention] = record["interventions"]
    assert intervention["magnitude"] == 6
    other = get_model(f"steered/{folder}", vector="none")
    brought = ask(other, scoring(vector=str(vector_file), magnitude=6))
    assert logprobs(brought) == [pytest.approx(row, abs=3e-5) for row in logprobs(steered)]
    baseline = ask(other, scoring(divergence=True))
    assert baseline.metadata is not None
    assert baseline.metadata["steering"]["divergences"] == [[0.0] * len(one) for one in ANSWERS]
    for reference in (record["reference"], baseline.metadata["steering"]["reference"]):
        assert reference == [pytest.approx(row, abs=3e-5) for row in logprobs(baseline)]
    assert logprobs(baseline) != logprobs(steered)


def test_an_answer_continues_an_assistant_message(folder: Path) -> None:
    messages = [ChatMessageUser(content="Hello"), ChatMessageAssistant(content="I think:")]
    output = ask(get_model(f"steered/{folder}", vector="none"), scoring(), messages)
    prompt = "<|start|>user: Hello<|end|>assistant: I think:"
    for values, answer in zip(logprobs(output), ANSWERS, strict=True):
        assert values == pytest.approx(expected(folder, prompt, answer), abs=2e-4)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (scoring([]), ["score=[]", "a list of answers"]),
        (scoring(["fine", ""]), ["score=['fine', '']", "at least one character"]),
        (scoring("fine"), ["score='fine'", "a list"]),
        (scoring([3]), ["score=[3]", "a text"]),
        (scoring(["\ud83d"]), ["score=", "a text"]),
        (scoring(["a"] * 65), ["65 answers", "takes 64"]),
        (scoring(divergence="yes"), ["divergence='yes'", "true or false"]),
        (GenerateConfig(extra_body={"steering": {"divergence": True}}), ["score=None", "a list"]),
        (scoring().merge(GenerateConfig(num_choices=2)), ["num_choices=2", "leave it out"]),
        (scoring().merge(GenerateConfig(top_logprobs=2)), ["top_logprobs=2", "leave it out"]),
        (scoring().merge(GenerateConfig(logprobs=False)), ["logprobs=false", "leave it out"]),
        (scoring(dtype="float16"), ["dtype"]),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line_before_a_model_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, config: GenerateConfig, parts: list[str]
) -> None:
    monkeypatch.setattr(api, "open_engine", lambda *_, **__: pytest.fail("an engine"))
    model = get_model(f"steered/{folder}", vector="none", memoize=False)
    with pytest.raises(SteeringError) as error:
        ask(model, config)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_an_answer_beyond_the_context_is_refused_with_both_numbers(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    model = get_model(f"steered/{tiny_folder('llama')}", vector="none", memoize=False)
    most = model.api._shape.context_length  # type: ignore[attr-defined]
    with pytest.raises(Exception, match=rf"have {24 + most} tokens .* reads {most}"):
        ask(model, scoring(["a" * most]))
    assert ask(model, scoring(["a" * (most - 24)])).choices


def test_how_answers_are_drawn_has_no_effect_on_scores(folder: Path) -> None:
    model = get_model(f"steered/{folder}", vector="none")
    drawn = GenerateConfig(
        temperature=0, top_p=0.3, max_tokens=1, seed=3, stop_seqs=["h"], frequency_penalty=1
    )
    assert logprobs(ask(model, scoring().merge(drawn))) == logprobs(ask(model, scoring()))


@solver
def score_them(answers: list[str], **options: Any) -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await generate(
            state, cache=True, extra_body={"steering": {"score": answers, **options}}
        )

    return solve


def test_answers_are_in_the_cache_key_and_in_the_record_of_the_call(
    folder: Path, vector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    model = get_model(f"steered/{folder}", vector=str(vector_file), memoize=False)

    def run(answers: list[str], **options: Any) -> Any:
        task = Task(MemoryDataset([Sample(input="Hi")]), solver=score_them(answers, **options))
        [log] = eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none")
        assert log.status == "success", log.error
        assert log.samples is not None
        [event] = [event for event in log.samples[0].events if event.event == "model"]
        return event

    first = run(ANSWERS)
    assert first.cache == "write"
    assert first.call.request["score"] == ANSWERS
    assert first.call.request["steering"][0]["magnitude"] == 1
    assert [one["tokens"] for one in first.call.response["choices"]] == list(map(len, ANSWERS))
    again = run(ANSWERS)
    assert again.cache == "read"
    assert json.loads(again.output.model_dump_json())["choices"]
    for other in (run(ANSWERS[::-1]), run(ANSWERS, divergence=True), run(ANSWERS, magnitude=2)):
        assert other.cache == "write"


def test_vllm_says_that_it_cannot_score_before_a_model_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condition, "find_spec", lambda _: object())
    monkeypatch.setattr(api, "open_engine", lambda *_, **__: pytest.fail("an engine"))
    model = get_model(f"steered/{folder}", vector="none", engine="vllm", memoize=False)
    with pytest.raises(SteeringError, match="engine=vllm can't score"):
        ask(model, scoring())
