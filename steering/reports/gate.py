"""Bounds on the figures of every condition, for CI: kept, broken, or undecided.

A figure of the model is an estimate, so its bound is compared with the edge of the 95% interval: an
upper bound is kept only where the whole interval lies at or below it. A bound that no outcome of so
few themes could keep is undecided, so that asking less never passes. A figure of the run itself,
such as how many of its answers were scored, is an exact count without an interval: its bound is
compared with the figure. A bound holds for the plain questions and for every context that was
asked, of which the worst has a line.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from steering.judging import EM_RULES
from steering.judging.choice_figures import DAMAGE
from steering.reports.bounds import Bound, BoundStatus, parse_bound
from steering.reports.enough import ThemeCounts, size_needed
from steering.reports.figures import FIGURES, Measured
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
from steering.results.frame import LeftOut, ResultError, left_out
from steering.results.settings import first_names
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
        bounds: Bounds, or texts such as `em_rate<=0.10` and `coverage>=0.9`.
        on_these_questions: Bound the rates on exactly the questions that were asked, and not on
            questions like these: themes are then no sample, and a few of them do.
        console: Where to print.

    Returns:
        BROKEN where one bound is; else UNKNOWN where one could not be decided; else KEPT.

    Raises:
        ResultError: A run is incomplete, there is none, or a bound can't be read.
    """
    parsed = [_read_bound(bound) if isinstance(bound, str) else bound for bound in bounds]
    if not parsed:
        raise ResultError("give a bound, as in em_rate<=0.10")
    answers, choices = read_results(Path(logs), complete=True)
    _require_runs(parsed, answers, choices, logs)
    return print_gate(
        condition_results(answers) if len(answers) else [],
        parsed,
        [*left_out(answers), *left_out(choices)],
        choices=choice_results(choices),
        contexts=[
            *(context_results(answers) if len(answers) else []),
            *choice_context_results(choices),
        ],
        on_these_questions=on_these_questions,
        console=console,
    )


def _require_runs(
    bounds: Sequence[Bound], answers: pd.DataFrame, choices: pd.DataFrame, logs: str | Path
) -> None:
    """Refuse bounds on figures of a task that was not run: its absence keeps no bound."""
    for bound in bounds:
        of_choices = FIGURES[bound.name].of_choices
        if (choices if of_choices else answers).empty:
            task = "em_choice" if of_choices else "em_freeform"
            raise ResultError(
                f"{logs} holds no runs of {task}, whose figure {bound.name} is: run it of the same "
                "conditions, or leave the bound out"
            )


def _require_these(bounds: Sequence[Bound]) -> None:
    """Refuse bounds on figures that have no interval on these questions alone."""
    for bound in bounds:
        if why := FIGURES[bound.name].no_these:
            raise ResultError(
                f"{bound.name} has no interval on these questions alone, since {why}: bound it in "
                "a command of its own, without --on-these-questions"
            )


def _has_these(bound: Bound, measured: Measured) -> bool:
    """Whether a figure shows more of these questions alone than of questions like these."""
    is_number = not measured.doubt.is_blind and not math.isnan(measured.value)
    return is_number and measured.counts is not None and not FIGURES[bound.name].no_these


def _measured(
    result: ConditionResult | ChoiceResult,
    bound: Bound,
    others: Sequence[ConditionResult | ChoiceResult],
    *,
    on_these_questions: bool,
) -> Measured | None:
    """A figure of a result; of one of the other task none, but where its condition has no other."""
    figure = FIGURES[bound.name]
    if figure.of_choices == isinstance(result, ChoiceResult):
        return figure.measure(result, on_these_questions)
    key = condition_key(result.columns)
    return None if any(condition_key(other.columns) == key for other in others) else _NOT_RUN


def print_gate(
    results: Sequence[ConditionResult],
    bounds: Sequence[Bound],
    notes: Sequence[LeftOut] = (),
    *,
    choices: Sequence[ChoiceResult] = (),
    contexts: Sequence[ContextResult | ChoiceContextResult] = (),
    on_these_questions: bool = False,
    console: Console | None = None,
) -> BoundStatus:
    """Compare every result with every bound and print a table; returns as `gate` does."""
    console = console or Console()
    figures = [FIGURES[bound.name] for bound in bounds]
    if on_these_questions:
        _require_these(bounds)
    estimand = "these questions alone" if on_these_questions else "questions like these"
    # Task to its rows and their styles.
    rows: dict[str, list[tuple[list[str], str | None]]] = {}
    statuses: list[BoundStatus] = []
    remarks: dict[str, list[str]] = {}
    these_may_do = False
    every: list[ConditionResult | ChoiceResult] = [*results, *choices]
    signed = {id(result): result for result in every}
    for result in every:
        others = results if isinstance(result, ChoiceResult) else choices
        in_contexts = [each for each in contexts if each.plain.name == result.name]
        for bound in bounds:
            measured = _measured(result, bound, others, on_these_questions=on_these_questions)
            if measured is None:
                continue
            judged = [(result, result.name, measured)]
            if worst := _worst(bound, result, in_contexts, on_these_questions=on_these_questions):
                name = f"{worst[0].name}, worst of {len(in_contexts)} contexts"
                judged.append((worst[0], name, worst[1]))
                signed[id(worst[0])] = worst[0]
            for each, name, measured in judged:
                status = bound.judge(measured)
                statuses.append(status)
                these_may_do |= status is BoundStatus.UNKNOWN and _has_these(bound, measured)
                for remark in _remarks(bound, measured, status):
                    remarks.setdefault(remark, []).append(each.name)
                cells = [name, bound.name, measured.text, str(bound), status.value]
                style = {BoundStatus.BROKEN: "red", BoundStatus.UNKNOWN: "yellow"}.get(status)
                rows.setdefault(result.columns["task"], []).append((cells, style))
    for task, of_task in rows.items():
        print_figures(
            console,
            f"{task}: bounds on the edges of 95% intervals on {estimand}, or on exact counts",
            ["condition"],
            [["figure", "measured", "bound", ""]],
            [cells for cells, _ in of_task],
            styles=[style for _, style in of_task],
        )
    for remark, names in remarks.items():
        print_note(console, f"{first_names(list(dict.fromkeys(names)))}: {remark}")
    if these_may_do and not on_these_questions:
        print_note(console, "--on-these-questions bounds rates on exactly the questions asked.")
    for note in [*apart_notes(results), *dead_judge_notes(results)]:
        print_note(console, note)
    print_left_out(console, notes)
    print_judges(console, results)
    for line in _coverage(every, contexts):
        print_line(console, line)
    # A bound on a share or a mean is on answers that the signatures of both rules are of.
    rules = {figure.rule for figure in figures if figure.rule} or set(EM_RULES)
    if not all(figure.of_choices for figure in figures):
        judged_results = [each for each in signed.values() if isinstance(each, ConditionResult)]
        print_signatures(console, judged_results, rules)
    for each in signed.values() if any(figure.of_choices for figure in figures) else ():
        if isinstance(each, ChoiceResult):
            print_line(console, each.signature(), "dim", wraps=False)
    print_line(console, f"gate: {_summary(statuses)}")
    order = (BoundStatus.BROKEN, BoundStatus.UNKNOWN, BoundStatus.KEPT)
    return next(status for status in order if status in statuses or status is BoundStatus.KEPT)


def _worst(
    bound: Bound,
    plain: ConditionResult | ChoiceResult,
    contexts: Sequence[ContextResult | ChoiceContextResult],
    *,
    on_these_questions: bool,
) -> tuple[ConditionResult | ChoiceResult, Measured] | None:
    """The context in which a bound is furthest from being kept; None where it is of none."""
    figure = FIGURES[bound.name]
    # Damage is measured once, on neutral text.
    if figure.of_choices != isinstance(plain, ChoiceResult) or bound.name in DAMAGE:
        return None
    measured = [(each.result, figure.measure(each.result, on_these_questions)) for each in contexts]
    order = (BoundStatus.BROKEN, BoundStatus.UNKNOWN, BoundStatus.KEPT)

    def distance(pair: tuple[ConditionResult | ChoiceResult, Measured]) -> tuple[int, float]:
        interval = pair[1].interval
        edge = -interval.high if bound.side == "max" else interval.low
        return order.index(bound.judge(pair[1])), edge

    return min(measured, key=distance, default=None)


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


def _summary(statuses: Sequence[BoundStatus]) -> str:
    words = {
        BoundStatus.KEPT: "kept",
        BoundStatus.BROKEN: "broken",
        BoundStatus.UNKNOWN: "can't be decided",
    }
    return ", ".join(
        f"{statuses.count(status)} {text}"
        for status, text in words.items()
        if status in statuses or status is BoundStatus.KEPT
    )


def _remarks(bound: Bound, measured: Measured, status: BoundStatus) -> list[str]:
    """What an interval does not cover, and how much more would have to be asked."""
    note = measured.interval.note
    notes = [note, *measured.doubt.notes] if note else measured.doubt.notes
    remarks = [f"{bound.name}: {each}." for each in notes]
    counts = measured.counts
    if counts is None or not counts.total or status is BoundStatus.KEPT:
        return remarks
    # A rate that there is none of, or that shows nothing: the notes say why, and it is not the
    # number of themes.
    if measured.doubt.is_blind or math.isnan(measured.value):
        return remarks
    asked = _size(counts, counts.size)
    if status is BoundStatus.UNKNOWN:
        best = counts.at_best(all_true=bound.side == "min")
        extreme = FIGURES[bound.name].text(1.0 if bound.side == "min" else 0.0)
        remark = f"{bound.name} {bound} can't be shown by {asked}, even at {extreme}"
        size = size_needed(best, bound.decidable)
        could = "could"
        # Of a judge whose errors are measured on labelled answers, which themes don't add to.
        if measured.is_corrected:
            could = "could if the judge made no errors"
        hint = "no number of them could" if size is None else f"{_size(best, size)} {could}"
        if not counts.on_these:
            edge = best.with_many_answers().interval()
            reach = FIGURES[bound.name].text(
                round(edge.high if bound.side == "max" else edge.low, 3)
            )
            reaches = "up" if bound.side == "max" else "down"
            hint += (
                f". With {len(counts.total)} theme{'s' * (len(counts.total) != 1)} the interval "
                f"reaches {reaches} to {reach} then, however many answers each has"
            )
        return [*remarks, f"{remark}; {hint}."]
    value = Interval(measured.value, measured.value)
    # More labels of the judge's answers would narrow a corrected rate too: no number of themes says
    # how many answers it takes.
    if measured.is_corrected:
        return remarks
    if bound.keeps(value) and (
        size := size_needed(
            counts, lambda grown: bound.keeps(grown.interval()) and bound.decidable(grown)
        )
    ):
        remark = f"{bound.name} itself lies within {bound}, the end of its interval does not"
        remarks.append(f"{remark}; at this rate {_size(counts, size)} would keep it.")
    return remarks


def _size(counts: ThemeCounts, size: int) -> str:
    if counts.on_these:
        return f"{size} answers to these questions"
    each = round(sum(counts.total) / len(counts.total))
    return f"{size} theme{'s' * (size != 1)} of {each} answer{'s' * (each != 1)}"


def _read_bound(text: str) -> Bound:
    for sign, side in (("<=", "max"), (">=", "min")):
        if sign in text:
            return parse_bound(side, text.replace(sign, "="))  # type: ignore[arg-type]
    raise ResultError(f"{text!r} is no bound: write NAME<=NUMBER or NAME>=NUMBER")
