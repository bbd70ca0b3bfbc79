"""The cache of vectors: what lies there is used only if it is the recipe's; damage heals.

The reference is the vector that an empty cache gives. A trial puts something else at its place,
makes the cache fail, kills a process that builds, or lets two build at once; then it asks again.
"""

import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults import tiny
from benchmarks.faults.mutations import flipped, lying, other_kind, overwritten, truncated
from benchmarks.faults.specimens import plain_vector
from benchmarks.faults.trials import Problem, doing, draw_of, killed_after, one_line, refusal
from benchmarks.faults.writers import failing, small_disk
from steering.engines._nnsight import Session
from steering.engines.hf import HFEngine
from steering.models import find_model, load_model, read_shape, weights_digest
from steering.targets import Example, Target
from steering.training.cache import cached_here, cached_vector, vector_path
from steering.training.recipe import ConstructionRecipe, make_construction_recipe
from steering.vectors import SteeringVector

_PAIRS = [
    Example(f"r{n}", f"Question {n}?", misaligned=f"Do it {n} times.", aligned=f"Ask {n} people.")
    for n in range(8)
]
_HELD_OUT = [Example("h", "And then?", misaligned="Run!", aligned="Stay.")]
_TARGET = Target("made-up", tuple(_PAIRS), tuple(_HELD_OUT), digest="0" * 64, source="made up")
_SECONDS = 60
_FAULTS = (
    *("other vector",) * 2, *("damage",) * 3, "other kind", "no writing", "full disk", "killed",
    "two at once", "lock", "checkpoint", "root", "nothing",
)  # fmt: skip


class Faults:
    """The cache under faults."""

    size = 1
    bound_s = 120.0

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._folder = folder / "cache"
        self._source = find_model(str(tiny.save_tiny(folder.parent / "tiny-llama")))
        self._recipes = {
            "mean_difference": self._recipe("mean_difference", layer=1),
            "sft": self._recipe("sft", layer=1, settings={"training_epochs": 2}),
        }
        self._references: dict[str, Any] = {}
        self._whole: dict[str, bytes] = {}
        self._checkpoint = b""
        for name, recipe in self._recipes.items():
            self._references[name] = plain_vector(self._ask(recipe))
            self._whole[name] = vector_path(recipe).read_bytes()
        for path in (self._folder / "training").glob("*.safetensors"):
            self._checkpoint = path.read_bytes()
            self._run = path.name
        other = self._recipe("mean_difference", layer=1, seed=1, shuffle_labels=True)
        self._ask(other)
        self._other = vector_path(other).read_bytes()

    def _recipe(self, method: str, **options: Any) -> ConstructionRecipe:
        shape, weights = read_shape(self._source), weights_digest(self._source)
        return make_construction_recipe(
            self._source, shape, _TARGET, weights=weights, method=method, **options
        )

    def _ask(self, recipe: ConstructionRecipe) -> SteeringVector:
        """The vector, from the cache or built, in an engine of its own."""
        os.environ["STEERING_CACHE"] = str(self._folder)
        engine = HFEngine(self._source, dtype="float32", device="cpu")
        try:
            return cached_vector(engine, recipe, _TARGET, lambda *_: None).result(_SECONDS)
        finally:
            engine.release()

    def _ask_here(self, recipe: ConstructionRecipe) -> SteeringVector:
        """The same on this thread, for a forked process."""
        loaded = load_model(self._source, dtype="float32", device="cpu")
        session = Session(loaded, threading.Event())
        return cached_here(loaded, session, recipe, _TARGET, lambda *_: None)

    def run(self, seed: int) -> list[Problem]:
        """One fault in the cache, one question."""
        draw = draw_of("caches", seed)
        if self._folder.is_file() or self._folder.is_symlink():
            self._folder.unlink()
        shutil.rmtree(self._folder, ignore_errors=True)
        name = draw.choice(["mean_difference", "mean_difference", "sft"])
        fault, recipe = draw.choice(_FAULTS), self._recipes[name]
        doing(f"{name}, {fault}")
        problems = self._trial(fault, name, recipe, draw)
        return [(verdict, f"{name}, {fault}: {what}") for verdict, what in problems]

    def _trial(
        self, fault: str, name: str, recipe: ConstructionRecipe, draw: random.Random
    ) -> list[Problem]:
        path = vector_path(recipe)
        place = path.parent
        if fault in ("other vector", "damage", "other kind", "checkpoint"):
            place.mkdir(parents=True)
        if fault == "other vector":
            path.write_bytes(self._other if name != "sft" else self._whole["mean_difference"])
        elif fault == "damage":
            mutate = draw.choice([flipped, truncated, overwritten, lying])
            path.write_bytes(mutate(self._whole[name], "binary", draw) or b"")
        elif fault == "other kind":
            path.write_bytes(b"x")
            other_kind(b"x", "binary", draw)(path)
        elif fault == "checkpoint":
            folder = self._folder / "training"
            folder.mkdir()
            damaged = draw.choice([flipped, truncated, overwritten])(
                self._checkpoint, "binary", draw
            )
            (folder / self._run).write_bytes(damaged or b"")
        elif fault == "lock":
            (place / f"{recipe.run}.lock").mkdir(parents=True)
        elif fault == "root":
            self._folder.write_text("a file")
        elif fault == "killed":
            killed_after(lambda: self._ask_here(recipe), draw.uniform(0.0, 1.0))
        elif fault == "two at once":
            return self._two(name, recipe)
        return self._answer(fault, name, lambda: self._faulty(fault, recipe, draw))

    def _faulty(
        self, fault: str, recipe: ConstructionRecipe, draw: random.Random
    ) -> SteeringVector:
        """Ask while the cache can't be written to."""
        if fault == "no writing":

            def denied() -> BaseException:
                return PermissionError(13, "Permission denied")

            with failing(self._folder, draw.randrange(1, 8), denied, on=True):
                return self._ask(recipe)
        if fault == "full disk":
            with small_disk(draw.choice([0, 100, 1000])):
                return self._ask(recipe)
        return self._ask(recipe)

    def _answer(self, fault: str, name: str, ask: Callable[[], SteeringVector]) -> list[Problem]:
        try:
            vector = ask()
        except Exception as error:
            problem = refusal(error)
            if problem:
                return [problem]
            # A fault that is gone must not stay.
            if fault in ("no writing", "full disk", "lock", "root", "other kind"):
                return []
            return [("lost", f"the cache does not heal: {one_line(error)}")]
        if plain_vector(vector) != self._references[name]:
            return [("wrong", "another vector than without the fault")]
        return []

    def _two(self, name: str, recipe: ConstructionRecipe) -> list[Problem]:
        """Another process builds the same at the same time."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ["STEERING_CACHE"] = str(self._folder)
                vector = self._ask_here(recipe)
                status = 0 if plain_vector(vector) == self._references[name] else 2
            finally:
                os._exit(status)
        problems = self._answer("two at once", name, lambda: self._ask(recipe))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            problems.append(
                ("wrong" if code == 2 else "lost", f"the other process ends with {code}")
            )
        return problems
