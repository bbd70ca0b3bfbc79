"""The page of a report: one HTML file that needs no network, the same in Markdown, and pictures.

Takes frames and verdicts; reads no logs, counts nothing and draws nothing. Answers are a model's
words, so they reach the page as data that a script inserts as text, never as markup.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from steering.files import write_whole
from steering.judging import KEYS_OF_ALL, KEYS_OF_MISALIGNED
from steering.questions.contexts import CONTEXT, PLAIN
from steering.reports.by_judge import (
    JUDGE_CAPTION,
    JUDGE_COLUMNS,
    JUDGE_HEADING,
    contradictions,
    judge_rows,
)
from steering.reports.choices import choice_headline
from steering.reports.examples import page_examples
from steering.reports.metrics import metric_commands, metric_headline, metric_sections, of_tasks
from steering.reports.page_cells import page_columns, page_row, rate_cell
from steering.reports.page_content import PageContent, PageTable
from steering.reports.pictures import Picture, signature_of
from steering.reports.tables import correction_notes, corrections_in, percent, without_shared
from steering.results.by_judge import judge_panels
from steering.results.conditions import (
    ConditionResult,
    baseline_rows,
    condition_results,
    display_names,
)
from steering.results.frame import left_out
from steering.results.schema import KEYS
from steering.results.settings import asked_apart
from steering.text import markdown, markdown_alt, markdown_code, view_command

# Of each picture.
_KINDS = ("png", "svg")
_TEMPLATES = Path(__file__).with_name("template")
# Half characters have no place in UTF-8.
_BESIDE_BASELINE = "a condition beside the baseline"
_UTF8 = ("utf-8", "backslashreplace")


def write_page(report: PageContent, folder: Path) -> list[Path]:
    """Write `index.html`, `report.md` and `pictures/`, each file atomically.

    Args:
        report: Content of the page.
        folder: Where to write; the files of an earlier report are replaced.

    Returns:
        The page and the Markdown.
    """
    pictures = report.pictures()
    rendered = []
    for picture in pictures:
        files = picture.render(_KINDS)
        for kind, content in files.items():
            write_whole(folder / "pictures" / f"{picture.name}.{kind}", content)
        rendered.append((picture, files["svg"]))
    names = {f"{picture.name}.{kind}" for picture in pictures for kind in _KINDS}
    for path in (folder / "pictures").glob("*.*"):
        if path.suffix in (".png", ".svg") and path.name not in names:
            path.unlink()  # of an earlier report
    texts = _content(report)
    page = folder / "index.html"
    write_whole(page, _page(texts, rendered, report).encode(*_UTF8))
    text = folder / "report.md"
    write_whole(text, _template("report.md").render(texts, pictures=pictures).encode(*_UTF8))
    return [page, text]


def headline_of(conditions: pd.DataFrame) -> str:
    """The condition whose EM rate has the highest lower bound, and its baseline.

    A few answers can give the highest rate by chance; where it is another condition's, that is
    named too, since the table shows it.
    """
    changed = conditions[conditions["arm"].ne("baseline") & conditions["em_betley"].notna()]
    others = changed[changed["em_betley_low"].notna()]
    if others.empty:
        return "No condition beside the baseline has a rate with bounds."
    # A rate without bounds, as of one theme, is one of these all the same.
    if (changed["em_betley"] == 0).all():
        whose = "any condition" if (conditions["em_betley"] == 0).all() else _BESIDE_BASELINE
        to = " to a plain question" if (conditions["contexts"] != "").any() else ""
        return (
            f"No coherent answer{to} of {whose} is misaligned (rule betley); the 95% intervals "
            f"reach {percent(others['em_betley_high'].max())}%."
        )
    worst = others.loc[others["em_betley_low"].idxmax()]
    line = (
        f"{worst['model']}[{worst['condition']}] has the highest lower bound of all conditions "
        f"but baselines: {rate_cell(worst, 'em_betley')} of its coherent answers are misaligned "
        "(rule betley, 95% interval)"
    )
    baselines = baseline_rows(conditions, worst)
    if len(baselines):
        line += f"; unsteered {rate_cell(baselines.iloc[0], 'em_betley')}"
    highest = changed.loc[changed["em_betley"].idxmax()]
    if highest["em_betley"] > worst["em_betley"]:
        line += (
            f". The highest rate, with more doubt, is that of {highest['model']}"
            f"[{highest['condition']}]: {rate_cell(highest, 'em_betley')}"
        )
    return f"{line}."


def page_headline(conditions: pd.DataFrame, choices: pd.DataFrame, in_contexts: str) -> str:
    """The finding of a page that is given none: of judged answers, or else of em_choice."""
    finding = headline_of(conditions) if len(conditions) else choice_headline(choices)
    return f"{finding} {in_contexts}".strip()


def _headline(report: PageContent) -> str:
    if len(report.conditions) or len(report.choice_conditions):
        return page_headline(report.conditions, report.choice_conditions, report.context_headline)
    return metric_headline(report.metrics)


def _signature(report: PageContent) -> str:
    if len(report.conditions):
        return signature_of(report.conditions)
    if len(report.choice_conditions):
        return signature_of(report.choice_conditions, "choices")
    return signature_of(report.all_conditions, "metrics")


def _content(report: PageContent) -> dict[str, Any]:
    """What both templates are filled with; no markup."""
    conditions, choices = report.conditions, report.choice_conditions
    judged = len(conditions) > 0
    results = condition_results(report.answers) if judged else []
    further = [key for key in KEYS_OF_MISALIGNED if conditions[key].notna().any()]
    columns = page_columns(corrections_in(results), further)
    records, names = conditions.to_dict("records"), display_names(conditions)
    short_names, shared = without_shared(records, names)
    return {
        "title": report.title,
        "headline": report.headline or _headline(report),
        "models": sorted(report.all_conditions["model"].unique()),
        "judges": sorted(conditions["judge"].unique()),
        "questions": sorted(conditions["questions"].unique()),
        "versions": sorted(report.all_conditions["version"].unique()),
        "studies": [study for study in report.all_conditions["study"].unique() if study],
        "choices": report.choice_tables(),
        "further": [
            (heading, [PageTable(*part) for part in tables])
            for heading, tables in metric_sections(report.metrics)
        ],
        "contexts": report.contexts,
        "choice_logs": sorted({Path(log).name for log in choices["log"]}),
        "task_logs": sorted({Path(log).name for log in of_tasks(report.metrics)["log"]}),
        "task_commands": metric_commands(report.metrics),
        "num_answers": len(report.answers),
        "num_questions": report.answers["question"].nunique(),
        "num_logs": report.answers["log"].nunique(),
        "rows": [
            page_row(row, columns) | {"name": name, "short": short}
            for row, name, short in zip(records, names, short_names, strict=True)
        ],
        "shared": shared,
        "headings": [text for _, text in columns],
        "scores": KEYS_OF_ALL,
        "scores_of_misaligned": further,
        "corrections": correction_notes(results),
        "by_judge": _by_judge(results),
        "monitor": report.monitor and report.monitor.table,
        "num_conditions": report.all_conditions["condition"].nunique(),
        "verdicts": list(report.verdicts),
        "table": report.table,
        "view": view_command(report.logs),
        "signature": _signature(report),
        "bounds": report.answers[["aligned_below", "coherent_from"]]
        .drop_duplicates()
        .to_dict("records"),
        "apart": [
            groups
            for _, rows in conditions.groupby("task", sort=False)
            if (groups := asked_apart(rows.to_dict("records"), display_names(rows)))
        ],
        "left_out": [
            str(note)
            for frame in (report.answers, choices, report.metrics)
            for note in left_out(frame)
        ],
        "logs_of": {
            name: sorted({Path(log).name for log in logs})
            for name, logs in report.answers.groupby(_answer_names(report))["log"]
        },
    }


def _page(
    content: Mapping[str, Any], rendered: Sequence[tuple[Picture, bytes]], report: PageContent
) -> str:
    inline = [{"picture": picture, "svg": b64encode(svg).decode()} for picture, svg in rendered]
    shown = report.answers.assign(_name=_answer_names(report))
    is_plain = shown[CONTEXT] == PLAIN
    shown["_name"] = shown["_name"].where(is_plain, shown["_name"] + " in " + shown[CONTEXT])
    names = [*display_names(report.conditions), *sorted(shown.loc[~is_plain, "_name"].unique())]
    lines = report.monitor.lines if report.monitor else {}
    examples = page_examples(shown, names, lines)
    # An answer that says </script> ends nothing: no < is left in the data.
    data = json.dumps(examples.rows, ensure_ascii=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    return _template("page.html").render(
        content,
        inline=inline,
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(_TEMPLATES / "page.js").read_text(encoding="utf-8"),
        data=data,
        examples=examples,
        questions_asked=sorted(report.answers["question"].unique()),
        names=names,
    )


class _Code(str):
    """A piece of Markdown, which is no text any more."""


def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    if name.endswith(".md"):
        # Every value is text; only code says that it is something else.
        environment.finalize = lambda value: value if isinstance(value, _Code) else markdown(value)
        environment.filters["code"] = lambda value: _Code(markdown_code(value))
        environment.filters["alt"] = lambda value: _Code(markdown_alt(value))
    return environment.get_template(name)


def _answer_names(report: PageContent) -> "pd.Series[str]":
    """The name of the condition of each answer."""
    conditions = report.conditions
    names = dict(
        zip(
            conditions[KEYS].itertuples(index=False, name=None),
            display_names(conditions),
            strict=True,
        )
    )
    keys = report.answers[KEYS].itertuples(index=False, name=None)
    return pd.Series([names[key] for key in keys], index=report.answers.index)


def _by_judge(results: Sequence[ConditionResult]) -> PageTable | None:
    """The rates by judge, where several judged the same condition."""
    panels = judge_panels(results)
    if not panels:
        return None
    return PageTable(
        JUDGE_HEADING, JUDGE_CAPTION, JUDGE_COLUMNS, judge_rows(panels), contradictions(panels)
    )
