"""The settings of conditions in words: what a signature shows, and what keeps rows from comparison.

`schema` has the lists: `COMPARED` is what two conditions must share, `SIGNED` is all that moves a
figure besides rule, thresholds, judge, questions, condition and version.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steering.questions.contexts import CONTEXT
from steering.results.schema import COMPARED

NONE = "none"
# Said only where nothing else differs: they follow from most other differences.
_CONSEQUENCES = ("asked", "prompt")
# What a model was told is a part of its condition; every model has a chat template of its own.
_OF_CONDITIONS = ("system_message", "prompt_sha256")
_LONGEST = 40
_SHORT = 6
# Of a digest.
_DIGITS = 12
_MOST_NAMES = 4


def settings_of(columns: Mapping[Any, Any], names: Iterable[str]) -> dict[str, str]:
    """Settings of a condition by name, as short texts; those that are unset are left out.

    Two values that differ have texts that differ. A setting that is a JSON object gives an entry a
    key, as in `rubrics aligned`.

    Args:
        columns: Of the condition.
        names: Columns to read.
    """
    texts: dict[str, str] = {}
    for name in names:
        word, value = name.removesuffix("_sha256"), columns[name]
        if name.endswith("_sha256"):
            value = str(value)[:_DIGITS]
        parts = _parts(value)
        pairs = {f"{word} {key}": part for key, part in parts.items()} if parts else {word: value}
        texts |= {key: text for key, part in pairs.items() if (text := _text(part)) != NONE}
    return texts


def context_setting(columns: Mapping[Any, Any]) -> dict[str, str]:
    """The context that figures are of, with its set; nothing for plain ones."""
    if CONTEXT not in columns:
        return {}
    return {CONTEXT: f"{columns[CONTEXT]} of {columns['contexts']}"}


def measured_alike(columns: Mapping[Any, Any]) -> str:
    """Short digest of how a condition was asked, judged and counted.

    Conditions of a model that can be compared share it; it holds nothing of what was done to them.
    """
    names = [name for name in COMPARED if name not in _OF_CONDITIONS]
    text = json.dumps(settings_of(columns, names), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_SHORT]


def differing_settings(conditions: Sequence[Mapping[Any, Any]]) -> list[str]:
    """Each setting that keeps conditions from being compared, with its values.

    Args:
        conditions: Columns of each.
    """
    return [
        f"{name} ({', '.join(sorted(set(values)))})"
        for name, values in _differing(conditions).items()
    ]


def differences_between(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """As `differing_settings`, of the columns of two conditions, A and B."""
    values = _differing([first, second])
    return [f"{name} (A: {one}, B: {other})" for name, (one, other) in values.items()]


def asked_apart(conditions: Sequence[Mapping[Any, Any]], names: Sequence[str]) -> str:
    """Which conditions can't be compared with which others, and in what they differ.

    Args:
        conditions: Columns of each.
        names: Of each.

    Returns:
        Groups such as "a, b (temperature 1); c (temperature 0)"; "" where all can be compared.
    """
    groups: dict[str, list[str]] = {}
    values = _differing(conditions)
    for name, *settings in zip(names, *values.values(), strict=True):
        words = ", ".join(f"{word} {text}" for word, text in zip(values, settings, strict=True))
        groups.setdefault(words, []).append(name)
    return "; ".join(f"{first_names(rows)} ({words})" for words, rows in groups.items() if words)


def _differing(conditions: Sequence[Mapping[Any, Any]]) -> dict[str, list[str]]:
    """Setting to its text in each condition, for the settings that differ.

    What a model was told beforehand is a part of the condition, like a vector: it sets no rows
    apart.
    """
    rows = [settings_of(columns, COMPARED) for columns in conditions]
    names = dict.fromkeys(name for row in rows for name in row)
    texts = {name: [row.get(name, NONE) for row in rows] for name in names}
    differing = {name: values for name, values in texts.items() if len(set(values)) > 1}
    messages = differing.pop("system_message", None)
    if messages or len({columns["model"] for columns in conditions}) > 1:
        # Every model has a chat template of its own.
        differing.pop("prompt", None)
    causes = [name for name in differing if name not in _CONSEQUENCES]
    return {name: differing[name] for name in causes or list(differing)[:1]}


def _parts(value: object) -> Mapping[str, Any]:
    """The entries of a JSON object; none of any other value."""
    if not isinstance(value, str) or not value.startswith("{"):
        return {}
    try:
        parsed = json.loads(value)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _text(value: object) -> str:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, float):
        return f"{value:.12g}"
    whole = str(value)
    text = " ".join(whole.replace("|", " ").split())
    if text == whole and len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(whole.encode()).hexdigest()[:_DIGITS]
    if whole.startswith(("{", "[")):
        return digest
    return f"{text[: _LONGEST - 20].rstrip()}... ({digest})"


def first_names(names: Sequence[str]) -> str:
    """The first few names of a list, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more}"
