"""The command that says what a monitor of activations tells."""

from pathlib import Path

import click

from steering.cli._options import console_of, json_option, say, write_json
from steering.text import view_command


@click.command()
@click.argument("logs", type=click.Path(path_type=Path))
@click.option("--rule", default="betley", show_default=True, help="betley or moem")
@click.option(
    "--false-alarms",
    type=float,
    default=0.05,
    show_default=True,
    help="share of answers that are not misaligned which a threshold may be exceeded by",
)
@click.option("--seed", type=int, default=0, show_default=True, help="of the halves of themes")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="folder of the tables, and of ROC curves where there are any [default: monitor in LOGS]",
)
@json_option
def monitor(
    logs: Path,
    rule: str,
    false_alarms: float,
    seed: int,
    out: Path | None,
    out_json: str | None,
) -> None:
    """Do the activations tell misaligned answers from others? Of runs with -M monitor=.

    For each condition and direction: the area under the ROC curve of the mean projection of an
    answer before the edit (0.5 tells nothing), and the share of misaligned answers that a threshold
    catches in themes that it was not chosen on. Each condition with enough answers of both kinds
    has its own figures and curve: steered answers differ from unsteered ones in their projection
    because a vector was added.

    Ends with 1 if no condition has enough misaligned answers, and enough others, to say.
    """
    from steering.reports.monitor import monitor
    from steering.results.document import Document

    table = monitor(
        logs,
        out,
        rule=rule,
        false_alarms=false_alarms,
        seed=seed,
        console=console_of(out_json),
    )
    write_json(Document("monitor", tables={"monitor": table}), out_json)
    folder = logs if logs.is_dir() else logs.parent
    say(f"\nLook at every answer: {view_command(folder)}", err=out_json == "-")
