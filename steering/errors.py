"""The one base class of errors that a user caused and can mend, and how they are shown."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class SteeringError(Exception):
    """Something the user gave can't be used.

    The message names the value, what is allowed and how to fix it, in one line, and is meant to be
    shown without a traceback. Each room derives its own class from this one.
    """


def no_such_option(name: str, allowed: Sequence[str], where: str = "here") -> str:
    """What to say of an option that does not exist.

    Args:
        name: As it was given.
        allowed: Those that exist.
        where: Where they exist.
    """
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{name} is not an option {where}.{hint} Allowed: {', '.join(allowed)}."


@contextmanager
def errors_in_one_line(prefix: str = "") -> Iterator[None]:
    """Turn this project's errors into the kind that Inspect's command line shows without a wall.

    Args:
        prefix: Put before the message.
    """
    try:
        yield
    except SteeringError as error:
        # Here, since whoever raises an error need not have Inspect.
        from inspect_ai._util.error import PrerequisiteError
        from rich.markup import escape

        # Inspect prints the message as rich markup.
        raise PrerequisiteError(escape(f"{prefix}{error}")) from error
