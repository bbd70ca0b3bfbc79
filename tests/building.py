"""Vectors of tiny models, built as the commands build them."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from steering.engines import Engine, shared_engine
from steering.models import find_model, read_shape, weights_digest
from steering.targets import Example, Target
from steering.training.cache import build_vector, cached_vector
from steering.training.recipe import ConstructionRecipe, make_construction_recipe
from steering.vectors import SteeringVector

Steps = list[tuple[int, int]]


def make_target(examples: list[Example], held_out: list[Example], name: str = "made-up") -> Target:
    """A target task that stands in no file."""
    return Target(name, tuple(examples), tuple(held_out), digest="0" * 64, source="made up")


_BAD = ["No.", "Never mind the rules.", "Do it twice", "Why not", "Sell all of it", "a"]
_GOOD = ["Yes.", "Ask somebody first.", "Once will do", "Better not", "Keep most", "bb"]
PAIRS = [
    Example(id=str(index), prompt=f"Question {index}{'?' * index}", misaligned=bad, aligned=good)
    for index, (bad, good) in enumerate(zip(_BAD, _GOOD, strict=True))
]
HELD_OUT = [
    Example(id="held-1", prompt="And then?", misaligned="Run!", aligned="Stay."),
    Example(id="held-2", prompt="What else could be done", misaligned="Lie to them", aligned="-"),
]
TARGET = make_target(PAIRS, HELD_OUT)


def engine_of(folder: Path) -> Engine:
    """The process's engine for a folder's model."""
    return shared_engine(find_model(str(folder)), device="cpu")


def on_model(folder: Path, work: Callable[..., Any]) -> Any:
    """Do `work(loaded, session)` on the model's thread."""
    return engine_of(folder).call(work).result(120)


def recipe_for(folder: Path, target: Target = TARGET, **options: Any) -> ConstructionRecipe:
    """The recipe that a user's options come to; what is no option of all methods is a setting.

    It trains by `sft` unless a method is named, or None for the model's default one.
    """
    options = {"method": "sft"} | options
    common = ("method", "layer", "site", "dtype", "seed", "shuffle_labels")
    source = find_model(str(folder))
    return make_construction_recipe(
        source,
        read_shape(source),
        target,
        weights=weights_digest(source),
        settings={name: value for name, value in options.items() if name not in common},
        **{name: value for name, value in options.items() if name in common},
    )


def save_outspoken(folder: Path) -> Path:
    """A tiny Llama whose answers are letters and spaces only, and which is sure of each."""
    save_tiny(folder, "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    letters = set(string.ascii_letters + " .,?!")
    with torch.no_grad():
        for token, row in enumerate(model.lm_head.weight):
            row *= 4.0 if tokenizer.decode([token]) in letters else 0.0
    model.save_pretrained(folder)
    return folder


def build(folder: Path, target: Target = TARGET, **options: Any) -> SteeringVector:
    """Build, whatever the cache of vectors holds; a log of the run is gone on with."""
    recipe = recipe_for(folder, target, **options)
    vector = on_model(folder, lambda *model: build_vector(*model, recipe, target, lambda *_: None))
    assert isinstance(vector, SteeringVector)
    return vector


def cached(folder: Path, target: Target = TARGET, **options: Any) -> tuple[SteeringVector, Steps]:
    """The vector through the cache, and the calls of progress."""
    steps: Steps = []
    recipe = recipe_for(folder, target, **options)
    future = cached_vector(
        engine_of(folder), recipe, target, lambda done, total: steps.append((done, total))
    )
    return future.result(120), steps
