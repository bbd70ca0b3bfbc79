"""`steering subspace`: what a user reads, what is written, and what is left alone."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from torch import Tensor

from steering.cli import main
from steering.vectors import LowRankMap, SteeringVector

WIDTH = 16
# Orthonormal, and exact in float32.
AXES = torch.tensor(scipy.linalg.hadamard(WIDTH) / 4).float()

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `steering subspace`; returns the exit status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["steering", "subspace", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


def _save(path: Path, row: Tensor, **changed: Any) -> Path:
    values: dict[str, Any] = {
        "directions": row[None, None],
        "layers": (2,),
        "site": "resid_post",
        "residual_norms": (20.0,),
        "model": "toy",
        "depth": 6,
        "provenance": {"method": "sft/2", "target": "medical"},
    }
    SteeringVector(**{**values, **changed}).save(path)
    return path


@pytest.fixture
def planted(tmp_path: Path) -> list[Path]:
    """Three along one axis, two along a second, one along a third; of different lengths."""
    rows = [AXES[1], 2 * AXES[1], 3 * AXES[1], 4 * AXES[2], 5 * AXES[2], 6 * AXES[3]]
    return [_save(tmp_path / f"epoch{n}.safetensors", row) for n, row in enumerate(rows, 1)]


def _lines(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.splitlines() if line.strip()]


def _folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.s*")}


def test_the_spectrum_of_planted_vectors_is_printed(planted, run):
    code, out, err = run(*planted)
    assert (code, err) == (0, "")
    lines = _lines(out)
    # Energies 3, 2 and 1 of 6.
    assert ["1", "1.732", "50.0%", "50.0%"] in lines
    assert ["2", "1.414", "33.3%", "83.3%"] in lines
    assert ["3", "1", "16.7%", "100.0%"] in lines
    assert "90% of the energy in 3, 99% in 3 directions" in out
    tables = json.loads(run(*planted, "--json", "-")[1])["tables"]
    energies = [row["energy"] for row in tables["subspace_directions"]]
    assert energies[:3] == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    assert [row["kept"] for row in tables["subspace_vectors"]] == pytest.approx([1] * 6)


def test_raw_vectors_count_by_their_length(planted, run):
    folder = planted[0].parent / "made"
    _, out, _ = run(*planted, "--raw", "--top", 1, "--out", folder, "--basis-only")
    lines = _lines(out)
    # Energies 4^2 + 5^2, 6^2 and 1 + 2^2 + 3^2 of 91.
    assert ["1", "6.403", "45.1%", "45.1%"] in lines
    assert ["2", "6", "39.6%", "84.6%"] in lines
    basis = SteeringVector.load(folder / "top1.safetensors")
    torch.testing.assert_close(basis.directions[0, 0], AXES[2])
    assert basis.provenance["principal"]["rows"] == "as stored"


def test_cosines_of_few_vectors_are_a_table(planted, run):
    _, out, _ = run(*planted)
    lines = _lines(out)
    assert ["1", "epoch1", "1.00", "1.00", "1.00", "0.00", "0.00", "0.00"] in lines
    assert ["5", "epoch5", "0.00", "0.00", "0.00", "1.00", "1.00", "0.00"] in lines


@pytest.mark.parametrize(("count", "listed"), [(12, True), (13, False)])
def test_cosines_of_many_vectors_are_summed_up(tmp_path, run, count, listed):
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0))
    rows[3] = -rows[7]
    files = [_save(tmp_path / f"v{n}.safetensors", row) for n, row in enumerate(rows)]
    _, out, _ = run(*files, "--top", 2)
    assert ("1 v0" in out) == listed
    if listed:
        return
    units = rows.numpy() / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = (units @ units.T)[np.triu_indices(count, 1)]
    assert f"Cosines of 78 pairs: median {np.median(pairs):.2f}" in out
    assert "least alike: v3, v7 (-1.00)" in out


def test_what_each_vector_keeps_is_printed(planted, run):
    _, out, _ = run(*planted, "--top", 2)
    assert "within the top 2 (a random direction has 12.5%)" in out
    lines = _lines(out)
    assert ["epoch1", "100.0%"] in lines
    assert ["epoch6", "0.0%"] in lines


def test_without_top_as_many_directions_are_taken_as_hold_nine_tenths(planted, run):
    _, out, _ = run(*planted)
    assert "within the top 3" in out
    _, out, _ = run(*planted[:5])
    assert "within the top 2" in out


def test_projections_and_basis_are_written_with_where_they_come_from(tmp_path, run):
    rows = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    files = [_save(tmp_path / f"v{n}.safetensors", row, layers=(n,)) for n, row in enumerate(rows)]
    out = tmp_path / "new" / "folder"
    code, text, err = run(*files, "--top", 2, "--out", out)
    assert (code, err) == (0, "")
    names = ["top2", "v0-top2", "v1-top2", "v2-top2", "v3-top2"]
    assert sorted(_folder(out)) == [f"{name}.safetensors" for name in names]
    assert all(f"written: {out / name}.safetensors" in text for name in names)
    units = rows.numpy() / np.linalg.norm(rows, axis=1, keepdims=True)
    top = np.linalg.svd(units)[2][:2]
    of = [
        {"name": path.stem, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in files
    ]
    for number, row in enumerate(rows.numpy()):
        folder = SteeringVector.load(out / f"v{number}-top2.safetensors")
        np.testing.assert_allclose(folder.directions[0, 0], row @ top.T @ top, atol=1e-5)
        assert (folder.layers, folder.site, folder.model) == ((number,), "resid_post", "toy")
        assert folder.provenance["projected"]["of"] == of
    basis = SteeringVector.load(out / "top2.safetensors")
    assert (basis.layers, basis.rank) == ((0, 1, 2, 3), 2)
    for directions in basis.directions.numpy():
        np.testing.assert_allclose(directions.T @ directions, top.T @ top, atol=1e-5)
    assert basis.provenance["principal"]["of"] == of


@pytest.mark.parametrize("name", ["top2", "epoch1-top2", "epoch5-top2"])
def test_a_file_that_is_there_is_kept_and_nothing_is_written_beside_it(planted, run, name):
    folder = planted[0].parent / "made"
    _save(folder / f"{name}.safetensors", AXES[7])
    before = _folder(folder)
    code, out, err = run(*planted[:5], "--top", 2, "--out", folder)
    assert (code, out) == (1, "")
    assert f"{name}.safetensors exists: give another --out" in err
    assert _folder(folder) == before


def test_nothing_is_written_when_one_projection_is_impossible(planted, run, tmp_path):
    code, out, err = run(*planted, "--top", 2, "--out", tmp_path / "made")
    assert (code, out) == (1, "")
    assert "epoch6: the vector has no part in the 2 directions" in err
    assert not (tmp_path / "made").exists()


def test_without_out_nothing_is_written(planted, run):
    before = _folder(planted[0].parent)
    assert run(*planted)[0] == 0
    assert _folder(planted[0].parent) == before


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, run):
    places = ["a/seed/medical", "b/seed/medical", "b/other/medical", "b/seed/sports"]
    files = [
        _save(tmp_path / f"{place}.safetensors", AXES[n] + AXES[9])
        for n, place in enumerate(places)
    ]
    code, out, _ = run(*files, "--top", 1, "--out", tmp_path / "made")
    assert code == 0
    names = [line[1] for line in _lines(out) if line[0] in "1234" and len(line) == 6]
    assert names == ["a/seed/medical", "b/seed/medical", "other/medical", "sports"]
    assert sorted(_folder(tmp_path / "made")) == [
        "a-seed-medical-top1.safetensors",
        "b-seed-medical-top1.safetensors",
        "other-medical-top1.safetensors",
        "sports-top1.safetensors",
        "top1.safetensors",
    ]


def test_two_vectors_that_would_share_a_file_are_refused(tmp_path, run):
    places = ["a/v", "b/v", "c/a-v"]
    files = [_save(tmp_path / f"{place}.safetensors", AXES[1]) for place in places]
    code, _, err = run(*files, "--out", tmp_path / "made")
    assert code == 1
    assert "2 vectors would be written to" in err
    assert "a-v-top1.safetensors: rename" in err
    assert not (tmp_path / "made").exists()


def test_a_file_given_twice_is_refused_however_it_is_spelled(tmp_path, run):
    path = _save(tmp_path / "v.safetensors", AXES[1])
    again = tmp_path / ".." / tmp_path.name / "v.safetensors"
    code, _, err = run(path, again)
    assert code == 1
    assert "v.safetensors is given 2 times: give each file once" in err


def test_low_rank_maps_are_rows_and_give_a_basis_but_no_projections(tmp_path, run):
    reads = LowRankMap(torch.ones(1, 2, WIDTH), torch.ones(1, 2), (1.0,))
    rows = torch.stack([AXES[1] + AXES[2], AXES[1] - AXES[3]])
    path = _save(tmp_path / "map.safetensors", AXES[1], directions=rows[None], map=reads)
    code, out, _ = run(path, "--top", 1)
    assert code == 0
    assert "1 of the vectors are low-rank maps: only the directions that they write count" in out
    assert ["2", "map", "direction", "1", "0.50", "1.00"] in _lines(out)
    code, _, err = run(path, "--top", 1, "--out", tmp_path / "made")
    assert code == 1
    assert "map: a low-rank map of rank 2" in err
    assert "--basis-only" in err
    assert run(path, "--top", 1, "--out", tmp_path / "made", "--basis-only")[0] == 0
    assert list(_folder(tmp_path / "made")) == ["top1.safetensors"]


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"site": "mlp_out"}, "several sites: mlp_out, resid_post"),
        ({"layers": (4,)}, "several layers: 2, 4"),
    ],
)
def test_vectors_of_several_places_are_compared_with_a_word_of_it(tmp_path, run, changed, note):
    one = _save(tmp_path / "one.safetensors", AXES[1])
    other = _save(tmp_path / "other.safetensors", AXES[2], **changed)
    code, out, _ = run(one, other)
    assert code == 0
    assert f"Note: the vectors are for {note}" in out


def test_what_can_not_be_compared_is_refused_in_one_line(tmp_path, run):
    path = _save(tmp_path / "one.safetensors", AXES[1])
    narrow = _save(tmp_path / "narrow.safetensors", torch.ones(8))
    torch.save(AXES[1], tmp_path / "theirs.pt")
    (tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:-4])
    for arguments, words in (
        ([path, narrow], "one has width 16, narrow has width 8"),
        (
            [path, tmp_path / "theirs.pt"],
            "theirs.pt can't be used as a steering vector: it is a tensor [16]",
        ),
        ([path, tmp_path / "broken.safetensors"], "broken.safetensors can't be read"),
        ([path, "--top", 2], "no top 2 directions: the vectors' 1 directions span 1 dim"),
        ([path, "--basis-only"], "no effect without --out"),
        ([path, "--out", narrow], "narrow.safetensors is a file: give a folder"),
        ([path, "--out", narrow / "deeper"], "can't be written"),
    ):
        code, _, err = run(*arguments)
        assert code == 1, arguments
        assert err.startswith("Error: ")
        assert err.count("\n") == 1
        assert words in err
    for arguments, words in (
        ([], "Missing argument 'FILES...'"),
        ([tmp_path / "missing.safetensors"], "missing.safetensors' does not exist"),
        ([path, "--top", 0], "0 is not in the range x>=1"),
    ):
        code, _, err = run(*arguments)
        assert code == 1, arguments
        assert words in err
