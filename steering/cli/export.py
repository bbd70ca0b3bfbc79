"""The command that writes finished runs in another project's format."""

from pathlib import Path

import click

from steering.cli._options import say


@click.command()
@click.argument("logs", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["every-eval-ever"]), required=True, help="the format")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="folder of the records [default: export in LOGS]",
)
@click.option(
    "--lower-is-better",
    multiple=True,
    metavar="NAME",
    help="a judged dimension of yours, or TASK:METRIC of another task, that is better when lower",
)
@click.option(
    "--higher-is-better", multiple=True, metavar="NAME", help="one that is better when higher"
)
def export(
    logs: Path,
    to: str,
    out: Path | None,
    lower_is_better: tuple[str, ...],
    higher_is_better: tuple[str, ...],
) -> None:
    """Write the figures of each condition in LOGS as a record of another format.

    every-eval-ever: a JSON file a condition, with its EM rates, mean scores and figures of
    em_choice, their intervals, the condition and the judges. Answers are not exported. The format
    asks of each figure whether lower is better: of a judged dimension of yours, and of a metric of
    another task, you say it, or it is left out with a note. Both options can be repeated.
    """
    from steering.reports.every_eval_ever import export as write_records

    folder = logs if logs.is_dir() else logs.parent
    paths = write_records(
        logs,
        out or folder / "export",
        lower_is_better=lower_is_better,
        higher_is_better=higher_is_better,
        warn=lambda note: say(f"Note: {note}", err=True),
    )
    for path in paths:
        say(f"written: {path}")
