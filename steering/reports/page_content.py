"""What a report's page shows: frames, tables of texts, pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from steering.reports.choices import CAPTION, COLUMNS, choice_tables
from steering.reports.examples import TokenLine
from steering.reports.pictures import Picture, choice_pictures, metric_pictures, pictures_of
from steering.results.context_columns import plain_rows
from steering.results.metric_columns import METRIC_SCHEMA
from steering.results.schema import CHOICE_CONDITION_SCHEMA, KEYS, empty_frame


@dataclass(frozen=True)
class PageTable:
    """A table of texts, shown above all others; its first column names the rows."""

    heading: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class MonitorPart:
    """What a page shows of a monitor.

    Attributes:
        table: Its figures by condition.
        pictures: Its ROC curves, if there are any.
        lines: By log, sample and epoch the tokens of an answer, each with its projection.
    """

    table: PageTable
    pictures: Sequence[Picture] = ()
    lines: Mapping[tuple[str, str, int], TokenLine] = field(default_factory=dict)


@dataclass(frozen=True)
class PageContent:
    """What a page shows.

    Attributes:
        title: Of the page.
        headline: The finding in a sentence; if empty, a sentence on the highest rate.
        answers: A row an answer, as `read_answers` gives them.
        conditions: A row a condition, as `conditions_of` gives them.
        choices: A row a condition of em_choice, as `choice_conditions_of` gives them.
        pairs: A row a pair of em_choice, as `read_choices` gives them.
        contexts: A table of contexts for each condition that was asked in some.
        context_headline: The finding in contexts, behind a headline that was not given.
        logs: Folder that the log viewer opens.
        verdicts: Of claims, as `ClaimVerdict.row` gives them.
        spectrum: Singular values of a set of vectors.
        table: That the headline rests on.
        metrics: A row a metric of a condition of another task, as `metrics_of` gives them.
        monitor: What a monitor tells, where answers were monitored.
    """

    title: str
    headline: str
    answers: pd.DataFrame
    conditions: pd.DataFrame
    logs: Path
    verdicts: Sequence[Mapping[str, Any]] = ()
    spectrum: Sequence[float] = ()
    table: PageTable | None = None
    choices: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    monitor: "MonitorPart | None" = None
    contexts: Sequence[PageTable] = ()
    context_headline: str = ""
    metrics: pd.DataFrame = field(default_factory=partial(empty_frame, METRIC_SCHEMA))

    @property
    def choice_conditions(self) -> pd.DataFrame:
        """Conditions of em_choice, which there may be none of."""
        return empty_frame(CHOICE_CONDITION_SCHEMA) if self.choices is None else self.choices

    def choice_tables(self) -> list[PageTable]:
        """A table a set of pairs of em_choice."""
        return [
            PageTable(heading, CAPTION, ["condition", *COLUMNS], [[n, *t] for n, t in rows])
            for heading, rows in choice_tables(self.choice_conditions)
        ]

    def pictures(self) -> list[Picture]:
        """All pictures of the page, to be drawn."""
        return [
            *pictures_of(plain_rows(self.answers), self.conditions, self.spectrum),
            *choice_pictures(self.choice_conditions, self.pairs),
            *metric_pictures(self.metrics),
            *(self.monitor.pictures if self.monitor else ()),
        ]

    @property
    def all_conditions(self) -> pd.DataFrame:
        """The judged conditions; where there are none, those of em_choice, or of other tasks."""
        of_metrics = self.metrics.drop_duplicates(KEYS)
        frames = (self.conditions, self.choice_conditions, of_metrics)
        return next((frame for frame in frames if len(frame)), self.conditions)
