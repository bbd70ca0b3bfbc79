"""How tables and figures look in a terminal: what the printing modules share."""

import itertools
import math
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steering.judging import (
    EM_RULES,
    EMRule,
    Estimate,
    Failures,
    judge_failures,
    shortened,
)
from steering.results.calibrations import Calibration
from steering.results.conditions import ConditionResult
from steering.results.corrections import EXACT
from steering.results.frame import LeftOut
from steering.results.settings import asked_apart
from steering.results.task_metrics import TaskResult
from steering.stats import Difference
from steering.stats.correction import Corrected
from steering.text import terminal

# What is copied as a whole: a command, and a role with its options.
_COMMAND = re.compile(r"`\w+ [^`]*`|--model-role '[^']*'")
# Heading of the digest of how a condition was asked, judged and counted.
MEASURED = "measured"
# What belongs together in a label; the dose; and what several vectors are joined by.
_PART = re.compile(r"\(.*\)|(?:seed|rank|epoch|adapter|template|system|prompt|no) \S+|\S+")
_DOSE = re.compile(r"x-?[\d.]")
_JOINED = "+"
# Kinds of failure that are shown for each judge.
_CAUSES = 3
# Characters that the name of a row gets at least; a longer one folds.
_LEAST_NAME = 18


class PlainTable(Table):
    """A table of texts that say nothing to the terminal: neither markup nor control codes."""

    def add_row(  # type: ignore[override]
        self, *cells: str, style: str | None = None, end_section: bool = False
    ) -> None:
        """Add a row of texts."""
        texts = (Text(terminal(cell)) for cell in cells)
        super().add_row(*texts, style=style, end_section=end_section)


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


def print_figures(
    console: Console,
    title: str,
    text: Sequence[str],
    groups: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[str | None] = (),
    last_rows: Collection[int] = (),
) -> None:
    """Print a table of figures that loses neither a row's name nor a figure in a narrow terminal.

    What does not fit stands in a table of its own below, with the names of the rows again.

    Args:
        console: Where to print.
        title: Of the first table.
        text: Headings of the columns of text, which fold.
        groups: Headings of the columns of figures; a group's columns stand together if they fit.
        rows: Cells of all these columns.
        styles: Of the rows.
        last_rows: Positions of rows that a line stands below.
    """
    headings = [*text, *itertools.chain.from_iterable(groups)]
    widths = [max(map(cell_len, cells)) for cells in zip(headings, *rows, strict=True)]
    names = range(len(text))
    least = [min(widths[name], _LEAST_NAME) for name in names]

    def need(figures: Sequence[int]) -> int:
        # Two blanks between columns, one at either end.
        columns = len(text) + len(figures)
        return sum(least) + sum(widths[figure] for figure in figures) + 2 * columns

    positions = itertools.count(len(text))
    numbered = [[next(positions) for _ in group] for group in groups]
    tables: list[list[list[int]]] = []
    for group in filter(None, numbered):
        if tables and need([*itertools.chain(*tables[-1], group)]) <= console.width:
            tables[-1].append(group)
        elif tables and len(group) == 1 and len(tables[-1]) > 1:
            # A single figure is no table.
            tables.append([tables[-1].pop(), group])
        else:
            tables.append([group])
    for number, figures in enumerate([*itertools.chain(*table)] for table in tables):
        room = console.width - need(figures) + sum(least)
        folded = _shared_out([widths[name] for name in names], max(room, sum(least)))
        heads = [headings[name] for name in names], [headings[figure] for figure in figures]
        table = plain_table("" if number else title, *heads)
        if number:
            table.title = None
        if need(figures) > console.width:
            # Wider than the terminal is better than a figure that is cut.
            table.width = need(figures)
        for position, (row, style) in enumerate(itertools.zip_longest(rows, styles)):
            cells = [_folded(row[name], folded[name]) for name in names]
            cells += [row[figure] for figure in figures]
            table.add_row(*cells, style=style, end_section=position in last_rows)
        console.print(table, crop=False)


def _shared_out(widths: Sequence[int], room: int) -> list[int]:
    """Widths of columns that fit into a room together: the widest ones give way."""
    shared = list(widths)
    while sum(shared) > room:
        shared[shared.index(max(shared))] -= 1
    return shared


def _folded(text: str, width: int) -> str:
    """A name in lines of a width, broken behind its punctuation where there is some."""
    lines = [""]
    for part in re.split(r"(?<=[\s/_,\])@=+-])|(?=[\[(])", text):
        if cell_len((lines[-1] + part).rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def without_shared(
    conditions: Sequence[Mapping[Any, Any]], names: Sequence[str]
) -> tuple[list[str], str]:
    """Names of the rows of a table without what all of them share, and that for its title.

    That is the model, and what every label but the baseline's has. Names stay as they are where
    models differ, where a table has fewer than two conditions beside the baseline, and where rows
    would no longer be told apart.

    Args:
        conditions: Columns of each condition.
        names: Of each, as `display_names` gives them.
    """
    labels = [_PART.findall(str(columns["condition"])) for columns in conditions]
    changed = [
        parts
        for parts, columns in zip(labels, conditions, strict=True)
        if columns["arm"] != "baseline"
    ]
    models = {columns["model"] for columns in conditions}
    plain = [_plain_name(columns) for columns in conditions]
    if len(models) > 1 or len(changed) < 2 or plain != list(names):
        return list(names), ""
    shared = [part for part in changed[0] if all(part in parts for parts in changed)]
    if any(_JOINED in parts for parts in changed):
        shared = []
    if any(set(parts) <= set(shared) for parts in changed):
        shared = [part for part in shared if not _DOSE.match(part)]
    if any(set(parts) <= set(shared) for parts in changed):
        shared = []
    short = [
        " ".join(part for part in parts if part not in shared) or str(columns["condition"])
        for parts, columns in zip(labels, conditions, strict=True)
    ]
    if len(set(short)) < len(short):
        return list(names), ""
    of = plain[0].partition("[")[0]
    return short, f"{of}[{' '.join(shared)}]" if shared else of


def rates_heading(*parts: str) -> str:
    """The title of a table of conditions, which begins with those parts that are not empty."""
    of = ", ".join(filter(None, parts))
    return f"{of}: EM rates with 95% intervals on questions like these; mean scores, 0-100"


def _plain_name(columns: Mapping[Any, Any]) -> str:
    """The name of a condition where nothing but its label tells it apart."""
    return f"{str(columns['model']).rpartition('/')[2]}[{columns['condition']}]"


def rate_text(value: float, low: float, high: float, nothing: str = "no scorable answers") -> str:
    """A share with its interval, in percent; `nothing` where there is no share."""
    if math.isnan(value):
        return nothing
    digits = 1 if value < 0.1 else 0
    return f"{100 * value:.{digits}f}% [{percent(low)}, {percent(high)}]"


def points_text(value: float, low: float, high: float) -> str:
    """A difference of shares in points with its interval; a dash for none."""
    if math.isnan(value):
        return "-"
    texts = (f"{round(100 * each) + 0:+d}" for each in (low, high) if not math.isnan(each))
    interval = ", ".join(texts)
    return f"{round(100 * value) + 0:+d}" + (f" [{interval}]" if interval else "")


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


def apart_notes(results: Sequence[ConditionResult | TaskResult]) -> list[str]:
    """Which of a task's conditions can't be compared with which others, a line a task."""
    lines = []
    for task in sorted({result.task for result in results}):
        of_task = [result for result in results if result.task == task]
        names = [result.name for result in of_task]
        if groups := asked_apart([result.columns for result in of_task], names):
            lines.append(f"{task}: conditions that can't be compared with each other: {groups}.")
    return lines


def print_line(console: Console, line: str, style: str = "", *, wraps: bool = True) -> None:
    """A text, which may quote anything; `wraps` breaks it at the terminal's width, no command."""
    text = terminal(line)
    if wraps and _COMMAND.search(text):
        whole = _COMMAND.sub(lambda command: command[0].replace(" ", "\0"), text)
        parts = textwrap.wrap(whole, console.width, break_long_words=False, break_on_hyphens=False)
        text, wraps = "\n".join(parts).replace("\0", " "), False
    console.print(Text(text, style=style), soft_wrap=not wraps)


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
    """Which rates are not corrected for their judge's errors and why; numbers of labels."""
    notes: dict[str, None] = {}
    for result in results:
        correction = result.correction
        if correction.name == EXACT:
            judge = result.columns["judge"]
            # A person's labels may disagree, and have rates of their own.
            if not result.labels.by_row:
                note = f"{judge} knows a toy's answers by rule: no rate is corrected."
                notes[note] = None
        elif correction.record is None:
            notes[f"Not corrected for the judge's errors: {correction.missing}."] = None
        for ending, heading in corrections_in([result]).items():
            for rule, rate in corrected_rates(result, ending).items():
                if rate.reason:
                    notes[f"{result.name}, EM {rule} {heading}: {rate.reason}."] = None
        if labels := result.labels.by_row:
            notes[f"{result.name}: {len(labels)} of {len(result.answers)} answers labelled."] = None
    return list(notes)


def dead_judge_notes(results: Iterable[ConditionResult]) -> list[str]:
    """Of several judges, those that failed on all answers of a condition, a line each."""
    return [
        f"{result.name}: {judge.judge} failed on all {judge.asked} answers; all figures, coverage "
        "too, are those of the other judges."
        for result in results
        if len(judges := judge_failures(result.answers)) > 1
        for judge in judges
        if judge.failed == judge.asked
    ]


def print_left_out(console: Console, notes: Iterable[LeftOut]) -> None:
    """The logs that no figure above counts, and why."""
    for note in notes:
        print_note(console, str(note))


def print_signatures(
    console: Console,
    results: Iterable[ConditionResult],
    rules: Collection[EMRule] = tuple(EM_RULES),
) -> None:
    """The signatures of the results' figures by some rules, each on a line of its own."""
    for result in results:
        for line in result.signatures(rules):
            print_line(console, line, "dim", wraps=False)
