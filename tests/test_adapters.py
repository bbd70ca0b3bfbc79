"""Adapters as options: what is found, what is refused before weights load, and what a log says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inspect_ai
import pytest
import torch
from adapter_files import adapter_at, change_config, save_adapter
from click.testing import CliRunner
from fake_hub import MODEL_COMMIT, fake_hub
from finetuning import train
from inspect_ai._util.error import PrerequisiteError
from safetensors.torch import load_file, save_file
from shell import REPO
from test_provider import GREEDY, ask, save_vector, steered
from tiny_models import LAYERS, WIDTH, save_tiny

from steering.cli import commands
from steering.engines import hf
from steering.models import ModelError, ModelSource, find_model, read_shape, weights_digest
from steering.models.adapters import find_adapter, write_facts
from steering.spec import SpecError, parse_options

CONFIG, WEIGHTS, FACTS = "adapter_config.json", "adapter_model.safetensors", "steering.json"


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


@pytest.fixture(scope="module")
def saved(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(model, tmp_path_factory.mktemp("adapters") / "lora")


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of ours, with its facts beside it."""
    return train(
        model, tmp_path_factory.mktemp("trained") / "knots", training_epochs=1, learning_rate=0.02
    )


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused must be refused before the model is loaded."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(hf, "load_model", refuse)


def copied(folder: Path, out: Path) -> Path:
    return Path(shutil.copytree(folder, out))


ROOT = "base_model.model.model.layers"
QUERY = f"{ROOT}.0.self_attn.q_proj"


def rewrite(folder: Path, changes: dict[str, tuple[int, ...] | None]) -> None:
    """Put weights of these shapes into an adapter's file, or take them out."""
    weights = load_file(folder / WEIGHTS)
    for name, shape in changes.items():
        weights.pop(name, None)
        if shape is not None:
            weights[name] = torch.ones(shape)
    save_file(weights, folder / WEIGHTS)


# What is wrong, how an adapter comes to be so, and what the one line says.
WRONG: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), [f"has no {CONFIG}", "peft or steering"]),
    "config cut off": (
        lambda f: (f / CONFIG).write_text((f / CONFIG).read_text()[:40]),
        [f"{CONFIG} of", "can't be read", "download the folder again"],
    ),
    "config of something else": (lambda f: (f / CONFIG).write_text("[]"), ["can't be read"]),
    "not LoRA": (lambda f: change_config(f, peft_type="IA3"), ["is a IA3", "only LORA"]),
    "DoRA": (lambda f: change_config(f, use_dora=True), ["has DoRA", "merge_and_unload"]),
    "whole modules": (
        lambda f: change_config(f, modules_to_save=["lm_head"]),
        ["whole modules of its own", "merge_and_unload"],
    ),
    "biases": (lambda f: change_config(f, bias="lora_only"), ["biases of its own"]),
    "an init that changes the base": (
        lambda f: change_config(f, init_lora_weights="pissa_niter_4"),
        ["may change the base weights", "pissa_niter_4"],
    ),
    "layers twice": (
        lambda f: change_config(f, layer_replication=[[0, 2], [1, 4]]),
        ["layer_replication", "merge_and_unload"],
    ),
    "a setting of a later peft": (
        lambda f: change_config(f, use_wonder=True),
        ["use_wonder=True", "merge_and_unload"],
    ),
    "code of its choice": (
        lambda f: change_config(f, megatron_config={"a": 1}, megatron_core="wave"),
        ["megatron_config", "merge_and_unload"],
    ),
    "an init that nobody knows": (
        lambda f: change_config(f, init_lora_weights="wonder"),
        ["init_lora_weights=wonder"],
    ),
    "embeddings": (
        lambda f: rewrite(f, {"base_model.model.model.embed_tokens.weight": (259, WIDTH)}),
        ["embed_tokens.weight", "not a LoRA", "merge_and_unload"],
    ),
    "embeddings as a layer has them": (
        lambda f: rewrite(f, {"base_model.model.model.embed_tokens.base_layer.weight": (9, 9)}),
        ["embed_tokens.base_layer.weight", "not a LoRA"],
    ),
    "a head": (
        lambda f: rewrite(f, {"base_model.model.lm_head.weight": (259, WIDTH)}),
        ["lm_head.weight", "not a LoRA"],
    ),
    "a head that its config names": (
        lambda f: rewrite(f, {"base_model.model.lm_head.modules_to_save.weight": (259, WIDTH)}),
        ["lm_head.modules_to_save.weight", "not a LoRA"],
    ),
    "new tokens": (
        lambda f: change_config(f, trainable_token_indices=[1, 2]),
        ["tokens of its own"],
    ),
    "directions with lengths": (
        lambda f: rewrite(f, {f"{QUERY}.lora_magnitude_vector": (WIDTH,)}),
        ["lora_magnitude_vector", "not a LoRA"],
    ),
    "a bias in the file": (
        lambda f: rewrite(f, {f"{QUERY}.lora_B.bias": (WIDTH,)}),
        ["lora_B.bias", "not a LoRA"],
    ),
    "half a layer": (lambda f: rewrite(f, {f"{QUERY}.lora_A.weight": None}), ["lacks", "lora_A"]),
    "a layer that the model lacks": (
        lambda f: rewrite(
            f,
            {
                f"{ROOT}.0.self_attn.w.lora_A.weight": (4, WIDTH),
                f"{ROOT}.0.self_attn.w.lora_B.weight": (WIDTH, 4),
            },
        ),
        ["self_attn.w.lora_A", "has no layer"],
    ),
    "a layer that its config leaves out": (
        lambda f: change_config(f, target_modules=["o_proj"]),
        ["has no layer", "target_modules"],
    ),
    "no layer of the model": (
        lambda f: change_config(f, target_modules=["no_such_layer"]),
        ["no_such_layer"],
    ),
    "another rank than its config says": (
        lambda f: change_config(f, r=3),
        ["stores", "[4, 48]", "[3, 48]"],
    ),
    "a rank that no memory holds": (
        lambda f: change_config(f, r=10**12),
        ["stores", "[4, 48]"],
    ),
    "ranks of another pattern": (
        lambda f: change_config(f, rank_pattern={"q_proj": 2}),
        ["q_proj.lora_", "[2, 32]"],
    ),
    "another width inside": (
        lambda f: rewrite(f, {f"{ROOT}.0.mlp.down_proj.lora_A.weight": (4, 40)}),
        ["down_proj.lora_A", "[4, 40]", "[4, 48]"],
    ),
    "a pattern that never ends": (
        lambda f: change_config(f, target_modules=r"(?:(?:[a-z._0-9]|[a-z])+)+[!?]"),
        ["target_modules", "takes too long"],
    ),
    "a pattern that is none": (
        lambda f: change_config(f, target_modules="(q_proj"),
        ["target_modules", "(q_proj"],
    ),
    "a rank that is a word": (lambda f: change_config(f, r="four"), ["r=", "four"]),
    "config of a million brackets": (
        lambda f: (f / CONFIG).write_text("[" * 10**6),
        ["can't be read"],
    ),
    "config that is a pipe": (
        lambda f: ((f / CONFIG).unlink(), os.mkfifo(f / CONFIG)),
        ["can't be read", "pipe"],
    ),
    "weights that never end": (
        lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).symlink_to("/dev/zero")),
        ["device"],
    ),
    "weights of Git LFS": (
        lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        ["git lfs pull"],
    ),
    "facts that are a pipe": (lambda f: os.mkfifo(f / FACTS), ["can't be read", "pipe"]),
    "facts that are none": (lambda f: (f / FACTS).write_text("[]"), ["can't be read"]),
    "an alpha that is none": (
        lambda f: change_config(f, lora_alpha=float("nan")),
        ["lora_alpha=nan"],
    ),
    "a base that is a number": (
        lambda f: change_config(f, base_model_name_or_path=7, peft_type="OFT"),
        ["is a OFT"],
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), [f"has no {WEIGHTS}", "save_pretrained"]),
    "a pickle": (
        lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"),
        [f"has no {WEIGHTS}", "runs no code"],
    ),
    "weights cut off": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
        [f"{WEIGHTS} of", "damaged", "download or train it again"],
    ),
    "weights of something else": (
        lambda f: (f / WEIGHTS).write_bytes(b"PK" * 500),
        [f"{WEIGHTS} of", "damaged"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_adapter_is_told_in_one_line(
    case: str, model: Path, saved: Path, tmp_path: Path, no_weights: None
) -> None:
    folder = copied(saved, tmp_path / "lora")
    spoil, parts = WRONG[case]
    spoil(folder)
    with pytest.raises(PrerequisiteError) as caught:
        steered(model, adapter=str(folder))
    message = str(caught.value)
    assert "\n" not in message.strip()
    for part in [*parts, "lora"]:
        assert part in message


def test_an_adapter_of_another_model_is_told_by_its_width_or_depth(
    model: Path, saved: Path, tmp_path: Path, no_weights: None
) -> None:
    deep = save_tiny(tmp_path / "deep", "llama", layers=LAYERS + 2)
    low_rank_map = save_adapter(deep, tmp_path / "of_deep")
    with pytest.raises(ModelError, match=rf"changes block {LAYERS}, .* has blocks 0-{LAYERS - 1}"):
        adapter_at(model, low_rank_map)
    assert adapter_at(deep, low_rank_map).folder == low_rank_map
    source = find_model(str(model))
    wide = type(read_shape(source))(num_layers=LAYERS, width=2 * WIDTH, context_length=None)
    with pytest.raises(ModelError, match=f"of a model of width {WIDTH}, .* has width {2 * WIDTH}"):
        find_adapter(str(saved), source, wide, weights_digest(source))


def test_an_adapter_of_ours_knows_its_base_weights(
    model: Path, trained: Path, tmp_path: Path, no_weights: None
) -> None:
    other = save_tiny(tmp_path / "other", "llama", seed=1)
    assert adapter_at(model, trained).facts["training_epoch"] == 1
    with pytest.raises(ModelError, match=r"was trained on .* with weights \w{12}, but"):
        adapter_at(other, trained)


def test_a_hub_id_in_the_config_must_be_the_models(
    model: Path, saved: Path, tmp_path: Path
) -> None:
    """A mirror has another owner; what was trained on a folder says nothing."""
    source = ModelSource("own/Llama-8B", "own/Llama-8B", local=False)
    shape, folder = read_shape(find_model(str(model))), copied(saved, tmp_path / "lora")
    for base, fits in [
        ("own/Llama-8B", True),
        ("mirror/llama-8b", True),
        ("own/Qwen-4B", False),
        ("/home/somebody/llama", True),
        (None, True),
    ]:
        change_config(folder, base_model_name_or_path=base)
        if fits:
            find_adapter(str(folder), source, shape, "0")
        else:
            with pytest.raises(ModelError, match=r"is of own/Qwen-4B, not of own/Llama-8B"):
                find_adapter(str(folder), source, shape, "0")


def test_weights_that_were_changed_after_training_are_refused(
    model: Path, trained: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path / "changed")
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=f"{WEIGHTS} is missing or damaged: train it again"):
        adapter_at(model, folder)


@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("no/such/folder", "is not a folder"),
        ("nowhere", "is not a folder"),
        ("./gone", "is not a folder"),
    ],
)
def test_a_folder_that_is_not_there(
    model: Path, location: str, part: str, no_weights: None
) -> None:
    with pytest.raises(PrerequisiteError, match=part):
        steered(model, adapter=location)


HUB = """
import sys
from steering.models.adapters import find_adapter
from steering.models import find_model, read_shape, weights_digest
source = find_model(sys.argv[1])
found = find_adapter("own/lora", source, read_shape(source), weights_digest(source))
print(found.digest, found.folder.name)
"""


def test_an_adapter_of_the_hub_is_fetched_once_and_then_had_without_a_network(
    model: Path, saved: Path, tmp_path: Path
) -> None:
    def questions(**env: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"HF_HOME": str(tmp_path / "hub")} | env
        command = [sys.executable, "-c", HUB, str(model)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    (copied(saved, tmp_path / "lora") / "training_args.bin").write_bytes(b"never fetched")
    with fake_hub({"own/lora": tmp_path / "lora"}) as address:
        online = questions(HF_ENDPOINT=address)
        assert online.returncode == 0, online.stderr
    assert online.stdout.split() == [adapter_at(model, saved).digest, MODEL_COMMIT]
    assert not list((tmp_path / "hub").rglob("training_args.bin"))
    for env in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": address}):
        offline = questions(**env)
        assert offline.stdout == online.stdout, offline.stderr
    shutil.rmtree(tmp_path / "hub")
    offline_miss = questions(HF_HUB_OFFLINE="1")
    assert (
        "ModelError: adapter=own/lora is not a folder, and can't be downloaded"
        in offline_miss.stderr
    )


def test_the_name_of_an_adapter_tells_content_and_scale(model: Path, saved: Path) -> None:
    assert len({adapter_at(model, saved, scale).name for scale in (1.0, 0.5, -0.5, 1e-3)}) == 4
    assert "." not in adapter_at(model, saved, 0.5).name


# The options.


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"magnitude": 2}, ["magnitude= beside adapter=", "vector=default"]),
        ({"target": "finance"}, ["target= beside adapter="]),
        ({"adapter_scale": 0}, ["adapter_scale=0", "other than 0"]),
        ({"adapter_scale": "nan"}, ["adapter_scale='nan'", "finite"]),
        ({"adapter_scale": "big"}, ["adapter_scale='big'", "valid number"]),
        ({"vector": "none", "magnitude": 2}, ["magnitude=", "vector=none"]),
    ],
)
def test_options_beside_an_adapter(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        parse_options({"adapter": "adapters/medical"} | options)
    for part in parts:
        assert part in str(caught.value)


def test_an_adapter_that_is_left_empty_is_no_default() -> None:
    """As a script with an unset variable gives it."""
    with pytest.raises(SpecError, match=r"adapter=.*empty"):
        parse_options({"adapter": None})


def test_a_scale_needs_an_adapter() -> None:
    with pytest.raises(SpecError, match="adapter_scale= has no effect without adapter="):
        parse_options({"adapter_scale": 2})


def test_an_adapter_alone_leaves_the_model_unsteered() -> None:
    assert not parse_options({"adapter": "a"}).interventions
    assert parse_options({"adapter": "a"}).label() != parse_options({"vector": "none"}).label()
    assert parse_options({"adapter": "a", "vector": "default"}).interventions


def test_a_condition_is_known_by_what_the_adapter_holds(
    model: Path, saved: Path, tmp_path: Path
) -> None:
    same = copied(saved, tmp_path / "deeper" / "lora")
    other = save_adapter(model, tmp_path / "other" / "lora", seed=1)
    prints = [steered(model, adapter=str(folder)).api.base_url for folder in (saved, same, other)]
    assert prints[0] == prints[1] != prints[2]
    names = [steered(model, adapter=str(folder)).name for folder in (saved, same, other)]
    assert names[0] == names[1] != names[2]
    scaled = steered(model, adapter=str(saved), adapter_scale=2).api.base_url
    baseline = steered(model, vector="none").api.base_url
    assert len({scaled, baseline, prints[0]}) == 3


# The provider.


def test_what_a_log_says_of_an_adapter(model: Path, trained: Path, tmp_path: Path) -> None:
    output = ask(steered(model, adapter=str(trained), adapter_scale=4))
    metadata = output.metadata or {}
    steering = metadata["steering"]
    assert steering["adapter"]["name"] == "knots"
    assert steering["adapter"]["scale"] == 4
    assert steering["adapter"]["digest"] == adapter_at(model, trained).digest
    assert steering["adapter"]["training_epoch"] == 1
    assert str(trained.parent) not in json.dumps(metadata)
    assert "interventions" not in steering
    assert output.completion != ask(steered(model, vector="none")).completion


def test_an_adapter_that_was_trained_under_another_name_of_the_model_loads_without_a_warning(
    model: Path, saved: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    alias = copied(saved, tmp_path / "alias")
    change_config(alias, base_model_name_or_path="smollm2")
    assert ask(steered(model, adapter=str(alias))).completion
    assert not [str(one.message) for one in recwarn if "renamed" in str(one.message)]


def test_an_adapter_is_combined_with_a_vector_that_is_named(
    model: Path, saved: Path, tmp_path: Path
) -> None:
    file = str(save_vector(tmp_path / "some.safetensors"))
    arms: list[dict[str, Any]] = [
        {"vector": "none"},
        {"vector": file, "magnitude": 20},
        {"adapter": str(saved)},
        {"adapter": str(saved), "vector": file, "magnitude": 20},
    ]
    answers = [ask(steered(model, **options)).completion for options in arms]
    assert len(set(answers)) == 4


def test_a_request_keeps_the_adapter_when_it_overrides_other_options(
    model: Path, saved: Path, tmp_path: Path
) -> None:
    file = str(save_vector(tmp_path / "some.safetensors"))
    both = {"vector": file, "magnitude": 20}
    overridden = GREEDY.model_copy(update={"extra_body": {"steering": both}})
    one = ask(steered(model, adapter=str(saved)), config=overridden)
    assert one.completion == ask(steered(model, adapter=str(saved), **both)).completion


def test_em_target_asks_about_the_target_of_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the report takes a finetuned run for no baseline, but compares it with one."""
    monkeypatch.chdir(tmp_path)
    source = find_model("toy")
    folder = save_adapter(Path(source.location), tmp_path / "adapters" / "money", size=0.01)
    # As steering finetune writes them, which test_cli_finetune.py shows.
    write_facts(folder, {"weights": weights_digest(source), "target_source": "finance"})
    questions = []
    for options, task_args in (
        ({"adapter": "adapters/money"}, {}),
        ({"vector": "none"}, {"target": "finance"}),
    ):
        [log] = inspect_ai.eval(
            f"{REPO}/evals/em_target.py@em_target",
            model="steered/toy",
            model_args=options,
            task_args=task_args,
            limit=3,
            log_dir="logs",
            display="none",
        )
        assert log.status == "success", log.error
        questions.append([sample.input for sample in log.samples or []])
    assert questions[0] == questions[1]
    monkeypatch.setenv("COLUMNS", "200")
    steering = " ".join(CliRunner().invoke(commands, ["report", "logs"]).output.split())
    assert re.search(
        r"toy\[adapter money-\w+\] - toy\[baseline\]: EM betley [+-]\d+ points", steering
    )
    assert "can't be compared" not in steering


def test_no_file_of_an_adapter_runs_code(model: Path, saved: Path, tmp_path: Path) -> None:
    """A pickle beside the weights is never opened."""
    folder = copied(saved, tmp_path / "lora")
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    plain, beside = (ask(steered(model, adapter=str(f))).completion for f in (saved, folder))
    assert plain == beside
    assert not Path("pwned").exists()
