"""Commands that read what runs have left."""

from pathlib import Path

import click


@click.command()
@click.argument("log_dir", type=click.Path(path_type=Path))
def report(log_dir: Path) -> None:
    """Print the conditions in LOG_DIR beside each other."""
    from steering.report import print_summary, read_results

    print_summary(read_results(log_dir, warn=lambda note: click.echo(note, err=True)))
    click.echo(f"\nLook at every answer: inspect view --log-dir {log_dir}")
