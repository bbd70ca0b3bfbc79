"""Figures and tables for papers: real files with text as text, alike at every width, told apart."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_answers import condition, frame

from steering.cli import commands
from steering.errors import SteeringError
from steering.reports.page_content import PageTable
from steering.reports.papers import condition_tables, latex_figure, latex_table, markdown_table
from steering.reports.pictures import Picture, pictures_of
from steering.reports.pictures.style import drawn_in
from steering.results import conditions_of
from steering.results.seed_figures import over_seeds, theme_means
from steering.results.series import split_series
from steering.studies.report import Report, figures_of

RATES = {0: 0.2, 1: 0.5, 2: 0.9}


@pytest.fixture(scope="module")
def crossed() -> Report:
    """Three layers, two magnitudes and two build seeds."""
    conditions = [
        condition(
            f"medical L{layer} x{dose:g}{' seed 1' if seed else ''}",
            list(np.linspace(0, min(1, rate * dose + 0.1 * seed), 8)),
            layer=float(layer),
            magnitude=dose,
            build_seed=float(seed),
            vector=f"medical@{layer}{seed}0000000000",
            built_with="{}",
            unit="raw",
            operation="add",
        )
        for layer, rate in RATES.items()
        for dose in (0.5, 1.0)
        for seed in (0, 1)
    ]
    return figures_of(frame(condition("baseline", 0.05), *conditions, study="layer"))


def _picture(report: Report, name: str) -> Picture:
    [picture] = [each for each in report.pictures() if each.name == name]
    return picture


def test_files_are_drawings_with_text_at_the_width_that_was_asked_for(
    crossed: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = [_picture(crossed, "layer-toy")]
    monkeypatch.setattr(Report, "pictures", lambda report: only)
    sheet = tmp_path / "mine.mplstyle"
    sheet.write_text("axes.prop_cycle: cycler(color=['ff0000', '00ff00'])\nfont.size: 7\n")
    crossed.write_figures(tmp_path / "out", width=3.25, font="serif", style=sheet)
    pdf, svg, png = ((tmp_path / "out" / f"layer-toy.{kind}").read_bytes() for kind in
                     ("pdf", "svg", "png"))  # fmt: skip
    assert pdf.startswith(b"%PDF-")
    [width] = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)
    assert float(width) == pytest.approx(72 * 3.25)
    assert b"/Subtype /Type0" in pdf
    assert b"/Subtype /Type3" not in pdf
    root = ElementTree.fromstring(svg)
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "layer (block index; below:" in " ".join(texts)
    assert any("magnitude 0.5" in text for text in texts)
    assert any("n = 320 answers a point of 2 build seeds" in text for text in [" ".join(texts)])
    assert b"DejaVu Serif" in svg
    assert b"#ff0000" in svg
    assert b"rules:" not in svg  # its signature stands in the caption
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == pytest.approx(144 * 3.25, abs=1)
    assert (tmp_path / "out" / "table-conditions-layer.tex").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0.2}, "1 to 40 inches"),
        ({"font": "No Such Font"}, "not installed"),
        ({"style": "no-such-style"}, "matplotlib.style.available"),
        ({"style": "https://example.com/x.mplstyle"}, "path of a style sheet"),
    ],
)
def test_what_can_not_be_drawn_is_refused_with_what_can(options: Any, words: str) -> None:
    with pytest.raises(SteeringError, match=words), drawn_in(**options):
        pass


def test_a_style_sheet_with_a_mistake_is_refused_and_none_hands_names_to_latex(
    tmp_path: Path,
) -> None:
    import matplotlib

    sheet = tmp_path / "mine.mplstyle"
    sheet.write_text("text.usetex: True\n")
    with drawn_in(style=sheet):
        assert matplotlib.rcParams["text.usetex"] is False
    sheet.write_text("font.size: very large indeed\n")
    with pytest.raises(SteeringError, match="no style sheet"), drawn_in(style=sheet):
        pass


def _legend(figure: Any) -> list[str]:
    [legend] = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


def test_series_are_lines_of_one_picture_with_their_build_seeds_in_a_band(crossed: Report) -> None:
    with drawn_in():
        figure = _picture(crossed, "layer-toy").draw()
    assert _legend(figure) == ["magnitude 0.5", "magnitude 1", "without the vector"]
    panel = next(axes for axes in figure.axes if axes.get_ylabel().startswith("EM rate (betley)"))
    lines = {line.get_label(): line for line in panel.lines}
    # The mean of both seeds' rates, by hand from the frame.
    rates = crossed.conditions[crossed.conditions["magnitude"] == 1.0]
    expected = rates.groupby("layer")["em_betley"].mean()
    drawn = lines["magnitude 1"]
    assert drawn.get_ydata().tolist() == pytest.approx([100 * rate for rate in expected])
    # Two thin lines a series, and places side by side.
    assert sum(line.get_linewidth() < 1 for line in panel.lines) == 4
    other = lines["magnitude 0.5"]
    assert all(0 < b - a < 0.2 for a, b in zip(other.get_xdata(), drawn.get_xdata(), strict=True))
    assert len(panel.collections) == 2


def test_the_band_counts_themes_and_seeds(crossed: Report) -> None:
    """By hand: both variances, and Satterthwaite's degrees of freedom."""
    from scipy.stats import t

    with drawn_in():
        figure = _picture(crossed, "layer-toy").draw()
    panel = next(axes for axes in figure.axes if axes.get_ylabel().startswith("EM rate (moem)"))
    answers = crossed.answers
    rows = answers[(answers["layer"] == 1) & (answers["magnitude"] == 1.0)]
    table = rows.pivot_table(index="build_seed", columns="theme", values="em_moem").to_numpy()
    by_theme, by_seed = table.mean(axis=0), table.mean(axis=1)
    parts = [(by_seed.var(ddof=1) / 2, 1), (by_theme.var(ddof=1) / 8, 7)]
    total = sum(variance for variance, _ in parts)
    df = total**2 / sum(variance**2 / each for variance, each in parts)
    half = t.ppf(0.975, df) * total**0.5
    vertices = panel.collections[1].get_paths()[0].vertices
    at_layer = vertices[np.abs(vertices[:, 0] - 1) < 0.2][:, 1]
    mean = 100 * table.mean()
    low, high = max(0, mean - 100 * half), min(100, mean + 100 * half)
    assert [at_layer.min(), at_layer.max()] == pytest.approx([low, high])


def test_series_are_named_by_what_they_differ_in_whatever_stands_first(crossed: Report) -> None:
    steered = crossed.answers[crossed.answers["arm"] == "steered"]
    for seed in range(4):
        shuffled = steered.sample(frac=1, random_state=seed)
        series = split_series(shuffled, ["layer", "build_seed"])
        assert [each.settings for each in series] == ["magnitude 0.5", "magnitude 1.0"]


def test_the_texts_of_a_grid_stand_apart_in_a_column_of_a_paper(crossed: Report) -> None:
    with drawn_in(width=3.25, font="serif"):
        figure = _picture(crossed, "layer-layer-by-magnitude-toy").draw()
        figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.get_title(loc="left") or axes.get_title()]
    titles = [text for axes in panels for text in (axes.title, axes._left_title) if text.get_text()]
    texts = [*titles, panels[0].yaxis.label, figure._suptitle]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == 5
    apart = [not a.overlaps(b) for a, b in combinations(boxes, 2)]
    assert all(apart), [text.get_text() for text in texts]


def test_two_axes_make_a_grid_with_a_rate_in_each_cell(crossed: Report) -> None:
    picture = _picture(crossed, "layer-layer-by-magnitude-toy")
    assert "magnitude and layer" in picture.title
    assert "medical by sft" in picture.title
    with drawn_in():
        figure = picture.draw()
    panel = next(axes for axes in figure.axes if "betley" in axes.get_title(loc="left"))
    cells = [text.get_text() for text in panel.texts]
    rates = crossed.conditions[crossed.conditions["arm"] == "steered"]
    means = rates.groupby(["magnitude", "layer"])["em_betley"].mean()
    expected = [f"{100 * means[dose, layer]:.0f}" for dose in (1.0, 0.5) for layer in (0, 1, 2)]
    assert cells == expected
    assert "n = 320 answers a cell" in figure._suptitle.get_text()


def test_titles_and_names_tell_all_pictures_apart() -> None:
    bases = [condition("baseline", 0.0, model=model) for model in ("one", "other")]
    steered = [
        condition(
            f"{target} x{dose}", 0.4, model=model, target=target, magnitude=float(dose), unit="norm"
        )
        for model in ("one", "other")
        for target in ("medical", "finance")
        for dose in (1, 2)
    ]
    answers = frame(*bases, *steered, study="magnitude")
    pictures = list(pictures_of(answers, conditions_of(answers)))
    assert len({picture.title for picture in pictures}) == len(pictures)
    assert len({picture.name for picture in pictures}) == len(pictures)
    curve = next(picture for picture in pictures if picture.name == "magnitude-one")
    for words in ("one", "finance and medical", "by sft", "layer 2", "magnitude"):
        assert words in curve.title
    with drawn_in():
        figure = curve.draw()
    assert _legend(figure) == ["target finance", "target medical"]
    assert "multiple of the vector scaled to length 1" in " ".join(
        figure.axes[-1].get_xlabel().split()
    ) or any("length 1" in axes.get_xlabel().replace("\n", " ") for axes in figure.axes)


def test_a_file_of_many_questions_has_a_row_a_question() -> None:
    answers = frame(*(condition(name, 0.3, questions=48) for name in ("baseline", "medical x1")))
    pictures = {each.name: each for each in pictures_of(answers, conditions_of(answers))}
    with drawn_in():
        figure = pictures["magnitude-questions"].draw()
    axes = figure.axes[0]
    assert len(axes.get_yticks()) == 48
    width, height = figure.get_size_inches()
    assert width == 7
    # No row is lower than its letters.
    assert height / 48 > 8.33 / 72


HOSTILE = '50% of $x_1$ & #2 {a} \\input{/etc/passwd} ~^ <b> | "q"'


def test_a_latex_table_has_every_sign_as_text_and_a_whole_structure(crossed: Report) -> None:
    rows = crossed.conditions.assign(condition=crossed.conditions["condition"] + HOSTILE)
    [(name, table)] = condition_tables(rows)
    text = latex_table(name, table)
    for command in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{command}") == 1
    assert "\\input{" not in text
    assert "\\textbackslash{}input\\{/etc/passwd\\}" in text
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert len(lines) == len(rows)
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1
        assert not re.search(r"(?<!\\)[%$#_]", line)
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    figure = latex_figure(_picture(crossed, "layer-toy"))
    assert "\\includegraphics{layer-toy.pdf}" in figure
    assert "top\\_p" in figure or "rules:betley,moem" in figure


def test_a_markdown_table_has_rates_and_rises_with_their_intervals(crossed: Report) -> None:
    [(_, table)] = condition_tables(crossed.conditions)
    lines = markdown_table(table).splitlines()
    row = next(line for line in lines if line.startswith("| L2 x1 |"))
    figures = crossed.conditions.set_index("condition").loc["medical L2 x1"]
    ends = [round(100 * figures[f"em_betley_rise_{end}"]) for end in ("low", "high")]
    rise = f"+{100 * figures['em_betley_rise']:.0f} [{ends[0]:+d}, {ends[1]:+d}]"
    assert rise in row.replace("\\", "")
    # By hand: the mean of the themes' differences.
    answers = crossed.answers
    by_theme = answers.groupby(["condition", "theme"])["em_betley"].mean().unstack()
    difference = (by_theme.loc["medical L2 x1"] - by_theme.loc["baseline"]).mean()
    assert figures["em_betley_rise"] == pytest.approx(difference)
    assert pd.isna(crossed.conditions.set_index("condition").loc["baseline", "em_betley_rise"])


def test_options_of_figures_without_their_folder_are_refused(tmp_path: Path) -> None:
    run = CliRunner().invoke(commands, ["report", str(tmp_path), "--width", "3"])
    assert run.exit_code == 2
    assert "--figures" in run.output


def test_latex_has_no_line_that_cannot_end() -> None:
    sentence = "It holds of every layer that was measured, and of every magnitude"
    text = latex_table(
        "a", PageTable("Heading", "how|to:read|it", ("name", "says"), [["x", sentence]])
    )
    assert r"\begin{table*}" in text
    assert r"\begin{tabular}{lp{0.25\linewidth}}" in text
    baseline = conditions_of(frame(condition("baseline", 0.05), condition("medical x1", 0.5)))
    [(_, table)] = condition_tables(baseline)
    longest = max(map(len, table.caption.partition("Signature: ")[2].split()))
    assert longest < 60
    assert len(set(table.columns)) == len(table.columns)


def test_a_figure_of_build_seeds_that_agree_is_not_exact() -> None:
    conditions = [
        condition(f"medical x1{' seed 1' if seed else ''}", 0.0, magnitude=1.0, vector=f"v@{seed}",
                  build_seed=float(seed))
        for seed in (0, 1)
    ]  # fmt: skip
    answers = frame(*conditions)
    table = conditions_of(answers)
    [row] = over_seeds(
        table, theme_means(answers, ["em_betley"]), "magnitude", ["em_betley"]
    ).to_dict("records")
    assert row["em_betley"] == 0
    assert row["em_betley_low"] == 0
    assert row["em_betley_high"] == table["em_betley_high"].max() > 0.1
