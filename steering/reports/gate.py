"""Bounds on the figures of every condition, for CI: kept, broken, or undecided.

A figure of the model is an estimate, so its bound is compared with the edge of the 95% interval: an
upper bound is kept only where the whole interval lies at or below it. A bound that no outcome of so
few themes could keep is undecided, so that asking less never passes. A figure of the run itself,
such as how many of its answers were scored, is an exact count without an interval: its bound is
compared with the figure. A bound holds for the plain questions and for every context that was
asked, of which the worst has a line. A metric of another task is bounded as a figure is.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from steering.judging import EM_RULES
from steering.judging.choice_figures import DAMAGE
from steering.logs import log_files
from steering.questions.contexts import PLAIN
from steering.reports.bounds import Bound, BoundStatus, Side, parse_bound
from steering.reports.figures import ALIASES, FIGURES, Measured, Result
from steering.reports.gate_verdict import GateVerdict, JudgedBound
from steering.reports.tables import (
    apart_notes,
    dead_judge_notes,
    print_figures,
    print_judges,
    print_left_out,
    print_line,
    print_note,
    print_signatures,
)
from steering.results.choices import (
    ChoiceResult,
    choice_results,
    condition_key,
    read_results,
)
from steering.results.conditions import ConditionResult, condition_results
from steering.results.contexts import (
    ChoiceContextResult,
    ContextResult,
    choice_context_results,
    context_results,
)
from steering.results.dimensions import dimensions_in
from steering.results.frame import LeftOut, ResultError, left_out
from steering.results.metric_columns import SCORE_SCHEMA
from steering.results.schema import empty_frame
from steering.results.settings import first_names
from steering.results.task_metrics import TaskResult, task_results
from steering.results.task_scores import metrics_in, read_all_results
from steering.stats import Interval

# Of a condition that the task of a figure was not run of.
_NOT_RUN = Measured(
    math.nan,
    Interval(math.nan, math.nan, "the task of this figure was not run of this condition"),
    "not run",
)


def gate(
    logs: str | Path,
    bounds: Sequence[Bound | str],
    *,
    on_these_questions: bool = False,
    console: Console | None = None,
) -> BoundStatus:
    """Compare every condition of a log or folder with bounds on its figures, and print a table.

    Args:
        logs: A log or a folder; every run in it must be complete.
        bounds: Bounds, or texts such as `em_rate<=0.10`, `coverage>=0.9` and, of a metric of
            another task, `wishes:includes/accuracy<=0.3`.
        on_these_questions: Bound the rates on exactly the questions that were asked, and not on
            questions like these: themes are then no sample, and a few of them do.
        console: Where to print.

    Returns:
        BROKEN where one bound is; else UNKNOWN where one could not be decided; else KEPT.

    Raises:
        ResultError: A run is incomplete, there is none, or a bound can't be read.
    """
    verdict = judge_logs(logs, bounds, on_these_questions=on_these_questions)
    print_verdict(verdict, console)
    return verdict.status


def judge_logs(
    logs: str | Path, bounds: Sequence[Bound | str], *, on_these_questions: bool = False
) -> GateVerdict:
    """What `gate` prints; arguments and errors are those of `gate`."""
    typed = iter(read_bounds([_split_bound(b) for b in bounds if isinstance(b, str)], logs))
    parsed = [next(typed) if isinstance(bound, str) else bound for bound in bounds]
    if not parsed:
        raise ResultError("give a bound, as in em_rate<=0.10")
    # Other tasks are read only where it matters, since samples take time.
    if any(bound.figure.of is TaskResult for bound in parsed):
        answers, choices, scores = read_all_results(Path(logs), complete=True)
    else:
        answers, choices = read_results(Path(logs), complete=True)
        scores = empty_frame(SCORE_SCHEMA)
    results = condition_results(answers) if len(answers) else []
    of_choices, of_tasks = choice_results(choices), task_results(scores)
    _require_runs(parsed, [*results, *of_choices, *of_tasks], logs)
    return judge_bounds(
        results,
        parsed,
        [note for frame in (answers, choices, scores) for note in left_out(frame)],
        choices=of_choices,
        tasks=of_tasks,
        contexts=[
            *(context_results(answers) if len(answers) else []),
            *choice_context_results(choices),
        ],
        on_these_questions=on_these_questions,
    )


def read_bounds(bounds: Sequence[tuple[Side, str]], logs: str | Path) -> list[Bound]:
    """Bounds on figures of this suite, on judged dimensions and on metrics of other tasks in logs.

    Args:
        bounds: Sides and texts such as `em_rate=0.10`.
        logs: A log or a folder.

    Raises:
        ResultError: A bound can't be read.
        LogError: A log can't be read.
    """
    names = {text.rpartition("=")[0] for _, text in bounds}
    # Only where it may matter, since headers take time.
    others = names - {*FIGURES, *ALIASES}
    files = log_files(Path(logs)) if others else []
    dimensions, metrics = (dimensions_in(files), metrics_in(files)) if others else ((), ())
    return [parse_bound(side, text, dimensions, metrics) for side, text in bounds]


def _require_runs(bounds: Sequence[Bound], results: Sequence[Result], logs: str | Path) -> None:
    """Refuse bounds on figures of a task that was not run: its absence keeps no bound."""
    for bound in bounds:
        if not any(bound.figure.is_of(result) for result in results):
            raise ResultError(
                f"{logs} holds no runs of {bound.figure.task}, whose figure {bound.name} is: run "
                "it of the same conditions, or leave the bound out"
            )


def _require_these(bounds: Sequence[Bound]) -> None:
    """Refuse bounds on figures that have no interval on these questions alone."""
    for bound in bounds:
        if why := bound.figure.no_these:
            raise ResultError(
                f"{bound.name} has no interval on these questions alone, since {why}: bound it in "
                "a command of its own, without --on-these-questions"
            )


def _has_these(bound: Bound, measured: Measured) -> bool:
    """Whether a figure shows more of these questions alone than of questions like these."""
    is_number = not measured.doubt.is_blind and not math.isnan(measured.value)
    return is_number and measured.counts is not None and not bound.figure.no_these


def _measured(
    result: Result, bound: Bound, every: Sequence[Result], *, on_these_questions: bool
) -> Measured | None:
    """A figure of a result; of another task's none, but once where its condition has no other."""
    figure = bound.figure
    if figure.is_of(result):
        return figure.measure(result, on_these_questions)
    key = condition_key(result.columns)
    of_condition = [each for each in every if condition_key(each.columns) == key]
    is_first = result is of_condition[0]
    return _NOT_RUN if is_first and not any(map(figure.is_of, of_condition)) else None


def print_gate(
    results: Sequence[ConditionResult],
    bounds: Sequence[Bound],
    notes: Sequence[LeftOut] = (),
    *,
    console: Console | None = None,
    **options: Any,
) -> BoundStatus:
    """Compare every result with every bound and print a table; returns as `gate` does."""
    verdict = judge_bounds(results, bounds, notes, **options)
    print_verdict(verdict, console)
    return verdict.status


def judge_bounds(
    results: Sequence[ConditionResult],
    bounds: Sequence[Bound],
    notes: Sequence[LeftOut] = (),
    *,
    choices: Sequence[ChoiceResult] = (),
    tasks: Sequence[TaskResult] = (),
    contexts: Sequence[ContextResult | ChoiceContextResult] = (),
    on_these_questions: bool = False,
) -> GateVerdict:
    """Compare every result with every bound.

    Raises:
        ResultError: A figure has no interval on these questions alone.
    """
    if on_these_questions:
        _require_these(bounds)
    rows: list[JudgedBound] = []
    every: list[Result] = [*results, *choices, *tasks]
    for result in every:
        in_contexts = [each for each in contexts if each.plain.name == result.name]
        for bound in bounds:
            measured = _measured(result, bound, every, on_these_questions=on_these_questions)
            if measured is None:
                continue
            rows.append(JudgedBound(bound, result, PLAIN, 0, measured, bound.judge(measured)))
            if worst := _worst(bound, result, in_contexts, on_these_questions=on_these_questions):
                rows.append(worst)
    return GateVerdict(rows, results, choices, tasks, contexts, notes, on_these_questions)


def print_verdict(verdict: GateVerdict, console: Console | None = None) -> None:
    """Print a table a task, the remarks, and what the figures rest on."""
    console = console or Console()
    estimand = "these questions alone" if verdict.on_these_questions else "questions like these"
    styles = {BoundStatus.BROKEN: "red", BoundStatus.UNKNOWN: "yellow"}
    for task in dict.fromkeys(row.task for row in verdict.rows):
        of_task = [row for row in verdict.rows if row.task == task]
        print_figures(
            console,
            f"{task}: bounds on the edges of 95% intervals on {estimand}, or on exact counts",
            ["condition"],
            [["figure", "measured", "bound", ""]],
            [row.cells for row in of_task],
            styles=[styles.get(row.status) for row in of_task],
        )
    remarks: dict[str, list[str]] = {}
    for row in verdict.rows:
        for remark in row.remarks:
            remarks.setdefault(remark, []).append(row.result.name)
    for remark, names in remarks.items():
        print_note(console, f"{first_names(list(dict.fromkeys(names)))}: {remark}")
    these_may_do = any(
        row.status is BoundStatus.UNKNOWN and _has_these(row.bound, row.measured)
        for row in verdict.rows
    )
    if these_may_do and not verdict.on_these_questions:
        print_note(console, "--on-these-questions bounds rates on exactly the questions asked.")
    for note in [*apart_notes(verdict.asked), *dead_judge_notes(verdict.results)]:
        print_note(console, note)
    print_left_out(console, verdict.notes)
    print_judges(console, verdict.results)
    every: list[ConditionResult | ChoiceResult] = [*verdict.results, *verdict.choices]
    for line in _coverage(every, verdict.contexts):
        print_line(console, line)
    _print_signatures(verdict, console)
    print_line(console, f"gate: {verdict.line}")


def _print_signatures(verdict: GateVerdict, console: Console) -> None:
    figures = [row.bound.figure for row in verdict.rows]
    in_contexts = [row.result for row in verdict.rows if row.context != PLAIN]
    every: list[Result] = [*verdict.results, *verdict.choices, *verdict.tasks]
    unique = {id(result): result for result in [*every, *in_contexts]}.values()
    signed = [each for each in unique if any(figure.is_of(each) for figure in figures)]
    # A bound on a share or a mean is on answers that the signatures of both rules are of.
    rules = {figure.rule for figure in figures if figure.rule} or set(EM_RULES)
    print_signatures(console, [e for e in signed if isinstance(e, ConditionResult)], rules)
    for each in signed:
        if not isinstance(each, ConditionResult):
            print_line(console, each.signature(), "dim", wraps=False)


def _worst(
    bound: Bound,
    plain: Result,
    contexts: Sequence[ContextResult | ChoiceContextResult],
    *,
    on_these_questions: bool,
) -> JudgedBound | None:
    """The context in which a bound is furthest from being kept; None where it is of none."""
    figure = bound.figure
    # Damage is measured once, on neutral text.
    if not figure.is_of(plain) or bound.name in DAMAGE:
        return None
    rows = []
    for each in contexts:
        if not figure.is_of(each.result):
            continue
        measured = figure.measure(each.result, on_these_questions)
        status = bound.judge(measured)
        rows.append(JudgedBound(bound, each.result, each.context, len(contexts), measured, status))
    order = (BoundStatus.BROKEN, BoundStatus.UNKNOWN, BoundStatus.KEPT)

    def distance(row: JudgedBound) -> tuple[int, float]:
        interval = row.measured.interval
        edge = -interval.high if bound.side == "max" else interval.low
        return order.index(row.status), edge

    return min(rows, key=distance, default=None)


def _coverage(
    results: Sequence[ConditionResult | ChoiceResult],
    contexts: Sequence[ContextResult | ChoiceContextResult],
) -> list[str]:
    """Which contexts bounds were compared in, and for which conditions in none."""
    names: dict[str, list[str]] = {}
    for result in results:
        asked_in = [each.context for each in contexts if each.plain.name == result.name]
        names.setdefault(", ".join(asked_in), []).append(result.name)
    if set(names) == {""}:
        return []
    return [
        f"{first_names(list(dict.fromkeys(of_names)))}: "
        + (f"in the contexts {text}; not covered in others." if text else "covered in no context.")
        for text, of_names in names.items()
    ]


def _split_bound(text: str) -> tuple[Side, str]:
    signs: dict[str, Side] = {"<=": "max", ">=": "min"}
    for sign, side in signs.items():
        if sign in text:
            return side, text.replace(sign, "=")
    raise ResultError(f"{text!r} is no bound: write NAME<=NUMBER or NAME>=NUMBER")
