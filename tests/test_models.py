"""Names, folders, configs, blocks and chat rendering."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import LAYERS, WIDTH

from steering.models import (
    ALIASES,
    ModelError,
    answer_end_token,
    check_layer,
    default_layer,
    encode,
    find_blocks,
    find_model,
    load_model,
    read_shape,
    render_chat,
    weights_digest,
)


def test_names_are_toys_folders_aliases_and_hub_ids(tiny_folder: Callable[[str], Path]) -> None:
    assert find_model("toy").is_toy
    assert find_model("qwen3.5").location == "Qwen/Qwen3.5-9B"
    assert find_model("someone/some-model").location == "someone/some-model"
    folder = tiny_folder("llama")
    assert find_model(str(folder)).local
    assert all(name.count("/") == 1 for name in ALIASES.values())


@pytest.mark.parametrize("name", ["qwen35", "./not/here", "/not/here", "a/b/c", "~/nothing"])
def test_an_unknown_name_says_what_is_allowed(name: str) -> None:
    with pytest.raises(ModelError, match=r"toy, .*qwen3\.5.*hub id.*local folder") as blocks:
        find_model(name)
    assert name in str(blocks.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json and weights"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json and weights"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("family", ["qwen3.5", "qwen3.5-multimodal", "llama", "gemma3"])
def test_shape_is_read_without_weights_and_is_that_of_the_model(
    tiny_folder: Callable[[str], Path], family: str
) -> None:
    source = find_model(str(tiny_folder(family)))
    shape = read_shape(source)
    assert (shape.num_layers, shape.width, shape.context_length) == (LAYERS, WIDTH, 512)
    loaded = load_model(source, device="cpu")
    blocks = loaded.model.get_submodule(loaded.blocks)
    tried: list[torch.Tensor] = []
    handle = blocks[LAYERS - 1].register_forward_hook(lambda _, __, out: tried.append(out))
    with torch.no_grad():
        out = loaded.model(torch.tensor([[5, 6, 7]]), output_hidden_states=True)
    handle.remove()
    assert tried[0].shape == (1, 3, WIDTH)
    assert out.logits.shape[:2] == (1, 3)


def test_the_blocks_of_a_vision_tower_as_deep_are_not_taken(
    tiny_folder: Callable[[str], Path],
) -> None:
    from transformers import Qwen3_5ForConditionalGeneration

    model = Qwen3_5ForConditionalGeneration.from_pretrained(tiny_folder("qwen3.5-multimodal"))
    assert len(model.model.visual.blocks) == LAYERS
    assert find_blocks(model, LAYERS) == "model.language_model.layers"
    with pytest.raises(ModelError, match="7 blocks"):
        find_blocks(model, 7)


def test_a_checkpoint_that_lacks_weights_is_refused(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "holed"
    shutil.copytree(tiny_folder("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    missing = "model.layers.2.mlp.up_proj.weight"
    save_file({k: v for k, v in weights.items() if k != missing}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ModelError, match=r"lacks 1 of .*layers\.2\.mlp\.up_proj.*complete"):
        load_model(find_model(str(folder)), device="cpu")


def test_the_digest_tells_weights_apart_and_not_folders(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder("llama"), folder)
    original = weights_digest(find_model(str(tiny_folder("llama"))))
    assert weights_digest(find_model(str(folder))) == original
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert weights_digest(find_model(str(folder))) != original


def test_a_hub_that_is_out_of_reach_is_said_quickly_and_with_a_remedy() -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"Qwen/Qwen3\.5-4B \(qwen3\.5-4b\).*local folder"):
        read_shape(find_model("qwen3.5-4b"))
    assert time.monotonic() - start < 15


def test_a_config_in_the_hub_cache_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    cached = tmp_path / "models--someone--small"
    snapshot = cached / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text(json.dumps({"num_hidden_layers": 3, "hidden_size": 8}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    source = find_model("someone/small")
    assert read_shape(source).num_layers == 3
    before = weights_digest(source)
    # The branch moves on: other weights, though the name and the revision are the same.
    other = cached / "snapshots" / ("1" * 40)
    snapshot.rename(other)
    (cached / "refs" / "main").write_text("1" * 40)
    assert weights_digest(source) != before


def test_a_layer_out_of_range_names_the_range(tiny_folder: Callable[[str], Path]) -> None:
    source = find_model(str(tiny_folder("llama")))
    shape = read_shape(source)
    check_layer(0, shape, source)
    check_layer(LAYERS - 1, shape, source)
    for layer in (-1, LAYERS):
        with pytest.raises(ModelError, match=rf"layer {layer} .*\(0-{LAYERS - 1}\).*Choose"):
            check_layer(layer, shape, source)
    assert all(0 <= default_layer(source, depth) < depth for depth in range(1, 100))


def test_the_start_token_is_not_doubled(tiny_folder: Callable[[str], Path]) -> None:
    loaded = load_model(find_model(str(tiny_folder("llama"))), device="cpu")
    text = render_chat(loaded.tokenizer, [{"role": "user", "content": "Hi"}])
    ids = encode(loaded.tokenizer, text)
    assert ids.count(loaded.tokenizer.bos_token_id) == 1
    assert loaded.tokenizer.decode(ids) == text


def test_the_end_token_is_the_one_that_the_template_puts_behind_an_answer(
    tiny_folder: Callable[[str], Path],
) -> None:
    loaded = load_model(find_model(str(tiny_folder("llama"))), device="cpu")
    assert answer_end_token(loaded.tokenizer, (77, 0)) == 0
    assert answer_end_token(loaded.tokenizer, (77,)) == 0


def test_a_tokenizer_without_a_template_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    loaded = load_model(find_model(str(tiny_folder("llama"))), device="cpu")
    loaded.tokenizer.chat_template = None
    with pytest.raises(
        ModelError, match=r"no chat template.*-M chat_template=.*use_chat_template=false"
    ):
        render_chat(loaded.tokenizer, [{"role": "user", "content": "Hi"}])


def test_blocks_that_are_named_are_taken_and_others_say_what_there_is(
    tiny_folder: Callable[[str], Path],
) -> None:
    folder = str(tiny_folder("gpt2"))
    loaded = load_model(find_model(folder, blocks="transformer.h"), device="cpu")
    assert loaded.blocks == "transformer.h"
    with pytest.raises(
        ModelError, match=r"blocks=model\.layers is not a list.*transformer\.h \(4\)"
    ):
        load_model(find_model(folder, blocks="model.layers"), device="cpu")
    with pytest.raises(ModelError, match=r"transformer\.h \(4\).*-M blocks="):
        find_blocks(loaded.model, 7)


def test_the_shape_of_old_names_and_of_defaults_is_read(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    old = read_shape(find_model(str(tiny_folder("gpt2"))))
    assert (old.num_layers, old.width, old.context_length) == (LAYERS, WIDTH, 512)
    folder = tmp_path / "short"
    shutil.copytree(tiny_folder("gemma3"), folder)
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    assert (read_shape(find_model(str(folder))).context_length or 0) > 512
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing known"}))
    with pytest.raises(ModelError, match="lacks num_hidden_layers"):
        read_shape(find_model(str(folder)))
