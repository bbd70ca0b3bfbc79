"""The command that holds claims about emergent misalignment against the logs of studies."""

import json
from pathlib import Path
from typing import Any

import click

from steering.cli._options import say


@click.command()
@click.argument("logs", type=click.Path(path_type=Path), default="logs/studies")
@click.option("--rule", type=click.Choice(["moem", "betley"]), default="moem", show_default=True)
@click.option("--json", "out", metavar="FILE", help="write the verdicts as JSON, too; - prints it")
def claims(logs: Path, rule: Any, out: str | None) -> None:
    """Say what the studies in LOGS make of three claims of the paper and of eleven hypotheses.

    Each is supported, refuted or not decided, by a rule that was fixed in advance. LOGS is a
    folder with the logs of any studies; without it, logs/studies.
    """
    from steering.errors import SteeringError
    from steering.files import write_whole
    from steering.results import read_results
    from steering.results.frame import left_out
    from steering.studies.arm_claims import judge_all
    from steering.studies.printing import print_verdicts

    answers, choices = read_results(logs)
    for note in (*left_out(answers), *left_out(choices)):
        say(str(note), err=True)
    verdicts = judge_all(answers, choices, rule)
    text = json.dumps([verdict.row() for verdict in verdicts], indent=1)
    if out == "-":
        say(text)
        return
    print_verdicts(verdicts, rule)
    if out is not None:
        try:
            write_whole(Path(out), f"{text}\n".encode())
        except OSError as error:
            raise SteeringError(f"{out} can't be written ({error.strerror})") from None
        say(f"written: {out}")
