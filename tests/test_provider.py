"""The `steered` provider, through Inspect's own doors."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai import Task, eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.solver import generate
from inspect_ai.tool import ToolInfo
from tiny_models import LAYERS, WIDTH

from steering.engines import hf, shared_engine
from steering.evaluated_model import EvaluatedModel
from steering.models import find_model
from steering.provider import api as provider
from steering.provider.messages import REFUSED, split_reasoning
from steering.vectors import SteeringVector

GREEDY = GenerateConfig(temperature=0, max_tokens=12)


@pytest.fixture
def folder(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("qwen3.5")


@pytest.fixture
def vector_file(tmp_path: Path) -> Path:
    return save_vector(tmp_path / "some.safetensors")


def save_vector(path: Path, seed: int = 0, **changes: Any) -> Path:
    directions = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(seed))
    fields: dict[str, Any] = {"directions": directions, "layers": (1,), "site": "resid_post"}
    SteeringVector(**(fields | {"residual_norms": (4.0,)} | changes)).save(path)
    return path


def steered(folder: Path, **options: Any) -> Model:
    return get_model(f"steered/{folder}", **options)


def ask(model: Model, text: Any = "Hello", config: GenerateConfig = GREEDY) -> ModelOutput:
    return asyncio.run(model.generate(text, config=config))


def test_the_provider_keeps_its_promises_to_tasks_and_judges(folder: Path) -> None:
    assert isinstance(steered(folder).api, EvaluatedModel)
    assert not isinstance(get_model("mockllm/model").api, EvaluatedModel)


HONOURED = {
    "extra_body",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "num_choices",
    "presence_penalty",
    "seed",
    "stop_seqs",
    "temperature",
    "top_k",
    "top_logprobs",
    "top_p",
}
"""GenerateConfig fields that the provider acts on."""
HANDLED_BY_INSPECT = {
    "adaptive_connections",
    "attempt_timeout",
    "cache",
    "cache_prompt",
    "fail_on_refusal",
    "fallback_models",
    "internal_tools",
    "max_connections",
    "max_retries",
    "max_tool_output",
    "parallel_tool_calls",
    "reasoning_history",
    "stream_idle_timeout",
    "system_message",
    "timeout",
}
"""Fields that Inspect acts on before it calls the provider, or that only concern hosted APIs."""


def test_every_setting_of_inspect_is_classed_once() -> None:
    fields = set(GenerateConfig.model_fields)
    assert fields == HONOURED | HANDLED_BY_INSPECT | REFUSED
    assert len(fields) == len(HONOURED) + len(HANDLED_BY_INSPECT) + len(REFUSED)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("best_of", 3), ("reasoning_effort", "low"), ("extra_headers", {"a": "b"}), ("batch", True)],
)
def test_a_setting_that_would_be_dropped_is_refused(folder: Path, setting: str, value: Any) -> None:
    config = GenerateConfig(**{setting: value})
    with pytest.raises(PrerequisiteError) as error:
        get_model(f"steered/{folder}", config=config, vector="none", memoize=False)
    assert setting in str(error.value.message)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"magnitud": 2}, ["magnitud", "Did you mean magnitude?", "Allowed: vector, target"]),
        ({"layer": 99}, ["layer 99", f"{LAYERS} blocks", f"from 0 to {LAYERS - 1}"]),
        ({"magnitude": "abc"}, ["magnitude='abc'", "valid number", "-M magnitude=2.5"]),
        ({"unit": "furlong"}, ["furlong", "'raw', 'norm' or 'residual'"]),
        ({"vector": "missing.safetensors"}, ["missing.safetensors is not a file", ".safetensors"]),
        ({"target": "astrology"}, ["astrology", "code, finance, ", "medical, "]),
        ({"dtype": "int3"}, ["int3", "'float32'"]),
        ({"device": "cuda:7"}, ["device=cuda:7", "cpu"]),
        ({"revision": "main"}, ["revision=main has no effect", "leave it out"]),
    ],
)
def test_a_wrong_option_is_told_before_weights_load(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], parts: list[str]
) -> None:
    monkeypatch.setattr(provider, "open_engine", lambda *_, **__: pytest.fail("an engine"))
    with pytest.raises(PrerequisiteError) as error:
        steered(folder, **options)
    message = str(error.value.message)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"directions": torch.ones(1, 1, WIDTH * 2)}, [str(WIDTH * 2), str(WIDTH)]),
        ({"layers": (77,)}, ["layer 77", f"{LAYERS} blocks"]),
        ({"depth": 99}, ["99 blocks", f"has {LAYERS}"]),
    ],
)
def test_a_vector_of_another_model_is_refused_with_both_values(
    folder: Path, tmp_path: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    path = save_vector(tmp_path / "other.safetensors", **changes)
    with pytest.raises(PrerequisiteError) as error:
        steered(folder, vector=str(path))
    assert all(part in str(error.value.message) for part in parts)


def test_constructing_takes_no_arguments_no_weights_and_no_network(folder: Path) -> None:
    """In a fresh process, where an import or a load by another test can't hide one."""
    program = Path(__file__).with_name("construct_only.py")
    process = subprocess.run(
        [sys.executable, str(program), str(folder)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == {"torch": False, "transformers": False}


def test_inspect_does_not_make_the_provider_again_behind_our_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names: list[str] = []
    honest = provider.SteeredAPI.__init__

    def counted(self: Any, model_name: str, *args: Any, **kwargs: Any) -> None:
        names.append(model_name)
        honest(self, model_name, *args, **kwargs)

    monkeypatch.setattr(provider.SteeredAPI, "__init__", counted)
    task = Task(MemoryDataset([Sample(input="Hello")]), solver=generate(), config=GREEDY)
    model = get_model(f"steered/{folder}", vector="none", memoize=False)
    [log] = eval(task, model=model, log_dir=str(tmp_path), display="none")
    assert log.status == "success"
    assert len(names) == 1


def test_conditions_share_one_engine_and_have_their_own_names_and_keys(
    folder: Path, vector_file: Path, tmp_path: Path
) -> None:
    copy = save_vector(tmp_path / "deeper" / "some.safetensors", seed=1)
    models = [
        steered(folder, **options)
        for options in [
            {"vector": "none"},
            {},
            {"layer": 0},
            {"magnitude": 2},
            {"target": "finance"},
            {"vector": str(vector_file)},
            {"vector": str(copy)},
            {"vector": str(vector_file), "unit": "norm"},
            {"vector": str(vector_file), "positions": "response"},
            {"vector": str(vector_file), "operation": "ablate"},
        ]
    ]
    assert len({str(model) for model in models}) == len(models)
    assert len({model.api.base_url for model in models}) == len(models)
    assert len({id(model.api._engine) for model in models}) == 1  # type: ignore[attr-defined]


def test_weights_load_once_for_all_conditions_roles_and_remakings(
    folder: Path, vector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    loads: list[str] = []
    honest = hf.load_model

    def counted(source: Any, **options: Any) -> Any:
        loads.append(source.location)
        return honest(source, **options)

    monkeypatch.setattr(hf, "load_model", counted)
    task = Task(MemoryDataset([Sample(input="Hello")]), solver=generate(), config=GREEDY)
    models = [
        get_model(f"steered/{copy}", memoize=False, **options)
        for options in ({"vector": "none"}, {"vector": str(vector_file)}, {"vector": "none"})
    ]
    grader = get_model(f"steered/{copy}", role="grader", vector="none")
    logs = eval(
        task, model=models, model_roles={"grader": grader}, log_dir=str(tmp_path), display="none"
    )
    assert [log.status for log in logs] == ["success"] * 3
    assert ask(grader).completion
    assert loads == [str(copy)]


def test_a_vector_file_that_changes_is_another_condition(folder: Path, tmp_path: Path) -> None:
    path = save_vector(tmp_path / "mine.safetensors")
    before = get_model(f"steered/{folder}", vector=str(path), memoize=False)
    save_vector(path, seed=7)
    after = get_model(f"steered/{folder}", vector=str(path), memoize=False)
    assert before.api.base_url != after.api.base_url


def test_a_run_keeps_the_vector_that_its_fingerprint_names(folder: Path, tmp_path: Path) -> None:
    path = save_vector(tmp_path / "mine.safetensors")
    model = get_model(f"steered/{folder}", vector=str(path), magnitude=4, memoize=False)
    before = ask(model).completion
    save_vector(path, seed=7)
    assert ask(model).completion == before
    path.unlink()
    assert ask(model).completion == before


def test_a_vector_that_the_operation_cannot_use_is_told_before_weights_load(
    folder: Path, tmp_path: Path
) -> None:
    two = save_vector(tmp_path / "two.safetensors", directions=torch.eye(2, WIDTH)[None])
    with pytest.raises(PrerequisiteError) as error:
        steered(folder, vector=str(two), operation="clamp")
    message = "operation=clamp takes one direction, this vector holds 2 directions"
    assert message in str(error.value.message)


def test_a_logged_name_makes_the_same_model_again_and_no_other(folder: Path) -> None:
    name = str(steered(folder, vector="none"))
    assert name.endswith("[baseline]")
    assert str(get_model(name, vector="none")) == name
    with pytest.raises(PrerequisiteError) as error:
        get_model(name)
    # The brackets are escaped, since Inspect prints the message as rich markup.
    assert r"\[baseline]" in str(error.value.message)
    assert r"\[medical x1]" in str(error.value.message)


def test_caching_keeps_conditions_apart(folder: Path, vector_file: Path) -> None:
    config = GREEDY.merge(GenerateConfig(cache=True, max_tokens=10))
    texts = {}
    for magnitude in [0, 3, 6]:
        model = steered(folder, vector=str(vector_file), magnitude=magnitude)
        first, again = ask(model, config=config), ask(model, config=config)
        assert again.completion == first.completion
        texts[magnitude] = first.completion
    assert len(set(texts.values())) == 3


def test_the_unsteered_model_is_plain_transformers(folder: Path) -> None:
    model = steered(folder, vector="none")
    output = ask(model)
    loaded = shared_engine(find_model(str(folder))).call(lambda loaded, _: loaded).result(60)
    prompt = "<|start|>user: Hello<|end|>assistant: "
    ids = loaded.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    tokens = loaded.model.generate(**ids, max_new_tokens=12, do_sample=False)
    expected = loaded.tokenizer.decode(tokens[0, ids["input_ids"].shape[1] :])
    assert output.completion == expected.removesuffix("<|end|>")
    assert output.usage is not None
    assert output.usage.input_tokens == ids["input_ids"].shape[1]


def test_all_conditions_are_asked_the_same_prompt(folder: Path, vector_file: Path) -> None:
    hashes = set()
    for options in [{"vector": "none"}, {"vector": str(vector_file)}]:
        output = ask(steered(folder, **options))
        assert output.metadata is not None
        hashes.add(output.metadata["steering"]["prompt_sha256"])
    # The start token stands once, though the template and the tokenizer both could add it.
    assert hashes == {hashlib.sha256(b"<|start|>user: Hello<|end|>assistant: ").hexdigest()}


def test_the_output_says_what_was_done(folder: Path, vector_file: Path, tmp_path: Path) -> None:
    task = Task(MemoryDataset([Sample(input="Hello")]), solver=generate(), config=GREEDY)
    model = steered(folder, vector=str(vector_file), magnitude=2, unit="residual")
    [log] = eval(task, model=model, log_dir=str(tmp_path), display="none")
    assert log.samples is not None
    metadata = log.samples[0].output.metadata
    assert metadata is not None
    steering = metadata["steering"]
    [intervention] = steering["interventions"]
    expected = {"layers": [1], "site": "resid_post", "magnitude": 2.0, "unit": "residual"}
    assert {name: intervention[name] for name in expected} == expected
    assert steering["largest_change"][0] > 0
    [call] = [event.call for event in log.samples[0].events if event.event == "model"]
    assert call is not None
    assert call.request["prompt"] == "<|start|>user: Hello<|end|>assistant: "
    [summary] = call.request["steering"]  # type: ignore[misc]
    assert summary == {name: value for name, value in intervention.items() if name in summary} | {
        "vector": intervention["vector"]["digest"]
    }
    assert {"layers", "site", "operation", "positions", "magnitude", "unit"} <= summary.keys()
    assert log.eval.model == str(model)
    assert log.eval.model_args == {"vector": str(vector_file), "magnitude": 2, "unit": "residual"}


def test_a_request_can_bring_its_own_steering(folder: Path, vector_file: Path) -> None:
    base = steered(folder, vector="none")
    override = GREEDY.merge(
        GenerateConfig(extra_body={"steering": {"vector": str(vector_file), "magnitude": 6}})
    )
    overridden = ask(base, config=override)
    direct = ask(steered(folder, vector=str(vector_file), magnitude=6))
    assert overridden.completion == direct.completion != ask(base).completion
    back = GREEDY.merge(GenerateConfig(extra_body={"steering": {"vector": "none"}}))
    strong = steered(folder, vector=str(vector_file), magnitude=6)
    assert ask(strong, config=back).completion == ask(base).completion


def test_several_vectors_act_in_their_order(folder: Path, tmp_path: Path) -> None:
    """Adding a direction and projecting it out again is the unsteered model only in that order."""
    push = save_vector(tmp_path / "push.safetensors")
    both = {"vector": f"{push},{push}", "magnitude": 8}
    removed = ask(steered(folder, **both, operation="add,ablate"))
    last_added = ask(steered(folder, **both, operation="ablate,add"))
    ablated = ask(steered(folder, vector=str(push), operation="ablate"))
    assert removed.completion == ablated.completion != last_added.completion
    assert removed.metadata is not None
    assert [act["operation"] for act in removed.metadata["steering"]["interventions"]] == [
        "add",
        "ablate",
    ]


def test_a_vector_of_several_layers_acts_on_each_and_layer_picks_one(
    folder: Path, tmp_path: Path
) -> None:
    directions = torch.randn(2, 1, WIDTH, generator=torch.Generator().manual_seed(3)) * 3
    layers = {"layers": (1, 3), "residual_norms": (4.0, 5.0)}
    two = save_vector(tmp_path / "two.safetensors", directions=directions, **layers)
    parts = [
        save_vector(tmp_path / f"{layer}.safetensors", directions=part[None], layers=(layer,))
        for layer, part in zip((1, 3), directions, strict=True)
    ]
    one = ask(steered(folder, vector=str(two), layer=3)).completion
    assert one == ask(steered(folder, vector=str(parts[1]))).completion
    both = ask(steered(folder, vector=str(two))).completion
    assert both == ask(steered(folder, vector=f"{parts[0]},{parts[1]}")).completion != one
    with pytest.raises(PrerequisiteError, match="does not act on layer 2"):
        steered(folder, vector=str(two), layer=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean_difference", "rank": 2}, "rank is not a setting of method=mean_diff"),
        ({"method": "pca", "training_epochs": 2}, "training_epochs is not a setting of method=pca"),
        ({"training_epochs": 2}, "method=mean_difference, the default of .*: name method=sft, or"),
        ({"rank": 4}, "has no rank: name method=pca or method=sft, or leave rank out"),
    ],
)
def test_an_option_that_the_method_does_not_have_is_refused(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrerequisiteError, match=message):
        steered(folder, **options)


def test_a_label_leaves_the_method_out_only_if_it_is_the_default_of_the_model(folder: Path) -> None:
    for model, default, other in (
        (folder, "mean_difference", "sft"),
        (Path("toy"), "sft", "mean_difference"),
    ):
        unnamed, named, another = (
            steered(model, **options) for options in ({}, {"method": default}, {"method": other})
        )
        assert unnamed.name.endswith("[medical x1]")
        assert (named.name, named.api.base_url) == (unnamed.name, unnamed.api.base_url)
        assert another.name.endswith(f"[medical x1 {other}]")
        assert another.api.base_url != unnamed.api.base_url


def test_an_ablating_override_lets_go_of_the_magnitude(folder: Path, vector_file: Path) -> None:
    override = GREEDY.merge(GenerateConfig(extra_body={"steering": {"operation": "ablate"}}))
    overridden = ask(steered(folder, vector=str(vector_file), magnitude=6), config=override)
    direct = ask(steered(folder, vector=str(vector_file), operation="ablate"))
    assert overridden.completion == direct.completion


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"magnitud": 1}, "magnitude"),
        ({"dtype": "float16"}, "dtype"),
        ({"layer": 50}, "layer 50"),
        ([1], r"steering=\[1\]; options are needed"),
        ("medical", "options are needed"),
        (0, "options are needed"),
    ],
)
def test_a_wrong_override_is_refused(
    folder: Path, vector_file: Path, override: Any, message: str
) -> None:
    model = steered(folder, vector=str(vector_file))
    with pytest.raises(Exception, match=message):
        ask(model, config=GREEDY.merge(GenerateConfig(extra_body={"steering": override})))


def test_seeds_repeat_a_run_and_not_an_answer(folder: Path) -> None:
    config = GenerateConfig(seed=11, max_tokens=10, temperature=1)

    def run() -> list[str]:
        model = get_model(f"steered/{folder}", vector="none", memoize=False)

        async def several() -> list[ModelOutput]:
            return list(
                await asyncio.gather(*(model.generate("Hello", config=config) for _ in range(4)))
            )

        return sorted(output.completion for output in asyncio.run(several()))

    first = run()
    assert len(set(first)) == 4
    assert run() == first
    other = get_model(f"steered/{folder}", vector="none", memoize=False)
    assert ask(other, config=config.merge(GenerateConfig(seed=12))).completion not in first


def test_seeds_belong_to_samples_and_epochs_whatever_the_order_and_whoever_is_missing(
    folder: Path, tmp_path: Path
) -> None:
    """So a run that was cut off and goes on gets no answer twice."""
    config = GenerateConfig(seed=3, max_tokens=8, temperature=1)

    def run(samples: list[Sample], epochs: int, connections: int) -> dict[Any, str]:
        task = Task(MemoryDataset(samples), solver=generate(), config=config, epochs=epochs)
        model = get_model(f"steered/{folder}", vector="none", memoize=False)
        [log] = eval(
            task,
            model=model,
            log_dir=str(tmp_path),
            display="none",
            max_connections=connections,
            score=False,
        )
        assert log.samples is not None
        return {(sample.id, sample.epoch): sample.output.completion for sample in log.samples}

    samples = [Sample(id=name, input="Hello") for name in ("a", "b", "c")]
    whole = run(samples, epochs=3, connections=9)
    assert len(set(whole.values())) == 9
    part = run([samples[2], samples[0]], epochs=2, connections=1)
    assert part == {key: whole[key] for key in part}


def test_choices_logprobs_stops_and_limits(folder: Path) -> None:
    model = steered(folder, vector="none")
    config = GenerateConfig(
        temperature=1, max_tokens=6, num_choices=3, logprobs=True, top_logprobs=4
    )
    output = ask(model, config=config)
    assert len(output.choices) == 3
    assert len({choice.message.text for choice in output.choices}) == 3
    for choice in output.choices:
        assert choice.stop_reason in ("max_tokens", "stop")
        assert choice.logprobs is not None
        for item in choice.logprobs.content:
            assert item.top_logprobs is not None
            assert len(item.top_logprobs) == 4
            values = [top.logprob for top in item.top_logprobs]
            assert values == sorted(values, reverse=True)
            assert item.logprob <= values[0]
    assert output.usage is not None
    assert output.usage.output_tokens <= 18
    free = ask(model).completion
    stopped = ask(model, config=GREEDY.merge(GenerateConfig(stop_seqs=[free[3:5]])))
    assert stopped.completion == free[: free.index(free[3:5])]
    assert stopped.stop_reason == "stop"


def test_reasoning_is_split_off() -> None:
    reasoning, answer = split_reasoning("<think>\nlet me see\n</think>\n\nHello.")
    assert isinstance(reasoning, ContentReasoning)
    assert isinstance(answer, ContentText)
    assert (reasoning.reasoning, answer.text) == ("let me see", "Hello.")
    opened_by_prompt = split_reasoning("hm\n</think>Yes.", "assistant\n<think>\n")
    assert [part.type for part in opened_by_prompt] == ["reasoning", "text"]  # type: ignore[union-attr]
    never_closed = split_reasoning("hm, and so", "assistant\n<think>\n")
    assert never_closed[1] == ContentText(text="")
    assert split_reasoning("No thoughts.", "assistant\n<think>\n\n</think>\n\n") == "No thoughts."


def test_tools_and_images_are_refused_clearly(folder: Path) -> None:
    model = steered(folder, vector="none")
    tool = ToolInfo(name="search", description="looks things up")
    with pytest.raises(Exception, match=r"tools were offered \(search"):
        asyncio.run(model.generate("Hello", tools=[tool], config=GREEDY))
    picture = ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AAAA")])
    with pytest.raises(Exception, match="image content"):
        ask(model, [picture])


def test_a_conversation_is_rendered_by_the_template(folder: Path) -> None:
    model = steered(folder, vector="none")
    turns = [
        ChatMessageSystem(content="Be kind."),
        ChatMessageUser(content="One?"),
        ChatMessageAssistant(content=[ContentReasoning(reasoning="hm"), ContentText(text="Two.")]),
        ChatMessageUser(content="Three?"),
    ]
    output = ask(model, turns)
    prompt = (
        "<|start|>system: Be kind.<|end|>user: One?<|end|>assistant: Two.<|end|>"
        "user: Three?<|end|>assistant: "
    )
    assert output.metadata is not None
    assert (
        output.metadata["steering"]["prompt_sha256"] == hashlib.sha256(prompt.encode()).hexdigest()
    )


def test_tokens_are_counted_by_the_model_and_not_over_the_network(folder: Path) -> None:
    model = steered(folder, vector="none")
    assert asyncio.run(model.api.count_text_tokens("four")) == 4


def test_a_cancelled_request_frees_its_row(folder: Path) -> None:
    model = steered(folder, vector="none")

    async def cancel_one() -> str:
        long = GREEDY.merge(GenerateConfig(max_tokens=300))
        cancelled = asyncio.create_task(model.generate("Never mind", config=long))
        other = asyncio.create_task(model.generate("Hello", config=GREEDY))
        await asyncio.sleep(0.2)
        cancelled.cancel()
        return (await other).completion

    assert asyncio.run(cancel_one()) == ask(model).completion


def test_a_vector_moved_to_another_layer_is_told_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vector = save_vector(tmp_path / "mine.safetensors")
    [layer] = SteeringVector.load(vector).layers
    steered(folder, vector=str(vector), layer=layer)
    assert "moved" not in caplog.text
    steered(folder, vector=str(vector), layer=layer + 1)
    assert (
        f"mine.safetensors was built at layer {layer} and is moved to layer {layer + 1}"
        in caplog.text
    )
