"""Run in a copy of the project: reads the loading option `attention` that was added there.

Prints as JSON its labels, fingerprints, help, line in the reference and refusals.
"""

import json
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

from steering.cli import commands
from steering.condition import choose_engine
from steering.errors import SteeringError
from steering.spec import parse_options


def refusal(**options: object) -> str:
    """The error on a machine with vLLM."""
    try:
        with patch("steering.condition.find_spec", return_value=True):
            choose_engine(parse_options(options))
    except SteeringError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    plain, changed = parse_options({}), parse_options({"attention": "sdpa"})
    reference = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "reference.py"))
    facts = {
        "labels": [plain.label(), changed.label()],
        "fingerprints": [plain.fingerprint(), changed.fingerprint()],
        "page": reference["model_options"](),
        "help": CliRunner().invoke(commands, ["build", "--help"]).output,
        "empty": refusal(attention=None),
        "other_engine": refusal(attention="sdpa", engine="vllm"),
    }
    json.dump(facts, sys.stdout)
