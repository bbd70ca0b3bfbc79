"""A vector's file: what comes back, what is refused, and that it is whole or not there."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steering.vector import FORMAT, SteeringVector, VectorError, file_digest, write_whole

METADATA = {
    "format": FORMAT,
    "layer": "3",
    "site": "mlp_out",
    "residual_norm": "12.5",
    "provenance": "{}",
}


def _vector(**changed: Any) -> SteeringVector:
    values: dict[str, Any] = {
        "directions": torch.randn(2, 6, generator=torch.Generator().manual_seed(0)),
        "layer": 3,
        "site": "mlp_out",
        "residual_norm": 12.5,
        "provenance": {"method": "sft", "loss": 0.25, "note": "naïve ✓", "layers": [1, 2]},
    }
    return SteeringVector(**{**values, **changed})


def _file(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **changed: str) -> Path:
    """A safetensors file as somebody else may have written it; an empty value drops the key."""
    path = folder / "theirs.safetensors"
    metadata = {key: value for key, value in {**METADATA, **changed}.items() if value}
    save_file({"directions": torch.ones(1, 6)} if tensors is None else tensors, path, metadata)
    return path


@pytest.mark.parametrize("changed", [{}, {"residual_norm": None, "provenance": {}}])
def test_a_vector_comes_back_as_it_was_saved(tmp_path, changed):
    vector = _vector(**changed)
    vector.save(tmp_path / "new" / "folder" / "v.safetensors")
    loaded = SteeringVector.load(tmp_path / "new" / "folder" / "v.safetensors")
    assert torch.equal(loaded.directions, vector.directions)
    assert loaded.directions.dtype == torch.float32
    assert (loaded.layer, loaded.site) == (vector.layer, vector.site)
    assert loaded.residual_norm == vector.residual_norm
    assert loaded.provenance == vector.provenance
    assert (loaded.rank, loaded.width) == (2, 6)


def test_a_direction_that_is_a_view_or_requires_grad_can_be_saved(tmp_path):
    directions = torch.randn(6, 2).T.requires_grad_()
    _vector(directions=directions).save(tmp_path / "v.safetensors")
    assert torch.equal(SteeringVector.load(tmp_path / "v.safetensors").directions, directions)


def test_other_tools_can_read_the_tensors(tmp_path):
    _vector().save(tmp_path / "v.safetensors")
    tensors = load_file(tmp_path / "v.safetensors")
    assert torch.equal(tensors["directions"], _vector().directions)
    assert set(tensors) == {"directions"}


def test_the_same_vector_is_the_same_file(tmp_path):
    """Fingerprints hold the file's digest: a vector that is saved again must keep its own."""
    digests = set()
    for number in range(8):
        _vector().save(tmp_path / f"{number}.safetensors")
        digests.add(file_digest(tmp_path / f"{number}.safetensors"))
    assert len(digests) == 1
    _vector(layer=4).save(tmp_path / "other.safetensors")
    assert file_digest(tmp_path / "other.safetensors") not in digests


class _Bomb:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path, zipped):
    path, went_off = tmp_path / "v.safetensors", tmp_path / "went_off"
    torch.save({"directions": _Bomb(went_off)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(VectorError, match=r"v\.safetensors can't be read as a steering vector"):
        SteeringVector.load(path)
    assert not went_off.exists()


def test_the_bomb_of_the_test_above_is_live(tmp_path):
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "went_off")))
    assert (tmp_path / "went_off").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "folder.safetensors"])
def test_what_is_not_a_file_is_refused_with_the_remedy(tmp_path, name):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(VectorError, match=rf"{name} is not a file.*leave vector= out"):
        SteeringVector.load(tmp_path / name)


@pytest.mark.parametrize("length", [0, 5, 40, -1])
def test_a_cut_off_file_is_refused_by_name(tmp_path, length):
    path = tmp_path / "v.safetensors"
    _vector().save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(VectorError, match=r"v\.safetensors can't be read"):
        SteeringVector.load(path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"format": "steering-vector/9"}, ["steering-vector/9", FORMAT]),
        ({"format": ""}, ["no format", FORMAT]),
        ({"site": "attn_out"}, ["attn_out", "resid_post"]),
        ({"site": ""}, ["site"]),
        ({"layer": ""}, ["layer"]),
        ({"layer": "two"}, ["two"]),
        ({"layer": "-1"}, ["-1", "0"]),
        ({"residual_norm": ""}, ["residual_norm"]),
        ({"residual_norm": "many"}, []),
        ({"residual_norm": "NaN"}, ["residual norm", "nan"]),
        ({"residual_norm": "-2.0"}, ["residual norm", "-2.0"]),
        ({"residual_norm": '"2.0"'}, ["residual norm", "2.0"]),
        ({"provenance": "{"}, []),
        ({"provenance": "[]"}, ["provenance"]),
    ],
    ids=str,
)
def test_a_file_that_says_something_else_is_refused_by_name_and_value(tmp_path, changed, named):
    path = _file(tmp_path, **changed)
    with pytest.raises(VectorError) as caught:
        SteeringVector.load(path)
    for part in [path.name, *named]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"weights": torch.ones(1, 6)}, ["directions"]),
        ({"directions": torch.ones(6)}, ["[6]", "[rank, width]"]),
        ({"directions": torch.ones(1, 6, dtype=torch.float16)}, ["float16", "float32"]),
        ({"directions": torch.ones(0, 6)}, ["[0, 6]"]),
        ({"directions": torch.tensor([[1.0, float("nan")]])}, ["NaN"]),
        ({"directions": torch.tensor([[1.0, float("-inf")]])}, ["infinity"]),
    ],
    ids=str,
)
def test_a_file_with_other_tensors_is_refused_by_name_and_value(tmp_path, tensors, named):
    path = _file(tmp_path, tensors)
    with pytest.raises(VectorError) as caught:
        SteeringVector.load(path)
    for part in [path.name, *named]:
        assert part in str(caught.value)


def test_nan_is_refused_before_it_is_saved():
    with pytest.raises(VectorError, match="NaN"):
        _vector(directions=torch.tensor([[0.0, float("nan")]]))


def test_another_width_is_refused_with_both_widths_and_the_model():
    with pytest.raises(VectorError, match=r"width 6.*some/model has width 8.*Build one"):
        _vector().check_fits(width=8, num_layers=10, model="some/model")


@pytest.mark.parametrize("num_layers", [2, 3])
def test_a_layer_that_the_model_lacks_is_refused_with_both_values(num_layers):
    with pytest.raises(VectorError, match=rf"layer 3, some/model has {num_layers} blocks \(0-"):
        _vector().check_fits(width=6, num_layers=num_layers, model="some/model")


def test_a_vector_that_fits_is_let_through():
    _vector().check_fits(width=6, num_layers=4, model="some/model")


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_killed_write_leaves_what_was_there_and_nothing_else(
    tmp_path, monkeypatch, failing, existing
):
    path = tmp_path / "v.safetensors"
    if existing:
        write_whole(path, b"before")

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, failing, killed)
    with pytest.raises(KeyboardInterrupt):
        _vector().save(path)
    assert [found.name for found in tmp_path.iterdir()] == ([path.name] if existing else [])
    if existing:
        assert path.read_bytes() == b"before"


def test_a_file_is_not_there_under_its_name_until_it_is_whole(tmp_path, monkeypatch):
    path, seen = tmp_path / "v.bin", []
    move = os.replace

    def watched(source: str, target: Path) -> None:
        seen.append((Path(source).read_bytes(), path.exists(), Path(source).parent))
        move(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_whole(path, b"content")
    # In the same folder: only within one file system is a move all or nothing.
    assert seen == [(b"content", False, tmp_path)]
    assert path.read_bytes() == b"content"


def test_a_written_file_can_be_read_by_those_whom_the_umask_lets(tmp_path):
    """Caches are shared: a file that is its maker's alone can't be reused."""
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_provenance_is_stored_as_json_that_people_can_read(tmp_path):
    _vector().save(tmp_path / "v.safetensors")
    content = (tmp_path / "v.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == FORMAT
    assert json.loads(header["__metadata__"]["provenance"]) == _vector().provenance
