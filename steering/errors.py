"""The base class of errors that a user caused and can fix, and how they are shown."""

import difflib
import errno
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import TracebackType

logger = logging.getLogger(__name__)

# Characters of a message.
_LONGEST = 2000


class SteeringError(Exception):
    """An option, file or request of the user can't be used.

    The message names the value, what is allowed and how to fix it, in one line, and is shown
    without a traceback. A room derives a class of its own only where it is caught by name.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """A text that may quote anything, as one line that is safe to print.

    What a terminal would act on is escaped, and the middle of a long text is left out.
    """
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 500]} ... {text[-400:]}"
    return printable(text.replace("\n", " "))


def printable(text: str) -> str:
    """A text in which line breaks, control codes and the like are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


@contextmanager
def raised_as(kind: type[SteeringError]) -> Iterator[None]:
    """Raise errors of the rooms below as errors of this room, which is caught by name."""
    try:
        yield
    except kind:
        raise
    except SteeringError as error:
        raise kind(str(error)) from None


@cache
def warn_once(text: str) -> None:
    """Log a warning once a process, in one line, however many conditions and tasks have it."""
    logger.warning("%s", one_line(text))


def no_such_option(name: str, allowed: Sequence[str], where: str = "here") -> str:
    """The message for an option that does not exist.

    Args:
        name: The option.
        allowed: The options that exist.
        where: Of what they are options.
    """
    hint = nearest(name, allowed)
    return f"{name} is not an option {where}.{hint} Allowed: {', '.join(allowed)}."


def nearest(name: str, allowed: Sequence[str]) -> str:
    """Which of the allowed names a mistyped one may mean, as a sentence behind a space; else ""."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f" Did you mean {close[0]}?" if close else ""


# What the machine refuses and the user can change: place, rights, and names of paths.
_OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.EIO),
}


@contextmanager
def machine_errors_as_ours() -> Iterator[None]:
    """Raise what the machine refuses (a full disk, a folder without rights) as a SteeringError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        path = error.filename or "a file"
        raise SteeringError(
            f"{path} can't be read or written ({error.strerror}): check the space on the disk and "
            "the rights of the folder, or choose another; STEERING_CACHE moves the cache"
        ) from error


@contextmanager
def write_errors_as_ours(path: object, remedy: str = "") -> Iterator[None]:
    """Raise what keeps a file or folder from being written as a SteeringError that names it.

    Args:
        path: What is written.
        remedy: What to do, as "give another folder"; "" where that is plain.
    """
    try:
        yield
    except OSError as error:
        reason = f"{path} can't be written ({error.strerror or error})"
        raise SteeringError(": ".join(filter(None, [reason, remedy]))) from None


@contextmanager
def errors_in_one_line(prefix: str = "") -> Iterator[None]:
    """Turn this project's errors into those that Inspect's command line shows without a traceback.

    Args:
        prefix: Text before the message.
    """
    try:
        with machine_errors_as_ours():
            yield
    except SteeringError as error:
        # Imported here, so that raising an error does not need Inspect.
        from inspect_ai._util.error import PrerequisiteError
        from rich.markup import escape

        _speak_when_quiet()
        # Inspect prints the message as rich markup.
        raise PrerequisiteError(escape(f"{prefix}{error}")) from error


def _speak_when_quiet() -> None:
    """With `--display none` Inspect is silent also about what it refuses: say that on stderr."""
    from inspect_ai._util.error import PrerequisiteError
    from rich import get_console
    from rich.markup import render

    shown = sys.excepthook
    # Another hook, such as a notebook's, shows the error itself.
    if not get_console().quiet or shown.__module__ != PrerequisiteError.__module__:
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, PrerequisiteError):
            sys.stderr.write(f"Error: {render(str(error.message)).plain}\n")
        shown(kind, error, trace)

    sys.excepthook = hook
