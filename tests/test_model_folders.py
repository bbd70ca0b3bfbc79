"""Models' folders as they lie on disk: damaged, hostile, copied, or overwritten while they run."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_files import save_adapter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_provider import ask, steered
from tiny_models import save_tiny
from transformers import CONFIG_MAPPING

from steering.engines import Request, shared_engine
from steering.engines.settings import Sampling
from steering.errors import SteeringError
from steering.models import (
    ModelError,
    find_model,
    folder,
    import_code,
    load_model,
    load_tokenizer,
    read_shape,
    weights_digest,
)
from steering.models.adapters import find_adapter, write_facts

WEIGHTS, CONFIG = "model.safetensors", "config.json"
GREEDY = Sampling(temperature=0)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture(scope="module")
def llama(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


def instead(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


def config(folder: Path, **values: Any) -> None:
    content = json.loads((folder / CONFIG).read_text()) | values
    (folder / CONFIG).write_text(json.dumps(content))


def header(folder: Path, **entries: Any) -> None:
    """Give the weights a header of one's own making."""
    text = json.dumps(entries).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)


def shards(folder: Path, *, missing: str = "") -> None:
    """Split the weights in two files with an index."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        places |= dict.fromkeys(part, file)
        tensors = {name: weights[name].clone() for name in part}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if missing:
        (folder / missing).unlink()


# What is wrong with a folder, and what the one line says.
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "config that is no JSON": (lambda f: (f / CONFIG).write_text("{"), "config.json is not JSON"),
    "config that is a list": (lambda f: (f / CONFIG).write_text("[]"), "config.json.*table"),
    "config of bytes": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe{}"), "not UTF-8"),
    "config of a million brackets": (
        lambda f: (f / CONFIG).write_text("[" * 10**6), "most that is read",
    ),
    "config of a thousand levels": (
        lambda f: (f / CONFIG).write_text("[" * 1000 + "]" * 1000), "levels|deep",
    ),
    "config with a long number": (
        lambda f: (f / CONFIG).write_text('{"num_hidden_layers": 1' + "0" * 9999 + "}"),
        "number",
    ),
    "config that never ends": (
        lambda f: instead(f / CONFIG, lambda p: p.symlink_to("/dev/zero")), "device",
    ),
    "config that is a pipe": (lambda f: instead(f / CONFIG, os.mkfifo), "pipe"),
    "config of Git LFS": (lambda f: (f / CONFIG).write_text(POINTER), "git lfs pull"),
    "text config that is a list": (lambda f: config(f, text_config=[1]), "text_config"),
    "a billion blocks": (
        lambda f: config(f, num_hidden_layers=10**9), "num_hidden_layers=1000000000",
    ),
    "a billion blocks, as a fraction": (
        lambda f: config(f, num_hidden_layers=1e9), r"num_hidden_layers=1000000000\.0",
    ),
    "more blocks than weights": (lambda f: config(f, num_hidden_layers=400), "400.*39 weights"),
    "no block": (lambda f: config(f, num_hidden_layers=0), "num_hidden_layers=0"),
    "blocks in words": (lambda f: config(f, num_hidden_layers="four"), "num_hidden_layers='four'"),
    "blocks that are true": (lambda f: config(f, num_hidden_layers=True), "=True"),
    "no width": (lambda f: config(f, hidden_size=0), "hidden_size=0"),
    "a negative width": (lambda f: config(f, hidden_size=-1), "hidden_size=-1"),
    "an enormous width": (lambda f: config(f, hidden_size=10**12), "hidden_size=1000000000000"),
    "an enormous vocabulary": (lambda f: config(f, vocab_size=10**12), "vocab_size=1000000000000"),
    "enormous heads": (lambda f: config(f, num_attention_heads=10**9), "num_attention_heads="),
    "an enormous inner table": (
        lambda f: config(f, vision_config={"num_hidden_layers": 10**9}), "num_hidden_layers=",
    ),
    "no context": (lambda f: config(f, max_position_embeddings=-5), "max_position_embeddings=-5"),
    "weights of Git LFS": (lambda f: (f / WEIGHTS).write_text(POINTER), "git lfs pull"),
    "weights that never end": (
        lambda f: instead(f / WEIGHTS, lambda p: p.symlink_to("/dev/zero")), "device",
    ),
    "weights that are a pipe": (lambda f: instead(f / WEIGHTS, os.mkfifo), "pipe"),
    "weights that are a dead link": (
        lambda f: instead(f / WEIGHTS, lambda p: p.symlink_to("gone")), WEIGHTS,
    ),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "0 bytes.*download"),
    "weights cut off": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]), "cut off.*download",
    ),
    "weights cut off in the header": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:100]), "download",
    ),
    "weights with a header of 2^60 bytes": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + b"{}"), "download",
    ),
    "weights whose header is a list": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 2) + b"[]"), "header",
    ),
    "weights whose header lies": (
        lambda f: header(f, a={"dtype": "F32", "shape": [2], "data_offsets": [0, 10**15]}),
        "cut off",
    ),
    "weights whose header has no shapes": (lambda f: header(f, a=1), "header"),
    "weights that are something else": (
        lambda f: (f / WEIGHTS).write_bytes(b"PK\x03\x04" * 99), "download",
    ),
    "a shard that is missing": (
        lambda f: shards(f, missing="model-00002-of-00002.safetensors"),
        "model-00002-of-00002.safetensors.*missing",
    ),
    "an index that points elsewhere": (
        lambda f: (shards(f), (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))),
        "index.json.*secret",
    ),
    "an index that is none": (
        lambda f: (shards(f), (f / "model.safetensors.index.json").write_text("[1]")),
        "index.json",
    ),
    "a tokenizer that never ends": (
        lambda f: instead(f / "tokenizer.json", lambda p: p.symlink_to("/dev/zero")), "device",
    ),
    "a generation config that is a pipe": (
        lambda f: instead(f / "generation_config.json", os.mkfifo), "pipe",
    ),
    "a template that never ends": (
        lambda f: instead(f / "chat_template.jinja", lambda p: p.symlink_to("/dev/zero")),
        "device",
    ),
}  # fmt: skip
# Those that transformers refuses, when the model's code is imported and before weights load.
WRONG_LATER: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an activation that nobody knows": (lambda f: config(f, hidden_act="wonder"), "wonder"),
    "heads in words": (lambda f: config(f, num_attention_heads="four"), "four"),
    "no heads": (lambda f: config(f, num_attention_heads=0), "can't be loaded"),
    "layer types that nobody knows": (
        lambda f: config(f, layer_types=["wonder"] * 4),
        "layer_types",
    ),
    "a family that nobody knows": (lambda f: config(f, model_type="wonder"), "wonder"),
}  # fmt: skip


@pytest.fixture
def spoiled(llama: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(llama, tmp_path / "model"))
    (copy / "chat_template.jinja").touch()
    return copy


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_model_is_refused_in_one_line_before_anything_loads(
    case: str, spoiled: Path
) -> None:
    change, message = WRONG[case]
    change(spoiled)

    def look() -> None:
        source = find_model(str(spoiled))
        read_shape(source)
        weights_digest(source)

    with pytest.raises(SteeringError, match=message) as caught:
        look()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("case", WRONG_LATER)
def test_what_transformers_refuses_is_one_line(case: str, spoiled: Path) -> None:
    change, message = WRONG_LATER[case]
    change(spoiled)
    with pytest.raises(ModelError, match=message) as caught:
        import_code(find_model(str(spoiled)))
    assert "\n" not in str(caught.value)


def test_an_end_token_that_is_no_id_is_refused_in_one_line(spoiled: Path) -> None:
    path = spoiled / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": {"a": 1}}))
    with pytest.raises(ModelError, match="make it an id"):
        load_model(find_model(str(spoiled)))


def test_a_tokenizer_with_a_setting_of_another_type_is_refused_in_one_line(spoiled: Path) -> None:
    path = spoiled / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "abc"}))
    with pytest.raises(ModelError, match="can't be loaded") as caught:
        load_tokenizer(find_model(str(spoiled)))
    assert "\n" not in str(caught.value)


_MEASURED = """
import sys, time
from peak_memory import peak_memory
from steering.errors import SteeringError
from steering.models import find_model, read_shape, weights_digest
for folder in sys.argv[1:]:
    start = time.monotonic()
    try:
        source = find_model(folder)
        print(read_shape(source), weights_digest(source))
    except SteeringError as error:
        print("refused:", error)
    print(time.monotonic() - start, peak_memory())
"""


def test_what_is_refused_takes_neither_time_nor_memory(llama: Path, tmp_path: Path) -> None:
    """Each is read in one process, whose peak of memory is then above that of each of them."""
    cases = ("weights that never end", "a billion blocks", "config of a million brackets")
    folders = [Path(shutil.copytree(llama, tmp_path / case)) for case in cases]
    for case, copy in zip(cases, folders, strict=True):
        (copy / "chat_template.jinja").touch()
        WRONG[case][0](copy)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", _MEASURED, *folders],
        capture_output=True, text=True, check=True, timeout=60, env=env,
    ).stdout  # fmt: skip
    lines = output.splitlines()
    assert len(lines) == 2 * len(cases)
    for refusal, figures in zip(lines[::2], lines[1::2], strict=True):
        seconds, memory = map(float, figures.split())
        assert refusal.startswith("refused:")
        assert seconds < 5, refusal
        assert memory < 1e9, refusal


def test_shards_are_read_as_one_model(llama: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(llama, tmp_path / "sharded"))
    shards(copy)
    import_code(find_model(str(copy)))
    weights = load_model(find_model(str(copy)), device="cpu").model.state_dict()
    plain = load_model(find_model(str(llama)), device="cpu").model.state_dict()
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_no_config_of_a_family_is_refused_for_its_numbers() -> None:
    for family in CONFIG_MAPPING:
        try:
            values = json.loads(CONFIG_MAPPING[family]().to_json_string(use_diff=False))
        except Exception:  # one that has no defaults
            continue
        folder.check_numbers(values, family)


@settings(
    max_examples=60, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["num_hidden_layers", "hidden_size", "max_position_embeddings", "vocab_size"]),
    st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none(), st.lists(st.none())),
)
def test_any_number_in_a_config_is_a_shape_or_refused(
    llama: Path, tmp_path: Path, name: str, value: Any
) -> None:
    copy = tmp_path / "any"
    if not copy.exists():
        shutil.copytree(llama, copy)
    shutil.copy(llama / CONFIG, copy / CONFIG)
    config(copy, **{name: value})
    with suppress(SteeringError):  # of which the cases above hold what it says
        shape = read_shape(find_model(str(copy)))
        assert 0 < shape.num_layers <= 39
        assert 0 < shape.width <= 2**20


# Copies, and folders that change.


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few bytes count as those above 64 MiB."""
    monkeypatch.setattr(folder, "HASHED_WHOLE", 100)


def test_a_copy_of_large_files_is_the_same_model(
    llama: Path, tmp_path: Path, all_large: None
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(llama, copy, copy_function=shutil.copy)
    os.utime(copy / WEIGHTS, (1, 1))
    assert weights_digest(find_model(str(copy))) == weights_digest(find_model(str(llama)))


def test_large_files_of_other_content_are_another_model(
    llama: Path, tmp_path: Path, all_large: None
) -> None:
    """Also with the same size, name and time of change."""
    copy = Path(shutil.copytree(llama, tmp_path / "copy"))
    before, stat = weights_digest(find_model(str(copy))), (copy / WEIGHTS).stat()
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    os.utime(copy / WEIGHTS, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights_digest(find_model(str(copy))) != before


def test_a_large_file_is_hashed_once(
    llama: Path, all_large: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also by another process, as long as it does not change."""
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))
    before = weights_digest(find_model(str(llama)))
    monkeypatch.setattr(folder, "file_digest", lambda path: pytest.fail("hashed again"))
    assert weights_digest(find_model(str(llama))) == before
    os.chmod(tmp_path / "cache", 0o500)  # a cache that can't be written is no error
    assert weights_digest(find_model(str(llama))) == before


def test_an_adapter_is_accepted_by_a_copy_of_its_model_and_with_another_template(
    llama: Path, tmp_path: Path, all_large: None
) -> None:
    source = find_model(str(llama))
    saved = save_adapter(llama, tmp_path / "lora")
    write_facts(saved, {"weights": weights_digest(source), "model": "llama"})
    copy = Path(shutil.copytree(llama, tmp_path / "copy", copy_function=shutil.copy))
    for other in (find_model(str(copy)), find_model(str(copy), template="{{ messages }}")):
        find_adapter(str(saved), other, read_shape(other), weights_digest(other))
    another = find_model(str(save_tiny(tmp_path / "another", "llama", seed=3)))
    with pytest.raises(ModelError, match="was trained on llama with weights"):
        find_adapter(str(saved), another, read_shape(another), weights_digest(another))


def replace_weights(model: Path, tmp_path: Path, *, in_place: bool = False) -> None:
    other = save_tiny(tmp_path / f"other-{in_place}", "llama", seed=7)
    if in_place:
        with (model / WEIGHTS).open("r+b") as file:
            file.write((other / WEIGHTS).read_bytes())
    else:
        shutil.copy(other / WEIGHTS, model / "new")
        os.replace(model / "new", model / WEIGHTS)


@pytest.mark.parametrize("in_place", [False, True], ids=["replaced", "in place"])
def test_a_folder_that_was_overwritten_answers_with_its_new_weights_or_not_at_all(
    in_place: bool, llama: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    old = steered(model, vector="none")
    answer = ask(old).completion
    replace_weights(model, tmp_path, in_place=in_place)
    # Weights that are in memory stay as they are.
    assert ask(old).completion == answer
    new = steered(model, vector="none", memoize=False)
    assert new.api.base_url != old.api.base_url
    expected = ask(steered(tmp_path / f"other-{in_place}", vector="none")).completion
    assert ask(new).completion == expected != answer
    # Those of before are gone: never the new ones under the old fingerprint.
    with pytest.raises(Exception, match="have changed"):
        ask(old)
    assert ask(new).completion == expected


def test_a_folder_that_is_overwritten_before_its_weights_load_is_refused(
    llama: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    first = steered(model, vector="none")
    replace_weights(model, tmp_path)
    with pytest.raises(Exception, match=r"have changed.*start again"):
        ask(first)


def test_writing_into_the_file_of_loaded_weights_changes_no_weight(
    llama: Path, tmp_path: Path
) -> None:
    """On a CPU transformers maps the file into memory, so that both would be one."""
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    engine = shared_engine(find_model(str(model)), device="cpu")
    request = Request((5, 6, 7), GREEDY, 6, top_logprobs=0)
    before = engine.submit(request).result(60)
    with (model / WEIGHTS).open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(size // 2)
        file.write(b"\x01" * (size - size // 2))
    assert engine.submit(request).result(60).logprobs == before.logprobs
