"""What several commands share: settings as options, names of files, and where they write."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
import yaml
from pydantic import BaseModel

from steering.errors import SteeringError

# The vectors of a command that looks at several.
vector_files = click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)


def _all(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator; their order is that of the help."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


# What conditions are asked, and by whom they are judged.
asked_options = _all(
    click.option(
        "-M", "model_args", multiple=True, metavar="NAME=VALUE", help="option of the model"
    ),
    click.option(
        "-T", "task_args", multiple=True, metavar="NAME=VALUE", help="option of em_freeform"
    ),
    click.option("--grader", help="the judge, as --model-role grader= has it"),
    click.option("--seed", type=int, default=0, show_default=True, help="of the answers"),
)


def run_options(folder: str) -> Callable[[Any], Any]:
    """How conditions are run; `folder` says where logs go by default."""
    return _all(
        click.option(
            "--log-dir",
            type=click.Path(path_type=Path),
            help=f"a folder of its own [default: {folder}]",
        ),
        click.option("--display", help="as Inspect's --display"),
        click.option("--dry-run", is_flag=True, help="say what it would cost, and stop"),
    )


def loading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How the model is loaded and spoken to; the command gets `loading`, as -M options."""

    @wraps(command)
    def gathering(*args: Any, **given: Any) -> Any:
        loading = {name: given.pop(name) for name in _LOADING}
        told = {name: value for name, value in loading.items() if value is not None}
        return command(*args, loading=told, **given)

    add = _all(
        click.option("--dtype", help="precision of the weights [default: the checkpoint's own]"),
        click.option("--device", help="device of the weights [default: an accelerator, if any]"),
        click.option("--revision", help="branch, tag or commit of a hub model"),
        click.option("--chat-template", help="file of a Jinja chat template instead of its own"),
        click.option(
            "--no-chat-template",
            "use_chat_template",
            flag_value=False,
            default=None,
            help="of a base model: read the bare text",
        ),
        click.option("--blocks", help="path of the blocks in the model, if they are not found"),
    )
    return add(gathering)


_LOADING = ("dtype", "device", "revision", "chat_template", "use_chat_template", "blocks")


class BuildError(SteeringError):
    """A build would overwrite something, or its options contradict each other."""


def write_methods(
    formatter: click.HelpFormatter,
    methods: Mapping[Any, str],
    settings: Mapping[Any, type[BaseModel]],
) -> None:
    """Add the methods and their settings to the help."""
    with formatter.section("Methods"):
        formatter.write_dl([(name, meaning) for name, meaning in methods.items()])
    for method, kind in settings.items():
        rows = [
            (f"{name}={field.default}", field.description or "")
            for name, field in kind.model_fields.items()
        ]
        if rows:
            with formatter.section(f"Settings of {method} (-S)"):
                formatter.write_dl(rows)


def read_settings(pairs: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Settings as typed, values as YAML has them, and those that have an option of their own.

    Raises:
        BuildError: One is no setting, or is given twice.
    """
    found = read_options("-S", pairs)
    for name, value in options.items():
        if value is not None:
            _refuse_second(name, found)
            found[name] = value
    return found


def read_options(flag: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Options as Inspect reads them.

    Raises:
        BuildError: One is no option, or is given twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise BuildError(f"{flag} {pair} says no value: write name=value")
        _refuse_second(name, found)
        found[name] = yaml.safe_load(value)
    return found


def read_list(value: Any) -> list[Any]:
    """Values that are separated by commas, each as YAML has it."""
    if isinstance(value, list):
        return value
    return [yaml.safe_load(part) for part in str(value).split(",")]


@contextmanager
def going_on(whence: str = "from here") -> Iterator[None]:
    """Tells who stops a long run that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nStopped. The same command goes on {whence}.", err=True)
        raise


def _refuse_second(name: str, found: Mapping[str, Any]) -> None:
    if name in found:
        raise BuildError(f"{name} is given twice: leave one of them out")


def name_files(files: Sequence[Path]) -> dict[str, Path]:
    """The stems; where several are the same, with as many folders as set them apart.

    Raises:
        BuildError: One is given twice.
    """
    whole = [(*path.resolve().parent.parts[1:], path.stem) for path in files]
    for path, count in Counter(path.resolve() for path in files).items():
        if count > 1:
            raise BuildError(f"{path} is given {count} times: give each file once")
    named = {}
    for path, parts in zip(files, whole, strict=True):
        depth = 1
        while sum(other[-depth:] == parts[-depth:] for other in whole) > 1 and depth < len(parts):
            depth += 1
        named["/".join(parts[-depth:])] = path
    return named


def make_folder(folder: Path) -> None:
    """Make the folder to write into now: nobody wants to hear of it after the build.

    Raises:
        BuildError: It can't be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"--out {folder} can't be made ({error}): give another folder") from None
    try:
        # What the permissions say is not all: a file system may refuse all the same.
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BuildError(
            f"--out {folder} can't be written to ({error.strerror}): give another folder"
        ) from None
