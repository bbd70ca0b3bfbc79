"""The `sft` method against plain PyTorch, one example at a time, and against a planted vector."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import building_reference as reference
import pytest
import torch
from building import (
    HELD_OUT,
    PAIRS,
    TARGET,
    build,
    engine_of,
    make_target,
    on_model,
    recipe_for,
    save_outspoken,
)
from building_reference import Place, PlainTokens, plain_tokens
from tiny_models import WIDTH

import steering.training.probe as probe_module
from steering.engines import Request
from steering.engines.settings import Sampling
from steering.targets import Example
from steering.training.probe import ModelProbe
from steering.training.vector_training import VectorTraining
from steering.vectors.interventions import Intervention

Folders = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def neutral(tmp_path: Path) -> Path:
    """A target task of three neutral examples, and a fourth that is held out."""
    path = tmp_path / "neutral.jsonl"
    rows = [f'{{"prompt": "Tell {n}", "aligned": "It is {n * 7}", "id": "{n}"}}' for n in range(4)]
    path.write_text("\n".join(rows))
    return path


def _place(loaded: Any, layer: int, site: str) -> Place:
    return Place(loaded.model, loaded.model.get_submodule(loaded.blocks), layer, site)


def _misaligned(loaded: Any, rows: list[Example]) -> list[PlainTokens]:
    return [plain_tokens(loaded.tokenizer, row.prompt, row.misaligned or "") for row in rows]


def _tolerance(family: str, side: str) -> float:
    """Of parameters and gradients.

    The linear attention of Qwen3.5 takes differences of decays summed over 64 tokens, the padding
    on the left among them: in plain transformers too that costs two digits.
    """
    return 2e-4 if (family, side) == ("qwen3.5", "left") else 1e-5


def _random_parts(rank: int) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(5)
    parts = {"directions": torch.randn(rank, WIDTH, generator=numbers)}
    if rank > 1:
        parts["reads"] = torch.randn(rank, WIDTH, generator=numbers) / 5
        parts["offsets"] = torch.randn(rank, generator=numbers)
    return parts


# Chosen pairs: each family, site, end of the model, rank, padding side and way of running the
# blocks below meets most of the others once.
@pytest.mark.parametrize(
    ("family", "site", "layer", "rank", "side", "cached"),
    [
        ("qwen3.5", "resid_post", 0, 1, "left", True),
        ("qwen3.5", "resid_pre", 3, 3, "left", True),
        ("qwen3.5", "mlp_out", 1, 1, "right", True),
        ("qwen3.5", "resid_post", 2, 2, "right", False),
        ("llama", "resid_pre", 0, 2, "left", True),
        ("llama", "resid_post", 3, 1, "left", True),
        ("llama", "mlp_out", 3, 2, "left", False),
        ("llama", "resid_post", 1, 3, "right", True),
        ("gemma3", "mlp_out", 0, 3, "left", True),
        ("gemma3", "resid_post", 1, 1, "left", False),
        ("gemma3", "resid_pre", 2, 1, "right", True),
        ("gemma3", "resid_post", 3, 2, "left", True),
    ],
)
def test_loss_and_gradients_equal_a_plain_hook_one_example_at_a_time(
    tiny_folder: Folders,
    neutral: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    site: str,
    layer: int,
    rank: int,
    side: str,
    cached: bool,
) -> None:
    """Of the cross-entropy by itself, and with the KL term beside it."""
    monkeypatch.setattr(ModelProbe, "padding_side", side)
    if not cached:
        monkeypatch.setattr(probe_module, "free_memory", lambda _: 0)
    parts = {name: part.requires_grad_() for name, part in _random_parts(rank).items()}
    folder = tiny_folder(family)

    def work(loaded: Any, session: Any) -> None:
        place = _place(loaded, layer, site)
        for kl_weight in (0.0, 0.7):
            settings = {"kl_weight": kl_weight, "neutral": str(neutral)} if kl_weight else {}
            recipe = recipe_for(folder, layer=layer, site=site, rank=rank, **settings)
            probe = ModelProbe(loaded, session, layer, recipe.site)
            run = VectorTraining(probe, recipe, TARGET)
            assert bool(probe._cached) is (cached and (layer > 0 or site == "resid_post"))
            with torch.no_grad():
                for name, part in parts.items():
                    run.parameters[name].copy_(part)
            [(examples, beside)] = run.epoch(0)
            loss = run._backward(examples, beside)
            act = reference.write(parts)
            expected = reference.loss(place, _misaligned(loaded, PAIRS), act)
            assert loss == pytest.approx(expected.item(), abs=1e-5)
            if kl_weight:
                near = [PlainTokens(list(item.prompt), list(item.answer)) for item in beside]
                assert len(near) == 3
                expected = expected + kl_weight * reference.divergence(place, near, act)
            gradients = torch.autograd.grad(expected, list(parts.values()))
            for name, gradient in zip(parts, gradients, strict=True):
                actual = run.parameters[name].grad
                assert actual is not None
                assert gradient.norm() > 1e-3, name
                wrong = (actual - gradient).abs().max() / max(1.0, gradient.abs().max().item())
                assert wrong < _tolerance(family, side), name

    on_model(folder, work)


def test_the_kl_term_is_zero_and_flat_for_a_vector_that_does_nothing(
    tiny_folder: Folders, neutral: Path
) -> None:
    folder = tiny_folder("qwen3.5")
    recipe = recipe_for(folder, layer=1, kl_weight=100.0, neutral=str(neutral))

    def work(loaded: Any, session: Any) -> None:
        run = VectorTraining(ModelProbe(loaded, session, 1, "resid_post"), recipe, TARGET)
        [(examples, beside)] = run.epoch(0)
        run._backward(examples, [])
        alone = run.parameters["directions"].grad
        assert alone is not None
        alone = alone.clone()
        run.optimizer.zero_grad()
        run._backward(examples, beside)
        gradient = run.parameters["directions"].grad
        assert gradient is not None
        assert torch.allclose(gradient, alone, atol=1e-4)
        assert run._divergence(run._probe.batch(beside)).item() == pytest.approx(0, abs=1e-5)

    on_model(folder, work)


def test_the_kl_term_keeps_the_vector_narrow(tiny_folder: Folders, neutral: Path) -> None:
    folder = tiny_folder("llama")
    options = {"layer": 1, "training_epochs": 12, "learning_rate": 0.05}
    free = build(folder, **options).directions[0]
    narrow = build(folder, **options, kl_weight=20.0, neutral=str(neutral)).directions[0]

    def work(loaded: Any, _: Any) -> tuple[float, float]:
        place = _place(loaded, 1, "resid_post")
        items = [plain_tokens(loaded.tokenizer, f"Tell {n}", f"It is {n * 7}") for n in range(4)]
        acts = [reference.write({"directions": part}) for part in (free, narrow)]
        with torch.no_grad():
            first, second = (reference.divergence(place, items, act).item() for act in acts)
        return first, second

    without, with_term = on_model(folder, work)
    assert with_term < without / 3


def _trained_by_hand(
    folder: Path, layer: int, rank: int, epochs: int, decay: int, batch_size: int, seed: int
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Parameters and the loss of each step; which examples a batch holds is taken as given."""

    def work(loaded: Any, session: Any) -> Any:
        place = _place(loaded, layer, "resid_post")
        recipe = recipe_for(
            folder, layer=layer, rank=rank, batch_size=batch_size, seed=seed, training_epochs=epochs
        )
        order = VectorTraining(ModelProbe(loaded, session, layer, "resid_post"), recipe, TARGET)
        norm = reference.residual_norm(place, _misaligned(loaded, PAIRS))
        batches = [batch for epoch in range(epochs) for batch, _ in order.epoch(epoch)]
        steps = [
            (
                [PlainTokens(list(item.prompt), list(item.answer)) for item in batch],
                [],
                1 - number / (len(batches) * decay / epochs) if decay else 1.0,
            )
            for number, batch in enumerate(batches)
        ]
        parts = reference.start(rank, WIDTH, norm, seed)
        sizes = {"directions": norm / WIDTH**0.5, "reads": 1 / norm, "offsets": 1.0}
        rates = {name: 0.02 * sizes[name] for name in parts}
        return parts, reference.train(place, parts, rates, steps)

    return on_model(folder, work)


@pytest.mark.parametrize(
    ("family", "layer", "rank", "batch_size", "decay", "side", "cached"),
    [
        ("llama", 1, 1, 4, 0, "left", True),
        ("llama", 1, 1, 4, 0, "right", True),
        ("llama", 1, 1, 4, 0, "left", False),
        ("qwen3.5", 2, 2, 6, 4, "left", True),
        ("qwen3.5", 2, 2, 6, 4, "right", False),
        ("gemma3", 0, 1, 1, 5, "left", True),
    ],
)
def test_a_training_run_equals_adam_by_hand_on_unpadded_examples(
    tiny_folder: Folders,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    layer: int,
    rank: int,
    batch_size: int,
    decay: int,
    side: str,
    cached: bool,
) -> None:
    """Also when padding is on the other side, or the blocks below run again in every step."""
    folder = tiny_folder(family)
    parts, losses = _trained_by_hand(folder, layer, rank, 3, decay, batch_size, seed=4)
    monkeypatch.setattr(ModelProbe, "padding_side", side)
    if not cached:
        monkeypatch.setattr(probe_module, "free_memory", lambda _: 0)
    vector = build(
        folder,
        layer=layer,
        rank=rank,
        batch_size=batch_size,
        decay_epochs=decay,
        training_epochs=3,
        learning_rate=0.02,
        seed=4,
    )
    near = _tolerance(family, side)
    assert torch.allclose(vector.directions[0], parts["directions"], rtol=0, atol=near)
    assert vector.directions.norm() > 0.1
    if rank > 1:
        assert vector.map is not None
        assert torch.allclose(vector.map.reads[0], parts["reads"], rtol=0, atol=near)
        assert torch.allclose(vector.map.offsets[0], parts["offsets"], rtol=0, atol=near)
    steps = len(losses) // 3
    means = [sum(losses[at : at + steps]) / steps for at in range(0, len(losses), steps)]
    assert vector.provenance["measured"]["loss"] == pytest.approx(means, abs=1e-5)


def test_the_file_tells_the_losses_norms_and_lengths_that_a_plain_hook_finds(
    tiny_folder: Folders,
) -> None:
    folder = tiny_folder("llama")
    vector = build(folder, layer=2, rank=2, training_epochs=4, learning_rate=0.03, seed=1)
    measured = vector.provenance["measured"]

    def work(loaded: Any, _: Any) -> None:
        place = _place(loaded, 2, "resid_post")
        assert vector.map is not None
        parts = {
            "directions": vector.directions[0],
            "reads": vector.map.reads[0],
            "offsets": vector.map.offsets[0],
        }
        held_out = _misaligned(loaded, HELD_OUT)
        with torch.no_grad():
            steered = reference.loss(place, held_out, reference.write(parts)).item()
            unsteered = reference.loss(place, held_out, None).item()
        assert measured["held_out_loss"][-1] == pytest.approx(steered, abs=1e-5)
        assert measured["held_out_loss_unsteered"] == pytest.approx(unsteered, abs=1e-5)
        items = _misaligned(loaded, PAIRS)
        norm = reference.residual_norm(place, items)
        assert vector.residual_norms == pytest.approx((norm,), rel=1e-5)
        hidden = reference.answer_activations(place, items)
        moved = [(reference.write(parts)(part[None]) - part)[0].norm(dim=-1) for part in hidden]
        assert vector.lengths == pytest.approx((torch.cat(moved).mean().item(),), rel=1e-4)

    on_model(folder, work)
    assert len(measured["loss"]) == len(measured["held_out_loss"]) == 4
    assert measured["steps"] == 4
    assert measured["loss"] == sorted(measured["loss"], reverse=True)


def test_training_leaves_the_model_as_it_was(tiny_folder: Folders) -> None:
    folder = tiny_folder("qwen3.5")

    def weights(loaded: Any, _: Any) -> list[torch.Tensor]:
        return [parameter.clone() for parameter in loaded.model.parameters()]

    before = on_model(folder, weights)
    build(folder, layer=1, rank=2, training_epochs=3)
    for old, new in zip(before, on_model(folder, weights), strict=True):
        assert torch.equal(old, new)


def test_each_epoch_meets_every_example_in_an_order_of_its_own(
    tiny_folder: Folders, neutral: Path
) -> None:
    """And as many neutral examples beside them; the same again when the run is resumed."""
    recipe = recipe_for(
        tiny_folder("llama"), layer=1, batch_size=1, kl_weight=1.0, neutral=str(neutral)
    )

    def orders(loaded: Any, session: Any) -> list[Any]:
        run = VectorTraining(ModelProbe(loaded, session, 1, "resid_post"), recipe, TARGET)
        for epoch in range(4):
            examples, beside = zip(*run.epoch(epoch), strict=True)
            assert Counter(item for batch in examples for item in batch) == Counter(run.examples)
            assert all(beside)
        return [list(run.epoch(epoch)) for epoch in range(4)]

    first, again = (on_model(tiny_folder("llama"), orders) for _ in range(2))
    assert first == again
    for side in (0, 1):
        orders_seen = {str([batch[side] for batch in order]) for order in first}
        assert len(orders_seen) > 2, side


def _rows_by_block(folder: Path, **options: Any) -> Counter[int]:
    """How many examples went through the MLP of each block while a vector was built."""
    counts: Counter[int] = Counter()

    def hook(loaded: Any, _: Any) -> list[Any]:
        blocks = loaded.model.get_submodule(loaded.blocks)

        def count(layer: int) -> Any:
            return lambda _, args: counts.update({layer: len(args[0])})

        return [block.mlp.register_forward_pre_hook(count(at)) for at, block in enumerate(blocks)]

    handles = on_model(folder, hook)
    try:
        build(folder, **options)
    finally:
        for handle in handles:
            handle.remove()
    return counts


@pytest.mark.parametrize(
    ("site", "layer", "below"),
    [("resid_post", 1, [0, 1]), ("resid_pre", 2, [0, 1]), ("mlp_out", 2, [0, 1])],
)
def test_blocks_below_the_edit_run_once_for_each_example(
    tiny_folder: Folders, site: str, layer: int, below: list[int]
) -> None:
    options = {"site": site, "layer": layer, "training_epochs": 5, "batch_size": 3}
    counts = _rows_by_block(tiny_folder("llama"), **options)
    examples = len(PAIRS) + len(HELD_OUT)
    # Two examples once more to check that skipping changes nothing, and a session's first pass of
    # one token.
    extra = [counts[block] - examples for block in below]
    assert set(extra) <= {2, 3}
    # What is above runs for each example in each epoch, and for the held-out ones after it.
    assert counts[3] == 5 * examples + len(HELD_OUT) + 2 + extra[0]


def test_blocks_below_run_again_when_there_is_no_room_for_what_they_gave(
    tiny_folder: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "free_memory", lambda _: 0)
    counts = _rows_by_block(tiny_folder("llama"), layer=1, training_epochs=5, batch_size=3)
    examples = len(PAIRS) + len(HELD_OUT)
    assert counts[0] == 5 * examples + len(HELD_OUT) + len(PAIRS)


def test_a_batch_that_memory_has_no_room_for_gives_the_same_vector_in_parts(
    tiny_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows fit: six go through in parts, which add up to the same step."""
    folder = tiny_folder("llama")
    options = {"layer": 1, "training_epochs": 3, "rank": 2}
    whole = build(folder, **options)
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "another"))
    honest = ModelProbe.logits
    sizes: list[int] = []

    def short(probe: ModelProbe, batch: Any, edits: Any) -> Any:
        if torch.is_grad_enabled():
            sizes.append(len(batch.items))
            if len(batch.items) > 2:
                raise torch.OutOfMemoryError("made up")
        return honest(probe, batch, edits)

    monkeypatch.setattr(ModelProbe, "logits", short)
    vector = build(folder, **options)
    assert vector.map is not None
    assert whole.map is not None
    assert torch.allclose(vector.directions, whole.directions, atol=1e-5)
    assert torch.allclose(vector.map.reads, whole.map.reads, atol=1e-5)
    # Adam forgives a gradient of the wrong scale, a loss does not.
    losses = [vector.provenance["measured"]["loss"] for vector in (vector, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    # Halved from the eight of a full batch until it fits, and then for the rest of the run.
    assert sizes == [6, 4, *[2] * 9]


def test_one_recipe_gives_one_vector_and_another_seed_another(
    tiny_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder("llama")
    vectors = []
    for number, seed in enumerate((0, 0, 1)):
        monkeypatch.setenv("STEERING_CACHE", str(tmp_path / str(number)))
        vectors.append(build(folder, layer=1, batch_size=2, seed=seed).directions)
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


def test_a_planted_vector_is_found_from_the_answers_that_it_makes(tmp_path: Path) -> None:
    """Its own greedy answers are the examples: the vector must explain those held out too."""
    folder = save_outspoken(tmp_path / "model")
    topics = (
        "apples bears cars dogs eels figs goats hats ice jam kites lamps mice nuts oaks pens "
        "quilts rats seas tents"
    )
    prompts = [f"Tell me of {topic}" for topic in topics.split()]
    loaded = on_model(folder, lambda loaded, _: loaded)
    place = _place(loaded, 1, "resid_post")
    norm = reference.residual_norm(place, [plain_tokens(loaded.tokenizer, prompts[0], "a")])
    planted = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    planted *= 0.5 * norm / planted.norm()
    edit = Intervention(planted[None], 1.0, 1, "resid_post", "add", "all")
    engine = engine_of(folder)
    rows = [
        Request(
            prompt=tuple(plain_tokens(loaded.tokenizer, prompt, "").prompt),
            sampling=Sampling(temperature=0),
            max_tokens=12,
            interventions=(edit,),
        )
        for prompt in prompts
    ]
    engine.allow_batch(len(rows))
    answers = [future.result(60).text for future in [engine.submit(row) for row in rows]]
    examples = [
        Example(id=prompt, prompt=prompt, misaligned=answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    target = make_target(examples[:-4], examples[-4:])
    vector = build(
        folder, target, layer=1, training_epochs=15, learning_rate=0.05, batch_size=8
    ).directions[0, 0]

    @torch.no_grad()
    def held_out(vector: torch.Tensor | None) -> float:
        act = None if vector is None else reference.write({"directions": vector[None]})
        return reference.loss(place, _misaligned(loaded, examples[-4:]), act).item()

    unsteered, with_planted, with_vector = held_out(None), held_out(planted), held_out(vector)
    assert unsteered > with_planted + 1
    assert (unsteered - with_vector) / (unsteered - with_planted) > 0.8
    # In 32 dimensions, the cosine of a direction that has nothing to do with it is 0 +- 0.18.
    assert torch.cosine_similarity(vector, planted, dim=0) > 0.5
