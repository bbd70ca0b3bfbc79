"""A vector of another tool acts at the block at which that tool would act."""

import asyncio
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from inspect_ai.model import GenerateConfig, get_model
from safetensors.torch import load_file
from tiny_models import WIDTH, save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer
from vector_files import KINDS, SITES, write_foreign

from steering.cli import commands

DEPTH, LAYER = 6, 3
PROMPT = "<|start|>user: Hello<|end|>assistant: "
TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(
        tmp_path_factory.mktemp("deep") / "llama",
        "llama",
        layers=DEPTH,
        max_position_embeddings=1024,
    )


@pytest.fixture(scope="module")
def vector(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vector that was built for block 3."""
    out = tmp_path_factory.mktemp("vectors")
    command = ("build", "--model", folder, "--method", "mean_difference", "--layer", LAYER)
    _run(*command, "--out", out)
    return out / "medical.safetensors"


def _run(*arguments: object) -> None:
    result = CliRunner().invoke(commands, list(map(str, arguments)))
    assert result.exit_code == 0, f"{result.output} {result.exception}"


def _steered(folder: Path, **options: object) -> str:
    model = get_model(f"steered/{folder}", **options)
    config = GenerateConfig(temperature=0, max_tokens=TOKENS)
    return asyncio.run(model.generate("Hello", config=config)).completion


def _hooked(folder: Path, layer: int, site: str, direction: torch.Tensor) -> str:
    """The text that transformers alone generates with a hook at the block."""
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
def test_a_vector_for_block_3_acts_on_block_3(kind: str, folder: Path, tmp_path: Path) -> None:
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5)) * 2
    theirs = write_foreign(kind, tmp_path, LAYER, direction, DEPTH)
    ours = tmp_path / "ours.safetensors"
    # Rows alone do not say whether the first is the embedding's.
    convention = ["--convention", "blocks+embedding"] if kind == "persona" else []
    _run("convert", theirs, ours, "--layer", LAYER, *convention)
    text = _steered(folder, vector=str(ours))
    site = SITES.get(kind, "resid_post")
    assert text == _hooked(folder, LAYER, site, direction)
    neighbours = {_hooked(folder, layer, site, direction) for layer in (LAYER - 1, LAYER + 1)}
    assert text not in neighbours


def test_a_vector_built_for_block_3_acts_on_block_3_before_and_after_an_export(
    folder: Path, vector: Path, tmp_path: Path
) -> None:
    direction = load_file(vector)["directions"][0, 0]
    _run("convert", vector, tmp_path / "x.gguf")
    _run("convert", tmp_path / "x.gguf", tmp_path / "y.safetensors")
    expected = _hooked(folder, LAYER, "resid_post", 20 * direction)
    assert expected != _hooked(folder, LAYER, "resid_post", 0 * direction)
    for path in (vector, tmp_path / "y.safetensors"):
        assert _steered(folder, vector=str(path), magnitude=20) == expected
