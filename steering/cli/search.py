"""The command that finds a layer and a magnitude."""

from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from steering.cli._options import (
    TrainingCommand,
    console_of,
    construction_option,
    going_on,
    json_option,
    loading_options,
    model_option,
    read_list,
    read_options,
    say,
    settings_option,
    target_option,
    write_json,
)
from steering.vocabulary import Site


@click.command(cls=TrainingCommand, builds="vector")
@model_option
@target_option
@construction_option
@settings_option
@click.option(
    "--layers",
    help="blocks, from 0, with commas [default: five in the middle half; all of a small model]",
)
@click.option("--site", type=click.Choice(get_args(Site)), help="where in the block")
@click.option(
    "--magnitudes",
    help="multiples of the built vector, with commas [default: 0.5, 1, 2 and further, as far as "
    "the bound allows, refined around the best]",
)
@click.option(
    "--maximise",
    type=click.Choice(["broad", "own"]),
    default="broad",
    show_default=True,
    help="the shift on other questions, or on the target's held-out pairs",
)
@click.option(
    "--most-kl",
    type=float,
    default=0.2,
    show_default=True,
    help="most damage: KL from the unsteered model on neutral answers, nats a token",
)
@click.option(
    "--choices", default="core", show_default=True, help="the other questions, as em_choice has it"
)
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="random directions that the best point is compared with",
)
@click.option("--seed", type=int, default=0, show_default=True, help="of building")
@click.option(
    "--confirm", is_flag=True, help="run em_freeform at the best point, which needs a judge"
)
@click.option("-T", "task_args", multiple=True, metavar="NAME=VALUE", help="option of em_freeform")
@click.option("--grader", help="its judge, as --model-role grader= has it")
@loading_options
@click.option(
    "--log-dir",
    type=click.Path(path_type=Path),
    help="a folder of its own [default: logs/search/ and the model and target]",
)
@click.option("--display", help="of em_freeform, as Inspect's --display")
@json_option
def search(
    settings: tuple[str, ...],
    task_args: tuple[str, ...],
    layers: str | None,
    magnitudes: str | None,
    log_dir: Path | None,
    loading: dict[str, Any],
    out_json: str | None,
    **options: Any,
) -> None:
    """Which layer, and how strong: find the point that shifts a model most for its damage.

    Builds the target's vector at several layers and scores given answers under it, without decoding
    and without a judge. A search that was stopped goes on when the command is typed again.
    """
    from steering.studies.report import print_figures
    from steering.studies.search import search as run_search
    from steering.studies.search_report import print_search, search_document

    with going_on():
        result = run_search(
            settings=read_options("-S", settings),
            task=read_options("-T", task_args),
            layers=None if layers is None else read_list(layers),
            magnitudes=None if magnitudes is None else read_list(magnitudes),
            logs=log_dir,
            tell=partial(say, err=out_json == "-"),
            **options,
            **loading,
        )
    console = console_of(out_json)
    print_search(result, console)
    if result.confirmation is not None:
        print_figures(result.confirmation, console)
    write_json(search_document(result), out_json)
