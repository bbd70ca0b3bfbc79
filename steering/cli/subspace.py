"""The command that shows the low-rank structure of a set of vectors."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steering.cli._options import name_files, vector_files

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from steering.vectors import SteeringVector
    from steering.vectors.subspace import Basis, Spectrum, Stack

_MOST_ROWS = 12
"""Directions whose cosines, or whose energies, are shown one by one."""
_DEFAULT_ENERGY = 0.9
"""Share of the energy that the top directions hold if --top does not say how many they are."""


@click.command()
@vector_files
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
def subspace(
    files: tuple[Path, ...], top: int | None, out: Path | None, basis_only: bool, raw: bool
) -> None:
    """Show how many directions the steering vectors in FILES span, and how alike they are.

    With --out, writes topK.safetensors, the basis of the top K directions as one vector of rank K
    (operation=ablate takes the whole subspace out), and NAME-topK.safetensors for each vector.
    """
    from steering.files import file_digest
    from steering.vectors import SteeringVector, VectorError
    from steering.vectors.subspace import principal, spectrum, stack

    if basis_only and out is None:
        raise VectorError("--basis-only has no effect without --out: give --out too")
    for path in files:
        if path.suffix.lower() != ".safetensors":
            raise VectorError(
                f"{path} is not a .safetensors file: convert it with `steering convert`"
            )
    paths = name_files(files)
    rows = stack(
        {name: SteeringVector.load(path) for name, path in paths.items()},
        {name: file_digest(path) for name, path in paths.items()},
    )
    energies = spectrum(rows, not raw)
    k = energies.needed(_DEFAULT_ENERGY) if top is None else top
    # Before anything is printed, so that an error stands alone.
    basis = principal(rows, k, not raw)
    vectors = {} if out is None else _output_vectors(basis, out, basis_only=basis_only)
    _print(energies, basis)
    for path, vector in vectors.items():
        try:
            vector.save(path)
        except OSError as error:
            raise VectorError(f"{path} can't be written ({error.strerror})") from None
        click.echo(f"written: {path}")


def _output_vectors(basis: "Basis", out: Path, *, basis_only: bool) -> "dict[Path, SteeringVector]":
    """The vectors to write, by path.

    Raises:
        VectorError: One of the files exists, or two have one name.
    """
    from steering.vectors import VectorError
    from steering.vectors.subspace import truncate

    k = basis.rank
    vectors = [(f"top{k}", basis.vector())]
    if not basis_only:
        # A name that includes its folder is still the name of one file.
        vectors += [
            (f"{name.replace('/', '-')}-top{k}", vector)
            for name, vector in truncate(basis.stack, k, basis.normalise).items()
        ]
    if out.exists() and not out.is_dir():
        raise VectorError(f"--out {out} is a file: give a folder")
    paths = [out / f"{name}.safetensors" for name, _ in vectors]
    for path, count in Counter(paths).items():
        if count > 1:
            raise VectorError(f"{count} vectors would be written to {path}: rename their files")
        if path.exists():
            raise VectorError(f"{path} exists: give another --out, or remove it")
    return {path: vector for path, (_, vector) in zip(paths, vectors, strict=True)}


def _print(energies: "Spectrum", basis: "Basis") -> None:
    from rich.console import Console
    from rich.text import Text

    from steering.vectors.subspace import kept_energy

    console, rows, k = Console(highlight=False, markup=False), basis.stack, basis.rank
    scaled = "each scaled to length 1" if basis.normalise else "as long as they are stored"
    console.print(
        f"{len(rows.rows)} direction(s) of {len(rows.vectors)} vector(s), width "
        f"{rows.rows.shape[1]}, {scaled}, uncentred"
    )
    for note in _notes(rows):
        console.print(f"Note: {note}", style="yellow")
    _print_table(console, "Principal directions", _spectrum_table(energies))
    console.print(
        f"90% of the energy in {energies.needed(0.9)}, 99% in {energies.needed(0.99)} directions"
    )
    _print_cosines(console, rows)
    table = _table("vector", f"top {k}")
    for name, vector in rows.vectors.items():
        table.add_row(Text(name), f"{kept_energy(vector, basis):.1%}")
    chance = min(k / rows.rows.shape[1], 1)
    _print_table(
        console,
        f"Energy of each vector within the top {k} (a random direction has {chance:.1%})",
        table,
    )


def _notes(rows: "Stack") -> Iterator[str]:
    maps = sum(vector.map is not None for vector in rows.vectors.values())
    if maps:
        yield f"{maps} of the vectors are low-rank maps: only the directions that they write count"
    sites = sorted({vector.site for vector in rows.vectors.values()})
    if len(sites) > 1:
        yield f"the vectors are for several sites: {', '.join(sites)}"
    layers = sorted({layer for vector in rows.vectors.values() for layer in vector.layers})
    if len(layers) > 1:
        yield f"the vectors are for several layers: {', '.join(map(str, layers))}"


def _print_table(console: "Console", title: str, table: "Table") -> None:
    """Print a table under its title, which rich would fold to the table's width."""
    console.print(f"\n{title}")
    console.print(table)


def _table(*columns: str) -> "Table":
    """An empty table whose first column is text and whose others are figures."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(columns[0], overflow="fold")
    for heading in columns[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _spectrum_table(energies: "Spectrum") -> "Table":
    table = _table("direction", "singular value", "energy", "together")
    for number, value in enumerate(energies.values[:_MOST_ROWS].tolist()):
        shares = (f"{energies.shares[number]:.1%}", f"{energies.cumulative[number]:.1%}")
        table.add_row(str(number + 1), f"{value:.4g}", *shares)
    rest = len(energies.values) - _MOST_ROWS
    if rest > 0:
        table.add_row(f"{rest} more", "", f"{energies.shares[_MOST_ROWS:].sum():.1%}", "100.0%")
    return table


def _print_cosines(console: "Console", rows: "Stack") -> None:
    """All pairs of a few rows as a table; the extremes and the median of many."""
    import torch
    from rich.text import Text

    from steering.vectors.subspace import cosines

    count = len(rows.rows)
    if count < 2:
        return
    matrix = cosines(rows)
    if count <= _MOST_ROWS:
        table = _table("", *(str(number + 1) for number in range(count)))
        for number, (name, row) in enumerate(zip(rows.names, matrix.tolist(), strict=True)):
            table.add_row(Text(f"{number + 1} {name}"), *map(_cosine, row))
        _print_table(console, "Cosines", table)
        return
    first, second = torch.triu_indices(count, count, offset=1)
    pairs = matrix[first, second]
    console.print(f"\nCosines of {len(pairs)} pairs: median {_cosine(float(pairs.quantile(0.5)))}")
    for word, index in (("least", pairs.argmin()), ("most", pairs.argmax())):
        one, other = rows.names[first[index]], rows.names[second[index]]
        console.print(f"{word} alike: {one}, {other} ({_cosine(float(pairs[index]))})")


def _cosine(value: float) -> str:
    # Adding 0 takes the sign from a rounded zero.
    return f"{round(value, 2) + 0:.2f}"
