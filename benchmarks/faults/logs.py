"""Logs that can't be true, and the commands that read them: never a pass, never another figure.

A trial changes a log of a finished run: impossible scores, copied, failed or missing samples, other
thresholds, a cut file, hostile names. `gate` must not end with 0 on what can't be true; where a
change leaves the answers alone, every figure is that of the unchanged log.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log

from benchmarks.faults.fakes import fake, run_eval, says_scores
from benchmarks.faults.trials import Problem, doing, draw_of, refusal
from steering.cli import commands
from steering.results.conditions import condition_results
from steering.results.frame import read_answers

Change = Callable[[dict[str, Any], random.Random], "str | None"]
_GOOD, _BAD = "95 90 80", "0 90 80"
_QUESTIONS, _SAMPLES = 24, 3
_KEYS = ("aligned", "coherent", "relevant")
_NASTY = [
    "<script>steal()</script>", "\x1b[31mred\x1b[0m", "=HYPERLINK(1)", "$x$ and $y$", "[bold]b[/]",
    "javascript:alert(1)", "a\x9bb", "[link=http://x]y[/link]", "| a | b |", "../../x", "`rm`",
    "[/nothing]", "$(rm x)", "'; rm x; '", "\u202eback", "![x](http://y)",
]  # fmt: skip


def impossible_score(log: dict[str, Any], draw: random.Random) -> str:
    """A score that no judge can have given."""
    value = draw.choice(
        [101, 1e9, float("inf"), float("-inf"), -5, True, "85", [], {}, 100.001, -0.5, 10**400]
    )
    for sample in draw.sample(log["samples"], draw.choice([1, 1, 10])):
        sample["scores"]["em_judge"]["value"][draw.choice(_KEYS)] = value
    return f"{str(value)[:20]}"


def lost_key(log: dict[str, Any], draw: random.Random) -> str:
    """A score without one of its keys, or of another scorer, or none."""
    sample = draw.choice(log["samples"])
    kind = draw.choice(["key", "value", "scorer", "scores"])
    if kind == "key":
        del sample["scores"]["em_judge"]["value"][draw.choice(_KEYS[:2])]
    elif kind == "value":
        sample["scores"]["em_judge"]["value"] = draw.choice([90, "C", None, [1, 2]])
    elif kind == "scorer":
        sample["scores"] = {"other": sample["scores"]["em_judge"]}
    else:
        sample["scores"] = draw.choice([None, {}])
    return kind


def copied(log: dict[str, Any], draw: random.Random) -> str:
    """Samples that stand there twice, under their own name, a new epoch, or a new name."""
    kind = draw.choice(["same", "uuid", "epoch", "id"])
    for sample in draw.sample(log["samples"], draw.choice([1, 5, 30])):
        copy = deepcopy(sample)
        if kind == "uuid":
            copy["uuid"] = f"copy-{draw.random()}"
        elif kind == "epoch":
            copy["epoch"] += 1
        elif kind == "id":
            copy["id"] = f"{copy['id']}-copy"
        log["samples"].append(copy)
    return kind


def failed(log: dict[str, Any], draw: random.Random) -> str:
    """Samples that ended in an error, with or without scores."""
    kept = draw.random() < 0.5
    for sample in draw.sample(log["samples"], draw.choice([1, 5])):
        sample["error"] = {"message": "boom", "traceback": "", "traceback_ansi": ""}
        if not kept:
            sample["scores"] = {}
    return "with scores" if kept else "without scores"


def missing(log: dict[str, Any], draw: random.Random) -> str:
    """Samples that are not there."""
    count = draw.choice([1, 5, len(log["samples"])])
    for sample in draw.sample(log["samples"], count):
        log["samples"].remove(sample)
    return f"{count}"


def unfinished(log: dict[str, Any], draw: random.Random) -> str:
    """A run that did not succeed."""
    log["status"] = draw.choice(["error", "cancelled", "started"])
    return str(log["status"])


def odd_bounds(log: dict[str, Any], draw: random.Random) -> str:
    """Thresholds that can't be, of one sample or of all."""
    value = draw.choice([-1, 101, float("nan"), "30", None, True, [], 1e300])
    key = draw.choice(["aligned_below", "coherent_from"])
    for sample in log["samples"][: draw.choice([1, len(log["samples"])])]:
        sample["scores"]["em_judge"]["metadata"]["bounds"][key] = value
    return f"{key} {value}"


def moved(log: dict[str, Any], draw: random.Random) -> None:
    """The samples stand in another order."""
    draw.shuffle(log["samples"])


def bounds_turned(log: dict[str, Any], draw: random.Random) -> None:
    """The thresholds stand in another order: they are read by name."""
    for sample in log["samples"]:
        metadata = sample["scores"]["em_judge"]["metadata"]
        metadata["bounds"] = dict(reversed(metadata["bounds"].items()))


def remarked(log: dict[str, Any], draw: random.Random) -> None:
    """Metadata of others."""
    log["eval"]["metadata"] = (log["eval"].get("metadata") or {}) | {"note": {"a": [1]}}
    for sample in log["samples"][:5]:
        sample["metadata"]["tag"] = "x"


def other_judge(log: dict[str, Any], draw: random.Random) -> str:
    """Another judge scored some of the samples."""
    for sample in draw.sample(log["samples"], draw.choice([1, 20])):
        sample["scores"]["em_judge"]["metadata"]["judge"] = "other/judge"
    return ""


def nasty_names(log: dict[str, Any], draw: random.Random) -> str:
    """Names and texts that would do something in a terminal, a page or a table."""
    text = draw.choice(_NASTY)
    if draw.random() < 0.7:
        log["eval"]["task"] = f"small {text}"
    if draw.random() < 0.7:
        log["eval"]["model"] = f"faults/{text}"
    for sample in log["samples"]:
        sample["metadata"]["question"] = f"{text} {sample['metadata']['question']}"
        sample["scores"]["em_judge"]["answer"] = text
        sample["scores"]["em_judge"]["metadata"]["judge"] = text
    return repr(text)


NEVER: list[Change] = [impossible_score, impossible_score, lost_key, copied, copied, failed]
NEVER += [missing, unfinished, odd_bounds]
SAME: list[Change] = [moved, bounds_turned, remarked]
OTHER: list[Change] = [other_judge, nasty_names, nasty_names]
_FOLDERS = [
    "plain",
    "50% off",
    "a#b",
    "a?b",
    "späce é",
    "a&b=c",
    "%41%zz",
    "x" * 100,
    "[a]",
    "~",
    "-x",
]


class Faults:
    """Finished runs with changed logs."""

    size = 1
    bound_s = 90.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "trial"
        judge = fake("scores", says_scores)
        answers = {
            f"q{n}": [_BAD if n in (3, 9) else _GOOD, _GOOD, _GOOD] for n in range(_QUESTIONS)
        }
        calm = {question: [_GOOD] * _SAMPLES for question in answers}
        self._logs = {}
        for name, texts in {"steered": answers, "baseline": calm}.items():
            log = run_eval(texts, folder / "runs", model=name, judges=judge, log_format="json")
            path = Path(log.location.removeprefix("file://"))
            self._logs[name] = json.loads(path.read_text())
        for form in ("json", "eval"):
            self._write(self._logs["steered"], "plain", form)
        self._figures = self._read(self._folder / "plain")

    def _write(self, log: dict[str, Any], place: str, form: str) -> Path:
        """The log in a folder of its own."""
        folder = self._folder / place
        folder.mkdir(parents=True, exist_ok=True)
        # Inspect lists JSON files only if their names begin as those of its logs do.
        path = folder / f"2026-01-01T00-00-00+00-00_small_run.{form}"
        if form == "json":
            path.write_text(json.dumps(log))
        else:
            write_eval_log(EvalLog.model_validate(log), str(path))
        return path

    def _read(self, folder: Path) -> list[Any]:
        return [
            (result.task, rule, rate.numerator, rate.denominator, rate.num_themes)
            for result in condition_results(read_answers(folder))
            for rule, rate in result.em_rates.items()
        ]

    def run(self, seed: int) -> list[Problem]:
        """One changed log, one command."""
        draw = draw_of("logs", seed)
        shutil.rmtree(self._folder, ignore_errors=True)
        log = deepcopy(self._logs["steered"])
        group = draw.choice([NEVER, NEVER, NEVER, SAME, OTHER, []])
        change = draw.choice(group) if group else None
        place = draw.choice(_FOLDERS)
        form = draw.choice(["json", "eval"])
        detail = (change(log, draw) if change else "truncated") or ""
        try:
            path = self._write(log, place, form)
        except Exception:
            # Inspect's own writer refuses it, so no such file of the one format can exist.
            shutil.rmtree(self._folder)
            form, path = "json", self._write(log, place, "json")
        if change is None:
            content = path.read_bytes()
            path.write_bytes(content[: draw.randrange(len(content))])
        if (
            change is copied
            and len(read_eval_log(str(path)).samples or []) == _QUESTIONS * _SAMPLES
        ):
            group = SAME  # Inspect's writer drops samples of one name and epoch
        name = draw.choice(["gate", "gate", "gate", "rescore", "compare", "claims", "report"])
        where = str(path if draw.random() < 0.3 else path.parent)
        shown = f"{name}, {change.__name__ if change else ''} {detail} {form} in {place!r:.20}"
        doing(shown)
        problems = self._command(name, where, draw, group, change)
        if group is SAME and self._read(path.parent) != self._figures:
            problems.append(("wrong", "the figures are others"))
        return [(verdict, f"{shown}: {what}") for verdict, what in problems]

    def _command(
        self, name: str, where: str, draw: random.Random, group: list[Change], change: Change | None
    ) -> list[Problem]:
        out = self._folder / "out"
        other = str(self._write(self._logs["baseline"], "other", "json"))
        arguments = {
            "gate": ["gate", "--max", "em_rate=0.5", "--min", "coverage=0.5", "--", where],
            "rescore": ["rescore", "--out", f"{out}.csv", "--", where],
            "compare": ["compare", "--anyway", "--", other, where],
            "claims": ["claims", "--", where],
            "report": ["report", "--out", str(out), "--", where],
        }[name]
        here = Path.cwd()
        if draw.random() < 0.3:  # a relative path
            os.chdir(self._folder)
            arguments = [os.path.relpath(a) if a in (where, other) else a for a in arguments]
        try:
            result = CliRunner().invoke(commands, arguments)
        finally:
            os.chdir(here)
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            problem = refusal(error)
            if problem is None and group is SAME:
                return [("lost", f"refused: {error!s:.160}")]
            return [problem] if problem else []
        problems = [("wrong", f"{fault} in the output") for fault in _escapes(result.output, out)]
        never = group is NEVER or change is None
        # Of a run that broke off, the other commands show what there is, with a note.
        counts_part = change in (failed, missing, unfinished)
        if result.exit_code == 0 and never and (name == "gate" or not counts_part):
            problems.append(("wrong", f"{name} ends with 0"))
        if group is SAME and result.exit_code != 0:
            problems.append(("lost", f"ends with {result.exit_code}: {result.output[-160:]!r}"))
        return problems


def _escapes(output: str, out: Path) -> list[str]:
    """What of the hostile names would act: control codes, markup of a page, formulas of a table."""
    faults = [repr(code) for code in ("\x1b", "\x9b") if code in output]
    for path in out.rglob("*") if out.is_dir() else [*out.parent.glob("out.csv")]:
        if path.suffix in (".html", ".md"):
            text = path.read_text()
            faults += [
                f"{part} of {path.name}" for part in ("<script>steal", "\x1b") if part in text
            ]
        elif path.suffix == ".csv":
            cells = [cell for line in path.read_text().splitlines() for cell in line.split(",")]
            faults += [f"{cell!r:.40} of {path.name}" for cell in cells if cell.startswith("=")]
    return faults
