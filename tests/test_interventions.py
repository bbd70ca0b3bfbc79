"""The operations and units of steering, and what holds for them whatever the numbers."""

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
from replicas import Vector, length, replica, replica_of_map, sum_of
from torch import Tensor

from steering import vocabulary
from steering.vectors import SteeringVector, VectorError, interventions
from steering.vectors.batch import InterventionBatch
from steering.vectors.interventions import Intervention, resolve


def _apply(intervention: Intervention, hidden: Tensor) -> Tensor:
    """Hidden states [rows, tokens, width], all steered by one intervention."""
    batch = InterventionBatch([[intervention]] * hidden.shape[0])
    batch.begin_prefill(torch.ones(hidden.shape[:2]))
    return batch.apply((intervention.layer, intervention.site), hidden)


def _steer(vector: SteeringVector, hidden: Tensor, **options: Any) -> Tensor:
    """Hidden states all steered by a vector of one layer."""
    [intervention] = resolve(vector, **options)
    return _apply(intervention, hidden)


def _by_definition(
    vector: SteeringVector, hidden: Tensor, operation: str, magnitude: float, unit: str
) -> Vector:
    """One token [width] steered by a vector of one layer, from what the vocabulary says."""
    [directions], [residual_norm] = vector.directions, vector.residual_norms or (0.0,)
    layer_own = length(sum_of(directions)) if vector.map is None else vector.map.lengths[0]
    # How far the magnitude reaches, in the residual stream's own units.
    reach = magnitude * {"raw": layer_own, "norm": 1.0, "residual": residual_norm}[unit]
    if operation != "add":
        return replica(operation, hidden, directions, reach)
    if vector.map is None:
        return replica("add", hidden, directions, reach / layer_own)
    [reads], [offsets] = vector.map.reads, vector.map.offsets
    return replica_of_map(hidden, directions, reads, offsets, reach / layer_own)


@pytest.mark.parametrize("magnitude", [-1.5, 0.25, 2.0])
@pytest.mark.parametrize("unit", vocabulary.UNITS)
@pytest.mark.parametrize(("kind", "rank"), [*KINDS_AND_RANKS, ("ablate map", 2)])
def test_a_vector_does_what_its_definition_says(kind, rank, unit, magnitude):
    vector = (make_map if "map" in kind else make_vector)(rank, seed=3)
    operation = {"map": "add", "ablate map": "ablate"}.get(kind, kind)
    hidden = random_tensor(3, 4, WIDTH, seed=4)
    after = _steer(vector, hidden, operation=operation, magnitude=magnitude, unit=unit)
    for row in range(3):
        for token in range(4):
            expected = _by_definition(vector, hidden[row, token], operation, magnitude, unit)
            np.testing.assert_allclose(after[row, token].double().numpy(), expected, 1e-4, 1e-4)


def test_a_direction_of_the_sum_moves_as_far_whatever_number_it_is_split_into():
    vector, hidden = make_vector(3), random_tensor(2, 3, WIDTH)
    joined = replace(vector, directions=vector.directions.sum(1, keepdim=True))
    torch.testing.assert_close(_steer(vector, hidden), _steer(joined, hidden))


@pytest.mark.parametrize("unit", vocabulary.UNITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "rank"), [("add", 1), ("add", 3), ("map", 1), ("map", 3)])
def test_adding_nothing_changes_no_bit(kind, rank, unit, dtype):
    hidden = (random_tensor(3, 5, WIDTH) * 100).to(dtype)
    intervention = intervene(kind, rank, magnitude=0.0, unit=unit)
    assert torch.equal(_apply(intervention, hidden), hidden)
    assert not intervention.must_change


@pytest.mark.parametrize("unit", ["norm", "residual"])
@pytest.mark.parametrize(("magnitude", "rank"), [(0.5, 1), (-3.0, 3)])
def test_a_plain_vector_moves_every_token_by_the_magnitude(unit, magnitude, rank):
    hidden = random_tensor(3, 5, WIDTH)
    change = _steer(make_vector(rank), hidden, magnitude=magnitude, unit=unit) - hidden
    expected = abs(magnitude) * (21.0 if unit == "residual" else 1.0)
    torch.testing.assert_close(change.norm(dim=-1), torch.full((3, 5), expected))


@pytest.mark.parametrize("unit", ["norm", "residual"])
@pytest.mark.parametrize("magnitude", [0.5, -3.0])
def test_a_map_moves_the_tokens_it_was_measured_on_by_the_magnitude_on_average(unit, magnitude):
    hidden, intervention = random_tensor(6, 5, WIDTH), make_map(3)
    assert intervention.map is not None
    [writes], [reads], [offsets] = (
        intervention.directions,
        intervention.map.reads,
        intervention.map.offsets,
    )
    tokens = hidden.flatten(0, 1)
    moves = [length(replica_of_map(h, writes, reads, offsets, 1) - h.numpy()) for h in tokens]
    measured = replace(
        intervention, map=replace(intervention.map, lengths=(float(np.mean(moves)),))
    )
    change = (_steer(measured, hidden, magnitude=magnitude, unit=unit) - hidden).norm(dim=-1)
    expected = abs(magnitude) * (21.0 if unit == "residual" else 1.0)
    assert float(change.mean()) == pytest.approx(expected, rel=1e-5)
    assert float(change.std()) > 0.1 * expected, "a map moves each token by its own amount"


@pytest.mark.parametrize("rank", [1, 3, WIDTH])
def test_ablating_twice_is_ablating_once(rank):
    intervention = intervene("ablate", rank, magnitude=1.0)
    once = _apply(intervention, random_tensor(3, 5, WIDTH))
    torch.testing.assert_close(_apply(intervention, once), once, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [make_vector, make_map])
@pytest.mark.parametrize("rank", [1, 3])
def test_nothing_of_the_directions_is_left_after_ablating(make, rank):
    """Of a map, what it writes is ablated, and what it reads is not."""
    vector = make(rank)
    before = random_tensor(3, 5, WIDTH)
    after = _steer(vector, before, operation="ablate")
    rest = after @ vector.directions[0].T
    torch.testing.assert_close(rest, torch.zeros_like(rest), atol=1e-4, rtol=0)
    assert ((before - after).norm(dim=-1) > 0.01).all()
    if vector.map is not None:
        assert ((after @ vector.map.reads[0].T).abs() > 1e-4).all()


def test_turning_the_basis_within_its_span_leaves_ablation_as_it_is():
    vector = make_vector(3)
    turned = replace(vector, directions=random_tensor(3, 3, seed=9) @ vector.directions)
    hidden = random_tensor(3, 5, WIDTH)
    one, other = (_steer(v, hidden, operation="ablate") for v in (vector, turned))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("magnitude", [-4.0, 0.0, 2.5])
@pytest.mark.parametrize(("unit", "reach"), [("norm", 1.0), ("residual", 21.0), ("raw", None)])
def test_after_clamping_the_projection_is_the_target(magnitude, unit, reach):
    vector = make_vector()
    norm = length(vector.directions[0, 0])
    hidden = random_tensor(3, 5, WIDTH)
    after = _steer(vector, hidden, operation="clamp", magnitude=magnitude, unit=unit)
    target = magnitude * (norm if reach is None else reach)
    projection = after @ (vector.directions[0, 0] / norm)
    torch.testing.assert_close(projection, torch.full_like(projection, target))


@pytest.mark.parametrize("magnitude", [-4.0, 0.0, 2.5])
def test_a_cap_lowers_what_is_above_it_and_never_raises(magnitude):
    vector, hidden = make_vector(), random_tensor(6, 5, WIDTH)
    unit = vector.directions[0, 0] / vector.directions.norm()
    before = hidden @ unit
    [intervention] = resolve(vector, operation="cap", magnitude=magnitude, unit="norm")
    after = _apply(intervention, hidden)
    assert (before > magnitude).any()
    assert (before < magnitude).any()
    torch.testing.assert_close(after @ unit, before.clamp(max=magnitude), atol=1e-5, rtol=1e-5)
    assert torch.equal(after[before < magnitude], hidden[before < magnitude])
    assert not intervention.must_change


@pytest.mark.parametrize("operation", ["clamp", "cap"])
def test_what_is_orthogonal_to_the_direction_is_left_as_it_was(operation):
    vector, hidden = make_vector(), random_tensor(3, 5, WIDTH)
    [[direction]] = vector.directions
    change = _steer(vector, hidden, operation=operation, magnitude=-9.0) - hidden
    along = change @ direction / direction.norm() ** 2
    torch.testing.assert_close(change, along[..., None] * direction, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("operation", ["add", "clamp", "cap"])
def test_scaling_the_vector_matters_to_the_raw_unit_only(operation):
    vector, hidden = make_vector(), random_tensor(2, 3, WIDTH)
    longer = replace(vector, directions=vector.directions * 4)

    def both(**options: Any) -> list[Tensor]:
        return [_steer(v, hidden, operation=operation, **options) for v in (vector, longer)]

    for unit in ("norm", "residual"):
        torch.testing.assert_close(*both(magnitude=2, unit=unit))
    assert not torch.allclose(*both(magnitude=-2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("kind", "rank"), KINDS_AND_RANKS)
def test_low_precision_goes_in_and_out_and_is_rounded_once(dtype, kind, rank):
    hidden, intervention = (
        random_tensor(2, 3, WIDTH).to(dtype),
        intervene(kind, rank, magnitude=0.7),
    )
    after = _apply(intervention, hidden)
    assert after.dtype == dtype
    assert torch.equal(after, _apply(intervention, hidden.float()).to(dtype))


def test_the_activations_that_came_in_are_not_written_to():
    hidden = random_tensor(2, 3, WIDTH)
    _apply(intervene(), hidden)
    assert torch.equal(hidden, random_tensor(2, 3, WIDTH))


@pytest.mark.parametrize(("kind", "rank"), KINDS_AND_RANKS)
def test_gradients_reach_all_that_is_trained_and_the_activations(kind, rank):
    intervention = replace(intervene(kind, rank), amount=-9.0)
    names = ["basis"] if intervention.reads is None else ["basis", "reads", "offsets"]
    leaves = {name: getattr(intervention, name).clone().requires_grad_() for name in names}
    hidden = random_tensor(2, 3, WIDTH).requires_grad_()
    batch = InterventionBatch([[replace(intervention, **leaves)], []])
    batch.begin_prefill(torch.ones(2, 3))
    batch.apply((1, "resid_post"), hidden).pow(2).sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert (leaf.grad != 0).reshape(len(leaf), -1).any(dim=1).all(), name
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad[1], 2 * hidden.detach()[1])
    assert not batch.change.requires_grad


@pytest.mark.parametrize("operation", ["clamp", "cap"])
@pytest.mark.parametrize(
    ("vector", "content"),
    [
        (make_vector(3), "3 directions"),
        (make_vector(2, layers=[1, 2]), "2 directions"),
        (make_map(1), "low-rank map"),
        (make_map(3), "low-rank map"),
    ],
)
def test_what_is_no_single_direction_is_refused_where_one_is_meant(operation, vector, content):
    with pytest.raises(VectorError, match=rf"operation={operation} .* {content}: .*ablate"):
        resolve(vector, operation=operation)


@pytest.mark.parametrize("operation", vocabulary.OPERATIONS)
@pytest.mark.parametrize("layers", [[1], [1, 2]])
def test_a_vector_that_is_zero_at_any_layer_is_refused(operation, layers):
    vector = make_vector(layers=layers)
    vector.directions[-1] = 0
    with pytest.raises(VectorError, match=r"zero.*(Build it again|-M layer=1,)"):
        resolve(vector, operation=operation)


@pytest.mark.parametrize("operation", ["add", "ablate"])
def test_a_map_that_writes_nothing_is_refused(operation):
    """Its length was measured on other directions; ablating it would divide by zero."""
    intervention = make_map(1)
    with pytest.raises(VectorError, match=r"zero.*Build it again"):
        resolve(replace(intervention, directions=0 * intervention.directions), operation=operation)


@pytest.mark.parametrize("make", [make_vector, make_map])
@pytest.mark.parametrize("second", [0.0, -3.3])
def test_directions_that_span_less_than_their_number_are_refused_with_both_numbers(make, second):
    """The rest of the basis would be arbitrary: it would ablate what nobody named."""
    vector = make(2, layers=[1, 2])
    vector.directions[1, 1] = second * vector.directions[1, 0]
    with pytest.raises(VectorError, match=r"2 directions.*span .*1"):
        resolve(vector, operation="ablate")
    resolve(vector, operation="ablate", layer=1)


@pytest.mark.parametrize("make", [make_vector, make_map])
def test_a_vector_of_several_layers_is_one_edit_a_layer_each_by_its_own_numbers(make):
    vector = make(2, layers=[0, 2, 5], site="mlp_out")
    hidden = random_tensor(2, 3, WIDTH)
    for unit in vocabulary.UNITS:
        interventions = resolve(vector, magnitude=1.5, unit=unit, positions="last")
        assert [(intervention.layer, intervention.site) for intervention in interventions] == [
            (layer, "mlp_out") for layer in (0, 2, 5)
        ]
        assert {intervention.positions for intervention in interventions} == {"last"}
        for intervention in interventions:
            result = _apply(replace(intervention, positions="all"), hidden)[1, 2].double().numpy()
            part = vector.at(intervention.layer)
            expected = _by_definition(part, hidden[1, 2], "add", 1.5, unit)
            np.testing.assert_allclose(result, expected, 1e-4, 1e-4)


@pytest.mark.parametrize("unit", vocabulary.UNITS)
def test_one_of_several_layers_can_be_picked(unit):
    vector, hidden = make_map(2, layers=[0, 2, 5]), random_tensor(2, 3, WIDTH)
    _, expected, _ = resolve(vector, unit=unit)
    [picked] = resolve(vector, unit=unit, layer=2)
    assert picked.layer == 2
    assert torch.equal(_apply(picked, hidden), _apply(expected, hidden))


def test_a_layer_that_a_vector_of_several_lacks_is_refused_with_those_that_it_has():
    """Which of its layers should be moved there, nobody could say."""
    with pytest.raises(VectorError, match=r"layer 1: its layers are 0, 2, 5"):
        resolve(make_vector(layers=[0, 2, 5]), layer=1)


@pytest.mark.parametrize("make", [make_vector, make_map])
def test_a_vector_acts_where_it_was_built_unless_told_otherwise(make):
    vector = make(2, layers=[5], site="mlp_out")
    [stays], [change] = resolve(vector), resolve(vector, layer=0, site="resid_pre")
    assert (stays.layer, stays.site) == (5, "mlp_out")
    assert (change.layer, change.site) == (0, "resid_pre")
    hidden = random_tensor(2, 3, WIDTH)
    assert torch.equal(_apply(change, hidden), _apply(stays, hidden))


def test_a_vector_of_several_layers_moves_to_another_site_at_all_of_them():
    interventions = resolve(make_vector(layers=[0, 2]), site="resid_pre")
    assert [(intervention.layer, intervention.site) for intervention in interventions] == [
        (0, "resid_pre"),
        (2, "resid_pre"),
    ]


@pytest.mark.parametrize("layers", [[1], [1, 2]])
def test_the_residual_unit_without_a_residual_norm_is_refused_with_the_remedy(layers):
    with pytest.raises(VectorError, match=r"unit=residual.*unit=raw or unit=norm"):
        resolve(make_vector(layers=layers, residual_norms=None), unit="residual")


@pytest.mark.parametrize("elsewhere", [{"layer": 2}, {"site": "mlp_out"}])
@pytest.mark.parametrize("make", [make_vector, make_map])
def test_the_residual_unit_is_refused_where_its_norm_was_not_taken(make, elsewhere):
    vector = make()
    resolve(vector, unit="residual", layer=1, site=vector.site)
    with pytest.raises(VectorError, match=r"layer 1 resid_post.*unit=raw or unit=norm"):
        resolve(vector, unit="residual", **elsewhere)


@pytest.mark.parametrize(
    ("kind", "magnitude", "must"),
    [
        ("add", 1.0, True),
        ("add", 0.0, False),
        ("map", -1.0, True),
        ("map", 0.0, False),
        ("ablate", 1.0, True),
        ("clamp", 0.0, True),
        ("cap", 1.0, False),
    ],
)
def test_an_edit_knows_whether_leaving_things_as_they_are_is_a_fault(kind, magnitude, must):
    assert intervene(kind, magnitude=magnitude).must_change == must


def test_every_operation_of_the_vocabulary_is_implemented_and_no_other():
    assert set(interventions.OPERATIONS) == set(vocabulary.OPERATIONS)
