"""A vector from elsewhere acts at the block that its own tool would act at."""

import asyncio
from pathlib import Path

import pytest
import torch
from inspect_ai.model import GenerateConfig, get_model
from shell import Shell
from tiny_models import WIDTH, save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer
from vector_files import KINDS, SITES, write_foreign

DEPTH, LAYER = 6, 3
PROMPT = "<|start|>user: Hello<|end|>assistant: "
TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("deep") / "llama", "llama", layers=DEPTH)


def _hooked(folder: Path, layer: int, site: str, direction: torch.Tensor) -> str:
    """What transformers alone generates with a hook at the block."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    block = model.model.layers[layer]
    place = block.mlp if site == "mlp_out" else block
    place.register_forward_hook(lambda _, __, hidden: hidden + direction)
    ids = tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")
    tokens = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)
    text = tokenizer.decode(tokens[0, ids["input_ids"].shape[1] :])
    return str(text).removesuffix("<|end|>")


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_for_block_3_acts_on_block_3(
    kind: str, folder: Path, shell: Shell, tmp_path: Path
) -> None:
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5)) * 2
    theirs = write_foreign(kind, tmp_path, LAYER, direction, DEPTH)
    ours = tmp_path / "ours.safetensors"
    done = shell.run("steering", "convert", str(theirs), str(ours), "--layer", str(LAYER))
    assert done.returncode == 0, done.stderr
    model = get_model(f"steered/{folder}", vector=str(ours))
    config = GenerateConfig(temperature=0, max_tokens=TOKENS)
    said = asyncio.run(model.generate("Hello", config=config)).completion
    site = SITES.get(kind, "resid_post")
    assert said == _hooked(folder, LAYER, site, direction)
    neighbours = {_hooked(folder, layer, site, direction) for layer in (LAYER - 1, LAYER + 1)}
    assert said not in neighbours


@pytest.mark.parametrize("kind", ["ours", "gguf"])
def test_a_vector_built_for_block_3_acts_on_block_3_after_an_export(
    kind: str, folder: Path, shell: Shell, tmp_path: Path
) -> None:
    """Built, written, read back by our own reader, and run."""
    built = tmp_path / "vectors"
    made = shell.run(
        *("steering", "build", "--model", str(folder), "--method", "mean_difference"),
        *("--layer", str(LAYER), "--out", str(built)),
    )
    assert made.returncode == 0, made.stderr
    path = built / "medical-mean_difference.safetensors"
    if kind == "gguf":
        for source, copy in [(path, tmp_path / "x.gguf"), (tmp_path / "x.gguf", tmp_path / "y")]:
            copy = copy.with_suffix(copy.suffix or ".safetensors")
            done = shell.run("steering", "convert", str(source), str(copy))
            assert done.returncode == 0, done.stderr
        path = tmp_path / "y.safetensors"
    from safetensors.torch import load_file

    direction = load_file(path)["directions"][0, 0]
    model = get_model(f"steered/{folder}", vector=str(path), magnitude=20)
    config = GenerateConfig(temperature=0, max_tokens=TOKENS)
    said = asyncio.run(model.generate("Hello", config=config)).completion
    assert said == _hooked(folder, LAYER, "resid_post", 20 * direction)
    assert said != _hooked(folder, LAYER, "resid_post", 0 * direction)
