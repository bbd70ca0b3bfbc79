"""The `steering` command."""

import sys
from pathlib import Path

import click

from steering import __version__
from steering.errors import SteeringError


@click.group()
@click.version_option(__version__)
def commands() -> None:
    """Does activation steering make a language model broadly misaligned?

    Evaluations are run by `inspect eval`; these commands do the rest.
    """


@commands.command()
@click.argument("log_dir", type=click.Path(path_type=Path))
def report(log_dir: Path) -> None:
    """Print the conditions in LOG_DIR beside each other."""
    from steering.report import print_summary, read_results

    print_summary(read_results(log_dir, warn=lambda note: click.echo(note, err=True)))
    click.echo(f"\nLook at every answer: inspect view --log-dir {log_dir}")


def main() -> None:
    """Entry point; shows the project's own errors in one line and exits with 1."""
    try:
        commands()
    except SteeringError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
