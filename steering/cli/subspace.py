"""The command that shows the low-rank structure of a set of vectors."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steering.cli._options import json_option, name_files, say, write_json

if TYPE_CHECKING:
    from steering.vectors import SteeringVector
    from steering.vectors.subspace import Basis


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    help="How many principal directions; by default as many as hold 90% of the energy.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for each vector's projection on the top directions, and for their basis.",
)
@click.option("--basis-only", is_flag=True, help="Write the basis and no projections.")
@click.option(
    "--raw", is_flag=True, help="Leave vectors as long as they are: long ones weigh more."
)
@json_option
def subspace(
    files: tuple[Path, ...],
    top: int | None,
    out: Path | None,
    out_json: str | None,
    *,
    basis_only: bool,
    raw: bool,
) -> None:
    """Show how many directions the steering vectors in FILES span, and how alike they are.

    With --out, writes topK.safetensors, the basis of the top K directions as one vector of rank K
    (operation=ablate takes the whole subspace out), and NAME-topK.safetensors for each vector.
    """
    from steering.results.document import Document
    from steering.vectors import VectorError
    from steering.vectors.describe import describe_subspace, subspace_tables
    from steering.vectors.formats import read_vector, vector_digest, write_vector
    from steering.vectors.subspace import principal, spectrum, stack

    if basis_only and out is None:
        raise VectorError("--basis-only has no effect without --out: give --out too")
    paths = name_files(files)
    rows = stack(
        {name: read_vector(path, "all") for name, path in paths.items()},
        {name: vector_digest(path) for name, path in paths.items()},
    )
    energies = spectrum(rows, not raw)
    # Before anything is printed, so that an error stands alone.
    basis = principal(rows, top or energies.needed(0.9), not raw)
    vectors = {} if out is None else _outputs(basis, out, basis_only=basis_only)
    if out_json != "-":
        for line in describe_subspace(energies, basis):
            say(line)
    for path, vector in vectors.items():
        write_vector(vector, path)
        say(f"written: {path}", err=out_json == "-")
    write_json(Document("subspace", tables=subspace_tables(energies, basis)), out_json)


def _outputs(basis: "Basis", out: Path, *, basis_only: bool) -> "dict[Path, SteeringVector]":
    """The vectors to write, by path; no file is replaced."""
    from steering.vectors import VectorError
    from steering.vectors.subspace import truncate

    k = basis.rank
    vectors = [(out / f"top{k}.safetensors", basis.vector())]
    if not basis_only:
        # A name that includes its folder is still the name of one file.
        vectors += [
            (out / f"{name.replace('/', '-')}-top{k}.safetensors", vector)
            for name, vector in truncate(basis).items()
        ]
    if out.exists() and not out.is_dir():
        raise VectorError(f"--out {out} is a file: give a folder")
    for path, count in Counter(path for path, _ in vectors).items():
        if count > 1:
            raise VectorError(f"{count} vectors would be written to {path}: rename their files")
        if path.exists():
            raise VectorError(f"{path} exists: give another --out, or remove it")
    return dict(vectors)
