"""Steering vectors and sets of them as text for a terminal."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from steering.errors import printable
from steering.vectors.steering_vector import SteeringVector
from steering.vectors.subspace import Basis, Spectrum, Stack, cosines, kept_energy
from steering.vocabulary import SITES

# Layers, or values of a list in the provenance, that are shown one by one.
_MOST = 8
# Characters of a text in the provenance that are shown.
_LONGEST = 240
# Directions whose cosines, or whose energies, are shown one by one.
_MOST_ROWS = 12


def describe_vector(vector: SteeringVector) -> Iterator[tuple[str, str]]:
    """Name and text of each line: model and shape, strength at each layer, provenance."""
    yield "model", _text(vector.model) or "unknown"
    yield "depth", "unknown" if vector.depth is None else f"{vector.depth} blocks"
    yield "width", str(vector.width)
    yield "layers", layers_text(vector)
    yield "site", f"{vector.site}: {SITES[vector.site]}"
    yield "form", form_text(vector)
    provenance = dict(vector.provenance)
    provenance["measured"] = provenance.pop("measured", None)  # the last lines
    facts = dict(_flat(provenance))
    if method := facts.pop("method", ""):
        settings = [name for name in facts if name.startswith("settings.")]
        text = ", ".join(f"{name.partition('.')[2]}={facts.pop(name)}" for name in settings)
        yield "method", f"{method} ({text})" if text else method
    for name, heading in (("target", "target"), ("measured.training_epoch", "training epoch")):
        if name in facts:
            yield heading, facts.pop(name)
    norms = vector.residual_norms or (None,) * len(vector.layers)
    strengths = [
        (f"layer {layer}", _strength(length, norm))
        for layer, length, norm in zip(vector.layers, vector.lengths, norms, strict=True)
    ]
    yield from _shortened(strengths, lambda hidden: ("", f"... {hidden} more layers"))
    yield "provenance", "" if facts else "unknown"
    for name, text in facts.items():
        yield f"  {name}", text


def _strength(length: float, norm: float | None) -> str:
    """How far magnitude 1 moves the activations."""
    if norm is None:
        return f"length {length:.4g}  residual norm unknown"
    return (
        f"length {length:.4g}  residual norm {norm:.4g}: moves the residual stream by "
        f"{100 * length / norm:.3g}% of its length"
    )


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of each value; names of nested ones are joined by dots."""
    for name, value in values.items():
        path = f"{above}{printable(str(name))}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        elif value not in (None, "", []):
            yield path, _text(value)


def _text(value: Any) -> str:
    """A value from a file as text that is safe to print."""
    if isinstance(value, list):
        items = [_text(item) for item in value]
        return ", ".join(_shortened(items, lambda hidden: f"... {hidden} more ..."))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _shortened(items: list[Any], more: Callable[[int], Any]) -> list[Any]:
    """The first and the last items of a long list, with `more` of the hidden ones between."""
    hidden, half = len(items) - _MOST, _MOST // 2
    return items if hidden <= 0 else [*items[:half], more(hidden), *items[-half:]]


def layers_text(vector: SteeringVector) -> str:
    """The layers, with runs joined: 0-3, 7."""
    pairs = groupby(enumerate(vector.layers), key=lambda pair: pair[1] - pair[0])
    runs = [[layer for _, layer in run] for _, run in pairs]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def choice_text(vector: SteeringVector) -> str:
    """The layers of a file with a candidate for each, of which several are steered; else ""."""
    if "chosen_layers" not in vector.provenance:
        return ""
    return layers_text(vector).replace(", ", ",")


def form_text(vector: SteeringVector) -> str:
    if vector.map is not None:
        return f"low-rank map of rank {vector.rank}"
    return "direction" if vector.rank == 1 else f"{vector.rank} directions (rank {vector.rank})"


def describe_subspace(energies: Spectrum, basis: Basis) -> Iterator[str]:
    rows, k = basis.stack, basis.rank
    scaled = "each scaled to length 1" if basis.normalise else "as long as they are stored"
    yield (
        f"{len(rows.rows)} direction(s) of {len(rows.vectors)} vector(s), width "
        f"{rows.rows.shape[1]}, {scaled}, uncentred"
    )
    yield from (f"Note: {note}" for note in _notes(rows))
    yield "\nPrincipal directions"
    table = pd.DataFrame(
        {
            "singular value": energies.values.tolist(),
            "energy": energies.shares.tolist(),
            "together": energies.cumulative.tolist(),
        },
        index=range(1, len(energies.values) + 1),
    )
    formatters = {
        "singular value": "{:.4g}".format,
        "energy": "{:.1%}".format,
        "together": "{:.1%}".format,
    }
    yield table.head(_MOST_ROWS).to_string(formatters=formatters)
    if len(table) > _MOST_ROWS:
        yield f"{len(table) - _MOST_ROWS} more hold {table['energy'][_MOST_ROWS:].sum():.1%}"
    yield f"90% of the energy in {energies.needed(0.9)}, 99% in {energies.needed(0.99)} directions"
    if len(rows.rows) > 1:
        yield from _cosines(rows)
    chance = min(k / rows.rows.shape[1], 1)
    yield f"\nEnergy of each vector within the top {k} (a random direction has {chance:.1%})"
    kept = {name: kept_energy(vector, basis) for name, vector in rows.vectors.items()}
    yield pd.Series(kept).to_string(float_format="{:.1%}".format)


def subspace_tables(energies: Spectrum, basis: Basis) -> dict[str, Sequence[Mapping[str, object]]]:
    """The same for other programs: rows of `subspace_directions` and `subspace_vectors`."""
    columns = (energies.values, energies.shares, energies.cumulative)
    directions = [
        {"direction": number, "singular_value": value, "energy": share, "together": together}
        for number, (value, share, together) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
    vectors = [
        {"vector": name, "kept": min(float(kept_energy(vector, basis)), 1.0), "top": basis.rank}
        for name, vector in basis.stack.vectors.items()
    ]
    return {"subspace_directions": directions, "subspace_vectors": vectors}


def _notes(rows: Stack) -> Iterator[str]:
    maps = sum(vector.map is not None for vector in rows.vectors.values())
    if maps:
        yield f"{maps} of the vectors are low-rank maps: only the directions that they write count"
    sites = sorted({vector.site for vector in rows.vectors.values()})
    if len(sites) > 1:
        yield f"the vectors are for several sites: {', '.join(sites)}"
    layers = sorted({layer for vector in rows.vectors.values() for layer in vector.layers})
    if len(layers) > 1:
        yield f"the vectors are for several layers: {', '.join(map(str, layers))}"


def _cosines(rows: Stack) -> Iterator[str]:
    """All pairs of a few rows as a table; the extremes and the median of many."""
    matrix = cosines(rows).numpy()
    count = len(matrix)
    if count <= _MOST_ROWS:
        names = [f"{number} {name}" for number, name in enumerate(rows.names, 1)]
        table = pd.DataFrame(matrix, names, range(1, count + 1))
        yield "\nCosines"
        yield table.to_string(float_format="{:z.2f}".format)
        return
    first, second = np.triu_indices(count, 1)
    pairs = matrix[first, second]
    yield f"\nCosines of {len(pairs)} pairs: median {np.median(pairs):z.2f}"
    for word, index in (("least", pairs.argmin()), ("most", pairs.argmax())):
        one, other = rows.names[first[index]], rows.names[second[index]]
        yield f"{word} alike: {one}, {other} ({pairs[index]:z.2f})"
