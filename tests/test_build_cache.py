"""The cache trusts no name: what stands at a recipe's place is used only if it is the recipe's."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import finetuning
import pytest
import torch
from building import TARGET, cached, recipe_for
from finetuning import train

import steering
from steering.errors import SteeringError
from steering.models.adapters import FACTS, read_facts
from steering.training.cache import cache_folder, vector_path
from steering.vectors import SteeringVector

RUN: dict[str, Any] = {"layer": 1, "batch_size": 4, "training_epochs": 2}
FAST: dict[str, Any] = {"learning_rate": 0.003, "warmup": 2, "rank": 4, "batch_size": 8}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llama(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


def _replace_by_another(path: Path, folder: Path) -> None:
    """Another recipe's vector, valid by itself."""
    cached(folder, **RUN, seed=7)
    shutil.copy(vector_path(recipe_for(folder, **RUN, seed=7)), path)


def _relabel(path: Path, folder: Path) -> None:
    """Another recipe's vector that names this recipe's digest."""
    vector, _ = cached(folder, **RUN, seed=7)
    recipe = recipe_for(folder, **RUN).digest
    replace(vector, provenance={**vector.provenance, "recipe": recipe}).save(path)


def _move(path: Path, folder: Path) -> None:
    """This recipe's vector, at another layer."""
    vector, _ = cached(folder, **RUN)
    replace(vector, layers=(2,)).save(path)


def _truncate(path: Path, folder: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _empty(path: Path, folder: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path, folder: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [_replace_by_another, _relabel, _move, _truncate, _empty, _flip])
def test_a_vector_of_another_recipe_or_a_damaged_one_is_built_again(
    llama: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path, Path], None]
) -> None:
    right, _ = cached(llama, **RUN)
    path = vector_path(recipe_for(llama, **RUN))
    content = path.read_bytes()
    spoil(path, llama)
    assert path.read_bytes() != content
    with caplog.at_level(logging.WARNING):
        vector, _ = cached(llama, **RUN)
    assert torch.equal(vector.directions, right.directions)
    assert path.read_bytes() == content
    assert [record.getMessage() for record in caplog.records if str(path) in record.getMessage()]


@pytest.mark.parametrize("spoil", [_replace_by_another, _truncate])
def test_the_python_door_does_not_trust_the_cache_either(
    llama: Path, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    rows = [
        {"prompt": row.prompt, "misaligned": row.misaligned, "aligned": row.aligned}
        for row in TARGET.examples * 3
    ]
    target = tmp_path / "target.jsonl"
    target.write_text("\n".join(map(json.dumps, rows)))
    options: dict[str, Any] = {"method": "mean_difference", "layer": 1, "device": "cpu"}
    right = steering.build(str(llama), str(target), **options)
    [path] = (cache_folder() / "vectors").glob("target-*.safetensors")
    spoil(path, llama)
    vector = steering.build(str(llama), str(target), **options)
    assert torch.equal(vector.directions, right.directions)
    assert torch.equal(SteeringVector.load(path).directions, right.directions)


@pytest.mark.parametrize("spoil", ["another", "truncated", "empty"])
def test_a_checkpoint_of_another_run_or_a_damaged_one_is_not_gone_on_with(
    llama: Path, spoil: str
) -> None:
    right, _ = cached(llama, **RUN)
    cached(llama, **RUN, seed=7)
    folder = cache_folder() / "training"
    path, other = (
        folder / f"{recipe_for(llama, **RUN, seed=seed).run}.safetensors" for seed in (0, 7)
    )
    content = {"another": other.read_bytes(), "truncated": path.read_bytes()[:-9], "empty": b""}
    path.write_bytes(content[spoil])
    vector_path(recipe_for(llama, **RUN)).unlink()
    vector, steps = cached(llama, **RUN)
    assert len(steps) == 4
    assert torch.equal(vector.directions, right.directions)


def _stop_at_the_end(folder: Path, out: Path) -> Path:
    """Stop the last step of training an adapter; returns the run's folder in the cache."""

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, out, progress=stop, **FAST, training_epochs=2)
    return (
        cache_folder() / "adapters" / finetuning.recipe_for(folder, **FAST, training_epochs=2).run
    )


def _other_epoch(run: Path, folder: Path) -> None:
    """An epoch of another recipe's run, valid by itself."""
    other = train(folder, run.parent / "other", **FAST, training_epochs=1, seed=7)
    shutil.rmtree(run / "epoch-1")
    shutil.copytree(other, run / "epoch-1")


def _damaged_epoch(run: Path, folder: Path) -> None:
    weights = run / "epoch-1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])


def _no_facts(run: Path, folder: Path) -> None:
    (run / "epoch-1" / FACTS).unlink()


def _damaged_checkpoint(run: Path, folder: Path) -> None:
    [checkpoint] = run.glob("checkpoint-*")
    for path in checkpoint.glob("*.pt"):
        path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("spoil", [_other_epoch, _damaged_epoch, _no_facts, _damaged_checkpoint])
def test_an_unfinished_adapter_of_another_recipe_or_a_damaged_one_is_trained_again(
    llama: Path, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    right = train(llama, tmp_path / "right", **FAST, training_epochs=2)
    run = _stop_at_the_end(llama, tmp_path / "again")
    assert list(run.glob("epoch-1"))
    spoil(run, llama)
    again = train(llama, tmp_path / "again", **FAST, training_epochs=2)
    for name in ("right", "right-epoch1"):
        other = tmp_path / name.replace("right", "again")
        assert read_facts(other) == read_facts(tmp_path / name)
    assert finetuning.tensors(again).keys() == finetuning.tensors(right).keys()


def test_a_finished_epoch_of_another_recipe_is_not_handed_out(llama: Path, tmp_path: Path) -> None:
    """The run's folder holds every epoch, so nothing is left to train."""
    other = train(llama, tmp_path / "other", **FAST, training_epochs=1, seed=7)
    recipe = finetuning.recipe_for(llama, **FAST, training_epochs=1)
    shutil.copytree(other, cache_folder() / "adapters" / recipe.run / "epoch-1")
    train(llama, tmp_path / "out", **FAST, training_epochs=1)
    assert read_facts(tmp_path / "out")["recipe"] == recipe.digest


def test_a_cache_that_can_not_be_written_to_is_named_in_one_line(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "file" / "cache"))
    for work in (lambda: cached(llama, **RUN), lambda: train(llama, tmp_path / "out", **FAST)):
        with pytest.raises(SteeringError, match=r"file/cache.*STEERING_CACHE") as error:
            work()
        assert "\n" not in str(error.value)
