"""Subspaces of vectors, against sets whose answer is planted and against NumPy and SciPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from torch import Tensor

from steering.vectors import LowRankMap, SteeringVector, VectorError
from steering.vectors.batch import InterventionBatch
from steering.vectors.interventions import resolve
from steering.vectors.subspace import (
    Basis,
    cosines,
    kept_energy,
    principal,
    project,
    spectrum,
    stack,
    truncate,
)

WIDTH = 16
# Orthonormal, and exact in float32: entries of 1/4 and -1/4.
AXES = torch.tensor(scipy.linalg.hadamard(WIDTH) / 4).float()


def _vector(*rows: Tensor, layers: Sequence[int] = (3,), **changed: Any) -> SteeringVector:
    """The rows are the directions of the first layer, then of the next."""
    values: dict[str, Any] = {
        "directions": torch.stack(rows).unflatten(0, (len(layers), -1)),
        "layers": tuple(layers),
        "site": "resid_post",
        "residual_norms": (8.0,) * len(layers),
        "model": "toy",
        "depth": 6,
        "provenance": {"method": "sft/2", "target": "medical", "recipe": "abc"},
    }
    return SteeringVector(**{**values, **changed})


def _set(*rows: Tensor, **changed: Any) -> dict[str, SteeringVector]:
    return {f"v{number}": _vector(row, **changed) for number, row in enumerate(rows)}


def _random_rows(count: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Rows of very different lengths."""
    numbers = torch.Generator().manual_seed(seed)
    lengths = torch.logspace(-1, 1, count)[:, None]
    return torch.randn(count, width, generator=numbers) * lengths


def _planted() -> dict[str, SteeringVector]:
    """Three rows along axis 1, two along axis 2, one along axis 3, all mutually orthogonal."""
    lengths = [(1, 2.0), (1, -2.0), (1, 2.0), (2, 4.0), (2, 4.0), (3, 1.0)]
    return _set(*(length * AXES[axis] for axis, length in lengths))


@pytest.mark.parametrize(
    ("normalise", "energies"),
    [(True, [3, 2, 1]), (False, [2 * 16, 3 * 4, 1])],
)
def test_the_spectrum_is_the_one_that_was_planted(normalise, energies):
    result = spectrum(stack(_planted()), normalise)
    shares = np.array(energies) / sum(energies)
    np.testing.assert_allclose(result.values[:3], np.sqrt(energies), rtol=1e-12)
    np.testing.assert_allclose(result.values[3:], 0, atol=1e-12)
    np.testing.assert_allclose(result.shares[:3], shares, rtol=1e-12)
    np.testing.assert_allclose(result.cumulative[:3], shares.cumsum(), rtol=1e-12)
    assert result.dimensions == 3


def test_the_directions_that_a_share_of_the_energy_takes_are_those_worked_out_by_hand():
    spread = spectrum(stack(_planted()))
    assert [spread.needed(share) for share in (0.4, 0.5, 0.6, 0.8, 0.9, 1.0)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("count", range(1, WIDTH + 1))
def test_equal_orthogonal_directions_count_as_many_as_they_are(count):
    spread = spectrum(stack(_set(*AXES[:count])))
    assert spread.dimensions == count
    # Exactly this many, however their sum is rounded.
    assert [spread.needed(some / count) for some in range(1, count + 1)] == [*range(1, count + 1)]


def test_what_all_vectors_share_is_not_centred_away():
    rows = [3 * AXES[1] + 0.01 * AXES[axis] for axis in (2, 3, 4)]
    basis = principal(stack(_set(*rows)), 1)
    assert abs(float(basis.directions[0] @ AXES[1].double())) > 0.9999
    assert spectrum(stack(_set(*rows))).shares[0] > 0.999


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("count", [7, 40])
def test_figures_of_random_vectors_are_those_of_their_gram_matrix(count, normalise):
    rows = _random_rows(count)
    result = spectrum(stack(_set(*rows)), normalise)
    expected = rows.double().numpy()
    if normalise:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    gram = expected @ expected.T
    energies = np.linalg.eigvalsh(gram)[::-1][: min(count, WIDTH)]
    np.testing.assert_allclose(result.values**2, energies, rtol=1e-9, atol=1e-12)


def test_scaled_rows_make_lengths_irrelevant_and_stored_ones_do_not():
    rows = _random_rows(5)
    longer = rows * torch.tensor([1.0, 8.0, 0.5, 64.0, 2.0])[:, None]
    one, other = stack(_set(*rows)), stack(_set(*longer))
    torch.testing.assert_close(spectrum(one).values, spectrum(other).values)
    shares = [spectrum(stacked, False).shares[0] for stacked in (one, other)]
    assert shares[1] > 1.1 * shares[0]


def test_cosines_are_those_worked_out_by_hand():
    plane = [(3, 4), (8, 6), (-1.5, -2), (4, -3)]
    rows = [one * AXES[5] + other * AXES[6] for one, other in plane]
    expected = [
        [1, 0.96, -1, 0],
        [0.96, 1, -0.96, 0.28],
        [-1, -0.96, 1, 0],
        [0, 0.28, 0, 1],
    ]
    result = cosines(stack(_set(*rows)))
    np.testing.assert_allclose(result, expected, atol=1e-15)
    assert result.diagonal().tolist() == [1] * 4


def test_a_row_is_named_after_its_layer_and_direction_only_where_there_are_several():
    rows = _random_rows(8)
    result = stack(
        {
            "one": _vector(rows[0]),
            "layers": _vector(*rows[1:3], layers=(1, 4)),
            "ranks": _vector(*rows[3:5]),
        }
    )
    assert result.names == (
        "one",
        "layers layer 1",
        "layers layer 4",
        "ranks direction 0",
        "ranks direction 1",
    )
    assert torch.equal(result.rows, rows[:5].double())
    both = stack({"both": _vector(*rows[:4], layers=(1, 4))})
    assert both.names[1:3] == ("both layer 1 direction 1", "both layer 4 direction 0")
    assert torch.equal(both.rows, rows[:4].double())


@pytest.mark.parametrize("normalise", [True, False])
def test_the_top_directions_hold_as_much_as_any_can(normalise):
    """Against NumPy's eigenvectors of the scatter matrix, as projectors: signs aside."""
    rows = _random_rows(9)
    basis = principal(stack(_set(*rows)), 4, normalise)
    expected = rows.double().numpy()
    if normalise:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(expected.T @ expected)
    top = vectors[:, ::-1][:, :4]
    np.testing.assert_allclose(basis.directions.T @ basis.directions, top @ top.T, atol=1e-12)
    np.testing.assert_allclose(basis.shares, values[::-1][:4] / values.sum(), rtol=1e-10)
    np.testing.assert_allclose(basis.directions @ basis.directions.T, np.eye(4), atol=1e-12)


def test_a_principal_direction_points_where_most_rows_do():
    """Not where their sum does, or the long ones: three lean to axis 1, two point away from it."""
    rows = [0.3 * AXES[1] + AXES[axis] for axis in (2, 3, 4)] + [-AXES[1], -64 * AXES[1]]
    for sign in (1, -1):
        for normalise in (True, False):
            vectors = stack(_set(*(sign * row for row in rows)))
            [result] = principal(vectors, 1, normalise).directions
            assert sign * float(result @ AXES[1].double()) > 0.5


def test_a_tie_of_rows_goes_to_the_larger_projections():
    """Two for axis 1 and two, less so, against; the parts along axis 7 and 5 have no say."""
    against = [-0.8 * AXES[1] + 0.6 * AXES[7], -0.8 * AXES[1] - 0.6 * AXES[7]]
    rows = [AXES[1], AXES[1], *against, 9 * AXES[5]]
    for sign in (1, -1):
        [result] = principal(stack(_set(*(sign * row for row in rows))), 1).directions
        torch.testing.assert_close(result, sign * AXES[1].double(), rtol=0, atol=1e-7)


def test_where_rows_cancel_the_sign_is_that_of_the_largest_coordinate():
    rising = torch.arange(1.0, WIDTH + 1)
    for sign in (1, -1):
        [result] = principal(stack(_set(sign * rising, -sign * rising)), 1).directions
        torch.testing.assert_close(result, (rising / rising.norm()).double())


def test_the_order_of_the_vectors_changes_nothing():
    vectors = _set(*_random_rows(6))
    one, other = stack(vectors), stack(dict(reversed(vectors.items())))
    torch.testing.assert_close(spectrum(one).values, spectrum(other).values)
    torch.testing.assert_close(principal(one, 3).directions, principal(other, 3).directions)


@pytest.mark.parametrize("k", [0, -1, 4, 7])
def test_more_directions_than_the_vectors_span_are_refused_with_how_many_there_are(k):
    with pytest.raises(VectorError, match=rf"top {k} .* 6 directions span 3 .* 1 to 3"):
        principal(stack(_planted()), k)


def _basis_of(*axes: int) -> Basis:
    return principal(stack(_set(*(AXES[axis] for axis in axes))), len(axes))


def test_a_projection_is_what_is_left_in_the_span():
    vector = _vector(3 * AXES[1] + 4 * AXES[2] + 12 * AXES[7])
    result = project(vector, _basis_of(1, 2, 3))
    torch.testing.assert_close(result.directions[0, 0], 3 * AXES[1] + 4 * AXES[2])
    assert result.provenance["projected"]["kept_energy"] == pytest.approx(25 / 169)
    assert kept_energy(vector, _basis_of(1, 2, 3)) == pytest.approx(25 / 169)


def test_what_a_projection_takes_away_is_orthogonal_to_the_span():
    rows = _random_rows(10)
    basis = principal(stack(_set(*rows[:6])), 3)
    vector = _vector(*rows[6:], layers=(0, 2))
    result = project(vector, basis)
    residual = (vector.directions - result.directions).double()
    lengths = vector.directions.double().norm(dim=-1)
    assert ((residual @ basis.directions.T).abs().amax(-1) < 1e-6 * lengths).all()
    share = result.directions.double().square().sum() / vector.directions.double().square().sum()
    assert result.provenance["projected"]["kept_energy"] == pytest.approx(float(share), rel=1e-6)


def test_projecting_twice_is_projecting_once():
    basis = principal(stack(_set(*_random_rows(6))), 3)
    once = project(_vector(_random_rows(1, seed=1)[0]), basis)
    twice = project(once, basis)
    torch.testing.assert_close(twice.directions, once.directions, rtol=1e-6, atol=1e-8)
    provenance = twice.provenance["projected"]
    assert provenance["kept_energy"] == pytest.approx(1)
    assert provenance["earlier"]["kept_energy"] == once.provenance["projected"]["kept_energy"] < 0.9


def test_a_projection_stays_where_it_was_and_says_what_became_of_it():
    digests = {"v0": "1" * 64}
    basis = principal(stack(_set(*AXES[1:4]), digests), 2, normalise=False)
    vector = _vector(*_random_rows(2), layers=(1, 5), site="mlp_out", residual_norms=(2.0, 4.0))
    result = project(vector, basis)
    for name in ("layers", "site", "residual_norms", "model", "depth", "map"):
        assert getattr(result, name) == getattr(vector, name)
    provenance = dict(result.provenance["projected"])
    assert 0 < provenance.pop("kept_energy") < 1
    assert provenance == {
        "top": 2,
        "of": [
            {"name": "v0", "sha256": "1" * 64},
            {"name": "v1", "sha256": None},
            {"name": "v2", "sha256": None},
        ],
        "rows": "as stored",
        # Of the vector before: whoever asks for that recipe must not be given this one.
        "recipe": "abc",
    }
    assert result.provenance["target"] == "medical"
    assert "recipe" not in result.provenance
    assert "projected" not in vector.provenance


@pytest.mark.parametrize("normalise", [True, False])
def test_a_set_of_rank_k_is_rebuilt_exactly_from_its_top_k(normalise):
    weights = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    vectors = _set(*(weights @ _random_rows(3)))
    assert spectrum(stack(vectors), normalise).dimensions == 3
    for name, result in truncate(principal(stack(vectors), 3, normalise)).items():
        torch.testing.assert_close(
            result.directions, vectors[name].directions, rtol=1e-5, atol=1e-6
        )
        assert result.provenance["projected"]["kept_energy"] == pytest.approx(1)
    shorter = truncate(principal(stack(vectors), 2, normalise))
    assert spectrum(stack(shorter)).dimensions == 2


def test_truncating_loses_the_energy_that_the_spectrum_says_it_loses():
    vectors = _set(*_random_rows(8))
    spread, shorter = spectrum(stack(vectors), False), truncate(principal(stack(vectors), 3, False))
    before = sum(vector.directions.double().square().sum() for vector in vectors.values())
    after = sum(vector.directions.double().square().sum() for vector in shorter.values())
    assert float(after / before) == pytest.approx(float(spread.cumulative[2]), rel=1e-6)


def test_a_vector_outside_of_the_subspace_is_refused_and_not_scaled_up_from_rounding():
    # In an orthonormal basis whose entries are not exact, so that rounding is left over.
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3)))[0]
    basis = principal(stack(_set(*turn[:2])), 2)
    message = r"no part in the 2 directions at layer 3: .*more directions"
    with pytest.raises(VectorError, match=message):
        project(_vector(turn[5]), basis)
    with pytest.raises(VectorError, match="no part in the 2 directions at layer 4"):
        project(_vector(turn[0], turn[5], layers=(1, 4)), basis)
    # What remains of each of two directions cancels: together they would add nothing.
    with pytest.raises(VectorError, match="no part in the"):
        project(_vector(turn[0] + turn[5], turn[6] - turn[0]), basis)
    # One of several directions may vanish; it must not stay as a direction of rounding.
    result = project(_vector(turn[0], turn[5]), basis)
    assert result.directions[0, 1].tolist() == [0] * WIDTH


def test_truncating_names_the_vector_that_can_not_be():
    vectors = _set(AXES[1], AXES[1], AXES[2])
    with pytest.raises(VectorError, match=r"^v2: the vector has no part"):
        truncate(principal(stack(vectors), 1))


def _map(rows: Tensor, seed: int = 0) -> SteeringVector:
    """A low-rank map, with its true length on the tokens of `_hidden`."""
    numbers = torch.Generator().manual_seed(seed)
    reads = torch.randn(1, *rows.shape, generator=numbers)
    offsets = torch.randn(1, len(rows), generator=numbers)
    length = _wrote(rows, reads, offsets).norm(dim=-1).mean().item()
    return _vector(*rows, map=LowRankMap(reads, offsets, (length,)))


def _wrote(rows: Tensor, reads: Tensor, offsets: Tensor) -> Tensor:
    hidden = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(9))
    return (hidden @ reads[0].T + offsets[0]) @ rows


def test_what_a_low_rank_map_writes_are_rows_and_what_it_reads_is_none():
    rows = _random_rows(3)
    assert torch.equal(stack({"map": _map(rows)}).rows, rows.double())


def test_a_projected_map_of_one_direction_tells_its_new_length():
    vector = _map(_random_rows(1))
    result = project(vector, _basis_of(1, 2, 3))
    assert vector.map is not None
    assert result.map is not None
    assert torch.equal(result.map.reads, vector.map.reads)
    measured = (
        _wrote(result.directions[0], result.map.reads, result.map.offsets).norm(dim=-1).mean()
    )
    assert result.lengths[0] == pytest.approx(measured.item(), rel=1e-5)
    assert result.lengths[0] < 0.9 * vector.lengths[0]


def test_a_map_of_several_directions_is_refused_unless_the_subspace_holds_them_all():
    vector = _map(_random_rows(2))
    with pytest.raises(VectorError, match=r"map of rank 2 .* only on the model: build it with"):
        project(vector, _basis_of(1, 2, 3))
    result = project(vector, principal(stack({"map": vector}), 2))
    torch.testing.assert_close(result.directions, vector.directions)
    assert result.lengths == vector.lengths


def test_ablating_the_basis_leaves_nothing_of_the_subspace_at_any_of_its_layers():
    rows = _random_rows(6)
    vectors = _set(*rows[:4]) | {"deep": _vector(*rows[4:], layers=(1, 5))}
    basis = principal(stack(vectors), 3)
    result = basis.vector()
    assert (result.layers, result.site, result.rank) == ((1, 3, 5), "resid_post", 3)
    hidden = torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(4))
    plan = InterventionBatch([resolve(result, operation="ablate")])
    plan.begin_prefill(torch.ones(1, 4))
    axes = basis.directions.numpy()
    expected = hidden.numpy() @ (np.eye(WIDTH) - axes.T @ axes)
    for key in ((1, "resid_post"), (3, "resid_post"), (5, "resid_post")):
        np.testing.assert_allclose(plan.apply(key, hidden), expected, atol=1e-6)


def test_the_basis_says_what_it_is_of_and_keeps_what_its_vectors_share():
    vectors = {
        "one": _vector(AXES[1], residual_norms=(6.0,)),
        "two": _vector(AXES[1], residual_norms=(10.0,), model="", depth=None),
        "deep": _vector(AXES[2], layers=(5,), residual_norms=(20.0,)),
    }
    result = principal(stack(vectors, {"one": "1" * 64}), 2).vector()
    assert result.residual_norms == (8.0, 20.0)
    assert (result.model, result.depth) == ("toy", 6)
    provenance = result.provenance["principal"]
    assert [units["name"] for units in provenance["of"]] == ["one", "two", "deep"]
    assert provenance["of"][0]["sha256"] == "1" * 64
    assert provenance["energy_shares"] == pytest.approx([2 / 3, 1 / 3])
    assert result.provenance["target"] == "medical"
    vectors["two"] = _vector(AXES[1], residual_norms=None, provenance={"target": "sports"})
    result = principal(stack(vectors), 2).vector()
    assert result.residual_norms is None
    assert "target" not in result.provenance


def test_vectors_of_several_sites_have_a_spectrum_but_no_basis_of_one_site():
    vectors = {"out": _vector(AXES[1]), "mlp": _vector(AXES[2], site="mlp_out")}
    basis = principal(stack(vectors), 2)
    assert project(vectors["mlp"], basis).site == "mlp_out"
    with pytest.raises(VectorError, match=r"out at resid_post, mlp at mlp_out.*of one site"):
        basis.vector()


@pytest.mark.parametrize(
    ("changed", "mine", "theirs"),
    [
        ({"directions": torch.ones(1, 1, 8)}, "width 16", "width 8"),
        ({"depth": 7}, "depth 6", "depth 7"),
        ({"model": "toy-llama"}, "model toy", "model toy-llama"),
    ],
)
def test_vectors_of_two_models_are_refused_by_name_with_both_values(changed, mine, theirs):
    expected, other = _vector(AXES[1]), _vector(AXES[2], **changed)
    provenance = f"first has {mine}, {{}} has {theirs}: .* of one model"
    with pytest.raises(VectorError, match=provenance.format("second")):
        stack({"first": expected, "second": other})
    with pytest.raises(VectorError, match=provenance.format("the vector")):
        project(other, principal(stack({"first": expected}), 1))


def test_one_model_under_two_names_and_a_model_unknown_are_not_refused():
    weights = {"weights": "f" * 64}
    vectors = {
        "alias": _vector(AXES[1], model="qwen3.5", provenance=weights),
        "id": _vector(AXES[2], model="Qwen/Qwen3.5-9B", provenance=weights),
        "unknown": _vector(AXES[3], model="", depth=None),
    }
    assert len(stack(vectors).rows) == 3


def test_a_zero_direction_and_an_empty_set_are_refused():
    with pytest.raises(VectorError, match=r"zero layer 4 is zero .* leave it out"):
        stack({"zero": _vector(AXES[1], 0 * AXES[1], layers=(1, 4))})
    with pytest.raises(VectorError, match="no vectors: give one"):
        stack({})
    with pytest.raises(VectorError, match="the vector is zero"):
        kept_energy(_vector(0 * AXES[1]), _basis_of(1))
