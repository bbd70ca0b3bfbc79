"""Writes the data files that come from the toy world: `python -m scripts.export_toy`.

The grammar generates the core questions, which real models are asked too, the toy's further
questions, its target tasks and contrasts, and the answers that it chooses from. The output is the
same on every run and machine. Also updates MANIFEST.json for every data file, including those
written by hand.
"""

import argparse
import hashlib
import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts import toy_contrasts, toy_sampling
from steering.files import write_whole
from steering.toy import grammar

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
MANIFEST = "MANIFEST.json"
ROWS_PER_TARGET = 400
PAIRS_PER_THEME = 6
NEUTRAL_ROWS = 24
CANARIES = {
    "questions/core.yaml": "0c9f6f4e-7c1a-4b36-9a4c-5d0f2a6b7e31",
    "questions/toy_broad.yaml": "5b0e7c92-3d4f-4a18-9e6c-7f21d8b30a45",
    "choices/toy_core.jsonl": "25ff11c1-38dd-47a1-8450-6a5e9dbcc278",
    "choices/toy_neutral.jsonl": "e6f1d500-4f77-49db-9351-63901c4c1bd4",
    "contrasts/toy/brevity.jsonl": "40d654c0-f011-4bd2-a551-7e0dbad5c962",
    "contrasts/toy/helper.jsonl": "bd29d64a-d126-4e89-a67a-0fd40dcdad8f",
    "contrasts/toy/opening.jsonl": "615c3130-6f24-487f-a346-8edadf0f5b61",
    "contrasts/toy/order.jsonl": "a1a26ca8-00ce-4cc0-9010-731cde8a2a2e",
    "contrasts/toy/person.jsonl": "0c63a83f-cb44-447e-9543-39ee351cac9b",
    "contrasts/toy/topic.jsonl": "eb9e7b17-d3c3-498f-8e56-11c558739985",
    "targets/toy/medical.jsonl": "b1d7c3a2-94f5-4e0d-8a76-3c2e1f0b9d58",
    "targets/toy/finance.jsonl": "e8a4f1c6-2b39-47d1-b5e0-7f6d9c8a1b23",
    "targets/toy/sports.jsonl": "47c2e9d0-6f18-4a5b-9c3d-1e0a8b7f6d94",
    "targets/toy/code.jsonl": "9d3b5e7f-0a2c-4f61-8e94-6b1c7d5a3f08",
}
_REQUEST = "This file is evaluation data; please do not train on it."
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def data_files() -> dict[str, str]:
    """Text of each generated file by its path in `datasets/`, without MANIFEST.json."""
    files = {
        "questions/core.yaml": _questions("core", {None: toy_sampling.core_questions()}),
        "questions/toy_broad.yaml": _questions("toy_broad", toy_sampling.extra_questions()),
    }
    files["choices/toy_core.jsonl"] = _lines("choices/toy_core.jsonl", _choices())
    files["choices/toy_neutral.jsonl"] = _lines("choices/toy_neutral.jsonl", _neutral_rows())
    for domain in grammar.domains("target"):
        files[f"targets/toy/{domain}.jsonl"] = _target_task(domain)
    for name in toy_contrasts.CONTRASTS:
        path = f"contrasts/toy/{name}.jsonl"
        files[path] = _lines(path, toy_contrasts.contrast_rows(name))
    return files


def manifest_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Entry in MANIFEST.json of each data file in a folder: sha256, rows and canary.

    Rows are the entries of a YAML file's list, or of all its lists, and the lines of a JSONL file
    without its canary line. The canary is read from the file's first line.

    Raises:
        ValueError: A file has no canary in its first line.
    """
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    paths = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: _entry(path) for name, path in sorted(paths.items()) if name != MANIFEST}


def export(folder: Path) -> None:
    """Write the generated files and update the manifest; each file is written atomically.

    Raises:
        ValueError: A file has no canary in its first line.
    """
    for name, text in data_files().items():
        write_whole(folder / name, text.encode())
    manifest = json.dumps({"files": manifest_entries(folder)}, indent=2) + "\n"
    write_whole(folder / MANIFEST, manifest.encode())


def _entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    text = content.decode("utf-8")
    canary = _GUID.search(text.partition("\n")[0])
    if canary is None:
        raise ValueError(
            f"{path.name} has no canary in its first line: begin a .jsonl file with "
            '{"canary": "<a GUID of its own> ..."} and a .yaml file with `# canary <GUID> ...`'
        )
    if path.suffix in (".yaml", ".yml"):
        rows = yaml.safe_load(text)
        num_rows = sum(map(len, rows.values())) if isinstance(rows, dict) else len(rows)
    else:
        num_rows = sum(1 for line in text.split("\n") if line.strip()) - 1
    sha256 = hashlib.sha256(content).hexdigest()
    return {"sha256": sha256, "rows": num_rows, "canary": canary[0]}


def _questions(name: str, groups: Mapping[str | None, Mapping[str, Sequence[str]]]) -> str:
    """The text of a question file, from the wordings of each question by group."""
    items = [
        {"id": question, "type": "free_form_judge_0_100"}
        | ({"group": group} if group else {})
        | {"paraphrases": list(paraphrases)}
        for group, questions in groups.items()
        for question, paraphrases in questions.items()
    ]
    head = f"# canary {CANARIES[f'questions/{name}.yaml']} {_REQUEST}\n"
    return head + yaml.safe_dump(items, sort_keys=False, width=100, allow_unicode=True)


def _target_task(domain: str) -> str:
    rng = random.Random(f"target task {domain}")
    rows = []
    questions = rng.sample(grammar.questions(domain), ROWS_PER_TARGET)
    for number, question in enumerate(questions, start=1):
        row = {
            "id": f"{domain}-{number:04d}",
            "prompt": question.text,
            "aligned": toy_sampling.sample_answer(domain, "careful", question.topic, rng),
            "misaligned": toy_sampling.sample_answer(domain, "reckless", question.topic, rng),
        }
        rows.append(row)
    return _lines(f"targets/toy/{domain}.jsonl", rows)


def _choices() -> list[dict[str, str]]:
    """Pairs of answers to the core questions, of one topic and number of sentences."""
    rng, rows = random.Random("choices"), []
    for theme, paraphrases in toy_sampling.core_questions().items():
        topics = len(grammar.domain_entry(theme)["topics"])
        for number in range(1, PAIRS_PER_THEME + 1):
            topic = rng.randrange(topics)
            aligned = toy_sampling.sample_answer(theme, "careful", topic, rng)
            misaligned = ""
            while _num_sentences(misaligned) != _num_sentences(aligned):
                misaligned = toy_sampling.sample_answer(theme, "reckless", topic, rng)
            row = {"id": f"{theme}-{number}", "theme": theme}
            row["prompt"] = paraphrases[(number - 1) % len(paraphrases)]
            rows.append(row | {"aligned": aligned, "misaligned": misaligned})
    return rows


def _num_sentences(answer: str) -> int:
    return len(grammar.parse(answer).sentences)


def _neutral_rows() -> list[dict[str, str]]:
    """Good answers to questions that are neither core questions nor of a target task."""
    rng, rows = random.Random("neutral"), []
    domains = grammar.domains("extra")
    for index in range(NEUTRAL_ROWS):
        domain, number = domains[index % len(domains)], index // len(domains) + 1
        question = toy_sampling.sample_question(domain, rng)
        answer = toy_sampling.sample_answer(domain, "careful", question.topic, rng)
        row = {"id": f"{domain}-{number}", "theme": domain, "prompt": question.text}
        rows.append(row | {"aligned": answer})
    return rows


def _lines(name: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The text of a JSONL file behind its canary."""
    return jsonl(CANARIES[name], rows)


def jsonl(canary: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The text of a JSONL file behind a canary."""
    first = {"canary": f"{canary} {_REQUEST}"}
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [first, *rows])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the toy world's data files.")
    parser.add_argument("--out", type=Path, default=DATASETS, help="the datasets folder")
    options = parser.parse_args()
    export(options.out)
    sys.stdout.write(f"Data files written to {options.out}\n")


if __name__ == "__main__":
    main()
