"""Whether a frame is one of a schema; pandera says what is wrong with one that is not."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pandera.pandas as pa

from steering.errors import SteeringError

_NOT_TEXT = ("bool", "int64", "float64")
_BOUNDS = ("in_range", "greater_than_or_equal_to")


class FrameError(SteeringError):
    """A frame lacks a column, or holds a value that its column can't have."""


def check_frame(frame: pd.DataFrame, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """The frame, if it is one of a schema.

    Raises:
        FrameError: It names the column and what is wrong with it.
    """
    # pandas copies the attributes of a frame for each column that is taken from it.
    bare = frame.copy(deep=False)
    bare.attrs = {}
    columns = schema.columns
    if frame.columns.is_unique and set(frame.columns) == set(columns):
        columns = {name: columns[name] for name in _unclear(bare, columns)}
        bare = bare[list(columns)]
    try:
        if columns:
            pa.DataFrameSchema(columns, strict=True).validate(bare, lazy=True)
    except pa.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        column = first["column"] if first["column"] in schema.columns else first["failure_case"]
        raise FrameError(
            f"this is no frame of {schema.name}: column {column!r} fails {first['check']} with "
            f"{first['failure_case']!r}. Use a frame that read_answers or conditions_of gives"
        ) from None
    return frame


def _unclear(frame: pd.DataFrame, columns: Mapping[str, pa.Column]) -> list[str]:
    """Columns whose type, gaps or bounds are not plainly right.

    pandera takes a millisecond for any column, and the frames of one report have 2,000 of them;
    here all columns of a type are looked at together.
    """
    types, gaps = dict(frame.dtypes), dict(frame.isna().any())
    lowest = dict(frame.min(numeric_only=True))
    highest = dict(frame.max(numeric_only=True))

    def is_clear(name: str, column: pa.Column) -> bool:
        kind, declared = types[name], str(column.dtype)
        is_of_type = kind == declared if declared in _NOT_TEXT else isinstance(kind, pd.StringDtype)
        may_have_gaps = column.nullable or not gaps[name]
        return is_of_type and may_have_gaps and all(holds(name, check) for check in column.checks)

    def holds(name: str, check: pa.Check) -> bool:
        limits: Any = check.statistics
        if check.name == "not_equal_to":
            return not (frame[name] == limits["value"]).any()
        if check.name not in _BOUNDS:
            return False
        # NaN is neither below nor above.
        is_low = lowest[name] < limits["min_value"]
        return not (is_low or highest[name] > limits.get("max_value", math.inf))

    return [name for name, column in columns.items() if not is_clear(name, column)]
