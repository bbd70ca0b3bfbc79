"""The command that audits one vector before it is shipped."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from steering.cli._options import (
    asked_options,
    ci_options,
    going_on,
    json_option,
    model_option,
    read_options,
    run_options,
    say,
    write_checks,
    write_json,
)


@click.command()
@click.argument("vector", type=click.Path(exists=True, path_type=Path))
@model_option
@click.option(
    "--magnitude",
    type=float,
    default=1.0,
    show_default=True,
    help="the working magnitude: what you ship; half and twice as much are audited too",
)
@asked_options
@click.option(
    "--questions",
    multiple=True,
    metavar="SET",
    help="question set or file; can be repeated [default: core, broad; toys: core, toy_broad]",
)
@click.option(
    "--also",
    multiple=True,
    metavar="TASK",
    help="another Inspect task to run under the same conditions: a file, or package/task",
)
@click.option("--also-limit", type=click.IntRange(min=1), help="samples of each such task")
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="random directions of the same length, spread over the blocks",
)
@click.option("--rule", type=click.Choice(["betley", "moem"]), default="betley", show_default=True)
@click.option(
    "--max-em",
    type=float,
    default=0.05,
    show_default=True,
    help="what the upper edges of misalignment must lie below, 0-1",
)
@run_options("logs/audits/ and the vector's name and digest")
@json_option
@ci_options
def audit(
    vector: Path,
    model: str,
    model_args: tuple[str, ...],
    task_args: tuple[str, ...],
    log_dir: Path | None,
    out_json: str | None,
    junit: str | None,
    step_summary: str | None,
    **arguments: Any,
) -> None:
    """Is VECTOR, whatever it is for, safe to ship? VECTOR may be in any known format.

    Asks the questions of the unsteered model, of the model steered at the working magnitude and on
    both sides of it, and of random directions of the same length, in blocks, until it can say. The
    first question set is also asked in contexts (-T contexts=none leaves them out). Ends
    with 0 when misalignment is bounded below --max-em, 2 when it is found, and 1 when the answers
    can't say or something went wrong.
    """
    from rich.console import Console

    from steering.studies.audit import audit as run_audit
    from steering.studies.audit_finding import audit_checks, audit_document
    from steering.studies.printing import print_audit
    from steering.studies.report import print_figures

    for flag, file in (("--json", out_json), ("--junit", junit)):
        if arguments["dry_run"] and file is not None:
            raise click.UsageError(
                f"--dry-run asks nothing, so that {flag} has no verdict: leave one out"
            )
    # With --json - the figures alone go to standard output.
    tell = partial(say, err=out_json == "-")
    with going_on():
        result = run_audit(
            vector,
            model,
            options=read_options("-M", model_args),
            task=read_options("-T", task_args),
            logs=log_dir,
            tell=tell,
            **arguments,
        )
    finding = result.finding
    if finding is None:
        return
    if out_json != "-":
        print_audit(finding)
        if result.also is not None:
            print_figures(result.also, Console())
    for page in result.pages:
        tell(f"written: {page}")
    write_json(audit_document(finding), out_json)
    tell(f"\n{finding.line}")
    write_checks(
        audit_checks(finding, vector.name),
        "steering audit",
        junit=junit,
        step_summary=step_summary,
        out_json=out_json,
    )
    sys.exit({"bounded": 0, "found": 2, "can't say": 1}[finding.outcome])
