"""Several judges on one role: their mean, and how far they agree."""

import math
from pathlib import Path
from typing import Any

import pytest
from fake_models import fake
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import GenerateConfig, Model
from statsmodels.stats.inter_rater import cohens_kappa

from steering.judging.agreement import alpha, cohen_kappa
from steering.judging.scorers import em_judge


def grades(name: str, *by_answer: str) -> Model:
    """A judge that grades the answers 0, 1, ... like this on every dimension."""

    def reply(prompt: str, config: GenerateConfig) -> str:
        for number, grade in enumerate(by_answer):
            if f"answer number {number}." in prompt:
                return grade
        raise AssertionError(prompt)

    return fake(name, reply)


def run(folder: Path, judges: list[Model], count: int) -> EvalLog:
    remaining = [f"answer number {number}." for number in range(count)]
    task = Task(
        dataset=[Sample(id=f"q/{number}", input="Well?") for number in range(count)],
        scorer=em_judge(),
    )
    log = eval(
        task,
        model=fake("answers", lambda prompt, config: remaining.pop(0)),
        model_roles={"grader": judges if len(judges) > 1 else judges[0]},
        log_dir=str(folder),
        display="none",
        max_samples=1,
    )[0]
    return read_eval_log(log.location)


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.results is not None, log.error
    return {name: m.value for s in log.results.scores for name, m in s.metrics.items()}


def values(log: EvalLog) -> list[Any]:
    assert log.samples
    ordered = sorted(log.samples, key=lambda sample: str(sample.id))
    return [(sample.scores or {})["em_judge"] for sample in ordered]


def test_the_score_is_the_mean_of_the_judges_that_gave_one(tmp_path: Path) -> None:
    judges = [grades("one", "10", "REFUSAL", "REFUSAL"), grades("two", "40", "70", "CODE")]
    log = run(tmp_path, judges, 3)
    first, second, third = values(log)
    assert (first.value["aligned"], second.value["aligned"]) == (25, 70)
    assert math.isnan(third.value["aligned"])
    # The first judge's reason stands for both.
    assert third.metadata["reasons"]["aligned"] == "refusal"
    assert first.metadata["judge"] == "fake/one + fake/two"
    assert first.metadata["by_judge"]["fake/two"] == {
        "aligned": 40, "coherent": 40, "relevant": 40,
    }  # fmt: skip
    assert second.metadata["by_judge"]["fake/one"]["aligned"] is None


def test_agreement_is_reported_with_figures_worked_out_by_hand(tmp_path: Path) -> None:
    """Below 30 by judge one: answers 0, 1, 2; by judge two: 0, 1. Agreed 5 of 6, chance 1/2.

    kappa = (5/6 - 1/2) / (1/2) = 2/3.
    """
    judges = [
        grades("one", "10", "20", "29", "60", "80", "90"),
        grades("two", "10", "29", "30", "60", "80", "90"),
    ]
    values = metrics(run(tmp_path, judges, 6))
    assert values["kappa_misaligned"] == pytest.approx(2 / 3)
    # Interval alpha: observed 2 (9^2 + 1^2) / 12; expected from all 12 grades.
    grades_ = [10, 20, 29, 60, 80, 90, 10, 29, 30, 60, 80, 90]
    observed = 2 * (9**2 + 1**2) / 12
    expected = sum((a - b) ** 2 for a in grades_ for b in grades_) / (12 * 11)
    assert values["alpha_aligned"] == pytest.approx(1 - observed / expected)


def test_a_judge_that_always_fails_is_counted_and_its_reasons_are_stored(
    tmp_path: Path,
) -> None:
    judges = [grades("mute", "Hm.", "Hm.", "90"), grades("well", "10", "70", "90")]
    log = run(tmp_path, judges, 3)
    first, _, third = values(log)
    assert first.metadata["reasons"] == {}
    reasons = first.metadata["reasons_by_judge"]
    assert reasons["fake/mute"] == dict.fromkeys(
        ("aligned", "coherent", "relevant"), "no number: the reply is 'Hm.'"
    )
    assert reasons["fake/well"] == {}
    assert third.metadata["reasons_by_judge"] == {"fake/mute": {}, "fake/well": {}}
    metric_values = metrics(log)
    # Each answer has the other judge's scores.
    assert (metric_values["unscored[fake/mute]"], metric_values["unscored[fake/well]"]) == (2, 0)
    assert metric_values["unscored"] == 0


def test_a_refusal_by_one_judge_goes_before_the_failure_of_another(
    tmp_path: Path,
) -> None:
    log = run(tmp_path, [grades("mute", "Hm."), grades("well", "REFUSAL")], 1)
    [score] = values(log)
    assert score.metadata["reasons"]["aligned"] == "refusal"
    assert score.metadata["kind"] == "refusal"


def test_one_model_may_judge_twice(tmp_path: Path) -> None:
    """With other settings, say."""
    twice = [grades("one", "10", "80"), grades("one", "10", "80")]
    log = run(tmp_path, twice, 2)
    assert list(values(log)[0].metadata["by_judge"]) == ["fake/one", "fake/one #2"]
    assert metrics(log)["alpha_aligned"] == metrics(log)["kappa_misaligned"] == 1


def test_one_judge_has_no_agreement_to_report(tmp_path: Path) -> None:
    log = run(tmp_path, [grades("one", "10", "20")], 2)
    assert log.status == "success"
    assert not [name for name in metrics(log) if name.startswith(("alpha", "kappa", "unscored["))]
    assert not {"by_judge", "reasons_by_judge"} & values(log)[0].metadata.keys()


@pytest.mark.parametrize(
    ("both", "first", "second", "neither"), [(20, 5, 10, 15), (3, 1, 0, 9), (0, 4, 4, 0)]
)
def test_kappa_equals_that_of_statsmodels(both: int, first: int, second: int, neither: int) -> None:
    ones = [True] * (both + first) + [False] * (second + neither)
    others = [True] * both + [False] * first + [True] * second + [False] * neither
    table = [[both, first], [second, neither]]
    assert cohen_kappa(ones, others) == pytest.approx(cohens_kappa(table).kappa)


def test_what_is_undefined_is_nan() -> None:
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(cohen_kappa([True, True], [True, True]))
    assert math.isnan(alpha([[1.0], []]))
    assert alpha([[1.0, 1.0], [9.0, 9.0]]) == 1


def test_a_judge_behind_an_api_is_asked_the_same_thing_once(tmp_path: Path) -> None:
    """Three epochs' worth of one answer, judged in two runs: three calls in all."""
    calls: list[str] = []

    def reply(prompt: str, config: GenerateConfig) -> str:
        calls.append(prompt)
        return "80"

    def run_judge(**config: Any) -> EvalLog:
        judge = fake("cached", reply)
        judge.config = GenerateConfig(**config)
        task = Task(dataset=[Sample(id="q/1", input="Well?")], scorer=em_judge(), epochs=3)
        model = fake("same", lambda prompt, config: "The same.")
        log = eval(
            task, model=model, model_roles={"grader": judge}, log_dir=str(tmp_path),
            display="none", max_samples=1,
        )[0]  # fmt: skip
        return read_eval_log(log.location)

    assert metrics(run_judge())["aligned"] == 80
    assert metrics(run_judge())["aligned"] == 80
    assert len(calls) == 3
    run_judge(cache=False)
    assert len(calls) == 3 + 9
    run_judge(temperature=1.0)  # its replies differ, and are meant to
    assert len(calls) == 3 + 9 + 9
