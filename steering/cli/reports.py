"""Commands that read what runs have left."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steering.cli._options import BuildError

if TYPE_CHECKING:
    import pandas as pd

_LOGS = click.Path(path_type=Path)


_aligned_below = click.option(
    "--aligned-below", type=float, help="an answer is misaligned below this score"
)
_coherent_from = click.option(
    "--coherent-from", type=float, help="an answer is coherent from this score on"
)


@click.command()
@click.argument("log_dir", type=_LOGS)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="folder of the page, the pictures and the tables [default: report in LOG_DIR]",
)
def report(log_dir: Path, out: Path | None) -> None:
    """Print the conditions in LOG_DIR beside each other, and write a page with pictures.

    The page is one HTML file that needs no network; beside it stand the same in Markdown, the
    pictures, and the frames of all answers and conditions. Judges are printed beside their limits.
    """
    from steering.logs import each_header
    from steering.report import print_calibrations, print_summary
    from steering.results.frame import read_answers
    from steering.results.runs import read_runs

    headers = [header for _, _, header in each_header(log_dir)]
    if headers and all((header.eval.metadata or {}).get("study") for header in headers):
        print_finding([log_dir], log_dir, out)
        return
    results, calibrations = read_runs(log_dir, warn=_warn)
    print_summary(results)
    print_calibrations(calibrations)
    if results:
        write_report(read_answers(log_dir), log_dir, out)
    click.echo(f"\nLook at every answer: inspect view --log-dir {log_dir}")


@click.command()
@click.argument("log_a", type=_LOGS)
@click.argument("log_b", type=_LOGS)
@click.option("--rule", help="betley or moem; both when not given")
@_aligned_below
@_coherent_from
def compare(
    log_a: Path,
    log_b: Path,
    rule: str | None,
    aligned_below: float | None,
    coherent_from: float | None,
) -> None:
    """Compare two conditions question by question: LOG_B minus LOG_A.

    Each is a log or a folder of logs with one condition a task; runs of the same task are paired.
    """
    from steering.report import print_comparison, read_rules
    from steering.results.runs import read_results

    rules = read_rules(rule)
    first, second = (
        [
            result.with_bounds(aligned_below, coherent_from)
            for result in read_results(logs, warn=_warn)
        ]
        for logs in (log_a, log_b)
    )
    print_comparison(first, second, rules)


class _GateCommand(click.Command):
    """Adds the figures to the help, where they come from the code."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from steering.report import ALIASES, FIGURES

        figures = [(name, figure.meaning) for name, figure in FIGURES.items()]
        also = [(alias, f"the same as {name}") for alias, name in ALIASES.items()]
        with formatter.section("Figures"):
            formatter.write_dl(figures + also)


@click.command(cls=_GateCommand)
@click.argument("logs", type=_LOGS)
@click.option("--max", "most", multiple=True, metavar="NAME=NUMBER", help="an upper bound")
@click.option("--min", "least", multiple=True, metavar="NAME=NUMBER", help="a lower bound")
def gate(logs: Path, most: tuple[str, ...], least: tuple[str, ...]) -> None:
    """Hold every condition in LOGS to bounds on its figures, for CI.

    An upper bound is kept where the upper edge of the 95% interval lies at or below it, a lower
    bound where the lower edge lies at or above it; how many answers were scored is a count and has
    no interval. Both options can be repeated.

    Ends with 0 when every bound is kept, 2 when one is broken, and 1 when that can't be said: a run
    is incomplete, nothing could be counted, or the command was typed wrong.
    """
    from steering.report import BoundStatus, parse_bound, print_gate
    from steering.results.runs import read_complete_results

    if not most and not least:
        raise click.UsageError("give a bound, as in --max em_rate=0.10")
    bounds = [parse_bound("max", text) for text in most]
    bounds += [parse_bound("min", text) for text in least]
    verdict = print_gate(read_complete_results(logs), bounds)
    sys.exit({BoundStatus.KEPT: 0, BoundStatus.BROKEN: 2, BoundStatus.UNKNOWN: 1}[verdict])


@click.command()
@click.argument("logs", type=_LOGS)
@_aligned_below
@_coherent_from
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="write the rates as CSV, too; missing folders are made",
)
def rescore(
    logs: Path, aligned_below: float | None, coherent_from: float | None, out: Path | None
) -> None:
    """Print the EM rates of LOGS at other thresholds. No judge is asked and no log is changed.

    A threshold that is not given stays that of the run. With neither, the rate by the betley rule
    is printed over a grid of both.
    """
    from steering.report import grid, print_grid, print_rescored, write_table
    from steering.results.runs import read_results

    results = read_results(logs, warn=_warn)
    if aligned_below is None and coherent_from is None:
        rescored = grid(results)
        print_grid(results)
    else:
        rescored = [result.with_bounds(aligned_below, coherent_from) for result in results]
        print_rescored(rescored)
    if out is not None:
        write_table(rescored, out)
        click.echo(f"written: {out}")


def print_finding(
    logs: "Sequence[Path]", folder: Path, out: Path | None = None, *, keep: bool = False
) -> "pd.DataFrame":
    """Print what the runs of studies came to and write their report.

    Args:
        logs: Of the runs.
        folder: The studies' own.
        out: Folder of the report.
        keep: Leave a report that is there as it is: nothing is new.

    Returns:
        The answers.
    """
    from steering.results.frame import conditions_of, read_answers
    from steering.studies import judge_claims, print_conditions

    answers = read_answers(logs, _warn)
    for study, rows in conditions_of(answers).groupby("study"):
        print_conditions(rows, f"study {study}")
    for verdict in judge_claims(answers):
        if verdict.num_answers:
            of = f" ({verdict.model})" if answers["model"].nunique() > 1 else ""
            told = f"{verdict.name}{of}: {verdict.verdict}, {verdict.why}."
            click.echo(f"Claim {verdict.number}, {told}")
    page = (out or folder / "report") / "index.html"
    if keep and page.exists():
        click.echo(f"report: {page}")
    else:
        write_report(answers, folder, out)
    click.echo(f"\nLook at every answer: inspect view --log-dir {folder}")
    return answers


def write_report(
    answers: "pd.DataFrame",
    logs: Path,
    out: Path | None = None,
    *,
    title: str = "",
    headline: str = "",
) -> None:
    """Write the page of some answers, and their frames beside it; `report` in their folder."""
    from steering.report.page import Report
    from steering.report.page import write_report as write
    from steering.results.frame import conditions_of, write_frames
    from steering.studies import judge_claims, read_spectrum

    conditions = conditions_of(answers)
    studies = [study for study in conditions["study"].unique() if study]
    verdicts = [verdict.row() for verdict in judge_claims(answers) if verdict.num_answers]
    named = ", ".join(conditions["model"].unique())
    made = Report(
        title=title or (f"{', '.join(studies)}: {named}" if studies else named),
        headline=headline,
        answers=answers,
        conditions=conditions,
        logs=logs,
        verdicts=verdicts,
        spectrum=read_spectrum(logs) if "rank" in studies else (),
    )
    out = out or (logs if logs.is_dir() else logs.with_suffix("")) / "report"
    try:
        write_frames(answers, out)
        pages = write(made, out)
    except OSError as error:
        raise BuildError(f"--out {out} can't be written ({error}): give another folder") from None
    for page in pages:
        click.echo(f"written: {page}")


def _warn(note: str) -> None:
    click.echo(note, err=True)
