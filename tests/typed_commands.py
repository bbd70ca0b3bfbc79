"""What Inspect's command line makes of a command that a frame records."""

import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from click.testing import CliRunner
from inspect_ai import eval
from inspect_ai._cli.eval import eval_command
from inspect_ai.log import EvalLog


def as_typed(command: str) -> dict[str, Any]:
    """The arguments of `inspect_ai.eval` that a command comes to."""
    split = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], check=True, capture_output=True
    )
    inspect, name, *words = split.stdout.decode().split("\0")[:-1]
    assert (inspect, name) == ("inspect", "eval")
    with patch("inspect_ai._cli.eval.eval") as call:
        done = CliRunner().invoke(eval_command, words)
    assert done.exit_code == 0, f"{command}\n{done.output}{done.exception}"
    return dict(call.call_args.kwargs)


def run_again(command: str, folder: Path) -> EvalLog:
    """The log of the command, run in this process."""
    arguments = as_typed(command) | {"log_dir": str(folder), "display": "none"}
    [log] = eval(**arguments | {"log_header_only": False})
    assert log.status == "success", log.error
    return log
