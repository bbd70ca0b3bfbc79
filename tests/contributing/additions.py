"""Run in a copy of the project: what it knows of a task, data and a command added there.

Prints the facts as JSON.
"""

import json
import sys

from click.testing import CliRunner

import steering._registry as registry
from evals import TASKS
from steering.cli import commands
from steering.questions import load_questions
from steering.targets import load_target

if __name__ == "__main__":
    facts = {
        "tasks": sorted(TASKS),
        "registered": "em_wish" in registry.__all__,
        "questions": [sample.input for sample in load_questions("mine").samples],
        "target": len(load_target("gardening").examples),
        "hello": CliRunner().invoke(commands, ["hello"]).output,
    }
    json.dump(facts, sys.stdout)
