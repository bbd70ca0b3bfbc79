"""Commands that read and write steering vectors."""

import json
from pathlib import Path

import click

from steering.cli._options import say


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the file's header as JSON.")
def show(file: Path, as_json: bool) -> None:
    """Show a steering vector: what it is, how strong it is, and how it was built.

    FILE may be in any known format.
    """
    from steering.files import file_digest
    from steering.vectors.describe import describe_vector
    from steering.vectors.formats import read_vector

    vector, digest = read_vector(file, "all"), file_digest(file)
    if as_json:
        say(json.dumps(vector.header() | {"sha256": digest}, indent=2))
        return
    lines = [*describe_vector(vector), ("digest", digest)]
    column = max(len(name) for name, _ in lines) + 2
    for name, text in lines:
        say(f"{name:{column}}{text}".rstrip())


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--layer", help="Layers to keep: 16, or 12,16, or all. Files of others may need it.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def convert(source: Path, destination: Path, layer: str | None, force: bool) -> None:
    """Write a steering vector in another format.

    IN may be in any known format; the suffix of OUT determines the format of OUT.
    """
    from steering.vectors import VectorError
    from steering.vectors.describe import form_text, layers_text
    from steering.vectors.formats import notes_on, read_layers, read_vector, write_vector

    if destination.exists() and not force:
        raise VectorError(f"{destination} exists: give another name, or --force")
    layers = None if layer is None else read_layers(layer)
    vector = read_vector(source, layers)
    if isinstance(layers, int):
        vector = vector.at(layers)
    for note in (*notes_on(vector), *write_vector(vector, destination)):
        say(f"Note: {note}", err=True)
    if vector.residual_norms is None:
        say(
            f"Note: {source} has no residual norms: unit=residual can't be used with the vector",
            err=True,
        )
    say(f"{destination}: layer {layers_text(vector)}, {vector.site}, {form_text(vector)}")
