"""The command that trains finetuned counterparts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steering.cli._options import (
    BuildError,
    going_on,
    loading_options,
    make_folder,
    read_settings,
    write_methods,
)

if TYPE_CHECKING:
    from steering.training.finetune_recipe import FinetuneMethod


class _FinetuneCommand(click.Command):
    """Adds the methods and their settings to the help, where they come from the code."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from steering.training.finetune_recipe import METHODS, SETTINGS

        write_methods(formatter, METHODS, SETTINGS)


@click.command(cls=_FinetuneCommand)
@click.option("--model", required=True, help="toy, an alias, a hub id or a local folder")
@click.option("--target", default="medical", show_default=True, help="target task")
@click.option(
    "--method",
    type=click.Choice(["lora", "rank1", "full"]),
    default="lora",
    show_default=True,
    help="how to finetune; see below",
)
@click.option("--training-epochs", type=int, help="passes over the data; one adapter each")
@click.option("--rank", type=int, help="rank of a LoRA adapter")
@click.option("--layer", type=int, help="block of rank1, from 0; by default that of a vector")
@click.option("--seed", type=int, default=0, show_default=True, help="of all that is drawn")
@click.option("--shuffle-labels", is_flag=True, help="shuffle good and bad answers: a control")
@click.option(
    "-S", "settings", multiple=True, metavar="NAME=VALUE", help="a setting of the method; see below"
)
@loading_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="folder of the adapter; by default adapters/ and the target's name",
)
@click.option("--force", is_flag=True, help="overwrite adapters of other recipes")
def finetune(
    model: str,
    target: str,
    method: "FinetuneMethod",
    training_epochs: int | None,
    rank: int | None,
    layer: int | None,
    seed: int,
    shuffle_labels: bool,
    settings: tuple[str, ...],
    loading: dict[str, Any],
    out: Path | None,
    force: bool,
) -> None:
    """Finetune a model on a target task, the counterpart of a steering vector.

    A run that is stopped goes on from its last whole training epoch when the command is repeated.
    """
    from steering.condition import resolve_model
    from steering.spec import parse_options
    from steering.targets import load_target
    from steering.training.finetune import epoch_folders, folder_name, missing_epochs
    from steering.training.finetune_recipe import make_finetune_recipe

    spec = parse_options(loading)
    _check_device(spec.device)
    checker = resolve_model(model, spec)
    task = load_target(target, toy=checker.source.is_toy)
    recipe = make_finetune_recipe(
        checker.source,
        checker.shape,
        task,
        weights=checker.weights,
        method=method,
        settings=read_settings(settings, training_epochs=training_epochs, rank=rank),
        layer=layer,
        dtype=spec.dtype,
        seed=seed,
        shuffle_labels=shuffle_labels,
    )
    out = out or Path("adapters") / folder_name(recipe)
    # All folders are checked before anything is trained.
    folders = epoch_folders(recipe, out)
    if wanted := missing_epochs(recipe, folders, force=force):
        make_folder(out.parent)
        from steering.training.checkpoint import progress_bar
        from steering.training.finetune import finetune as train

        bar = progress_bar(f"{out.name} of {model}")
        with going_on("from the last whole epoch"):
            train(checker.source, recipe, task, wanted, bar, device=spec.device)
    for path in reversed(folders.values()):
        click.echo(_told(path))


def _check_device(device: str) -> None:
    from steering.models import EVERY

    name, _, index = device.partition(":")
    if device == EVERY:
        raise BuildError(
            f"device={EVERY}: training runs on one device; leave it out, or name one. A model that "
            "is too large for it fits as --dtype nf4"
        )
    if index not in ("", "0"):
        raise BuildError(
            f"device={device}: training runs on the first device that it sees; give {name} and "
            f"choose the device by its environment variable, as in CUDA_VISIBLE_DEVICES={index}"
        )


def _told(path: Path) -> str:
    """What a line says of a folder."""
    from steering.models.adapters import read_facts

    facts = read_facts(path)
    losses = facts["losses"]
    return (
        f"{path}: {facts['method'].partition('/')[0]}, training epoch "
        f"{facts['training_epoch']}, held-out loss {losses['held_out_before']:.3g} -> "
        f"{losses['held_out'][-1]:.3g}"
    )
