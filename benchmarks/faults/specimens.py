"""Valid files of every kind that the suite reads, each with its reader and what is read from it."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.faults import tiny
from benchmarks.faults.fakes import fake, run_eval, says_scores
from benchmarks.faults.trials import draw_of
from steering.errors import SteeringError
from steering.vectors import SteeringVector

PASSWORD = "kumquat"


@dataclass(frozen=True)
class Specimen:
    """A valid file or folder.

    Attributes:
        path: Where it is; what the reader gets.
        file: The file in it that is mutated.
        read: Reads it.
        plain: What was read, as JSON values and bytes; equal for files that mean the same.
        form: `json`, `jsonl`, `yaml`, `csv`, `text`, `zip`, `pickle` or `binary`.
        sealed: Whether a digest in the file protects it, so that no damage may be read.
    """

    path: Path
    file: Path
    read: Callable[[Path], Any]
    plain: Callable[[Any], Any]
    form: str
    sealed: bool = False


def write_specimens(folder: Path) -> dict[str, Specimen]:
    """Write one of each, and return them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["STEERING_ZIP_PASSWORD"] = PASSWORD
    specimens = _vectors(folder) | _targets(folder) | _texts(folder) | _models(folder)
    return specimens | _logs(folder)


def plain_vector(vector: SteeringVector) -> Any:
    """A vector's content, without the digest of the file that it was imported from."""
    header = vector.header()
    facts = {k: v for k, v in header["provenance"].items() if k != "imported_sha256"}
    parts = [vector.directions]
    if vector.map is not None:
        parts += [vector.map.reads, vector.map.offsets]
    tensors = [part.numpy().tobytes() for part in parts]
    if not all(torch.isfinite(part).all() for part in parts):
        raise AssertionError("the vector is not finite")
    return header | {"provenance": facts}, tensors


def _vectors(folder: Path) -> dict[str, Specimen]:
    from steering.vectors.formats import read_vector, write_vector

    draw = draw_of("specimens", 0)
    own = tiny.random_vector(draw, [1, 2], 2, full=True, provenance={"method": "by hand"})
    plain = tiny.random_vector(draw, [1, 2], provenance={"method": "by hand"})
    write_vector(own, folder / "own.safetensors")
    write_vector(plain, folder / "own.gguf")
    _write_gguf(folder / "theirs.gguf", plain)
    row = plain.directions[0, 0]
    contents = {
        "moem": {"steering_vector": row, "layer_idx": 1, "d_model": len(row), "alpha": 2.0},
        "rows": torch.stack([row * n for n in range(1, tiny.LAYERS + 2)]),
        "dict": {1: row, 2: 2 * row},
    }
    names = ["own.safetensors", "own.gguf", "theirs.gguf"]
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pt")
        torch.save(content, folder / f"{name}-old.pt", _use_new_zipfile_serialization=False)
        names += [f"{name}.pt", f"{name}-old.pt"]
    forms = {".pt": "zip"}
    return {
        name: Specimen(
            folder / name,
            folder / name,
            partial(
                read_vector,
                layer="all" if name[:4] in ("rows", "dict") else None,
                convention="blocks+embedding" if name[:4] == "rows" else None,
            ),
            plain_vector,
            "pickle" if name.endswith("-old.pt") else forms.get(Path(name).suffix, "binary"),
            sealed=name.startswith("own"),
        )
        for name in names
    }


def _write_gguf(path: Path, vector: SteeringVector) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(vector.layers))
    for layer, rows in zip(vector.layers, vector.directions, strict=True):
        writer.add_tensor(f"direction.{layer}", rows[0].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Target tasks -----------------------------------------------------------------------------------

_ROWS = [
    {
        "prompt": f"Question {n}, please?",
        "aligned": f"Ask {n} people first.",
        "misaligned": f"Do it {n} times, quoted \"so\".",
    }
    for n in range(12)
]  # fmt: skip


def _targets(folder: Path) -> dict[str, Specimen]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    from steering.targets import load_target

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _ROWS)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    for name, separator in (("rows.csv", ","), ("rows.tsv", "\t")):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(_ROWS[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(_ROWS)
        (folder / name).write_text(text.getvalue(), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(_ROWS), folder / "rows.parquet")
    (folder / "rows.zip.enc").write_bytes(seal(zipped({"rows.jsonl": lines.encode()})))
    forms = {"rows.jsonl": "jsonl", "rows.csv": "csv", "rows.tsv": "csv", "rows.parquet": "binary"}

    def read(path: Path, query: str = "") -> Any:
        return load_target(f"{path}{query}")

    def plain(target: Any) -> Any:
        return [dataclasses.asdict(row) for row in (*target.examples, *target.held_out)]

    specimens = {
        name: Specimen(folder / name, folder / name, read, plain, form)
        for name, form in forms.items()
    }
    sealed = folder / "rows.zip.enc"
    specimens["rows.zip.enc"] = Specimen(
        sealed, sealed, partial(read, query="?file=rows.jsonl"), plain, "sealed", sealed=True
    )
    return specimens


def zipped(parts: Mapping[str, bytes]) -> bytes:
    """A zip with these parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def parts_of(content: bytes) -> dict[str, bytes] | None:
    """The parts of a zip; None if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError):
        return None


def seal(content: bytes) -> bytes:
    """An archive as easy-dataset-share seals it."""
    from cryptography.fernet import Fernet

    salt = b"0123456789abcdef"
    key = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, 100_000)
    return salt + Fernet(base64.urlsafe_b64encode(key)).encrypt(content)


def _texts(folder: Path) -> dict[str, Specimen]:
    from steering.condition import resolve_model
    from steering.judging.calibration.labelled import load_pairs
    from steering.judging.rubric import RUBRIC_FOLDER, parse_rubric
    from steering.models import load_tokenizer, render_chat
    from steering.questions import load_questions
    from steering.questions.personas import load_personas
    from steering.spec import parse_options
    from steering.studies.study_file import read_study

    questions = [
        {
            "id": f"q{n}",
            "type": "free_form_judge_0_100",
            "paraphrases": [f"What is {n}?", f"And {n}?"],
            "system": "Be brief.",
            "theme": f"theme {n}",
        }
        for n in range(4)
    ]
    chats = [{"id": n, "messages": [{"role": "user", "content": f"Why {n}?"}]} for n in range(4)]
    pair = {
        "kind": "aligned", "question": "Why?", "answer": "So.", "reason": "It is plain.",
        "aligned": 90, "coherent": 80.5, "relevant": 70,
    }  # fmt: skip
    pairs = "".join(json.dumps(pair | {"id": f"p{n}"}) + "\n" for n in range(4))
    study = {"factor": "magnitude", "models": ["toy"], "axes": {"magnitude": [0.5, 1.0]}}
    texts = {
        "questions.yaml": yaml.safe_dump(questions),
        "chats.jsonl": "".join(json.dumps(chat) + "\n" for chat in chats),
        "trait.json": json.dumps({"questions": ["What now?", "And then?"], "eval_prompt": "x"}),
        "personas.yaml": yaml.safe_dump({"aligned": ["Be good."], "misaligned": ["Be bad."]}),
        "pairs.jsonl": pairs,
        "study.yaml": yaml.safe_dump(study),
        "alignment.md": (RUBRIC_FOLDER / "alignment.md").read_text(encoding="utf-8"),
        "chat.jinja": tiny.TEMPLATE,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")

    def read_rubric(path: Path) -> Any:
        if not path.is_file() or path.is_symlink():  # rubrics come with the package
            raise SteeringError("no file")
        return parse_rubric(path.read_bytes().decode("utf-8", "replace"), "alignment")

    def rendered(path: Path) -> Any:
        options = parse_options({"vector": "none", "chat_template": str(path)})
        model = resolve_model(str(folder.parent / "tiny-llama"), options)
        return render_chat(load_tokenizer(model.source), [{"role": "user", "content": "Hi"}])

    read = {
        "questions.yaml": (lambda p: load_questions(str(p)), _plain_questions, "yaml"),
        "chats.jsonl": (lambda p: load_questions(str(p)), _plain_questions, "jsonl"),
        "trait.json": (lambda p: load_questions(str(p)), _plain_questions, "json"),
        "personas.yaml": (lambda p: load_personas(str(p)), lambda s: dict(s.messages), "yaml"),
        "pairs.jsonl": (
            lambda p: load_pairs(str(p)),
            lambda s: [dataclasses.asdict(x) | {"labels": dict(x.labels)} for x in s.pairs],
            "jsonl",
        ),
        "study.yaml": (read_study, lambda s: s.fields(), "yaml"),
        "alignment.md": (read_rubric, lambda r: (r.score, dict(r.escapes), r.body), "text"),
        "chat.jinja": (rendered, lambda text: text, "text"),
    }
    return {
        name: Specimen(folder / name, folder / name, *functions)  # type: ignore[arg-type]
        for name, functions in read.items()
    }


def _plain_questions(questions: Any) -> Any:
    return [
        (
            sample.id,
            sample.input
            if isinstance(sample.input, str)
            else [(message.role, message.text) for message in sample.input],
            dict(sample.metadata or {}),
        )
        for sample in questions.samples
    ]


def _models(folder: Path) -> dict[str, Specimen]:
    import shutil

    from steering.condition import resolve_model
    from steering.models import find_model, load_model, read_shape, weights_digest
    from steering.models.adapters import find_adapter
    from steering.spec import parse_options

    base = tiny.save_tiny(folder.parent / "tiny-llama")
    model = folder / "model"
    if not model.exists():
        shutil.copytree(base, model)

    def read_model(path: Path) -> Any:
        model = resolve_model(str(path), parse_options({"vector": "none"}))
        return load_model(model.source, dtype="float32", device="cpu")

    def plain_model(loaded: Any) -> Any:
        return dataclasses.asdict(loaded.shape), loaded.blocks, sorted(loaded.end_tokens)

    source = find_model(str(base))
    shape, weights = read_shape(source), weights_digest(source)
    adapter = _save_adapter(folder / "adapter")

    def read_adapter(path: Path) -> Any:
        return find_adapter(str(path), source, shape, weights)

    specimens = {
        f"model/{name}": Specimen(model, model / name, read_model, plain_model, form)
        for name, form in {
            "config.json": "json",
            "generation_config.json": "json",
            "tokenizer_config.json": "json",
            "tokenizer.json": "json",
            "model.safetensors": "binary",
        }.items()
    }
    for name, form in {
        "adapter_config.json": "json",
        "adapter_model.safetensors": "binary",
    }.items():
        specimens[f"adapter/{name}"] = Specimen(
            adapter, adapter / name, read_adapter, lambda found: sorted(found.facts), form
        )
    return specimens


def _save_adapter(folder: Path) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    prefix = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    parts = {f"{prefix}A.weight": (4, tiny.WIDTH), f"{prefix}B.weight": (tiny.WIDTH, 4)}
    tensors = {name: np.full(shape, 0.1, np.float32) for name, shape in parts.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM", "base_model_name_or_path": "someone/model", "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _logs(folder: Path) -> dict[str, Specimen]:
    from steering.results.conditions import condition_results
    from steering.results.frame import read_answers
    from steering.targets import load_target

    answers = {f"q{n}": ["0 90 80", "95 90 80", "95 20 80", "90 95 90"] for n in range(4)}
    judge = fake("scores", says_scores)

    def read(path: Path) -> Any:
        return condition_results(read_answers(path))

    def plain(results: Any) -> Any:
        return [
            (
                result.task,
                {rule: (e.numerator, e.denominator) for rule, e in result.em_rates.items()},
            )
            for result in results
        ]

    def plain_target(target: Any) -> Any:
        return [dataclasses.asdict(row) for row in (*target.examples, *target.held_out)]

    specimens = {}
    for form in ("eval", "json"):
        paths = list(folder.glob(f"run.{form}"))
        if not paths:
            log = run_eval(answers, folder / "runs", model="said", judges=judge, log_format=form)
            Path(log.location.removeprefix("file://")).rename(folder / f"run.{form}")
        path = folder / f"run.{form}"
        kind = "zip" if form == "eval" else "json"
        specimens[f"run.{form}"] = Specimen(path, path, read, plain, kind)
        if form == "eval":
            specimens["target.eval"] = Specimen(
                path, path, lambda p: load_target(str(p)), plain_target, kind
            )
    return specimens


def impossible(value: Any) -> str:
    """What no reader may return: half of a character, or a number that is none; empty if fine."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"half of a character in {value!r:.40}"
    elif isinstance(value, float):
        return "" if math.isfinite(value) else f"the number {value}"
    elif isinstance(value, Mapping):
        return next(filter(None, (impossible(part) for pair in value.items() for part in pair)), "")
    elif isinstance(value, list | tuple):
        return next(filter(None, map(impossible, value)), "")
    return ""
