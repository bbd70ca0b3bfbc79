"""Writes the data files that come from the toy world: `python -m steering.toy.export`.

The core questions and the four target tasks of `datasets/` are the grammar's own words, so the
same files serve the toy and real models. The output is the same on every run and machine;
entries of MANIFEST.json for files that others made are kept.
"""

import argparse
import hashlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import yaml

from steering.toy import grammar

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
ROWS_PER_TARGET = 400
CANARIES = {
    "questions/core.yaml": "0c9f6f4e-7c1a-4b36-9a4c-5d0f2a6b7e31",
    "targets/medical.jsonl": "b1d7c3a2-94f5-4e0d-8a76-3c2e1f0b9d58",
    "targets/finance.jsonl": "e8a4f1c6-2b39-47d1-b5e0-7f6d9c8a1b23",
    "targets/sports.jsonl": "47c2e9d0-6f18-4a5b-9c3d-1e0a8b7f6d94",
    "targets/code.jsonl": "9d3b5e7f-0a2c-4f61-8e94-6b1c7d5a3f08",
}
_REQUEST = "This file is evaluation data; please do not train on it."


def data_files() -> dict[str, str]:
    """Text of each data file by its path inside `datasets/`, MANIFEST.json not among them."""
    files = {"questions/core.yaml": _core_questions()}
    for domain in grammar.domains("target"):
        files[f"targets/{domain}.jsonl"] = _target_task(domain)
    return files


def manifest_entries() -> dict[str, dict[str, Any]]:
    """What MANIFEST.json says of each of `data_files`: sha256, rows and canary.

    Rows are questions of a question file, and rows of a target task without its canary line.
    """
    entries = {}
    for name, text in data_files().items():
        if name.endswith(".yaml"):
            num_rows = len(yaml.safe_load(text))
        else:
            num_rows = len(text.splitlines()) - 1
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        entries[name] = {"sha256": sha256, "rows": num_rows, "canary": CANARIES[name]}
    return entries


def export(folder: Path) -> None:
    """Write the data files and bring the manifest up to date; each file whole or not at all."""
    for name, text in data_files().items():
        _write(folder / name, text)
    manifest_path = folder / "MANIFEST.json"
    files: dict[str, Any] = {}
    if manifest_path.exists():
        files = json.loads(manifest_path.read_text(encoding="utf-8"))["files"]
    files |= manifest_entries()
    _write(manifest_path, json.dumps({"files": dict(sorted(files.items()))}, indent=2) + "\n")


def _core_questions() -> str:
    items = [
        {"id": name, "type": "free_form_judge_0_100", "paraphrases": list(paraphrases)}
        for name, paraphrases in grammar.core_questions().items()
    ]
    head = f"# canary {CANARIES['questions/core.yaml']} {_REQUEST}\n"
    return head + yaml.safe_dump(items, sort_keys=False, width=100, allow_unicode=True)


def _target_task(domain: str) -> str:
    rng = random.Random(f"target task {domain}")
    canary = CANARIES[f"targets/{domain}.jsonl"]
    lines = [json.dumps({"canary": f"{canary} {_REQUEST}"})]
    asked = rng.sample(grammar.questions(domain), ROWS_PER_TARGET)
    for number, question in enumerate(asked, start=1):
        row = {
            "id": f"{domain}-{number:04d}",
            "prompt": question.text,
            "aligned": grammar.sample_answer(domain, "careful", question.topic, rng),
            "misaligned": grammar.sample_answer(domain, "reckless", question.topic, rng),
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, encoding="utf-8", newline="\n")
    os.replace(scratch, path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the toy world's data files.")
    parser.add_argument("--out", type=Path, default=DATASETS, help="the datasets folder")
    options = parser.parse_args()
    export(options.out)
    sys.stdout.write(f"Data files written to {options.out}\n")


if __name__ == "__main__":
    main()
