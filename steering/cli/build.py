"""The command that builds vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from steering.cli._options import (
    BuildError,
    loading_options,
    make_folder,
    read_settings,
    write_methods,
)
from steering.vocabulary import METHODS, Method, Site

if TYPE_CHECKING:
    from steering.training.recipe import Recipe


class _BuildCommand(click.Command):
    """Adds the methods and their settings to the help, where they come from the code."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from steering.training.recipe import SETTINGS

        write_methods(formatter, METHODS, SETTINGS)


@click.command(cls=_BuildCommand)
@click.option("--model", required=True, help="toy, an alias, a hub id or a local folder")
@click.option("--target", default="medical", show_default=True, help="target task")
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="sft",
    show_default=True,
    help="how to build; see below",
)
@click.option("--training-epochs", type=int, help="passes over the data; one vector each")
@click.option("--rank", type=int, help="dimension of the steering subspace")
@click.option(
    "--layer", type=int, help="block, from 0; by default two fifths of the way up (toy: 0)"
)
@click.option("--site", type=click.Choice(get_args(Site)), help="where in the block")
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(0,), help="repeat it for several vectors"
)
@click.option("--shuffle-labels", is_flag=True, help="shuffle good and bad answers: a control")
@click.option(
    "-S", "settings", multiple=True, metavar="NAME=VALUE", help="a setting of the method; see below"
)
@loading_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("vectors"),
    show_default=True,
    help="folder, or .safetensors file",
)
@click.option("--force", is_flag=True, help="overwrite vectors of other recipes")
def build(
    model: str,
    target: str,
    method: Method,
    training_epochs: int | None,
    rank: int | None,
    layer: int | None,
    site: Site | None,
    seeds: tuple[int, ...],
    shuffle_labels: bool,
    settings: tuple[str, ...],
    loading: dict[str, Any],
    out: Path,
    force: bool,
) -> None:
    """Build steering vectors of a target task and write them to files.

    A run that is stopped goes on from its last whole training epoch when the command is repeated.
    """
    from steering.condition import resolve_model
    from steering.spec import parse_options
    from steering.targets import load_target
    from steering.training.recipe import make_recipe

    spec = parse_options(loading)
    checker = resolve_model(model, spec)
    task = load_target(target, toy=checker.source.is_toy)
    chosen = read_settings(settings, training_epochs=training_epochs, rank=rank)
    recipes = [
        make_recipe(
            checker.source,
            checker.shape,
            task,
            weights=checker.weights,
            method=method,
            settings=chosen,
            layer=layer,
            site=site,
            dtype=spec.dtype,
            seed=seed,
            shuffle_labels=shuffle_labels,
        )
        for seed in dict.fromkeys(seeds)
    ]
    # All files are checked before anything is built.
    files = _files(recipes, out, many=len(recipes) > 1)
    wanted = [(recipe, path) for recipe, path in files if not _is_there(recipe, path, force)]
    if wanted:
        make_folder(wanted[0][1].parent)
        from steering.engines import shared_engine
        from steering.training.cache import cached_vector
        from steering.training.checkpoint import progress_bar

        engine = shared_engine(checker.source, dtype=spec.dtype, device=spec.device)
        for recipe, path in wanted:
            caption = f"{path.stem} of {model}"
            # The last epoch comes first, and with it all the others.
            building = cached_vector(engine, recipe, task, progress_bar(caption))
            try:
                building.result().save(path)
            except KeyboardInterrupt:
                click.echo(
                    "\nStopped. The same command goes on from the last whole epoch.", err=True
                )
                raise
    for _, path in files:
        click.echo(_told(path))


def _files(recipes: "list[Recipe]", out: Path, *, many: bool) -> "list[tuple[Recipe, Path]]":
    """Where each vector goes; of a training run, its last epoch first."""
    if out.suffix == ".safetensors" and many:
        raise BuildError(f"--out {out} is one file for several seeds: give a folder")
    files: list[tuple[Recipe, Path]] = []
    for recipe in recipes:
        path = out if out.suffix == ".safetensors" else out / f"{_stem(recipe)}.safetensors"
        files.append((recipe, path))
        files += [
            (earlier, path.with_stem(f"{path.stem}-epoch{epoch}"))
            for epoch, earlier in recipe.earlier_epochs()
        ]
    return files


def _stem(recipe: "Recipe") -> str:
    """Name of the file: the target, and what sets the vector apart from its default one."""
    parts = [recipe.target]
    if recipe.method != "sft":
        parts.append(recipe.method)
    rank = getattr(recipe.settings, "rank", 1)
    if rank != 1:
        parts.append(f"rank{rank}")
    if recipe.shuffle_labels:
        parts.append("shuffled")
    if recipe.seed:
        parts.append(f"seed{recipe.seed}")
    return "-".join(parts)


def _is_there(recipe: "Recipe", path: Path, force: bool) -> bool:
    """Whether the file holds this very vector already.

    Raises:
        BuildError: It holds another.
    """
    from steering.vectors import SteeringVector, VectorError

    if force or not path.exists():
        return False
    try:
        held = SteeringVector.load(path).provenance.get("recipe")
    except VectorError:
        held = None
    if held != recipe.digest:
        raise BuildError(
            f"{path} exists and is not of this recipe: give another --out, or --force to overwrite"
        )
    return True


def _told(path: Path) -> str:
    """What a line says of a file."""
    from steering.vectors import SteeringVector

    vector = SteeringVector.load(path)
    [length] = vector.lengths
    said = (
        f"{path}: layer {vector.layers[0]} {vector.site}, rank {vector.rank}, length {length:.3g}"
    )
    if vector.residual_norms:
        said += f" ({length / vector.residual_norms[0]:.0%} of the residual norm)"
    measured = vector.provenance["measured"]
    if losses := measured.get("held_out_loss"):
        said += f", held-out loss {measured['held_out_loss_unsteered']:.3g} -> {losses[-1]:.3g}"
    if "cosine" in measured:
        said += f", cosine {measured['cosine']:.3f} to the matched vector"
    return said
