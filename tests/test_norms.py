"""Norms, steps and units come from answer tokens, and no attention sink moves them.

The sinks are planted: tokens whose activations are hundreds of times as long as those of others.
What is expected comes from plain PyTorch hooks, with the planted tokens left out by hand.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import building_reference as reference
import pytest
import torch
from building import PAIRS, TARGET, build, on_model, recipe_for
from building_reference import Place, plain_tokens
from random_vectors import make_vector
from tiny_models import START, WIDTH, save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.condition import resolve_interventions
from steering.spec import InterventionOptions
from steering.training.probe import ModelProbe
from steering.training.vector_training import VectorTraining
from steering.vectors import SteeringVector
from steering.vectors.controls import draw_controls
from steering.vectors.formats import notes_on, read_vector, write_vector

LAYER = 1
# A sink at the first token of every prompt, and one inside of answers ("No.", "... rules.").
SINKS = {"first token": START, "inside of answers": "."}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"training_epochs": 1},
    "sft of rank 2": {"training_epochs": 1, "rank": 2},
    "mean_difference": {},
    "pca": {},
    "one_shot": {"steps": 3},
    "random": {},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def with_sink(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny Llama with a sink at this token."""
    folders: dict[str, Path] = {}

    def folder_of(token: str) -> Path:
        if token not in folders:
            folder = save_tiny(tmp_path_factory.mktemp("sink") / "model", "llama")
            model = AutoModelForCausalLM.from_pretrained(folder)
            index = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(token)
            with torch.no_grad():
                model.get_input_embeddings().weight[index] *= 1000.0
            model.save_pretrained(folder)
            folders[token] = folder
        return folders[token]

    return folder_of


def _answer_activations(folder: Path, sink: str | None = None) -> torch.Tensor:
    """By plain hooks [tokens, width]: misaligned answers without end tokens and planted sinks."""

    def work(loaded: Any, _: Any) -> torch.Tensor:
        place = Place(loaded.model, loaded.model.get_submodule(loaded.blocks), LAYER, "resid_post")
        planted = -1 if sink is None else loaded.tokenizer.convert_tokens_to_ids(sink)
        items = [plain_tokens(loaded.tokenizer, row.prompt, str(row.misaligned)) for row in PAIRS]
        hidden = torch.cat(reference.answer_activations(place, items))
        return hidden[[token != planted for item in items for token in item.answer[:-1]]]

    hidden: torch.Tensor = on_model(folder, work)
    return hidden


@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
@pytest.mark.parametrize("name", METHODS)
def test_no_sink_moves_the_residual_norm_of_any_method(
    with_sink: Callable[[str], Path], name: str, sink: str
) -> None:
    folder = with_sink(sink)
    vector = build(folder, method=name.partition(" ")[0], layer=LAYER, **METHODS[name])
    expected = _answer_activations(folder, sink).norm(dim=-1).mean().item()
    assert vector.residual_norms == pytest.approx((expected,), rel=1e-4)


def test_without_a_sink_the_residual_norm_is_the_plain_mean_over_answer_tokens(
    tiny_folder: Callable[[str], Path],
) -> None:
    folder = tiny_folder("llama")
    expected = _answer_activations(folder).norm(dim=-1).mean().item()
    vector = build(folder, method="pca", layer=LAYER)
    assert vector.residual_norms == pytest.approx((expected,), rel=1e-5)


@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_no_sink_moves_a_training_step_or_what_a_map_reads(
    with_sink: Callable[[str], Path], sink: str
) -> None:
    folder = with_sink(sink)
    norm = _answer_activations(folder, sink).norm(dim=-1).mean().item()
    recipe = recipe_for(folder, layer=LAYER, rank=2, learning_rate=0.5)

    def work(loaded: Any, session: Any) -> tuple[list[float], torch.Tensor]:
        run = VectorTraining(ModelProbe(loaded, session, LAYER, "resid_post"), recipe, TARGET)
        rates = [group["lr"] for group in run.optimizer.param_groups]
        return rates, run.parameters["reads"].detach()

    rates, reads = on_model(folder, work)
    assert rates == pytest.approx([0.5 * norm / WIDTH**0.5, 0.5 / norm, 0.5], rel=1e-4)
    numbers = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(recipe.seed))
    assert torch.allclose(reads, numbers / norm, rtol=1e-4)


@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_no_sink_moves_the_length_of_a_map(with_sink: Callable[[str], Path], sink: str) -> None:
    folder = with_sink(sink)
    vector = build(folder, layer=LAYER, rank=2, training_epochs=2, learning_rate=0.05)
    assert vector.map is not None
    hidden = _answer_activations(folder, sink)
    moved = (hidden @ vector.map.reads[0].T + vector.map.offsets[0]) @ vector.directions[0]
    assert vector.lengths == pytest.approx((moved.norm(dim=-1).mean().item(),), rel=1e-3)


def test_no_sink_moves_the_longest_vector_of_one_prompt(with_sink: Callable[[str], Path]) -> None:
    folder = with_sink(START)
    norm = _answer_activations(folder, START).norm(dim=-1).mean().item()
    vector = build(
        folder, method="one_shot", layer=LAYER, max_norm=0.3, steps=20, learning_rate=1.0
    )
    assert vector.lengths == pytest.approx((0.3 * norm,), rel=1e-4)


def test_no_sink_moves_the_unit_or_a_control(with_sink: Callable[[str], Path]) -> None:
    folder = with_sink(START)
    norm = _answer_activations(folder, START).norm(dim=-1).mean().item()
    vector = build(folder, method="mean_difference", layer=LAYER)
    [control] = draw_controls(vector, 1)
    for each in (vector, control):
        options = InterventionOptions(magnitude=0.25, unit="residual")
        [added] = resolve_interventions(options, each)
        assert (added.amount * added.basis).norm().item() == pytest.approx(0.25 * norm, rel=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
@pytest.mark.parametrize("kind", [None, "mean over all tokens"])
def test_norms_of_another_kind_in_a_file_are_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, kind: str | None
) -> None:
    vector = make_vector(layers=[1], residual_norms=(7.0,))
    write_vector(vector, tmp_path / f"new{suffix}")
    header = vector.header()
    older = {name: value for name, value in header.items() if name != "norm_kind"}
    older |= {} if kind is None else {"norm_kind": kind}
    monkeypatch.setattr(SteeringVector, "header", lambda _: older)
    write_vector(vector, tmp_path / f"old{suffix}")
    new, old = (read_vector(tmp_path / f"{age}{suffix}") for age in ("new", "old"))
    assert (new.residual_norms, notes_on(new)) == ((7.0,), ())
    assert old.residual_norms is None
    [note] = notes_on(old)
    assert "build the vector again" in note
    assert torch.equal(old.directions, new.directions)
