"""Put first on a subprocess's path: writes down each host that it tries to reach, and refuses."""

import os
import socket
from typing import Any

_real = socket.getaddrinfo
_LOCAL = (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0")


def _refuse(host: Any, *args: Any, **kwargs: Any) -> Any:
    if host in _LOCAL:
        return _real(host, *args, **kwargs)
    with open(os.environ["NETWORK_TRIES"], "a") as file:
        file.write(f"{host}\n")
    raise socket.gaierror(f"the network is cut: {host}")


socket.getaddrinfo = _refuse  # type: ignore[assignment]
