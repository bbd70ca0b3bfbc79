"""A vector's file: what comes back, what is refused, and that it is whole or not there."""

import hashlib
import itertools
import json
import os
import pickle
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_vectors import WIDTH, make_map, make_vector, random_tensor
from replicas import length, sum_of
from safetensors.torch import load_file, save_file

from steering.files import file_digest, write_whole
from steering.vectors import LowRankMap, SteeringVector, VectorError
from steering.vectors.packed import pack, unpack
from steering.vectors.steering_vector import FORMAT
from steering.vocabulary import RESIDUAL_NORM

VECTORS: dict[str, SteeringVector] = {
    "one direction": make_vector(layers=[3]),
    "plain": make_vector(
        2,
        layers=[3],
        site="mlp_out",
        model="some/model",
        depth=5,
        provenance={"method": "sft", "loss": 0.25, "note": "naïve ✓", "layers": [1, 2]},
    ),
    "several layers": make_vector(2, layers=[0, 2, 7], site="resid_pre"),
    "map": make_map(3, layers=[1]),
    "map of several layers": make_map(2, layers=[1, 4], model="m", depth=6),
    "bare": SteeringVector(torch.ones(1, 1, 1), (0,), "resid_post"),
}


def _content(vector: SteeringVector) -> dict[str, Any]:
    """All that a vector is, in values that can be compared."""
    content: dict[str, Any] = {}
    for name, value in {**vars(vector), **vars(vector.map or object)}.items():
        if isinstance(value, torch.Tensor):
            content[name] = (value.dtype, value.tolist())
        elif name in {field.name for field in [*fields(SteeringVector), *fields(LowRankMap)]}:
            content[name] = None if isinstance(value, LowRankMap) else value
    return content


def _parts(vector: SteeringVector) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a vector's file."""
    tensors = {"directions": vector.directions}
    if vector.map is not None:
        tensors |= {"reads": vector.map.reads, "offsets": vector.map.offsets}
    return vector.header(), tensors


def _refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(VectorError) as caught:
        SteeringVector.load(path)
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert path.name in message
    return message


@pytest.fixture(params=["plain", "map"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of each form, with more than one tensor or layer."""
    names = {"plain": "several layers", "map": "map of several layers"}
    VECTORS[names[request.param]].save(tmp_path / "v.safetensors")
    return tmp_path / "v.safetensors"


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_comes_back_as_it_was_saved(tmp_path, name):
    vector, path = VECTORS[name], tmp_path / "new" / "folder" / "v.safetensors"
    vector.save(path)
    loaded = SteeringVector.load(path)
    assert _content(loaded) == _content(vector)
    assert loaded.directions.dtype == torch.float32
    assert loaded.header() == vector.header()


CHANGES: dict[str, Any] = {
    "directions": random_tensor(2, 2, WIDTH, seed=8),
    "layers": (1, 3),
    "site": "mlp_out",
    "residual_norms": (1.0, 2.0),
    "map": None,
    "model": "other",
    "depth": 9,
    "provenance": {"method": "pca"},
    "reads": random_tensor(2, 2, WIDTH, seed=9),
    "offsets": random_tensor(2, 2, seed=9),
    "lengths": (1.0, 2.0),
}


def _changed(name: str) -> SteeringVector:
    vector = VECTORS["map of several layers"]
    if name in vars(vector):
        return replace(vector, **{name: CHANGES[name]})
    assert vector.map is not None
    return replace(vector, map=replace(vector.map, **{name: CHANGES[name]}))


@pytest.mark.parametrize("name", [f.name for f in [*fields(SteeringVector), *fields(LowRankMap)]])
def test_each_field_comes_back_and_makes_another_file(tmp_path, name):
    """Fingerprints hold the file's digest: whatever a vector is made of must be in the file."""
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    VECTORS["map of several layers"].save(before)
    _changed(name).save(after)
    assert file_digest(before) != file_digest(after)
    assert _content(SteeringVector.load(after)) == _content(_changed(name))
    assert _content(SteeringVector.load(after)) != _content(SteeringVector.load(before))


def test_the_header_says_in_words_and_numbers_what_the_vector_is():
    assert VECTORS["map of several layers"].header() == {
        "model": "m",
        "depth": 6,
        "width": WIDTH,
        "layers": [1, 4],
        "site": "resid_post",
        "rank": 2,
        "form": "low-rank map",
        "lengths": [5.0, 8.0],
        "residual_norms": [21.0, 24.0],
        "norm_kind": RESIDUAL_NORM,
        "provenance": {},
    }
    plain = VECTORS["plain"]
    assert plain.header()["form"] == "direction"
    assert plain.header()["provenance"] == plain.provenance
    assert plain.header()["lengths"] == pytest.approx([length(sum_of(plain.directions[0]))])


@pytest.mark.parametrize("name", VECTORS)
def test_the_header_is_json_that_people_can_read_beside_the_tensors(tmp_path, name):
    path = tmp_path / "v.safetensors"
    VECTORS[name].save(path)
    content = path.read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert head["__metadata__"]["format"] == FORMAT
    assert json.loads(head["__metadata__"]["header"]) == VECTORS[name].header()
    tensors = load_file(path)  # Any tool can read them.
    assert {key: value.tolist() for key, value in tensors.items()} == {
        key: value.tolist() for key, value in _parts(VECTORS[name])[1].items()
    }


def test_lengths_are_those_of_the_sum_of_the_directions_or_what_the_map_says():
    vector = VECTORS["several layers"]
    expected = [length(sum_of(directions)) for directions in vector.directions]
    assert vector.lengths == pytest.approx(expected)
    assert VECTORS["map of several layers"].lengths == (5.0, 8.0)


def test_a_direction_that_is_a_view_or_requires_grad_can_be_saved(tmp_path):
    directions = random_tensor(WIDTH, 2, 1).permute(2, 1, 0).requires_grad_()
    SteeringVector(directions, (3,), "resid_post").save(tmp_path / "v.safetensors")
    assert torch.equal(SteeringVector.load(tmp_path / "v.safetensors").directions, directions)


@pytest.mark.parametrize("name", VECTORS)
def test_the_same_vector_is_the_same_file(tmp_path, name):
    digests = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        VECTORS[name].save(path)
        digests.add(file_digest(path))
        assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(digests) == 1


@pytest.mark.parametrize("layer", [1, 4])
def test_the_part_of_one_layer_is_that_layers(layer):
    vector = VECTORS["map of several layers"]
    part, index = vector.at(layer), vector.layers.index(layer)
    assert (part.layers, part.rank, part.width) == ((layer,), 2, WIDTH)
    assert (part.site, part.model, part.depth) == (vector.site, "m", 6)
    assert part.residual_norms == (20.0 + layer,)
    assert part.lengths == (4.0 + layer,)
    assert torch.equal(part.directions[0], vector.directions[index])
    assert part.map is not None
    assert vector.map is not None
    assert torch.equal(part.map.reads[0], vector.map.reads[index])
    assert torch.equal(part.map.offsets[0], vector.map.offsets[index])


def test_the_part_of_a_plain_vector_is_as_long_as_it_was_there():
    vector = make_vector(2, layers=[0, 2, 7], residual_norms=None)
    assert [vector.at(layer).lengths[0] for layer in vector.layers] == list(vector.lengths)
    assert vector.at(2).residual_norms is None
    assert vector.at(2).map is None


def test_a_layer_that_the_vector_lacks_is_refused_with_those_that_it_has():
    with pytest.raises(VectorError, match=r"not act on layer 1: its layers are 0, 2, 7"):
        VECTORS["several layers"].at(1)


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
    assert "can't be read as .safetensors" in _refusal(path)
    assert not went_off.exists()


def test_the_bomb_of_the_test_above_is_live(tmp_path):
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "went_off")))
    assert (tmp_path / "went_off").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "folder.safetensors"])
def test_what_is_not_a_file_is_refused_with_the_remedy(tmp_path, name):
    (tmp_path / "folder.safetensors").mkdir()
    assert "is not a file: give the path of a .safetensors" in _refusal(tmp_path / name)


def test_a_file_cut_off_anywhere_is_refused(saved):
    whole = saved.read_bytes()
    for part in range(20):
        saved.write_bytes(whole[: len(whole) * part // 20])
        _refusal(saved)
    for vector in (len(whole) - 1, 8, 7, 1):
        saved.write_bytes(whole[:vector])
        _refusal(saved)


def test_a_file_that_goes_on_after_its_end_is_refused(saved):
    whole = saved.read_bytes()
    for more in (b"\0", b"\0" * 8, whole):
        saved.write_bytes(whole + more)
        _refusal(saved)


def test_a_file_with_any_one_bit_changed_is_refused(saved):
    """Every bit of length, header, padding and tensors."""
    whole = saved.read_bytes()
    with saved.open("r+b", buffering=0) as file:
        for byte, bit in itertools.product(range(len(whole)), range(8)):
            file.seek(byte)
            file.write(bytes([whole[byte] ^ 1 << bit]))
            assert _refusal(saved), f"bit {bit} of byte {byte}"
            file.seek(byte)
            file.write(whole[byte : byte + 1])
    assert saved.read_bytes() == whole
    SteeringVector.load(saved)


def test_values_that_change_places_are_refused(tmp_path):
    """The same bytes in another order, shape or tensor."""
    path = tmp_path / "v.safetensors"
    for name in ("several layers", "map of several layers"):
        header, tensors = _parts(VECTORS[name])
        VECTORS[name].save(path)
        metadata = {"format": FORMAT, "header": json.dumps(header, sort_keys=True)}
        content = path.read_bytes()
        head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata["sha256"] = head["__metadata__"]["sha256"]
        save_file(tensors, path, metadata)
        SteeringVector.load(path)  # Written by another hand, the same.
        turned = {**tensors, "directions": tensors["directions"].flip(0).contiguous()}
        save_file(turned, path, metadata)
        assert "is damaged" in _refusal(path)
        reshaped = tensors["directions"].reshape(len(header["layers"]), WIDTH, -1)
        save_file({**tensors, "directions": reshaped}, path, metadata)
        assert "is damaged" in _refusal(path)
        if "reads" in tensors:
            swapped = {"reads": tensors["directions"], "directions": tensors["reads"]}
            save_file({**tensors, **swapped}, path, metadata)
            assert "is damaged" in _refusal(path)


def test_a_number_by_itself_is_in_the_digest_too(tmp_path):
    path = tmp_path / "run.safetensors"
    content = pack("some-format/1", {}, {"step": torch.tensor(3.0), "x": torch.ones(2)})
    path.write_bytes(content)
    assert unpack("some-format/1", path)[1]["step"] == 3
    place = content.rindex(torch.tensor(3.0).numpy().tobytes())
    path.write_bytes(content[:place] + torch.tensor(4.0).numpy().tobytes() + content[place + 4 :])
    with pytest.raises(VectorError, match="damaged"):
        unpack("some-format/1", path)


@pytest.mark.parametrize(
    ("metadata", "content"),
    [
        (
            {"format": "steering-vector/1", "layer": "3", "site": "mlp_out", "provenance": "{}"},
            "steering-vector/1",
        ),
        ({"format": "steering-vector/9"}, "steering-vector/9"),
        ({"format": "pt"}, "pt"),
        (None, "has no format"),
        ({"format": FORMAT}, "damaged"),
        ({"format": FORMAT, "header": "{}"}, "damaged"),
    ],
    ids=str,
)
def test_a_file_of_another_format_is_refused_with_both_formats(tmp_path, metadata, content):
    path = tmp_path / "theirs.safetensors"
    save_file({"directions": torch.ones(1, WIDTH)}, path, metadata)
    message = _refusal(path)
    assert content in message
    assert content == "damaged" or FORMAT in message


WITHOUT = "left out"


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        *[
            ({name: WITHOUT}, [f"has no {name} in its header"])
            for name in VECTORS["map of several layers"].header()
            # The first two are said for people: the tensors have them. Files of an earlier version
            # lack the third; see test_results.
            if name not in ("width", "rank", "norm_kind")
        ],
        ({"site": "attn_out"}, ["attn_out", "resid_post"]),
        ({"layers": [4, 1]}, ["[4, 1]", "order"]),
        ({"layers": [4, 4]}, ["[4, 4]", "order"]),
        ({"layers": [4]}, ["[4]", "2 blocks"]),
        ({"layers": [1, 2, 4]}, ["[1, 2, 4]", "2 blocks"]),
        ({"layers": []}, ["[]", "2 blocks"]),
        ({"layers": [-1, 4]}, ["[-1, 4]", "from 0"]),
        ({"layers": [1, 4.0]}, ["[1, 4.0]", "from 0"]),
        ({"layers": ["1", "4"]}, ["['1', '4']"]),
        ({"layers": 4}, []),
        ({"depth": 4}, ["layer 4", "4 blocks"]),
        ({"depth": 0}, ["layer 4", "0 blocks"]),
        ({"depth": "6"}, ["'6'"]),
        ({"depth": 6.5}, ["6.5"]),
        ({"lengths": [5.0, 0.0]}, ["length", "[5.0, 0.0]"]),
        ({"lengths": [5.0, -8.0]}, ["length", "-8.0"]),
        ({"lengths": [5.0, float("nan")]}, ["length", "nan"]),
        ({"lengths": [5.0]}, ["length", "[5.0]"]),
        ({"lengths": [5.0, 8.0, 8.0]}, ["length", "[5.0, 8.0, 8.0]"]),
        ({"lengths": None}, []),
        ({"residual_norms": [21.0, 0.0]}, ["residual norm", "[21.0, 0.0]"]),
        ({"residual_norms": [-2.0, 24.0]}, ["residual norm", "-2.0"]),
        ({"residual_norms": [float("inf"), 24.0]}, ["residual norm", "inf"]),
        ({"residual_norms": [float("nan"), 24.0]}, ["residual norm", "nan"]),
        ({"residual_norms": ["21.0", "24.0"]}, ["residual norm", "'21.0'"]),
        ({"residual_norms": [21.0]}, ["residual norm", "[21.0]"]),
        ({"residual_norms": 21.0}, []),
        ({"provenance": []}, ["provenance"]),
        ({"provenance": None}, ["provenance"]),
    ],
    ids=str,
)
def test_a_whole_file_that_says_something_impossible_is_refused_by_value(tmp_path, changed, parts):
    """Its digest is right: somebody else's program wrote it."""
    header, tensors = _parts(VECTORS["map of several layers"])
    header = {key: value for key, value in {**header, **changed}.items() if value is not WITHOUT}
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(pack(FORMAT, header, tensors))
    message = _refusal(path)
    assert [part for part in parts if part not in message] == []


ONES = torch.ones(2, 2, WIDTH)
NAN = torch.full((2, 2, WIDTH), float("nan"))


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        *[
            ({name: None}, [f"has no {name} in its header"])
            for name in _parts(VECTORS["map of several layers"])[1]
        ],
        ({"directions": ONES[0]}, ["directions", f"[2, {WIDTH}]", "[layers, rank, width]"]),
        ({"directions": ONES[None]}, [f"[1, 2, 2, {WIDTH}]", "[layers, rank, width]"]),
        ({"directions": ONES[:1]}, ["[1, 4]", "1 blocks"]),
        ({"directions": ONES[:, :0]}, [f"[2, 0, {WIDTH}]"]),
        ({"directions": ONES[:, :, :0]}, ["[2, 2, 0]"]),
        ({"directions": ONES[:0]}, [f"[0, 2, {WIDTH}]"]),
        ({"directions": ONES.half()}, ["float16", "float32"]),
        ({"directions": ONES.bfloat16()}, ["bfloat16", "float32"]),
        ({"directions": ONES.double()}, ["float64", "float32"]),
        ({"directions": ONES.int()}, ["int32", "float32"]),
        ({"directions": NAN}, ["directions", "NaN"]),
        ({"directions": ONES / 0}, ["directions", "infinity"]),
        ({"reads": ONES[:, :1]}, ["reads", f"[2, 1, {WIDTH}]", f"[2, 2, {WIDTH}]"]),
        ({"reads": ONES[:, :, 1:]}, ["reads", f"[2, 2, {WIDTH - 1}]", f"[2, 2, {WIDTH}]"]),
        ({"reads": ONES[:1]}, ["reads", f"[1, 2, {WIDTH}]", f"[2, 2, {WIDTH}]"]),
        ({"reads": ONES.half()}, ["reads", "float16", "float32"]),
        ({"reads": -ONES / 0}, ["reads", "infinity"]),
        ({"offsets": ONES}, ["offsets", f"[2, 2, {WIDTH}]", "[layers, rank]"]),
        ({"offsets": ONES[0, :, :1]}, ["offsets", "[2, 1]", "[2, 2]"]),
        ({"offsets": ONES[:, :, 0].double()}, ["offsets", "float64", "float32"]),
        ({"offsets": NAN[:, :, 0]}, ["offsets", "NaN"]),
    ],
    ids=lambda value: None if isinstance(value, dict) else " ".join(value),
)
def test_a_whole_file_with_other_tensors_is_refused_by_value(tmp_path, changed, parts):
    header, tensors = _parts(VECTORS["map of several layers"])
    vector = {key: value for key, value in {**tensors, **changed}.items() if value is not None}
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(pack(FORMAT, header, vector))
    message = _refusal(path)
    assert [part for part in parts if part not in message] == []


def test_nan_is_refused_before_it_is_saved():
    with pytest.raises(VectorError, match="NaN"):
        SteeringVector(torch.full((1, 1, 2), float("nan")), (0,), "resid_post")


def test_another_width_is_refused_with_both_widths_and_the_model():
    with pytest.raises(VectorError, match=r"width 7.*some/model has width 8.*Give a vector of"):
        make_vector(layers=[1, 3]).check_fits(width=8, num_layers=10, model="some/model")


@pytest.mark.parametrize("num_layers", [2, 3])
def test_a_layer_that_the_model_lacks_is_refused_with_both_values(num_layers):
    with pytest.raises(VectorError, match=rf"layer 3, some/model has {num_layers} blocks \(0-"):
        make_vector(layers=[1, 3]).check_fits(
            width=WIDTH, num_layers=num_layers, model="some/model"
        )


@pytest.mark.parametrize("num_layers", [4, 6])
def test_another_depth_is_refused_with_both_depths(num_layers):
    """A model of the same width may still be another."""
    vector = make_vector(layers=[1, 3], depth=5)
    with pytest.raises(VectorError, match=rf"of 5 blocks, some/model has {num_layers}.*Give"):
        vector.check_fits(width=WIDTH, num_layers=num_layers, model="some/model")


@pytest.mark.parametrize("depth", [None, 4])
def test_a_vector_that_fits_is_let_through(depth):
    make_vector(layers=[1, 3], depth=depth).check_fits(
        width=WIDTH, num_layers=4, model="some/model"
    )


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_killed_write_leaves_what_was_there_and_nothing_else(
    tmp_path, monkeypatch, failing, existing
):
    path, old = tmp_path / "v.safetensors", VECTORS["plain"]
    if existing:
        old.save(path)

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, failing, killed)
    with pytest.raises(KeyboardInterrupt):
        VECTORS["map"].save(path)
    assert [content.name for content in tmp_path.iterdir()] == ([path.name] if existing else [])
    if existing:
        assert _content(SteeringVector.load(path)) == _content(old)


def test_what_json_cannot_hold_is_not_half_written(tmp_path):
    path = tmp_path / "v.safetensors"
    VECTORS["plain"].save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        make_vector(provenance={"made": object()}).save(path)
    assert [content.read_bytes() for content in tmp_path.iterdir()] == [before]


def test_a_file_is_not_there_under_its_name_until_it_is_whole(tmp_path, monkeypatch):
    path, messages = tmp_path / "v.bin", []
    move = os.replace

    def watched(source: str, target: Path) -> None:
        messages.append((Path(source).read_bytes(), path.exists(), Path(source).parent))
        move(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_whole(path, b"content")
    # In the same folder: only within one file system is a move all or nothing.
    assert messages == [(b"content", False, tmp_path)]
    assert path.read_bytes() == b"content"


def test_a_written_file_can_be_read_by_those_whom_the_umask_lets(tmp_path):
    """Caches are shared: a file that is its maker's alone can't be reused."""
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ({"form": "adapter"}, "form 'adapter'"),
        ({"form": "low-rank map"}, "has no reads in its header"),
        ({"model": 5}, "model 5"),
        ({"depth": True}, "True blocks"),
        ({"layers": [True]}, "layers [True]"),
    ],
)
def test_a_header_of_the_wrong_kind_is_refused_though_its_digest_is_right(
    tmp_path: Path, header: dict[str, Any], part: str
) -> None:
    vector = SteeringVector(torch.ones(1, 1, 4), (1,), "resid_post")
    path = tmp_path / "odd.safetensors"
    write_whole(path, pack(FORMAT, vector.header() | header, {"directions": vector.directions}))
    with pytest.raises(VectorError, match=re.escape(part)) as caught:
        SteeringVector.load(path)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_the_form_has_no_use_for_is_refused(tmp_path: Path) -> None:
    vector = SteeringVector(torch.ones(1, 1, 4), (1,), "resid_post")
    path = tmp_path / "odd.safetensors"
    tensors = {"directions": vector.directions, "reads": vector.directions.clone()}
    write_whole(path, pack(FORMAT, vector.header(), tensors))
    with pytest.raises(VectorError, match="form 'direction' with the tensors directions, reads"):
        SteeringVector.load(path)


def test_lengths_beyond_float32_squares_are_right() -> None:
    for size in (1e25, 1e-25):
        vector = SteeringVector(torch.full((1, 1, 4), size), (1,), "resid_post")
        assert vector.lengths[0] == pytest.approx(2 * size)
