"""Commands that read and write steering vectors."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import click

from steering.cli._options import loading_options, say
from steering.errors import write_errors_as_ours
from steering.files import write_whole
from steering.vocabulary import Convention, Operation, Site


@click.command()
@click.argument("name", metavar="VECTOR|MODEL")
@click.option(
    "--json", "out_json", metavar="FILE", help="write the same as JSON, too; - prints it alone"
)
def show(name: str, out_json: str | None) -> None:
    """Show a steering vector, or what a vector for a model must fit.

    Of a VECTOR, a file in any known format, it shows what it is, how strong it is, and how it was
    built. Of a MODEL (toy, an alias, a hub id, a local folder or GGUF file) it shows the width,
    layers, context length and dtype from its config; no weights are loaded.
    """
    from steering.models import is_model

    facts, lines = (_model_facts if is_model(name) else _vector_facts)(name)
    text = json.dumps(facts, indent=2)
    if out_json == "-":
        say(text)
        return
    if out_json is not None:
        with write_errors_as_ours(out_json):
            write_whole(Path(out_json), f"{text}\n".encode())
    column = max(len(name) for name, _ in lines) + 2
    for name, text in lines:
        say(f"{name:{column}}{text}".rstrip())
    if out_json is not None:
        say(f"written: {out_json}")


def _vector_facts(file: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The header of a vector, and what is shown of it."""
    from steering.vectors.describe import describe_vector
    from steering.vectors.formats import read_vector, vector_digest

    vector, digest = read_vector(file, "all"), vector_digest(Path(file))
    return vector.header() | {"sha256": digest}, [*describe_vector(vector), ("digest", digest)]


def _model_facts(name: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What a model's config says, and how it is shown."""
    from steering.models import find_model, read_shape

    source = find_model(name)
    shape = read_shape(source)
    facts = {"model": name, "location": source.location, **asdict(shape)}
    context = shape.context_length
    lines = [
        ("model", name),
        ("location", source.location),
        ("family", shape.family),
        ("width", str(shape.width)),
        ("layers", f"{shape.num_layers} (0-{shape.num_layers - 1})"),
        ("context length", "not in its config" if context is None else f"{context} tokens"),
        ("dtype", shape.dtype or "not in its config"),
    ]
    return facts, lines


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--layer",
    help="layers to keep: 16, or 12,16, or all; where a direction acts that has no block beside it",
)
@click.option(
    "--site", type=click.Choice(get_args(Site)), help="where in the block, if IN leaves it open"
)
@click.option(
    "--convention",
    type=click.Choice(get_args(Convention)),
    help="what the rows of a tensor [rows, width] are",
)
@click.option(
    "--operation",
    type=click.Choice(get_args(Operation)),
    help="what IN is meant for, if it says so in no known word",
)
@click.option(
    "--model",
    help="the model that IN is for: checks that it fits, and measures what unit=residual needs",
)
@click.option("--anyway", is_flag=True, help="take a vector that names another model than --model")
@click.option("--force", is_flag=True, help="replace OUT if it exists")
@loading_options
def convert(
    source: Path,
    destination: Path,
    layer: str | None,
    force: bool,
    loading: dict[str, Any],
    **statement: Any,
) -> None:
    """Import a steering vector of another tool, or write one in another format.

    IN may be in any known format; the suffix of OUT determines the format of OUT.
    """
    from steering.api.vectors import read_vector
    from steering.vectors import VectorError
    from steering.vectors.describe import form_text, layers_text
    from steering.vectors.formats import notes_on, read_layers, write_vector

    if destination.exists() and not force:
        raise VectorError(f"{destination} exists: give another name, or --force")
    layers = None if layer is None else read_layers(layer)
    vector = read_vector(source, layers, **statement, **loading)
    notes = [*notes_on(vector), *write_vector(vector, destination)]
    if vector.residual_norms is None:
        notes.append(
            f"{source} has no residual norms, which unit=residual needs: --model NAME measures them"
        )
    operation = vector.provenance.get("operation", "add")
    if operation != "add":
        notes.append(f"it is meant for operation={operation}: steer with -M operation={operation}")
    for note in notes:
        say(f"Note: {note}", err=True)
    say(f"{destination}: layer {layers_text(vector)}, {vector.site}, {form_text(vector)}")
