"""The table of conditions of a page: its columns, and the text of each cell."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steering.judging import EM_RULES, KEYS_OF_ALL, KEYS_OF_MISALIGNED
from steering.reports.tables import points_text


def page_columns(corrections: Mapping[str, str], further: Sequence[str]) -> list[tuple[str, str]]:
    """Column of the frame that each column of the table sorts by, and its heading.

    Args:
        corrections: As of `corrections_in`.
        further: Scores of misaligned answers that are shown.
    """
    rates = [
        column
        for rule in EM_RULES
        for column in (
            (f"em_{rule}", f"EM {rule}"),
            (f"em_{rule}_high_these", "on these"),
            (f"em_{rule}_rise", "rise"),
            *((f"em_{rule}_{ending}", heading) for ending, heading in corrections.items()),
        )
    ]
    others = {"relevant_misaligned": "relevant, misaligned"}
    others |= {key: f"{key}, by either rule" for key in further} | {"n": "n"}
    shares = {f"{name}_share": name for name in ("unscored", "truncated")}
    return [*rates, *((name, name) for name in KEYS_OF_ALL), *others.items(), *shares.items()]


def _cell(row: Mapping[Any, Any], name: str) -> str:
    """The text of a cell of the table of conditions."""
    if name.endswith("_high_these"):
        return _bounds(row, name.removesuffix("_high_these"), "_these")
    if name.endswith("_rise"):
        return points_text(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))
    if name.endswith(("_corrected", "_ppi")):
        return "-" if math.isnan(row[name]) else rate_cell(row, name)
    if name.endswith("_share"):
        return f"{100 * row[name]:.0f}%"
    if name == "n":
        return str(row[name])
    if name in KEYS_OF_MISALIGNED and not math.isnan(row[name]):
        return f"{_score(row, name)} {_bounds(row, name, factor=1)}"
    return rate_cell(row, name) if name.startswith("em_") else _score(row, name)


def page_row(row: Mapping[Any, Any], columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "study": row["study"],
        "baseline": row["arm"] == "baseline",
        "cells": [
            {"sort": _sort(row[column]), "text": _cell(row, column)} for column, _ in columns
        ],
        "command": row["command"],
    }


def rate_cell(row: Mapping[Any, Any], name: str) -> str:
    if math.isnan(row[name]):
        return "no scorable answers"
    digits = 1 if row[name] < 0.1 else 0
    return f"{100 * row[name]:.{digits}f}% {_bounds(row, name)}"


def _bounds(row: Mapping[Any, Any], name: str, interval: str = "", factor: int = 100) -> str:
    low, high = (f"{factor * row[f'{name}_{end}{interval}']:.0f}" for end in ("low", "high"))
    return f"[{low}, {high}]".replace("nan", "-")


def _score(row: Mapping[Any, Any], name: str) -> str:
    return "-" if math.isnan(row[name]) else f"{row[name]:.1f}"


def _sort(value: float) -> float:
    return -1.0 if math.isnan(value) else round(float(value), 6)
