"""A study as data: one factor, the values of its axes, and what is held fixed.

A study is a table of values, so that it can be written to a file, run again, and added to. Its
conditions are the product of its axes on each model, with one baseline a model. Knows options of
models and what a config says of them; no weights, no logs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from steering.condition import resolve_condition, resolve_model
from steering.errors import SteeringError, no_such_option
from steering.files import write_whole
from steering.models import Shape, find_model, read_shape
from steering.spec import INTERVENTION, InterventionOptions, parse_options
from steering.targets import SUBJECTS
from steering.vocabulary import FACTORS, Factor

FILE = "study.yaml"
DEFAULT_TARGET = str(InterventionOptions.model_fields["target"].default)
_MOST_LAYERS = 8


class StudyError(SteeringError):
    """A study can't be run, or its logs are not those of its points."""


@dataclass(frozen=True)
class Point:
    """One condition of a study.

    Attributes:
        model: Name of the model, without `steered/`.
        options: As -M takes them.
        label: The condition's, as logs and tables have it.
    """

    model: str
    options: Mapping[str, Any]
    label: str

    @property
    def name(self) -> str:
        """As a log names it."""
        return f"steered/{self.model}[{self.label}]"


@dataclass(frozen=True)
class Axis:
    """What a grid varies.

    Attributes:
        option: The -M option that varies; "model" where models do.
        values: Its default values, from the shape of the models and whether they are toys.
    """

    option: str
    values: Callable[[Shape, bool], Sequence[Any]] = lambda shape, toy: ()


def _spread_layers(shape: Shape, toy: bool) -> Sequence[int]:
    count = min(shape.num_layers, _MOST_LAYERS)
    return sorted({round((i + 0.5) * shape.num_layers / count - 0.5) for i in range(count)})


def _targets(shape: Shape, toy: bool) -> Sequence[str]:
    # Of the six, these four are questions of the toy's world.
    return ["code", "finance", "medical", "sports"] if toy else sorted(SUBJECTS)


# By factor; the study `finetuned` has two arms and is no grid.
GRIDS: dict[str, Axis] = {
    "magnitude": Axis("magnitude", lambda shape, toy: (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)),
    "rank": Axis("rank", lambda shape, toy: (1, 2, 4, 8)),
    "epochs": Axis("training_epochs", lambda shape, toy: (1, 2, 3, 4, 5)),
    "layer": Axis("layer", _spread_layers),
    "target": Axis("target", _targets),
    "family": Axis("model"),
    "scale": Axis("model"),
}
# What the two studies of models compare when nobody says: the toys, which every machine has.
_TOYS = {
    "family": ["toy", "toy-llama", "toy-gemma3"],
    "scale": ["toy-small", "toy", "toy-large"],
}


class Study(BaseModel):
    """A grid of conditions and what they are asked; every field may stand in a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: Factor
    models: tuple[str, ...]
    axes: dict[str, tuple[Any, ...]]
    options: dict[str, Any] = {}
    # Of the study `rank`: projections on the first so many principal directions of the vectors of
    # these target tasks.
    top: tuple[int, ...] = ()
    top_of: tuple[str, ...] = ()
    task: dict[str, Any] = {}
    grader: str | None = None
    seed: int = 0

    def fields(self) -> dict[str, Any]:
        """As a study file has them."""
        return self.model_dump(mode="json")

    @field_validator("axes", mode="before")
    @classmethod
    def _lists(cls, axes: Any) -> Any:
        if isinstance(axes, Mapping):
            return {k: v if isinstance(v, list | tuple) else [v] for k, v in axes.items()}
        return axes

    @model_validator(mode="after")
    def _sound(self) -> "Study":
        if self.factor not in GRIDS:
            raise ValueError(f"factor {self.factor} is unknown: allowed are {', '.join(GRIDS)}")
        if not self.models:
            raise ValueError("models is empty: name one or more")
        for name, values in self.axes.items():
            if name not in INTERVENTION or name == "vector":
                allowed = [option for option in INTERVENTION if option != "vector"]
                raise ValueError(no_such_option(name, allowed, "to vary"))
            if not values:
                raise ValueError(f"axis {name} is empty: give it one value or more")
            if len(set(map(str, values))) < len(values):
                raise ValueError(f"axis {name} has a value twice ({list(values)})")
            if name in self.options:
                raise ValueError(f"{name} is an axis and is fixed as an option too: choose one")
        if self.top and self.factor != "rank":
            raise ValueError(f"top is of the study rank and not of {self.factor}: leave it out")
        if any(not 1 <= k <= len(self.top_of) for k in self.top):
            raise ValueError(
                f"top {list(self.top)} must lie from 1 to {len(self.top_of)}, the number of target "
                "tasks in top_of"
            )
        return self


def make_study(factor: str, **given: Any) -> Study:
    """A study with its defaults filled in: the resolved form.

    Args:
        factor: What varies.
        **given: Fields of `Study`; those that are None or missing take the factor's defaults.

    Raises:
        StudyError: A field is impossible, or there is no such factor.
        ModelError: There is no such model.
    """
    if factor not in GRIDS:
        raise StudyError(f"factor {factor} is unknown: allowed are {', '.join(GRIDS)}")
    fields = {name: value for name, value in given.items() if value is not None}
    fields["models"] = tuple(fields.get("models") or _TOYS.get(factor, ["toy"]))
    sources = [find_model(name) for name in fields["models"]]
    toy = all(source.is_toy for source in sources)
    own, shape = GRIDS[factor], read_shape(sources[0])
    if own.option != "model":
        axes = dict(fields.get("axes") or {})
        axes.setdefault(own.option, own.values(shape, toy))
        fields["axes"] = axes
    elif len(sources) < 2:
        raise StudyError(
            f"the study {factor} compares models and got {len(sources)}: give several as "
            "--model first,second"
        )
    fields.setdefault("axes", {})
    if factor == "rank":
        named = str(dict(fields.get("options") or {}).get("target", DEFAULT_TARGET))
        of = fields.setdefault("top_of", tuple(dict.fromkeys([named, *_targets(shape, toy)])))
        fields.setdefault("top", tuple(k for k in (1, 2, 4, len(of)) if k <= len(of)))
        fields["top"] = tuple(dict.fromkeys(fields["top"]))
    try:
        return Study.model_validate({"factor": factor, **fields})
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"]))
        said = found["msg"].removeprefix("Value error, ")
        raise StudyError(f"{place}: {said}" if place else said) from None


def read_study(path: Path) -> Study:
    """A grid from a file.

    Raises:
        StudyError: The file can't be read, or says something impossible.
    """
    fields = read_fields(path)
    unknown = sorted(set(fields) - set(Study.model_fields))
    if unknown:
        raise StudyError(
            f"{path}: {unknown[0]} is unknown: allowed are {', '.join(Study.model_fields)}"
        )
    return make_study(**fields)


def read_fields(path: Path) -> dict[str, Any]:
    """What a study file says, of a grid or of the study `finetuned`; `factor` is among it.

    Raises:
        StudyError: It can't be read, or names no factor.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        fields = {str(name): value for name, value in content.items()}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        fields = {"factor": " ".join(str(error).split())[:200]}
    if fields.get("factor") not in FACTORS:
        raise StudyError(
            f"{path} is no study file ({fields.get('factor')}): it is YAML with factor: one of "
            f"{', '.join(FACTORS)}"
        )
    return fields


def keep_study(fields: Mapping[str, Any], folder: Path) -> None:
    """Write a resolved study beside its logs.

    Args:
        fields: As a study file has them.
        folder: The study's own.

    Raises:
        StudyError: The folder holds another study: other questions, another judge or seed.
    """
    path = folder / FILE
    if path.exists():
        before = read_fields(path)
        for name in ("factor", "task", "grader", "seed"):
            old, new = before.get(name), fields.get(name)
            if old != new:
                raise StudyError(
                    f"{folder} holds a study with {name} {old}, and this one has {new}: give it a "
                    "folder of its own as --log-dir"
                )
    write_whole(path, yaml.safe_dump(dict(fields), sort_keys=False).encode())


def grid_points(study: Study) -> list[Point]:
    """The conditions of a study, each checked as far as it can be without weights.

    Those of `top` are not among them: their vectors are built first.

    Raises:
        SteeringError: A condition is impossible, or two would have one label.
    """
    points: list[Point] = []
    for model in study.models:
        points += [make_point(model, options) for options in _options(study)]
    labels = [point.name for point in points]
    if twice := sorted({name for name in labels if labels.count(name) > 1}):
        raise StudyError(f"two conditions are both {twice[0]}: take one value of an axis out")
    return points


def make_point(model: str, options: Mapping[str, Any]) -> Point:
    """A condition by its options.

    Raises:
        SteeringError: It is impossible.
    """
    spec = parse_options(options)
    return Point(model, options, resolve_condition(resolve_model(model, spec), spec).label)


def _options(study: Study) -> list[dict[str, Any]]:
    """Options of each condition, the baseline's first."""
    loading = {k: v for k, v in study.options.items() if k not in INTERVENTION}
    names = list(study.axes)
    crossed = [dict(zip(names, values, strict=True)) for values in product(*study.axes.values())]
    return [loading | {"vector": "none"}, *(dict(study.options) | chosen for chosen in crossed)]
