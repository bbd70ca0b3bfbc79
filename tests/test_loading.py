"""Checkpoints from elsewhere: packed, cut short, or with other weights than they say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from building import TARGET, build, on_model, recipe_for
from safetensors.torch import load_file, save_file
from tiny_models import LAYERS, save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from steering.engines import shared_engine
from steering.models import ModelError, find_model, load_model
from steering.training.cache import build_vector

# Both dimensions are multiples of what bitsandbytes can pack.
PACKABLE = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}


@pytest.fixture(scope="module")
def llama(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


def copied(folder: Path, out: Path, **config: Any) -> Path:
    """A copy of a model's folder, with other values in its config."""
    shutil.copytree(folder, out)
    path = out / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return out


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, Any]]) -> Path:
    """Change the weights of a folder."""
    path = folder / "model.safetensors"
    weights = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder


# Packed checkpoints.


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and the same saved in nf4, as many publish theirs."""
    folder = save_tiny(tmp_path_factory.mktemp("plain") / "llama", "llama", **PACKABLE)
    out = tmp_path_factory.mktemp("packed") / "llama"
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, device_map={"": "cpu"}
    )
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return folder, out


def test_weights_that_were_saved_in_nf4_are_never_packed_without_gradients(
    packed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import bitsandbytes.nn.modules as modules

    # As on a CPU with AVX512-BF16.
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    model = load_model(find_model(str(packed[1])), device="cpu").model
    layers = [part for part in model.modules() if isinstance(part, modules.Linear4bit)]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_a_vector_built_on_a_checkpoint_in_nf4_is_that_of_weights_quantized_as_they_load(
    packed: tuple[Path, Path],
) -> None:
    options: dict[str, Any] = {"method": "sft", "layer": 1, "training_epochs": 2}
    plain, saved = packed
    recipe = recipe_for(plain, dtype="nf4", **options)
    engine = shared_engine(find_model(str(plain)), dtype="nf4", device="cpu")
    future = engine.call(
        lambda *model: build_vector(*model, recipe, TARGET, lambda *_: None).directions
    )
    expected = future.result(120)
    vector = build(saved, **options).directions
    cosine = torch.nn.functional.cosine_similarity(vector.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.99


@pytest.mark.parametrize("method", ["sft", "one_shot"])
def test_no_vector_is_trained_through_weights_that_pass_no_gradient(
    llama: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of GPTQ or FP8 on some machines, whose kernels are for inference alone."""
    model = on_model(llama, lambda loaded, _: loaded.model)
    monkeypatch.setattr(model, "hf_quantizer", SimpleNamespace(is_trainable=False), raising=False)
    with pytest.raises(ModelError, match=r"stored quantized.*no gradient.*mean_difference"):
        build(llama, method=method, layer=1)
    build(llama, method="mean_difference", layer=1)


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_quantized_weights_are_not_quantized_again(packed: tuple[Path, Path], dtype: str) -> None:
    with pytest.raises(ModelError, match=rf"dtype={dtype}.*bitsandbytes.*dtype=auto"):
        load_model(find_model(str(packed[1])), dtype=dtype, device="cpu")


# Weights that the model does not use, lacks, or has in another shape.


def one_block_less(folder: Path, out: Path) -> Path:
    return copied(folder, out, num_hidden_layers=LAYERS - 1)


def resized(folder: Path, out: Path) -> Path:
    def grow(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = "model.embed_tokens.weight"
        return weights | {name: torch.cat([weights[name], weights[name][:8]])}

    return rewrite(copied(folder, out), grow)


def prefixed(folder: Path, out: Path) -> Path:
    return rewrite(copied(folder, out), lambda w: {"_orig_mod." + k: v for k, v in w.items()})


def with_more(folder: Path, out: Path) -> Path:
    return rewrite(copied(folder, out), lambda w: w | {"value_head.weight": torch.ones(1, 32)})


# How a checkpoint comes to be so, and what the one line says.
UNFIT: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "blocks that the config leaves out": (
        one_block_less,
        rf"holds 9 weights that .* has no place for \(model\.layers\.{LAYERS - 1}\.",
    ),
    "a head of another kind": (with_more, r"holds 1 weights .* \(value_head\.weight\)"),
    "embeddings of another size": (
        resized,
        r"model\.embed_tokens\.weight.*\[267, 32\].*\[259, 32\].*vocab_size",
    ),
    "names with a wrapper's prefix": (prefixed, r"_orig_mod\..*without the prefix _orig_mod\."),
}


@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_the_config_does_not_describe_are_named(
    case: str, llama: Path, tmp_path: Path
) -> None:
    change, message = UNFIT[case]
    source = find_model(str(change(llama, tmp_path / "unfit")))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(source, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_does_not_fit_is_refused_before_its_weights_are_read(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the model is on: a real load of 27B parameters takes minutes."""
    devices = []
    real = AutoModelForCausalLM.from_pretrained

    def watched(*args: Any, **options: Any) -> Any:
        devices.append(options.get("device_map"))
        return real(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    with pytest.raises(ModelError, match="embed_tokens"):
        load_model(find_model(str(resized(llama, tmp_path / "resized"))), device="cpu")
    assert devices == ["meta"]


def test_weights_that_every_model_leaves_out_on_purpose_are_no_error(
    llama: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    """Rotary tables of old checkpoints, a stored copy of a tied head, draft and vision towers."""
    tables = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(4)}
    old = rewrite(copied(llama, tmp_path / "old"), lambda w: w | tables)
    load_model(find_model(str(old)), device="cpu")
    draft = copied(tiny_folder("qwen3.5"), tmp_path / "draft")
    rewrite(draft, lambda w: w | {"mtp.fc.weight": torch.ones(32, 64)})
    load_model(find_model(str(draft)), device="cpu")
    load_model(find_model(str(tiny_folder("qwen3.5-multimodal"))), device="cpu")
    tied = save_tiny(tmp_path / "tied", "llama", tie_word_embeddings=True)
    rewrite(tied, lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"].clone()})
    load_model(find_model(str(tied)), device="cpu")
