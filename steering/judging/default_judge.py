"""Which judge is used where none is named: the first of the register's defaults that can be had.

Uses no network and loads no weights. Knows what is on this machine; never a rubric or a reply.
"""

import json
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from inspect_ai.model import Model, get_model
from rich.markup import render

from steering.judging.errors import JudgingError
from steering.judging.register import REGISTER, DefaultJudge, cost_text, has_ended
from steering.judging.replies import one_line

GRADER_ROLE = "grader"
LOCAL_JUDGE = "'{model: steered/FOLDER, model_args: {vector: none}}'"
"""How a local model is named as an unsteered judge, quoted for a shell."""
# The share of the free memory that a local judge's weights may take: the rest is for the model
# under test and the caches of both.
_SHARE_OF_MEMORY = 0.5
# A variable that holds a key, as the errors of providers name it.
_KEY = re.compile(r"\b[A-Z][A-Z0-9_]*(?:KEY|TOKEN)\b")
# Inspect's words for the name of a provider that it does not have.
_UNKNOWN = re.compile(r"Model API (\S+) of model .* not recognized")


class MissingKeyError(JudgingError):
    """The key of a judge behind an API is not set."""


def default_judge(remedy: str, tested: Sequence[str] = ()) -> Model:
    """The judge to use where none is named and the model under test suggests none.

    The first of the register's defaults that has not ended and can be had: an API judge one of
    whose keys is set and whose package is there; a local judge whose weights are on this machine
    and fit into half of its free memory, unsteered.

    Args:
        remedy: What to do where there is none, as in `pass --model-role grader=...`.
        tested: Names of the model under test, which never judges itself unless it is asked to.

    Raises:
        JudgingError: There is none; it lists the choices.
    """
    problems = []
    for default in REGISTER.defaults:
        if has_ended(default.judge) or {default.judge, default.weights} & set(tested):
            continue
        if not _at_hand(default):
            continue
        options: dict[str, Any] = {"vector": "none"} if default.weights else {}
        try:
            return get_model(default.judge, role=GRADER_ROLE, **options)
        except Exception as error:
            problems.append(f"{default.judge} can't be used ({detail_of(error)})")
    why = f"; {'; '.join(problems)}" if problems else ""
    raise JudgingError(
        f"there is no judge: none is named, and none of the defaults is at hand{why}. Choose one:"
        f" {_choices()}; or {remedy}. em_choice needs no judge."
    )


def usable_judge(name: str, called: str, remedy: str) -> Model:
    """The judge of a model's name.

    Raises:
        MissingKeyError: its key is not set; the message names the key.
        JudgingError: it can't be used: no package, an unknown name. The message begins with
            `called` and ends with `remedy`.
    """
    try:
        return get_model(name, role=GRADER_ROLE)
    except Exception as error:
        require_key(error, called, remedy)
        if Path(name).expanduser().exists():
            local = LOCAL_JUDGE.replace("FOLDER", name)
            raise JudgingError(f"{called} is a path: give a local judge as {local}.") from error
        provider = _UNKNOWN.search(detail := detail_of(error))
        why = f"there is no provider {provider[1]}" if provider else detail
        raise JudgingError(f"{called} can't be used ({why}): {remedy}.") from error


def require_key(error: Exception, called: str, remedy: str) -> None:
    """Raise `MissingKeyError` where a provider's error is that a key is not set."""
    detail = detail_of(error)
    if key := _KEY.search(detail):
        raise MissingKeyError(
            f"{called} can't be used ({detail}): set {key[0]}, or {remedy}."
        ) from error


def detail_of(error: Exception) -> str:
    """What a provider says is wrong, in one line; Inspect's own errors carry rich markup."""
    message = getattr(error, "message", None)
    return one_line(render(message).plain if isinstance(message, str) else error)


def _at_hand(default: DefaultJudge) -> bool:
    if default.weights:
        return _fits(default.weights)
    return any(os.environ.get(key) for key in default.keys)


def _choices() -> str:
    """The defaults that have not ended, by what each of them needs."""
    by_need: dict[str, list[str]] = {}
    for default in REGISTER.defaults:
        if not has_ended(default.judge):
            need = f"set {default.keys[0]}" if default.keys else "download the weights"
            by_need.setdefault(need, []).append(f"{default.judge}{cost_text(default.judge)}")
    return "; ".join(f"{need} for {' or '.join(judges)}" for need, judges in by_need.items())


@cache
def _fits(weights: str) -> bool:
    """Whether a hub model's weights are in the cache, whole, and fit; found out once a process.

    Once, since the model under test takes memory too, and no run may change its judge on the way.
    """
    if (size := cached_bytes(weights)) is None:
        return False
    # Imported here: no other judge needs torch.
    import torch

    from steering.engines.memory import free_memory

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return size <= _SHARE_OF_MEMORY * free_memory(accelerator or torch.device("cpu"))


def cached_bytes(weights: str) -> int | None:
    """Bytes of a hub model's weights in the cache; None where a file of them is not there."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(weights, "model.safetensors.index.json")
    names = {"model.safetensors"}
    if isinstance(index, str):
        names = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    files = [try_to_load_from_cache(weights, name) for name in sorted(names)]
    if not all(isinstance(file, str) for file in files):
        return None
    return sum(Path(str(file)).stat().st_size for file in files)
