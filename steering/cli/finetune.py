"""The command that trains finetuned counterparts."""

from pathlib import Path
from typing import Any

import click

from steering.cli._options import (
    TrainingCommand,
    going_on,
    loading_options,
    model_option,
    read_options,
    say,
    settings_option,
    target_option,
)


@click.command(cls=TrainingCommand, builds="adapter")
@model_option
@target_option
@click.option(
    "--method", metavar="NAME", default="lora", show_default=True, help="how to train; see below"
)
@click.option("--training-epochs", type=int, help="passes over the data; one adapter each")
@click.option("--rank", type=int, help="rank of a LoRA adapter")
@click.option("--layer", type=int, help="block of rank1, from 0; by default that of a vector")
@click.option("--seed", type=int, default=0, show_default=True, help="of everything random")
@click.option("--shuffle-labels", is_flag=True, help="shuffle misaligned and aligned answers")
@settings_option
@loading_options
@click.option("--out", help="folder of the adapter [default: adapters/ and the target's name]")
@click.option("--force", is_flag=True, help="overwrite adapters of other recipes")
def finetune(settings: tuple[str, ...], loading: dict[str, Any], **options: Any) -> None:
    """Finetune a model on a target task: the counterpart of a steering vector.

    A run that was stopped resumes from its last finished training epoch when the command is
    repeated.
    """
    from steering.api.build import finetune as run

    with going_on("from the last whole epoch"):
        folders = run(settings=read_options("-S", settings), **options, **loading)
    for folder in folders:
        say(f"{folder}: {_describe(folder)}")


def _describe(folder: Path) -> str:
    from steering.models.adapters import read_facts

    facts = read_facts(folder)
    losses = facts["losses"]
    return (
        f"{facts['method'].partition('/')[0]}, training epoch {facts['training_epoch']}, "
        f"held-out loss {losses['held_out_before']:.3g} -> {losses['held_out'][-1]:.3g}"
    )
