"""The vectors of the study `rank` that no option builds: one vector projected on the first
principal directions of several.

The several are the default vectors of different target tasks: what they share has to do with none
of their subjects. Files stand in the study's folder, with the spectrum of the set beside them.
"""

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steering.condition import VectorRecipe, open_engine, resolve_condition, resolve_model
from steering.files import write_whole
from steering.spec import BUILDING, parse_options
from steering.studies.errors import StudyError
from steering.studies.eval_sets import StudyCondition, make_condition
from steering.training.cache import cached_vector, read_cached

if TYPE_CHECKING:
    from steering.studies.grid import GridStudy
    from steering.vectors import SteeringVector

SPECTRUM = "spectrum.json"


def projected_conditions(
    study: "GridStudy", folder: Path, progress: Callable[[str], Any] | None
) -> tuple[list[StudyCondition], int]:
    """Build the set of vectors that `study.top` projects on, and say what its conditions are.

    Axes other than the rank and the build seed are not crossed with `top`. Vectors go into a folder
    for each model below `folder`, those of further build seeds into folders of their own in it.
    `progress` makes a progress bar from a caption; with None nothing is built.

    Returns:
        The conditions, and how many more there are once vectors are built.

    Raises:
        SteeringError: An option is impossible, or the vectors span fewer directions.
    """
    applied = {name: value for name, value in study.options.items() if name not in BUILDING}
    conditions: list[StudyCondition] = []
    num_missing = 0
    for model, seed in product(study.models, study.axes.get("build_seed", (None,))):
        built = {} if seed is None else {"build_seed": seed}
        vectors = _vectors_of_targets(study, model, built, progress)
        if not vectors:
            num_missing += len(study.top)
            continue
        place = folder / model.replace("/", "--")
        if seed is not None and seed != study.axes["build_seed"][0]:
            place /= f"seed{seed}"
        conditions += [
            make_condition(model, applied | {"vector": str(path)})
            for path in _write(vectors, study.top, place)
        ]
    return conditions, num_missing


def read_spectrum(logs: Path) -> list[float]:
    """Singular values of a study's set of vectors of the first build seed; none without any."""
    files = sorted(logs.rglob(SPECTRUM), key=lambda path: (len(path.parts), path))
    return json.loads(files[0].read_text())["singular_values"] if files else []


def _vectors_of_targets(
    study: "GridStudy",
    model: str,
    built: dict[str, Any],
    progress: Callable[[str], Any] | None,
) -> "dict[str, SteeringVector]":
    """The default vectors by target, from the cache or built now; none if one may not be built."""
    vectors: dict[str, SteeringVector] = {}
    for target in study.top_of:
        spec = parse_options(dict(study.options) | built | {"target": target})
        condition = resolve_condition(resolve_model(model, spec), spec)
        [source] = condition.vectors
        if not isinstance(source, VectorRecipe):
            raise StudyError(
                "top projects default vectors of several target tasks, and -M vector= names a "
                "file: leave one of them out"
            )
        vector = read_cached(source.recipe)
        if vector is not None:
            vectors[target] = vector
        elif progress is None:
            return {}
        else:
            engine = open_engine(condition.model, spec)
            bar = progress(f"{source.recipe.target} vector of {model}")
            vectors[target] = cached_vector(engine, source.recipe, source.target, bar).result()
    return vectors


def _write(vectors: "dict[str, SteeringVector]", top: Sequence[int], folder: Path) -> list[Path]:
    """The first vector's projections on so many directions of all."""
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
