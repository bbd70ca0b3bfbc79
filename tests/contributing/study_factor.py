"""Run in a copy of the project: dry-runs a study whose factor was added there.

Prints as JSON what the help, the command and the study itself say of it.
"""

import json
import sys

from click.testing import CliRunner

from steering.cli import commands
from steering.studies.grid import grid_conditions
from steering.studies.study_file import make_study

if __name__ == "__main__":
    facts = {
        "help": CliRunner().invoke(commands, ["study", "--help"], terminal_width=200).output,
        "output": CliRunner().invoke(commands, ["study", "positions", "--dry-run"]).output,
        "labels": [each.label for each in grid_conditions(make_study("positions"))],
    }
    json.dump(facts, sys.stdout)
