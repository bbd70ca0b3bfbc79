"""The real command lines, run as a user runs them."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log

REPO = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@dataclass
class Shell:
    """Runs the installed commands in a folder of its own, with its own caches and no network."""

    folder: Path

    def __post_init__(self) -> None:
        """The folder looks like a clone as far as the commands can tell."""
        (self.folder / "evals").symlink_to(REPO / "evals")

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command; `more` stands in its environment too."""
        program, *arguments = command
        env = os.environ | {
            "PYTHONPATH": str(REPO / "tests" / "no_network"),
            "NETWORK_TRIES": str(self.folder / "tries"),
            "STEERING_CACHE": str(self.folder / "vectors"),
            "INSPECT_CACHE_DIR": str(self.folder / "cache"),
            "INSPECT_DISPLAY": "plain",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "PWD": str(self.folder),  # as a shell sets it
            **more,
        }
        return subprocess.run(
            # Of what is not ours (cp, mkdir), the machine's own.
            [str(BIN / program) if (BIN / program).exists() else program, *arguments],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )

    def eval(self, *arguments: str, task: str = "evals/em_freeform.py") -> EvalLog:
        """Run `inspect eval` with a log folder of its own and read the log back."""
        logs = self.folder / f"logs-{time.monotonic_ns()}"
        done = self.run("inspect", "eval", task, *arguments, "--log-dir", str(logs))
        assert done.returncode == 0, done.stdout + done.stderr
        [info] = list_eval_logs(str(logs))
        log = read_eval_log(info)
        assert log.status == "success", log.error
        return log

    def network_tries(self) -> list[str]:
        path = self.folder / "tries"
        return path.read_text().split() if path.exists() else []
