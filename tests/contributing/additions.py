"""Run in a copy of the project: what it knows of a task, data, an option and a command added there.

Prints the facts as JSON.
"""

import json
import sys

from click.testing import CliRunner

import steering._registry as registry
from evals import TASKS
from steering.cli import commands
from steering.questions import load_questions
from steering.spec import parse_options
from steering.targets import load_target

if __name__ == "__main__":
    spec = parse_options({"vector": "none", "experts": "2"})
    options = ["build", "--help"]
    facts = {
        "tasks": sorted(TASKS),
        "registered": "em_wish" in registry.__all__,
        "questions": [sample.input for sample in load_questions("mine").samples],
        "target": len(load_target("gardening").examples),
        "label": spec.label(),
        "fingerprints": len({spec.fingerprint(), parse_options({"vector": "none"}).fingerprint()}),
        "help": CliRunner().invoke(commands, options, terminal_width=200).output,
        "hello": CliRunner().invoke(commands, ["hello"]).output,
    }
    json.dump(facts, sys.stdout)
