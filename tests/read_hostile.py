"""A process that reads every file of a folder and prints what that cost: read_hostile.py FOLDER.

Its output is JSON: the seconds of each file, the files that were taken, and the peak of resident
memory in bytes, of this process or of one that it started.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from peak_memory import peak_memory

from steering.errors import SteeringError
from steering.logs import log_files
from steering.questions import load_questions
from steering.questions.personas import load_personas
from steering.studies.study_file import read_study
from steering.targets import load_target
from steering.vectors.formats import read_vector


def reader_of(path: Path) -> Callable[[Path], object]:
    """What reads a file of this name."""
    if path.name == "study.yaml":
        return read_study
    if path.name == "personas.yaml":
        return lambda path: load_personas(str(path))
    if path.suffix in (".pt", ".gguf", ".safetensors"):
        return lambda path: read_vector(path, "all", convention="blocks+embedding")
    if path.suffix == ".eval":
        return lambda path: log_files(path) or load_target(str(path))
    if path.suffix in (".yaml", ".json"):
        return lambda path: load_questions(str(path))
    return lambda path: load_target(str(path))


seconds, taken = {}, []
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.monotonic()
    try:
        reader_of(path)(path)
        taken.append(path.name)
    except SteeringError:
        pass
    seconds[path.name] = time.monotonic() - start
peak = max(peak_memory(), peak_memory(resource.RUSAGE_CHILDREN))
sys.stdout.write(json.dumps({"seconds": seconds, "taken": taken, "peak": peak}))
