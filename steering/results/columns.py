"""Kinds of columns, each with its checks, its unit and its meaning."""

import math
from typing import Any

import pandera.pandas as pa

POINTS = "0-100"
SHARE = "0-1"
NATS = "nats a token"


def text(meaning: str, *checks: pa.Check) -> pa.Column:
    return pa.Column(str, list(checks), description=meaning, metadata={"unit": ""})


def flag(meaning: str) -> pa.Column:
    return pa.Column(bool, description=meaning, metadata={"unit": ""})


def count(meaning: str) -> pa.Column:
    return pa.Column(int, pa.Check.ge(0), description=meaning, metadata={"unit": "count"})


def number(meaning: str, unit: str = "", most: float = math.inf, least: float = -math.inf) -> Any:
    """A float column; NaN where there is no figure."""
    checks = [pa.Check.in_range(least, most)] if math.isfinite(least) else []
    return pa.Column(float, checks, nullable=True, description=meaning, metadata={"unit": unit})


def share(meaning: str) -> pa.Column:
    return number(meaning, SHARE, 1, 0)


def difference(meaning: str) -> pa.Column:
    return number(meaning, SHARE, 1, -1)


def nats(meaning: str) -> pa.Column:
    return number(meaning, NATS)


def points(meaning: str) -> pa.Column:
    return number(meaning, POINTS, 100, 0)


def interval(name: str, column: Any, meaning: str) -> dict[str, pa.Column]:
    return {
        name: column(meaning),
        f"{name}_low": column(f"lower bound of `{name}`, 95%, on questions like these"),
        f"{name}_high": column(f"upper bound of `{name}`, 95%, on questions like these"),
    }


def two_intervals(name: str, column: Any, meaning: str) -> dict[str, pa.Column]:
    return {
        **interval(name, column, meaning),
        f"{name}_low_these": column(f"lower bound of `{name}`, 95%, on these questions"),
        f"{name}_high_these": column(f"upper bound of `{name}`, 95%, on these questions"),
    }
