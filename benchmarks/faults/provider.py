"""Impossible options of a model and of generation: one line, before any weight is loaded.

Most trials construct the provider in this process, as `inspect eval` does, and ask it for an answer
where it accepts the settings. One in `_CLI` goes through the real command.
"""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
from inspect_ai.model import ChatMessageUser, GenerateConfig

from benchmarks.faults.trials import Problem, doing, draw_of, one_line, refusal
from steering.engines import hf
from steering.provider.api import SteeredAPI

_CLI = 40
_NAN, _INF = float("nan"), float("inf")
_JUNK: list[Any] = ["", None, [], {}, {"a": 1}, "\x00", "x" * 1000, "a,b", [1, 2], b"x", object()]

# Values that no model can take, by option.
_BAD: dict[str, list[Any]] = {
    "layer": [-1, 99, "x", 1.5, _NAN, 10**30, {}, "1e3"],
    "magnitude": [_NAN, _INF, -_INF, "x", "", None, {}, True, "1;2"],
    "unit": ["foo", 3, None, "", "RAW"],
    "operation": ["foo", "", 7, None, "add,ablate"],
    "positions": ["foo", "", 7, None],
    "site": ["foo", 7, "resid"],
    "rank": [0, -1, "x", True, _NAN, 1.5],
    "training_epochs": [0, -1, "x", True, None],
    "build_seed": ["x", 1.5, _NAN, None],
    "method": ["foo", "", 7, None],
    "dtype": ["float12", "", 7, None],
    "device": ["cuda:99", "tpu", "", 7],
    "engine": ["foo", "", None, 7],
    "batch_size": [0, -5, "x", True, None, 1.5],
    "adapter": ["/nowhere", "", "a/b/c", 7],
    "adapter_scale": [0, _NAN, _INF, "x"],
    "vector": ["x.pt", "/nowhere.safetensors", "", "none,none", "/tmp", "/dev/zero", 7, None],
    "target": ["nowhere", "", "/dev/zero", "/tmp/nowhere.jsonl", "a\x00b", "hf:", "x?y=z", 7],
    "revision": ["main", "deadbeef"],
    "chat_template": ["/nowhere", "/tmp", "", "a\x00b", 7],
    "thinking": ["x", 7, None],
    "magnitud": [1.0],
    "__class__": ["x"],
    "": [1],
}
_BAD_NAMES = [
    "toys", "", "a/b/c/d", "/nowhere", "toy\x00", "steered/toy", "x" * 1000, "toy[no such label]",
    ".", "toy]", "~/nowhere", "\ud800",
]  # fmt: skip
_BAD_SETTINGS: dict[str, list[Any]] = {
    "temperature": [-1.0, -0.001, _NAN, _INF, -_INF],
    "top_p": [-1.0, 0.0, 2.0, _NAN, _INF, 1.0001],
    "top_k": [-2, -100, -(2**63)],
    "max_tokens": [0, -1, -5],
    "stop_seqs": [[""], ["a", ""]],
    "logit_bias": [{-1: 1.0}, {0: _NAN}, {0: _INF}, {-(10**9): 1.0}],
    "frequency_penalty": [_NAN, _INF, -_INF],
    "presence_penalty": [_NAN, _INF],
    "num_choices": [0, -1],
    "top_logprobs": [-1, 10**9],
    "seed": [2**80, -(2**80)],
    "extra_body": [{"x": 1}, {"steering": {"magnitud": 1}, "y": 2}],
    "best_of": [3],
    "reasoning_tokens": [100],
}
# Known only once the tokenizer is there: refused with the first request at the latest.
_BAD_LATER: dict[str, list[Any]] = {
    "logit_bias": [{10**6: 1.0}, {2**40: -1.0}],
    "extra_body": [
        {"steering": {"magnitud": 1}}, {"steering": {"layer": 99}}, {"steering": "x"},
        {"steering": {"magnitude": _NAN}}, {"steering": [1]}, {"steering": {"dtype": "float16"}},
    ],
}  # fmt: skip
_GOOD: dict[str, list[Any]] = {
    "magnitude": [2, "1e-1", 0], "batch_size": [4], "dtype": ["float32"], "layer": [1],
    "positions": ["response"], "operation": ["add"],
}  # fmt: skip
_GOOD_SETTINGS: dict[str, list[Any]] = {
    "temperature": [0.0, 0.7], "top_p": [1.0, 0.5], "top_k": [-1, 0, 3], "seed": [1, -1],
    "stop_seqs": [["zz"], []], "logprobs": [True], "num_choices": [2], "logit_bias": [{}, {1: 2.0}],
    "frequency_penalty": [0.5], "top_logprobs": [2], "max_tokens": [1, 3],
}  # fmt: skip


class Faults:
    """The provider under impossible options."""

    size = 1
    bound_s = 120.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded = False
        load = hf.load_model

        def noted(*args: Any, **options: Any) -> Any:
            self._loaded = True
            return load(*args, **options)

        hf.load_model = noted  # type: ignore[assignment]

    def run(self, seed: int) -> list[Problem]:
        """One model with its options and settings."""
        draw = draw_of("provider", seed)
        if seed % _CLI == 7:
            return self._command(draw)
        form = draw.choice(["option", "option", "option", "name", "settings", "settings", "later",
                            "junk", "good"])  # fmt: skip
        name, options, settings = "toy", _some(_GOOD, draw, 1), _some(_GOOD_SETTINGS, draw, 2)
        if form == "option":
            bad = _some(_BAD, draw, 1, least=1)
            if {"layer", "magnitude", "site", "unit", "operation", "positions"} & set(bad):
                options = {}
            options |= bad
        elif form == "name":
            name = draw.choice(_BAD_NAMES)
        elif form == "settings":
            settings |= _some(_BAD_SETTINGS, draw, 1, least=1)
        elif form == "later":
            settings |= _some(_BAD_LATER, draw, 1, least=1)
        elif form == "junk":
            options |= {draw.choice(list(_BAD)): draw.choice(_JUNK)}
        if form not in ("option", "junk"):
            options = {"vector": "none"}
        doing(f"{form}: {name:.60} {options!r:.200} {settings!r:.200}")
        shown = f"{form}: {name:.30} {options!r:.120} {settings!r:.120}"
        return [(v, f"{shown}: {what}") for v, what in self._ask(form, name, options, settings)]

    def _ask(
        self, form: str, name: str, options: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> list[Problem]:
        try:
            config = GenerateConfig(**settings)
        except pydantic.ValidationError:
            return []  # Inspect's own refusal
        self._loaded = False
        try:
            api = SteeredAPI(name, config=config, **options)
        except Exception as error:
            problem = refusal(error)
            if form == "good":
                return [("lost", f"a good value is refused: {one_line(error)}")]
            if self._loaded:
                return [("traceback", "weights loaded before the refusal")]
            return [problem] if problem else []
        if form in ("option", "name", "settings"):
            accepted = "accepted by the constructor"
            if form != "settings":
                return [("wrong", accepted)]
            outcome = _answer(api, config)
            late = isinstance(outcome, Exception)
            return [("traceback", "refused too late") if late else ("wrong", accepted)]
        if form == "junk":
            return []
        outcome = _answer(api, config)
        if isinstance(outcome, Exception):
            if form == "good":
                return [("lost", f"a good value is refused: {one_line(outcome)}")]
            problem = refusal(outcome)
            return [problem] if problem else []
        return [("wrong", f"answered {outcome!r:.60}")] if form == "later" else []

    def _command(self, draw: random.Random) -> list[Problem]:
        """The same through `inspect eval`."""
        arguments, word = draw.choice(
            [
                (["-M", "layer=99"], "99"),
                (["-M", "magnitude=.nan"], "magnitude"),
                (["-M", "lyer=1"], "lyer"),
                (["-M", "vector=none", "--temperature", "-1"], "temperature"),
                (["-M", "vector=none", "--top-p", "2"], "top_p"),
                (["-M", "vector=none", "--top-k", "-7"], "top_k"),
                (["-M", "vector=none", "--max-tokens", "-5"], "max_tokens"),
                (["-M", "vector=none", "--frequency-penalty", "nan"], "frequency_penalty"),
                (["-T", "num_questions=0"], "num_questions"),
                (["-T", "questions=/nowhere.yaml"], "nowhere"),
                (["-T", "aligned_below=200"], "aligned_below"),
                (["-M", "target=nowhere"], "nowhere"),
                (["-M", "adapter=/nowhere"], "nowhere"),
            ]
        )
        display = draw.choice(["plain", "none", "rich", "log"])
        inspect = str(Path(sys.executable).with_name("inspect"))
        command = [
            inspect,
            "eval",
            "evals/em_freeform.py",
            "--model",
            "steered/toy",
            "--limit",
            "1",
            "--display",
            display,
            "--log-dir",
            str(self._folder / "logs"),
            *arguments,
        ]
        doing(" ".join(command[1:]))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.pop("INSPECT_DISPLAY", None)
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2], timeout=self.bound_s - 10,
        )  # fmt: skip
        output = result.stdout + result.stderr
        shown = f"inspect eval {' '.join(arguments)} --display {display}"
        if result.returncode == 0:
            return [("wrong", f"{shown}: ends with 0")]
        if "Traceback" in output:
            return [("traceback", f"{shown}: {output.strip().splitlines()[-1]:.120}")]
        if word not in output:
            return [("traceback", f"{shown}: says {output.strip()[-120:]!r}")]
        return []


def _answer(api: SteeredAPI, config: GenerateConfig) -> Any:
    """The text of a short answer, or the error."""
    message = ChatMessageUser(content="What now?")
    short = config.merge(GenerateConfig(max_tokens=2)) if config.max_tokens is None else config
    try:
        output, _ = asyncio.run(api.generate([message], [], "none", short))
    except Exception as error:
        return error
    return output.completion


def _some(
    table: Mapping[str, list[Any]], draw: random.Random, most: int, least: int = 0
) -> dict[str, Any]:
    """A few of a table's entries with one of their values each."""
    names = draw.sample(list(table), draw.randrange(least, most + 1))
    return {name: draw.choice(table[name]) for name in names}
