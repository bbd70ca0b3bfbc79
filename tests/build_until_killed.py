"""Run by a test in a process of its own: builds a vector, and is killed at a step without a word.

Arguments: the model's folder, the options in JSON, the step.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from building import TARGET, engine_of, recipe_for

from steering.training.cache import cached_vector

torch.set_num_threads(1)
folder, options, last_step = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])


def _progress(done: int, _: int) -> None:
    sys.stdout.write(f"{done}\n")
    sys.stdout.flush()
    if done == last_step:
        os.kill(os.getpid(), signal.SIGKILL)


cached_vector(engine_of(folder), recipe_for(folder, **options), TARGET, _progress).result()
