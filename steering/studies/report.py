"""The report of finished runs: tables for a terminal, a page, pictures and frames.

Stands with the studies, since the report of a study holds the claims and the spectrum besides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console

from steering.errors import write_errors_as_ours
from steering.logs import is_of_judge, log_files
from steering.reports.by_judge import print_by_judge
from steering.reports.calibration import print_calibrations
from steering.reports.choices import print_choices
from steering.reports.contexts import CAPTION, context_headline, context_tables, print_contexts
from steering.reports.metrics import metric_headline, metric_sections, print_metrics
from steering.reports.monitor import monitor_part
from steering.reports.page import page_headline, write_page
from steering.reports.page_content import PageContent, PageTable
from steering.reports.papers import COLUMN, condition_tables, numbered, write_paper
from steering.reports.pictures import Picture
from steering.reports.summary import print_summary
from steering.reports.tables import (
    correction_notes,
    print_left_out,
    print_line,
    print_signatures,
)
from steering.results.by_judge import judge_panels
from steering.results.calibrations import Calibration, read_calibrations
from steering.results.choices import (
    beside,
    choice_conditions_of,
    choice_results,
)
from steering.results.conditions import condition_results, conditions_of
from steering.results.context_columns import plain_rows
from steering.results.contexts import (
    ChoiceContextResult,
    ContextResult,
    choice_context_results,
    choice_contexts_of,
    context_results,
    contexts_of,
)
from steering.results.counted_runs import ResultError, no_runs, split_runs
from steering.results.dimensions import dimension_metrics
from steering.results.document import Document
from steering.results.frame import LeftOut, left_out
from steering.results.frame_files import write_frames
from steering.results.metric_columns import METRIC_SCHEMA, SCORE_SCHEMA
from steering.results.schema import (
    ANSWER_SCHEMA,
    CHOICE_CONDITION_SCHEMA,
    CHOICE_SCHEMA,
    CONDITION_SCHEMA,
    empty_frame,
)
from steering.results.task_metrics import metrics_of
from steering.results.task_scores import read_all_results
from steering.studies.arm_claims import judge_arms
from steering.studies.arms_report import arm_differences, arms_table, print_arms
from steering.studies.claims import judge_claims
from steering.studies.printing import print_claims, print_conditions
from steering.studies.projected_vectors import read_spectrum
from steering.studies.verdicts import ClaimVerdict, verdict_tables

# Of a calibration that finished; why another is left out says more.
_OF_A_JUDGE = "it is of a judge and not of a model"


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes:
        answers: A row an answer.
        conditions: A row a condition, with its figures and those of em_choice.
        choices: A row a pair of answers of em_choice.
        choice_conditions: A row a condition of em_choice, with its figures.
        scores: A row a sample of another task.
        metrics: A row a metric of a condition of another task.
        verdicts: On the claims that the runs have data for.
        calibrations: Runs of judges.
        files: What was written.
        spectrum: Singular values of the vectors that the study `rank` projected on.
    """

    answers: pd.DataFrame
    conditions: pd.DataFrame
    verdicts: Sequence[ClaimVerdict]
    calibrations: Sequence[Calibration] = ()
    files: Sequence[Path] = ()
    choices: pd.DataFrame = field(default_factory=partial(empty_frame, CHOICE_SCHEMA))
    choice_conditions: pd.DataFrame = field(
        default_factory=partial(empty_frame, CHOICE_CONDITION_SCHEMA)
    )
    spectrum: Sequence[float] = ()
    scores: pd.DataFrame = field(default_factory=partial(empty_frame, SCORE_SCHEMA))
    metrics: pd.DataFrame = field(default_factory=partial(empty_frame, METRIC_SCHEMA))

    @property
    def left_out(self) -> list[LeftOut]:
        """The logs that no figure counts, with their reasons."""
        return [
            note for frame in (self.answers, self.choices, self.scores) for note in left_out(frame)
        ]

    def pictures(self) -> list[Picture]:
        """The pictures of the page, each with a caption; a notebook shows them."""
        return _page_content(self, Path()).pictures()

    def write_figures(
        self,
        folder: str | Path,
        *,
        width: float = COLUMN,
        font: str = "",
        style: str | Path = "",
    ) -> list[Path]:
        """Write the pictures and tables for a paper.

        Each picture as PDF, SVG, PNG and as a figure of LaTeX with its caption; each table in LaTeX
        (booktabs) and in Markdown.

        Args:
            folder: Where to write; files of other names stay.
            width: Of the pictures, in inches; their text has 8 points.
            font: Family of their text, which must be installed, or `serif`, `sans-serif`,
                `monospace`.
            style: Name of a style of matplotlib, or path of a style sheet.

        Returns:
            The files.

        Raises:
            SteeringError: There is no such font or style, or a file can't be written.
        """
        pictures, tables = self.pictures(), self._tables()
        return write_paper(pictures, tables, Path(folder), width=width, font=font, style=style)

    def _tables(self) -> Iterator[tuple[str, PageTable]]:
        yield from condition_tables(self.conditions)
        page = _page_content(self, Path())
        yield from numbered("choices", page.choice_tables())
        yield from numbered("contexts", page.contexts)
        sections = metric_sections(self.metrics)
        yield from numbered(
            "metrics", [PageTable(*part) for _, parts in sections for part in parts]
        )
        if page.table is not None:
            yield "arms", page.table
        if self.verdicts:
            yield "claims", _claims_table(self.verdicts)


def report(
    logs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    console: Console | None = None,
    title: str = "",
    headline: str = "",
    verbose: bool = False,
) -> Report:
    """Print the conditions of logs beside each other, and write a page with pictures.

    Args:
        logs: A log, a folder of logs, or several of them.
        out: Folder of the page, the pictures and the frames; `report` in that of the first of
            `logs` when not given.
        console: Where to print.
        title: Of the page; the models and studies when not given.
        headline: The finding in a sentence; the highest rate when not given.
        verbose: Print the signature of every figure too.

    Raises:
        ResultError: There are no finished runs.
        LogError: A log can't be read, or was not judged by this suite.
        SteeringError: The files can't be written.
    """
    console = console or Console()
    places = [Path(logs)] if isinstance(logs, str | Path) else [Path(place) for place in logs]
    files = log_files(places)
    calibrations = read_calibrations(files)
    if files and all(is_of_judge(file.header) for file in files):
        print_calibrations(calibrations, console)
        if not calibrations:
            raise ResultError(no_runs(places, split_runs(files)[1]))
        nothing = empty_frame(ANSWER_SCHEMA), empty_frame(CONDITION_SCHEMA)
        return Report(*nothing, (), calibrations)
    logs_folder = places[0] if places[0].is_dir() else places[0].parent
    content = figures_of(*read_all_results(files or places), logs=logs_folder)
    print_figures(content, console, verbose=verbose)
    print_calibrations(calibrations, console)
    # Runs of judges have a table of their own.
    print_left_out(console, [note for note in content.left_out if note.reason != _OF_A_JUDGE])
    if out is None and not places[0].is_dir():
        out = places[0].with_suffix("") / "report"
    pages = write_report(content, logs_folder, out, title=title, headline=headline)
    for path in pages:
        print_line(console, f"written: {path}", wraps=False)
    return replace(content, calibrations=calibrations, files=pages)


def figures_of(
    answers: pd.DataFrame,
    choices: pd.DataFrame | None = None,
    scores: pd.DataFrame | None = None,
    logs: Path | None = None,
) -> Report:
    """What frames come to, each of which may have no rows; nothing is written.

    `logs` is the folder in which the study `rank` has the spectrum of its vectors.
    """
    scores = empty_frame(SCORE_SCHEMA) if scores is None else scores
    choices = empty_frame(CHOICE_SCHEMA) if choices is None else choices
    of_choices = choice_conditions_of(choices)
    of_choices.attrs = dict(choices.attrs)
    if answers.empty:
        conditions, verdicts = empty_frame(CONDITION_SCHEMA), []
    else:
        conditions = beside(conditions_of(answers), of_choices)
        verdicts = [verdict for verdict in judge_claims(answers) if verdict.model]
    verdicts += judge_arms(choices, answers)
    is_of_ranks = "rank" in [*conditions["study"], *of_choices["study"]]
    spectrum = read_spectrum(logs) if logs is not None and is_of_ranks else ()
    return Report(
        answers,
        conditions,
        verdicts,
        choices=choices,
        choice_conditions=of_choices,
        scores=scores,
        metrics=_joined(dimension_metrics(answers), metrics_of(scores)),
        spectrum=spectrum,
    )


def _joined(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Two frames of metrics, either of which may have no rows; with the notes of the second."""
    frames = [frame for frame in (first, second) if len(frame)] or [second]
    joined = pd.concat(frames, ignore_index=True)
    joined.attrs = dict(second.attrs)
    return joined


def report_document(content: Report) -> Document:
    """The figures for other programs."""
    tables = {
        "conditions": content.conditions,
        "choice_conditions": content.choice_conditions,
        "contexts": contexts_of(content.answers),
        "choice_contexts": choice_contexts_of(content.choices),
        "metrics": content.metrics,
        **verdict_tables(content.verdicts),
    }
    headline = metric_headline(content.metrics)
    if len(content.conditions) or len(content.choice_conditions):
        in_contexts = context_headline(_contexts(content)[0])
        headline = page_headline(content.conditions, content.choice_conditions, in_contexts)
    notes = [f"left out: {note}" for note in content.left_out]
    return Document("report", headline=headline, tables=tables, notes=notes)


def print_figures(content: Report, console: Console, *, verbose: bool = False) -> None:
    """Print the conditions, of studies by series and of other runs by task, and the verdicts.

    `verbose` prints the signature of every figure too.
    """
    of_studies = content.conditions[content.conditions["study"] != ""]
    for study, rows in of_studies.groupby("study"):
        print_conditions(rows, f"study {study}", console)
        of_study = content.answers[content.answers["study"] == study]
        results = condition_results(of_study)
        for note in correction_notes(results):
            print_line(console, note, "dim")
        if verbose:
            print_signatures(console, results)
    others = content.answers[content.answers["study"] == ""]
    if len(others):
        print_summary(condition_results(others), console, verbose=verbose)
    if len(content.answers):
        print_by_judge(judge_panels(condition_results(content.answers)), console)
    print_choices(
        content.choice_conditions, choice_results(content.choices), console, verbose=verbose
    )
    print_contexts(*_contexts(content), console)
    print_metrics(content.metrics, console)
    print_arms(arm_differences(content.choices, content.answers), console)
    several = content.conditions["model"].nunique() > 1
    print_claims(content.verdicts, console, name_models=several)


def _claims_table(verdicts: Sequence[ClaimVerdict]) -> PageTable:
    rows = [
        [
            f"{verdict.number} {verdict.name}",
            ", ".join(filter(None, [verdict.model, verdict.settings])),
            verdict.verdict,
            "; ".join([verdict.why, *verdict.figures]),
        ]
        for verdict in verdicts
    ]
    caption = "A verdict is on these runs; rules were fixed in advance"
    return PageTable("Claims", caption, ["claim", "model", "verdict", "because"], rows)


def _contexts(content: Report) -> tuple[list[ContextResult], list[ChoiceContextResult]]:
    """The contexts of judged answers and of em_choice."""
    return context_results(content.answers), choice_context_results(content.choices)


def write_report(
    content: Report,
    logs: Path,
    out: str | Path | None = None,
    *,
    title: str = "",
    headline: str = "",
    table: PageTable | None = None,
) -> list[Path]:
    """Write the page and the frames of logs in a folder; returns the page and its Markdown.

    Arguments are those of `report`; `table` is that which the headline rests on.

    Raises:
        SteeringError: The files can't be written.
    """
    page = _page_content(content, logs, title=title, headline=headline, table=table)
    folder = Path(out) if out is not None else logs / "report"
    with write_errors_as_ours(folder, "give another folder"):
        write_frames(content.answers, folder, content.choices, content.scores)
        return write_page(page, folder)


def _page_content(
    content: Report,
    logs: Path,
    *,
    title: str = "",
    headline: str = "",
    table: PageTable | None = None,
) -> PageContent:
    """What the page shows; arguments are those of `write_report`."""
    frames = (content.conditions, content.choice_conditions, content.metrics)
    conditions = next((frame for frame in frames if len(frame)), content.conditions)
    studies = [study for study in conditions["study"].unique() if study]
    models = ", ".join(conditions["model"].unique())
    judged, chosen = _contexts(content)
    return PageContent(
        title=title or (f"{', '.join(studies)}: {models}" if studies else models),
        headline=headline,
        table=table or arms_table(arm_differences(content.choices, content.answers)),
        answers=content.answers,
        conditions=content.conditions,
        choices=content.choice_conditions,
        metrics=content.metrics,
        pairs=content.choices,
        monitor=monitor_part(plain_rows(content.answers)),
        contexts=[
            PageTable(heading, CAPTION, columns, rows)
            for heading, columns, rows in context_tables(judged, chosen)
        ],
        context_headline=context_headline(judged),
        logs=logs,
        verdicts=[verdict.row() for verdict in content.verdicts],
        spectrum=content.spectrum,
    )
