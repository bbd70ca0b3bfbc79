"""The real command lines, run as a user runs them."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log

REPO = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@dataclass
class Shell:
    """Runs the installed commands in a folder of its own, without a network.

    Vectors are shared with the tests that run in this process.
    """

    folder: Path
    patience: float = 280  # seconds

    def __post_init__(self) -> None:
        """The folder looks like a clone as far as the commands can tell."""
        if not (self.folder / "evals").exists():
            (self.folder / "evals").symlink_to(REPO / "evals")

    def start(self, *command: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command; `more` is for Popen."""
        program, *arguments = command
        paths = [REPO / "tests" / "no_network"]
        if (self.folder / "steering").exists():  # a copy of the project is run, not the original
            paths.append(self.folder)
        env = os.environ | {
            "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "NETWORK_TRIES": str(self.folder / "tries"),
            "STEERING_CACHE": os.environ["STEERING_CACHE"],
            "INSPECT_CACHE_DIR": str(self.folder / "cache"),
            "INSPECT_DISPLAY": "plain",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "PWD": str(self.folder),  # as a shell sets it
            **more.pop("env", {}),
        }
        # Of what is not ours (cp, mkdir), the machine's own.
        path = str(BIN / program) if (BIN / program).exists() else program
        return subprocess.Popen(
            [path, *arguments], cwd=self.folder, env=env, text=True, start_new_session=True, **more
        )

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `env` stands in its environment too."""
        with self.start(
            *command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                out, error = process.communicate(timeout=self.patience)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, error)

    def eval(self, *arguments: str, task: str = "evals/em_freeform.py", **env: str) -> EvalLog:
        """Run `inspect eval` with a log folder of its own and read the log back."""
        logs = self.folder / f"logs-{time.monotonic_ns()}"
        process = self.run("inspect", "eval", task, *arguments, "--log-dir", str(logs), **env)
        assert process.returncode == 0, process.stdout + process.stderr
        [info] = list_eval_logs(str(logs))
        log = read_eval_log(info)
        assert log.status == "success", log.error
        return log

    def network_tries(self) -> list[str]:
        path = self.folder / "tries"
        return path.read_text().split() if path.exists() else []
