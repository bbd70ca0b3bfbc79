"""The command that holds the paper's claims against the logs of studies."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steering.studies.claims import ClaimVerdict


@click.command()
@click.argument("logs", type=click.Path(path_type=Path), default="logs/studies")
@click.option("--rule", type=click.Choice(["moem", "betley"]), default="moem", show_default=True)
@click.option("--json", "out", metavar="FILE", help="write the verdicts as JSON, too; - prints it")
def claims(logs: Path, rule: Any, out: str | None) -> None:
    """Say what the studies in LOGS make of the paper's ten claims.

    Each is supported, refuted or not decided, by a rule that was fixed in advance. LOGS is a
    folder with the logs of any studies; without it, logs/studies.
    """
    from steering.files import write_whole
    from steering.results.frame import read_answers
    from steering.studies import judge_claims

    verdicts = judge_claims(read_answers(logs, lambda note: click.echo(note, err=True)), rule)
    told = json.dumps([verdict.row() for verdict in verdicts], indent=1)
    if out == "-":
        click.echo(told)
        return
    print_verdicts(verdicts)
    if out is not None:
        write_whole(Path(out), f"{told}\n".encode())
        click.echo(f"written: {out}")


def print_verdicts(verdicts: "Sequence[ClaimVerdict]") -> None:
    """A table of verdicts with what they rest on."""
    from rich.console import Console
    from rich.markup import escape

    from steering.reports.tables import plain_table

    console = Console()
    table = plain_table(
        "The paper's claims (arXiv 2606.08682)", ["claim", "verdict", "because"], []
    )
    for verdict in verdicts:
        name = f"{verdict.number} {verdict.name}"
        if verdict.model:
            name += f" ({verdict.model})"
        because = [f"{verdict.why}.", *verdict.figures]
        if verdict.num_answers:
            because.append(f"n = {verdict.num_answers}, {verdict.num_questions} questions")
        because.append(verdict.command)
        table.add_row(escape(name), verdict.verdict, escape("\n".join(because)))
        table.add_section()
    console.print(table)
    console.print(
        "Rules were fixed in advance (steering/studies/claim_rules.py). Each claim is tested at 5% "
        "by itself: of ten, one may be wrong by chance.",
        style="dim",
        highlight=False,
    )
