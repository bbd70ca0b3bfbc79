"""Studies as data: what each factor varies, and the conditions of a grid.

A study is a table of values, so that it can be written to a file, run again, and added to. Knows
options of models and what a model's config says of them; no weights, no logs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from steering.errors import no_such_option
from steering.models import Shape
from steering.spec import INTERVENTION, NONE
from steering.studies.errors import StudyError
from steering.studies.eval_sets import (
    CHOICES,
    EvalOptions,
    StudyCondition,
    choice_options,
    make_condition,
)
from steering.studies.other_tasks import OtherTask, read_task
from steering.studies.projected_vectors import projected_conditions
from steering.studies.shards import Shard
from steering.targets import SUBJECTS

# As a judge: no answers are written.
NO_GRADER = "none"
_MOST_LAYERS = 8
# Vectors of one recipe differ. Of three, a claim can tell what differs between them from what
# differs between conditions; more cost more than they tell.
BUILD_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class StudyFactor:
    """What a study varies. Adding an entry to `FACTORS` adds its command and its row in the docs.

    Attributes:
        varies: What varies, in a clause, for help and docs.
        option: The -M option that varies; "model" where models are compared; "" for the study of
            two arms.
        values: Default values of that option, from the shape of the first model and whether all
            models are toys.
        models: What is studied when no model is named.
        method: By which vectors of language models are built where none is named, for a factor that
            the models' default method lacks; "" for that one.
        is_long: Whether it takes so long that `steering study all` leaves it out.
    """

    varies: str
    option: str = ""
    values: Callable[[Shape, bool], Sequence[Any]] = lambda shape, toy: ()
    models: tuple[str, ...] = ("toy",)
    method: str = ""
    is_long: bool = False

    @property
    def compares_models(self) -> bool:
        """Whether models are what varies."""
        return self.option == "model"


def _spread_layers(shape: Shape, toy: bool) -> Sequence[int]:
    count = min(shape.num_layers, _MOST_LAYERS)
    return sorted({round((i + 0.5) * shape.num_layers / count - 0.5) for i in range(count)})


def default_targets(shape: Shape, toy: bool) -> Sequence[str]:
    """Target tasks that suit a model: of a toy the four that are questions of its world."""
    return ["code", "finance", "medical", "sports"] if toy else sorted(SUBJECTS)


FACTORS: dict[str, StudyFactor] = {
    "magnitude": StudyFactor(
        "how far the vector pushes",
        "magnitude",
        lambda shape, toy: (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0),
    ),
    "rank": StudyFactor(
        "how many directions the vector has: trained at that rank, or projected on that many "
        "principal directions of several vectors",
        "rank",
        lambda shape, toy: (1, 2, 4, 8),
        method="sft",
    ),
    "epochs": StudyFactor(
        "how many training epochs the vector has had",
        "training_epochs",
        lambda shape, toy: (1, 2, 3, 4, 5),
        method="sft",
    ),
    "layer": StudyFactor("which block is steered", "layer", _spread_layers),
    "target": StudyFactor("which target task the vector is built from", "target", default_targets),
    "family": StudyFactor(
        "models of several architectures", "model", models=("toy", "toy-llama", "toy-gemma3")
    ),
    "scale": StudyFactor(
        "models of one family and several sizes",
        "model",
        models=("toy-small", "toy", "toy-large"),
    ),
    "finetuned": StudyFactor(
        "the steered model beside the same model finetuned on the same target task",
        method="sft",  # which has build seeds, as the finetuned arm has
    ),
    "arms": StudyFactor(
        "the steered model beside the same model finetuned, told to behave so, shown examples, and "
        "steered by vectors that have nothing to do with harm",
        method="sft",
        is_long=True,
    ),
}


@dataclass(frozen=True)
class StudyConditions:
    """The conditions of a study, or of a shard of it.

    Attributes:
        ready: Those whose vectors and adapters exist, or are built on first use.
        num_missing: How many more there are once the study has built what it needs itself.
        note: What the study builds first, in a sentence; "" for nothing.
    """

    ready: Sequence[StudyCondition]
    num_missing: int = 0
    note: str = ""

    def __len__(self) -> int:
        """How many, missing ones included."""
        return len(self.ready) + self.num_missing


class Study(BaseModel, ABC):
    """What every study has; each field may stand in a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: str
    options: dict[str, Any] = Field(default_factory=dict)
    task: dict[str, Any] = Field(default_factory=dict)
    grader: str | None = None
    seed: int = 0
    # In place of this suite's own tasks, and besides them; `limit` is of their samples.
    tasks: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)

    @field_validator("tasks", "also", mode="before")
    @classmethod
    def _names(cls, names: Any) -> Any:
        return list(map(str, [names] if isinstance(names, str | PathLike) else names))

    @model_validator(mode="after")
    def _limits_something(self) -> "Study":
        if self.limit is not None and not self.tasks + self.also:
            raise ValueError(
                "limit is of the samples of other tasks, and there are none: give num_questions as "
                "an option of the task"
            )
        return self

    def fields(self) -> dict[str, Any]:
        """As a study file has them."""
        choices = {name: value for name, value in self.task.items() if name == CHOICES}
        task = {**self.eval_options().task_args, **choices}
        others = {"tasks", "also", "limit"}
        unset = {name for name in others if not getattr(self, name)}
        return self.model_dump(mode="json", exclude=unset) | {"task": task}

    def eval_options(self) -> EvalOptions:
        """What every condition is asked, and judged on."""
        args = {name: value for name, value in self.task.items() if name != CHOICES}
        return EvalOptions(args, self.grader, self.seed)

    @property
    def is_judged(self) -> bool:
        """Whether the answers of em_freeform are written and judged."""
        return self.grader != NO_GRADER and not self.tasks

    def choice_sets(self) -> list[EvalOptions]:
        """What every condition chooses between, without a judge."""
        if self.tasks:
            return []
        choices = choice_options(self.task, self.seed)
        return [choices] if choices else []

    def other_tasks(self) -> list[OtherTask]:
        """What every condition is asked besides; the options of `task` are those of `tasks`.

        Raises:
            SteeringError: There is no such task, or two are logged by one name.
        """
        grader = None if self.grader == NO_GRADER else self.grader
        asked = [(name, self.task) for name in self.tasks] + [(name, {}) for name in self.also]
        others = [
            read_task(name, args, grader=grader, seed=self.seed, limit=self.limit)
            for name, args in asked
        ]
        suite = [self.eval_options()] if self.is_judged else []
        suite += self.choice_sets()[:1]
        names = [each.name for each in (*suite, *(other.options for other in others))]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise StudyError(f"two tasks are called {twice[0]}: leave one of them out")
        return others

    @abstractmethod
    def conditions(
        self, folder: Path, shard: Shard, progress: Callable[[str], Any] | None = None
    ) -> StudyConditions:
        """Check the study and say what its conditions are.

        What it builds is kept in the folder of its logs. `progress` makes a progress bar from a
        caption; with None nothing is built.

        Raises:
            SteeringError: A condition is impossible; nothing was built.
        """


MAX_CONDITIONS = 10_000


class GridStudy(Study):
    """The product of some axes on each model, with one baseline a model."""

    models: tuple[str, ...]
    axes: dict[str, tuple[Any, ...]]
    # Of the study `rank`: projections on the first so many principal directions of the vectors of
    # these target tasks.
    top: tuple[int, ...] = ()
    top_of: tuple[str, ...] = ()

    @field_validator("axes", mode="before")
    @classmethod
    def _lists(cls, axes: Any) -> Any:
        if isinstance(axes, Mapping):
            return {k: v if isinstance(v, list | tuple) else [v] for k, v in axes.items()}
        return axes

    @model_validator(mode="after")
    def _sound(self) -> "GridStudy":
        for name, values in self.axes.items():
            if name not in INTERVENTION:
                raise ValueError(no_such_option(name, INTERVENTION, "to vary"))
            if not values:
                raise ValueError(f"axis {name} is empty: give it one value or more")
            if len(set(map(str, values))) < len(values):
                raise ValueError(f"axis {name} has a value twice ({list(values)})")
            if name in self.options:
                raise ValueError(f"{name} is an axis and a fixed option: choose one")
            if name == "vector" and NONE in values:
                raise ValueError("every study has its baseline: leave none out of the axis vector")
        if math.prod(map(len, self.axes.values())) * len(self.models) > MAX_CONDITIONS:
            raise ValueError(f"the axes make more than {MAX_CONDITIONS} conditions: give fewer")
        if self.top and self.factor != "rank":
            raise ValueError(f"top belongs to the study rank, not to {self.factor}: leave it out")
        if any(not 1 <= k <= len(self.top_of) for k in self.top):
            raise ValueError(
                f"top {list(self.top)} must lie from 1 to {len(self.top_of)}, the number of target "
                "tasks in top_of"
            )
        return self

    def conditions(
        self, folder: Path, shard: Shard, progress: Callable[[str], Any] | None = None
    ) -> StudyConditions:
        """The grid, then projected vectors, which the last shard has."""
        grid = shard.part(grid_conditions(self))
        if not (self.top and shard.is_last):
            return StudyConditions(grid)
        projected, num_missing = projected_conditions(self, folder / "vectors", progress)
        return StudyConditions([*grid, *projected], num_missing)


def grid_conditions(study: GridStudy) -> list[StudyCondition]:
    """The product of the axes on each model, the baseline first; projected vectors left out.

    Raises:
        SteeringError: A condition is impossible, or two would have one label.
    """
    loading = {k: v for k, v in study.options.items() if k not in INTERVENTION}
    cells = [dict(zip(study.axes, values, strict=True)) for values in product(*study.axes.values())]
    grid = [loading | {"vector": "none"}, *(study.options | cell for cell in cells)]
    conditions = [make_condition(model, options) for model in study.models for options in grid]
    names = [condition.name for condition in conditions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StudyError(f"two conditions are both {twice[0]}: take one value of an axis out")
    return conditions
