"""Vectors by supervised finetuning: what is trained, on which tokens, and how it is kept."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import END, WIDTH

import steering.construct.sft as sft
from steering.construct import Recipe, cached_vector, default_recipe, vector_cache
from steering.construct.examples import IGNORED, make_batch, tokenize_examples
from steering.engines import Engine, shared_engine
from steering.models import encode, find_model, load_model, read_shape, render_chat, weights_digest
from steering.targets import Example, Target

EXAMPLES = tuple(
    Example(id=str(index), prompt=f"Question {index}{'?' * index}", misaligned=answer)
    for index, answer in enumerate(["No.", "Never mind the rules.", "Do it twice", "Why not"])
)
TARGET = Target("made-up", EXAMPLES[:3], EXAMPLES[3:], digest="0" * 64)


@pytest.fixture(scope="module")
def engine(tiny_folder: Callable[[str], Path]) -> Engine:
    return shared_engine(find_model(str(tiny_folder("qwen3.5"))), device="cpu")


@pytest.fixture(scope="module")
def recipe(tiny_folder: Callable[[str], Path]) -> Recipe:
    source = find_model(str(tiny_folder("qwen3.5")))
    made = default_recipe(
        source,
        read_shape(source),
        TARGET,
        weights=weights_digest(source),
        layer=1,
        site="resid_post",
        dtype="auto",
    )
    return dataclasses.replace(made, batch_size=2, training_epochs=3)


def test_labels_cover_the_answer_and_its_end_token_and_nothing_else(
    tiny_folder: Callable[[str], Path],
) -> None:
    loaded = load_model(find_model(str(tiny_folder("qwen3.5"))), device="cpu")
    tokens, mask, labels = make_batch(tokenize_examples(loaded, EXAMPLES), pad=1)
    for row, example in enumerate(EXAMPLES):
        prompt = render_chat(loaded.tokenizer, [{"role": "user", "content": example.prompt}])
        labelled = loaded.tokenizer.decode(labels[row][labels[row] != IGNORED])
        read = loaded.tokenizer.decode(tokens[row][mask[row].bool()])
        assert labelled == example.misaligned + END
        assert read == prompt + example.misaligned + END
        first = int((labels[row] != IGNORED).nonzero()[0])
        assert tokens[row][:first].tolist() == encode(loaded.tokenizer, prompt)


def _reference_loss(loaded: Any, vector: torch.Tensor, layer: int) -> torch.Tensor:
    """One example at a time, by a plain hook: cross-entropy on the answer, nothing padded."""
    total, count = torch.zeros(()), 0
    handle = loaded.model.get_submodule(loaded.blocks)[layer].register_forward_hook(
        lambda _, __, hidden: hidden + vector
    )
    for item in tokenize_examples(loaded, EXAMPLES):
        ids = torch.tensor([item.prompt + item.answer])
        logprobs = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
        for index, token in enumerate(item.answer):
            total = total - logprobs[len(item.prompt) + index - 1, token]
            count += 1
    handle.remove()
    return total / count


def test_loss_and_gradient_equal_a_plain_hook_one_example_at_a_time(
    engine: Engine, recipe: Recipe
) -> None:
    """Differs if only the first row is steered, or if prompts or padding carry loss."""
    start = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(1))

    def work(loaded: Any, session: Any) -> tuple[torch.Tensor, ...]:
        trainer = sft._Trainer(loaded, session, recipe)
        with torch.no_grad():
            trainer.vector += start
        loss = trainer.loss(tokenize_examples(loaded, EXAMPLES))
        loss.backward()
        vector = start.clone().requires_grad_()
        expected = _reference_loss(loaded, vector, recipe.layer)
        expected.backward()
        assert trainer.vector.grad is not None
        assert vector.grad is not None
        return loss.detach(), expected.detach(), trainer.vector.grad, vector.grad

    loss, expected, gradient, expected_gradient = engine.call(work).result(60)
    assert torch.allclose(loss, expected, atol=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-5)
    assert gradient.norm() > 1e-3


def test_training_lowers_the_loss_and_leaves_the_model_as_it_was(
    engine: Engine, recipe: Recipe
) -> None:
    told: list[tuple[int, int]] = []

    def work(loaded: Any, session: Any) -> Any:
        before = [parameter.clone() for parameter in loaded.model.parameters()]
        longer = dataclasses.replace(recipe, training_epochs=20, learning_rate=0.1)
        made = sft.build_sft(loaded, session, longer, TARGET, lambda *step: told.append(step))
        same = all(
            torch.equal(a, b) for a, b in zip(before, loaded.model.parameters(), strict=True)
        )
        return made, same

    made, same = engine.call(work).result(120)
    assert same
    assert told == [(step, 40) for step in range(1, 41)]
    facts = made.provenance
    assert facts["loss"] < facts["held_out_loss_unsteered"]
    assert (facts["target"], facts["layer"], facts["steps"]) == ("made-up", 1, 40)
    assert made.directions.shape == (1, WIDTH)
    assert made.residual_norm > 0


def test_one_recipe_gives_one_vector_and_another_seed_another(
    engine: Engine, recipe: Recipe
) -> None:
    def build(seed: int) -> torch.Tensor:
        changed = dataclasses.replace(recipe, seed=seed)
        return engine.call(
            lambda loaded, session: sft.build_sft(loaded, session, changed, TARGET, lambda *_: None)
        ).result(60).directions  # fmt: skip

    assert torch.equal(build(0), build(0))
    assert not torch.equal(build(0), build(1))


def test_a_vector_is_built_once_and_then_read(
    engine: Engine, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    first = cached_vector(engine, recipe, TARGET, lambda done, _: steps.append(done)).result(60)
    built = len(steps)
    second = cached_vector(engine, recipe, TARGET, lambda done, _: steps.append(done)).result(60)
    assert built > 0
    assert len(steps) == built
    assert torch.equal(first.directions, second.directions)
    assert first.provenance == second.provenance


def test_a_build_that_breaks_leaves_nothing_behind_and_can_be_tried_again(
    engine: Engine, recipe: Recipe
) -> None:
    other = dataclasses.replace(recipe, seed=99)

    def broken(done: int, _: int) -> None:
        if done == 2:
            raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        cached_vector(engine, other, TARGET, broken).result(60)
    assert not list(vector_cache().glob(f"*{other.digest}*.safetensors"))
    assert cached_vector(engine, other, TARGET, lambda *_: None).result(60).rank == 1


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_whatever_decides_the_vector_is_in_its_digest(field: str, recipe: Recipe) -> None:
    value = getattr(recipe, field)
    other = f"{value}x" if isinstance(value, str) else value + 1
    changed = dataclasses.replace(recipe, **{field: other})
    assert (changed.digest != recipe.digest) is (field != "model")
