"""Run by a test in a process of its own: makes a steered model and says what that imported."""

import json
import socket
import sys

from inspect_ai.model import get_model


def _refuse(host: object, *_: object, **__: object) -> None:
    raise OSError(f"tried to reach {host}")


socket.getaddrinfo = _refuse  # type: ignore[assignment]
get_model("steered/toy")
get_model(f"steered/{sys.argv[1]}", magnitude=2)
sys.stdout.write(json.dumps({name: name in sys.modules for name in ("torch", "transformers")}))
