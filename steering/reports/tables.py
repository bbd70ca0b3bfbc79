"""How tables and figures look in a terminal: what the printing modules share."""

import math
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steering.judging import EMRule, Estimate, Failures, judge_failures, shortened
from steering.results.calibrations import Calibration
from steering.results.conditions import ConditionResult
from steering.results.corrections import EXACT
from steering.results.frame import LeftOut
from steering.results.settings import asked_apart
from steering.stats import Difference
from steering.stats.correction import Corrected
from steering.text import terminal

# Kinds of failure that are shown for each judge.
_CAUSES = 3


class PlainTable(Table):
    """A table of texts that say nothing to the terminal: neither markup nor control codes."""

    def add_row(self, *cells: str, style: str | None = None) -> None:  # type: ignore[override]
        """Add a row of texts."""
        super().add_row(*(Text(terminal(cell)) for cell in cells), style=style)


def plain_table(title: str, text: Iterable[str], figures: Iterable[str]) -> PlainTable:
    """An empty table: columns of text, which fold, then columns of figures, which don't."""
    table = PlainTable(
        title=Text(f"\n{terminal(title)}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in text:
        table.add_column(Text(terminal(heading)), overflow="fold")
    for heading in figures:
        table.add_column(Text(terminal(heading)), justify="right", no_wrap=True)
    return table


def rate_text(value: float, low: float, high: float, nothing: str = "no scorable answers") -> str:
    """A share with its interval, in percent; `nothing` where there is no share."""
    if math.isnan(value):
        return nothing
    digits = 1 if value < 0.1 else 0
    return f"{100 * value:.{digits}f}% [{percent(low)}, {percent(high)}]"


def estimate_text(estimate: Estimate) -> str:
    """A rate with its interval."""
    return rate_text(estimate.value, estimate.low, estimate.high)


def percent(share: float) -> str:
    """A share in whole percent; a dash where there is none."""
    return "-" if math.isnan(share) else str(round(100 * share))


def p_text(difference: Difference) -> str:
    """The p-value of a difference, and whether so few themes could have given a smaller one."""
    text = f"p = {difference.p_value:.2g}"
    themes = difference.num_questions
    if themes < 6 and difference.p_value <= 2.0 ** (1 - themes):
        text += f", the smallest p that {themes} theme{'s' * (themes != 1)} can give"
    return text


def apart_notes(results: Sequence[ConditionResult]) -> list[str]:
    """Which of a task's conditions can't be compared with which others, a line a task."""
    lines = []
    for task in sorted({result.task for result in results}):
        of_task = [result for result in results if result.task == task]
        names = [result.name for result in of_task]
        if groups := asked_apart([result.columns for result in of_task], names):
            lines.append(f"{task}: conditions that can't be compared with each other: {groups}.")
    return lines


def print_line(console: Console, line: str, style: str = "", *, wraps: bool = True) -> None:
    """A text, which may quote anything; `wraps` breaks it at the terminal's width."""
    console.print(Text(terminal(line), style=style), soft_wrap=not wraps)


def print_note(console: Console, note: str) -> None:
    """Something that the reader must know before trusting the figures."""
    print_line(console, note, "yellow")


def print_judges(console: Console, results: Sequence[ConditionResult | Calibration]) -> None:
    """Which judges failed and why, and which are steered themselves."""
    judges = judge_failures([answer for result in results for answer in result.answers])
    for judge in judges:
        if judge.failed:
            print_note(console, _failed_text(judge, others=len(judges) > 1))
        if judge.judge.startswith("steered/") and "[baseline]" not in judge.judge:
            print_note(console, f"The judge {judge.judge} is steered itself.")


def _failed_text(judge: Failures, *, others: bool) -> str:
    causes = "; ".join(
        f"{cause.replies} x {shortened(cause.reason)}" for cause in judge.causes[:_CAUSES]
    )
    remedies = dict.fromkeys(cause.remedy(judge.judge) for cause in judge.causes[:_CAUSES])
    rest = sum(cause.replies for cause in judge.causes[_CAUSES:])
    summary = f"{causes}; {rest} x other reasons" if rest else causes
    fewer = " These answers' scores rest on fewer judges." if others else ""
    return (
        f"The judge {judge.judge} failed on {judge.failed} of {judge.asked} answers. Its replies, "
        f"by kind and with the most frequent of each: {summary}. Remedy: {'; '.join(remedies)}."
        f"{fewer}"
    )


def corrected_text(rate: Corrected) -> str:
    """A corrected rate with its interval; a dash where there is none."""
    return rate_text(rate.value, rate.low, rate.high, "-")


def corrections_in(results: Sequence[ConditionResult]) -> dict[str, str]:
    """The corrections that some rate has: ending of the columns' names to heading.

    That of a judge without errors is none: its rates are the raw ones.
    """
    endings = {}
    if any(result.correction.record is not None for result in results):
        endings["corrected"] = "corrected"
    if any(result.labels.by_row for result in results):
        endings["ppi"] = "by labels"
    return endings


def corrected_rates(result: ConditionResult, ending: str) -> Mapping[EMRule, Corrected]:
    """The rates of a correction that `corrections_in` names."""
    return result.corrected_rates if ending == "corrected" else result.labelled_rates


def correction_notes(results: Iterable[ConditionResult]) -> list[str]:
    """Which rates are not corrected for the errors of their judge, and why, a line a reason."""
    notes: dict[str, None] = {}
    for result in results:
        correction = result.correction
        if correction.name == EXACT:
            judge = result.columns["judge"]
            notes[f"{judge} makes no errors on a toy's answers: no rate needs correction."] = None
        elif correction.record is None:
            notes[f"Not corrected for the judge's errors: {correction.missing}."] = None
        for ending, heading in corrections_in([result]).items():
            for rule, rate in corrected_rates(result, ending).items():
                if rate.reason:
                    notes[f"{result.name}, EM {rule} {heading}: {rate.reason}."] = None
    return list(notes)


def print_left_out(console: Console, notes: Iterable[LeftOut]) -> None:
    """The logs that no figure above counts, and why."""
    for note in notes:
        print_note(console, str(note))


def print_signatures(console: Console, results: Iterable[ConditionResult]) -> None:
    """The signatures of the results' figures, each on a line of its own."""
    for result in results:
        for line in result.signatures():
            print_line(console, line, "dim", wraps=False)
