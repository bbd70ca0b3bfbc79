"""Vectors from and for other tools: the same numbers at the same block, and nothing that runs."""

import json
import pickle
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from tiny_models import LAYERS
from torch import Tensor
from transformers import AutoModelForCausalLM
from vector_files import KINDS, SITES, save_steering_vectors, write_control_vector, write_foreign

from steering.condition import resolve_condition, resolve_model
from steering.spec import parse_options
from steering.vectors import LowRankMap, SteeringVector, VectorError
from steering.vectors.formats import notes_on, read_vector, write_vector
from steering.vectors.packed import pack
from steering.vectors.steering_vector import FORMAT

WIDTH, DEPTH, LAYER = 8, 6, 3
DIRECTION = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))


def _vector(**changed: Any) -> SteeringVector:
    values: dict[str, Any] = {
        "directions": torch.stack([DIRECTION, -2 * DIRECTION])[:, None],
        "layers": (1, LAYER),
        "site": "resid_post",
        "residual_norms": (3.5, 7.25),
        "model": "toy",
        "depth": DEPTH,
        "provenance": {"method": "sft/2", "measured": {"loss": [0.5, 0.1]}, "note": "naïve ✓"},
    }
    return SteeringVector(**{**values, **changed})


def _read(path: Path, layer: Any = "all") -> SteeringVector:
    """What a file of any kind holds; of a tensor of rows, hidden_states as persona_vectors has."""
    return read_vector(path, layer, convention="blocks+embedding")


def _same(one: SteeringVector, other: SteeringVector) -> bool:
    return torch.equal(one.directions, other.directions) and one.header() == other.header()


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_vector_acts_at_the_block_that_its_tool_meant(tmp_path, kind):
    path = write_foreign(kind, tmp_path, LAYER, DIRECTION, DEPTH)
    vector = _read(path).at(LAYER)
    assert torch.equal(vector.directions, DIRECTION[None, None])
    assert vector.directions.dtype == torch.float32
    assert vector.site == SITES.get(kind, "resid_post")
    assert vector.depth == (DEPTH if kind == "persona" else None)
    assert vector.model == ("qwen3" if kind == "gguf" else "")
    assert vector.residual_norms is None
    assert vector.provenance["imported_from"]


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"persona"}))
def test_a_file_for_one_block_steers_no_other(tmp_path, kind):
    assert _read(write_foreign(kind, tmp_path, LAYER, DIRECTION, DEPTH)).layers == (LAYER,)


def test_rows_of_persona_vectors_are_the_outputs_of_the_blocks(tmp_path, tiny_folder):
    """Rows made as they make them, held against what hooks on the blocks see."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder("llama")).eval()
    messages: list[Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda module, args, output: messages.append(output[0, -1]))
    with torch.no_grad():
        states = model(torch.tensor([[5, 6, 7]]), output_hidden_states=True).hidden_states
    torch.save(torch.stack([state[0, -1] for state in states]), tmp_path / "theirs.pt")
    vector = _read(tmp_path / "theirs.pt")
    assert vector.layers == tuple(range(LAYERS - 1))
    assert vector.depth == LAYERS
    assert torch.equal(vector.directions[:, 0], torch.stack(messages[:-1]))
    # Why the last row is left out.
    assert not torch.allclose(states[-1][0, -1], messages[-1], rtol=0.1)
    [note] = notes_on(vector)
    assert f"row 0 (embedding) and row {LAYERS}" in note


def test_an_organism_without_alpha_is_added_as_it_is(tmp_path):
    """Their loader takes 1 where the file says nothing, and reads no width."""
    torch.save({"steering_vector": DIRECTION, "layer_idx": LAYER}, tmp_path / "v.pt")
    assert torch.equal(read_vector(tmp_path / "v.pt").directions[0, 0], DIRECTION)


def test_provenance_keeps_what_a_foreign_file_says(tmp_path):
    path = write_foreign("moem", tmp_path, LAYER, DIRECTION, DEPTH)
    provenance = read_vector(path).provenance
    assert (provenance["alpha"], provenance["d_model"], provenance["imported_from"]) == (
        256,
        WIDTH,
        "moem",
    )
    write_control_vector(tmp_path / "v.gguf", {1: DIRECTION}, **{"general.author": "somebody"})
    assert read_vector(tmp_path / "v.gguf").provenance["general.author"] == "somebody"


@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_imported_comes_back_from_every_format_that_can_hold_it(tmp_path, kind, suffix):
    vector = _read(write_foreign(kind, tmp_path, LAYER, DIRECTION, DEPTH))
    path = tmp_path / f"ours.{suffix}"
    if (kind, suffix) == ("moem", "gguf"):
        with pytest.raises(VectorError, match="mlp_out"):
            write_vector(vector, path)
        return
    write_vector(vector, path)
    assert _same(read_vector(path), vector)


@pytest.mark.parametrize(
    "changed", [{}, {"residual_norms": None, "depth": None, "model": "", "provenance": {}}]
)
def test_nothing_of_a_vector_is_lost_on_the_way_through_gguf(tmp_path, changed):
    vector = _vector(**changed)
    assert write_vector(vector, tmp_path / "new" / "v.gguf") == ()
    assert _same(read_vector(tmp_path / "new" / "v.gguf"), vector)


def test_a_gguf_file_of_ours_reads_as_a_plain_control_vector(tmp_path):
    """With the library's reader, by the rules of llama.cpp's loader and of repeng's."""
    write_vector(_vector(), tmp_path / "v.gguf")
    reader = GGUFReader(tmp_path / "v.gguf")
    provenance = {name: field.contents() for name, field in reader.fields.items()}
    assert provenance["general.architecture"] == "controlvector"
    assert provenance["controlvector.model_hint"] == "toy"
    assert provenance["controlvector.layer_count"] == 2
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert set(tensors) == {"direction.1", "direction.3"}
    assert all(tensor.tensor_type.name == "F32" for tensor in tensors.values())
    assert all(tensor.shape.tolist() == [WIDTH] for tensor in tensors.values())
    assert tensors["direction.1"].data.tolist() == DIRECTION.tolist()
    assert tensors["direction.3"].data.tolist() == (-2 * DIRECTION).tolist()


def test_a_gguf_file_names_no_model_only_by_an_empty_hint(tmp_path):
    """repeng reads no file that lacks the key."""
    write_vector(_vector(model=""), tmp_path / "v.gguf")
    hint = GGUFReader(tmp_path / "v.gguf").get_field("controlvector.model_hint")
    assert hint is not None
    assert hint.contents() == ""


def test_layer_0_in_a_gguf_file_is_warned_of(tmp_path):
    [note] = write_vector(_vector(layers=(0, LAYER)), tmp_path / "v.gguf")
    assert "llama.cpp" in note
    assert read_vector(tmp_path / "v.gguf").layers == (0, LAYER)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"directions": torch.ones(2, 3, WIDTH)}, "rank 3"),
        ({"site": "mlp_out"}, "site mlp_out"),
        ({"site": "resid_pre"}, "site resid_pre"),
        (
            {"map": LowRankMap(torch.ones(2, 1, WIDTH), torch.ones(2, 1), (1.0, 1.0))},
            "low-rank map of rank 1",
        ),
    ],
)
def test_gguf_is_not_written_for_what_it_can_t_hold(tmp_path, changed, part):
    with pytest.raises(VectorError, match=part) as error:
        write_vector(_vector(**changed), tmp_path / "v.gguf")
    assert "write .safetensors" in str(error.value)
    assert not (tmp_path / "v.gguf").exists()


def test_a_vector_for_another_model_is_refused_wherever_it_comes_from(tmp_path):
    vector = read_vector(write_foreign("dict", tmp_path, LAYER, DIRECTION, DEPTH))
    with pytest.raises(VectorError, match=f"width {WIDTH}, theirs has width 9"):
        vector.check_fits(width=9, num_layers=DEPTH, model="theirs")
    with pytest.raises(VectorError, match="layer 3, theirs has 3 blocks"):
        vector.check_fits(width=WIDTH, num_layers=3, model="theirs")
    vector = _read(write_foreign("persona", tmp_path, LAYER, DIRECTION, DEPTH))
    with pytest.raises(VectorError, match="6 blocks, theirs has 7"):
        vector.check_fits(width=WIDTH, num_layers=7, model="theirs")


class _Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


def test_the_bomb_of_these_tests_goes_off(tmp_path):
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("how", ["torch.save", "legacy torch.save", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_pickle_that_wants_to_run_code_runs_none(tmp_path, how, hidden):
    bomb: Any = _Bomb(tmp_path / "trace")
    if hidden:
        bomb = {"steering_vector": DIRECTION, "layer_idx": 3, "alpha": bomb}
    path = tmp_path / "v.pt"
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(bomb, protocol=int(how[-1])))
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=how == "torch.save")
    with pytest.raises(VectorError, match="without running its code"):
        read_vector(path)
    assert not (tmp_path / "trace").exists()


def test_their_class_is_not_imported(tmp_path, monkeypatch):
    path = write_foreign("steering-vectors", tmp_path, LAYER, DIRECTION, DEPTH)
    monkeypatch.setitem(sys.modules, "steering_vectors", None)  # importing it would fail
    assert read_vector(path).layers == (LAYER,)
    # Nor is it let through for anybody else.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"steering_vector": DIRECTION, "layer_idx": 3, "d_model": 9}, "d_model is 9.*width 8"),
        ({"steering_vector": DIRECTION, "d_model": 8}, "no layer stands beside it.*--layer 2"),
        ({"steering_vector": DIRECTION, "layer_idx": "x"}, "layer_idx is x"),
        ({"steering_vector": DIRECTION, "layer_idx": -1}, "layers \\[-1\\]"),
        ({"steering_vector": DIRECTION, "layer_idx": 3, "alpha": "a"}, "alpha is a"),
        ({"steering_vector": torch.ones(2, 8), "layer_idx": 3}, "\\[2, 8\\]"),
        ({"steering_vector": DIRECTION / 0, "layer_idx": 3}, "NaN or infinity"),
        ({3: DIRECTION, 4: DIRECTION[:5]}, "widths \\[5, 8\\]"),
        ({3: DIRECTION.long()}, "int64"),
        ({3: [1.0, 2.0]}, "a list"),
        ({-1: DIRECTION}, "blocks are numbered from 0"),
        ({"weight": DIRECTION, "bias": DIRECTION}, "'weight', 'bias'"),
        ({}, "an empty dict"),
        (DIRECTION, "tensor \\[8\\]"),
        (torch.ones(2, 3, 4), "tensor \\[2, 3, 4\\]"),
        (torch.ones(2, 8), "tensor \\[2, 8\\]"),
        ([DIRECTION], "a list"),
        (3.0, "a float"),
    ],
)
def test_a_pt_file_that_holds_no_vector_is_refused_by_what_it_holds(tmp_path, content, part):
    torch.save(content, tmp_path / "v.pt")
    with pytest.raises(VectorError, match=part) as error:
        _read(tmp_path / "v.pt")
    assert "v.pt" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "layer_type", "part"),
    [
        ({3: DIRECTION}, "self_attn", "self_attn; decoder_block or mlp"),
        ({3: DIRECTION}, None, "layer_type is None"),
        ({3: DIRECTION}, ["mlp"], "mlp"),
        ({"3": DIRECTION}, "mlp", "layer_activations"),
        ({}, "mlp", "layer_activations"),
        ([DIRECTION], "mlp", "layer_activations"),
    ],
)
def test_a_vector_of_steering_vectors_that_has_no_like_here_is_refused(
    tmp_path, rows, layer_type, part
):
    save_steering_vectors(tmp_path / "v.pt", rows, layer_type)
    with pytest.raises(VectorError, match=part):
        read_vector(tmp_path / "v.pt")


def test_the_mlp_of_steering_vectors_is_our_mlp_out(tmp_path):
    save_steering_vectors(tmp_path / "v.pt", {1: DIRECTION, 0: DIRECTION * 2}, "mlp")
    vector = read_vector(tmp_path / "v.pt")
    assert (vector.site, vector.layers) == ("mlp_out", (0, 1))
    assert torch.equal(vector.directions[:, 0], torch.stack([DIRECTION * 2, DIRECTION]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(tmp_path, dtype):
    torch.save({3: DIRECTION.to(dtype).requires_grad_()}, tmp_path / "v.pt")
    vector = read_vector(tmp_path / "v.pt")
    assert vector.directions.dtype == torch.float32
    assert not vector.directions.requires_grad
    assert torch.equal(vector.directions[0, 0], DIRECTION.to(dtype).float())


@pytest.mark.parametrize(
    ("names", "strings", "part"),
    [
        (["direction.1"], {"architecture": "llama"}, "general.architecture='llama'"),
        (["direction.1", "output.weight"], {}, "'output.weight'"),
        (["direction.-1"], {}, "'direction.-1'"),
        (["direction.1", "direction.01"], {}, "'direction.01'"),
        ([], {}, "no directions"),
        (["direction.1"], {"steering.format": "steering-vector/9"}, "steering-vector/9"),
        (["direction.1"], {"steering.header": "{}"}, f"{FORMAT} is needed"),
        (["direction.1"], {"steering.format": FORMAT}, "changed"),
    ],
)
def test_a_gguf_file_that_is_no_control_vector_is_refused(tmp_path, names, strings, part):
    write_control_vector(tmp_path / "v.gguf", dict.fromkeys(names, DIRECTION), **strings)
    with pytest.raises(VectorError, match=f"v.gguf .*{part}"):
        read_vector(tmp_path / "v.gguf")


@pytest.mark.parametrize(
    ("directions", "part"),
    [
        ({1: DIRECTION.double()}, "F64"),
        ({1: torch.ones(2, 4)}, "F32 \\[4, 2\\]"),
        ({1: DIRECTION, 2: torch.ones(5)}, "widths \\[5, 8\\]"),
        ({1: DIRECTION / 0}, "NaN or infinity"),
    ],
)
def test_a_control_vector_of_other_numbers_is_refused(tmp_path, directions, part):
    write_control_vector(tmp_path / "v.gguf", directions)
    with pytest.raises(VectorError, match=part):
        read_vector(tmp_path / "v.gguf")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ({"site": "attention"}, "attention"),
        ({"depth": 2}, "model of 2 blocks"),
        ({"residual_norms": 3}, "header is invalid"),
        (None, "header is invalid"),
    ],
)
def test_a_gguf_header_that_makes_no_sense_is_refused(tmp_path, header, part):
    class Forged(SteeringVector):
        def header(self) -> dict[str, Any]:
            return {} if header is None else {**super().header(), **header}

    write_vector(Forged(**vars(_vector())), tmp_path / "v.gguf")
    with pytest.raises(VectorError, match=f"v.gguf .*{part}"):
        read_vector(tmp_path / "v.gguf")


def test_our_facts_on_other_numbers_are_noticed(tmp_path):
    """Somebody scales the directions and keeps what the file says of them."""
    write_vector(_vector(), tmp_path / "v.gguf")
    provenance = {
        name: field.contents()
        for name, field in GGUFReader(tmp_path / "v.gguf").fields.items()
        if name.startswith("steering.")
    }
    scaled = {1: 1.5 * DIRECTION, LAYER: -2 * DIRECTION}
    write_control_vector(tmp_path / "scaled.gguf", scaled, **provenance)
    with pytest.raises(VectorError, match="was changed"):
        read_vector(tmp_path / "scaled.gguf")


@pytest.mark.parametrize("name", ["v.pkl", "v", "v.bin", "v.json"])
def test_a_suffix_that_is_not_known_is_refused_with_those_that_are(tmp_path, name):
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(VectorError, match=r"\.safetensors, \.gguf, \.pt"):
        read_vector(tmp_path / name)
    with pytest.raises(VectorError, match=r"\.safetensors or \.gguf"):
        write_vector(_vector(), tmp_path / "new.pt")


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    with pytest.raises(VectorError, match="is not a file"):
        read_vector(tmp_path / "none.gguf")
    with pytest.raises(VectorError, match=r"a folder without direction\.pt"):
        read_vector(tmp_path)


def test_a_place_that_can_t_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    for suffix in ("gguf", "safetensors"):
        with pytest.raises(VectorError, match="can't be written"):
            write_vector(_vector(), tmp_path / "file" / f"v.{suffix}")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ({}, "in its header"),
        ({"site": "attention"}, "attention"),
        ({"layers": [LAYER]}, "are not 2 blocks"),
        ({"layers": [1, DEPTH]}, "not in a model of 6 blocks"),
        ({"residual_norms": [1.0, -1.0]}, "residual norm"),
    ],
)
def test_a_safetensors_header_that_makes_no_sense_is_refused(tmp_path, header, part):
    whole = _vector().header() if header else {}
    content = pack(FORMAT, whole | header, {"directions": _vector().directions})
    (tmp_path / "v.safetensors").write_bytes(content)
    with pytest.raises(VectorError, match=part):
        read_vector(tmp_path / "v.safetensors")


def test_a_safetensors_file_of_another_schema_is_refused_by_its_name(tmp_path):
    path = tmp_path / "v.safetensors"
    path.write_bytes(pack("steering-vector/9", _vector().header(), {"a": DIRECTION}))
    with pytest.raises(VectorError, match=re.escape(f"steering-vector/9; {FORMAT} is needed")):
        read_vector(path)


def _damaged(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """The file cut at 20 places, and with one bit flipped in each of 120 bytes."""
    for part in range(20):
        length = part * len(whole) // 20
        yield f"cut to {length} bytes", whole[:length]
    for index in range(120):
        place = index * (len(whole) - 1) // 119
        flipped = bytearray(whole)
        flipped[place] ^= 1 << index % 8
        yield f"bit {index % 8} of byte {place} flipped", bytes(flipped)


def _try(path: Path) -> tuple[SteeringVector | None, str]:
    """The vector, or the words with which it was refused."""
    try:
        return _read(path), ""
    except VectorError as error:
        return None, str(error)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
def test_no_damage_to_a_file_of_ours_goes_unnoticed(tmp_path, suffix):
    """Refused in one line, or, where a bit means nothing (padding), the same vector."""
    vector, path = _vector(), tmp_path / f"v.{suffix}"
    write_vector(vector, path)
    meaningless = 0
    for what, content in _damaged(path.read_bytes()):
        path.write_bytes(content)
        read, refusal = _try(path)
        assert "\n" not in refusal, what
        if read is not None:
            assert _same(read, vector), what
            meaningless += 1
    assert meaningless < 12


def test_every_flipped_bit_of_the_numbers_is_noticed_in_gguf(tmp_path):
    path = tmp_path / "v.gguf"
    write_vector(_vector(), path)
    whole = path.read_bytes()
    places = [
        start + offset
        for start in (tensor.data_offset for tensor in GGUFReader(path).tensors)
        for offset in range(4 * WIDTH)
    ]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(VectorError, match="digest"):
            read_vector(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_a_foreign_file_never_ends_in_anything_but_a_line(tmp_path, kind):
    """Other numbers in a file without checksums, as GGUF is, are for nobody to notice."""
    path = write_foreign(kind, tmp_path, LAYER, DIRECTION, DEPTH)
    vector, refused = _read(path), 0
    for what, content in _damaged(path.read_bytes()):
        path.write_bytes(content)
        read, refusal = _try(path)
        assert "\n" not in refusal, what
        refused += read is None
        if read is not None and kind != "gguf":
            assert torch.equal(read.directions, vector.directions), what
            assert (read.layers, read.site) == (vector.layers, vector.site), what
    assert refused >= 20


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"gguf"}))
def test_changed_numbers_in_a_pt_file_are_noticed(tmp_path, kind):
    path = write_foreign(kind, tmp_path, LAYER, DIRECTION, DEPTH)
    whole = path.read_bytes()
    stored = (DIRECTION / 256 if kind == "moem" else DIRECTION).numpy().tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(stored) + 3] ^= 0x80  # the sign of the first number
    path.write_bytes(flipped)
    with pytest.raises(VectorError, match="is damaged"):
        read_vector(path)


def test_a_tensor_marked_as_a_folder_is_not_filled_from_memory(tmp_path):
    path = write_foreign("dict", tmp_path, LAYER, DIRECTION, DEPTH)
    content = bytearray(path.read_bytes())
    # The entry in the zip's directory: 46 bytes, at 38 the attributes, then the name.
    name = content.rindex(b"/data/0") - len("theirs")
    assert content[name - 46 : name - 42] == b"PK\x01\x02"
    content[name - 46 + 38] |= 0x10
    path.write_bytes(content)
    with pytest.raises(VectorError, match="is damaged"):
        read_vector(path)


def test_an_array_that_claims_to_be_endless_is_not_read_for_ever(tmp_path):
    """The library's reader goes through as many elements as the file says."""
    path = tmp_path / "v.gguf"
    write_control_vector(path, {1: DIRECTION}, note="12345678endless!")
    text = (16).to_bytes(8, "little") + b"12345678endless!"
    # A string's type is 8, an array's is 9; then the type of its elements and their number.
    array = (1).to_bytes(4, "little") + (2**60).to_bytes(8, "little") + b"ab\0\0\0\0\0\0\0\0\0\0"
    content = path.read_bytes().replace(b"\x08\0\0\0" + text, b"\x09\0\0\0" + array)
    assert len(content) == path.stat().st_size
    path.write_bytes(content)
    with pytest.raises(VectorError, match="more than 100000 values"):
        read_vector(path)


def test_what_a_file_says_can_be_written_as_json(tmp_path):
    content = {"steering_vector": DIRECTION, "layer_idx": 3, "more": {"a": (1, DIRECTION)}}
    torch.save(content, tmp_path / "v.pt")
    provenance = json.loads(json.dumps(read_vector(tmp_path / "v.pt").provenance))
    assert provenance["more"] == {"a": [1, "a tensor torch.float32 [8]"]}


@pytest.mark.parametrize("content", [torch.ones(6, WIDTH), {1: DIRECTION, 3: DIRECTION}])
def test_of_a_file_with_a_direction_for_each_layer_one_is_named_or_all_are(tmp_path, content):
    path = tmp_path / "v.pt"
    torch.save(content, path)
    with pytest.raises(VectorError, match=r"none is chosen.*--layer all"):
        _read(path, None)
    with pytest.raises(VectorError, match="77 is none of them"):
        _read(path, 77)
    vector = _read(path, 3)
    assert vector.layers == (3,)
    assert "chosen_layers" not in vector.provenance
    assert _read(path, [1, 3]).provenance["chosen_layers"] == [1, 3]
    everything = _read(path)
    assert len(everything.layers) > 1
    assert everything.provenance["chosen_layers"] == "all"


def test_a_single_direction_acts_at_the_layer_that_is_named_and_at_no_other(tmp_path):
    torch.save(DIRECTION.double(), tmp_path / "direction.pt")
    for layer in (None, "all", [1, 2]):
        with pytest.raises(VectorError, match=r"no layer.*--layer 2"):
            read_vector(tmp_path / "direction.pt", layer)
    vector = read_vector(tmp_path / "direction.pt", 2)
    assert (vector.layers, vector.site) == ((2,), "resid_post")
    assert torch.equal(vector.directions[0, 0], DIRECTION)
    assert "output of block 2" in notes_on(vector)[0]


def test_a_vector_of_ours_for_many_layers_stays_as_it_is(tmp_path):
    write_vector(_vector(), tmp_path / "v.safetensors")
    assert read_vector(tmp_path / "v.safetensors").layers == (1, LAYER)
    with pytest.raises(VectorError, match="together"):
        read_vector(tmp_path / "v.safetensors", [1])


@pytest.mark.parametrize(
    ("component", "accepted"),
    [("hidden_states", True), (None, True), ("attention_heads", False), ("router_logits", False)],
)
def test_easysteers_vectors_for_other_parts_than_the_residual_stream_are_refused(
    tmp_path, component, accepted
):
    facts = json.dumps({"version": 1, "component": component, "metadata": None})
    path = tmp_path / "v.gguf"
    write_control_vector(path, {2: DIRECTION}, **{"controlvector.easysteer": facts})
    if accepted:
        assert read_vector(path).layers == (2,)
    else:
        with pytest.raises(VectorError, match=f"{component}.*hidden_states"):
            read_vector(path)


def test_layers_whose_direction_is_zero_are_left_out_of_a_control_vector(tmp_path):
    zero = torch.zeros(WIDTH)
    write_control_vector(tmp_path / "v.gguf", {1: zero, 2: zero, 3: DIRECTION})
    vector = read_vector(tmp_path / "v.gguf")
    assert vector.layers == (3,)
    assert notes_on(vector) == ("the directions of the layers 1, 2 are zero and left out",)
    write_control_vector(tmp_path / "zero.gguf", {1: zero, 2: zero})
    assert read_vector(tmp_path / "zero.gguf").layers == (1, 2)


def _zipped_pickle(path: Path, pickled: bytes) -> None:
    """What torch.save writes, with another pickle in it."""
    torch.save({3: DIRECTION}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)


@pytest.mark.parametrize(
    "pickled",
    [
        pytest.param(b"\x80\x02c__builtin__\nbytearray\nI68719476736\n\x85R.", id="bytearray"),
        pytest.param(b"\x80\x02ctorch\nFloatTensor\nI17179869184\n\x85R.", id="tensor"),
        pytest.param(b"\x80\x02ctorch.storage\nUntypedStorage\nI68719476736\n\x85R.", id="storage"),
        pytest.param(b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", id="deep"),
        pytest.param(
            b"\x80\x02}K\x01\x85" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"Ns.",
            id="tuples that hash for ever",
        ),
        pytest.param(
            b"\x80\x02]q\0" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(60)) + b".",
            id="shared lists",
        ),
        pytest.param(b"\x80\x02" + b"N0" * 100_000 + b"N.", id="many operations"),
        pytest.param(b"\x80\x02X\xff\xff\xff\xffa.", id="endless text"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_tiny_pickle_that_asks_for_much_is_refused_at_once(tmp_path, pickled):
    path = tmp_path / "v.pt"
    _zipped_pickle(path, pickled)
    start = time.monotonic()
    with pytest.raises(VectorError) as error:
        _read(path)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 3


def test_an_archive_that_says_it_spans_several_disks_is_damaged(tmp_path):
    path = tmp_path / "v.pt"
    torch.save({3: DIRECTION}, path)
    content = bytearray(path.read_bytes())
    locator = content.rindex(b"PK\6\7")
    content[locator + 16] = 9
    path.write_bytes(content)
    with pytest.raises(VectorError, match="zip archive"):
        read_vector(path)


def test_a_view_of_one_number_as_billions_is_refused(tmp_path):
    path = tmp_path / "v.pt"
    for content in (
        {3: torch.ones(1).expand(2**34)},
        torch.ones(1, 1).expand(2**17, 2**17),
        {"steering_vector": DIRECTION, "layer_idx": 3, "more": torch.ones(1).expand(2**40)},
    ):
        torch.save(content, path)
        assert path.stat().st_size < 5000
        with pytest.raises(VectorError, match="256 MiB"):
            _read(path)


def test_a_legacy_file_is_read_in_a_process_of_its_own(tmp_path):
    torch.save({3: DIRECTION}, tmp_path / "v.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_vector(tmp_path / "v.pt").directions[0, 0], DIRECTION)


def test_a_condition_that_steers_several_candidates_says_so_in_its_label(tmp_path):
    torch.manual_seed(0)
    torch.save(torch.randn(5, 128), tmp_path / "theirs.pt")
    model = resolve_model("toy-llama", parse_options({"vector": "none"}))
    labels = {}
    for name, layer in (("all", "all"), ("two", [0, 2]), ("one", 1)):
        path = tmp_path / f"{name}.safetensors"
        write_vector(_read(tmp_path / "theirs.pt", layer), path)
        for option in ({}, {"layer": 2}) if name == "two" else ({},):
            spec = parse_options({"vector": str(path), **option})
            labels[name, *option] = resolve_condition(model, spec).label.partition(" ")[2]
    assert labels == {
        ("all",): "x1 L0-2",
        ("two",): "x1 L0,2",
        ("two", "layer"): "x1 L2",
        ("one",): "x1",
    }
