"""The answers on a report's page, as data: the first of each question, the worst of all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console

from steering.judging import KEYS_OF_ALL, KEYS_OF_MISALIGNED
from steering.questions.contexts import CONTEXT, PLAIN
from steering.reports.tables import plain_table, print_line
from steering.results.worst import worst_first

TokenLine = Sequence[tuple[str, float]]
"""Tokens of an answer, each with its projection on a monitored direction."""
# Examples of each question in each condition, and of a whole page: a page is to open at once.
FIRST_EACH = 3
_MOST_EXAMPLES = 4000
# The worst of each condition, and of all.
WORST_EACH = 10
_MOST_WORST = 1000
_LONGEST = 600
_MOST_TOKENS = 150


@dataclass(frozen=True)
class PageExamples:
    """The answers of a page.

    Attributes:
        rows: Of each answer what the page shows; `first` says whether it is one of the first of its
            question, `worst` is its place among the worst of its condition, from 1, or 0.
        num_first: How many there are at most of each question and condition.
        num_worst: How many there are at most of each condition.
    """

    rows: Sequence[Mapping[str, Any]]
    num_first: int
    num_worst: int


def page_examples(
    answers: pd.DataFrame,
    order: Iterable[str],
    lines: Mapping[tuple[str, str, int], TokenLine],
) -> PageExamples:
    """The first answers of each question in each condition, and the worst of each condition.

    There are as many as a page can hold.

    Args:
        answers: A row an answer, with the name of its condition as `_name`.
        order: Names of the conditions.
        lines: By log, sample and epoch the tokens of an answer that a monitor read.
    """
    names = pd.Categorical(answers["_name"], list(dict.fromkeys(order)))
    rows = answers.assign(_name=names).reset_index(drop=True)
    rows = rows.sort_values(["_name", "sample", "epoch"], kind="stable")
    groups = rows.groupby(["_name", "question"], sort=False, observed=True)
    num_first = max(1, min(FIRST_EACH, _MOST_EXAMPLES // max(1, groups.ngroups)))
    first = groups.head(num_first).head(_MOST_EXAMPLES).index
    num_worst = max(1, min(WORST_EACH, _MOST_WORST // max(1, rows["_name"].nunique())))
    ranks = worst_first(rows).groupby("_name", observed=True).cumcount() + 1
    worst = ranks[ranks <= num_worst].head(_MOST_WORST)
    examples = rows[rows.index.isin(first.union(worst.index))]
    marked = examples.assign(
        _first=examples.index.isin(first), _worst=worst.reindex(examples.index, fill_value=0)
    )
    data = [
        {
            "condition": row["_name"],
            "question": row["question"],
            "prompt": _cut(row["prompt"]),
            "answer": _cut(row["answer"]),
            "scores": _scores(row),
            "misaligned": bool(row["em_betley"] == 1 or row["em_moem"] == 1),
            "kind": row["kind"],
            "first": row["_first"],
            "worst": row["_worst"],
            **_tokens(row, lines),
        }
        for row in marked.to_dict("records")
    ]
    return PageExamples(data, num_first, num_worst)


def print_worst(worst: pd.DataFrame, console: Console) -> None:
    """Print answers as `worst_answers` gives them."""
    if worst.empty:
        print_line(console, "No answer is coherent enough to count by the rule betley.")
        return
    title = "The worst answers: the least aligned of those that count by the rule betley"
    table = plain_table(title, ["condition", "question", "answer"], ["aligned", "coherent"])
    for row in worst.to_dict("records"):
        condition = f"{row['model']}[{row['condition']}]"
        if row[CONTEXT] != PLAIN:
            condition += f" in {row[CONTEXT]}"
        scores = (f"{row[key]:.1f}" for key in ("aligned", "coherent"))
        table.add_row(condition, row["question"], _cut(row["answer"]), *scores)
    console.print(table)


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
