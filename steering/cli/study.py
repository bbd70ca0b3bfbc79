"""Commands that run a study: many conditions, one eval-set a model, one finding."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steering.cli._options import (
    all_options,
    asked_options,
    going_on,
    read_list,
    read_options,
    run_options,
    say,
)
from steering.text import view_command

if TYPE_CHECKING:
    from steering.studies.run import StudyResult

_shard = click.option(
    "--shard", metavar="N/M", help="run the Nth of M parts only, on one machine of several"
)
_model = click.option(
    "--model",
    default="toy",
    show_default=True,
    help="toy, an alias, a hub id, a folder or a GGUF file",
)
# Everything that a study takes from the command line.
_PARSED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "axes": ("axes", lambda pairs: {k: read_list(v) for k, v in read_options("-A", pairs).items()}),
    "model_args": ("options", lambda pairs: read_options("-M", pairs)),
    "task_args": ("task", lambda pairs: read_options("-T", pairs)),
    "settings": ("settings", lambda pairs: read_options("-S", pairs)),
    **{
        name: (name, read_list)
        for name in (
            *("top", "top_of", "magnitudes", "scales", "build_seeds"),
            *("arms", "examples", "contrasts", "control_magnitudes"),
        )
    },
}


class _Studies(click.Group):
    """A command a factor; factors are looked up when they are needed, since that takes a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from steering.studies.grid import FACTORS

        return [*FACTORS, "run", "all"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from steering.studies.grid import FACTORS

        if cmd_name in FACTORS and cmd_name not in self.commands:
            _add_grid(cmd_name)
        return super().get_command(ctx, cmd_name)


_other_tasks = all_options(
    click.option(
        "--task",
        "tasks",
        multiple=True,
        metavar="TASK",
        help="another Inspect task in place of em_freeform and em_choice (FILE, FILE@TASK or "
        "PACKAGE/TASK); -T has its options",
    ),
    click.option("--also", multiple=True, metavar="TASK", help="another Inspect task besides them"),
    click.option("--limit", type=click.IntRange(min=1), help="samples of each of these tasks"),
)


@click.group(cls=_Studies)
def study() -> None:
    """Run a study: a grid of conditions over one factor, asked the same questions.

    A study that was stopped goes on when its command is typed again, and repeats no answer. Values
    that are added later join those that are there.
    """


def _run(factor: str, log_dir: Path | None, **typed: Any) -> None:
    """Parse what was typed, run the study and print what came of it."""
    from steering.studies.run import run_study

    with going_on():
        _print(run_study(factor, logs=log_dir, tell=say, **_parse(typed)))


def _parse(typed: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `run_study`, without those that were not typed."""
    arguments = {}
    for name, value in typed.items():
        target, parse = _PARSED.get(name, (name, lambda value: value))
        # An option that can be repeated is empty when it was not typed.
        if value is not None and value != ():
            arguments[target] = parse(value)
    return arguments


def _print(result: "StudyResult") -> None:
    from rich.console import Console

    from steering.studies.finetuned import FinetunedStudy
    from steering.studies.printing import print_matched
    from steering.studies.report import print_figures

    if result.report is None:
        if result.is_done:
            say(
                f"Shard {result.shard} is done, in {result.folder}. When all {result.shard.count} "
                "are done, copy the contents of their folders into one folder; steering report and "
                "steering claims read it like any study."
            )
        return
    print_figures(result.report, Console())
    for page in result.report.files:
        say(f"report: {page}")
    say(f"\nLook at every answer: {view_command(result.folder)}")
    if result.comparisons or result.not_compared:
        assert isinstance(result.study, FinetunedStudy)
        print_matched(result.comparisons, result.not_compared, result.study.rule)


def _add_grid(factor: str) -> None:
    """Add the command of a grid study."""
    from steering.studies.grid import FACTORS

    entry = FACTORS[factor]

    @click.option(
        "--model",
        help="models, with commas [default: the toys]"
        if entry.compares_models
        else "toy, an alias, a hub id, a folder or a GGUF file; several with commas [default: toy]",
    )
    @click.option(
        "-A",
        "--axis",
        "axes",
        multiple=True,
        metavar="NAME=V1,V2",
        help="values of an -M option of the vector, or several vector files; axes are crossed",
    )
    @_shard
    @asked_options
    @_other_tasks
    @run_options(f"logs/studies/{factor}")
    def run(model: str | None, **typed: Any) -> None:
        _run(factor, model=model.split(",") if model else None, **typed)

    if factor == "rank":
        run = click.option(
            "--top-of",
            help="target tasks whose vectors they are the principal directions of; the first one's "
            "vector is projected [default: those that come with the model's world]",
        )(run)
        run = click.option(
            "--top",
            help="principal directions that a vector is projected on [default: 1, 2, 4, all]",
        )(run)
    verb = "Compare" if entry.compares_models else "Vary"
    study.command(factor, help=f"{verb} {entry.varies}.")(run)


@study.command("finetuned")
@_model
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
@click.option("--build-seeds", help="of the vectors and adapters [default: 0,1,2]")
@click.option(
    "-S", "settings", multiple=True, metavar="NAME=VALUE", help="setting of steering finetune"
)
@click.option("--rule", type=click.Choice(["moem", "betley"]), default="moem", show_default=True)
@_shard
@asked_options
@_other_tasks
@run_options("logs/studies/finetuned")
def finetuned(**typed: Any) -> None:
    """Compare the steered model with the same model finetuned on the same target task.

    Both arms are asked the same questions, at growing doses, and are compared where they have the
    same EM rate and where they are equally coherent.
    """
    _run("finetuned", **typed)


@study.command("arms")
@_model
@click.option("--target", default="medical", show_default=True, help="target task of all arms")
@click.option(
    "--arms",
    help="which, with commas [default: steered,finetuned,prompted,contrast,shuffled,random]",
)
@click.option("--magnitudes", help="of the steered arm [default: 0.5,0.75,1,1.5,2]")
@click.option("--control-magnitudes", help="of contrasts and other controls [default: 1,2,4]")
@click.option("--scales", help="of the finetuned arm's adapters [default: 0.25,0.5,0.75,1]")
@click.option(
    "--training-epochs", type=click.IntRange(min=1), help="of the finetuned arm [default: 5]"
)
@click.option("--examples", help="numbers of examples shown [default: 4,16; toys: 1,4]")
@click.option("--contrasts", help="a vector of each [default: all of the model's world]")
@click.option("--build-seeds", help="of vectors, adapters and prompts [default: 0,1,2]")
@click.option(
    "-S", "settings", multiple=True, metavar="NAME=VALUE", help="setting of steering finetune"
)
@click.option("--rule", type=click.Choice(["moem", "betley"]), default="moem", show_default=True)
@_shard
@asked_options
@_other_tasks
@run_options("logs/studies/arms")
def arms(**typed: Any) -> None:
    """Compare the steered model with everything else that might explain what it does.

    The same model finetuned, told to behave so, shown examples, and steered by vectors that have
    nothing to do with harm. The arms are compared where they have the same narrow effect and where
    they do the same damage, by em_choice; with --grader none, by nothing else.
    """
    _run("arms", **typed)


@study.command("run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_shard
@run_options("logs/studies/ and the factor")
def run_file(file: Path, **typed: Any) -> None:
    """Run the study that FILE describes: the study.yaml beside a study's logs, or one like it."""
    _run(str(file), **typed)


@study.command("all")
@_model
@_shard
@asked_options
@run_options("logs/studies")
def run_all(log_dir: Path | None, **typed: Any) -> None:
    """Run every study in turn, then tell what they say of the claims.

    The studies `family` and `scale` compare several models: they are run on the toys only, and left
    out for any other model. The study `arms` is long, and left out: run it by itself.
    """
    from steering.results import read_results
    from steering.studies.arm_claims import judge_all
    from steering.studies.printing import print_verdicts
    from steering.studies.run import LOGS, run_studies

    logs = log_dir or LOGS
    with going_on():
        results = []
        for result in run_studies(logs=logs, tell=say, **_parse(typed)):
            _print(result)
            say("")
            results.append(result)
    if all(result.report for result in results):
        print_verdicts(judge_all(*read_results(logs)))
