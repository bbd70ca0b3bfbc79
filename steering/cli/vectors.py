"""Commands that read and write steering vectors."""

import json
from pathlib import Path
from typing import Any, get_args

import click

from steering.cli._options import loading_options, say
from steering.errors import write_errors_as_ours
from steering.files import write_whole
from steering.vocabulary import Convention, Operation, Site


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--json", "out_json", metavar="FILE", help="write the header as JSON, too; - prints it alone"
)
def show(file: Path, out_json: str | None) -> None:
    """Show a steering vector: what it is, how strong it is, and how it was built.

    FILE may be in any known format.
    """
    from steering.vectors.describe import describe_vector
    from steering.vectors.formats import read_vector, vector_digest

    vector, digest = read_vector(file, "all"), vector_digest(file)
    header = json.dumps(vector.header() | {"sha256": digest}, indent=2)
    if out_json == "-":
        say(header)
        return
    if out_json is not None:
        with write_errors_as_ours(out_json):
            write_whole(Path(out_json), f"{header}\n".encode())
    lines = [*describe_vector(vector), ("digest", digest)]
    column = max(len(name) for name, _ in lines) + 2
    for name, text in lines:
        say(f"{name:{column}}{text}".rstrip())
    if out_json is not None:
        say(f"written: {out_json}")


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
