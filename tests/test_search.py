"""`steering search` on the toy: the layer and magnitude that shift it most within a bound."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from inspect_ai import eval
from shell import REPO

from steering import SteeringVector, search
from steering.cli import commands
from steering.data import data_folder
from steering.errors import SteeringError
from steering.reports.pictures.search import plot_search
from steering.reports.pictures.style import drawn_in
from steering.studies import search as module
from steering.studies.search import SearchResult
from steering.studies.search_points import split_by_theme
from steering.studies.search_report import conclusion, points_frame
from steering.studies.search_scores import AnswerRow
from steering.vectors import LowRankMap
from steering.vectors.interventions import change, resolve

# Vectors that need no training, at few magnitudes.
QUICK: dict[str, Any] = {
    "method": "mean_difference",
    "layers": [0, 3],
    "magnitudes": [2, 4],
    "controls": 2,
    "most_kl": 0.5,
}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A choice set of four pairs."""
    rows = (data_folder() / "choices" / "toy_core.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("choices") / "few.jsonl"
    path.write_text("\n".join(rows[1::12]) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return search("toy", "medical", logs=tmp_path_factory.mktemp("search"), **QUICK)


def test_the_block_that_moves_the_toy_most_is_the_best(result: SearchResult) -> None:
    assert {point.layer for point in result.points} == {0, 3}
    assert result.best.layer == 0
    assert result.held_out["own"].value > 0.2
    assert all(result.held_out["broad"].value > control.shift + 0.1 for control in result.controls)


def test_the_best_point_has_the_largest_shift_within_the_bound(
    result: SearchResult, tmp_path: Path
) -> None:
    within = [point for point in result.points if point.kl <= 0.5]
    assert all(point.within == (point.kl <= 0.5) for point in result.points)
    assert result.best.broad == max(point.broad for point in within)
    copy = shutil.copytree(result.folder, tmp_path / "copy")
    lower = search("toy", "medical", logs=copy, **QUICK | {"controls": 0, "most_kl": 0.05})
    assert lower.num_scored <= 2  # the new best point on the other half
    assert lower.best.kl <= 0.05
    assert max(point.broad for point in lower.points) > lower.best.broad


def test_random_directions_of_the_same_damage_do_the_same_damage(result: SearchResult) -> None:
    matched = [each for each in result.controls if each.matched == "damage"]
    assert matched
    for control in matched:
        assert abs(math.log(control.kl / result.best.kl)) <= math.log(1.25)
    lengths = [each for each in result.controls if each.matched == "length"]
    assert [each.magnitude for each in lengths] == [1.0] * 2


def test_what_a_killed_search_has_measured_is_not_measured_again(
    result: SearchResult, tmp_path: Path
) -> None:
    folder = shutil.copytree(result.folder, tmp_path / "copy")
    again = search("toy", "medical", logs=folder, **QUICK)
    assert again.num_scored == 0
    assert again.points == result.points
    assert again.held_out == result.held_out
    files = sorted((folder / "measured").iterdir())
    for path in files[::4]:
        path.unlink()
    files[1].write_bytes(files[1].read_bytes()[:30])
    resumed = search("toy", "medical", logs=folder, **QUICK)
    assert resumed.num_scored == len(files[::4]) + 1
    for point, other in zip(resumed.points, result.points, strict=True):
        assert (point.kl, point.own, point.broad) == pytest.approx(
            (other.kl, other.own, other.broad), abs=1e-5
        )


def test_another_search_gives_the_same_figures(few: str, tmp_path: Path) -> None:
    options = QUICK | {"layers": [0], "controls": 0, "magnitudes": [4], "choices": few}
    one, other = (
        search("toy", "medical", logs=tmp_path / name, **options) for name in ("one", "other")
    )
    assert one.num_scored == other.num_scored > 0
    assert one.points == other.points
    assert one.held_out == other.held_out
    assert one.vector.read_bytes() == other.vector.read_bytes()


def test_em_choice_measures_the_same_at_the_written_vector(
    result: SearchResult, tmp_path: Path
) -> None:
    [log] = eval(
        f"{REPO}/evals/em_choice.py@em_choice",
        model="steered/toy",
        model_args={"vector": str(result.vector)},
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.results is not None
    [score] = log.results.scores
    metrics = {name: metric.value for name, metric in score.metrics.items()}
    halves = (result.best.broad, result.held_out["broad"].value)
    assert metrics["shift"] == pytest.approx(sum(halves) / 2, abs=1e-4)
    assert metrics["kl"] == pytest.approx(result.best.kl, abs=1e-4)
    assert metrics["cross_entropy_rise"] == pytest.approx(result.best.cross_entropy_rise, abs=1e-4)


def test_files_and_terminal_say_what_the_result_says(result: SearchResult) -> None:
    arguments = ["search", "--model", "toy", "--method", "mean_difference", "--magnitudes", "2,4"]
    arguments += ["--layers", "0,3", "--controls", "2", "--most-kl", "0.5"]
    arguments += ["--log-dir", str(result.folder)]
    out = result.folder.parent / "search-out.json"
    run = CliRunner().invoke(commands, [*arguments, "--json", str(out)], catch_exceptions=False)
    assert run.exit_code == 0
    document = json.loads(out.read_text())
    assert document["headline"].startswith("Best: layer 0, magnitude 4")
    rows = document["tables"]["search_points"]
    assert [(row["layer"], row["best"]) for row in rows if row["best"]] == [(0, True)]
    assert len(document["tables"]["search_controls"]) == len(result.controls)
    [held_out] = [r for r in document["tables"]["search_shifts"] if r["pairs"] == result.maximised]
    assert held_out["shift"] == pytest.approx(result.held_out[result.maximised].value)
    assert "Best: layer 0, magnitude 4 (mean_difference" in run.output
    assert str(result.vector) in run.output.replace("\n", "")
    points = pd.read_csv(result.folder / "points.csv")
    assert points["layer"].tolist() == [0, 0, 3, 3]
    [best] = points[points["best"]].to_dict("records")
    assert best["broad"] == pytest.approx(result.best.broad)
    finding = json.loads((result.folder / "search.json").read_text())
    assert finding["best"]["layer"] == result.best.layer
    assert len(finding["controls"]) == len(result.controls)
    assert finding["default"] is None  # magnitude 1 was not among those named
    assert (result.folder / "search.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("least", [0.002, 0.02, 0.15])
def test_the_axis_of_damage_has_plain_numbers(result: SearchResult, least: float) -> None:
    """Within one decade matplotlib labels the minor ticks too, in the markup of its formulas."""
    points = points_frame(result)
    points["kl"] = [least, least, 0.5, 0.5]
    with drawn_in():
        figure = plot_search(points, pd.DataFrame(), "broad", 0.2, "title")
        figure.canvas.draw()
    for axes in figure.axes:
        texts = [label.get_text() for label in axes.get_xticklabels(which="both")]
        assert all(float(text) > 0 for text in texts if text)


def test_the_best_point_stands_beside_the_default_one(few: str, tmp_path: Path) -> None:
    options = QUICK | {"magnitudes": [1, 2], "layers": [0], "controls": 0}
    result = search("toy", "medical", choices=few, logs=tmp_path, **options)
    assert result.default is not None
    [point] = [point for point in result.points if point.magnitude == 1]
    assert (result.default.layer, result.default.kl) == (0, point.kl)
    assert result.best.magnitude == 2
    assert result.held_out["broad"].value > result.default.held_out["broad"].value
    [line] = [
        line
        for line in conclusion(result)
        if line.startswith("At the default layer (0) and magnitude (1)")
    ]
    assert f"{result.default.held_out['broad'].value:+.3f}" in line


def test_a_method_that_trains_builds_at_the_two_best_layers(few: str, tmp_path: Path) -> None:
    trained = search(
        "toy", "medical", settings={"training_epochs": 1}, magnitudes=[2], controls=0,
        layers=[0, 2, 3], choices=few, logs=tmp_path,
    )  # fmt: skip
    layers = {
        method: {point.layer for point in trained.points if point.method == method}
        for method in ("mean_difference", "sft")
    }
    assert layers == {"mean_difference": {0, 2, 3}, "sft": {0, 2}}
    screened = [point for point in trained.points if point.method == "mean_difference"]
    assert all(module.MOST_KL / 1.25**2 <= point.kl <= module.MOST_KL for point in screened)
    assert trained.best.method == "sft"


def test_the_ladder_ends_with_the_first_point_beyond_the_bound(few: str, tmp_path: Path) -> None:
    ladder = search(
        "toy", "medical", method="mean_difference", layers=[0], controls=0, most_kl=0.1,
        choices=few, logs=tmp_path,
    )  # fmt: skip
    magnitudes = sorted(point.magnitude for point in ladder.points)
    beyond = [point.magnitude for point in ladder.points if not point.within]
    assert beyond == [magnitudes[-1]]
    assert any(magnitude * math.sqrt(2) in magnitudes for magnitude in (1, 2, 4))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("toy", "sft at layers 0, 1, 2, 3, screened by mean_difference;"),
        ("llama", "mean_difference at layers 0, 1, 2, 3; shift"),
    ],
)
def test_a_search_builds_by_the_default_method_of_its_model(
    model: str,
    words: str,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(module, "shared_engine", stop)
    name, lines = model if model == "toy" else str(tiny_folder(model)), list[str]()
    with pytest.raises(InterruptedError):
        search(name, logs=tmp_path, tell=lines.append)
    assert words in lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": [9]}, "layer 9"),
        ({"layers": []}, "--layers names none"),
        ({"most_kl": 0}, "--most-kl 0"),
        ({"magnitudes": [-1]}, "--magnitudes -1"),
        ({"magnitudes": ["a"]}, "--magnitudes 'a'"),
        ({"magnitudes": []}, "--magnitudes names none"),
        ({"maximise": "all"}, "--maximise all"),
        ({"controls": -1}, "--controls -1"),
        ({"method": "none"}, "method=none"),
        ({"settings": {"speed": 2}}, "speed is not a setting"),
        ({"target": "gardening"}, "target=gardening"),
        ({"choices": "gardening"}, "gardening"),
        ({"dtyp": "float32"}, "dtyp is not an option"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_loads(
    options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(module, "shared_engine", refuse)
    with pytest.raises(SteeringError, match=words.replace("(", r"\(")) as error:
        search("toy", **{"logs": tmp_path, **options})
    assert "\n" not in str(error.value)


def test_no_point_within_the_bound_is_an_error(result: SearchResult) -> None:
    with pytest.raises(SteeringError, match="no point of mean_difference"):
        search("toy", "medical", logs=result.folder, **QUICK | {"most_kl": 1e-9})


def test_no_theme_is_both_chosen_on_and_reported_on() -> None:
    rows = [AnswerRow(theme, (number,), ((1,), (2,))) for theme in "abc" for number in range(3)]
    choose, report = split_by_theme("own", rows)
    assert {*choose.themes} == {"a", "c"}
    assert {*report.themes} == {"b"}
    assert len(choose.rows) + len(report.rows) == len(rows)


@pytest.mark.parametrize("has_map", [False, True])
def test_a_scaled_vector_does_what_its_magnitude_did(has_map: bool) -> None:
    torch.manual_seed(0)
    vector = SteeringVector(torch.randn(1, 2, 8), (1,), "resid_post", (3.0,))
    if has_map:
        maps = LowRankMap(torch.randn(1, 2, 8), torch.randn(1, 2), (1.5,))
        vector = replace(vector, map=maps)
    hidden = torch.randn(1, 4, 8)

    def added(item: Any) -> torch.Tensor:
        parts = [None if part is None else part[None] for part in (item.reads, item.offsets)]
        return change("add", hidden, item.basis[None], torch.tensor([item.amount]), *parts)

    [once], [folded] = resolve(vector, magnitude=1.7), resolve(vector.scaled(1.7))
    assert folded.amount == 1
    torch.testing.assert_close(added(folded), added(once))
    assert vector.scaled(1.7).lengths == pytest.approx([1.7 * vector.lengths[0]])
