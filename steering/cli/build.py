"""The command that builds vectors."""

from typing import TYPE_CHECKING, Any, get_args

import click

from steering.cli._options import (
    TrainingCommand,
    construction_option,
    going_on,
    loading_options,
    model_option,
    read_options,
    say,
    settings_option,
    target_option,
)
from steering.vocabulary import Site

if TYPE_CHECKING:
    from steering.vectors import SteeringVector


@click.command(cls=TrainingCommand, builds="vector")
@model_option
@target_option
@construction_option
@click.option("--training-epochs", type=int, help="passes over the data; one vector each")
@click.option("--rank", type=int, help="dimension of the steering subspace")
@click.option(
    "--layer", type=int, help="block, from 0; by default two fifths of the way up (toy: 0)"
)
@click.option("--site", type=click.Choice(get_args(Site)), help="where in the block")
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(0,), help="repeat it for several vectors"
)
@click.option("--shuffle-labels", is_flag=True, help="shuffle misaligned and aligned answers")
@settings_option
@loading_options
@click.option("--out", default="vectors", show_default=True, help="folder, or .safetensors file")
@click.option("--force", is_flag=True, help="overwrite vectors of other recipes")
def build(settings: tuple[str, ...], **options: Any) -> None:
    """Build steering vectors of a target task and write them to files.

    A run that was stopped resumes from its last finished training epoch when the command is
    repeated.
    """
    from steering.api.build import build_files

    with going_on("from the last whole epoch"):
        vectors = build_files(settings=read_options("-S", settings), **options)
    for path, vector in vectors.items():
        say(f"{path}: {_describe(vector)}")


def _describe(vector: "SteeringVector") -> str:
    [length] = vector.lengths
    parts = [f"layer {vector.layers[0]} {vector.site}", f"rank {vector.rank}"]
    share = ""
    if vector.residual_norms:
        share = f" ({length / vector.residual_norms[0]:.0%} of the residual norm)"
    parts.append(f"length {length:.3g}{share}")
    measured = vector.provenance["measured"]
    if losses := measured.get("held_out_loss"):
        unsteered = measured["held_out_loss_unsteered"]
        parts.append(f"held-out loss {unsteered:.3g} -> {losses[-1]:.3g}")
    if "cosine" in measured:
        parts.append(f"cosine {measured['cosine']:.3f} to the matched vector")
    return ", ".join(parts)
