"""`steering monitor`: which answers count, within which conditions, and what a page shows."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from inspect_ai import eval
from inspect_ai.model import get_model
from made_answers import condition, frame
from scipy.stats import mannwhitneyu
from shell import REPO

from steering.errors import SteeringError
from steering.models import find_model, read_shape
from steering.reports.monitor import monitor, monitor_part
from steering.results import ResultError, read_answers
from steering.results.monitor_figures import POOLED, monitor_results
from steering.results.readings import READING_SCHEMA, read_readings, read_token_lines
from steering.vectors import SteeringVector

LIMIT = 8


def readings(answers: pd.DataFrame, seed: int = 0, lift: float = 1.0) -> pd.DataFrame:
    """Readings of made answers on one direction, higher by `lift` where they are misaligned."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=len(answers)) + lift * (answers["em_betley"] == 1)
    facts: dict[str, Any] = {
        "direction": "medical",
        "direction_layer": 2,
        "direction_site": "resid_post",
        "steers": answers["arm"] == "steered",
        "tokens_read": 9,
        "projection_before": values,
        # What was added tells conditions apart, and within a condition nothing.
        "projection": values + 50.0 * (answers["arm"] == "steered"),
    }
    columns = {name: facts.get(name, answers.get(name, 0.5)) for name in READING_SCHEMA.columns}
    return pd.DataFrame(columns, index=answers.index)


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    return frame(
        condition("baseline", [0.1] * 10, samples=20, questions=10),
        condition("medical x1", [0.5] * 10, samples=20, questions=10),
        condition("medical x2", 0.3, magnitude=2.0, coherent=40.0),
        monitor="medical L2 resid_post",
    )


def test_each_condition_has_the_area_of_its_own_answers(answers: pd.DataFrame) -> None:
    read = readings(answers)
    baseline, steered, incoherent, pooled = monitor_results(answers, read)
    for result, label in ((baseline, "baseline"), (steered, "medical x1")):
        rows = read[read["label"] == label]
        bad = rows["em_betley"] == 1
        u = mannwhitneyu(rows["projection_before"][bad], rows["projection_before"][~bad]).statistic
        expected = u / (bad.sum() * (~bad).sum())
        assert result.separation().auroc == pytest.approx(expected, abs=1e-12)
        # A constant that was added changes nothing within a condition.
        assert result.separation("projection").auroc == pytest.approx(expected, abs=1e-12)
        figures = result.figures()
        assert (figures["misaligned"], figures["others"]) == (bad.sum(), (~bad).sum())
        assert 0 <= figures["caught_low"] <= figures["caught"] <= figures["caught_high"] <= 1
        assert figures["false_alarms"] < 0.15
    assert (incoherent.left_out, len(incoherent.rows)) == (160, 0)
    # Pooled, what was added says which answers are of the condition with more misaligned ones.
    assert pooled.name == POOLED
    assert pooled.separation("projection").auroc > baseline.separation().auroc


def test_with_too_few_answers_of_a_kind_nothing_is_said() -> None:
    few = frame(condition("medical x1", [0.1] * 5, samples=10, questions=5))
    [result] = monitor_results(few.assign(monitor="m"), readings(few, lift=9))
    assert result.note == "not enough misaligned answers: 5 of at least 10"
    figures = result.figures()
    assert math.isnan(figures["auroc_projection_before"])
    assert math.isnan(figures["caught"])
    one = frame(condition("medical x1", [1.0, 0.5, 0.5, 0, 0, 0], samples=20, questions=6))
    [result] = monitor_results(one.assign(monitor="m"), readings(one, lift=9))
    assert result.note == "misaligned answers in too few themes: 3 of at least 5"


def test_conditions_without_figures_have_none_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has 8 misaligned answers; pooled they have 16, which tell the conditions apart only."""
    few = frame(
        condition("baseline", [0.1] * 8, samples=10),
        condition("medical x1", [0.1] * 8, samples=10),
        monitor="medical L2 resid_post",
    )
    assert [result.name for result in monitor_results(few, readings(few))] == [
        "toy[baseline]",
        "toy[medical x1]",
    ]
    # One condition with figures has none to be pooled with.
    one = few[few["label"] == "baseline"]
    more = frame(one, condition("medical x1", [0.5] * 8), monitor="medical L2 resid_post")
    assert POOLED not in [result.name for result in monitor_results(more, readings(more))]
    monkeypatch.setattr("steering.reports.monitor.read_answers", lambda logs: few)
    monkeypatch.setattr("steering.reports.monitor.readings_of", readings)
    with pytest.raises(ResultError, match="no condition has enough answers of both kinds"):
        monitor(tmp_path, tmp_path / "out")


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few answers of the toy, unsteered, monitored on random directions."""
    folder = tmp_path_factory.mktemp("monitored")
    width = read_shape(find_model("toy")).width
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2, 1, width, generator=generator)
    vector = folder / "random.safetensors"
    SteeringVector(directions=directions, layers=(1, 3), site="resid_post").save(vector)
    options = {"vector": "none", "monitor": str(vector), "monitor_tokens": True}
    [log] = eval(
        f"{REPO}/evals/em_freeform.py@em_freeform",
        model=get_model("steered/toy", memoize=False, **options),
        epochs=1,
        limit=LIMIT,
        seed=1,
        log_dir=str(folder / "logs"),
        display="none",
    )
    assert log.status == "success", log.error
    return folder / "logs"


def test_the_frame_has_what_the_log_holds(log_dir: Path) -> None:
    read = read_readings(log_dir)
    answers = read_answers(log_dir)
    assert len(answers) == LIMIT
    assert len(read) == 2 * LIMIT
    assert sorted(read["direction_layer"].unique()) == [1, 3]
    assert answers["monitor"].str.fullmatch(r"random-\w{6} L1 resid_post").all()
    first = read[read["direction_layer"] == 1].set_index("sample").sort_index()
    by_sample = answers.set_index("sample").sort_index()
    assert (first["projection"] == by_sample["projection"]).all()
    assert (first["projection"] == first["projection_before"]).all()
    for (_, sample, _), line in read_token_lines(answers).items():
        assert len(line) == first.loc[sample, "tokens_read"]
        mean = sum(value for _, value in line) / len(line)
        assert mean == pytest.approx(first.loc[sample, "projection"], rel=1e-3)
        assert by_sample.loc[sample, "answer"].startswith(line[0][0])


def test_the_page_shows_the_monitor_and_its_tokens(
    log_dir: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, out, _ = run("report", log_dir, "--out", tmp_path)
    assert status == 0, out
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'id="monitor"' in page
    assert "not enough misaligned answers: 0 of at least 10" in page
    data = page.split('id="examples">')[1].split("</script>")[0]
    examples = json.loads(data)
    assert all(len(example["tokens"]) > 1 for example in examples)
    assert "## Monitor" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_command_writes_tables_and_ends_with_1_where_it_can_say_nothing(
    log_dir: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, out, err = run("monitor", log_dir, "--out", tmp_path)
    assert status == 1
    assert "not enough misaligned answers: 0" in " ".join(out.split())
    assert "no condition has enough answers of both kinds" in err
    table = pd.read_csv(tmp_path / "monitor.csv")
    assert list(table["others"] + table["left_out"]) == [LIMIT, LIMIT]
    assert len(pd.read_csv(tmp_path / "readings.csv")) == 2 * LIMIT


def test_what_can_not_be_said_is_refused(log_dir: Path, toy_logs: Any, run_folder: Path) -> None:
    with pytest.raises(ResultError, match=r"no answer here was monitored.*-M monitor=default"):
        monitor(run_folder / "toy-logs" / "baseline")
    with pytest.raises(SteeringError, match=r"rule=none is not known: use betley or moem"):
        monitor(log_dir, rule="none")
    with pytest.raises(SteeringError, match=r"false alarms of 1 are not allowed"):
        monitor(log_dir, false_alarms=1)


def test_a_report_without_a_monitor_has_no_part_of_it(answers: pd.DataFrame) -> None:
    assert monitor_part(answers.assign(monitor="")) is None
