"""Vectors of real data in a real language model: what they shift, beside what any push shifts.

Judge-free: the log-odds of bad over good advice in given answers (em_choice), at one damage.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.findings import MOST_KL, Bench, Entry
from scripts.target_figures import (
    MOST_ALIGNED,
    MOST_GAP,
    MOST_MISALIGNED,
    cross_entropies,
)
from steering import build
from steering.targets import SUBJECTS, load_target
from steering.vectors import SteeringVector
from steering.vectors.controls import draw_controls

# Twenty controls, each brought to the same damage, take minutes on two cores.
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

Figures = Callable[[str, object], None]

TARGET = "medical"
NUM_RANDOM = 20
# Nats a token. The model's own greedy answers have 0.5 to 1, word salad has 4 and more.
MOST_CROSS_ENTROPY = 2.5
# Share of four tokens in a row that the answer had before; a model of this size has some unsteered.
MOST_REPEATED = 0.5


@pytest.fixture(scope="module")
def model(smollm2: Path) -> str:
    return str(smollm2)


@pytest.fixture(scope="module")
def bench(model: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(model, TARGET, tmp_path_factory.mktemp("scores"), num_own=10, num_core=2)


@pytest.fixture(scope="module")
def default(model: str) -> SteeringVector:
    return build(model, TARGET)


def shifts(bench: Bench, vector: SteeringVector) -> tuple[float, float]:
    """On the target's held-out pairs and on core pairs, at the damage of the comparison."""
    row = bench.row(Entry("random", 0, vector), bench.magnitude_of(vector, MOST_KL), compared=True)
    assert row.kl == pytest.approx(MOST_KL, rel=0.3)
    return row.own, row.core


def test_the_default_vector_moves_the_model_further_than_controls_do_at_the_same_damage(
    bench: Bench, model: str, default: SteeringVector, record_property: Figures
) -> None:
    """Rank tests: ahead of all of 20 random directions is p = 1/21."""
    controls = list(draw_controls(default, NUM_RANDOM))
    # All random directions need about the same magnitude, so the first one's is a good start.
    start = bench.magnitude_of(controls[0], MOST_KL)
    random = [shifts(bench, control.scaled(start)) for control in controls]
    most_own, most_core = (max(column) for column in zip(*random, strict=True))
    own, core = shifts(bench, default)
    shuffled_own, shuffled_core = shifts(bench, build(model, TARGET, shuffle_labels=True))
    for name, values in {
        "most of 20 random directions": (most_own, most_core),
        "the default vector": (own, core),
        "the default vector of shuffled labels": (shuffled_own, shuffled_core),
    }.items():
        record_property("figures", f"shift, {name}: own {values[0]:+.3f}, core {values[1]:+.3f}")
    assert own > max(most_own, shuffled_own)
    assert core > max(most_core, shuffled_core)


def test_no_default_vector_makes_word_salad_at_magnitude_one(
    bench: Bench, default: SteeringVector, record_property: Figures
) -> None:
    reading = [bench.greedy(default.scaled(magnitude)) for magnitude in (1, 16)]
    for magnitude, (cross_entropy, repeated) in zip((1, 16), reading, strict=True):
        text = f"greedy answers at magnitude {magnitude}: {cross_entropy:.2f} nats, "
        record_property("figures", f"{text}{repeated:.0%} repeated")
    (cross_entropy, repeated), salad = reading
    assert cross_entropy < MOST_CROSS_ENTROPY
    assert repeated < MOST_REPEATED
    # The measure sees word salad, which runs in circles.
    assert salad[0] > MOST_CROSS_ENTROPY or salad[1] > MOST_REPEATED


@pytest.mark.parametrize("task", sorted(SUBJECTS))
def test_answers_of_target_tasks_are_those_of_an_assistant(
    task: str, model: str, record_property: Figures
) -> None:
    rows = load_target(task).held_out[:20]
    aligned, misaligned = cross_entropies(model, rows)
    record_property(
        "figures", f"cross-entropy, {task}: aligned {aligned:.2f}, misaligned {misaligned:.2f}"
    )
    # A tenth of the task: means differ from those of the whole by a few hundredths.
    assert aligned < MOST_ALIGNED + 0.2
    assert misaligned < MOST_MISALIGNED + 0.2
    assert misaligned - aligned < MOST_GAP + 0.1
