"""What several commands share: their options, what they write, and the names of vector files."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from steering.errors import SteeringError
from steering.foreign import parse_yaml
from steering.spec import OPTIONS, Option
from steering.text import terminal
from steering.training.construction import DEFAULT_METHOD, TOY_METHOD

if TYPE_CHECKING:
    from rich.console import Console

    from steering.reports.ci import Check
    from steering.results.document import Document


def all_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator; their order is that of the help."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


model_option = click.option(
    "--model", required=True, help="toy, an alias, a hub id, a folder or a GGUF file"
)
target_option = click.option("--target", default="medical", show_default=True, help="target task")
construction_option = click.option(
    "--method",
    metavar="NAME",
    help=f"construction method; see below [default: {DEFAULT_METHOD}; toy: {TOY_METHOD}]",
)
settings_option = click.option(
    "-S", "settings", multiple=True, metavar="NAME=VALUE", help="a setting of the method; see below"
)
# The task of a study or audit, its judge and its seed.
asked_options = all_options(
    click.option(
        "-M", "model_args", multiple=True, metavar="NAME=VALUE", help="option of the model"
    ),
    click.option(
        "-T",
        "task_args",
        multiple=True,
        metavar="NAME=VALUE",
        help="option of em_freeform; choices= is of em_choice (none: left out)",
    ),
    click.option(
        "--grader", help="the judge, as --model-role grader= has it (none: em_choice only)"
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="of the answers"),
)


json_option = click.option(
    "--json", "out_json", metavar="FILE", help="write the figures as JSON, too; - prints them alone"
)
# Of a command that ends in a verdict.
ci_options = all_options(
    click.option(
        "--junit", metavar="FILE", help="write the verdict as JUnit XML, too; undecided is an error"
    ),
    click.option(
        "--step-summary",
        metavar="FILE",
        envvar="GITHUB_STEP_SUMMARY",
        show_envvar=True,
        help="add the verdict to the end of a file, in Markdown",
    ),
)


def run_options(folder: str) -> Callable[[Any], Any]:
    """Options of a run; `folder` is the default folder of its logs."""
    return all_options(
        click.option(
            "--log-dir",
            type=click.Path(path_type=Path),
            help=f"a folder of its own [default: {folder}]",
        ),
        click.option("--display", help="as Inspect's --display"),
        click.option("--dry-run", is_flag=True, help="say what it would cost, and stop"),
    )


def loading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of how the model is loaded, from the spec; the command gets them as `loading`."""
    flags = {option.name: option for option in OPTIONS.values() if option.flag}

    @wraps(command)
    def with_loading(*args: Any, **options: Any) -> Any:
        values = {name: options.pop(name) for name in flags}
        loading = {name: value for name, value in values.items() if value is not None}
        return command(*args, loading=loading, **options)

    return all_options(*(_loading_option(option) for option in flags.values()))(with_loading)


def _loading_option(option: Option) -> Callable[[Any], Any]:
    """An option of the spec as a command has it; one that is true by default is a flag to unset."""
    assert option.flag
    meaning = option.description.replace("`", "")
    if option.default is True:
        meaning = f"{option.name}=false; {meaning}"
        return click.option(option.flag, option.name, flag_value=False, default=None, help=meaning)
    if option.default is False:
        return click.option(option.flag, option.name, flag_value=True, default=None, help=meaning)
    if option.default is not None:
        meaning += f" [default: {option.default}]"
    return click.option(option.flag, option.name, help=meaning)


class TrainingCommand(click.Command):
    """A command whose help ends with methods and their settings."""

    def __init__(self, *args: Any, builds: Literal["vector", "adapter"], **options: Any) -> None:
        super().__init__(*args, **options)
        self._builds = builds

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from steering.training.construction import CONSTRUCTION_METHODS
        from steering.training.finetuning import FINETUNING_METHODS
        from steering.training.methods import Method

        methods: Mapping[str, type[Method]] = (
            CONSTRUCTION_METHODS if self._builds == "vector" else FINETUNING_METHODS
        )
        with formatter.section("Methods"):
            formatter.write_dl([(name, method.summary) for name, method in methods.items()])
        for name, method in methods.items():
            rows = [
                (f"{setting}={field.default}", field.description or "")
                for setting, field in method.model_fields.items()
            ]
            if rows:
                with formatter.section(f"Settings of {name} (-S)"):
                    formatter.write_dl(rows)


def say(text: str, *, err: bool = False) -> None:
    """Print a text that may quote anything: nothing in it acts on the terminal."""
    click.echo(terminal(text), err=err)


def console_of(out_json: str | None) -> "Console":
    """Where tables are printed: nowhere, where `--json -` prints the figures alone."""
    from rich.console import Console

    return Console(quiet=out_json == "-")


def write_json(document: "Document", out_json: str | None) -> None:
    """Write a command's figures where `--json` asks for it; - is the terminal."""
    if out_json == "-":
        say(document.text().rstrip("\n"))
    elif out_json is not None:
        document.write(out_json)
        say(f"written: {out_json}")


def write_checks(
    checks: "Sequence[Check]",
    heading: str,
    *,
    junit: str | None,
    step_summary: str | None,
    out_json: str | None,
) -> None:
    """Write verdicts where `--junit` and `--step-summary` ask for it; in a GitHub job, annotate."""
    from steering.reports.ci import annotations, append_summary, write_junit

    if junit is not None:
        write_junit(Path(junit), checks)
        say(f"written: {junit}", err=out_json == "-")
    if step_summary is not None:
        append_summary(Path(step_summary), heading, checks)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in annotations(checks):
            say(line, err=out_json == "-")


def read_options(flag: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Options of the form name=value, read as Inspect reads them.

    Raises:
        SteeringError: One has no value, or is given twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise SteeringError(f"{flag} {pair} has no value: write name=value")
        if name in options:
            raise SteeringError(f"{name} is given twice: leave one of them out")
        options[name] = parse_yaml(value, f"{flag} {name}", "option")
    return options


def read_list(value: Any) -> list[Any]:
    """Values separated by commas, each read as YAML."""
    if isinstance(value, list):
        return value
    return [parse_yaml(part, f"the value {part!r}", "option") for part in str(value).split(",")]


@contextmanager
def going_on(whence: str = "from here") -> Iterator[None]:
    """On Ctrl-C, say how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nStopped. The same command goes on {whence}.", err=True)
        raise


def name_files(files: Sequence[Path]) -> dict[str, Path]:
    """A name for each file: its stem, with as many folders as distinguish it from the others.

    Raises:
        SteeringError: One is given twice.
    """
    whole = [(*path.resolve().parent.parts[1:], path.stem) for path in files]
    for path, count in Counter(path.resolve() for path in files).items():
        if count > 1:
            raise SteeringError(f"{path} is given {count} times: give each file once")
    names = {}
    for path, parts in zip(files, whole, strict=True):
        depth = 1
        while sum(other[-depth:] == parts[-depth:] for other in whole) > 1 and depth < len(parts):
            depth += 1
        names["/".join(parts[-depth:])] = path
    return names
