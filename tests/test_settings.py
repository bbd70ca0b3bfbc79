"""Settings of answers: what is impossible is refused by every door, in one line, before a model."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.solver import generate

import steering
from steering.engines import Request, hf
from steering.engines.settings import AnswerLimits, AnswerSettings, Sampling
from steering.errors import SteeringError

# Setting by its name in `GenerateConfig`, an impossible value, and parts of the error.
WRONG: list[tuple[str, Any, list[str]]] = [
    ("temperature", -1.0, ["temperature=-1.0", "0 (greedy)"]),
    ("temperature", math.nan, ["temperature=nan", "0.01 to 100"]),
    ("temperature", math.inf, ["temperature=inf", "0.01 to 100"]),
    ("temperature", 1e-6, ["temperature=1e-06", "0 (greedy)"]),
    ("top_p", -1.0, ["top_p=-1.0", "above 0 and up to 1"]),
    ("top_p", 0.0, ["top_p=0.0", "above 0 and up to 1"]),
    ("top_p", 2.0, ["top_p=2.0", "above 0 and up to 1"]),
    ("top_p", math.nan, ["top_p=nan", "above 0 and up to 1"]),
    ("top_k", -2, ["top_k=-2", "0 or -1 is all"]),
    ("max_tokens", 0, ["max_tokens=0", "from 1"]),
    ("max_tokens", -1, ["max_tokens=-1", "from 1"]),
    ("max_tokens", -5, ["max_tokens=-5", "from 1"]),
    ("max_tokens", 2**40, ["max_tokens=1099511627776", "2^31"]),
    ("stop_seqs", [""], ["stop[0]=''", "at least one character"]),
    ("stop_seqs", ["a", ""], ["stop[1]=''", "at least one character"]),
    ("stop_seqs", ["\ud800"], ["stop[0]='\\ud800'"]),
    ("frequency_penalty", 3.0, ["frequency_penalty=3.0", "-2 to 2"]),
    ("presence_penalty", math.nan, ["presence_penalty=nan", "-2 to 2"]),
    ("logit_bias", {-1: 1.0}, ["logit_bias=-1", "from 0"]),
    ("logit_bias", {5: math.nan}, ["logit_bias[5]=nan", "-100"]),
    ("logit_bias", {5: -1e4}, ["logit_bias[5]=-10000.0", "-100 (never drawn)"]),
    ("seed", 2**70, ["seed=", "64 bits"]),
    ("num_choices", 0, ["num_choices=0", "from 1"]),
    ("num_choices", 10**9, ["num_choices=1000000000", "4096"]),
    ("top_logprobs", -1, ["top_logprobs=-1", "0 to 20"]),
    ("top_logprobs", 21, ["top_logprobs=21", "0 to 20"]),
]
IDS = [f"{name}={value}" for name, value, _ in WRONG]
OF_ASK = {"temperature", "top_p", "top_k", "max_tokens", "stop_seqs", "seed"}


@pytest.fixture
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(hf, "load_model", refuse)


def check(message: str, parts: list[str]) -> None:
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(("name", "value", "parts"), WRONG, ids=IDS)
def test_an_impossible_setting_makes_no_settings(name: str, value: Any, parts: list[str]) -> None:
    """Both engines take what is made here."""
    field = "stop" if name == "stop_seqs" else name
    value = tuple(value) if name == "stop_seqs" else value
    for kind in (Sampling, AnswerLimits, AnswerSettings):
        if field in kind.model_fields:
            with pytest.raises(SteeringError) as error:
                kind(**{field: value})
            check(str(error.value), parts)
    if field in AnswerLimits.model_fields:
        with pytest.raises(SteeringError):
            Request((1,), Sampling(), **{"max_tokens": 3, field: value})


@pytest.mark.parametrize(("name", "value", "parts"), WRONG, ids=IDS)
@pytest.mark.usefixtures("no_weights")
def test_inspect_is_told_before_weights_load(
    name: str, value: Any, parts: list[str], folder: Path
) -> None:
    """At the start, and of a request of a running model."""
    config = GenerateConfig(**{name: value})
    with pytest.raises(PrerequisiteError) as refused:
        get_model(f"steered/{folder}", config=config, vector="none", memoize=False)
    check(str(refused.value.message).replace("\\[", "["), parts)
    model = get_model(f"steered/{folder}", vector="none", memoize=False)
    with pytest.raises(SteeringError) as error:
        asyncio.run(model.generate("Hello", config=config))
    check(str(error.value), parts)


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        *(row for row in WRONG if row[0] in OF_ASK),
        ("temperature", "hot", ["temperature='hot'", "0 (greedy)"]),
        ("max_tokens", 1.5, ["max_tokens=1.5", "whole number"]),
        ("top_k", True, ["top_k=True", "whole number"]),
    ],
)
@pytest.mark.usefixtures("no_weights")
def test_python_is_told_before_weights_load(
    name: str, value: Any, parts: list[str], folder: Path
) -> None:
    model = steering.load_model(str(folder), vector="none")
    with pytest.raises(SteeringError) as error:
        model.ask("Hello", **{name.removesuffix("_seqs"): value})
    check(str(error.value), parts)


@pytest.mark.usefixtures("no_weights")
def test_a_bias_of_a_token_that_does_not_exist_is_told_with_the_range(folder: Path) -> None:
    config = GenerateConfig(logit_bias={10**6: 1.0})
    for refusal in (
        lambda: get_model(f"steered/{folder}", config=config, vector="none", memoize=False),
        lambda: asyncio.run(
            get_model(f"steered/{folder}", vector="none").generate("Hi", config=config)
        ),
    ):
        with pytest.raises(Exception, match=r"logit_bias=\{1000000: 1.0\}.*token ids \(0-258\)"):
            refusal()


def test_the_last_token_of_the_vocabulary_can_be_biased(folder: Path) -> None:
    model = get_model(f"steered/{folder}", vector="none", device="cpu")
    config = GenerateConfig(logit_bias={258: 100.0}, max_tokens=2, temperature=0, logprobs=True)
    [choice] = asyncio.run(model.generate("Hi", config=config)).choices
    assert choice.logprobs
    assert len({item.token for item in choice.logprobs.content}) == 1
    with pytest.raises(SteeringError, match="259: 1"):
        asyncio.run(model.generate("Hi", config=GenerateConfig(logit_bias={259: 1.0})))


@pytest.mark.parametrize("top_k", [0, -1])
def test_all_tokens_can_be_said_as_vllm_does(top_k: int, folder: Path) -> None:
    """-1 drew the last token of the vocabulary again and again."""
    model = steering.load_model(str(folder), vector="none", device="cpu")
    fixed: dict[str, Any] = {"seed": 3, "max_tokens": 12}
    assert model.ask("Hello", top_k=top_k, **fixed) == model.ask("Hello", **fixed)


def test_no_alternatives_and_more_than_the_vocabulary_has_are_reported(folder: Path) -> None:
    model = get_model(f"steered/{folder}", vector="none", device="cpu")
    for config, alternatives in (
        (GenerateConfig(logprobs=True, max_tokens=1), 0),
        (GenerateConfig(top_logprobs=20, max_tokens=1), 20),
    ):
        [choice] = asyncio.run(model.generate("Hi", config=config)).choices
        assert choice.logprobs
        assert len(choice.logprobs.content[0].top_logprobs or ()) == alternatives
    [choice] = asyncio.run(model.generate("Hi", config=GenerateConfig(max_tokens=1))).choices
    assert choice.logprobs is None


@pytest.mark.usefixtures("no_weights")
def test_a_running_eval_ends_with_the_error_and_no_figure(folder: Path, tmp_path: Path) -> None:
    task = Task(
        MemoryDataset([Sample(input="Hi")]), solver=generate(), config=GenerateConfig(max_tokens=0)
    )
    model = get_model(f"steered/{folder}", vector="none", memoize=False)
    [log] = eval(task, model=model, log_dir=str(tmp_path), display="none", score=False)
    assert log.status == "error"
    assert log.error
    assert "max_tokens=0 is not allowed: give a whole number from 1" in log.error.message
