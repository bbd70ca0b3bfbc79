"""Pickles of others, looked through before they are read.

`torch.load(weights_only=True)` runs no code, but some of what it calls allocates as much as it is
told (`bytearray(2**36)` in 600 bytes), and tuples that contain one another take for ever to hash.
"""

import pickletools
from collections.abc import Callable
from typing import IO

from steering.errors import SteeringError
from steering.foreign.limits import LIMITS
from steering.foreign.reading import reason_of

MAX_SHARED_TUPLES = 16
"""How often a pickle may come back to a tuple; each time may double what a walk goes through."""

_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
# Other ways to name a class or a function, which torch.save does not use.
_REFUSED = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "DUP", "MEMOIZE"}


def check_pickle(
    file: IO[bytes], where: object, kind: str, is_allowed: Callable[[str], bool]
) -> list[object]:
    """Go through the next pickle of a file without making any object.

    Args:
        file: At the pickle's first byte; afterwards behind its last.
        where: What it is, for errors.
        kind: One of `LIMITS`, for the number of operations.
        is_allowed: Whether the pickle may name a class or function, as in `torch.FloatStorage`.

    Returns:
        The arguments of its operations.

    Raises:
        SteeringError: It is damaged, has too many operations, or names something else.
    """
    most = LIMITS[kind].items
    tuples: set[object] = set()
    arguments: list[object] = []
    before, shared = "", 0
    try:
        for opcode, argument, _ in pickletools.genops(file):
            arguments.append(argument)
            name = opcode.name
            if len(arguments) > most:
                raise SteeringError(f"{where} has more than {most} operations")
            if name == "GLOBAL" and not is_allowed(str(argument).replace(" ", ".", 1)):
                raise SteeringError(f"{where} names {argument}, which is not read")
            if name in _REFUSED:
                raise SteeringError(f"{where} has the operation {name}, which is not read")
            if name in _PUTS:
                (tuples.add if "TUPLE" in before else tuples.discard)(argument)
            shared += name in _GETS and argument in tuples
            if shared > MAX_SHARED_TUPLES:
                raise SteeringError(f"{where} has too many tuples that contain one another")
            before = name
    except SteeringError:
        raise
    # The module raises errors of many types for damage.
    except Exception as error:
        raise SteeringError(f"{where} is damaged ({reason_of(error)})") from None
    return arguments
