"""What pictures of frames share: their axes, series, names and signatures."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from pandas.api.types import is_numeric_dtype

from steering.errors import printable
from steering.reports.pictures.lines import Line, line_of
from steering.reports.pictures.style import MOST_SERIES
from steering.reports.pictures.words import series_name, vectors_text
from steering.results.corrections import EXACT
from steering.results.schema import KEYS, SIGNED
from steering.results.series import AskedAlike, split_series
from steering.results.settings import NONE, settings_of

# The axes that a study varies, where it has conditions on them.
AXES_OF_STUDIES = {
    "magnitude": ("magnitude",),
    "rank": ("rank", "top"),
    "epochs": ("training_epochs",),
    "layer": ("layer",),
    "audit": ("magnitude",),
}
# Every condition has another one of these.
_OF_EACH = ("fingerprint",)
MOST_VALUES = 3
# What pictures are labelled with.
_NAMES = [
    *KEYS,
    "label",
    "metric",
    "target",
    "question",
    *(name for name in SIGNED if name not in KEYS),
]
# A file's name has at most 255 bytes.
_LONGEST_SLUG = 40
_SEEDS = (
    "Thin lines are build seeds, thick ones their mean; a band is its 95% interval over themes and "
    "build seeds."
)
_BARS = "Bars are 95% intervals on questions like these."


def signature_of(conditions: pd.DataFrame, head: str = "rules:betley,moem") -> str:
    """How the figures of some conditions were made, in a line that starts with `head`."""
    columns = ["judge", "questions", "version", *(name for name in SIGNED if name not in _OF_EACH)]
    if "calibration" in conditions and not conditions["calibration"].isin(["", EXACT]).all():
        columns.append("calibration")
    rows = [settings_of(row, columns) for row in conditions.to_dict("records")]
    names = dict.fromkeys(name for row in rows for name in row)
    parts = {name: sorted({row.get(name, NONE) for row in rows}) for name in names}
    shown = (
        f"{name}:{' and '.join(values) if len(values) <= MOST_VALUES else f'{len(values)} values'}"
        for name, values in parts.items()
    )
    return "|".join([head, *shown])


def with_printable_names(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with names that can be drawn: an SVG with a control code is none."""
    names = [name for name in _NAMES if name in frame and not is_numeric_dtype(frame[name])]
    return frame.assign(**{name: frame[name].map(printable) for name in names})


def series_along(steered: pd.DataFrame, *axes: str, seeds: bool = True) -> list[AskedAlike]:
    """Series that differ in nothing but the axes and, where they can be pooled, the build seed."""
    if steered.empty:
        return []
    return [
        replace(series, settings=" ".join(filter(None, [control, series.settings])))
        for (_, control), of_arm in steered.groupby(["arm", "control"], sort=True)
        for series in split_series(of_arm, [*axes, *(["build_seed"] if seeds else [])])
    ]


def in_parts(series: Sequence[AskedAlike]) -> list[Sequence[AskedAlike]]:
    """As many in a picture as can be told apart."""
    return [series[n : n + MOST_SERIES] for n in range(0, len(series), MOST_SERIES)]


def lines_of(
    series: Sequence[AskedAlike], axis: str, means: pd.DataFrame | None, columns: Sequence[str]
) -> list[Line]:
    names = [series_name(each.settings) or vectors_text(each.answers, [axis]) for each in series]
    return [
        line_of(name, each.answers, axis, means, columns)
        for name, each in zip(names, series, strict=True)
    ]


def bars_text(lines: Sequence[Line]) -> str:
    parts = [_SEEDS] if any(line.seeds for line in lines) else []
    parts += [_BARS] if not all(line.seeds for line in lines) else []
    return " ".join(parts)


def numbered(number: int) -> str:
    """Of a second picture of a kind, and so on."""
    return f"-{number + 1}" if number else ""


def without_digest(questions: str) -> str:
    return re.sub(r"@\w+", "", questions)


def slug(name: str) -> str:
    """A name as a part of a file's name, without a digest: nothing that is a folder."""
    return re.sub(r"[^\w.]+", "-", without_digest(name))[:_LONGEST_SLUG]
