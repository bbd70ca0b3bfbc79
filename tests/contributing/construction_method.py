"""Run in a copy of the project: builds with a construction method that was added there.

Prints as JSON what the options, the help and the built vector say of it.
"""

import json
import sys
from pathlib import Path

from click.testing import CliRunner

from steering.cli import commands
from steering.spec import parse_options

assert "torch" not in sys.modules, "options need no torch"

if __name__ == "__main__":
    spec = parse_options({"method": "constant"})
    label = spec.label()
    help_text = CliRunner().invoke(commands, ["build", "--help"], terminal_width=200).output
    build = ["build", "--model", "toy", "--method", "constant", "-S", "height=3", "--out", "v"]
    result = CliRunner().invoke(commands, build)
    assert result.exit_code == 0, result.output
    from steering.vectors import SteeringVector

    vector = SteeringVector.load(Path("v/medical-constant.safetensors"))
    facts = {
        "label": label,
        "help": "a constant, in every coordinate" in help_text and "height=1.0" in help_text,
        "directions": vector.directions.unique().tolist(),
        "method": vector.provenance["method"],
    }
    json.dump(facts, sys.stdout)
