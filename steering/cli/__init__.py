"""The `steering` command. One module a group of commands."""

import sys

import click

from steering import __version__
from steering.cli.audit import audit
from steering.cli.build import build
from steering.cli.calibrate import calibrate
from steering.cli.claims import claims
from steering.cli.export import export
from steering.cli.finetune import finetune
from steering.cli.label import label
from steering.cli.monitor import monitor
from steering.cli.reports import compare, gate, report, rescore
from steering.cli.search import search
from steering.cli.study import study
from steering.cli.subspace import subspace
from steering.cli.vectors import convert, show
from steering.errors import SteeringError, machine_errors_as_ours


@click.group()
@click.version_option(__version__)
def commands() -> None:
    """Does activation steering make a language model broadly misaligned?

    Evaluations are run by `inspect eval`; these commands do the rest.
    """


for command in (
    build,
    finetune,
    show,
    convert,
    subspace,
    search,
    study,
    report,
    compare,
    claims,
    audit,
    calibrate,
    gate,
    rescore,
    label,
    monitor,
    export,
):
    commands.add_command(command)


def main() -> None:
    """Entry point; shows the project's own errors in one line.

    Ends with 1 on every error, wrong usage too: 2 means a broken bound of `gate`, nothing else.
    """
    try:
        with machine_errors_as_ours():
            status = commands.main(standalone_mode=False)
    except SteeringError as error:
        click.echo(f"Error: {error}", err=True)
        status = 1
    except click.ClickException as error:
        error.show()
        status = 1
    except click.Abort:
        click.echo("Aborted!", err=True)
        status = 1
    sys.exit(status)
