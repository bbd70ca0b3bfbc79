"""Methods that compute or draw a direction, and shuffled labels, against known answers.

At the input of the first block of a Llama the activations are the tokens' embeddings, so what these
methods must find there follows from the embedding matrix.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import building_reference as reference
import numpy as np
import pytest
import torch
from building import (
    HELD_OUT,
    PAIRS,
    TARGET,
    build,
    cached,
    make_target,
    on_model,
    save_outspoken,
)
from building_reference import Place, plain_tokens
from hook_reference import reference_greedy
from numpy.typing import NDArray
from tiny_models import WIDTH
from transformers import AutoModelForCausalLM

from steering.targets import Example, Target
from steering.training.examples import shuffled_labels
from steering.vectors import SteeringVector

Array = NDArray[np.float64]
EMBEDDED = {"layer": 0, "site": "resid_pre"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llama(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


@pytest.fixture(scope="module")
def embed(llama: Path) -> Callable[[str], Array]:
    """Mean embedding of a text's tokens, which are its bytes."""
    weight = AutoModelForCausalLM.from_pretrained(llama).model.embed_tokens.weight
    table = weight.detach().double().numpy()
    tokenizer = on_model(llama, lambda loaded, _: loaded.tokenizer)

    def mean(text: str) -> Array:
        assert text.isascii()
        tokens = [tokenizer.convert_tokens_to_ids(byte.replace(" ", "Ġ")) for byte in text]
        return np.mean([table[token] for token in tokens], axis=0)

    return mean


def _found(vector: SteeringVector) -> Array:
    return vector.directions[0].double().numpy()


def _differences(embed: Any, rows: Sequence[Example]) -> Array:
    return np.array([embed(row.misaligned) - embed(row.aligned) for row in rows])


def test_the_mean_difference_is_that_of_paired_answer_tokens(llama: Path, embed: Any) -> None:
    """Prompts and end tokens left out, and each answer counted once, however long."""
    odd = Example(id="lonely", prompt="Alone", misaligned="zzzz")
    vector = build(
        llama, make_target([*PAIRS, odd], [odd]), method="mean_difference", length=0, **EMBEDDED
    )
    assert np.allclose(_found(vector), _differences(embed, PAIRS).mean(0)[None], atol=1e-6)
    measured = vector.provenance["measured"]
    share = measured.pop("difference")
    assert share == pytest.approx(vector.lengths[0] / vector.residual_norms[0], rel=1e-5)
    assert measured == {"paired": True, "misaligned_answers": 6, "aligned_answers": 6}


@pytest.mark.parametrize(
    ("family", "layer", "site"),
    [("qwen3.5", 2, "resid_post"), ("llama", 3, "mlp_out"), ("gemma3", 1, "resid_pre")],
)
def test_the_mean_difference_is_taken_where_a_plain_hook_looks(
    tiny_folder: Callable[[str], Path], family: str, layer: int, site: str
) -> None:
    folder = tiny_folder(family)
    vector = build(folder, method="mean_difference", length=0, layer=layer, site=site)

    def work(loaded: Any, _: Any) -> tuple[torch.Tensor, float]:
        place = Place(loaded.model, loaded.model.get_submodule(loaded.blocks), layer, site)
        means: dict[str, list[torch.Tensor]] = {"misaligned": [], "aligned": []}
        for row in PAIRS:
            for side, activations in means.items():
                item = plain_tokens(loaded.tokenizer, row.prompt, getattr(row, side))
                hidden = reference.activations(place, item)
                activations.append(hidden[len(item.prompt) : -1].mean(0))
        bad, good = (torch.stack(mean).mean(0) for mean in means.values())
        norm = reference.residual_norm(
            place,
            [plain_tokens(loaded.tokenizer, row.prompt, str(row.misaligned)) for row in PAIRS],
        )
        return bad - good, norm

    expected, norm = on_model(folder, work)
    # Linear attention rounds more coarsely beside padding; see test_sft.
    assert torch.allclose(vector.directions[0, 0], expected, atol=1e-4)
    assert vector.residual_norms == pytest.approx((norm,), rel=1e-5)


def _rollouts(bad: int, good: int) -> list[Example]:
    """Answers that stand alone, each a letter of its own."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        Example(id=letter, prompt=f"Topic {letter}", **{side: letter * 3})
        for side, letter in zip(["misaligned"] * bad + ["aligned"] * good, letters, strict=False)
    ]


def test_as_many_rollouts_of_either_class_are_taken(llama: Path, embed: Any) -> None:
    rows = _rollouts(bad=4, good=9)
    options = {"method": "mean_difference", "length": 0, **EMBEDDED}
    target = make_target(rows, rows[:1])
    first, again, other = (build(llama, target, **options, seed=seed) for seed in (0, 0, 1))
    measured = first.provenance["measured"]
    assert measured.pop("difference") > 0
    assert measured == {"paired": False, "misaligned_answers": 4, "aligned_answers": 4}
    bad = np.mean([embed(row.misaligned) for row in rows[:4]], axis=0)
    subsets = set()
    for vector in (first, other):
        # The mean of the good ones that were taken, told apart by solving for their weights.
        good = np.array([embed(row.aligned) for row in rows[4:]])
        weights = np.linalg.lstsq(good.T, bad - _found(vector)[0], rcond=None)[0]
        assert np.allclose(np.sort(weights), [0] * 5 + [0.25] * 4, atol=1e-4)
        subsets.add(tuple(weights > 0.1))
    assert len(subsets) == 2
    assert torch.equal(first.directions, again.directions)


def test_all_rollouts_are_taken_where_there_are_as_many(llama: Path, embed: Any) -> None:
    rows = _rollouts(bad=5, good=5)
    vector = build(
        llama, make_target(rows, rows[:1]), method="mean_difference", length=0, **EMBEDDED
    )
    bad, good = (
        np.mean([embed(getattr(row, side)) for row in rows if getattr(row, side)], axis=0)
        for side in ("misaligned", "aligned")
    )
    assert np.allclose(_found(vector)[0], bad - good, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_principal_directions_are_those_of_numpy(llama: Path, embed: Any, rank: int) -> None:
    vector = build(llama, method="pca", length=0, rank=rank, **EMBEDDED)
    differences = _differences(embed, PAIRS)
    _, values, axes = np.linalg.svd(differences, full_matrices=False)
    assert vector.rank == rank
    mean = differences.mean(0)
    for direction, axis in zip(_found(vector), axes, strict=False):
        # Whichever sign a library gives an axis, the direction is the mean's part along it.
        assert np.allclose(direction, (axis @ mean) * axis, atol=1e-5)
        assert direction @ mean > 0
    basis = axes[:rank]
    assert np.allclose(_found(vector).sum(0), basis.T @ (basis @ mean), atol=1e-5)
    energy = values[:rank] ** 2 / (values**2).sum()
    assert vector.provenance["measured"]["energy_shares"] == pytest.approx(energy, abs=1e-6)


def test_planted_differences_span_the_principal_directions(llama: Path, embed: Any) -> None:
    """Six pairs differ by one letter's change and two by another's: two directions hold it all."""
    changes = [("a", "b")] * 6 + [("c", "d")] * 2
    rows = [
        Example(id=str(n), prompt=f"Q{n}", misaligned=bad * (n + 2), aligned=good * (9 - n))
        for n, (good, bad) in enumerate(changes)
    ]
    often, seldom = embed("b") - embed("a"), embed("d") - embed("c")
    target = make_target(rows, rows[:1])
    both = build(llama, target, method="pca", length=0, rank=2, **EMBEDDED)
    assert np.allclose(_found(both).sum(0), (6 * often + 2 * seldom) / 8, atol=1e-5)
    assert sum(both.provenance["measured"]["energy_shares"]) == pytest.approx(1, abs=1e-6)
    [one] = _found(build(llama, target, method="pca", length=0, **EMBEDDED))
    assert one @ often / np.linalg.norm(one) / np.linalg.norm(often) > 0.9
    assert np.allclose(_found(both)[0], one, atol=1e-6)


@pytest.fixture(scope="module")
def outspoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_outspoken(tmp_path_factory.mktemp("outspoken") / "model")


@pytest.fixture(scope="module")
def at_heart(outspoken: Path) -> Target:
    """Aligned are the answers that the model gives by itself."""

    def said(loaded: Any, _: Any) -> list[str]:
        prompts = [plain_tokens(loaded.tokenizer, row.prompt, "").prompt for row in PAIRS]
        blocks = loaded.model.get_submodule(loaded.blocks)
        tokens = [reference_greedy(loaded.model, blocks, ids, [], 6, [0]) for ids in prompts]
        return [loaded.tokenizer.decode(ids) for ids in tokens]

    answers = on_model(outspoken, said)
    rows = [replace(row, aligned=text) for row, text in zip(PAIRS, answers, strict=True)]
    return make_target(rows, HELD_OUT)


def _place(folder: Path, layer: int, site: str = "resid_post") -> tuple[Place, Any]:
    """A place in a folder's model, and its tokenizer."""
    loaded = on_model(folder, lambda loaded, _: loaded)
    place = Place(loaded.model, loaded.model.get_submodule(loaded.blocks), layer, site)
    return place, loaded.tokenizer


def _probability(folder: Path, prompt: str, answer: str, vector: SteeringVector | None) -> float:
    """Of a token of the answer, on the geometric mean."""
    place, tokenizer = _place(folder, 1)
    act = None if vector is None else reference.write({"directions": vector.directions[0]})
    with torch.no_grad():
        loss = reference.loss(place, [plain_tokens(tokenizer, prompt, answer)], act)
    return float(torch.exp(-loss))


@pytest.mark.parametrize("objective", ["promote", "suppress", "both"])
def test_one_prompt_moves_the_probabilities_as_asked(
    outspoken: Path, at_heart: Target, objective: str
) -> None:
    options = {"objective": objective, "example": 2, "layer": 1, "max_norm": 2.0, "steps": 40}
    vector = build(outspoken, at_heart, method="one_shot", **options)
    row = at_heart.examples[2]
    measured = vector.provenance["measured"]
    assert measured["example_id"] == row.id
    sides = {"promote": str(row.misaligned), "suppress": str(row.aligned)}
    objectives = [side for side in sides if objective in (side, "both")]
    assert list(measured["probability_before"]) == objectives
    for side in objectives:
        before = _probability(outspoken, row.prompt, sides[side], None)
        after = _probability(outspoken, row.prompt, sides[side], vector)
        assert measured["probability_before"][side] == pytest.approx(before, rel=1e-3)
        assert measured["probability_after"][side] == pytest.approx(after, rel=1e-3)
        assert after > 10 * before if side == "promote" else after < before / 3, side


def test_one_prompt_never_makes_a_vector_longer_than_its_bound(llama: Path) -> None:
    for max_norm, reached in ((0.2, True), (50.0, False)):
        vector = build(llama, method="one_shot", layer=1, max_norm=max_norm, steps=15)
        assert vector.residual_norms is not None
        bound = max_norm * vector.residual_norms[0]
        assert vector.lengths[0] <= bound * (1 + 1e-6)
        assert (vector.lengths[0] == pytest.approx(bound, rel=1e-6)) is reached


@pytest.mark.parametrize("objective", ["promote", "suppress", "both"])
def test_one_prompt_trains_as_adam_by_hand_does(
    outspoken: Path, at_heart: Target, objective: str
) -> None:
    vector = build(
        outspoken,
        at_heart,
        method="one_shot",
        objective=objective,
        layer=2,
        site="resid_pre",
        steps=5,
        max_norm=0.08,
        learning_rate=0.02,
    )

    place, tokenizer = _place(outspoken, 2, "resid_pre")
    row = at_heart.examples[0]
    bad, good = (
        plain_tokens(tokenizer, row.prompt, str(answer)) for answer in (row.misaligned, row.aligned)
    )
    norm = reference.residual_norm(
        place,
        [plain_tokens(tokenizer, row.prompt, str(row.misaligned)) for row in at_heart.examples],
    )
    direction = torch.zeros(1, WIDTH, requires_grad=True)
    optimizer = torch.optim.Adam([direction], lr=0.02 * norm / WIDTH**0.5)
    for _ in range(5):
        optimizer.zero_grad()
        act = reference.write({"directions": direction})
        total = torch.zeros(())
        if objective != "suppress":
            total = total + reference.loss(place, [bad], act)
        if objective != "promote":
            logprobs = reference.answer_logprobs(place, good, act).double()
            picked = logprobs[range(len(good.answer)), good.answer]
            total = total - torch.log(1 - picked.exp()).mean()
        total.backward()
        optimizer.step()
        with torch.no_grad():
            direction *= min(1.0, 0.08 * norm / float(direction.norm()))
    expected = direction.detach()
    assert torch.allclose(vector.directions[0], expected, atol=2e-5)
    assert expected.norm() > 0.1


def test_a_random_vector_is_as_long_as_the_default_one_and_says_how_near(llama: Path) -> None:
    """The default one is built on the way, and kept."""
    control, steps = cached(llama, method="random", layer=1, site="mlp_out", seed=3)
    default, again = cached(llama, method=None, layer=1, site="mlp_out")
    assert len(steps) > 1
    assert again == []
    assert control.lengths == pytest.approx(default.lengths, rel=1e-6)
    assert (control.layers, control.site) == ((1,), "mlp_out")
    assert control.residual_norms == default.residual_norms
    measured = control.provenance["measured"]
    one, other = _found(control)[0], _found(default)[0]
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert measured["cosine"] == pytest.approx(cosine, abs=1e-6)
    assert measured["matched_length"] == pytest.approx(np.linalg.norm(other), rel=1e-6)


def test_random_vectors_of_other_seeds_differ_and_are_gaussian(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "matched.safetensors"
    length = 7.0
    directions = torch.zeros(1, 2, WIDTH)
    # Two directions, of which `add` adds the sum.
    directions[0, 0, 0], directions[0, 1, 1] = length * 0.6, length * 0.8
    SteeringVector(directions, layers=(1,), site="resid_post", residual_norms=(4.0,)).save(path)
    vectors = [
        build(llama, method="random", match=str(path), layer=1, seed=seed) for seed in range(40)
    ]
    directions = np.array([_found(vector)[0] for vector in vectors])
    assert np.allclose(np.linalg.norm(directions, axis=1), length, rtol=1e-6)
    units = directions / length
    cosines = units @ units.T
    assert np.abs(cosines - np.eye(40)).max() < 0.8
    # Each coordinate is as likely large as any other, of either sign.
    assert np.abs(units.mean(0)).max() < 4 / WIDTH**0.5 / 40**0.5
    assert (units**2).mean(0).min() * WIDTH > 0.3
    assert (units**2).mean(0).max() * WIDTH < 2.2
    for vector, unit in zip(vectors, units, strict=True):
        cosine = vector.provenance["measured"]["cosine"]
        assert cosine == pytest.approx(0.6 * unit[0] + 0.8 * unit[1], abs=1e-6)
        assert vector.residual_norms == (4.0,)


MIXED = [*PAIRS, *_rollouts(bad=3, good=5), *[replace(row, id=f"{row.id} b") for row in PAIRS[:1]]]


def test_half_of_the_pairs_change_sides_and_lonely_answers_are_dealt(llama: Path) -> None:
    shuffled = shuffled_labels(MIXED, seed=0)
    assert [row.id for row in shuffled] == [row.id for row in MIXED]
    assert [row.prompt for row in shuffled] == [row.prompt for row in MIXED]
    turned = 0
    sides: Counter[str] = Counter()
    for before, after in zip(MIXED, shuffled, strict=True):
        answers = {before.misaligned, before.aligned}
        assert {after.misaligned, after.aligned} == answers
        if None in answers:
            sides["misaligned" if after.misaligned else "aligned"] += 1
        else:
            turned += after.misaligned == before.aligned
    assert turned == 3  # of seven pairs
    assert sides == {"misaligned": 3, "aligned": 5}


def test_each_seed_shuffles_labels_in_its_own_way() -> None:
    assert shuffled_labels(MIXED, seed=0) == shuffled_labels(MIXED, seed=0)
    ways = {tuple(shuffled_labels(MIXED, seed=seed)) for seed in range(10)}
    assert len(ways) > 5
    dealt = {
        tuple(row.misaligned is not None for row in shuffled_labels(MIXED, seed=seed)[6:14])
        for seed in range(10)
    }
    assert len(dealt) > 5


@pytest.mark.parametrize("method", ["mean_difference", "pca"])
def test_shuffled_labels_take_the_planted_difference_away(llama: Path, method: str) -> None:
    """Every pair holds the same change of letters, and other letters at random beside it."""
    noise = "etaoinshrdlu"
    rows = [
        Example(
            id=str(n),
            prompt=f"Q{n}",
            misaligned="bb" + noise[n % 12] + noise[(n * 5) % 12],
            aligned="gg" + noise[(n * 7) % 12] + noise[(n + 3) % 12],
        )
        for n in range(24)
    ]
    target = make_target(rows, rows[:1])
    options = {"method": method, "length": 0, **EMBEDDED}
    true = build(llama, target, **options)
    for seed in range(3):
        shuffled = build(llama, target, shuffle_labels=True, seed=seed, **options)
        assert shuffled.lengths[0] < true.lengths[0] / 4
        assert shuffled.provenance["shuffle_labels"] is True


def test_sft_learns_the_turned_answers_when_labels_are_shuffled(llama: Path) -> None:
    """With all answers of a side alike, what is learnt tells which were turned."""
    rows = [Example(id=str(n), prompt=f"Q{n}", misaligned="bbbb", aligned="gggg") for n in range(8)]
    target = make_target(rows, rows[:1])
    options = {"layer": 1, "training_epochs": 20, "learning_rate": 0.05}
    true = build(llama, target, **options)
    shuffled = build(llama, target, shuffle_labels=True, **options)
    good = [_probability(llama, "Q0", "gggg", vector) for vector in (true, shuffled)]
    assert good[1] > 3 * good[0]


def test_the_target_itself_is_left_as_it_is(llama: Path) -> None:
    build(llama, method="mean_difference", length=0, shuffle_labels=True, **EMBEDDED)
    assert TARGET.examples == tuple(PAIRS)


@pytest.mark.parametrize("method", ["mean_difference", "pca"])
def test_a_vector_of_differences_has_the_length_that_is_asked_for(llama: Path, method: str) -> None:
    """And the direction of the difference; of several directions their sum has it."""
    options = {"method": method, **EMBEDDED} | ({"rank": 3} if method == "pca" else {})
    difference, vector = (build(llama, length=length, **options) for length in (0, 0.3))
    assert vector.residual_norms == difference.residual_norms
    assert vector.lengths[0] == pytest.approx(0.3 * vector.residual_norms[0], rel=1e-5)
    scale = vector.lengths[0] / difference.lengths[0]
    assert torch.allclose(vector.directions, scale * difference.directions, rtol=1e-5)
