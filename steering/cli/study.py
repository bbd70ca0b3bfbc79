"""Commands that run a study: many conditions, one eval-set a model, one finding."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steering.cli._options import (
    BuildError,
    asked_options,
    going_on,
    read_list,
    read_options,
    run_options,
)
from steering.cli.claims import print_verdicts
from steering.vocabulary import FACTORS, Factor

if TYPE_CHECKING:
    from steering.studies import Cost, Shard, Study

LOGS = Path("logs/studies")


@click.group()
def study() -> None:
    """Run a study: a grid of conditions over one factor, asked the same questions.

    A study that was stopped goes on when its command is typed again, and repeats no answer. Values
    that are added later join those that are there.
    """


_shard = click.option(
    "--shard", metavar="N/M", help="run the Nth of M parts only, on one machine of several"
)


def _grid(factor: Factor) -> None:
    """Add the command of a grid study."""

    @asked_options
    @run_options(f"{LOGS}/{factor}")
    def run(
        model: str | None,
        axes: tuple[str, ...],
        model_args: tuple[str, ...],
        task_args: tuple[str, ...],
        grader: str | None,
        seed: int,
        log_dir: Path | None,
        display: str | None,
        dry_run: bool,
        shard: str | None,
        **of_rank: Any,
    ) -> None:
        from steering.studies import make_study, read_shard

        chosen = make_study(
            factor,
            models=model.split(",") if model else None,
            axes={name: read_list(value) for name, value in read_options("-A", axes).items()},
            options=read_options("-M", model_args),
            task=read_options("-T", task_args),
            grader=grader,
            seed=seed,
            **{name: read_list(value) for name, value in of_rank.items() if value is not None},
        )
        _run_grid(chosen, log_dir, read_shard(shard), display=display, dry_run=dry_run)

    run = _shard(run)
    if factor == "rank":
        run = click.option(
            "--top",
            help="principal directions that a vector is projected on [default: 1, 2, 4, all]",
        )(run)
        run = click.option(
            "--top-of",
            help="target tasks whose vectors they are the principal directions of; the first one's "
            "vector is projected [default: those that come with the model's world]",
        )(run)
    many = factor in ("family", "scale")
    run = click.option(
        "-A",
        "--axis",
        "axes",
        multiple=True,
        metavar="NAME=V1,V2",
        help="values of any -M option; several axes are crossed",
    )(run)
    run = click.option(
        "--model",
        help="models, with commas [default: the toys]"
        if many
        else "toy, an alias, a hub id or a local folder; several with commas [default: toy]",
    )(run)
    help = f"Vary {FACTORS[factor]}." if not many else f"Compare {FACTORS[factor]}."
    study.command(factor, help=help)(run)


for _factor in FACTORS:
    if _factor != "finetuned":
        _grid(_factor)


@study.command("run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_shard
@run_options(f"{LOGS}/ and the factor")
def run_file(
    file: Path, log_dir: Path | None, display: str | None, dry_run: bool, shard: str | None
) -> None:
    """Run the grid that FILE describes: the study.yaml beside a study's logs, or one like it."""
    from steering.studies import read_fields, read_shard, read_study

    fields, part = read_fields(file), read_shard(shard)
    if fields["factor"] != "finetuned":
        _run_grid(read_study(file), log_dir, part, display=display, dry_run=dry_run)
        return
    del fields["factor"]
    _run_finetuned(fields, log_dir, part, display=display, dry_run=dry_run, source=str(file))


def _run_grid(
    study: "Study", log_dir: Path | None, shard: "Shard", *, display: str | None, dry_run: bool
) -> None:
    from steering.models import find_model
    from steering.studies import (
        Asked,
        check_judges,
        cost_of,
        grid_points,
        keep_study,
        projected_points,
        run_points,
        unfinished,
    )
    from steering.training.progress import progress_bar

    logs = log_dir or LOGS / study.factor
    asked = Asked(study.task, study.grader, study.seed)
    cost = cost_of(asked)
    for name in study.models:
        check_judges(asked, toy=find_model(name).is_toy)
    points = shard.part(grid_points(study))
    there, missing = projected_points(study, logs / "vectors", None) if shard.is_last else ([], 0)
    left = missing + len(unfinished([*points, *there], asked, logs))
    num_points = len(points) + len(there) + missing
    if not _say(study.factor, cost, left, num_points, shard, dry_run=dry_run):
        return
    keep_study(study.fields(), logs)
    with going_on():
        if shard.is_last:
            points += projected_points(study, logs / "vectors", progress_bar)[0]
        found = run_points(study.factor, points, asked, logs, display=display)
    if shard.whole:
        from steering.studies.report import report

        report(found, logs / "report")
    else:
        _say_how_to_merge(shard, logs)


def _say(
    factor: Factor, cost: "Cost", left: int, num_points: int, shard: "Shard", *, dry_run: bool
) -> bool:
    """Tell what a study is and costs; whether there is anything to run."""
    of = "" if shard.whole else f", shard {shard}"
    click.echo(f"Study {factor}{of}: {FACTORS[factor]}.")
    if not num_points:
        click.echo("This shard has no condition of it: nothing to run.")
        return False
    click.echo(cost.told(left) if left else "Every condition has been run.")
    return not dry_run


def _say_how_to_merge(shard: "Shard", logs: Path) -> None:
    click.echo(
        f"Shard {shard} is done, in {logs}. When all {shard.count} are, copy what their folders "
        "hold into one folder; steering report and steering claims take that as they take a study."
    )


@study.command(help=f"Compare {FACTORS['finetuned']}.")
@click.option("--model", default="toy", show_default=True, help="toy, an alias, a hub id, a folder")
@click.option("--target", default="medical", show_default=True, help="target task of both arms")
@click.option("--magnitudes", help="of the steered arm, separated by commas [default: 0.25 to 2]")
@click.option(
    "--training-epochs",
    type=click.IntRange(min=1),
    help="of the finetuned arm, all up to this [default: 5]",
)
@click.option(
    "--scales", help="doses of the finetuned arm instead: multiples of the last adapter's scaling"
)
@click.option(
    "-S", "settings", multiple=True, metavar="NAME=VALUE", help="setting of steering finetune"
)
@click.option("--rule", type=click.Choice(["moem", "betley"]), default="moem", show_default=True)
@_shard
@asked_options
@run_options(f"{LOGS}/finetuned")
def finetuned(
    model: str,
    target: str,
    magnitudes: str | None,
    training_epochs: int | None,
    scales: str | None,
    settings: tuple[str, ...],
    rule: Any,
    model_args: tuple[str, ...],
    task_args: tuple[str, ...],
    grader: str | None,
    seed: int,
    log_dir: Path | None,
    display: str | None,
    dry_run: bool,
    shard: str | None,
) -> None:
    """Both arms are asked the same questions, at growing doses, and are compared where they have
    the same EM rate and where they are as coherent.
    """
    from steering.studies import read_shard

    given = {
        "model": model,
        "target": target,
        "magnitudes": _numbers("magnitudes", magnitudes) or None,
        "training_epochs": training_epochs,
        "scales": _numbers("scales", scales),
        "options": read_options("-M", model_args),
        "settings": read_options("-S", settings),
        "task": read_options("-T", task_args),
        "grader": grader,
        "seed": seed,
        "rule": rule,
    }
    part = read_shard(shard)
    _run_finetuned(given, log_dir, part, display=display, dry_run=dry_run, source="")


def _run_finetuned(
    given: dict[str, Any],
    log_dir: Path | None,
    shard: "Shard",
    *,
    display: str | None,
    dry_run: bool,
    source: str,
) -> None:
    from steering.models import find_model
    from steering.studies import (
        Asked,
        check_judges,
        compare_arms,
        cost_of,
        keep_study,
        make_finetuned_study,
        prepare,
        print_matched,
        run_points,
        unfinished,
    )
    from steering.training.progress import progress_bar

    logs = log_dir or LOGS / "finetuned"
    fields = {name: value for name, value in given.items() if value is not None}
    task, grader = fields.pop("task", {}), fields.pop("grader", None)
    seed, rule = fields.pop("seed", 0), fields.pop("rule", "moem")
    chosen = make_finetuned_study(fields, adapters=logs / "adapters", source=source)
    asked = Asked({"leak": chosen.task.subject} | task, grader, seed)
    cost = cost_of(asked)
    check_judges(asked, toy=find_model(chosen.model).is_toy)
    if not shard.is_last:
        # One training run gives all of the finetuned arm.
        _say("finetuned", cost, 0, 0, shard, dry_run=dry_run)
        return
    there, missing = prepare(chosen, None)
    untrained = chosen.num_finetuned - (len(there) - 1 - len(chosen.magnitudes))
    if missing:
        click.echo(f"Trains {len(missing)} training epochs of an adapter on {chosen.target} first.")
    left = len(unfinished(there, asked, logs)) + untrained
    if not _say("finetuned", cost, left, len(there) + untrained, shard, dry_run=dry_run):
        return
    told = {"task": dict(asked.task_args), "grader": grader, "seed": seed, "rule": rule}
    keep_study({"factor": "finetuned"} | chosen.fields() | told, logs)
    with going_on():
        points, _ = prepare(chosen, progress_bar)
        found = run_points("finetuned", points, asked, logs, display=display)
    if not shard.whole:
        _say_how_to_merge(shard, logs)
        return
    from steering.studies.report import report

    answers = report(found, logs / "report").answers
    print_matched(*compare_arms(answers, rule), rule)


@study.command("all")
@click.option("--model", default="toy", show_default=True, help="toy, an alias, a hub id, a folder")
@_shard
@asked_options
@run_options(str(LOGS))
@click.pass_context
def run_all(context: click.Context, model: str, log_dir: Path | None, **asked: Any) -> None:
    """Run every study in turn, then tell what they say of the paper's claims.

    The studies `family` and `scale` compare several models: they are run on the toys only, and left
    out for any other model.
    """
    from steering.models import find_model
    from steering.results.frame import read_answers
    from steering.studies import judge_claims, read_shard

    logs = log_dir or LOGS
    toy = find_model(model).is_toy
    for factor in FACTORS:
        of_models = factor in ("family", "scale")
        if of_models and not toy:
            click.echo(f"Study {factor}: left out; run it with --model first,second.")
            continue
        click.echo()
        named = None if of_models else model
        context.invoke(study.commands[factor], model=named, log_dir=logs / factor, **asked)
    if not asked["dry_run"] and read_shard(asked["shard"]).whole:
        print_verdicts(judge_claims(read_answers(logs)))


def _numbers(name: str, text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BuildError(
            f"--{name} {text} is no list of numbers: write them with commas, as in 0.5,1,2"
        ) from None
