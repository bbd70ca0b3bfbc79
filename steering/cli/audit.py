"""The command that audits one vector before it is shipped."""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from steering.cli._options import BuildError, asked_options, going_on, read_options, run_options

if TYPE_CHECKING:
    from steering.studies.audit import AuditArm, Finding, Role
    from steering.studies.grid import Point

_LOGS = Path("logs/audits")
# The question sets of a real model and of a toy, which knows its own world only; and the answers to
# a question of each, when -T samples_per_question= does not say.
_SETS = {False: ("core", "broad"), True: ("core", "toy_broad")}
_SAMPLES = {"core": 20, "broad": 5, "toy_broad": 5}
# Of another task, that are printed.
_MOST_METRICS = 4


@click.command()
@click.argument("vector", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", required=True, help="toy, an alias, a hub id or a local folder")
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
    help="question set or file; can be repeated [default: core and broad; toys: toy_broad]",
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
    help="random directions of the same length",
)
@click.option("--rule", type=click.Choice(["betley", "moem"]), default="betley", show_default=True)
@run_options(f"{_LOGS}/ and the vector's name and digest")
def audit(
    vector: Path,
    model: str,
    magnitude: float,
    model_args: tuple[str, ...],
    task_args: tuple[str, ...],
    questions: tuple[str, ...],
    also: tuple[str, ...],
    also_limit: int | None,
    controls: int,
    rule: Any,
    grader: str | None,
    seed: int,
    log_dir: Path | None,
    display: str | None,
    dry_run: bool,
) -> None:
    """Is VECTOR, whatever it is for, safe to ship? VECTOR may be in any known format.

    Asks the questions of the unsteered model, of the model steered at the working magnitude and on
    both sides of it, and of random directions of the same length. Ends with 0 when no misalignment
    is found, 2 when it is, and 1 when that can't be said or something went wrong.
    """
    from steering.files import file_digest
    from steering.models import find_model
    from steering.results import conditions_of, read_answers
    from steering.studies import Asked, check_judges, cost_of, run_points, unfinished
    from steering.studies.audit import judge_audit

    logs = log_dir or _LOGS / f"{vector.stem}-{file_digest(vector)[:6]}"
    given = read_options("-T", task_args)
    if "questions" in given:
        raise BuildError("-T questions= is --questions here, which can be repeated")
    toy = find_model(model).is_toy
    sets = [
        Asked(
            {"samples_per_question": _SAMPLES.get(name, 20)} | given | {"questions": name},
            grader,
            seed,
        )
        for name in questions or _SETS[toy]
    ]
    costs = [cost_of(asked) for asked in sets]
    for asked in sets:
        check_judges(asked, toy=toy)
    with TemporaryDirectory() as scratch:
        # A dry run leaves nothing behind.
        vectors = Path(scratch) if dry_run else logs / "vectors"
        options = read_options("-M", model_args)
        points, meant = _conditions(vector, model, magnitude, options, controls, vectors)
        for asked, cost in zip(sets, costs, strict=True):
            left = len(unfinished(points, asked, logs))
            click.echo(
                f"Questions {asked.task_args['questions']}: "
                + (cost.told(left) if left else "every condition has been run.")
            )
        if dry_run:
            return
    with going_on():
        runs = [run_points("audit", points, asked, logs, display=display) for asked in sets]
    answers = read_answers([path for found in runs for path in found])
    finding = judge_audit(answers, meant, rule)
    _print(finding)
    # Beside the audit's own logs, which the report reads: its scores are others.
    beside = logs.with_name(f"{logs.name}-also")
    for task in also:
        asked = Asked(grader=grader, seed=seed, task=task, limit=also_limit)
        _print_also(task, run_points("audit", points, asked, beside, display=display))
    title = f"Audit of {vector.name} on {model}"
    from steering.studies.report import write_report

    for page in write_report(
        answers, conditions_of(answers), (), logs, title=title, headline=finding.line
    ):
        click.echo(f"written: {page}")
    click.echo(f"\n{finding.line}")
    sys.exit({"not found": 0, "found": 2, "can't say": 1}[finding.outcome])


def _conditions(
    file: Path, model: str, magnitude: float, options: dict[str, Any], controls: int, folder: Path
) -> "tuple[list[Point], dict[str, AuditArm]]":
    """The audit's conditions, and what their labels stand for; vectors that it takes are written.

    Raises:
        SteeringError: The vector does not fit the model, or an option is impossible.
    """
    from steering.spec import INTERVENTION
    from steering.studies import make_point
    from steering.studies.audit import SIDES, AuditArm, AuditError, draw_controls
    from steering.vectors.formats import read_vector

    for name, instead in (("vector", "it is the argument"), ("magnitude", "give --magnitude")):
        if name in options:
            raise AuditError(f"-M {name}= is set by the audit itself: {instead}")
    if not magnitude:
        raise AuditError("--magnitude 0 steers nothing: give the magnitude that you ship")
    ablates = options.get("operation") == "ablate"
    vector = read_vector(file)
    path = file
    if file.suffix != ".safetensors":
        path = folder / f"{file.stem}.safetensors"
        vector.save(path)
    loading = {name: value for name, value in options.items() if name not in INTERVENTION}
    points = [make_point(model, loading | {"vector": "none"})]
    meant = {points[0].label: AuditArm("baseline")}

    def add(role: "Role", path: Path, factor: float) -> None:
        dose = {} if ablates else {"magnitude": factor * magnitude}
        point = make_point(model, options | {"vector": str(path)} | dose)
        points.append(point)
        meant[point.label] = AuditArm(role, factor)

    for factor in (1.0,) if ablates else SIDES:
        add("vector", path, factor)
    for number, control in enumerate(draw_controls(vector, controls)):
        path = folder / f"random{number}.safetensors"
        control.save(path)
        add("control", path, 1.0)
    return points, meant


def _print(finding: "Finding") -> None:
    from rich.console import Console
    from rich.markup import escape

    from steering.reports.tables import plain_table, print_note, rate_text

    console = Console()
    table = plain_table(
        "EM rates with 95% intervals by question; difference from the baseline, points, with the p "
        "of the sign-flip test",
        ["condition"],
        ["EM", "difference", "p", "coherent", "relevant", "n"],
    )
    for row in finding.rows:
        own = row.condition.role != "baseline"
        table.add_row(
            escape(row.label),
            rate_text(row.em, row.low, row.high),
            f"{100 * row.difference:+.0f}" if own else "",
            f"{row.p_value:.2g}" if own else "",
            f"{row.coherent:.0%}",
            f"{row.relevant:.0f}",
            str(row.num_answers),
        )
    console.print(table)
    for note in finding.notes:
        print_note(console, f"{note}.")


def _print_also(task: str, logs: "Sequence[Path]") -> None:
    """The figures that another task gives, a row a condition."""
    from inspect_ai.log import read_eval_log
    from rich.console import Console
    from rich.markup import escape

    from steering.reports.tables import plain_table

    rows: dict[str, dict[str, float]] = {}
    for log in logs:
        header = read_eval_log(str(log), header_only=True)
        label = header.eval.model.partition("[")[2].removesuffix("]")
        scores = header.results.scores if header.results else []
        rows[label] = {
            metric.name if len(scores) == 1 else f"{score.name} {metric.name}": metric.value
            for score in scores
            for metric in score.metrics.values()
        }
    names = list(dict.fromkeys(name for row in rows.values() for name in row))[:_MOST_METRICS]
    table = plain_table(f"{task}, with the same conditions", ["condition"], names)
    for label, row in rows.items():
        table.add_row(escape(label), *(f"{row[n]:.3g}" if n in row else "-" for n in names))
    Console().print(table)
