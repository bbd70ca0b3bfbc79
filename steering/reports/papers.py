"""Figures and tables as a paper includes them: drawings with text, LaTeX and Markdown."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from steering.errors import write_errors_as_ours
from steering.files import write_whole
from steering.reports.page_content import PageTable
from steering.reports.pictures import Picture, signature_of
from steering.reports.pictures.style import FORMATS, breakable, drawn_in, render
from steering.reports.tables import points_text, rate_text, without_shared
from steering.results.conditions import display_names
from steering.text import latex, markdown

COLUMN = 5.5
"""Inches: the text of a page with one column in most styles of conferences."""
_UTF8 = ("utf-8", "backslashreplace")
_CAPTION = (
    "EM rates by both rules with 95% intervals on questions like these; rise against the baseline "
    "in points, paired by theme, each theme weighing alike; mean scores of all answers, 0-100; n: "
    "answers"
)
# Letters of a cell above which a column of LaTeX has a width and lines.
_LONG = 40
_COLUMNS = (
    "condition",
    "EM betley",
    "rise betley",
    "EM moem",
    "rise moem",
    "coherent",
    "relevant",
    "n",
)


def write_paper(
    pictures: Iterable[Picture],
    tables: Iterable[tuple[str, PageTable]],
    folder: Path,
    *,
    width: float = COLUMN,
    font: str = "",
    style: str | Path = "",
) -> list[Path]:
    """Write each picture as PDF, SVG, PNG and as a LaTeX figure, each table as LaTeX and Markdown.

    Args:
        pictures: Drawn anew, without a signature: that stands in the caption of the LaTeX figure.
        tables: By name for files.
        folder: Files of other names stay.
        width: Of the drawings, in inches.
        font: As of `drawn_in`, like `style`.

    Returns:
        The files.

    Raises:
        SteeringError: There is no such font or style, or a file can't be written.
    """
    files: dict[str, bytes] = {}
    with drawn_in(width=width, font=font, style=style):
        for picture in pictures:
            figure = picture.draw()
            files |= {f"{picture.name}.{kind}": render(figure, kind) for kind in FORMATS}
            files[f"{picture.name}.tex"] = latex_figure(picture).encode(*_UTF8)
    for name, table in tables:
        files[f"table-{name}.tex"] = latex_table(name, table).encode(*_UTF8)
        files[f"table-{name}.md"] = markdown_table(table).encode(*_UTF8)
    with write_errors_as_ours(folder, "give another folder"):
        for name, content in files.items():
            write_whole(folder / name, content)
    return [folder / name for name in files]


def latex_figure(picture: Picture) -> str:
    """A figure of LaTeX with its caption, from the folder of the file."""
    caption = f"{picture.title}. {picture.caption} Signature: {breakable(picture.signature)}."
    return (
        "\\begin{figure}[tbp]\n\\centering\n"
        f"\\includegraphics{{{picture.name}.pdf}}\n"
        f"\\caption{{{latex(caption)}}}\n"
        f"\\label{{fig:{picture.name}}}\n\\end{{figure}}\n"
    )


def latex_table(name: str, table: PageTable) -> str:
    """A table of LaTeX with the rules of booktabs; names on the left, figures on the right."""
    frame = pd.DataFrame([[*map(latex, row)] for row in table.rows])
    longest = [max(map(len, cells), default=0) for cells in zip(*table.rows, strict=True)]
    kinds = [r"p{0.25\linewidth}" if length > _LONG else "r" for length in longest[1:]]
    text = str(
        frame.to_latex(
            index=False,
            header=[latex(column) for column in table.columns],
            escape=False,
            column_format="l" + "".join(kinds),
            caption=latex(f"{table.heading}. {table.caption}."),
            label=f"tab:{name}",
            position="tbp",
        )
    )
    # Of two columns of a paper it takes both.
    return text.replace("{table}", "{table*}")


def markdown_table(table: PageTable) -> str:
    """A table of Markdown with its caption below."""
    columns = [*map(markdown, table.columns)]
    rules = ["---", *["---:"] * (len(columns) - 1)]
    rows = [[markdown(cell) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, rules, *rows)]
    return "\n".join([*lines, "", f"*{markdown(f'{table.heading}. {table.caption}.')}*", ""])


def condition_tables(conditions: pd.DataFrame) -> Iterator[tuple[str, PageTable]]:
    """The judged conditions of each study, or of each task outside studies.

    Args:
        conditions: As `conditions_of` gives them.
    """
    for (study, task), rows in conditions.groupby(["study", "task"], sort=False):
        records = rows.to_dict("records")
        names, shared = without_shared(records, display_names(rows))
        cells = [[name, *condition_texts(row)] for name, row in zip(names, records, strict=True)]
        of = ", ".join(filter(None, [f"study {study}" if study else str(task), shared]))
        caption = f"{_CAPTION}. Signature: {breakable(signature_of(rows))}"
        name = file_name(f"{study or task}")
        yield f"conditions-{name}", PageTable(f"Conditions, {of}", caption, _COLUMNS, cells)


def condition_texts(row: Mapping[Any, Any]) -> list[str]:
    """The figures of a condition in a table."""
    cells = []
    for column in ("em_betley", "em_moem"):
        cells.append(rate_text(*bounded(row, column), "-"))
        cells.append(points_text(*bounded(row, f"{column}_rise")))
    scores = [row[score] for score in ("coherent", "relevant")]
    cells += ["-" if math.isnan(score) else f"{score:.1f}" for score in scores]
    return [*cells, str(row["n"])]


def bounded(row: Mapping[Any, Any], name: str) -> tuple[float, float, float]:
    """A figure of a row of a frame with its bounds."""
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def numbered(kind: str, tables: Sequence[PageTable]) -> Iterator[tuple[str, PageTable]]:
    """Tables of a kind with names for files."""
    for number, table in enumerate(tables):
        yield f"{kind}-{number + 1}" if len(tables) > 1 else kind, table


def file_name(text: str) -> str:
    """A text as a part of a file's name and of a label of LaTeX."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "runs"
