"""The plan of an audit: its blocks, and what it says of its power before anything is run."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from steering.cli import commands
from steering.studies.audit_plan import AuditPlan, make_plan
from steering.studies.errors import StudyError
from steering.studies.eval_sets import EvalOptions, load_task
from steering.vectors import SteeringVector
from steering.vectors.formats import write_vector


def _plan(*names: str, samples: int | None = None, max_em: float = 0.05) -> AuditPlan:
    asked = [(name, load_task(EvalOptions({"questions": name}))) for name in names]
    return make_plan(asked, samples, max_em)


def test_the_default_plan_asks_every_theme_equally_often() -> None:
    plan = _plan("core", "broad")
    assert (len(plan.themes), len(set(plan.groups))) == (64, 9)
    assert (plan.samples, plan.blocks) == (15, 4)
    # Five wordings in core and three in broad.
    assert set(plan.numbers.tolist()) == {15}


def test_the_default_plan_has_the_power_that_it_is_for() -> None:
    plan = _plan("core", "broad")
    assert plan.power(0.05) >= 0.9
    assert plan.power(0.5, plan.cells.group_places[0]) >= 0.9
    these, like_these = plan.best_bounds()
    assert these < 0.015
    # About 3 / 64, a little more for four looks.
    assert 0.045 < like_these < 0.08
    assert not any("under-powered" in line for line in plan.lines(0.05))


def test_a_set_in_contexts_has_a_stated_share_and_the_power_that_it_is_for() -> None:
    args = {"questions": "core", "contexts": "all", "context_domain": "medical"}
    plan = make_plan([("core", load_task(EvalOptions(args)))], None, 0.05)
    contexts = [place.name for place in plan.cells.context_places]
    assert {"json", "system", "examples", "second_turn"} <= set(contexts)
    # Each question as often in every context as plain.
    assert plan.context_share == pytest.approx(len(contexts) / (len(contexts) + 1))
    assert set(plan.numbers.tolist()) == {plan.samples}
    assert plan.power(0.2, plan.cells.context_places[0]) >= 0.9
    assert any(
        "of the answers are in" in line and "second_turn" in line for line in plan.lines(0.05)
    )


@pytest.mark.parametrize(
    ("names", "samples", "expected"),
    [
        (["core"], 5, (5, 1)),
        (["core"], 1, (5, 1)),
        (["core"], 20, (5, 4)),
        (["core"], 25, (10, 3)),
        (["core", "broad"], 5, (15, 1)),
        (["core", "broad"], 60, (15, 4)),
    ],
)
def test_samples_are_rounded_up_to_blocks_of_whole_wordings(
    names: list[str], samples: int, expected: tuple[int, int]
) -> None:
    plan = _plan(*names, samples=samples)
    assert (plan.samples, plan.blocks) == expected
    assert plan.samples * plan.blocks >= samples


def test_a_smaller_bound_needs_larger_blocks() -> None:
    plan = _plan("core", "broad", max_em=0.02)
    smallest = min(plan.groups.count(group) for group in set(plan.groups))
    # None of so many bounds the rate below 2% with the first look's error.
    assert plan.samples * smallest > np.log(0.01) / np.log(1 - 0.02) > 15 * smallest


def test_a_theme_of_several_formats_is_one_theme() -> None:
    plan = _plan("core_formats", samples=5)
    assert set(plan.numbers.tolist()) == {10}


def test_sets_that_share_a_theme_are_refused_since_it_would_count_as_two() -> None:
    with pytest.raises(StudyError, match=r"core and core_formats share the theme '\w+'.*other ids"):
        _plan("core", "core_formats")


def test_a_single_theme_that_can_never_count_is_said_so() -> None:
    plan = AuditPlan(["a", "b"], ["g", "g"], np.array([2, 2]), 2, 1)
    assert plan.single_theme() is None
    assert "A single theme can't be told from chance" in " ".join(plan.lines(0.05))


def test_a_dry_run_tells_the_power_and_warns_of_a_plan_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    write_vector(
        SteeringVector(torch.ones(1, 1, 128), (0,), "resid_post"), Path("mine.safetensors")
    )
    command = ["audit", "mine.safetensors", "--model", "toy", "--dry-run"]
    few = CliRunner().invoke(
        commands, [*command, "--questions", "core", "-T", "samples_per_question=5"]
    )
    assert few.exit_code == 0, few.exception
    assert "Plan: 8 themes; each condition answers each question 5 times in one block" in few.output
    assert "it finds EM 5.0% everywhere in" in few.output
    assert "WARNING: this plan is under-powered" in few.output
    whole = CliRunner().invoke(commands, command)
    assert "in up to 4 blocks; the audit stops after the first block that decides" in whole.output
    assert "under-powered" not in whole.output
