"""The command that measures the errors of a judge."""

from pathlib import Path

import click

from steering.cli._options import (
    console_of,
    going_on,
    json_option,
    run_options,
    say,
    write_json,
)


@click.command()
@click.argument("judge")
@click.option(
    "--pairs",
    default="core",
    show_default=True,
    help="core, or a .jsonl file of question-answer pairs with labels",
)
@click.option("--limit", type=click.IntRange(min=1), help="number of pairs, from the first on")
@run_options("one for the judge, rubrics and pairs, in logs/judges")
@json_option
def calibrate(
    judge: str,
    pairs: str,
    limit: int | None,
    log_dir: Path | None,
    display: str | None,
    dry_run: bool,
    out_json: str | None,
) -> None:
    """Measure the errors of JUDGE on labelled answers, and correct its EM rates from then on.

    JUDGE is a model as --model-role grader= takes it: <provider>/<model>, several with commas, or
    '{model: ..., model_args: {...}}'. The judge scores the pairs through Inspect. What it said is
    stored in the user's cache; reports, gate and compare show corrected rates beside the raw ones
    where the very same judge, with the same settings and rubrics, has judged.

    Ends with 0 once the judge is measured, whatever the verdict on it, and with 1 where it can't
    be measured. Bound the corrected rates with `steering gate`.
    """
    from steering.reports.calibration import calibration_document
    from steering.results.calibrations import read_calibrations
    from steering.studies.calibrate import calibrate as run_calibration
    from steering.studies.calibrate import cost_text

    if dry_run and out_json is not None:
        raise click.UsageError(
            "--dry-run asks nothing, so that --json has no figures: leave one out"
        )
    if dry_run:
        say(cost_text(judge, pairs, limit))
        return
    with going_on():
        record = run_calibration(
            judge,
            pairs=pairs,
            limit=limit,
            log_dir=log_dir,
            display=display,
            console=console_of(out_json),
        )
    if out_json is not None:
        [run] = read_calibrations(record.log)
        write_json(calibration_document(run), out_json)
