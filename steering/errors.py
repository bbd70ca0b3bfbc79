"""The base class of errors that a user caused and can fix, and how they are shown."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class SteeringError(Exception):
    """An option, file or request of the user can't be used.

    The message names the value, what is allowed and how to fix it, in one line, and is shown
    without a traceback. A room derives a class of its own only where it is caught by name.
    """


def no_such_option(name: str, allowed: Sequence[str], where: str = "here") -> str:
    """The message for an option that does not exist.

    Args:
        name: The option.
        allowed: The options that exist.
        where: Of what they are options.
    """
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{name} is not an option {where}.{hint} Allowed: {', '.join(allowed)}."


@contextmanager
def errors_in_one_line(prefix: str = "") -> Iterator[None]:
    """Turn this project's errors into those that Inspect's command line shows without a traceback.

    Args:
        prefix: Text before the message.
    """
    try:
        yield
    except SteeringError as error:
        # Imported here, so that raising an error does not need Inspect.
        from inspect_ai._util.error import PrerequisiteError
        from rich.markup import escape

        # Inspect prints the message as rich markup.
        raise PrerequisiteError(escape(f"{prefix}{error}")) from error
