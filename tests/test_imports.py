"""Vectors that users bring: what is read, what must be said, what is refused, and by which door."""

import csv
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from inspect_ai.model import get_model
from safetensors.torch import save_file
from torch import Tensor

import steering
from steering.condition import resolve_condition, resolve_model
from steering.errors import SteeringError
from steering.spec import parse_options
from steering.vectors import SteeringVector, VectorError
from steering.vectors.formats import notes_on, read_vector, vector_in, write_vector
from steering.vectors.interventions import change, resolve

WIDTH = 128  # of toy-llama, which has 4 blocks
DEPTH = 4
GENERATOR = torch.Generator().manual_seed(5)
# Numbers that float16 and bfloat16 hold exactly.
V = torch.randint(-8, 8, (WIDTH,), generator=GENERATOR).float() / 4
W = torch.randint(-8, 8, (WIDTH,), generator=GENERATOR).float() / 4

Write = Callable[[Path], Any]
Run = Callable[..., tuple[int, str, str]]


def _pt(content: Any) -> tuple[str, Write]:
    return "v.pt", lambda path: torch.save(content, path)


def _safetensors(tensors: dict[str, Tensor], **metadata: str) -> tuple[str, Write]:
    return "v.safetensors", lambda path: save_file(tensors, path, metadata or None)


def _npy(array: Any) -> tuple[str, Write]:
    return "v.npy", lambda path: np.save(path, array)


def _npz(**arrays: Any) -> tuple[str, Write]:
    return "v.npz", lambda path: np.savez(path, **arrays)


def _csv(*rows: Any) -> tuple[str, Write]:
    def write(path: Path) -> None:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    return "v.csv", write


def _gguf(rows: dict[int, Any], dtype: Any = None, **strings: str) -> tuple[str, Write]:
    def write(path: Path) -> None:
        writer = GGUFWriter(path, "controlvector")
        for key, text in strings.items():
            writer.add_string(key.replace("_", ".", 1), text)
        for layer, row in rows.items():
            writer.add_tensor(f"direction.{layer}", np.asarray(row), raw_dtype=dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return "v.gguf", write


def _steer_file(**entries: Any) -> dict[str, Any]:
    """A steer file of lm-evaluation-harness by its documented fields."""
    usual = {"steering_coefficient": 1.0, "action": "add", "bias": None}
    return {name.replace("_", "."): usual | entry for name, entry in entries.items()}


BF16 = (V.numpy().view(np.uint32) >> 16).astype(np.uint16)
DOWN = "model.layers[2].mlp.down_proj"
READ: dict[str, tuple[tuple[str, Write], int | None, int, str]] = {
    # What is written, the layer that is said, the layer and the site that are read.
    "layer and vector": (_pt({"layer": 2, "vector": V}), None, 2, "resid_post"),
    "layer as a text": (_pt({"layer": "layers.2", "direction": V}), None, 2, "resid_post"),
    "layer, vector, site": (_pt({"layer_idx": 2, "v": V, "site": "mlp"}), None, 2, "mlp_out"),
    "bare": (_pt(V), 2, 2, "resid_post"),
    "bare row": (_pt(V[None].half()), 2, 2, "resid_post"),
    "named alone": (_pt({"happiness": V}), 2, 2, "resid_post"),
    "text keys": (_pt({"2": V}), None, 2, "resid_post"),
    "layer_2": (_pt({"layer_2": V, "model": "x"}), None, 2, "resid_post"),
    "by block under a key": (_pt({"vectors": {2: V}, "method": "caa"}), None, 2, "resid_post"),
    "npy": (_npy(V.numpy()), 2, 2, "resid_post"),
    "npy, float64, big-endian": (_npy(V.numpy().astype(">f8")), 2, 2, "resid_post"),
    "npz": (_npz(vector=V.numpy(), layer=2), None, 2, "resid_post"),
    "npz by block": (_npz(**{"2": V.numpy()}), None, 2, "resid_post"),
    "safetensors by block": (_safetensors({"2": V}), None, 2, "resid_post"),
    "safetensors, bare": (_safetensors({"steering_vector": V.bfloat16()}), 2, 2, "resid_post"),
    "safetensors, layer beside": (_safetensors({"v": V}, layer="2"), None, 2, "resid_post"),
    "module": (_safetensors({DOWN: V}, model="a/b", method="mean"), None, 2, "mlp_out"),
    "psyctl": (_safetensors({"layer_0": V}, layer_names=f"['{DOWN}']"), None, 2, "mlp_out"),
    "hook": (_pt({"blocks.2.hook_resid_pre": V}), None, 2, "resid_pre"),
    "csv row": (_csv(V.tolist()), 2, 2, "resid_post"),
    "csv column": (_csv(*([x] for x in V.tolist())), 2, 2, "resid_post"),
    "csv by layer": (
        _csv(["layer", *range(WIDTH)], [2, *V.tolist()]),
        None,
        2,
        "resid_post",
    ),
    "F16 GGUF": (_gguf({2: V.numpy().astype("f2")}), None, 2, "resid_post"),
    "BF16 GGUF": (_gguf({2: BF16}, GGMLQuantizationType.BF16), None, 2, "resid_post"),
    "lm-evaluation-harness": (
        _pt(_steer_file(layers_2={"steering_vector": V / 4, "steering_coefficient": 4.0})),
        None,
        2,
        "resid_post",
    ),
    "a list of it": (
        _pt([{"hookpoint": "layers.2.mlp", "steering_vector": V, "steering_coefficient": 1}]),
        None,
        2,
        "mlp_out",
    ),
    "zeros beside": (_pt({1: 0 * V, 2: V, 3: 0 * V}), None, 2, "resid_post"),
    "zeros beside, safetensors": (_safetensors({"1": 0 * V, "2": V}), None, 2, "resid_post"),
}


def _write(folder: Path, file: tuple[str, Write]) -> Path:
    path = folder / file[0]
    file[1](path)
    return path


@pytest.mark.parametrize("kind", READ)
def test_what_users_bring_is_read_alike_by_every_door(tmp_path, kind):
    """The reader's vector, a condition's, and what `convert` wrote and is read again."""
    file, said, layer, site = READ[kind]
    path = _write(tmp_path, file)
    vector = read_vector(path, said)
    assert (vector.layers, vector.site) == ((layer,), site)
    assert vector.directions.flatten().tolist() == V.tolist()
    assert json.loads(json.dumps(vector.header())) == vector.header()
    options: dict[str, Any] = {"vector": path} | ({} if said is None else {"layer": said})
    spec = parse_options(options)
    [source] = resolve_condition(resolve_model("toy-llama", spec), spec).vectors
    assert source.vector.header() == vector.header()
    assert torch.equal(steering.read_vector(path, said).directions, vector.directions)
    if said is not None:
        with pytest.raises(VectorError, match=r"no layer stands beside it.*`steering convert"):
            read_vector(path)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("transformer.h.2", "resid_post"),
        ("gpt_neox.layers.2.mlp.dense_4h_to_h", "mlp_out"),
        ("model.language_model.layers.2.mlp", "mlp_out"),
        ("blocks.2.hook_mlp_out", "mlp_out"),
        ("blocks.2.hook_resid_post", "resid_post"),
        ("evil_layer_2", "resid_post"),
        ("block2", "resid_post"),
        ("direction.2", "resid_post"),
        ("blocks.2.attn.hook_z", None),
        ("model.layers.2.self_attn.o_proj", None),
        ("layers.2.mlp.experts.3", None),
    ],
)
def test_names_of_modules_and_hooks_mean_their_block_and_site_or_are_refused(name, site):
    if site is None:
        with pytest.raises(VectorError, match="can't be steered here: allowed are"):
            vector_in({name: V})
    else:
        vector = vector_in({name: V})
        assert (vector.layers, vector.site) == ((2,), site)


def test_show_and_convert_read_what_a_condition_reads(tmp_path, run):
    for kind in ("layer and vector", "npz", "hook", "csv by layer", "BF16 GGUF"):
        path = _write(tmp_path, READ[kind][0])
        code, out, err = run("show", path)
        assert (code, "layer 2 " in out) == (0, True), (kind, err)
        code, out, _ = run("convert", path, tmp_path / "out.safetensors", "--force")
        assert (code, "layer 2, " in out) == (0, True), kind
        assert SteeringVector.load(str(tmp_path / "out.safetensors")).layers == (2,)


ROWS = torch.stack([(n + 1) * V for n in range(DEPTH + 1)])


def test_the_block_beside_rows_is_that_of_the_file(tmp_path):
    path = _write(tmp_path, _pt({"layer": 2, "vector": ROWS}))
    with pytest.raises(VectorError, match=r"\[5, 128\], and what its rows are must be said"):
        read_vector(path)
    assert read_vector(path, convention="rank").layers == (2,)
    with pytest.raises(VectorError, match="its layer is 2, and 3 is asked for"):
        read_vector(path, 3, convention="rank")
    # Whoever asks for all that a file holds names no block.
    with pytest.raises(VectorError, match="what its rows are must be said"):
        read_vector(path, "all")
    assert read_vector(path, "all", convention="rank").layers == (2,)
    assert read_vector(path, "all", convention="blocks").layers == (0, 1, 2, 3, 4)
    with pytest.raises(VectorError, match=r"tensor \[5, 128\], and no layer stands beside it"):
        read_vector(_write(tmp_path, _pt(ROWS)), convention="rank")
    with pytest.raises(VectorError, match=r"read_vector\(vector, convention='blocks', layer=2\)"):
        steering.read_vector(ROWS)


def test_rows_are_never_guessed(tmp_path):
    path = _write(tmp_path, _pt(ROWS))
    with pytest.raises(VectorError, match=r"rows.*blocks\+embedding.*rank.*--convention blocks"):
        read_vector(path, 2)
    # hidden_states of the model has one row more than blocks, and nothing else has.
    assert torch.equal(read_vector(path, 2, depth=DEPTH).directions[0, 0], ROWS[3])
    # As many rows as blocks may be their inputs or their outputs.
    with pytest.raises(VectorError, match="must be said"):
        read_vector(path, 2, depth=DEPTH + 1)
    vector = read_vector(path, 2, depth=DEPTH + 1, convention="blocks")
    assert torch.equal(vector.directions[0, 0], ROWS[2])
    assert (vector.site, vector.depth) == ("resid_post", DEPTH + 1)
    assert read_vector(path, 2, convention="blocks", site="resid_pre").site == "resid_pre"
    vector = read_vector(path, 2, convention="rank")
    assert (vector.layers, vector.rank) == ((2,), DEPTH + 1)
    with pytest.raises(VectorError, match=r"5 blocks by the convention blocks.*has 4"):
        read_vector(path, 2, depth=DEPTH, convention="blocks")
    with pytest.raises(VectorError, match="must be said"):
        read_vector(_write(tmp_path, _npy(ROWS.numpy())), 2)
    with pytest.raises(VectorError, match="5, 128"):
        read_vector(_write(tmp_path, _csv(*ROWS.tolist())), 2)


STATED = "controlvector_{}"
REFUSED: dict[str, tuple[tuple[str, Write], str]] = {
    "heads": (_pt({2: torch.ones(4, 32)}), r"layer 2 is a tensor torch.float32 \[4, 32\]"),
    "attention": (_pt({"model.layers.2.self_attn": V}), "'self_attn'.*resid_pre, mlp_out"),
    "router": (_safetensors({"layers.2.mlp.gate": V}), "'mlp.gate', which can't be steered"),
    "unknown GGUF kind": (_gguf({2: V}, controlvector_kind="spline"), "kind is 'spline'.*--oper"),
    "unknown GGUF mode": (_gguf({2: V}, controlvector_mode="rotate"), "mode is 'rotate'"),
    "unknown action": (_pt({"layer": 2, "vector": V, "action": "rotate"}), "action is 'rotate'"),
    "mean_diffs": (_pt(torch.ones(5, 4, WIDTH)), r"\[5, 4, 128\].*\[rows, width\]"),
    "several": (_npz(good=V.numpy(), evil=W.numpy()), "'good', 'evil'.*by block"),
    "two of one block": (_pt({"layers.2": V, "blocks.2": W}), "several .* on one block"),
    "two sites": (_pt({"layers.2": V, "layers.1.mlp": W}), "several sites"),
    "objects": (_npy(np.array([{}, "x"], dtype=object)), "without pickle"),
    "counts": (_npy(np.arange(8)), "int64"),
    "sparse features": (
        _csv(["loader", "sparse_model", "hookpoint", "feature_index"], ["s", "m", "layers.2", 3]),
        "features of sparse models",
    ),
    "words": (_csv(["a", "b"], [1, 2]), "line 1: could not convert.*'a'"),
    "ragged": (_csv([1, 2], [3]), "rows of one length"),
    "layer twice": (_csv(["layer", "x"], [1, 2], [1, 3]), "each once"),
    "lost names": (_safetensors({"layer_1": V}, layer_names="['layers.2']"), "a name for each"),
    "hook names no block": (_pt(_steer_file(head={"steering_vector": V})), "'head' names no block"),
    "mixed actions": (
        _pt(
            _steer_file(
                layers_1={"steering_vector": V},
                layers_2={"steering_vector": V, "action": "clamp"},
            )
        ),
        "differ in site or action",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_direction_is_refused_by_name(tmp_path, kind):
    file, part = REFUSED[kind]
    with pytest.raises(VectorError, match=part) as error:
        read_vector(_write(tmp_path, file), 2)
    assert file[0] in str(error.value)


def test_arrays_that_lie_about_their_size_or_run_code_are_refused(tmp_path):
    """Nothing is unpickled, and no memory is taken for what a header claims."""
    path, trace = tmp_path / "v.npy", tmp_path / "trace"

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (trace,)

    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(VectorError, match="without pickle"):
        read_vector(path, 2)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(VectorError, match="damaged"):
        read_vector(path, 2)
    assert not trace.exists()
    np.save(path, V.numpy())
    whole = path.read_bytes()
    for shape in (b"(999,)", b"(9e9,)", b"(2**9,)", b"(-12,)"):
        path.write_bytes(whole.replace(b"(128,)", shape.ljust(6)))
        with pytest.raises(VectorError, match="damaged"):
            read_vector(path, 2)
    for end in (0, 5, 40, len(whole) - 4):
        path.write_bytes(whole[:end])
        with pytest.raises(VectorError, match="damaged"):
            read_vector(path, 2)
    np.savez_compressed(tmp_path / "v.npz", v=np.zeros(2**23))
    with pytest.raises(VectorError, match="at most 256 MiB"):
        read_vector(tmp_path / "v.npz", 2)


def _label(**options: Any) -> str:
    spec = parse_options(options)
    return resolve_condition(resolve_model("toy-llama", spec), spec).label


@pytest.mark.parametrize(
    "file",
    [
        _gguf({2: V}, controlvector_mode="project"),
        _gguf({2: V}, controlvector_method="ablation"),
        _pt({"layer": 2, "vector": V, "operation": "project_out"}),
        _safetensors({"layers.2": V}, type="projection"),
        _pt(_steer_file(layers_2={"steering_vector": V, "action": "clamp"})),
    ],
    ids=["GGUF", "GGUF method", "pt", "safetensors", "clamp"],
)
def test_a_vector_that_is_not_added_steers_by_its_operation_or_as_it_is_told(tmp_path, file, run):
    path = _write(tmp_path, file)
    operation = read_vector(path).provenance["operation"]
    assert operation in ("ablate", "clamp")
    with pytest.raises(VectorError, match=f"-M operation={operation}.*-M operation=add"):
        _label(vector=path)
    assert operation in _label(vector=path, operation=operation)
    assert _label(vector=path, operation="add")
    out = tmp_path / "out.safetensors"
    _, _, err = run("convert", path, out)
    assert f"-M operation={operation}" in err
    assert read_vector(out).provenance["operation"] == operation


def test_an_operation_in_an_unknown_word_is_said(tmp_path):
    path = _write(tmp_path, _gguf({2: V}, controlvector_kind="spline"))
    assert "operation" not in read_vector(path, operation="add").provenance
    assert read_vector(path, operation="ablate").provenance["operation"] == "ablate"


@pytest.mark.parametrize("coefficient", [3.0, -3.0, 0.0])
@pytest.mark.parametrize("bias", [None, W])
def test_a_clamp_of_lm_evaluation_harness_sets_the_projection_that_it_sets(
    tmp_path, coefficient, bias
):
    """Against their formula: less the bias, along the unit vector, the coefficient."""
    entry = {"steering_vector": V, "steering_coefficient": coefficient, "action": "clamp"}
    path = _write(tmp_path, _pt(_steer_file(layers_2=entry | {"bias": bias})))
    vector = read_vector(path)
    hidden = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    unit, shift = V / V.norm(), torch.zeros(WIDTH) if bias is None else bias
    less = hidden - shift
    expected = less - (less @ unit)[..., None] * unit + coefficient * unit + shift
    [item] = resolve(vector, operation=vector.provenance["operation"])
    amount = torch.tensor([item.amount])
    added = change(item.operation, hidden, item.basis[None], amount, item.basis[None], None)
    assert torch.allclose(hidden + added, expected, atol=1e-5)


@pytest.mark.parametrize("beside", [True, False])
def test_a_folder_of_refusal_direction_is_the_input_of_its_block(tmp_path, run, beside):
    torch.save(V.double(), tmp_path / "direction.pt")
    (tmp_path / "direction_metadata.json").write_text('{"pos": -2, "layer": 2}')
    path = tmp_path / "direction.pt" if beside else tmp_path
    vector = read_vector(path)
    assert (vector.layers, vector.site) == ((2,), "resid_pre")
    assert (vector.provenance["pos"], vector.provenance["imported_from"]) == (
        -2,
        "refusal_direction",
    )
    assert torch.equal(vector.directions[0, 0], V)
    assert run("show", path)[0] == 0
    assert _label(vector=path)
    other = tmp_path / "out.safetensors"
    assert "its layers are 2" in run("convert", path, other, "--layer", 3)[2]
    assert "resid_pre, and mlp_out is said" in run("convert", path, other, "--site", "mlp_out")[2]
    assert run("convert", path, other, "--layer", 2)[0] == 0
    (tmp_path / "direction_metadata.json").write_text('{"pos": -2}')
    with pytest.raises(VectorError, match="has no layer"):
        read_vector(path)


def test_a_file_that_needs_a_layer_is_refused_with_the_line_that_imports_it(tmp_path, run):
    path = _write(tmp_path / "", _npy(V.numpy()))
    with pytest.raises(SteeringError, match="no layer") as error:
        _label(vector=path)
    line = str(error.value).partition("`steering ")[2].partition("`")[0].split()
    assert line[:2] == ["convert", str(path)]
    out = tmp_path / line[2]
    assert run(line[0], line[1], out, *line[3:])[0] == 0
    assert _label(vector=out)


def test_layers_that_are_zero_are_named(tmp_path, run):
    path, out = tmp_path / "ours.safetensors", tmp_path / "out.safetensors"
    rows = torch.stack([0 * V, V])[:, None]
    SteeringVector(rows, (1, 3), "resid_post", residual_norms=(2.0, 5.0)).save(str(path))
    for options in ({}, {"magnitude": 0.1}, {"unit": "norm"}, {"operation": "ablate"}):
        with pytest.raises(VectorError, match=r"zero at the layers 1: .*layer=3"):
            _label(vector=path, **options)
        assert _label(vector=path, layer=3, **options)
    code, _, err = run("convert", path, out)
    assert (code, "layers 1 are zero and left out" in err) == (0, True)
    assert (read_vector(out).layers, read_vector(out).residual_norms) == ((3,), (5.0,))
    torch.save({1: 0 * V, 2: 0 * V}, tmp_path / "zero.pt")
    with pytest.raises(VectorError, match="the vector is zero: it would steer nothing"):
        _label(vector=tmp_path / "zero.pt", layer=2)


def test_a_multiplier_beside_a_vector_is_told_of(tmp_path):
    path = _write(tmp_path, _pt({"layer": 2, "vector": V, "coefficient": 3.0}))
    [note] = notes_on(read_vector(path))
    assert "coefficient 3 is not applied" in note


def test_convert_with_a_model_measures_what_a_built_vector_has(tmp_path, run):
    path, out = _write(tmp_path, _pt(V)), tmp_path / "out.safetensors"
    with pytest.raises(VectorError, match="steering convert IN OUT --model"):
        _label(vector=path, layer=2, unit="residual")
    code, _, err = run("convert", path, out, "--layer", 2, "--model", "toy-llama")
    assert (code, "residual norm" in err) == (0, False)
    vector = read_vector(out)
    assert (vector.model, vector.depth) == ("toy-llama", DEPTH)
    built = steering.build("toy-llama", "medical", method="mean_difference", layer=2)
    assert vector.residual_norms == pytest.approx(built.residual_norms, rel=1e-6)
    assert "residual" in _label(vector=out, unit="residual")
    # Rows are told apart by the model's depth.
    rows = _write(tmp_path, _npy(ROWS.numpy()))
    vector = steering.read_vector(rows, [1, 2], model="toy-llama")
    assert torch.equal(vector.directions[:, 0], ROWS[2:4])
    assert len(vector.residual_norms or ()) == 2
    with pytest.raises(VectorError, match=r"width 8.*width 128"):
        steering.read_vector(V[:8], 2, model="toy-llama")
    with pytest.raises(SteeringError, match="dtype= has no effect without a model"):
        steering.read_vector(V, 2, dtype="float32")


def test_a_vector_of_another_model_is_refused_or_taken_knowingly(tmp_path, run, caplog):
    named = {"layer": 2, "vector": V, "model": "someone/Other-7B"}
    path, out = _write(tmp_path, _pt(named)), tmp_path / "out.safetensors"
    code, _, err = run("convert", path, out, "--model", "toy-llama")
    assert (code, out.exists()) == (1, False)
    assert "made on someone/Other-7B" in err
    assert "--anyway" in err
    assert run("convert", path, out, "--model", "toy-llama", "--anyway")[0] == 0
    assert read_vector(out).provenance["original_model"] == "someone/Other-7B"
    for file, warned in (
        (path, "made on someone/Other-7B"),
        (out, ""),
        (_write(tmp_path, _gguf({2: V}, controlvector_model_hint="llama")), ""),
        (_write(tmp_path, _safetensors({"2": V}, model="any/Toy_LLaMA")), ""),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            get_model("steered/toy-llama", memoize=False, vector=file)
        assert [warned in text for text in caplog.messages] == ([True] if warned else [])
    # A built vector knows the weights themselves.
    built = steering.build("toy-llama", "medical", method="mean_difference", layer=2)
    changed = {**built.provenance, "weights": "0" * 64}
    write_vector(SteeringVector(**{**vars(built), "provenance": changed}), out)
    with caplog.at_level(logging.WARNING):
        get_model("steered/toy-llama", memoize=False, vector=out)
    assert "made on other files of toy-llama" in caplog.text


def test_python_takes_objects_where_paths_go(tmp_path):
    path = tmp_path / "v.safetensors"
    vector = SteeringVector(V[None, None], (2,), "resid_post")
    vector.save(str(path))
    assert torch.equal(SteeringVector.load(str(path)).directions, vector.directions)
    forms = {
        "path": path,
        "text": str(path),
        "vector": vector,
        "tensor": V,
        "float16": V.half().requires_grad_(),
        "array": V.numpy(),
        "by block": {2: V},
        "mapping": {"layer": 2, "vector": V},
    }
    answers = {}
    for name, form in forms.items():
        layer = {} if name in ("path", "text", "vector", "by block", "mapping") else {"layer": 2}
        model = steering.load_model("toy-llama", vector=form, magnitude=4, **layer)
        answers[name] = model.ask("Tell me about rain.", temperature=0, max_tokens=12)
    assert len(set(answers.values())) == 1
    baseline = steering.load_model("toy-llama", vector="none")
    assert baseline.ask("Tell me about rain.", temperature=0, max_tokens=12) != answers["path"]
    asked = baseline.ask(
        "Tell me about rain.", temperature=0, max_tokens=12, vector=V, layer=2, magnitude=4
    )
    assert asked == answers["path"]
    with pytest.raises(SteeringError, match=r"no layer.*steering.read_vector\(vector, layer=2\)"):
        steering.load_model("toy-llama", vector=V)
    with pytest.raises(SteeringError, match="a list"):
        vector_in([1.0, 2.0])
    result = steering.audit(
        V, "toy", options={"layer": 2}, questions="core", task={"contexts": "none"}, dry_run=True
    )
    assert sum(arm.role == "vector" for arm in result.conditions.values()) == 3
