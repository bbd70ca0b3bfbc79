"""Read steering vectors of any origin, and fit them to a model: what `steering convert` does.

A file or an object of Python in, a vector out. With a model, the vector is checked against it and
gets the residual norms of its layers, as a vector that is built there.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

from steering.condition import resolve_model
from steering.errors import SteeringError, no_such_option
from steering.files import cache_folder
from steering.spec import OPTIONS, InterventionOptions, parse_options
from steering.targets import load_target
from steering.vocabulary import RESIDUAL_NORM, Convention, Operation, Site

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from steering.condition import ResolvedModel
    from steering.vectors import SteeringVector

VectorLike: TypeAlias = Union[
    str, "os.PathLike[str]", "SteeringVector", "Tensor", "np.ndarray", Mapping[Any, Any]
]
"""A vector's file or folder, a vector, a tensor or array [width], or tensors by block."""

_LOADING = [option.name for option in OPTIONS.values() if option.flag]
# Whose answers give the norms, as those of a vector that is built by default.
_TARGET = str(InterventionOptions.OPTIONS["target"].default)


def read_vector(
    vector: VectorLike,
    layer: "int | Sequence[int] | Literal['all'] | None" = None,
    *,
    site: Site | None = None,
    convention: Convention | None = None,
    operation: Operation | None = None,
    model: str | None = None,
    anyway: bool = False,
    **loading: Any,
) -> "SteeringVector":
    """Read a steering vector, ours or another tool's, and fit it to a model if one is named.

    Args:
        vector: A file, a folder of refusal_direction, a tensor or array [width], or tensors by
            block; docs/how-to/vectors.md has the formats.
        layer: The block or blocks to take of several candidates, or `all`; where a single
            direction acts that has no block beside it.
        site: Where in the block, if the vector leaves it open; its output by default.
        convention: What the rows of a tensor [rows, width] are: `blocks`, `blocks+embedding` or
            `rank`.
        operation: What the vector is meant for, where its file says so in no known word.
        model: The model that it is for: it is checked against the vector, and loaded to measure
            the residual norms at its layers, which `unit="residual"` needs.
        anyway: Take a vector that names another model.
        **loading: How the model is loaded: dtype, device, revision, chat_template,
            use_chat_template, blocks.

    Raises:
        SteeringError: The vector can't be read, something that it leaves open is not said, or it
            does not fit the model.
    """
    from steering.vectors import formats

    for name in loading:
        if name not in _LOADING:
            raise SteeringError(no_such_option(name, _LOADING, "of reading a vector"))
        if model is None:
            raise SteeringError(f"{name}= has no effect without a model: leave it out or name one")
    spec = parse_options(loading)
    resolved = None if model is None else resolve_model(model, spec)
    depth = None if resolved is None else resolved.shape.num_layers
    statement = {"site": site, "convention": convention, "operation": operation, "depth": depth}
    read: Any = formats.read_vector if isinstance(vector, (str, os.PathLike)) else formats.vector_in
    result: SteeringVector = read(vector, layer, **statement)
    if isinstance(layer, int):
        result = result.at(layer)
    result = result.without_zeros()
    if resolved is None:
        return result
    _check_model(result, resolved, anyway=anyway)
    norms = _measure_norms(result, resolved, spec)
    facts = {"weights": resolved.weights, "norms": {"target": _TARGET, "kind": RESIDUAL_NORM}}
    if result.model not in ("", resolved.source.name):
        facts["original_model"] = result.model
    return replace(
        result,
        residual_norms=norms,
        model=resolved.source.name,
        depth=depth,
        provenance={**result.provenance, **facts},
    )


def vector_file(vector: Any, layer: Any = None) -> str:
    """The path of a vector's file; an object of Python is written into the cache first.

    Its folder is named by the digest of its content, so that the same vector has one file.

    Args:
        vector: As of `read_vector`, or a word of the option `vector`.
        layer: Where a tensor acts that has no block beside it.

    Raises:
        SteeringError: The object is no vector.
    """
    if isinstance(vector, (str, os.PathLike)):
        return os.fspath(vector)
    from steering.vectors.formats import vector_digest, vector_in

    result = vector_in(vector, layer if type(layer) is int else None)
    folder = cache_folder() / "vectors" / "objects"
    partial = folder / f"{os.getpid()}.safetensors"
    result.save(partial)
    # A label has the file's name with its digest.
    path = folder / vector_digest(partial)[:12] / "vector.safetensors"
    path.parent.mkdir(exist_ok=True)
    os.replace(partial, path)
    return str(path)


def with_vector_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which every vector is a word or the path of a file; see `vector_file`.

    Raises:
        SteeringError: An object is no vector.
    """
    if "vector" not in options:
        return dict(options)
    vector, layer = options["vector"], options.get("layer")
    if isinstance(vector, (list, tuple)):
        return {**options, "vector": [vector_file(each, layer) for each in vector]}
    return {**options, "vector": vector_file(vector, layer)}


def _check_model(vector: "SteeringVector", model: "ResolvedModel", *, anyway: bool) -> None:
    from steering.vectors import VectorError
    from steering.vectors.origin import other_model

    shape, source = model.shape, model.source
    vector.check_fits(width=shape.width, num_layers=shape.num_layers, model=source.name)
    names = (source.name, source.location)
    problem = other_model(vector, names, family=shape.family, weights=model.weights)
    if problem and not anyway:
        raise VectorError(
            f"the vector is not known to be of {source.name}: {problem}. Give that model, or "
            "--anyway (anyway=True) if it is meant for this one all the same"
        )


def _measure_norms(
    vector: "SteeringVector", model: "ResolvedModel", spec: Any
) -> tuple[float, ...]:
    """The residual norm at each layer, over the answers that a default vector is built from."""
    from steering.engines import shared_engine
    from steering.training.probe import NORM_EXAMPLES, ModelProbe

    target = load_target(_TARGET, toy=model.source.is_toy)
    engine = shared_engine(
        model.source, dtype=spec.dtype, device=spec.device, weights=model.weights
    )

    def measure(loaded: Any, session: Any) -> tuple[float, ...]:
        norms = []
        for layer in vector.layers:
            probe = ModelProbe(loaded, session, layer, vector.site)
            items = probe.tokenize_misaligned(target.examples)[:NORM_EXAMPLES]
            norms.append(probe.residual_norm(items))
        return tuple(norms)

    result: Collection[float] = engine.call(measure).result()
    return tuple(result)
