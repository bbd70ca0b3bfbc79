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
def export(logs: Path, to: str, out: Path | None) -> None:
    """Write the figures of each condition in LOGS as a record of another format.

    every-eval-ever: a JSON file a condition, with its EM rates, mean scores and figures of
    em_choice, their intervals, the condition and the judges. Answers are not exported.
    """
    from steering.reports.every_eval_ever import export as write_records

    folder = logs if logs.is_dir() else logs.parent
    for path in write_records(logs, out or folder / "export"):
        say(f"written: {path}")
