"""The `steering` command. One module a group of commands."""

import sys

import click

from steering import __version__
from steering.cli.build import build
from steering.cli.reports import report
from steering.cli.subspace import subspace
from steering.cli.vectors import convert, show
from steering.errors import SteeringError


@click.group()
@click.version_option(__version__)
def commands() -> None:
    """Does activation steering make a language model broadly misaligned?

    Evaluations are run by `inspect eval`; these commands do the rest.
    """


for command in (build, show, convert, subspace, report):
    commands.add_command(command)


def main() -> None:
    """Entry point; shows the project's own errors in one line and exits with 1."""
    try:
        commands()
    except SteeringError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
