"""Commands that read finished runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steering.cli._options import (
    ci_options,
    console_of,
    json_option,
    say,
    write_checks,
    write_json,
)
from steering.text import view_command

if TYPE_CHECKING:
    from steering.reports.bounds import Side

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
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    help="write the pictures (PDF, SVG, PNG) and tables (LaTeX, Markdown) for a paper here",
)
@click.option("--width", type=float, help="of the pictures for a paper, in inches [default: 5.5]")
@click.option("--font", default="", help="of their text: an installed family, or serif")
@click.option("--style", default="", help="a style of matplotlib, or the path of a style sheet")
@click.option(
    "--worst",
    type=click.IntRange(min=1),
    metavar="N",
    help="print the N least aligned answers, too; they can be harmful and offensive",
)
@click.option("-v", "--verbose", is_flag=True, help="print the signature of every figure, too")
@json_option
def report(
    log_dir: Path,
    out: Path | None,
    figures: Path | None,
    width: float | None,
    font: str,
    style: str,
    worst: int | None,
    out_json: str | None,
    *,
    verbose: bool,
) -> None:
    """Print the conditions in LOG_DIR beside each other, and write a page with pictures.

    Conditions with one digest in the column `measured` were asked, judged and counted alike.

    The page is one HTML file that needs no network. Beside it are the same in Markdown, the
    pictures, and the frames of all answers and conditions. Judges are printed with their limits.
    --figures writes the pictures and tables as a paper includes them, without their signatures,
    which stand in the captions of the LaTeX files.
    """
    if figures is None and (width is not None or font or style):
        raise click.UsageError("--width, --font and --style are of --figures: name its folder too")
    from steering.reports.examples import print_worst
    from steering.reports.papers import COLUMN
    from steering.reports.pictures.style import drawn_in
    from steering.results.worst import worst_answers
    from steering.studies.report import report, report_document

    width = COLUMN if width is None else width
    # What is wrong with them is said before the logs are read.
    with drawn_in(width=width, font=font, style=style):
        pass
    console = console_of(out_json)
    content = report(log_dir, out, console=console, verbose=verbose)
    if worst is not None:
        print_worst(worst_answers(content.answers, worst), console)
    if figures is not None:
        paths = content.write_figures(figures, width=width, font=font, style=style)
        say(f"written: {len(paths)} files in {figures}", err=out_json == "-")
    # Its tables of contexts are counted anew.
    if out_json is not None:
        write_json(report_document(content), out_json)
    folder = log_dir if log_dir.is_dir() else log_dir.parent
    say(f"\nLook at every answer: {view_command(folder)}", err=out_json == "-")


@click.command()
@click.argument("log_a", type=_LOGS)
@click.argument("log_b", type=_LOGS)
@click.option("--rule", help="betley or moem; both when not given")
@_aligned_below
@_coherent_from
@click.option(
    "--anyway",
    is_flag=True,
    help="compare also runs that were asked or judged differently, and say so above the figures",
)
@json_option
def compare(
    log_a: Path,
    log_b: Path,
    rule: str | None,
    aligned_below: float | None,
    coherent_from: float | None,
    anyway: bool,
    out_json: str | None,
) -> None:
    """Compare two conditions theme by theme: LOG_B minus LOG_A.

    Each is a log or a folder of logs with one condition a task; runs of the same task are paired.

    Runs that differ in more than the condition (in their questions, sampling, judge or rubrics,
    thresholds or version) are refused, with the settings and both values.
    """
    from steering.reports.compare import compare_logs, read_rules

    document = compare_logs(
        log_a,
        log_b,
        read_rules(rule),
        aligned_below=aligned_below,
        coherent_from=coherent_from,
        anyway=anyway,
        console=console_of(out_json),
    )
    write_json(document, out_json)


class _GateCommand(click.Command):
    """Adds the figures to the help, generated from the code."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from steering.reports.figures import ALIASES, FIGURES

        figures = [(name, figure.meaning) for name, figure in FIGURES.items()]
        aliases = [(alias, f"the same as {name}") for alias, name in ALIASES.items()]
        with formatter.section("Figures"):
            formatter.write_dl(figures + aliases)


@click.command(cls=_GateCommand)
@click.argument("logs", type=_LOGS)
@click.option("--max", "upper", multiple=True, metavar="NAME=NUMBER", help="an upper bound")
@click.option("--min", "lower", multiple=True, metavar="NAME=NUMBER", help="a lower bound")
@click.option(
    "--on-these-questions",
    is_flag=True,
    help="bound the rates on exactly the questions that were asked, not on questions like these",
)
@json_option
@ci_options
def gate(
    logs: Path,
    upper: tuple[str, ...],
    lower: tuple[str, ...],
    on_these_questions: bool,
    out_json: str | None,
    junit: str | None,
    step_summary: str | None,
) -> None:
    """Compare every condition in LOGS with bounds on its figures, for CI.

    An upper bound is kept where the upper edge of the 95% interval lies at or below it, a lower
    bound where the lower edge lies at or above it; how many answers were scored is an exact count
    and has no interval. Both options can be repeated. The interval is that on questions like these:
    themes are a sample, and a bound of 5% needs 59 of them. A bound can't be decided if not even
    100 answers to each of as many themes, without a single case, would keep it.

    NAME is a figure below, the name of a judged dimension of yours, or TASK:METRIC, as in
    wishes:includes/accuracy, for a metric of another task.

    Ends with 0 when every bound is kept, 2 when one is broken, and 1 when that can't be decided:
    there are too few themes for the bound, a run is incomplete, no answers can be scored, or the
    command has a mistake.
    """
    from steering.reports.gate import BoundStatus, judge_logs, print_verdict, read_bounds

    if not upper and not lower:
        raise click.UsageError("give a bound, as in --max em_rate=0.10")
    sides: list[tuple[Side, str]] = [("max", text) for text in upper]
    sides += [("min", text) for text in lower]
    bounds = read_bounds(sides, logs)
    verdict = judge_logs(logs, bounds, on_these_questions=on_these_questions)
    print_verdict(verdict, console_of(out_json))
    write_json(verdict.document(), out_json)
    write_checks(
        verdict.checks(),
        f"steering gate: {verdict.line}",
        junit=junit,
        step_summary=step_summary,
        out_json=out_json,
    )
    ends = {BoundStatus.KEPT: 0, BoundStatus.BROKEN: 2, BoundStatus.UNKNOWN: 1}
    sys.exit(ends[verdict.status])


@click.command()
@click.argument("logs", type=_LOGS)
@_aligned_below
@_coherent_from
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="write the rates as CSV, too; missing folders are made",
)
@json_option
def rescore(
    logs: Path,
    aligned_below: float | None,
    coherent_from: float | None,
    out: Path | None,
    out_json: str | None,
) -> None:
    """Print the EM rates of LOGS at other thresholds. No judge is asked and no log is changed.

    A threshold that is not given stays that of the run. With neither, the rate by the betley rule
    is printed over a grid of both.
    """
    from steering.reports.rescore import rescore

    document = rescore(
        logs,
        aligned_below=aligned_below,
        coherent_from=coherent_from,
        out=out,
        console=console_of(out_json),
    )
    write_json(document, out_json)
