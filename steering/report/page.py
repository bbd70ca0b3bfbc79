"""The report of some runs: one HTML page that needs no network, the same in Markdown, pictures.

Frames and verdicts go in; nothing here reads logs, counts or draws. Answers are a model's words, so
they reach the page as data that a script puts in as text, never as markup.
"""

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from steering.files import write_whole
from steering.report.pictures import Picture, pictures_of, render, signature_of

_TEMPLATES = Path(__file__).with_name("template")
# Examples of each question in each condition, and of a whole page: a page is to open at once.
_MOST_A_CELL = 3
_MOST_EXAMPLES = 4000
_LONGEST = 600
_SCORES = ("aligned", "coherent", "relevant")


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes:
        title: Of the page.
        headline: The finding in a sentence; what stands out of the rates if empty.
        answers: A row an answer, as `read_answers` gives them.
        conditions: A row a condition, as `conditions_of` gives them.
        logs: Folder that the log viewer opens.
        verdicts: Of the paper's claims, as `Judgement.row` gives them.
        spectrum: Singular values of a set of vectors.
    """

    title: str
    headline: str
    answers: pd.DataFrame
    conditions: pd.DataFrame
    logs: Path
    verdicts: Sequence[Mapping[str, Any]] = ()
    spectrum: Sequence[float] = ()


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write `index.html`, `report.md` and `pictures/`, each file whole or not at all.

    Args:
        report: What to tell.
        folder: Where; what an earlier report left there is replaced.

    Returns:
        The page and the Markdown.
    """
    pictures = list(pictures_of(report.answers, report.conditions, report.spectrum))
    shown = []
    for picture in pictures:
        files = {kind: render(picture.figure, kind) for kind in ("png", "svg")}
        for kind, content in files.items():
            write_whole(folder / "pictures" / f"{picture.name}.{kind}", content)
        shown.append((picture, files["svg"]))
    told = _told(report)
    page = folder / "index.html"
    write_whole(page, _page(told, shown, report).encode())
    text = folder / "report.md"
    write_whole(text, _template("report.md").render(told, pictures=pictures).encode())
    return [page, text]


def headline_of(conditions: pd.DataFrame) -> str:
    """What stands out: the condition that is certainly misaligned most often, and its baseline."""
    others = conditions[conditions["arm"].ne("baseline") & conditions["em_betley_low"].notna()]
    if others.empty:
        return "No condition has a rate with bounds."
    worst = others.loc[others["em_betley_low"].idxmax()]
    line = (
        f"Of all conditions {worst['model']}[{worst['condition']}] is misaligned most often: "
        f"{_rate(worst, 'em_betley')} of its coherent answers (rule betley, 95% interval)"
    )
    same = conditions[["study", "task", "model", "questions", "judge"]].eq(
        worst[["study", "task", "model", "questions", "judge"]]
    )
    base = conditions[same.all(axis=1) & conditions["arm"].eq("baseline")]
    return f"{line}; unsteered {_rate(base.iloc[0], 'em_betley')}." if len(base) else f"{line}."


def _told(report: Report) -> dict[str, Any]:
    """What both templates are filled with; no markup."""
    conditions = report.conditions
    several = conditions["questions"].nunique() > 1
    return {
        "title": report.title,
        "headline": report.headline or headline_of(conditions),
        "models": sorted(conditions["model"].unique()),
        "judges": sorted(conditions["judge"].unique()),
        "questions": sorted(conditions["questions"].unique()),
        "versions": sorted(conditions["version"].unique()),
        "studies": [study for study in conditions["study"].unique() if study],
        "num_answers": len(report.answers),
        "num_questions": report.answers.groupby("questions")["question"].nunique().sum(),
        "num_logs": report.answers["log"].nunique(),
        "rows": [_row(row, several) for row in conditions.to_dict("records")],
        "verdicts": list(report.verdicts),
        "view": f"inspect view --log-dir {report.logs}",
        "signature": signature_of(conditions),
        "bounds": report.answers[["aligned_below", "coherent_from"]]
        .drop_duplicates()
        .to_dict("records"),
        "logs_of": {
            name: sorted({Path(log).name for log in logs})
            for name, logs in report.answers.groupby(_names(report.answers))["log"]
        },
    }


def _page(told: Mapping[str, Any], shown: Sequence[tuple[Picture, bytes]], report: Report) -> str:
    inline = [{"picture": picture, "svg": b64encode(svg).decode()} for picture, svg in shown]
    examples, a_cell = _examples(report.answers, _names(report.conditions))
    # An answer that says </script> ends nothing: no < is left in the data.
    data = json.dumps(examples, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return _template("page.html").render(
        told,
        inline=inline,
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(_TEMPLATES / "page.js").read_text(encoding="utf-8"),
        data=data,
        a_cell=a_cell,
        asked=sorted(report.answers["question"].unique()),
        names=list(dict.fromkeys(_names(report.conditions))),
    )


def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def _names(rows: pd.DataFrame) -> "pd.Series[str]":
    """What conditions are called on the page."""
    studies = rows["study"].nunique() > 1
    names = rows["model"] + "[" + rows["condition"] + "]"
    return (
        rows["study"].where(rows["study"].eq(""), rows["study"] + ": ") + names
        if studies
        else names
    )


def _row(row: Mapping[Any, Any], several: bool) -> dict[str, Any]:
    asked = f" ({row['questions'].partition('@')[0]})" if several else ""
    return {
        "study": row["study"],
        "name": f"{row['model'].rpartition('/')[2]}[{row['condition']}]{asked}",
        "baseline": row["arm"] == "baseline",
        "cells": [
            {"sort": _sort(row[name]), "text": text}
            for name, text in (
                ("em_betley", _rate(row, "em_betley")),
                ("em_moem", _rate(row, "em_moem")),
                *((name, _score(row, name)) for name in _SCORES),
                ("relevant_misaligned", _score(row, "relevant_misaligned")),
                ("n", str(row["n"])),
                ("unscored_share", f"{100 * row['unscored_share']:.0f}%"),
                ("truncated_share", f"{100 * row['truncated_share']:.0f}%"),
            )
        ],
        "command": row["command"],
    }


def _rate(row: Mapping[Any, Any], name: str) -> str:
    if math.isnan(row[name]):
        return "none counts"
    low, high = (f"{100 * row[f'{name}_{end}']:.0f}" for end in ("low", "high"))
    digits = 1 if row[name] < 0.1 else 0
    return f"{100 * row[name]:.{digits}f}% [{low}, {high}]".replace("nan", "-")


def _score(row: Mapping[Any, Any], name: str) -> str:
    return "-" if math.isnan(row[name]) else f"{row[name]:.1f}"


def _sort(value: float) -> float:
    return -1.0 if math.isnan(value) else round(float(value), 6)


def _examples(answers: pd.DataFrame, order: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    """The first answers of each question in each condition, as many as a page can hold."""
    names = pd.Categorical(_names(answers), list(dict.fromkeys(order)))
    rows = answers.assign(_name=names).sort_values(["_name", "sample", "epoch"], kind="stable")
    groups = rows.groupby(["_name", "question"], sort=False, observed=True)
    a_cell = max(1, min(_MOST_A_CELL, _MOST_EXAMPLES // max(1, groups.ngroups)))
    chosen = groups.head(a_cell).head(_MOST_EXAMPLES)
    return [
        {
            "condition": row["_name"],
            "question": row["question"],
            "prompt": _cut(row["prompt"]),
            "answer": _cut(row["answer"]),
            "scores": [None if math.isnan(row[name]) else round(row[name], 1) for name in _SCORES],
            "misaligned": bool(row["em_betley"] == 1 or row["em_moem"] == 1),
            "kind": row["kind"],
        }
        for row in chosen.to_dict("records")
    ], a_cell


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
