"""The command that holds claims about emergent misalignment against the logs of studies."""

from pathlib import Path
from typing import Any

import click

from steering.cli._options import json_option, say, write_json


@click.command()
@click.argument("logs", type=click.Path(path_type=Path), default="logs/studies")
@click.option("--rule", type=click.Choice(["moem", "betley"]), default="moem", show_default=True)
@json_option
def claims(logs: Path, rule: Any, out_json: str | None) -> None:
    """Say what the studies in LOGS make of three claims of the paper and of eleven hypotheses.

    Each is supported, refuted or not decided, by a rule that was fixed in advance. LOGS is a
    folder with the logs of any studies; without it, logs/studies.
    """
    from steering.results import read_results
    from steering.results.document import Document
    from steering.results.frame import left_out
    from steering.results.task_scores import other_task_notes
    from steering.studies.arm_claims import judge_all
    from steering.studies.printing import print_verdicts
    from steering.studies.verdicts import verdict_tables

    answers, choices = read_results(logs)
    notes = [str(note) for note in (*left_out(answers), *left_out(choices))]
    notes += other_task_notes(logs)
    for note in notes:
        say(note, err=True)
    verdicts = judge_all(answers, choices, rule)
    if out_json != "-":
        print_verdicts(verdicts, rule)
    write_json(Document("claims", tables=verdict_tables(verdicts), notes=notes), out_json)
