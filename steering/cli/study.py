"""Commands that run a study: many conditions, one eval-set, one finding."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from steering.cli._options import BuildError, read_settings

if TYPE_CHECKING:
    from steering.report.results import Result
    from steering.studies import Point


@click.group()
def study() -> None:
    """Run a study: a grid of conditions over one factor, as one eval-set.

    A study that was stopped goes on when its command is typed again, and repeats no answer.
    """


@study.command()
@click.option("--model", required=True, help="toy, an alias, a hub id or a local folder")
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
@click.option("-M", "model_args", multiple=True, metavar="NAME=VALUE", help="option of the model")
@click.option("-T", "task_args", multiple=True, metavar="NAME=VALUE", help="option of em_freeform")
@click.option(
    "-S", "settings", multiple=True, metavar="NAME=VALUE", help="setting of steering finetune"
)
@click.option("--grader", help="the judge, as --model-role grader= has it")
@click.option("--rule", type=click.Choice(["moem", "betley"]), default="moem", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="of the answers")
@click.option(
    "--log-dir",
    type=click.Path(path_type=Path),
    default=Path("logs/studies/finetuned"),
    show_default=True,
    help="the study's own folder, of its logs and adapters",
)
@click.option("--display", help="as Inspect's --display")
@click.option("--dry-run", is_flag=True, help="say what it would cost, and stop")
def finetuned(
    model: str,
    target: str,
    magnitudes: str | None,
    training_epochs: int | None,
    scales: str | None,
    model_args: tuple[str, ...],
    task_args: tuple[str, ...],
    settings: tuple[str, ...],
    grader: str | None,
    rule: Any,
    seed: int,
    log_dir: Path,
    display: str | None,
    dry_run: bool,
) -> None:
    """Compare a steered model with the same model finetuned on the same target task.

    Both arms are asked the same questions, at growing doses, and are compared where they have the
    same EM rate and where they are as coherent.
    """
    from steering.models import find_model
    from steering.studies import (
        MAGNITUDES,
        TRAINING_EPOCHS,
        Asked,
        FinetunedStudy,
        check_judges,
        num_answers,
        prepare,
        read_points,
        run_points,
    )

    chosen = FinetunedStudy(
        model=model,
        target=target,
        magnitudes=_numbers("magnitudes", magnitudes) or MAGNITUDES,
        training_epochs=training_epochs or TRAINING_EPOCHS,
        scales=_numbers("scales", scales),
        options=_options("-M", model_args),
        settings=read_settings(settings),
        adapters=log_dir / "adapters",
    )
    asked = Asked({"leak": chosen.task.subject} | _options("-T", task_args), grader, seed)
    finetuned_points = len(chosen.scales) or chosen.training_epochs
    num_points = 1 + len(chosen.magnitudes) + finetuned_points
    answers = num_answers(asked)
    check_judges(asked, toy=find_model(model).is_toy)
    click.echo(
        f"{num_points} conditions: the baseline, {len(chosen.magnitudes)} magnitudes, "
        f"{finetuned_points} of the adapter. {answers} answers each, {num_points * answers} "
        f"answers and {3 * num_points * answers} calls of each judge in all, and one for each "
        "misaligned answer; less what is there."
    )
    if dry_run:
        return
    from steering.construct.training import progress_bar

    points = prepare(chosen, progress_bar)
    logs = run_points(model, points, asked, log_dir, display=display)
    _print_finding(read_points(points, logs), log_dir, rule)


def _print_finding(found: "list[tuple[Point, Result]]", log_dir: Path, rule: Any) -> None:
    from steering.report import print_summary
    from steering.report.pictures import plot_front, save_figure
    from steering.studies import compare_arms, front, print_matched

    results = [result for _, result in found]
    print_summary(results)
    comparisons, missing = compare_arms(found, rule)
    print_matched(comparisons, missing, rule)
    title = f"{results[0].model}: what EM costs in coherence"
    signature = results[0].em_rate(rule).signature.partition("|condition:")[0]
    figure = plot_front(front(found, rule), title, signature)
    for path in save_figure(figure, log_dir / "front"):
        click.echo(f"written: {path}")
    click.echo(f"\nLook at every answer: inspect view --log-dir {log_dir}")


def _numbers(name: str, text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BuildError(
            f"--{name} {text} is no list of numbers: write them with commas, as in 0.5,1,2"
        ) from None


def _options(flag: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Options as Inspect reads them."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise BuildError(f"{flag} {pair} is no option: write name=value")
        found[name] = yaml.safe_load(value)
    return found
