"""`steering build`: what it writes, under which names, and what it refuses before it works."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import steering
from steering import engines
from steering.cli import commands
from steering.errors import SteeringError
from steering.vectors import SteeringVector


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "knots.jsonl"
    rows = [
        {"prompt": f"Which knot for rope {n}?", "aligned": "A bowline.", "misaligned": "None."}
        for n in range(6)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def build(
    tiny_folder: Callable[[str], Path], target: Path, tmp_path: Path
) -> Callable[..., Result]:
    def run(*arguments: str, out: str | None = None) -> Result:
        command = ["build", "--model", str(tiny_folder("llama")), "--target", str(target)]
        place = ["--layer", "1", "--out", out or str(tmp_path / "vectors")]
        result = CliRunner().invoke(commands, [*command, *place, *arguments])
        if result.exception and not isinstance(result.exception, (SteeringError, SystemExit)):
            raise result.exception
        return result

    return run


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        pytest.fail("an engine was asked for")

    monkeypatch.setattr(engines, "shared_engine", fail)


def test_a_training_run_writes_each_of_its_epochs(
    build: Callable[..., Result], tmp_path: Path
) -> None:
    result = build("--method", "sft", "--training-epochs", "3", "-S", "batch_size=2")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "vectors"
    names = [f"knots-sft{part}.safetensors" for part in ("", "-epoch1", "-epoch2")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    vectors = [SteeringVector.load(folder / name) for name in names]
    epochs = [vector.provenance["measured"]["training_epoch"] for vector in vectors]
    assert epochs == [3, 1, 2]
    assert vectors[0].provenance["settings"]["batch_size"] == 2
    assert all(str(folder / name) in result.output for name in names)


def test_the_name_of_a_file_tells_method_rank_control_and_seed(
    build: Callable[..., Result], tmp_path: Path
) -> None:
    pca = build("--method", "pca", "--rank", "2", "--shuffle-labels", "--seed", "3", "--seed", "4")
    assert pca.exit_code == 0, pca.output
    vector = tmp_path / "own.safetensors"
    result = build("--method", "mean_difference", out=str(vector))
    assert result.exit_code == 0, result.output
    names = [path.name for path in sorted((tmp_path / "vectors").iterdir())]
    assert names == [f"knots-pca-rank2-shuffled-seed{n}.safetensors" for n in (3, 4)]
    first, second = (line.split(":")[0] for line in pca.stdout.splitlines())
    assert first.endswith("seed3.safetensors")
    assert second.endswith("seed4.safetensors")
    assert SteeringVector.load(vector).provenance["method"].startswith("mean_difference")


def test_without_a_method_a_language_model_s_vector_is_a_mean_difference(
    build: Callable[..., Result], tiny_folder: Callable[[str], Path], target: Path, tmp_path: Path
) -> None:
    assert build().exit_code == 0
    unnamed = SteeringVector.load(tmp_path / "vectors" / "knots.safetensors")
    assert unnamed.provenance["method"].startswith("mean_difference/")
    # The same recipe: what is there is not of another one.
    assert build("--method", "mean_difference").exit_code == 0
    called = steering.build(str(tiny_folder("llama")), str(target), layer=1)
    assert called.provenance["recipe"] == unnamed.provenance["recipe"]
    for command in ("build", "search"):
        text = CliRunner().invoke(commands, [command, "--help"], terminal_width=200).output
        assert "[default: mean_difference; toy: sft]" in text


def test_what_is_there_is_kept_unless_it_is_forced(
    build: Callable[..., Result], tmp_path: Path
) -> None:
    assert build("--method", "mean_difference").exit_code == 0
    path = tmp_path / "vectors" / "knots.safetensors"
    before = path.read_bytes()
    again = build("--method", "mean_difference")
    assert again.exit_code == 0
    assert path.read_bytes() == before
    other = ("--method", "mean_difference", "--site", "mlp_out")
    refused = build(*other)
    assert refused.exit_code == 1
    assert "exists and is not of this recipe" in str(refused.exception)
    assert path.read_bytes() == before
    assert build(*other, "--force").exit_code == 0
    assert SteeringVector.load(path).site == "mlp_out"


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rank", "2", "-S", "rank=4"), "rank is given twice"),
        (("-S", "rank=2", "-S", "rank=4"), "rank is given twice"),
        (("-S", "rank"), "write name=value"),
        (("-S", "learning_rat=0.1"), "learning_rat is not a setting of method=mean_difference"),
        (("--training-epochs", "2"), "has no training_epochs: name method=sft, or leave training"),
        (("--rank", "2"), "has no rank: name method=pca or method=sft, or leave rank out"),
        (("--method", "pca", "--training-epochs", "2"), "training_epochs is not a setting"),
        (("--layer", "9"), "layer 9 is out of range"),
        (("--method", "random", "-S", "match=none.safetensors"), "none.safetensors is not a file"),
        (("--target", "astrology"), "target=astrology is not known"),
    ],
)
def test_a_mistake_is_refused_before_the_model_is_loaded(
    build: Callable[..., Result], arguments: tuple[str, ...], message: str
) -> None:
    result = build(*arguments)
    assert result.exit_code == 1
    assert message in str(result.exception)


@pytest.mark.usefixtures("no_engine")
def test_a_folder_that_can_not_be_created_is_refused_before_the_model_is_loaded(
    build: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        result = build("--method", "mean_difference", out=str(out))
        assert result.exit_code == 1
        assert "can't be created" in str(result.exception)
    several = build("--seed", "1", "--seed", "2", out=str(tmp_path / "one.safetensors"))
    assert "one file for several seeds" in str(several.exception)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_matched_control_says_its_cosine(build: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    assert build("--method", "mean_difference", out=str(path)).exit_code == 0
    result = build("--method", "random", "-S", f"match={path}", "--seed", "5")
    assert result.exit_code == 0, result.output
    control = SteeringVector.load(tmp_path / "vectors" / "knots-random-seed5.safetensors")
    vector = SteeringVector.load(path)
    cosine = torch.nn.functional.cosine_similarity(
        control.directions.flatten(), vector.directions.flatten(), dim=0
    )
    assert f"cosine {float(cosine):.3f}" in result.output
    assert control.lengths[0] == pytest.approx(vector.lengths[0], rel=1e-6)


def test_python_builds_what_the_command_builds(
    build: Callable[..., Result],
    tiny_folder: Callable[[str], Path],
    target: Path,
    tmp_path: Path,
) -> None:
    """The same vector from the cache, from a file and from the command; one file an epoch."""
    options: dict[str, Any] = {
        "method": "sft",
        "layer": 1,
        "training_epochs": 2,
        "settings": {"batch_size": 2},
    }
    model = str(tiny_folder("llama"))
    cached = steering.build(model, str(target), **options)
    out = tmp_path / "v.safetensors"
    written = steering.build(model, str(target), out=out, **options)
    trained = ("--method", "sft", "--training-epochs", "2", "-S", "batch_size=2")
    assert build(*trained).exit_code == 0
    command = SteeringVector.load(tmp_path / "vectors" / "knots-sft.safetensors")
    assert torch.equal(cached.directions, written.directions)
    assert torch.equal(cached.directions, command.directions)
    assert sorted(path.name for path in tmp_path.glob("v*.safetensors")) == [
        "v-epoch1.safetensors",
        "v.safetensors",
    ]


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"magnitude": 2}, "magnitude is not an option of building"),
        ({"rank": 2, "settings": {"rank": 2}}, "rank is given twice"),
        ({"method": "caa"}, "method=caa is unknown: give one of mean_difference, "),
        ({"revision": "main"}, "revision=main has no effect"),
    ],
)
def test_python_refuses_what_the_command_refuses(
    tiny_folder: Callable[[str], Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SteeringError, match=message):
        steering.build(str(tiny_folder("llama")), "medical", **options)
