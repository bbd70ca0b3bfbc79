"""Run by a test in a process of its own: trains adapters in forks that are killed meanwhile.

Arguments: the model's folder, and a list of runs in JSON. Each has a `cache` and an `out` folder,
the `options` of training, and the place where it is killed: at the end of step `number`, or while
writing the checkpoint of training epoch `number` (`where` is `step` or `saving`). Prints the exit
status of each fork.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from finetuning import train
from transformers import Trainer

torch.set_num_threads(1)


def train_until_killed(folder: Path, run: dict[str, Any]) -> None:
    """Train, and kill this process at the run's place."""
    save = Trainer._save_optimizer_and_scheduler

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def progress(done: int, _: int) -> None:
        if (run["where"], done) == ("step", run["number"]):
            kill()

    def save_or_kill(trainer: Trainer, output_dir: str) -> None:
        # The weights of the checkpoint are written by now, and nothing else is.
        if run["where"] == "saving" and round(trainer.state.epoch or 0) == run["number"]:
            kill()
        save(trainer, output_dir)

    Trainer._save_optimizer_and_scheduler = save_or_kill  # type: ignore[method-assign]
    os.environ["STEERING_CACHE"] = run["cache"]
    train(folder, Path(run["out"]), progress=progress, **run["options"])


if __name__ == "__main__":
    for run in json.loads(sys.argv[2]):
        # A fork has the libraries imported already.
        if (child := os.fork()) == 0:
            train_until_killed(Path(sys.argv[1]), run)
            os._exit(0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
