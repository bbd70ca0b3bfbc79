"""A model's folder may bring Python of its own: it runs only when that is asked for by name."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai._util.error import PrerequisiteError
from safetensors.torch import load_file, save_file
from shell import REPO
from test_provider import ask, steered

from steering.models import (
    ModelError,
    find_model,
    import_code,
    load_model,
    load_tokenizer,
    read_shape,
    weights_digest,
)

_MARK = "from pathlib import Path\nPath({marker!r}).write_text('ran')\n"
_CONFIG = "from transformers import LlamaConfig\nclass Config(LlamaConfig):\n model_type = 'wave'\n"
_MODEL = (
    "from transformers import LlamaForCausalLM\nfrom .configuration_wave import Config\n"
    "class Model(LlamaForCausalLM):\n config_class = Config\n"
)
_TOKENIZER = (
    "from transformers import PreTrainedTokenizerFast\nclass Words(PreTrainedTokenizerFast): pass\n"
)
_PROCESSOR = "from transformers import ProcessorMixin\nclass Eyes(ProcessorMixin): pass\n"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Exists once the code of a folder has run."""
    return tmp_path / "marker"


def change(path: Path, values: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    kept = {name: value for name, value in content.items() if name not in without}
    path.write_text(json.dumps(kept | values))


def write_code(folder: Path, marker: Path, **files: str) -> None:
    for name, code in files.items():
        (folder / f"{name}.py").write_text(_MARK.format(marker=str(marker)) + code)


@pytest.fixture
def wave(tiny_folder: Callable[[str], Path], tmp_path: Path, marker: Path) -> Path:
    """A Llama under another name, whose config and model are Python files beside the weights.

    Its config lacks the context length, for which transformers has to read the config itself.
    """
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "wave"))
    maps = {"AutoConfig": "configuration_wave.Config", "AutoModelForCausalLM": "model_wave.Model"}
    change(
        folder / "config.json",
        {"model_type": "wave", "architectures": ["Model"], "auto_map": maps},
        without=("max_position_embeddings",),
    )
    write_code(folder, marker, configuration_wave=_CONFIG, model_wave=_MODEL)
    return folder


@pytest.fixture(params=["nobody answers", "y is waiting"])
def stdin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that were asked on stdin; a `y` waits there for one of them."""
    questions: list[str] = []

    def answer(question: str = "") -> str:
        questions.append(question)
        if request.param == "nobody answers":
            raise EOFError
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    return questions


def test_the_code_of_a_folder_does_not_run_unless_asked(
    wave: Path, marker: Path, stdin: list[str]
) -> None:
    source = find_model(str(wave))
    doors: list[Callable[[], Any]] = [
        lambda: steered(wave, vector="none"),
        lambda: read_shape(source),
        lambda: import_code(source),
        lambda: load_model(source, device="cpu"),
    ]
    for door in doors:
        with pytest.raises((PrerequisiteError, ModelError)) as caught:
            door()
        message = str(caught.value).strip()
        assert "-M trust_remote_code=true" in message
        assert "wave" in message
        assert "\n" not in message
    assert not marker.exists()
    assert stdin == []


def test_a_run_with_y_on_stdin_runs_no_code(wave: Path, marker: Path) -> None:
    """The whole command line, in a process whose main thread may ask."""
    command = [sys.executable, "-m", "inspect_ai", "eval", "evals/em_freeform.py@em_freeform"]
    command += ["--model", f"steered/{wave}", "-M", "vector=none", "--display", "plain"]
    command += ["--log-dir", str(wave.parent / "logs"), "--limit", "1"]
    ended = subprocess.run(
        command, input="y\ny\ny\n", capture_output=True, text=True, cwd=REPO, check=False,
        env=os.environ | {"COLUMNS": "1000", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    output = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "trust_remote_code=true" in output
    assert "Traceback" not in output
    assert not marker.exists()


def test_the_code_of_a_tokenizer_does_not_run_unless_asked(
    tiny_folder: Callable[[str], Path], tmp_path: Path, marker: Path, stdin: list[str]
) -> None:
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "words"))
    maps = {"AutoTokenizer": [None, "words.Words"]}
    change(folder / "tokenizer_config.json", {"tokenizer_class": "Words", "auto_map": maps})
    write_code(folder, marker, words=_TOKENIZER)
    with pytest.raises(ModelError, match="-M trust_remote_code=true"):
        load_model(find_model(str(folder)), device="cpu")
    assert not marker.exists()
    assert stdin == []


def test_the_code_of_a_processor_does_not_run(
    tiny_folder: Callable[[str], Path], tmp_path: Path, marker: Path, stdin: list[str]
) -> None:
    """Which nothing here needs, but which a pipeline of an image-text model loads."""
    folder = Path(shutil.copytree(tiny_folder("gemma3-multimodal"), tmp_path / "eyes"))
    maps = {"AutoProcessor": "eyes.Eyes", "AutoImageProcessor": "eyes.Eyes"}
    for name in ("processor_config.json", "preprocessor_config.json"):
        change(folder / name, {"processor_class": "Eyes", "auto_map": maps})
    write_code(folder, marker, eyes=_PROCESSOR)
    ask(steered(folder, vector="none"))
    assert not marker.exists()
    assert stdin == []


def test_a_family_that_transformers_knows_runs_without_the_code_beside_it(
    tiny_folder: Callable[[str], Path], tmp_path: Path, marker: Path, stdin: list[str]
) -> None:
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "known"))
    change(folder / "config.json", {"auto_map": {"AutoModelForCausalLM": "model_wave.Model"}})
    write_code(folder, marker, model_wave=_MODEL)
    answers = [
        ask(steered(model, vector="none")).completion for model in (folder, tiny_folder("llama"))
    ]
    assert answers[0] == answers[1]
    assert not marker.exists()
    assert stdin == []


def test_the_code_of_a_folder_runs_when_asked_and_the_run_says_so(
    wave: Path, marker: Path, stdin: list[str], tiny_folder: Callable[[str], Path]
) -> None:
    model = steered(wave, vector="none", trust_remote_code=True)
    plain = steered(tiny_folder("llama"), vector="none")
    assert ask(model).completion == ask(plain).completion
    assert marker.read_text() == "ran"
    assert "trust_remote_code" in model.name
    assert stdin == []
    tokenizer = load_tokenizer(find_model(str(wave), trust_remote_code=True))
    assert tokenizer.eos_token == "<|end|>"


def test_code_that_runs_is_part_of_the_digest_and_code_that_does_not_is_not(wave: Path) -> None:
    before = [weights_digest(find_model(str(wave), trust_remote_code=ask)) for ask in (False, True)]
    (wave / "model_wave.py").write_text((wave / "model_wave.py").read_text() + "# changed\n")
    after = [weights_digest(find_model(str(wave), trust_remote_code=ask)) for ask in (False, True)]
    assert before[0] == after[0]
    assert len({*before, *after}) == 3


def test_a_model_folder_that_is_an_adapter_is_not_completed_from_elsewhere(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """transformers would load the base model that its adapter_config.json names, of any name."""
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "both"))
    change(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "a/b"})
    save_file(load_file(folder / "model.safetensors"), folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter_config\.json.*adapter="):
        find_model(str(folder))
