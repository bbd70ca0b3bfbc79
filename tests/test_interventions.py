"""The operations and units of steering, and what holds for them whatever the numbers."""

from dataclasses import replace

import pytest
import torch
from edits import OPERATIONS_AND_RANKS, WIDTH, make_edit, make_vector, random_tensor
from torch import Tensor

from steering import interventions, vocabulary
from steering.interventions import InterventionError, Plan, RowIntervention, resolve
from steering.vector import SteeringVector


def _apply(edit: RowIntervention, hidden: Tensor) -> Tensor:
    """Hidden states [rows, tokens, width], all steered by one edit."""
    plan = Plan([[edit]] * hidden.shape[0])
    plan.begin_prefill(torch.ones(hidden.shape[:2]))
    return plan.apply((edit.layer, edit.site), hidden)


@pytest.mark.parametrize("unit", vocabulary.UNITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adding_nothing_changes_no_bit(unit, dtype):
    hidden = (random_tensor(3, 5, WIDTH) * 100).to(dtype)
    edit = make_edit(magnitude=0.0, unit=unit)
    assert torch.equal(_apply(edit, hidden), hidden)
    assert not edit.must_change


@pytest.mark.parametrize("rank", [1, 3, WIDTH])
def test_ablating_twice_is_ablating_once(rank):
    edit = make_edit("ablate", rank, magnitude=1.0)
    once = _apply(edit, random_tensor(3, 5, WIDTH))
    torch.testing.assert_close(_apply(edit, once), once, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_nothing_of_the_subspace_is_left_after_ablating(rank):
    vector = make_vector(rank)
    after = _apply(resolve(vector, operation="ablate"), random_tensor(3, 5, WIDTH))
    projection = after @ vector.directions.T
    torch.testing.assert_close(projection, torch.zeros_like(projection), atol=1e-4, rtol=0)


def test_turning_the_basis_within_its_span_leaves_ablation_as_it_is():
    vector = make_vector(3)
    turned = replace(vector, directions=random_tensor(3, 3, seed=9) @ vector.directions)
    hidden = random_tensor(3, 5, WIDTH)
    one, other = (_apply(resolve(v, operation="ablate"), hidden) for v in (vector, turned))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("magnitude", [-4.0, 0.0, 2.5])
@pytest.mark.parametrize(("unit", "length"), [("norm", 1.0), ("residual", 20.0), ("raw", None)])
def test_after_clamping_the_projection_is_the_target(magnitude, unit, length):
    vector = make_vector()
    norm = vector.directions[0].norm()
    after = _apply(
        resolve(vector, operation="clamp", magnitude=magnitude, unit=unit),
        random_tensor(3, 5, WIDTH),
    )
    target = magnitude * (norm if length is None else length)
    projection = after @ (vector.directions[0] / norm)
    torch.testing.assert_close(projection, torch.full_like(projection, float(target)))


@pytest.mark.parametrize("magnitude", [-4.0, 0.0, 2.5])
def test_a_cap_lowers_what_is_above_it_and_never_raises(magnitude):
    vector, hidden = make_vector(), random_tensor(6, 5, WIDTH)
    unit = vector.directions[0] / vector.directions[0].norm()
    before = hidden @ unit
    edit = resolve(vector, operation="cap", magnitude=magnitude, unit="norm")
    after = _apply(edit, hidden)
    assert (before > magnitude).any()
    assert (before < magnitude).any()
    torch.testing.assert_close(after @ unit, before.clamp(max=magnitude), atol=1e-5, rtol=1e-5)
    assert torch.equal(after[before < magnitude], hidden[before < magnitude])
    assert not edit.must_change


@pytest.mark.parametrize("operation", ["clamp", "cap"])
def test_what_is_orthogonal_to_the_direction_is_left_as_it_was(operation):
    vector, hidden = make_vector(), random_tensor(3, 5, WIDTH)
    moved = _apply(resolve(vector, operation=operation, magnitude=-9.0), hidden) - hidden
    along = moved @ vector.directions[0] / vector.directions[0].norm() ** 2
    torch.testing.assert_close(moved, along[..., None] * vector.directions[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("magnitude", [0.5, -3.0])
@pytest.mark.parametrize(("unit", "length"), [("norm", 1.0), ("residual", 20.0), ("raw", None)])
def test_a_magnitude_is_a_multiple_of_its_unit_along_the_vector(magnitude, unit, length):
    vector, hidden = make_vector(), random_tensor(3, 5, WIDTH)
    change = _apply(resolve(vector, magnitude=magnitude, unit=unit), hidden) - hidden
    norm = vector.directions[0].norm()
    expected = magnitude * (norm if length is None else length) * vector.directions[0] / norm
    torch.testing.assert_close(change, expected.expand_as(change), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("operation", ["add", "clamp", "cap"])
def test_scaling_the_vector_matters_to_the_raw_unit_only(operation):
    vector = make_vector()
    longer = replace(vector, directions=vector.directions * 4)
    for unit in ("norm", "residual"):
        edits = [resolve(v, magnitude=2, unit=unit, operation=operation) for v in (vector, longer)]
        hidden = random_tensor(2, 3, WIDTH)
        torch.testing.assert_close(_apply(edits[0], hidden), _apply(edits[1], hidden))
    raw = [resolve(v, magnitude=-2, operation=operation) for v in (vector, longer)]
    assert not torch.allclose(_apply(raw[0], hidden), _apply(raw[1], hidden))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("operation", "rank"), OPERATIONS_AND_RANKS)
def test_low_precision_goes_in_and_out_and_is_rounded_once(dtype, operation, rank):
    hidden, edit = random_tensor(2, 3, WIDTH).to(dtype), make_edit(operation, rank, magnitude=0.7)
    after = _apply(edit, hidden)
    assert after.dtype == dtype
    assert torch.equal(after, _apply(edit, hidden.float()).to(dtype))


def test_the_activations_that_came_in_are_not_written_to():
    hidden = random_tensor(2, 3, WIDTH)
    _apply(make_edit(), hidden)
    assert torch.equal(hidden, random_tensor(2, 3, WIDTH))


@pytest.mark.parametrize(("operation", "rank"), OPERATIONS_AND_RANKS)
def test_gradients_reach_the_basis_and_the_activations(operation, rank):
    basis = make_edit(operation, rank, magnitude=0.3).basis.clone().requires_grad_()
    hidden = random_tensor(2, 3, WIDTH).requires_grad_()
    edit = RowIntervention(basis, -9.0, 1, "resid_post", operation, "all")
    plan = Plan([[edit], []])
    plan.begin_prefill(torch.ones(2, 3))
    plan.apply((1, "resid_post"), hidden).pow(2).sum().backward()
    assert basis.grad is not None
    assert (basis.grad != 0).any(dim=1).all()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad[1], 2 * hidden.detach()[1])
    assert not plan.change.requires_grad


@pytest.mark.parametrize("operation", ["add", "clamp", "cap"])
def test_more_than_one_direction_is_refused_where_one_is_meant(operation):
    with pytest.raises(InterventionError, match=rf"operation={operation} .* has 3: .*ablate"):
        resolve(make_vector(3), operation=operation)


@pytest.mark.parametrize("operation", vocabulary.OPERATIONS)
def test_a_zero_vector_is_refused(operation):
    zero = SteeringVector(torch.zeros(1, WIDTH), 1, "resid_post", residual_norm=1.0)
    with pytest.raises(InterventionError, match=r"zero.*Build it again"):
        resolve(zero, operation=operation)


@pytest.mark.parametrize("second", [0.0, -3.3])
def test_directions_that_span_less_than_their_number_are_refused_with_both_numbers(second):
    """The rest of the basis would be arbitrary: it would ablate what nobody named."""
    first = random_tensor(1, WIDTH)
    vector = SteeringVector(torch.cat([first, second * first]), 1, "resid_post")
    with pytest.raises(InterventionError, match=r"2 directions.*span .*1"):
        resolve(vector, operation="ablate")


def test_the_residual_unit_without_a_residual_norm_is_refused_with_the_remedy():
    with pytest.raises(InterventionError, match=r"unit=residual.*unit=raw or unit=norm"):
        resolve(make_vector(residual_norm=None), unit="residual")


def test_a_vector_acts_where_it_was_built_unless_told_otherwise():
    vector = make_vector(layer=5, site="mlp_out")
    kept, moved = resolve(vector), resolve(vector, layer=0, site="resid_pre")
    assert (kept.layer, kept.site) == (5, "mlp_out")
    assert (moved.layer, moved.site) == (0, "resid_pre")


@pytest.mark.parametrize(
    ("operation", "magnitude", "must"),
    [
        ("add", 1.0, True),
        ("add", 0.0, False),
        ("ablate", 1.0, True),
        ("clamp", 0.0, True),
        ("cap", 1.0, False),
    ],
)
def test_an_edit_knows_whether_leaving_things_as_they_are_is_a_fault(operation, magnitude, must):
    assert make_edit(operation, magnitude=magnitude).must_change == must


def test_every_operation_of_the_vocabulary_is_implemented_and_no_other():
    assert set(interventions.OPERATIONS) == set(vocabulary.OPERATIONS)


@pytest.mark.parametrize("elsewhere", [{"layer": 2}, {"site": "mlp_out"}])
def test_the_residual_unit_is_refused_where_its_norm_was_not_taken(elsewhere):
    vector = make_vector()
    resolve(vector, unit="residual", layer=vector.layer, site=vector.site)
    with pytest.raises(InterventionError, match=r"layer 1 resid_post.*unit=raw or unit=norm"):
        resolve(vector, unit="residual", **elsewhere)
