"""What finetuning does to the residual stream: against hooks and peft, and in known cases."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import LAYERS, adapter_at, blocks, peft_alone, save_adapter
from building import on_model
from click.testing import CliRunner
from finetuning import train
from finetuning_shift import BlockShift, ShiftError, main, measure_shift
from random_vectors import make_map, make_vector
from safetensors.torch import load_file, save_file
from test_batching import prompt
from tiny_models import LAYERS as BLOCKS
from tiny_models import WIDTH, save_tiny
from transformers import AutoModelForCausalLM

from steering.errors import SteeringError
from steering.training.examples import Tokens
from steering.vectors import SteeringVector

# Ragged, so that padding has to be left out; one without an answer.
ITEMS = [
    Tokens(prompt(5), (*prompt(3, seed=1), 0)),
    Tokens(prompt(9, seed=2), (*prompt(6, seed=3), 0)),
    Tokens(prompt(2, seed=4), (0,)),
]
QUESTIONS = [Tokens(prompt(5), ()), Tokens(prompt(8, seed=1), ())]
TINY = {"r": 4, "target_modules": LAYERS}


def measure(
    model: Path, adapter: Path, items: list[Tokens], **vectors: SteeringVector
) -> dict[str, list[BlockShift]]:
    carried = adapter_at(model, adapter)
    measured = on_model(model, lambda *at: measure_shift(*at, items, carried, vectors))
    assert isinstance(measured, dict)
    return measured


def streams(model: Any, item: Tokens, moved: dict[int, torch.Tensor]) -> torch.Tensor:
    """The residual stream after each block [blocks, tokens, width], by plain hooks on one row."""
    seen: list[torch.Tensor] = []

    def look(layer: int) -> Any:
        def hook(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
            out = out + moved.get(layer, torch.zeros(()))
            seen.append(out[0].double())
            return out

        return hook

    handles = [block.register_forward_hook(look(n)) for n, block in enumerate(blocks(model))]
    with torch.no_grad():
        model(input_ids=torch.tensor([[*item.prompt, *item.answer]]), use_cache=False)
    for handle in handles:
        handle.remove()
    stop = max(len(item) - 1, len(item.prompt) + 1) if item.answer else len(item)
    start = len(item.prompt) if item.answer else len(item) - 1
    return torch.stack(seen)[:, start:stop]


@pytest.mark.parametrize("family", ["llama", "qwen3.5", "gemma3"])
@pytest.mark.parametrize("items", [ITEMS, QUESTIONS], ids=["answers", "prompts"])
def test_figures_equal_those_of_hooks_and_peft_alone(
    family: str, items: list[Tokens], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder(family)
    adapter = save_adapter(folder, tmp_path / "lora", **TINY)
    vector = make_vector(3, layers=[1, 2], width=WIDTH)
    rows = measure(folder, adapter, items, own=vector)["own"]

    base = AutoModelForCausalLM.from_pretrained(folder)
    tuned = peft_alone(folder, adapter)
    moved = {layer: vector.at(layer).directions[0].sum(0) for layer in (1, 2)}
    each = [
        (streams(base, item, {}), streams(tuned, item, {}), streams(base, item, moved))
        for item in items
    ]
    assert len(rows) == BLOCKS
    for layer, row in enumerate(rows):
        shifts = [(t - b)[layer] for b, t, _ in each]
        steered = torch.stack([(s - b)[layer].mean(0) for b, _, s in each]).mean(0)
        mean = torch.stack([shift.mean(0) for shift in shifts]).mean(0)
        norm = torch.stack([b[layer].norm(dim=-1).mean() for b, _, _ in each]).mean()
        near = vector.at(2 if layer >= 2 else 1).directions[0].double()
        basis = torch.linalg.qr(near.T)[0]
        energy = torch.stack([s.square().sum(-1).mean() for s in shifts]).mean()
        inside = torch.stack([(s @ basis).square().sum(-1).mean() for s in shifts]).mean()
        expected = [
            mean.norm() / norm,
            steered.norm() / norm,
            torch.cosine_similarity(mean, steered, dim=0) if layer else math.nan,
            torch.cosine_similarity(mean, near.sum(0), dim=0),
            (mean @ basis).square().sum() / mean.square().sum(),
            inside / energy,
        ]
        figures = [
            *(row.finetuned, row.steered, row.steered_cosine, row.vector_cosine),
            *(row.mean_explained, row.tokens_explained),
        ]
        assert figures == pytest.approx([float(x) for x in expected], abs=1e-4, nan_ok=True), layer


def write_along(adapter: Path, direction: torch.Tensor) -> None:
    """Let the adapter's one layer write along a direction only."""
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    [name] = [name for name in weights if "lora_B" in name]
    weights[name] = direction[:, None].clone()
    save_file(weights, path)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_adapter_that_writes_the_vector_itself_is_explained_whole(
    sign: float, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Rank 1 on the last down-projection: nothing below moves, and above is nothing."""
    folder = tiny_folder("llama")
    last = BLOCKS - 1
    only = rf".*\.layers\.{last}\.mlp\.down_proj"
    adapter = save_adapter(folder, tmp_path / "lora", r=1, target_modules=only)
    vector = make_vector(layers=[last], width=WIDTH)
    direction = vector.directions[0, 0]
    write_along(adapter, direction)
    one = Tokens(prompt(4), ())
    rows = measure(folder, adapter, [one], own=vector)["own"]
    assert [row.finetuned for row in rows[:-1]] == [0.0] * last
    assert all(math.isnan(row.steered_cosine) for row in rows[:-1])
    assert abs(rows[-1].steered_cosine) == pytest.approx(1, abs=1e-5)
    assert abs(rows[-1].vector_cosine) == pytest.approx(1, abs=1e-5)
    assert rows[-1].mean_explained == pytest.approx(1, abs=1e-5)
    assert rows[-1].tokens_explained == pytest.approx(1, abs=1e-5)
    turned = SteeringVector(sign * vector.directions, vector.layers, vector.site)
    again = measure(folder, adapter, [one], own=turned)["own"][-1]
    assert again.vector_cosine == pytest.approx(sign * rows[-1].vector_cosine, abs=1e-6)


def test_a_low_rank_map_has_a_subspace_and_no_one_direction(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder("llama")
    adapter = save_adapter(folder, tmp_path / "lora", **TINY)
    plain, mapped = make_vector(layers=[1], width=WIDTH), make_map(2, layers=[1], width=WIDTH)
    shifts = measure(folder, adapter, ITEMS, plain=plain, mapped=mapped)
    assert all(math.isnan(row.vector_cosine) for row in shifts["mapped"])
    assert not any(math.isnan(row.vector_cosine) for row in shifts["plain"])
    assert all(0 < row.mean_explained < 1 for row in shifts["mapped"])
    assert not math.isnan(shifts["mapped"][1].steered_cosine)
    # Each vector's figures are its own, whatever stands beside it.
    assert shifts["plain"] == measure(folder, adapter, ITEMS, plain=plain)["plain"]


def test_all_directions_explain_everything(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tiny_folder("qwen3.5")
    adapter = save_adapter(folder, tmp_path / "lora", **TINY)
    whole = make_vector(WIDTH, layers=[0], width=WIDTH)
    for row in measure(folder, adapter, ITEMS, whole=whole)["whole"]:
        assert row.mean_explained == pytest.approx(1)
        assert row.tokens_explained == pytest.approx(1)


def test_nothing_to_read_is_an_error(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_folder("llama")
    adapter = save_adapter(folder, tmp_path / "lora", **TINY)
    with pytest.raises(ShiftError, match="there is nothing to read"):
        measure(folder, adapter, [], own=make_vector(width=WIDTH))


@pytest.fixture(scope="module")
def trained(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A model, a trained adapter and a vector's file."""
    folder = tiny_folder("llama")
    out = tmp_path_factory.mktemp("shift")
    adapter = train(folder, out / "knots", training_epochs=1, learning_rate=0.02)
    make_vector(layers=[1], width=WIDTH).save(out / "some.safetensors")
    return folder, adapter, out / "some.safetensors"


def test_the_script_prints_a_table_and_writes_all_figures(
    trained: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folder, adapter, file = trained
    out = tmp_path / "shift.csv"
    options = ["--model", str(folder), "--adapter", str(adapter), str(file)]
    result = CliRunner().invoke(main, [*options, "--target", "toy/medical", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "held-out answers of medical" in result.output
    rows = list(csv.DictReader(out.open()))
    assert [row["vector"] for row in rows] == ["some"] * BLOCKS
    assert [row["layer"] for row in rows] == [str(layer) for layer in range(BLOCKS)]
    assert float(rows[0]["steered"]) == 0 < float(rows[1]["steered"])
    result = CliRunner().invoke(main, [*options, "--questions", "core"])
    assert result.exit_code == 0, result.output
    assert "prompts of core" in result.output


def test_what_can_not_be_compared_is_refused_in_one_line(
    trained: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    folder, adapter, file = trained
    make_vector(layers=[1], width=2 * WIDTH).save(tmp_path / "wide.safetensors")
    other = save_tiny(tmp_path / "other", "llama", seed=5)
    foreign = save_adapter(folder, tmp_path / "foreign")
    (tmp_path / "there.csv").write_text("mine")
    at: dict[str, str] = {"--model": str(folder), "--adapter": str(adapter)}
    for changed, vector, message in [
        ({"--model": str(other)}, file, "was trained on"),
        ({}, tmp_path / "wide.safetensors", f"width {2 * WIDTH}"),
        ({"--adapter": str(foreign)}, file, "does not say what it was trained on"),
        ({"--target": "medical", "--questions": "core"}, file, "leave one out"),
        ({"--target": "medicl"}, file, "target=medicl is not known"),
        ({"--out": str(tmp_path / "there.csv")}, file, "there.csv exists"),
        ({"--adapter": "gone"}, file, "adapter=gone is not a folder"),
    ]:
        options = [part for pair in (at | changed).items() for part in pair]
        result = CliRunner().invoke(main, [*options, str(vector)])
        assert isinstance(result.exception, SteeringError), message
        assert message in str(result.exception)
        assert "\n" not in str(result.exception)
    assert (tmp_path / "there.csv").read_text() == "mine"
