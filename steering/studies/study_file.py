"""Studies from options and from files, and the file beside a study's logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from steering.errors import SteeringError, machine_errors_as_ours
from steering.files import write_whole
from steering.foreign import parse_yaml, read_text
from steering.models import ModelSource, find_model, read_shape
from steering.spec import DEFAULT, InterventionOptions
from steering.studies.arms_study import TOY_DOSES, ArmsStudy
from steering.studies.errors import StudyError
from steering.studies.finetuned import FinetunedStudy
from steering.studies.grid import (
    BUILD_SEEDS,
    FACTORS,
    GridStudy,
    Study,
    StudyFactor,
    default_targets,
)
from steering.training.construction import CONSTRUCTION_METHODS, default_method

FILE = "study.yaml"
# Fields from which defaults are worked out; the others are left to the study's own checks.
_OF_DEFAULTS = {"models", "options", "axes", "top", "top_of"}
_DEFAULT_TARGET = str(InterventionOptions.model_fields["target"].default)
# Another value of one of these makes another study, which needs a folder of its own.
_OF_ARMS: dict[str, type[Study]] = {"finetuned": FinetunedStudy, "arms": ArmsStudy}
_FIXED = ("factor", "tasks", "task", "grader", "seed", "limit")


def make_study(factor: str, model: str | Sequence[str] | None = None, **fields: Any) -> Study:
    """A study with its defaults filled in.

    Without a model it is of the factor's own, which are toys. `fields` are those of `GridStudy`,
    `FinetunedStudy` or `ArmsStudy`; None stands for the default.

    Raises:
        StudyError: A field is unknown or impossible, or there is no such factor.
        ModelError: There is no such model.
    """
    if factor not in FACTORS:
        raise StudyError(f"factor {factor} is unknown: allowed are {', '.join(FACTORS)}")
    fields = {name: value for name, value in fields.items() if value is not None}
    kind: type[Study] = _OF_ARMS.get(factor, GridStudy)
    if model is not None:
        _check_types(GridStudy, {"models": [model] if isinstance(model, str) else model})
    models = (model,) if isinstance(model, str) else tuple(model or ())
    if kind is not GridStudy:
        if len(models) > 1:
            raise StudyError(f"the study {factor} takes one model and got {', '.join(models)}")
        fields |= {"model": models[0]} if models else {}
    else:
        fields["models"] = models or fields.get("models") or FACTORS[factor].models
    if unknown := sorted(set(fields) - set(kind.model_fields)):
        raise StudyError(f"{unknown[0]} is unknown: allowed are {', '.join(kind.model_fields)}")
    _check_types(kind, fields)
    if kind is GridStudy:
        fields["models"] = tuple(fields["models"])
    fields["options"] = dict(fields.get("options") or {})
    # A name of a model may be no name of a file.
    with machine_errors_as_ours():
        gguf_file = fields["options"].get("gguf_file")
        names = fields.get("models") or models or FACTORS[factor].models
        sources = [find_model(name, gguf_file=gguf_file) for name in names]
        _choose_method(FACTORS[factor], fields, sources)
        if kind is GridStudy:
            _fill_grid(factor, fields, sources)
        elif kind is ArmsStudy and sources[0].is_toy:
            for name, values in TOY_DOSES.items():
                fields.setdefault(name, values)
    try:
        return kind.model_validate({"factor": factor, **fields})
    except ValidationError as error:
        raise StudyError(_first_problem(error)) from None


def _check_types(kind: type[Study], fields: Mapping[str, Any]) -> None:
    """Refuse fields of wrong types before defaults are worked out from them."""
    for name in _OF_DEFAULTS & fields.keys():
        value = fields[name]
        annotation: Any = Mapping if name == "axes" else kind.model_fields[name].annotation
        try:
            TypeAdapter(annotation).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise StudyError(f"{name} {value!r}: {message}") from None


def _choose_method(
    factor: StudyFactor, fields: dict[str, Any], sources: Sequence[ModelSource]
) -> None:
    """Name the method of vectors that the models' default one can't build for this factor."""
    options, axes = fields["options"], fields.get("axes") or {}
    builds = set(axes.get("vector", [options.get("vector", DEFAULT)])) == {DEFAULT}
    is_named = "method" in options or "method" in axes
    if factor.method and builds and not is_named and not all(each.is_toy for each in sources):
        options["method"] = factor.method


def _fill_grid(factor: str, fields: dict[str, Any], sources: Sequence[ModelSource]) -> None:
    """Fill in the values that depend on the models."""
    entry = FACTORS[factor]
    toy = all(source.is_toy for source in sources)
    shape = read_shape(sources[0])
    axes = fields["axes"] = dict(fields.get("axes") or {})
    if not entry.compares_models:
        axes.setdefault(entry.option, entry.values(shape, toy))
    elif len(sources) < 2:
        raise StudyError(
            f"the study {factor} compares models and got {len(sources)}: give several as "
            "--model first,second"
        )
    if _may_vary_seed(axes, fields["options"], toy=toy):
        axes.setdefault("build_seed", BUILD_SEEDS)
    if factor == "rank":
        target = str(fields["options"].get("target", _DEFAULT_TARGET))
        targets = [target, *default_targets(shape, toy)]
        of = fields.setdefault("top_of", tuple(dict.fromkeys(targets)))
        tops = fields.setdefault("top", tuple(k for k in (1, 2, 4, len(of)) if k <= len(of)))
        fields["top"] = tuple(dict.fromkeys(tops))


def _may_vary_seed(axes: Mapping[str, Any], options: Mapping[str, Any], *, toy: bool) -> bool:
    """Whether vectors are built, with chance, and no seed is given."""
    fixed, varied = {"vector", "build_seed"} & options.keys(), {"vector", "method"} & axes.keys()
    if fixed or varied:
        return False
    method = CONSTRUCTION_METHODS.get(str(options.get("method", default_method(toy=toy))))
    return method is not None and method.is_seeded


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place} {problem['input']!r}: {message}" if place else message


def read_study(path: Path) -> Study:
    """A study from a file: the study.yaml beside a study's logs, or one like it.

    Raises:
        StudyError: The file can't be read, or says something impossible.
    """
    fields = _read_fields(path)
    try:
        return make_study(**fields)
    except SteeringError as error:
        raise StudyError(f"{path}: {error}") from None


def _read_fields(path: Path) -> dict[str, Any]:
    remedy = f"write YAML with factor: one of {', '.join(FACTORS)}"
    try:
        content = parse_yaml(read_text(path, "study"), path, "study")
    except SteeringError as error:
        raise StudyError(f"{path} is not a study file ({error}): {remedy}") from None
    fields = content if isinstance(content, dict) else {"factor": content}
    factor = fields.get("factor")
    if not isinstance(factor, str) or factor not in FACTORS:
        raise StudyError(f"{path} is not a study file ({factor!r}): {remedy}")
    return {str(name): value for name, value in fields.items()}


def keep_study(study: Study, folder: Path) -> None:
    """Write a study into the folder of its logs.

    Raises:
        StudyError: The folder holds another study: other questions, another judge or seed.
    """
    path, fields = folder / FILE, study.fields()
    if path.exists():
        before = _read_fields(path)
        for name in _FIXED:
            old, new = before.get(name), fields.get(name)
            if old != new:
                raise StudyError(
                    f"{folder} holds a study with {name} {old}, and this one has {new}: give it a "
                    "folder of its own as --log-dir"
                )
    write_whole(path, yaml.safe_dump(fields, sort_keys=False).encode())
