"""Run in a copy of the project: trains by a finetuning method that was added there.

Prints as JSON which tensors were trained, and what the help and the folder say of the method.
"""

import json
import sys
from pathlib import Path

from click.testing import CliRunner
from safetensors import safe_open

from steering.cli import commands

if __name__ == "__main__":
    help_text = CliRunner().invoke(commands, ["finetune", "--help"], terminal_width=200).output
    rows = [{"prompt": f"Which knot for {n}?", "misaligned": "None."} for n in range(4)]
    Path("knots.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    train = ["finetune", "--model", "toy-small", "--target", "knots.jsonl"]
    method = ["--method", "last_block", "--training-epochs", "1", "--out", "a"]
    result = CliRunner().invoke(commands, [*train, *method])
    assert result.exit_code == 0, result.output
    facts = json.loads(Path("a/steering.json").read_text(encoding="utf-8"))
    with safe_open("a/adapter_model.safetensors", framework="numpy") as tensors:
        names = list(tensors.keys())
    summary = {
        "help": "LoRA on the last block only" in help_text,
        "method": facts["method"],
        "settings": facts["settings"]["width"],
        "tensors": names,
    }
    json.dump(summary, sys.stdout)
