"""The one base class of errors that a user caused and can mend."""


class SteeringError(Exception):
    """Something the user gave can't be used.

    The message names the value, what is allowed and how to fix it, in one line, and is meant to be
    shown without a traceback. Each room derives its own class from this one.
    """
