"""`steering show` and `steering convert`, in the words that a user reads."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from vector_files import KINDS, write_foreign

from steering import models
from steering.toy import TOYS
from steering.vectors import LowRankMap, SteeringVector
from steering.vectors.formats import read_vector

WIDTH = 8
DIRECTION = torch.tensor([3.0, 4.0] + [0.0] * (WIDTH - 2))  # of length 5

Run = Callable[..., tuple[int, str, str]]


def _save(folder: Path, **changed: Any) -> Path:
    values: dict[str, Any] = {
        "directions": DIRECTION[None, None],
        "layers": (2,),
        "site": "resid_post",
        "residual_norms": (20.0,),
        "model": "toy",
        "depth": 6,
        "provenance": {
            "method": "sft/2",
            "settings": {"rank": 1, "training_epochs": 5, "learning_rate": 0.02},
            "target": "toy/medical",
            "seed": 0,
            "shuffle_labels": False,
            "revision": None,
            "target_source": "",
            "versions": {"steering": "0.1.0", "torch": "2.9"},
            "measured": {"training_epoch": 5, "loss": [0.5, 0.25]},
        },
    }
    path = folder / "v.safetensors"
    SteeringVector(**{**values, **changed}).save(path)
    return path


def test_show_says_what_a_user_wants_to_know(tmp_path, run):
    path = _save(tmp_path)
    code, out, err = run("show", path)
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [
        "model                toy",
        "depth                6 blocks",
        "width                8",
        "layers               2",
        "site                 resid_post: output of the block",
        "form                 direction",
        "method               sft/2 (learning_rate=0.02, rank=1, training_epochs=5)",
        "target               toy/medical",
        "training epoch       5",
        "layer 2              length 5  residual norm 20: moves the residual stream by 25% of its "
        "length",
        "provenance",
        "  seed               0",
        "  shuffle_labels     no",
        "  versions.steering  0.1.0",
        "  versions.torch     2.9",
        "  measured.loss      0.5, 0.25",
        f"digest               {hashlib.sha256(path.read_bytes()).hexdigest()}",
    ]


def test_show_shortens_many_layers(tmp_path, run):
    count = 20
    layers = (*range(19), 24)
    path = _save(
        tmp_path,
        directions=torch.ones(count, 1, WIDTH),
        layers=layers,
        residual_norms=(10.0,) * count,
        depth=25,
    )
    _, out, _ = run("show", path)
    assert "0-18, 24\n" in out
    lines = [line for line in out.splitlines() if line.startswith("layer ")]
    assert [int(line.split()[1]) for line in lines] == [0, 1, 2, 3, 16, 17, 18, 24]
    assert "12 more layers" in out


def test_show_tells_maps_and_several_directions_apart(tmp_path, run):
    low_rank_map = LowRankMap(torch.ones(1, 3, WIDTH), torch.ones(1, 3), (2.0,))
    _, out, _ = run("show", _save(tmp_path, directions=torch.ones(1, 3, WIDTH), map=low_rank_map))
    assert "low-rank map of rank 3" in out
    assert "by 10% of its length" in out  # 2 of 20
    _, out, _ = run("show", _save(tmp_path, directions=torch.ones(1, 3, WIDTH)))
    assert "3 directions" in out


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"persona"}))
def test_show_reads_what_other_tools_write(tmp_path, run, kind):
    code, out, err = run("show", write_foreign(kind, tmp_path, 3, DIRECTION, 6))
    assert (code, err) == (0, "")
    [line] = [line for line in out.splitlines() if line.startswith("layer 3 ")]
    assert line.split(maxsplit=2)[2].split() == ["length", "5", "residual", "norm", "unknown"]
    assert "imported_from" in out


def test_show_as_json_is_the_header(tmp_path, run):
    path = _save(tmp_path)
    code, out, _ = run("show", path, "--json", "-")
    result = json.loads(out)
    assert code == 0
    _, printed, _ = run("show", path, "--json", tmp_path / "header.json")
    assert "layer" in printed
    assert json.loads((tmp_path / "header.json").read_text()) == result
    _fails_in_one_line(run("show", path, "--json", tmp_path), "can't be written")
    assert result.pop("sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result == SteeringVector.load(path).header()


def test_show_says_what_a_vector_for_a_model_must_fit(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    config = json.loads((TOYS["toy-llama"] / "config.json").read_text())
    code, out, err = run("show", "toy-llama")
    assert (code, err) == (0, "")
    assert [line.split(maxsplit=1) for line in out.splitlines()] == [
        ["model", "toy-llama"],
        ["location", str(TOYS["toy-llama"])],
        ["family", "llama"],
        ["width", str(config["hidden_size"])],
        ["layers", "4 (0-3)"],
        ["context", "length  512 tokens"],
        ["dtype", "float32"],
    ]
    # A folder, whose config is of an earlier transformers and names neither context nor dtype.
    folder = tmp_path / "mine"
    folder.mkdir()
    text = {"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps({**text, "torch_dtype": "bfloat16"}))
    save_file({name: torch.zeros(1) for name in "abc"}, folder / "model.safetensors")
    code, out, err = run("show", folder, "--json", "-")
    shape = json.loads(out)
    assert (shape["width"], shape["num_layers"], shape["dtype"]) == (64, 3, "bfloat16")
    assert shape["location"] == str(folder)
    # What is neither a vector's file nor a model ends as find_model does.
    _fails_in_one_line(run("show", "medical"), "no model is called medical. Allowed: toy")
    _fails_in_one_line(run("show", "mine/medical"), "mine/medical is not a file: give a steering")
    (tmp_path / "toy").mkdir()
    _fails_in_one_line(run("show", "toy"), "write ./toy for the path")
    _fails_in_one_line(run("show", "./toy"), "toy is a folder without direction.pt")


def test_show_prints_nothing_that_a_terminal_would_act_on(tmp_path, run):
    evil = "\x1b[2J\rgone\nmethod  fine\u202e"
    result = {evil: evil, "method": evil, "settings": {evil: [evil]}, "target": {"a": evil}}
    _, out, _ = run("show", _save(tmp_path, model=evil, provenance=result | {"measured": evil}))
    assert all(char.isprintable() or char == "\n" for char in out)
    assert "\nmethod  fine" not in out
    assert out.count("gone") == 8


def test_show_shortens_long_lists_and_texts(tmp_path, run):
    _, out, _ = run("show", _save(tmp_path, provenance={"losses": [0.5] * 500, "text": "x" * 5000}))
    assert "0.5, 0.5, 0.5, 0.5, ... 492 more ..., 0.5, 0.5, 0.5, 0.5\n" in out
    assert max(map(len, out.splitlines())) < 300


@pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
@pytest.mark.parametrize("kind", ["gguf", "persona", "steering-vectors", "dict"])
def test_convert_keeps_the_numbers_and_tells_what_it_left_out(tmp_path, run, kind, suffix):
    source = write_foreign(kind, tmp_path, 3, DIRECTION, 6)
    rows = ["--convention", "blocks+embedding"] if kind == "persona" else []
    code, out, err = run("convert", source, tmp_path / f"v.{suffix}", "--layer", "3", *rows)
    assert code == 0
    assert out == f"{tmp_path}/v.{suffix}: layer 3, resid_post, direction\n"
    vector = read_vector(tmp_path / f"v.{suffix}")
    assert vector.layers == (3,)
    assert vector.directions.flatten().tolist() == DIRECTION.tolist()
    notes = err.splitlines()
    assert all(note.startswith("Note: ") for note in notes)
    assert ("row 0 (embedding) and row 6" in err) == (kind == "persona")
    assert any("no residual norms" in note for note in notes)


def test_convert_keeps_all_layers_of_candidates_only_when_told_to(tmp_path, run):
    source, new = write_foreign("persona", tmp_path, 3, DIRECTION, 6), tmp_path / "v.gguf"
    rows = ["--convention", "blocks+embedding"]
    refusal = run("convert", source, new, *rows)
    _fails_in_one_line(refusal, "layers 0, 1, 2, 3, 4, and none is chosen")
    assert "--layer all" in refusal[2]
    _fails_in_one_line(run("convert", source, new, *rows, "--layer", "9"), "9 is none of")
    _fails_in_one_line(run("convert", source, new, *rows, "--layer", "x"), "12,16")
    assert not new.exists()
    two = tmp_path / "two.safetensors"
    code, out, err = run("convert", source, two, *rows, "--layer", "1,3")
    assert (code, "layer 1, 3" in out) == (0, True)
    code, out, err = run("convert", source, new, *rows, "--layer", "all")
    assert code == 0
    assert "layer 0-4" in out
    assert "llama.cpp" in err
    assert read_vector(new).layers == (0, 1, 2, 3, 4)


def test_convert_replaces_a_file_only_when_told_to(tmp_path, run):
    source = _save(tmp_path)
    existing = tmp_path / "taken.gguf"
    existing.write_bytes(b"mine")
    code, out, err = run("convert", source, existing)
    assert (code, out) == (1, "")
    assert "--force" in err
    assert existing.read_bytes() == b"mine"
    code, _, err = run("convert", source, existing, "--force")
    assert (code, err) == (0, "")
    assert read_vector(existing).layers == (2,)


def test_convert_onto_itself_loses_nothing(tmp_path, run):
    path = write_foreign("gguf", tmp_path, 3, DIRECTION, 6)
    assert run("convert", path, path, "--force")[0] == 0
    assert read_vector(path).directions.flatten().tolist() == DIRECTION.tolist()


def _fails_in_one_line(result: tuple[int, str, str], part: str) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert part in err


@pytest.mark.parametrize("suffix", ["safetensors", "gguf", "pt"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_ends_a_command_in_one_line(tmp_path, run, suffix, damage):
    if suffix == "pt":
        path = write_foreign("moem", tmp_path, 3, DIRECTION, 6)
    else:
        path = tmp_path / f"v.{suffix}"
        run("convert", _save(tmp_path), path, "--force")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(DIRECTION.numpy().tobytes()) if suffix != "pt" else 150] ^= 1
    content = {"cut": whole[:-40], "flipped": bytes(flipped), "empty": b"", "text": b"vector\n"}
    path.write_bytes(content[damage])
    _fails_in_one_line(run("show", path), path.name)
    _fails_in_one_line(run("convert", path, tmp_path / "new.gguf"), path.name)
    assert not (tmp_path / "new.gguf").exists()


def test_mistakes_are_told_in_one_line(tmp_path, run):
    path, new = _save(tmp_path), tmp_path / "new.gguf"
    _fails_in_one_line(run("show", tmp_path / "none.gguf"), "none.gguf is not a file")
    _fails_in_one_line(run("convert", path, new, "--layer", "3"), "its layers are 2")
    _fails_in_one_line(run("convert", path, tmp_path / "new.pt"), ".safetensors or .gguf")
    organism = write_foreign("moem", tmp_path, 3, DIRECTION, 6)
    _fails_in_one_line(run("convert", organism, new), "mlp_out")
    assert not new.exists()


def test_a_pickle_that_wants_to_run_code_ends_in_one_line(tmp_path, run):
    trace = tmp_path / "trace"
    (tmp_path / "v.pt").write_bytes(f"cos\nsystem\n(S'touch {trace}'\ntR.".encode())
    _fails_in_one_line(run("show", tmp_path / "v.pt"), "without running its code")
    assert not trace.exists()
