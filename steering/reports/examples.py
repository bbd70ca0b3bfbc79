"""The answers on a report's page: the first of each question in each condition, as data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from steering.judging import KEYS_OF_ALL, KEYS_OF_MISALIGNED

TokenLine = Sequence[tuple[str, float]]
"""Tokens of an answer, each with its projection on a monitored direction."""
# Examples of each question in each condition, and of a whole page: a page is to open at once.
_MOST_A_CELL = 3
_MOST_EXAMPLES = 4000
_LONGEST = 600
_MOST_TOKENS = 150


def page_examples(
    answers: pd.DataFrame,
    order: Iterable[str],
    lines: Mapping[tuple[str, str, int], TokenLine],
) -> tuple[list[dict[str, Any]], int]:
    """The first answers of each question in each condition, as many as a page can hold.

    Args:
        answers: A row an answer, with the name of its condition as `_name`.
        order: Names of the conditions.
        lines: By log, sample and epoch the tokens of an answer that a monitor read.

    Returns:
        The answers, and how many of each question and condition there are at most.
    """
    names = pd.Categorical(answers["_name"], list(dict.fromkeys(order)))
    rows = answers.assign(_name=names).sort_values(["_name", "sample", "epoch"], kind="stable")
    groups = rows.groupby(["_name", "question"], sort=False, observed=True)
    a_cell = max(1, min(_MOST_A_CELL, _MOST_EXAMPLES // max(1, groups.ngroups)))
    examples = groups.head(a_cell).head(_MOST_EXAMPLES)
    return [
        {
            "condition": row["_name"],
            "question": row["question"],
            "prompt": _cut(row["prompt"]),
            "answer": _cut(row["answer"]),
            "scores": _scores(row),
            "misaligned": bool(row["em_betley"] == 1 or row["em_moem"] == 1),
            "kind": row["kind"],
            **_tokens(row, lines),
        }
        for row in examples.to_dict("records")
    ], a_cell


def _scores(row: Mapping[Any, Any]) -> dict[str, float | None]:
    """The scores of an answer by name, without those that it was not judged in."""
    asked = [key for key in KEYS_OF_MISALIGNED if f'"{key}"' in row["reasons"] or row[key] >= 0]
    return {
        key: None if math.isnan(row[key]) else round(row[key], 1) for key in (*KEYS_OF_ALL, *asked)
    }


def _tokens(
    row: Mapping[Any, Any], lines: Mapping[tuple[str, str, int], TokenLine]
) -> dict[str, Any]:
    """The tokens of an answer that a monitor read, and what it read, if they were recorded."""
    line = lines.get((row["log"], row["sample"], row["epoch"]))
    if not line:
        return {}
    tokens = [[text, round(value, 3)] for text, value in line[:_MOST_TOKENS]]
    return {"tokens": tokens, "monitor": f"each token's projection on {row['monitor']}"}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
