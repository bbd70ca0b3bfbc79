"""What `-M monitor=` leaves in a log, what it refuses, and that no answer depends on it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import CachePolicy, GenerateConfig, Model, ModelOutput, get_model
from tiny_models import WIDTH

from steering.condition import choose_engine
from steering.errors import SteeringError
from steering.provider.monitor import describe_readings
from steering.spec import SpecError, parse_options
from steering.vectors import SteeringVector
from steering.vectors.monitor import Direction

GREEDY = GenerateConfig(temperature=0, max_tokens=9)


def save_vector(path: Path, seed: int = 0, **changes: Any) -> str:
    directions = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(seed))
    fields: dict[str, Any] = {"directions": directions, "layers": (1,), "site": "resid_post"}
    SteeringVector(**(fields | {"residual_norms": (4.0,)} | changes)).save(path)
    return str(path)


@pytest.fixture
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


def steered(folder: Path, **options: Any) -> Model:
    return get_model(f"steered/{folder}", **options)


def ask(model: Model, config: GenerateConfig = GREEDY, **options: Any) -> ModelOutput:
    return asyncio.run(model.generate("Hello", config=config, **options))


def record_of(output: ModelOutput) -> dict[str, Any]:
    assert output.metadata is not None
    return dict(output.metadata["steering"]["monitor"])


def test_each_answer_has_its_readings_and_no_other_answer(folder: Path, tmp_path: Path) -> None:
    steering = save_vector(tmp_path / "steering.safetensors")
    other = save_vector(tmp_path / "other.safetensors", seed=1, layers=(2,), site="mlp_out")
    config = GREEDY.merge(GenerateConfig(num_choices=3, temperature=0.9, seed=1))
    options = {"vector": steering, "magnitude": 9, "unit": "norm"}
    plain = ask(steered(folder, **options), config)
    output = ask(steered(folder, **options, monitor=[other, steering], monitor_tokens=True), config)
    assert [choice.message.text for choice in output.choices] == [
        choice.message.text for choice in plain.choices
    ]
    record = record_of(output)
    assert [(item["layer"], item["site"], item["steers"]) for item in record["directions"]] == [
        (2, "mlp_out", False),
        (1, "resid_post", True),
    ]
    assert [item["name"][:6] for item in record["directions"]] == ["other-", "steeri"]
    assert len(record["answers"]) == 3
    for answer, choice in zip(record["answers"], output.choices, strict=True):
        assert answer["tokens"] == len(answer["spelling"]) == 8
        text = choice.message.text
        assert all(token in text for token in answer["spelling"] if token.isascii())
        elsewhere, steers = answer["readings"]
        assert elsewhere["projection"] == elsewhere["projection_before"]
        # A vector of length 9 is added: that much, and no other direction, at each token.
        for kind in ("mean", "max"):
            rise = steers["projection"][kind] - steers["projection_before"][kind]
            assert rise == pytest.approx(9, abs=1e-3)
        by_token = answer["projections"][1]
        assert sum(by_token) / 8 == pytest.approx(steers["projection"]["mean"], rel=1e-3)
        assert max(by_token) == pytest.approx(steers["projection"]["max"], rel=1e-3)


def test_means_and_maxima_are_over_tokens() -> None:
    unit = torch.tensor([1.0, 0.0])
    # [tokens, directions, before and after, projection and norm]
    readings = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 5.0], [-2.0, 8.0]]]])

    class Answer:
        def __init__(self) -> None:
            self.readings, self.tokens = readings, [1, 2, 3]

    record = describe_readings((Direction("x", 3, "resid_pre", unit),), [Answer()])  # type: ignore[list-item]
    assert record == {
        "directions": [{"name": "x", "layer": 3, "site": "resid_pre", "steers": False}],
        "answers": [
            {
                "tokens": 2,
                "readings": [
                    {
                        "projection_before": {"mean": 3.0, "max": 5.0},
                        "projection": {"mean": 0.5, "max": 3.0},
                        "cosine_before": {"mean": 0.75, "max": 1.0},
                        "cosine": {"mean": 0.25, "max": 0.75},
                    }
                ],
            }
        ],
    }


def test_the_direction_that_steers_is_read_without_being_named(
    folder: Path, tmp_path: Path
) -> None:
    steering = save_vector(tmp_path / "steering.safetensors")
    other = save_vector(tmp_path / "other.safetensors", seed=1)
    model = steered(folder, vector=steering, monitor=other)
    names = [(item["name"][:5], item["steers"]) for item in record_of(ask(model))["directions"]]
    assert names == [("other", False), ("steer", True)]
    # Of an unsteered model, only what is named.
    record = record_of(ask(steered(folder, vector="none", monitor=other)))
    assert [item["steers"] for item in record["directions"]] == [False]


def test_an_answer_of_one_token_has_no_reading(folder: Path, tmp_path: Path) -> None:
    vector = save_vector(tmp_path / "some.safetensors")
    model = steered(folder, vector="none", monitor=vector)
    record = record_of(ask(model, GREEDY.merge(GenerateConfig(max_tokens=1))))
    assert record["answers"] == [{"tokens": 0, "readings": []}]


def test_a_cached_answer_without_readings_is_not_taken(folder: Path, tmp_path: Path) -> None:
    vector = save_vector(tmp_path / "some.safetensors")
    plain = steered(folder, vector="none")
    monitored = steered(folder, vector="none", monitor=vector)
    by_token = steered(folder, vector="none", monitor=vector, monitor_tokens=True)
    # Names and labels are of conditions: a monitored model is the same condition.
    assert plain.name == monitored.name == by_token.name
    for model in (plain, monitored, by_token):
        ask(model, cache=CachePolicy())
    assert "spelling" not in record_of(ask(monitored, cache=CachePolicy()))["answers"][0]
    assert "spelling" in record_of(ask(by_token, cache=CachePolicy()))["answers"][0]


def test_what_can_not_be_monitored_is_refused_before_weights_load(
    folder: Path, tmp_path: Path
) -> None:
    wide = save_vector(tmp_path / "wide.safetensors", directions=torch.ones(1, 1, WIDTH + 1))
    with pytest.raises(PrerequisiteError, match=r"monitor=.*wide\.safetensors: .*33.*32"):
        steered(folder, monitor=wide, vector="none")
    with pytest.raises(PrerequisiteError, match=r"monitor=.*none\.safetensors.*; or give default"):
        steered(folder, monitor=str(tmp_path / "none.safetensors"), vector="none")
    vector = save_vector(tmp_path / "some.safetensors")
    with pytest.raises(SteeringError, match=r"monitor=.*this task scores given ones"):
        ask(
            steered(folder, monitor=vector, vector="none"),
            GenerateConfig(extra_body={"steering": {"score": ["a"]}}),
        )


def test_a_monitor_leaves_the_choice_of_the_engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steering.condition.find_spec", lambda _: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    options = {"monitor": "default", "monitor_tokens": True}
    assert choose_engine(parse_options(options)) == "vllm"
    for engine in ("hf", "vllm"):
        assert choose_engine(parse_options({**options, "engine": engine})) == engine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": "medical"}, r"monitor='medical' is not allowed.*steering build"),
        ({"monitor": "default,default"}, "monitored once"),
        ({"monitor": 3}, "names, separated by commas"),
        ({"monitor_tokens": True}, "no effect without monitor="),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_options(options)
