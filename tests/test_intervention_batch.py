"""Each row of a batch by its own interventions, at the named tokens, against slow replicas."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_vectors import (
    KINDS_AND_RANKS,
    WIDTH,
    intervene,
    make_map,
    make_vector,
    random_tensor,
)
from replicas import edited, is_steered
from torch import Tensor

from steering import vocabulary
from steering.vectors import VectorError
from steering.vectors.batch import InterventionBatch, SiteKey
from steering.vectors.interventions import Intervention, resolve

LENGTHS = (5, 2, 4, 1)
STEPS = 2
KEY: SiteKey = (1, "resid_post")
Rows = Sequence[Sequence[Intervention]]
Passes = list[tuple[Tensor, Tensor]]


def _prompt_mask(lengths: Sequence[int], side: str, longest: int) -> Tensor:
    real = torch.arange(longest)[None, :] < torch.tensor(lengths)[:, None]
    return real.flip(1) if side == "left" else real


def _run(
    batch: InterventionBatch, lengths: Sequence[int], side: str = "left", padding: int = 1
) -> Any:
    """Activations before and after each site of each pass: a prefill and then decode steps."""
    num_rows, longest = len(lengths), max(lengths) + padding
    passes: dict[SiteKey, Passes] = {key: [] for key in batch.sites}
    batch.begin_prefill(_prompt_mask(lengths, side, longest))
    for step in range(1 + STEPS):
        if step:
            batch.begin_decode()
        for number, key in enumerate(batch.sites):
            hidden = random_tensor(
                num_rows, 1 if step else longest, WIDTH, seed=100 + 10 * number + step
            )
            passes[key].append((hidden.clone(), batch.apply(key, hidden)))
    return passes


def _check_against_replica(
    rows: Rows, passes: dict[SiteKey, Passes], lengths: Sequence[int], side: str
) -> None:
    """Every row, token and site: named ones are the replica's, all others are bit-equal."""
    for key, at_site in passes.items():
        for step, (before, after) in enumerate(at_site):
            assert after.shape == before.shape
            for row, token in itertools.product(range(before.shape[0]), range(before.shape[1])):
                first = before.shape[1] - lengths[row] if side == "left" and step == 0 else 0
                index = token - first if step == 0 else lengths[row] + step - 1
                real = 0 <= index < lengths[row] or step > 0
                acting = [
                    intervention
                    for intervention in rows[row]
                    if real
                    and (intervention.layer, intervention.site) == key
                    and is_steered(intervention.positions, index, lengths[row])
                ]
                where = f"{key}, pass {step}, row {row}, token {token}"
                actual = after[row, token]
                if acting:
                    expected = edited(before[row, token], acting)
                    np.testing.assert_allclose(
                        actual.double().numpy(), expected, 1e-5, 1e-4, err_msg=where
                    )
                else:
                    assert torch.equal(actual, before[row, token]), where


@pytest.mark.parametrize(("kind", "rank"), KINDS_AND_RANKS)
@pytest.mark.parametrize("positions", vocabulary.POSITIONS)
@pytest.mark.parametrize("side", ["rest", "right"])
def test_an_operation_does_what_its_definition_says_at_the_named_tokens_only(
    kind, rank, positions, side
):
    rows = [
        [intervene(kind, rank, seed=row, magnitude=row - 1.5, positions=positions)]
        for row in range(len(LENGTHS))
    ]
    _check_against_replica(rows, _run(InterventionBatch(rows), LENGTHS, side), LENGTHS, side)


@pytest.mark.parametrize("site", vocabulary.SITES)
@pytest.mark.parametrize("unit", vocabulary.UNITS)
def test_the_site_and_unit_that_were_asked_for_are_those_that_act(site, unit):
    interventions = resolve(make_vector(site=site, layers=[3]), unit=unit, magnitude=1.5)
    batch = InterventionBatch([interventions])
    assert batch.sites == ((3, site),)
    _check_against_replica([interventions], _run(batch, [4]), [4], "left")


def _mixed(seed: int, num_rows: int = 8) -> list[list[Intervention]]:
    """Rows that share nothing: kinds, ranks, layers, sites, positions, amounts, numbers.

    They have up to six interventions, several at one site among them.
    """
    generator = np.random.default_rng(seed)
    keys = list(itertools.product((0, 2), vocabulary.SITES))

    def one_of(choices: Any) -> Any:
        return list(choices)[generator.integers(len(choices))]

    def intervention() -> Intervention:
        (kind, rank), (layer, site) = one_of(KINDS_AND_RANKS), one_of(keys)
        return intervene(
            kind,
            rank,
            seed=int(generator.integers(1000)),
            magnitude=float(generator.normal()) * 2,
            unit="norm" if kind == "map" else "raw",
            positions=one_of(vocabulary.POSITIONS),
            layer=layer,
            site=site,
        )

    return [[intervention() for _ in range(row % 7)] for row in range(num_rows)]


MIXED_LENGTHS = (3, 6, 1, 4, 5, 2, 6, 3)


@pytest.mark.parametrize("side", ["rest", "right"])
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_share_nothing_are_each_steered_by_their_own_interventions(seed, side):
    rows = _mixed(seed)
    passes = _run(InterventionBatch(rows), MIXED_LENGTHS, side)
    assert len(passes) > 3
    _check_against_replica(rows, passes, MIXED_LENGTHS, side)


def test_every_row_of_a_batch_is_steered_and_not_only_the_first():
    batch = InterventionBatch([[intervene()]] * 5)
    for before, after in _run(batch, [3] * 5, padding=0)[KEY]:
        assert (before != after).all()
    assert (batch.change > 0).all()


def test_permuting_rows_permutes_results():
    rows, order = _mixed(7), [3, 0, 6, 1, 7, 5, 2, 4]
    straight, shuffled = InterventionBatch(rows), InterventionBatch([rows[row] for row in order])
    hidden = random_tensor(8, 6, WIDTH)
    mask = _prompt_mask(MIXED_LENGTHS, "left", 6)
    assert straight.sites == shuffled.sites
    straight.begin_prefill(mask)
    shuffled.begin_prefill(mask[order])
    for key in straight.sites:
        expected = straight.apply(key, hidden)[order]
        torch.testing.assert_close(shuffled.apply(key, hidden[order]), expected)
    torch.testing.assert_close(shuffled.change, straight.change[order])


def test_padding_changes_nothing():
    rows = _mixed(3)
    hidden, mask = random_tensor(8, 6, WIDTH), _prompt_mask(MIXED_LENGTHS, "left", 6)
    tight, wide = InterventionBatch(rows), InterventionBatch(rows)
    tight.begin_prefill(mask)
    wide.begin_prefill(torch.nn.functional.pad(mask, (9, 0)))
    garbage = torch.full((8, 9, WIDTH), 1e6)
    for key in tight.sites:
        padded = wide.apply(key, torch.cat([garbage, hidden], dim=1))
        torch.testing.assert_close(padded[:, 9:], tight.apply(key, hidden))
        assert torch.equal(padded[:, :9], garbage)
    torch.testing.assert_close(wide.change, tight.change)


ORDERS = [[0, 1, 2, 3, 4, 5, 6], [1, 3, 7], [6, 2, 0], [0], [7, 6, 5, 4, 3, 2, 1, 0], [5, 5, 1]]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("when", ["before the prefill", "before decoding"])
def test_a_batch_goes_on_with_the_rows_that_are_kept_as_if_made_of_them(order, when):
    rows = _mixed(5)
    smaller, fresh = InterventionBatch(rows), InterventionBatch([rows[row] for row in order])
    lengths = [MIXED_LENGTHS[row] for row in order]
    if when == "before decoding":
        prompts = random_tensor(8, 6, WIDTH, seed=1)
        smaller.begin_prefill(_prompt_mask(MIXED_LENGTHS, "left", 6))
        fresh.begin_prefill(_prompt_mask(lengths, "left", 6))
        for key in smaller.sites:
            smaller.apply(key, prompts)
        for key in fresh.sites:
            fresh.apply(key, prompts[order])
    smaller.keep(order)
    for batch in (smaller, fresh):
        if when == "before decoding":
            batch.begin_decode()
        else:
            batch.begin_prefill(_prompt_mask(lengths, "left", 6))
    hidden = random_tensor(len(order), 1 if when == "before decoding" else 6, WIDTH, seed=2)
    for key in smaller.sites:
        after = smaller.apply(key, hidden)
        expected = fresh.apply(key, hidden) if key in fresh.sites else hidden
        torch.testing.assert_close(after, expected)
    torch.testing.assert_close(smaller.change, fresh.change)


def test_keeping_twice_is_keeping_once():
    rows = _mixed(6)
    twice, once = InterventionBatch(rows), InterventionBatch(rows)
    twice.keep([6, 4, 2, 1])
    twice.keep([3, 1])
    once.keep([1, 4])
    hidden = random_tensor(2, 1, WIDTH)
    for batch in (twice, once):
        batch.begin_decode()
    for key in once.sites:
        assert torch.equal(twice.apply(key, hidden), once.apply(key, hidden))


def test_change_is_the_largest_move_in_the_prefill_and_the_first_decoded_token():
    interventions = [
        intervene(positions=p, magnitude=m) for p, m in (("prompt", 1.0), ("response", -2.0))
    ]
    batch = InterventionBatch(
        [[interventions[0]], [interventions[1]], [], [replace(interventions[0], amount=0.0)]]
    )
    largest = float(interventions[0].basis.abs().max())
    expected = [[largest, 0, 0, 0], [largest, 2 * largest, 0, 0], [largest, 2 * largest, 0, 0]]
    batch.begin_prefill(torch.ones(4, 3))
    for step in range(3):
        if step:
            batch.begin_decode()
        batch.apply(KEY, random_tensor(4, 1 if step else 3, WIDTH))
        torch.testing.assert_close(batch.change, torch.tensor(expected[step]), atol=1e-5, rtol=0)


def test_change_is_not_measured_at_every_decoded_token():
    """Two passes show whether steering acts; measuring all would slow every token."""
    batch = InterventionBatch([[intervene("clamp", positions="response")]])
    batch.begin_decode()
    batch.apply(KEY, random_tensor(1, 1, WIDTH))
    first = batch.change.clone()
    batch.begin_decode()
    batch.apply(KEY, 100 * random_tensor(1, 1, WIDTH))
    assert first > 0
    assert torch.equal(batch.change, first)


def test_change_of_a_row_is_the_largest_over_its_sites():
    small, large = (
        intervene(layer=0, magnitude=0.1),
        intervene(layer=1, magnitude=5.0),
    )
    for first, second in ((small, large), (large, small)):
        batch = InterventionBatch([[replace(first, layer=0), replace(second, layer=1)]])
        batch.begin_prefill(torch.ones(1, 2))
        for key in batch.sites:
            batch.apply(key, random_tensor(1, 2, WIDTH))
        expected = 5 * float(large.basis.abs().max())
        assert batch.change.tolist() == pytest.approx([expected], rel=1e-4)


def test_a_change_that_the_precision_swallows_is_reported_as_none():
    batch = InterventionBatch([[intervene(magnitude=1e-6)]])
    batch.begin_prefill(torch.ones(1, 3))
    batch.apply(KEY, torch.full((1, 3, WIDTH), 100.0, dtype=torch.bfloat16))
    assert batch.change.tolist() == [0.0]


def test_visits_count_each_site_by_itself():
    batch = InterventionBatch([[intervene(layer=0), intervene(layer=1)], []])
    batch.begin_prefill(torch.ones(2, 3))
    batch.apply((0, "resid_post"), random_tensor(2, 3, WIDTH))
    batch.begin_decode()
    batch.apply((0, "resid_post"), random_tensor(2, 1, WIDTH))
    assert batch.visits == {(0, "resid_post"): 2, (1, "resid_post"): 0}


def test_sites_come_in_the_order_of_a_forward_pass():
    keys = [(2, "resid_post"), (0, "mlp_out"), (2, "resid_pre"), (0, "resid_post"), (2, "mlp_out")]
    batch = InterventionBatch([[intervene(layer=layer, site=site)] for layer, site in keys])
    assert batch.sites == (
        (0, "mlp_out"),
        (0, "resid_post"),
        (2, "resid_pre"),
        (2, "mlp_out"),
        (2, "resid_post"),
    )


def test_a_batch_without_steering_has_no_sites():
    batch = InterventionBatch([[], []])
    assert batch.sites == ()
    assert batch.change.tolist() == [0, 0]


def test_a_vector_of_another_width_is_refused_with_both_widths():
    batch = InterventionBatch([[intervene()]])
    batch.begin_prefill(torch.ones(1, 2))
    with pytest.raises(VectorError, match=rf"width {WIDTH} .* width 9"):
        batch.apply(KEY, random_tensor(1, 2, 9))


def test_vectors_of_two_widths_in_one_batch_are_refused_with_both_widths():
    other = resolve(make_vector(width=9))
    with pytest.raises(VectorError, match=rf"{WIDTH}.*9"):
        InterventionBatch([[intervene()], other])


KINDS = [("add", 1), ("map", 3), ("ablate", 2), ("clamp", 1), ("cap", 1)]


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(KINDS, 2)])
def test_interventions_of_a_row_at_one_site_act_in_the_order_in_which_they_are_given(first, second):
    interventions = [intervene(*first, seed=1), intervene(*second, seed=2)]
    rows = [interventions, [], interventions[:1]]
    _check_against_replica(rows, _run(InterventionBatch(rows), [3, 2, 4]), [3, 2, 4], "left")


def test_ablating_after_adding_is_not_adding_after_ablating():
    added, ablated = intervene(), intervene("ablate", 3, seed=1)
    first, last = InterventionBatch([[added, ablated]]), InterventionBatch([[ablated, added]])
    hidden = random_tensor(1, 3, WIDTH)
    results = []
    for batch in (first, last):
        batch.begin_prefill(torch.ones(1, 3))
        results.append(batch.apply(KEY, hidden))
    span = ablated.basis
    rest = [(after @ span.T).abs().max() for after in results]
    assert rest[0] < 1e-4
    assert rest[1] > 0.1


def test_of_interventions_at_one_site_each_acts_at_its_own_positions():
    rows = [
        [intervene(positions="last"), intervene("map", 2, positions="prompt")],
        [
            intervene("clamp", positions="response"),
            intervene("add", 3, positions="all"),
        ],
        [
            intervene(positions="all"),
            intervene("ablate", 2, positions="response"),
            intervene(),
        ],
    ]
    _check_against_replica(rows, _run(InterventionBatch(rows), [3, 5, 2]), [3, 5, 2], "left")


def test_the_same_intervention_twice_acts_twice():
    intervention = intervene()
    batch = InterventionBatch([[intervention, intervention], [intervention]])
    batch.begin_decode()
    hidden = random_tensor(2, 1, WIDTH)
    change = batch.apply(KEY, hidden) - hidden
    torch.testing.assert_close(change[0], 2 * change[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_row_among_others_is_the_row_alone(seed):
    """With and without maps, of different ranks and numbers of interventions, at shared sites."""
    generator = np.random.default_rng(seed)
    rows = [[intervene(*kind, seed=10 * row + n) for n, kind in enumerate(kinds)] for row, kinds in
             enumerate([[("map", 1)], [], [("map", 3), ("add", 3)], [("add", 1), ("map", 2)],
                        [("ablate", 2)], [("ablate", 3), ("ablate", 1)], [("clamp", 1)],
                        [("cap", 1), ("clamp", 1), ("map", 4)]])]  # fmt: skip
    rows = [rows[row] for row in generator.permutation(len(rows))]
    hidden = random_tensor(len(rows), 4, WIDTH, seed=seed)
    together = InterventionBatch(rows)
    together.begin_prefill(torch.ones(len(rows), 4))
    after = together.apply(KEY, hidden)
    for row, interventions in enumerate(rows):
        alone = InterventionBatch([interventions])
        alone.begin_prefill(torch.ones(1, 4))
        expected = (
            alone.apply(KEY, hidden[row : row + 1]) if interventions else hidden[row : row + 1]
        )
        torch.testing.assert_close(after[row : row + 1], expected, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(together.change[row : row + 1], alone.change, atol=1e-4, rtol=0)


def test_rows_may_follow_one_vector_of_several_layers_to_all_of_them():
    interventions = resolve(make_map(2, layers=[0, 2, 3]), magnitude=-0.5)
    rows = [list(interventions), [], [interventions[1]]]
    batch = InterventionBatch(rows)
    assert batch.sites == ((0, "resid_post"), (2, "resid_post"), (3, "resid_post"))
    _check_against_replica(rows, _run(batch, [3, 2, 4]), [3, 2, 4], "left")
