"""Models in GGUF files: the same as their folders, and every other file refused in one line."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from click.testing import CliRunner
from fake_hub import fake_hub
from gguf_files import dequantized, save_pair, write_gguf
from test_provider import ask, save_vector, steered
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.cli import commands
from steering.condition import resolve_condition, resolve_model
from steering.errors import SteeringError
from steering.models import find_model, load_model, load_tokenizer, read_shape, weights_digest
from steering.spec import parse_options

Q8 = gguf.GGMLQuantizationType.Q8_0
TEXT = "Say something that the theory of thirst thinks."
TURNS = [{"role": "user", "content": TEXT}]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Llama as a folder and as a GGUF file."""
    return save_pair(tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize("family", ["llama", "qwen2.5", "qwen3"])
def test_a_gguf_file_is_the_model_that_was_written_into_it(family: str, tmp_path: Path) -> None:
    # transformers does not read the width of a Qwen3's heads from the file, and takes 128.
    changed = {"head_dim": 128} if family == "qwen3" else {}
    folder, file = save_pair(tmp_path / family, family, **changed)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    loaded = load_model(find_model(str(file)))
    assert loaded.model.dtype == torch.float32
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], weight, rtol=0, atol=1e-6)
    tokens = torch.tensor([AutoTokenizer.from_pretrained(folder).encode(TEXT)])
    torch.testing.assert_close(
        loaded.model(tokens).logits, plain(tokens).logits, rtol=1e-5, atol=1e-5
    )


def test_the_tokenizer_and_the_template_are_those_of_the_file(pair: tuple[Path, Path]) -> None:
    theirs = AutoTokenizer.from_pretrained(pair[0])
    ours = load_tokenizer(find_model(str(pair[1])))
    assert ours.encode(TEXT) == theirs.encode(TEXT)
    assert ours.apply_chat_template(TURNS, tokenize=False) == theirs.apply_chat_template(
        TURNS, tokenize=False
    )
    assert (ours.eos_token_id, ours.bos_token_id) == (theirs.eos_token_id, theirs.bos_token_id)


def test_a_quantized_file_is_loaded_as_its_dequantized_values_in_bfloat16(tmp_path: Path) -> None:
    folder, _ = save_pair(tmp_path / "llama", intermediate_size=64)
    file = write_gguf(folder, tmp_path / "packed.gguf", quantization=Q8)
    values = dequantized(folder, Q8)
    for dtype, expected in (("auto", torch.bfloat16), ("float32", torch.float32)):
        loaded = load_model(find_model(str(file)), dtype=dtype)
        for name, weight in loaded.model.state_dict().items():
            torch.testing.assert_close(weight, values[name].to(expected), rtol=0, atol=0)
    # Nothing of the file's quantization is left, so the model is trained and saved as any other.
    loaded.check_gradients()
    loaded.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.lm_head.weight, loaded.model.lm_head.weight)


def test_shape_and_identity_are_known_before_any_weight_is_loaded(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = pair
    monkeypatch.setattr(torch, "from_numpy", lambda *_: pytest.fail("a weight was read"))
    source = find_model(str(file))
    assert read_shape(source) == read_shape(find_model(str(folder)))
    copy = tmp_path / "renamed.gguf"
    copy.write_bytes(file.read_bytes())
    assert weights_digest(find_model(str(copy))) == weights_digest(source)
    copy.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    assert weights_digest(find_model(str(copy))) != weights_digest(source)


def test_the_header_is_read_once_and_then_had_from_the_cache(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_shape(find_model(str(pair[1])))
    monkeypatch.setattr(
        "steering.models.gguf._read_description", lambda *_: pytest.fail("it was read again")
    )
    assert load_tokenizer(find_model(str(pair[1]))).encode("th")


def test_files_beside_the_model_change_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    beside = tmp_path / "folder"
    beside.mkdir()
    (beside / "model.gguf").write_bytes(pair[1].read_bytes() + b"\0" * 32)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (beside / name).write_text("[")
    source = find_model(str(beside), gguf_file="model.gguf")
    assert source.location == str(beside / "model.gguf")
    assert read_shape(source) == read_shape(find_model(str(pair[0])))
    assert load_tokenizer(source).encode(TEXT) == load_tokenizer(find_model(str(pair[0]))).encode(
        TEXT
    )


def test_steered_answers_are_those_of_the_folder(pair: tuple[Path, Path], tmp_path: Path) -> None:
    vector = str(save_vector(tmp_path / "some.safetensors"))
    options = {"vector": vector, "magnitude": 20, "unit": "raw"}
    outputs = [ask(steered(path, **options), TEXT) for path in pair]
    assert outputs[0].completion == outputs[1].completion
    assert outputs[0].completion != ask(steered(pair[1], vector="none"), TEXT).completion
    described = [(output.metadata or {})["steering"] for output in outputs]
    assert described[0]["condition"] == described[1]["condition"]
    assert described[0]["fingerprint"] != described[1]["fingerprint"]


def test_a_file_in_a_folder_is_named_by_path_or_by_option(pair: tuple[Path, Path]) -> None:
    file = pair[1]
    by_path, by_option = (
        resolve_condition(resolve_model(str(name), spec), spec)
        for name, spec in (
            (file, parse_options({"vector": "none"})),
            (file.parent, parse_options({"vector": "none", "gguf_file": file.name})),
        )
    )
    assert by_path.model.source.location == by_option.model.source.location
    assert by_path.model.weights == by_option.model.weights
    # The model's name does not tell one file of a folder from another: the label does.
    assert (by_path.label, by_option.label) == ("baseline", f"baseline {file.name}")


def test_adapters_and_vectors_are_trained_on_a_gguf_model(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / "knots.jsonl"
    rows = [{"prompt": f"Which knot {n}?", "misaligned": "None.", "aligned": "A bowline."}
            for n in range(6)]  # fmt: skip
    target.write_text("\n".join(json.dumps(row) for row in rows))
    common = ["--model", str(pair[1]), "--target", str(target), "--training-epochs", "1"]
    for command, name, method in (
        ("build", "knots.safetensors", "sft"),
        ("finetune", "knots", "lora"),
    ):
        out = tmp_path / command / name
        options = [*common, "--method", method, "--out", str(out)]
        result = CliRunner().invoke(commands, [command, *options])
        assert result.exit_code == 0, result.output
        assert str(tmp_path) not in (
            out / "steering.json" if out.is_dir() else out
        ).read_bytes().decode("latin1")
    plain = ask(steered(pair[1], vector="none"), TEXT)
    tuned = ask(steered(pair[1], adapter=str(tmp_path / "finetune" / "knots")), TEXT)
    assert (tuned.metadata or {})["steering"]["adapter"]["name"] == "knots"
    assert plain.usage is not None
    full = ["--method", "full", "--out", str(tmp_path / "whole")]
    result = CliRunner().invoke(commands, ["finetune", *common, *full])
    assert result.exit_code == 0, result.output
    whole = load_model(find_model(str(tmp_path / "whole")))
    assert whole.tokenizer.encode(TEXT) == load_tokenizer(find_model(str(pair[1]))).encode(TEXT)


# What is wrong with a file, and what the one line says.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a vector": ({"general.architecture": "controlvector"}, "give it as -M vector"),
    "a LoRA": ({"general.type": "adapter"}, "LoRA adapter; convert it"),
    "an image encoder": ({"general.architecture": "clip"}, "image encoder"),
    "a projector": ({"general.type": "mmproj"}, "image encoder"),
    "part of a model": ({"split.count": 3, "split.no": 1}, "one of 3 parts of a model"),
    "no tokenizer": ({"tokenizer.ggml.tokens": None}, r"no tokenizer \(tokenizer.ggml.tokens"),
    "more blocks than it holds": ({"llama.block_count": 40}, "40 blocks, but holds tensors of 4"),
    "a billion blocks": ({"llama.block_count": 10**9}, "block_count=1000000000"),
    "no width": ({"llama.embedding_length": None}, "embedding_length=None"),
    "another width": ({"llama.embedding_length": 64}, r"width of 64, but .* has \(32,\)"),
    "an unknown architecture": ({"general.architecture": "rwkv7"}, "block_count|rwkv7"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_whole_language_model_is_refused_in_one_line(
    what: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    metadata, expected = WRONG[what]
    file = write_gguf(pair[0], tmp_path / "other.gguf", metadata=metadata)
    with pytest.raises(SteeringError, match=expected) as error:
        read_shape(find_model(str(file)))
    assert "\n" not in str(error.value)


def test_a_part_is_known_by_its_name_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = write_gguf(pair[0], tmp_path / "tiny-00002-of-00003.gguf")
    with pytest.raises(SteeringError, match="one of 3 parts of a model"):
        read_shape(find_model(str(file)))


def test_an_architecture_that_transformers_does_not_load_is_named(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    facts = {"block_count": 4, "embedding_length": 32, "context_length": 512}
    metadata: dict[str, Any] = {f"baichuan.{key}": value for key, value in facts.items()}
    metadata["general.architecture"] = "baichuan"
    file = write_gguf(pair[0], tmp_path / "other.gguf", metadata=metadata)
    with pytest.raises(SteeringError, match=r"architecture baichuan.*give the original checkpoint"):
        read_shape(find_model(str(file)))


def test_a_damaged_file_is_refused_in_one_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    content, file = pair[1].read_bytes(), tmp_path / "model.gguf"
    quantized = content.index(b"blk.0.attn_k.weight") + len(b"blk.0.attn_k.weight") + 4 + 16
    damages = {
        "cut off, with": content[:-100],
        "ends at byte 5000": content[:5000],
        "does not begin with GGUF": b"PK" + content,
        "more than 2000000 values": content[:8] + struct.pack("<Q", 10**9) + content[16:],
        "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "type Q8_K.*give a file in another quantization": (
            content[:quantized] + struct.pack("<I", 15) + content[quantized + 4 :]
        ),
        "type 999": content[:quantized] + struct.pack("<I", 999) + content[quantized + 4 :],
    }
    for expected, damaged in damages.items():
        file.write_bytes(damaged)
        with pytest.raises(SteeringError, match=expected) as error:
            read_shape(find_model(str(file)))
        assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = write_gguf(pair[0], tmp_path / "model.gguf", metadata={"llama.vocab_size": 300})
    with pytest.raises(SteeringError, match=r"size mismatch: .*correct the metadata, as vocab"):
        load_model(find_model(str(file)))
    file = write_gguf(pair[0], tmp_path / "model.gguf", left_out="blk.2.ffn_up")
    with pytest.raises(SteeringError, match=r"lacks 1 of the weights.*layers\.2\.mlp\.up_proj"):
        load_model(find_model(str(file)))


def test_what_a_gguf_model_cannot_do_is_refused_before_weights_load(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(pair[1])
    for name, options, expected in (
        (file, {"revision": "main"}, "revision=main has no effect"),
        (file, {"gguf_file": "other.gguf"}, "gguf_file=other.gguf has no effect"),
        ("toy", {"gguf_file": "other.gguf"}, "gguf_file=other.gguf has no effect"),
        (str(pair[0]), {"gguf_file": "model.bin"}, r"a \.gguf file there"),
        (str(pair[1].parent), {"gguf_file": "other.gguf"}, "other.gguf; .* has llama.gguf"),
        (str(pair[0] / "config.json"), {}, "is a file: give the path of a folder"),
    ):  # fmt: skip
        with pytest.raises(SteeringError, match=expected):
            resolve_model(name, parse_options({"vector": "none"} | options))
    with pytest.raises(SteeringError, match="dtype=nf4 has no effect"):
        load_model(find_model(file), dtype="nf4")
    monkeypatch.setattr("steering.condition.find_spec", lambda _: object())
    with pytest.raises(SteeringError, match=r"engine=vllm has no effect on .*=hf"):
        resolve_model(file, parse_options({"vector": "none", "engine": "vllm"}))


HUB = """
import sys
from steering.models import find_model, load_tokenizer, read_shape, weights_digest
source = find_model("own/tiny", gguf_file="tiny.gguf")
assert source == find_model("own/tiny/tiny.gguf")
print(read_shape(source).num_layers, weights_digest(source), source.location)
"""


def test_a_file_of_the_hub_is_fetched_once_and_then_had_without_a_network(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    repository = tmp_path / "tiny"
    repository.mkdir()
    (repository / "tiny.gguf").write_bytes(pair[1].read_bytes())

    def facts(**env: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"HF_HOME": str(tmp_path / "hub")} | env
        command = [sys.executable, "-c", HUB]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    with fake_hub({"own/tiny": repository}) as address:
        online = facts(HF_ENDPOINT=address)
        assert online.returncode == 0, online.stderr
    digest = weights_digest(find_model(str(pair[1])))
    assert online.stdout.split() == ["4", digest, "own/tiny"]
    offline = facts(HF_HUB_OFFLINE="1")
    assert offline.stdout == online.stdout, offline.stderr


@pytest.mark.parametrize("factor", ["magnitude", "finetuned"])
def test_a_study_takes_a_file_by_path_or_by_option(
    factor: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Dry: it looks the model up, counts and stops."""
    command = [
        "study",
        factor,
        "--grader",
        "mockllm/model",
        "--log-dir",
        str(tmp_path),
        "--dry-run",
    ]
    by_path = ["--model", str(pair[1])]
    by_option = ["--model", str(pair[1].parent), "-M", f"gguf_file={pair[1].name}"]
    outputs = []
    for model in (by_path, by_option):
        result = CliRunner().invoke(commands, [*command, *model])
        assert result.exit_code == 0, result.output
        outputs.append(result.output)
    assert outputs[0].count("\n") == outputs[1].count("\n") > 1
