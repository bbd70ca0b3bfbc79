"""The vectors of the study `rank` that no option builds: one vector projected on the first
principal directions of several.

The several are the default vectors of different target tasks: what they share has to do with none
of their subjects. Files stand in the study's folder, with the spectrum of the set beside them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.condition import VectorRecipe, open_engine, resolve_condition, resolve_model
from steering.files import write_whole
from steering.spec import BUILDING, parse_options
from steering.studies.grid import Point, Study, StudyError, make_point
from steering.training.cache import cached_vector, vector_path

if TYPE_CHECKING:
    from steering.vectors import SteeringVector

SPECTRUM = "spectrum.json"


def projected_points(
    study: Study, folder: Path, progress: Callable[[str], Any] | None
) -> tuple[list[Point], int]:
    """Build the set of vectors that `study.top` speaks of, and say what its conditions are.

    Args:
        study: Other axes than the rank are not crossed with `top`.
        folder: Where vectors go, a folder for each model.
        progress: Given a caption, makes the bar that building is told to; None to build nothing.

    Returns:
        The conditions, and how many more there would be if vectors were built.

    Raises:
        SteeringError: An option is impossible, or the vectors span fewer directions.
    """
    points: list[Point] = []
    missing = 0
    for model in study.models if study.top else ():
        made = _of_targets(study, model, progress)
        if not made:
            missing += len(study.top)
            continue
        own = folder / model.replace("/", "--")
        points += [
            make_point(model, _applied(study) | {"vector": str(path)})
            for path in _write(made, study.top, own)
        ]
    return points, missing


def read_spectrum(logs: Path) -> list[float]:
    """Singular values of the set of vectors of a study below a folder; none where there is none."""
    found = sorted(logs.rglob(SPECTRUM))
    return json.loads(found[0].read_text())["singular_values"] if found else []


def _of_targets(
    study: Study, model: str, progress: Callable[[str], Any] | None
) -> "dict[str, SteeringVector]":
    """The default vectors by target, from the cache or built now; none if one may not be."""
    from steering.vectors import SteeringVector

    made = {}
    for target in study.top_of:
        spec = parse_options(dict(study.options) | {"target": target})
        condition = resolve_condition(resolve_model(model, spec), spec)
        [source] = condition.vectors
        if not isinstance(source, VectorRecipe):
            raise StudyError(
                "top projects default vectors of several target tasks, and -M vector= names a "
                "file: leave one of them out"
            )
        path = vector_path(source.recipe)
        if path.exists():
            made[target] = SteeringVector.load(path)
        elif progress is None:
            return {}
        else:
            engine = open_engine(condition.model, spec)
            bar = progress(f"{source.recipe.target} vector of {model}")
            made[target] = cached_vector(engine, source.recipe, source.target, bar).result()
    return made


def _applied(study: Study) -> dict[str, Any]:
    """The study's options that hold for a vector from a file."""
    return {name: value for name, value in study.options.items() if name not in BUILDING}


def _write(vectors: "dict[str, SteeringVector]", top: Sequence[int], folder: Path) -> list[Path]:
    """The first vector's projections on so many directions of all, written once."""
    from steering.vectors.subspace import principal, project, spectrum, stack

    rows = stack(vectors)
    # The one that the study is about comes first.
    first = next(iter(vectors.values()))
    values = spectrum(rows).values.tolist()
    write_whole(folder / SPECTRUM, json.dumps({"singular_values": values}).encode())
    paths = []
    for k in top:
        path = folder / f"{first.provenance['target']}-top{k}.safetensors"
        project(first, principal(rows, k)).save(path)
        paths.append(path)
    return paths
