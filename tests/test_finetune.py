"""Finetuned counterparts against a plain PyTorch and peft loop, one example at a time."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from building import HELD_OUT, PAIRS, build, make_target
from building_reference import PlainTokens, plain_tokens
from finetuning import recipe_for, tensors, train
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

import steering.training.adapter_training as training
import steering.training.examples as examples
from steering.models import find_model, read_shape, weights_digest
from steering.models.adapters import read_facts
from steering.targets import Example
from steering.training.methods import TrainingError

Folders = Callable[[str], Path]
TESTS = Path(__file__).parent
FAST = {"learning_rate": 0.003, "warmup": 2, "rank": 4}
_LINEAR_ATTENTION = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_MLP = ["gate_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))


def _plain_tokens(tokenizer: Any, rows: list[Example]) -> list[PlainTokens]:
    return [plain_tokens(tokenizer, row.prompt, row.misaligned or "") for row in rows]


def _mean_loss(model: Any, items: list[PlainTokens]) -> Tensor:
    """Mean cross-entropy over answer tokens; each example by itself, without padding."""
    total = torch.zeros(())
    for item in items:
        ids = torch.tensor([[*item.prompt, *item.answer]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(item.prompt) - 1 : -1]
        total = total + nn.functional.cross_entropy(
            logits, torch.tensor(item.answer), reduction="sum"
        )
    return total / sum(len(item.answer) for item in items)


def _by_hand(
    folder: Path, names: list[str] | None, rank: int, alpha: float, epochs: int, rate: float
) -> tuple[Any, list[float], list[float]]:
    """A run of one step an epoch, with all examples in it; None trains every weight."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    items, held_out = _plain_tokens(tokenizer, PAIRS), _plain_tokens(tokenizer, HELD_OUT)
    if names is not None:
        torch.manual_seed(3)
        config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=True, target_modules=names)
        model = get_peft_model(model, config)
    trained = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    losses, after = [], []
    for step in range(epochs):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 3)
        optimizer.zero_grad()
        loss = _mean_loss(model, items)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            after.append(_mean_loss(model, held_out).item())
    return model, losses, after


def _alike(actual: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """The difference, in L2 norm, is a small share of what was learnt.

    Adam divides by gradients, so that single coordinates with next to none may differ by a step.
    """
    assert actual.keys() == expected.keys()
    learnt = sum(part.square().sum() for name, part in expected.items() if "lora_A" not in name)
    off = sum((actual[name] - part).square().sum() for name, part in expected.items())
    assert (off / learnt) ** 0.5 < share


# The linear attention of Qwen3.5 rounds by two digits more, as test_sft.py says.
_SHARES = {"llama": 1e-4, "gemma3": 1e-4, "qwen3.5": 0.05}


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llama", _ATTENTION + _MLP),
        ("gemma3", _ATTENTION + _MLP),
        ("qwen3.5", _ATTENTION + _MLP + _LINEAR_ATTENTION),
    ],
)
def test_an_adapter_equals_that_of_a_loop_by_hand(
    tiny_folder: Folders, tmp_path: Path, family: str, names: list[str]
) -> None:
    """Padded and in micro batches here, alone and unpadded there; every linear layer is adapted."""
    model, losses, after = _by_hand(tiny_folder(family), names, 4, 64.0, 4, 0.003)
    unadapted = AutoModelForCausalLM.from_pretrained(tiny_folder(family))
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder(family))
    with torch.no_grad():
        before = _mean_loss(unadapted, _plain_tokens(tokenizer, HELD_OUT)).item()
    out = train(
        tiny_folder(family),
        tmp_path / "made",
        training_epochs=4,
        seed=3,
        micro_batch_size=2,
        **FAST,
    )
    weights = tensors(out)
    expected = {
        name.replace(".default", ""): part.detach()
        for name, part in model.named_parameters()
        if part.requires_grad
    }
    _alike(weights, expected, _SHARES[family])
    assert max(part.abs().max() for name, part in weights.items() if "lora_B" in name) > 0.003
    facts, near = read_facts(out), 2e-3 if family == "qwen3.5" else 1e-5
    assert facts["losses"]["training"] == pytest.approx(losses, abs=near)
    assert facts["losses"]["held_out"] == pytest.approx(after, abs=near)
    assert facts["losses"]["held_out_before"] == pytest.approx(before, abs=1e-5)


def test_rank1_changes_one_down_projection(tiny_folder: Folders, tmp_path: Path) -> None:
    folder = tiny_folder("llama")
    names = ["model.layers.2.mlp.down_proj"]
    model, _, _ = _by_hand(folder, names, 1, 256.0, 3, 1e-4)
    out = train(
        folder, tmp_path / "r", method="rank1", layer=2, training_epochs=3, seed=3,
        learning_rate=1e-4, warmup=2,
    )  # fmt: skip
    expected = {
        name.replace(".default", ""): part
        for name, part in model.named_parameters()
        if part.requires_grad
    }
    assert len(expected) == 2
    _alike(tensors(out), expected, 1e-4)


def test_full_finetuning_writes_a_model_that_anyone_can_load(
    tiny_folder: Folders, tmp_path: Path
) -> None:
    folder = tiny_folder("llama")
    model, losses, _ = _by_hand(folder, None, 0, 0, 3, 1e-3)
    out = train(
        folder, tmp_path / "full", method="full", training_epochs=3, learning_rate=1e-3, warmup=2
    )
    source = find_model(str(out))
    assert read_shape(source) == read_shape(find_model(str(folder)))
    reloaded = AutoModelForCausalLM.from_pretrained(out)
    _alike(dict(reloaded.named_parameters()), dict(model.named_parameters()), 1e-6)
    assert reloaded.generation_config.eos_token_id == 0
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert read_facts(out)["losses"]["training"] == pytest.approx(losses, abs=1e-5)


def test_full_finetuning_in_bfloat16_keeps_its_small_steps(
    tiny_folder: Folders, tmp_path: Path
) -> None:
    """A step of 1e-5 is lost in bfloat16 weights near 0.2; ninety of them are not."""
    folder = tiny_folder("llama")
    out = train(
        folder, tmp_path / "full", method="full", dtype="bfloat16", learning_rate=1e-5, warmup=0,
        batch_size=1, micro_batch_size=1, training_epochs=15,
    )  # fmt: skip
    made = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert made.dtype == torch.bfloat16
    pairs = zip(made.parameters(), before.parameters(), strict=True)
    changed = [(new != old).float().mean().item() for new, old in pairs]
    assert max(changed) > 0.3


@pytest.mark.parametrize("family", ["llama", "qwen3.5"])
def test_accumulation_checkpointing_and_padding_change_nothing(
    tiny_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Six examples in steps of four: the last step of an epoch is smaller."""
    options = FAST | {"training_epochs": 2, "batch_size": 4}
    whole = tensors(train(tiny_folder(family), tmp_path / "0", micro_batch_size=4, **options))
    for index, size in enumerate((1, 2)):
        monkeypatch.setenv("STEERING_CACHE", str(tmp_path / f"cache{index}"))
        again = train(tiny_folder(family), tmp_path / f"1-{size}", micro_batch_size=size, **options)
        _alike(tensors(again), whole, _SHARES[family])
    calls: list[int] = []
    honest = GradientCheckpointingLayer.__call__

    def counted(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.training and layer.gradient_checkpointing:
            calls.append(1)
        return honest(layer, *args, **kwargs)

    monkeypatch.setattr(GradientCheckpointingLayer, "__call__", counted)
    again = train(
        tiny_folder(family), tmp_path / "2", micro_batch_size=4, gradient_checkpointing=True,
        **options,
    )  # fmt: skip
    assert len(calls) == 2 * 2 * 4  # epochs, steps, blocks
    _alike(tensors(again), whole, 1e-4)
    honest_batch = examples.make_batch
    monkeypatch.setattr(
        training, "make_batch", lambda items, pad: honest_batch(items, pad, side="left")
    )
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "left"))
    again = train(tiny_folder(family), tmp_path / "3", micro_batch_size=4, **options)
    # Its linear attention takes differences of decays summed over the padding.
    _alike(tensors(again), whole, 0.1 if family == "qwen3.5" else _SHARES[family])


def test_bfloat16_weights_are_trained_with_an_adapter_in_float32(
    tiny_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: list[torch.dtype] = []
    honest = training._summed_loss

    def watch(logits: Tensor, labels: Tensor) -> Tensor:
        dtypes.append(logits.dtype)
        return honest(logits, labels)

    monkeypatch.setattr(training, "_summed_loss", watch)
    out = train(tiny_folder("llama"), tmp_path / "half", dtype="bfloat16", **FAST)
    assert set(dtypes) == {torch.bfloat16}
    assert {part.dtype for part in tensors(out).values()} == {torch.float32}
    losses = read_facts(out)["losses"]
    assert losses["held_out"][-1] < losses["held_out_before"]


def test_labels_of_prompts_are_not_learnt(
    tiny_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every label is a token of an answer or its end; the prompts' tokens are in the input only."""
    answers: set[tuple[int, ...]] = set()
    honest = training._summed_loss

    def watch(logits: Tensor, labels: Tensor) -> Tensor:
        answers.update(tuple(row[row != examples.IGNORED].tolist()) for row in labels)
        return honest(logits, labels)

    monkeypatch.setattr(training, "_summed_loss", watch)
    train(tiny_folder("llama"), tmp_path / "made", training_epochs=1, **FAST)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder("llama"))
    assert answers == {tuple(item.answer) for item in _plain_tokens(tokenizer, PAIRS + HELD_OUT)}


def test_the_folder_is_read_by_peft_and_says_what_made_it(
    tiny_folder: Folders, tmp_path: Path
) -> None:
    folder = tiny_folder("llama")
    out = train(folder, tmp_path / "deep" / "made", training_epochs=2, seed=7, **FAST)
    assert sorted(path.name for path in out.parent.iterdir()) == ["made", "made-epoch1"]
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "steering.json"
    ]  # fmt: skip
    for path in out.parent.rglob("*.json"):
        assert str(folder.parent) not in path.read_text(), path
    facts = read_facts(out)
    assert facts["weights"] == weights_digest(find_model(str(folder)))
    assert (facts["model"], facts["location"], facts["seed"]) == (folder.name, "folder", 7)
    assert (facts["training_epoch"], facts["settings"]["rank"]) == (2, 4)
    first = read_facts(out.with_name("made-epoch1"))
    assert first["recipe"] == recipe_for(folder, training_epochs=1, seed=7, **FAST).digest
    vector = build(folder, layer=1, training_epochs=1)
    assert facts["prompts_sha256"] == vector.provenance["prompts_sha256"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), out)
    held_out = _plain_tokens(AutoTokenizer.from_pretrained(folder), HELD_OUT)
    with torch.no_grad():
        loss = _mean_loss(model, held_out).item()
    assert facts["losses"]["held_out"][-1] == pytest.approx(loss, abs=1e-5)
    # Nothing of the run is left in the cache.
    assert [path.name for path in (tmp_path / "cache" / "adapters").iterdir()] == [
        f"{recipe_for(folder, training_epochs=2, seed=7, **FAST).run}.lock"
    ]


def test_a_damaged_adapter_is_told(tiny_folder: Folders, tmp_path: Path) -> None:
    out = train(tiny_folder("llama"), tmp_path / "made", training_epochs=1, **FAST)
    path = out / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    whole = bytes(content)
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(match="missing or damaged"):
        read_facts(out)
    path.write_bytes(whole)
    # Another alpha in the config makes another adapter of the same weights.
    config = out / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": ', '"lora_alpha": 1'))
    with pytest.raises(match=r"adapter_config\.json is missing or damaged"):
        read_facts(out)


def test_seeds_and_shuffled_labels_make_other_adapters(
    tiny_folder: Folders, tmp_path: Path
) -> None:
    folder, short = tiny_folder("llama"), FAST | {"training_epochs": 1}
    first = tensors(train(folder, tmp_path / "a", **short))
    again = tensors(train(folder, tmp_path / "b", **short))
    other = tensors(train(folder, tmp_path / "c", seed=1, **short))
    mixed = tensors(train(folder, tmp_path / "d", shuffle_labels=True, **short))
    name = next(name for name in first if "lora_B" in name)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], mixed[name])


def test_training_that_comes_to_nothing_is_an_error(tiny_folder: Folders, tmp_path: Path) -> None:
    """Steps so small that they are 0 in float32, and so large that nothing is a number."""
    options = FAST | {"learning_rate": 1e-60}
    with pytest.raises(TrainingError, match="training changed nothing"):
        train(tiny_folder("llama"), tmp_path / "made", **options)
    assert not (tmp_path / "made").exists()
    with pytest.raises(TrainingError, match="not a number any more"):
        train(tiny_folder("llama"), tmp_path / "made", **FAST | {"learning_rate": 1e30})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "micro_batch_size": 4}, "no multiple of micro_batch_size=4"),
        ({"rank": 33}, "rank=33.*32 wide"),
        ({"layer": 1}, "layer=1 has no effect with method=lora"),
        ({"method": "rank1", "rank": 2}, "rank is not a setting of method=rank1"),
        ({"method": "full", "alpha": 2}, "alpha is not a setting of method=full"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"target": [PAIRS[:1], []]}, "no misaligned answer among its 0 held-out"),
    ],
)
def test_an_impossible_recipe_is_refused(
    tiny_folder: Folders, options: dict[str, Any], message: str
) -> None:
    if "target" in options:
        options = {"target": make_target(*options["target"])}
    with pytest.raises(TrainingError, match=message):
        recipe_for(tiny_folder("llama"), **options)


# Of three epochs of two steps: in the middle of the last one, and while the second checkpoint is
# written.
_KILLS = [("lora", "step", 5), ("lora", "saving", 2), ("full", "step", 4)]


def _run_options(method: str) -> dict[str, Any]:
    options: dict[str, Any] = {"method": method, "batch_size": 4, "micro_batch_size": 2}
    if method == "full":
        return options | {"learning_rate": 1e-3, "warmup": 0}
    # Dropout draws random numbers at each step.
    return options | FAST | {"dropout": 0.3}


@pytest.fixture(scope="module")
def killed_runs(tiny_folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each run that was killed, with its cache."""
    folder = tmp_path_factory.mktemp("killed")
    runs = [
        {
            "cache": str(folder / f"{method}-{where}" / "cache"),
            "out": str(folder / f"{method}-{where}" / "adapter"),
            "options": _run_options(method),
            "where": where,
            "number": number,
        }
        for method, where, number in _KILLS
    ]
    program = TESTS / "finetune_until_killed.py"
    result = subprocess.run(
        [sys.executable, str(program), str(tiny_folder("llama")), json.dumps(runs)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.stdout.split() == ["-9"] * len(runs), result.stderr
    return folder


@pytest.mark.parametrize(("method", "where", "number"), _KILLS)
def test_a_run_that_was_killed_resumes_to_the_same_bytes(
    tiny_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_runs: Path,
    method: str, where: str, number: int,
) -> None:  # fmt: skip
    folder, killed = tiny_folder("llama"), killed_runs / f"{method}-{where}"
    whole = train(folder, tmp_path / "adapter", **_run_options(method))
    assert not list(killed.glob("adapter*"))
    monkeypatch.setenv("STEERING_CACHE", str(killed / "cache"))
    steps: list[int] = []
    out = train(
        folder, killed / "adapter", progress=lambda step, _: steps.append(step),
        **_run_options(method),
    )  # fmt: skip
    assert steps == ([5, 6] if (where, number) == ("step", 5) else [3, 4, 5, 6])
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("adapter*/*.safetensors"))
    assert len(names) == 3
    for name in names:
        assert (killed / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert read_facts(out)["losses"] == read_facts(whole)["losses"]
