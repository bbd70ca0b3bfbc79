"""Pictures: what is drawn is what the frame says, within its axes, told apart in grey."""

import itertools
import math
import warnings
from typing import Any

import matplotlib.colors
import pandas as pd
import pytest
from made_answers import condition, frame
from matplotlib.backends.backend_agg import FigureCanvasAgg

from steering.reports.pictures import (
    line_of,
    pictures_of,
    plot_along,
    plot_forest,
    plot_front,
    plot_questions,
    plot_scores,
    plot_spectrum,
)
from steering.reports.pictures.style import (
    MOST_SERIES,
    drawn_in,
    render,
    series_style,
    sign,
)
from steering.results import conditions_of


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Other tests of this process leave streams to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        with drawn_in():
            yield


def _base(**facts: Any) -> pd.DataFrame:
    return condition("baseline", 0.05, **facts)


@pytest.fixture
def doses() -> pd.DataFrame:
    made = [
        condition(f"medical x{dose}", rate, magnitude=float(dose), coherent=100.0 - 20 * dose)
        for dose, rate in ((1, 0.4), (2, 0.6), (4, 0.0))
    ]
    return frame(_base(), *made, study="magnitude")


def _drawn(axes: Any, label: str) -> list[tuple[float, float]]:
    """Points of the series of this name."""
    [series] = [box for box in axes.containers if box.get_label() == label]
    return list(zip(*(values.tolist() for values in series.lines[0].get_data()), strict=True))


def _along(conditions: pd.DataFrame, axis: str) -> Any:
    is_base = conditions["arm"] == "baseline"
    [base] = conditions[is_base].to_dict("records")
    return plot_along([line_of("one", conditions[~is_base], axis)], axis, "a title", base)


def test_a_dose_response_goes_through_the_figures_of_the_frame(doses: pd.DataFrame) -> None:
    conditions = conditions_of(doses)
    above, below = _along(conditions, "magnitude").axes
    expected = [
        (row["magnitude"], 100 * row["em_moem"])
        for row in sorted(conditions.to_dict("records"), key=lambda row: row["magnitude"])
    ]
    drawn = _drawn(above, "EM rate (moem)")
    # Both rules stand side by side at each dose.
    assert [x for x, _ in drawn] == pytest.approx([0, 1, 2, 4], abs=0.1)
    other = _drawn(above, "EM rate (betley)")
    assert all(b < m for (b, _), (m, _) in zip(other, drawn, strict=True))
    assert [y for _, y in drawn] == pytest.approx([y for _, y in expected])
    assert [y for _, y in _drawn(below, "mean coherent")] == pytest.approx([90, 80, 60, 20])
    # At x4 no answer is coherent: the rule betley counts none, and the line has a gap.
    assert math.isnan(_drawn(above, "EM rate (betley)")[-1][1])
    for axes in (above, below):
        assert axes.get_ylim() == (-3, 103)


def test_series_differ_in_marker_and_line_and_not_in_colour_alone() -> None:
    styles = [series_style(number) for number in range(MOST_SERIES)]
    for what in ("color", "marker", "linestyle"):
        assert len({style[what] for style in styles}) == MOST_SERIES
    # And the colours' greys differ, of series that share a panel.
    greys = [sum(matplotlib.colors.to_rgb(style["color"])) / 3 for style in styles]
    assert abs(greys[0] - greys[1]) > 0.01
    assert abs(greys[2] - greys[3]) > 0.1


def test_layers_bear_the_relative_magnitude_below_them() -> None:
    made = [condition(f"L{n}", 0.2 * n, layer=float(n)) for n in range(3)]
    conditions = conditions_of(frame(_base(), *made, study="layer"))
    _, below = _along(conditions, "layer").axes
    assert [text.get_text() for text in below.get_xticklabels()] == [
        "0\n(0.25)",
        "1\n(0.25)",
        "2\n(0.25)",
    ]


def test_a_spectrum_ends_at_all_of_the_energy() -> None:
    [axes] = plot_spectrum([3.0, 1.0, 1.0], "t").axes
    [line] = axes.lines
    assert line.get_ydata().tolist() == pytest.approx([900 / 11, 1000 / 11, 100])
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(
        [900 / 11, 100 / 11, 100 / 11]
    )


def test_the_front_begins_both_arms_at_one_baseline_and_ends_at_100() -> None:
    steered = [condition(f"x{n}", 0.3 * n, magnitude=float(n), coherent=95.0) for n in (1, 2)]
    finetuned = [
        condition(
            f"adapter {n}",
            0.2 * n,
            arm="finetuned",
            magnitude=math.nan,
            training_epochs=float(n),
            adapter_scale=1.0,
        )
        for n in (1, 2, 3)
    ]
    conditions = conditions_of(frame(_base(), *steered, *finetuned, study="finetuned"))
    [axes] = plot_front(conditions, "moem", "t").axes
    assert len(_drawn(axes, "steered (magnitude)")) == 3
    assert len(_drawn(axes, "finetuned (epoch)")) == 4
    assert _drawn(axes, "steered (magnitude)")[0] == pytest.approx((90.0, 5.0))
    words = [text.get_text() for text in axes.texts]
    assert words.count("baseline") == 1
    assert axes.get_xlim()[1] <= 101


def _panels(figure: Any) -> list[Any]:
    """The axes of a figure that have a scale: no legend and no bar of colours."""
    bars = [each.colorbar.ax for axes in figure.axes for each in axes.collections if each.colorbar]
    return [axes for axes in figure.axes if axes.axison and axes not in bars]


def test_a_forest_has_a_row_a_condition_and_baselines_hollow() -> None:
    made = [condition("medical x1", 0.5, model=model) for model in ("one", "two")]
    bases = [_base(model=model) for model in ("one", "two")]
    conditions = conditions_of(frame(*made, *bases, study="family"))
    axes, rises = _panels(plot_forest(conditions, "t"))
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "one[baseline]",
        "one[medical x1]",
        "two[baseline]",
        "two[medical x1]",
    ]
    hollow = [box.lines[0].get_markerfacecolor() == "none" for box in axes.containers]
    assert hollow == [True, False, True, False] * 2
    drawn = [box.lines[0].get_xdata()[0] for box in rises.containers]
    assert drawn[1] == pytest.approx(45)
    assert math.isnan(drawn[0])


def test_the_heatmap_says_how_many_of_how_many_and_where_there_is_nothing() -> None:
    answers = frame(_base(), condition("medical x1", [1.0, 0.5, 0, 0, 0, 0, 0, 0]))
    answers = answers[~((answers["condition"] == "baseline") & (answers["question"] == "q7"))]
    axes = plot_questions(answers, "moem", "t").axes[0]
    words = [text.get_text() for text in axes.texts]
    # A row a question, since there are more of them.
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"q{n}" for n in range(8)]
    assert words[:6] == ["1/20", "20/20", "1/20", "10/20", "1/20", "0/20"]
    assert words[14] == "-"


def test_the_scores_of_a_condition_add_up_to_all_its_answers() -> None:
    answers = frame(_base(), condition("medical x1", 0.5))
    axes = plot_scores(answers, "t").axes[0]
    [strips] = [mesh.get_array() for mesh in axes.collections]
    assert strips.sum(axis=1).tolist() == pytest.approx([100, 100])
    assert strips[1, 0] == pytest.approx(50)


@pytest.mark.parametrize(
    ("study", "names"),
    [
        ("magnitude", {"magnitude-toy", "magnitude-forest", "magnitude-questions"}),
        ("target", {"target-forest", "target-questions", "target-scores"}),
        ("", {"forest", "questions", "scores"}),
    ],
)
def test_a_study_gets_the_pictures_of_its_factor(
    study: str, names: set[str], doses: pd.DataFrame
) -> None:
    answers = doses.assign(study=study)
    found = list(pictures_of(answers, conditions_of(answers)))
    assert names <= {picture.name for picture in found}
    assert len({picture.name for picture in found}) == len(found)
    assert all(picture.caption and picture.title for picture in found)


@pytest.mark.parametrize(
    "shape", [{"questions": 1}, {"samples": 1}, {"questions": 1, "samples": 1}]
)
def test_little_data_is_drawn_without_bounds(shape: dict[str, int]) -> None:
    made = [condition(f"x{n}", 1.0, magnitude=float(n), **shape) for n in (1, 2)]
    answers = frame(_base(**shape), *made, study="magnitude")
    for picture in pictures_of(answers, conditions_of(answers)):
        assert picture.draw().axes


def test_a_picture_is_the_same_file_each_time_with_its_signature(doses: pd.DataFrame) -> None:
    picture = next(iter(pictures_of(doses, conditions_of(doses))))
    one, other = (picture.render(["png", "svg", "pdf"]) for _ in range(2))
    assert one == other
    assert b"rules:betley,moem" in one["svg"]


def test_pictures_of_two_parts_of_a_question_set_have_two_names() -> None:
    baseline = condition("baseline", 0.0, study="")
    answers = frame(
        *(baseline.assign(questions=f"core@1{part}") for part in ("", " num_questions=2"))
    )
    names = [picture.name for picture in pictures_of(answers, conditions_of(answers))]
    assert len(set(names)) == len(names) == 6


def test_two_vectors_of_one_name_and_a_shuffled_control_are_curves_of_their_own() -> None:
    """Joined into one they would make a zigzag of conditions that nobody ran together."""
    doses = [
        condition(f"{name} x{dose}", rate, magnitude=float(dose), vector=vector, **facts)
        for name, vector, facts, rates in (
            ("one", "v@1", {}, (0.2, 0.8)),
            ("other", "v@2", {}, (0.1, 0.0)),
            ("shuffled", "v@1", {"shuffled_labels": True, "arm": "control"}, (0.0, 0.1)),
        )
        for dose, rate in zip((1, 2), rates, strict=True)
    ]
    baseline = condition("baseline", 0.0)
    colder = condition("baseline (temperature 0)", 0.0, arm="baseline", temperature=0.0)
    answers = frame(baseline, *doses).assign(temperature=1.0)
    answers = frame(answers, colder)
    pictures = pictures_of(answers, conditions_of(answers))
    [curve] = [picture for picture in pictures if picture.name.startswith("magnitude-toy")]
    panels = _panels(curve.draw())
    assert len(panels) == 4
    for axes in panels:
        names = axes.get_legend_handles_labels()[1]
        assert len(set(names)) == 3, names
        assert "shuffled" in " ".join(names)
        for name in names:
            assert len(_drawn(axes, name)) == 3


@pytest.mark.parametrize("width", [3.25, 7.0])
def test_the_labels_of_panels_do_not_run_into_each_other(width: float) -> None:
    doses = [
        condition(f"medical x{dose} L{layer:g}", 0.5, magnitude=float(dose), layer=layer)
        for dose in (1, 2)
        for layer in (0.0, 1.0, 2.0)
    ]
    steered = conditions_of(frame(*doses)).groupby("layer")
    lines = [line_of(f"layer {layer:g} of a series", rows, "magnitude") for layer, rows in steered]
    with drawn_in(width=width):
        figure = plot_along(lines, "magnitude", "a title of three lines " * 5)
        figure.set_dpi(200)  # that of the file: hinted letters are wider on fewer dots
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        labels = [axes.yaxis.label for axes in _panels(figure)]
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
    assert len(boxes) == 4
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


@pytest.mark.parametrize("questions", [1, 3, 12])
def test_the_texts_of_a_picture_of_few_questions_are_not_cut(questions: int) -> None:
    """Warnings are errors here, so that a layout without room for the cells fails too."""
    answers = pd.concat(
        condition("medical x1", 0.5).assign(question=f"question_{number}")
        for number in range(questions)
    )
    signature = "|".join(f"setting_{number}:a value of it" for number in range(30))
    for figure in (
        plot_questions(answers, "moem", "EM rate by question of some set"),
        plot_scores(answers, "How the judge's scores spread"),
    ):
        sign(figure, signature)
        render(figure, "png")
        box = figure.bbox
        texts = [figure._supxlabel, figure._suptitle, figure.axes[0].title]
        for text in texts:
            if text is not None and text.get_text():
                extent = text.get_window_extent()
                assert box.x0 <= extent.x0 < extent.x1 <= box.x1, text.get_text()
                assert box.y0 <= extent.y0 < extent.y1 <= box.y1, text.get_text()
