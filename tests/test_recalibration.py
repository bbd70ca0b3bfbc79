"""A judge's scores mapped to labels: only where it is asked for, by its own calibration."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_models import REPLIES, fake
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog

from steering.judging.calibration.record import (
    CalibrationRecord,
    RecordRow,
    read_record,
    write_record,
)
from steering.judging.errors import JudgingError
from steering.judging.recalibration import load_recalibration, recalibrated
from steering.judging.rubric import DIMENSIONS, SCORE_OF, load_rubric
from steering.judging.scorers import em_judge
from steering.results.corrections import correction_of

JUDGE = "fake/halves"
RUBRICS = {SCORE_OF[d]: load_rubric(d).sha256[:12] for d in DIMENSIONS}


def row(number: int, split: str, label: float | str, score: float | None) -> RecordRow:
    labels, scores = dict.fromkeys(SCORE_OF.values(), label), dict.fromkeys(RUBRICS, score)
    return RecordRow(
        id=f"{split} {number}", kind="aligned", split=split, source="written", theme="t",
        labels=labels, scores=scores, reasons={},
    )  # fmt: skip


def record(
    judge: str = JUDGE, choose: int = 25, rubrics: dict[str, str] = RUBRICS, day: int = 29
) -> Path:
    """Of a judge that says half of the label; on the test split, which teaches nothing, 0."""
    rows = [row(i, "choose", 4.0 * i, 2.0 * i) for i in range(choose)]
    rows += [row(i, "test", 100, 0) for i in range(40)]
    rows += [row(99, "choose", "CODE", 50), row(98, "choose", 90, None)]
    return write_record(
        CalibrationRecord(
            judge=judge, settings="", sampling="", rubrics=json.dumps(rubrics), pairs="core",
            pairs_sha256="ab" * 32, is_whole=True, at=f"2026-11-{day}", log="log.eval", rows=rows,
        )
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERING_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def judged(recalibrate: Path | None, reply: Callable[[str], str] = lambda _: "20") -> EvalLog:
    """A run of one sample, judged by a fake."""
    REPLIES["halves"] = lambda prompt, config: reply(prompt)
    REPLIES["tested"] = lambda prompt, config: "An answer."
    task = Task(
        dataset=MemoryDataset([Sample(id="q", input="Why?")]),
        scorer=em_judge(recalibrate=str(recalibrate) if recalibrate else None),
    )
    [log] = eval(task, model=fake("tested"), model_roles={"grader": fake("halves")}, display="none")
    return log


def test_scores_are_mapped_only_where_it_is_asked_for_and_the_judge_says_so() -> None:
    path = record()
    [plain] = judged(None).samples or []
    [mapped] = judged(path).samples or []
    raw, score = plain.scores["em_judge"], mapped.scores["em_judge"]  # type: ignore[index]
    keys = ("aligned", "coherent", "relevant")
    assert {key: raw.value[key] for key in keys} == dict.fromkeys(keys, 20)
    assert {key: score.value[key] for key in keys} == dict.fromkeys(keys, 40)
    assert score.metadata["raw_scores"] == dict.fromkeys(keys, 20)
    assert raw.metadata["judge"] == JUDGE
    assert score.metadata["judge"].startswith(f"{JUDGE} recalibrated by core@abababababab record ")
    assert "raw_scores" not in raw.metadata


def test_an_answer_without_a_score_gets_none() -> None:
    [sample] = judged(record(), lambda p: "CODE" if "alignment" in p[:30] else "nothing").samples
    score = sample.scores["em_judge"]
    assert score.metadata["reasons"]["aligned"] == "code"
    assert score.metadata["raw_scores"] == {"aligned": None, "coherent": None, "relevant": None}
    assert all(value != value for value in score.value.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge": "fake/other"}, "is of the judge fake/other, and fake/halves judges"),
        ({"rubrics": RUBRICS | {"aligned": "0" * 12}}, "is of other rubrics"),
    ],
)
def test_another_judges_calibration_is_refused(options: dict, message: str) -> None:
    log = judged(record(**options))
    assert log.status == "error"
    assert message in log.error.message  # type: ignore[union-attr]


def test_rates_of_a_recalibrated_judge_are_corrected_by_its_mapped_calibration() -> None:
    path = record()
    [sample] = judged(path).samples or []
    name = sample.scores["em_judge"].metadata["judge"]  # type: ignore[index]
    columns = {
        "model": "m",
        "judge": name,
        "judge_settings": "",
        "judge_sampling": "",
        "rubrics": json.dumps(RUBRICS),
    }
    correction = correction_of(columns)
    mapped = recalibrated(read_record(path))
    assert correction.record == mapped
    assert [row.scores["aligned"] for row in mapped.rows[:3]] == [0, 4, 8]
    assert mapped.rows[-2].scores["aligned"] == 96  # beyond the last score it stays level
    # A calibration made since then teaches other maps.
    record(choose=30, day=30)
    assert "is not stored here" in correction_of(columns).missing


def test_too_few_pairs_teach_nothing() -> None:
    with pytest.raises(JudgingError, match=r"has 19 pairs of the split choose .* 20 are needed"):
        load_recalibration(str(record(choose=19)))


def test_a_file_that_is_no_calibration_is_refused_before_the_run(tmp_path: Path) -> None:
    for name, text in [("none.json", None), ("other.json", '{"a": 1}')]:
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(JudgingError, match=name):
            em_judge(recalibrate=str(tmp_path / name))
    with pytest.raises(JudgingError, match=r"^recalibrate=nothere.json is no file: .*calibrate"):
        em_judge(recalibrate="nothere.json")
    (tmp_path / "empty.json").touch()
    with pytest.raises(JudgingError, match=r"^recalibrate=empty.json is empty"):
        em_judge(recalibrate="empty.json")
