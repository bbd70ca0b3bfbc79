"""Run by a test in a process of its own: trains an adapter, and is killed without a word.

Arguments: the model's folder, where the adapter goes, the options in JSON, and where it is killed:
`step N`, or `saving N`, amid writing the checkpoint of training epoch N.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from finetuning import train
from transformers import Trainer

torch.set_num_threads(1)
folder, out, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
where, number = sys.argv[4], int(sys.argv[5])


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _progress(done: int, _: int) -> None:
    sys.stdout.write(f"{done}\n")
    sys.stdout.flush()
    if (where, done) == ("step", number):
        _die()


honest = Trainer._save_optimizer_and_scheduler


def _cut_off(trainer: Trainer, output_dir: str) -> None:
    """The weights are written by now, and nothing else is."""
    if where == "saving" and round(trainer.state.epoch or 0) == number:
        _die()
    honest(trainer, output_dir)


Trainer._save_optimizer_and_scheduler = _cut_off  # type: ignore[method-assign]
train(folder, out, progress=_progress, **options)
