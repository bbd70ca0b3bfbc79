"""Commands that read and write steering vectors."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from steering.vectors import SteeringVector

_MOST_LAYERS = 8
"""Layers that are shown one by one."""
_MOST_VALUES = 8
"""Values of a list in the provenance that are shown one by one."""
_LONGEST = 240
"""Characters of a text in the provenance that are shown."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the file's header as JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show a steering vector: what it is, how strong it is, and how it was built.

    FILE may be in any known format.
    """
    from steering.files import file_digest
    from steering.vectors.formats import read_vector

    vector, digest = read_vector(file), file_digest(file)
    if as_json:
        click.echo(json.dumps(vector.header() | {"sha256": digest}, indent=2))
        return
    lines = [*_facts(vector), *_strengths(vector), *_provenance(vector), ("digest", digest)]
    column = max(len(name) for name, _ in lines) + 2
    for name, text in lines:
        click.echo(f"{name:{column}}{text}".rstrip())


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--layer", type=int, help="Keep this layer only.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def convert(source: Path, destination: Path, layer: int | None, force: bool) -> None:
    """Write a steering vector in another format.

    IN may be in any known format; the suffix of OUT determines the format of OUT.
    """
    from steering.vectors import VectorError
    from steering.vectors.formats import notes_on, read_vector, write_vector

    if destination.exists() and not force:
        raise VectorError(f"{destination} exists: give another name, or --force")
    vector = read_vector(source)
    if layer is not None:
        vector = vector.at(layer)
    for note in (*notes_on(vector), *write_vector(vector, destination)):
        click.echo(f"Note: {_printable(note)}", err=True)
    if vector.residual_norms is None:
        click.echo(
            f"Note: {source} has no residual norms: unit=residual can't be used with the vector",
            err=True,
        )
    click.echo(f"{destination}: layer {_layers(vector)}, {vector.site}, {_form(vector)}")


def _facts(vector: "SteeringVector") -> Iterator[tuple[str, str]]:
    """Model, shape, and method of building."""
    from steering.vocabulary import SITES

    provenance = vector.provenance
    yield "model", _text(vector.model) or "unknown"
    yield "depth", "unknown" if vector.depth is None else f"{vector.depth} blocks"
    yield "width", str(vector.width)
    yield "layers", _layers(vector)
    yield "site", f"{vector.site}: {SITES[vector.site]}"
    yield "form", _form(vector)
    if "method" in provenance:
        settings = provenance.get("settings")
        values = dict(_flat(settings)) if isinstance(settings, Mapping) else {}
        text = ", ".join(f"{name}={value}" for name, value in values.items())
        yield "method", f"{_text(provenance['method'])}" + (f" ({text})" if text else "")
    if "target" in provenance:
        yield "target", _text(provenance["target"])
    epoch = _measured(vector).get("training_epoch")
    if epoch is not None:
        yield "training epoch", _text(epoch)


def _strengths(vector: "SteeringVector") -> Iterator[tuple[str, str]]:
    """How far magnitude 1 moves the activations: a line for each layer."""
    norms = vector.residual_norms or (None,) * len(vector.layers)
    rows = list(zip(vector.layers, vector.lengths, norms, strict=True))
    # The same number from either end.
    half = _MOST_LAYERS // 2
    hidden = len(rows) - _MOST_LAYERS
    if hidden > 0:
        rows = rows[:half] + rows[-half:]
    column = max(len(_number(length)) for _, length, _ in rows)
    for index, (layer, length, norm) in enumerate(rows):
        if hidden > 0 and index == half:
            yield "", f"... {hidden} more layers"
        text = f"length {_number(length):{column}}"
        if norm is None:
            text += "  residual norm unknown"
        else:
            text += (
                f"  residual norm {_number(norm)}: moves the residual stream by "
                f"{100 * length / norm:.3g}% of its length"
            )
        yield f"layer {layer}", text


def _provenance(vector: "SteeringVector") -> Iterator[tuple[str, str]]:
    """The rest of the provenance."""
    facts = {
        name: value
        for name, value in vector.provenance.items()
        if name not in ("method", "target", "measured")
        and not (name == "settings" and "method" in vector.provenance)
    }
    rest = {
        name: value for name, value in _measured(vector).items() if name != "training_epoch"
    } or vector.provenance.get("measured")
    lines = list(_flat(facts | ({"measured": rest} if rest else {})))
    yield "provenance", "" if lines else "unknown"
    for name, value in lines:
        yield f"  {name}", value


def _measured(vector: "SteeringVector") -> dict[str, Any]:
    measured = vector.provenance.get("measured")
    return dict(measured) if isinstance(measured, Mapping) else {}


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of each value; names of nested ones are joined by dots."""
    for name, value in values.items():
        path = f"{above}{_printable(str(name))}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}.")
        elif value not in (None, "", {}, []):
            yield path, _text(value)


def _text(value: Any) -> str:
    """A value from a file as text that is safe to print."""
    if isinstance(value, (list, tuple)):
        shown = [_text(item) for item in value]
        if len(shown) > _MOST_VALUES:
            half = _MOST_VALUES // 2
            shown = [*shown[:half], f"... {len(value) - 2 * half} more ...", *shown[-half:]]
        return ", ".join(shown)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    text = _printable(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _printable(text: str) -> str:
    """Escape line breaks and terminal control codes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _number(value: float) -> str:
    return f"{value:.4g}"


def _layers(vector: "SteeringVector") -> str:
    """The layers, with runs joined: 0-3, 7."""
    runs: list[list[int]] = []
    for layer in vector.layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1][1:] = [layer]
        else:
            runs.append([layer])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _form(vector: "SteeringVector") -> str:
    if vector.map is not None:
        return f"low-rank map of rank {vector.rank}"
    return "direction" if vector.rank == 1 else f"{vector.rank} directions (rank {vector.rank})"
