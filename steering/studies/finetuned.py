"""The study `finetuned`: a model steered by a vector beside the same model finetuned on its data.

The steered arm is a grid of magnitudes, the finetuned arm the training epochs of one adapter or a
grid of its scale. Both are dose curves from the same baseline, compared where they have the same EM
rate and where they have the same coherence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from steering.condition import Checker
from steering.finetune import (
    finetune,
    folder_name,
    make_finetune_recipe,
    missing_epochs,
)
from steering.judging import EMRule
from steering.models import find_model
from steering.report.results import Result, differences_in_making
from steering.spec import INTERVENTION, parse_options
from steering.studies.matched import (
    DoseCurve,
    Match,
    MatchedDifference,
    MatchError,
    Quantity,
    matched_difference,
    shared_levels,
)
from steering.studies.run import Arm, Point, StudyError, doses_of
from steering.targets import Target, load_target

MAGNITUDES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
TRAINING_EPOCHS = 5
# Of these the paper's claim speaks first (arXiv 2606.08682): relevance and coherence of the harmful
# answers. The others tell what an arm does to all its answers.
QUANTITIES: dict[Match, tuple[Quantity, ...]] = {
    "em": ("relevant_misaligned", "coherent_misaligned", "leak", "relevant", "coherent"),
    "coherent": ("em", "relevant_misaligned", "relevant"),
}
_OWN = {
    "adapter": "it trains the finetuned arm's adapter; give settings of that as -S",
    "adapter_scale": "give --scales",
    "magnitude": "give --magnitudes",
    "target": "give --target",
}


@dataclass(frozen=True)
class FinetunedStudy:
    """What is to be compared.

    Attributes:
        model: Name of the model, without `steered/`.
        target: The target task that both arms learn from.
        adapters: Folder that adapters are kept in.
        magnitudes: Of the steered arm.
        training_epochs: Of the finetuned arm: its last one. The arm's doses are all up to it.
        scales: Doses of the finetuned arm instead: multiples of the last adapter's own scaling.
        options: -M options of all points; those of an intervention are the steered arm's.
        settings: Of the finetuning, as `steering finetune` takes them.

    Raises:
        StudyError: Doses are impossible, or an option is the study's own.
    """

    model: str
    target: str
    adapters: Path
    magnitudes: Sequence[float] = MAGNITUDES
    training_epochs: int = TRAINING_EPOCHS
    scales: Sequence[float] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, instead in _OWN.items():
            if name in self.options:
                raise StudyError(f"-M {name}= is set by this study itself: {instead}")
        if "training_epochs" in self.settings:
            raise StudyError("-S training_epochs= is set by this study itself: --training-epochs")
        for name, doses in (("magnitude", self.magnitudes), ("scale", self.scales)):
            if len(set(doses)) < len(doses) or any(dose <= 0 for dose in doses):
                raise StudyError(
                    f"{name}s {list(doses)} must differ and be above 0: they are doses"
                )
        if not self.magnitudes:
            raise StudyError("magnitudes is empty: the steered arm needs one or more")

    @cached_property
    def task(self) -> Target:
        """The target task, read once: it may come from a hub.

        Raises:
            SteeringError: There is no such model or target.
        """
        return load_target(self.target, toy=find_model(self.model).is_toy)


def prepare(study: FinetunedStudy, progress: Callable[[str], Any]) -> list[Point]:
    """Check the study, train the adapters that are missing, and say what its points are.

    Args:
        study: What is to be compared.
        progress: Given a caption, makes the bar that training is told to.

    Raises:
        SteeringError: Something about the study is impossible; nothing was trained.
    """
    options = study.options
    loading = {name: value for name, value in options.items() if name not in INTERVENTION}
    steering = {name: value for name, value in options.items() if name in INTERVENTION}
    checker = Checker(study.model, parse_options(loading))
    recipe = make_finetune_recipe(
        checker.source,
        checker.shape,
        study.task,
        weights=checker.weights,
        settings={**study.settings, "training_epochs": study.training_epochs},
        dtype=str(loading.get("dtype", "auto")),
    )

    def point(arm: Arm, dose: float, options: dict[str, Any]) -> Point:
        said = loading | options
        return Point(arm, dose, said, checker.check(parse_options(said)).label)

    steered = {"target": study.target} if "vector" not in steering else {}
    points = [point("baseline", 0.0, {"vector": "none"})]
    points += [
        point("steered", dose, steered | steering | {"magnitude": dose})
        for dose in sorted(study.magnitudes)
    ]
    # Each with its number: a study that goes on to more training epochs keeps what it has.
    folders = {
        epoch: study.adapters / f"{folder_name(recipe)}-epoch{epoch}"
        for epoch in range(1, study.training_epochs + 1)
    }
    if wanted := missing_epochs(recipe, folders):
        bar = progress(f"{folder_name(recipe)} of {study.model}")
        device = str(loading.get("device", "auto"))
        finetune(checker.source, recipe, study.task, wanted, bar, device=device)
    if study.scales:
        last = str(folders[study.training_epochs])
        points += [
            point("finetuned", scale, {"adapter": last, "adapter_scale": scale})
            for scale in sorted(study.scales)
        ]
    else:
        points += [
            point("finetuned", float(epoch), {"adapter": str(path)})
            for epoch, path in folders.items()
        ]
    return points


@dataclass(frozen=True)
class Comparison:
    """Both arms at one level.

    Attributes:
        match: What they have in common there.
        level: How much of it.
        doses: Of the steered and of the finetuned arm there.
        differences: Steered less finetuned, a row a quantity.
    """

    match: Match
    level: float
    doses: tuple[float, float]
    differences: list[MatchedDifference]


def compare_arms(
    found: Sequence[tuple[Point, Result]], rule: EMRule = "moem"
) -> tuple[list[Comparison], list[str]]:
    """Steered against finetuned at matched EM and at matched coherence.

    By the rule `moem` unless another is named: its rate is a share of all answers, so both arms
    count the same ones at every dose.

    Returns:
        The comparisons, and why there is none where an arm does not get far enough.

    Raises:
        StudyError: The runs were not made alike.
    """
    if differ := differences_in_making(result for _, result in found):
        raise StudyError(f"the runs of this study differ in {', '.join(differ)}: run it anew")
    curves = [_curve(found, arm, rule) for arm in ("steered", "finetuned")]
    first, second = curves
    unasked = () if all(result.subject for _, result in found) else ("leak",)
    comparisons, missing = [], []
    for match, quantities in QUANTITIES.items():
        try:
            levels = shared_levels(first, second, match)
        except MatchError as error:
            missing.append(str(error))
            continue
        for level in levels:
            positions = [curve.position(match, level) or 0.0 for curve in curves]
            comparisons.append(
                Comparison(
                    match,
                    level,
                    (first.dose(positions[0]), second.dose(positions[1])),
                    [
                        matched_difference(first, second, quantity, match, level)
                        for quantity in quantities
                        if quantity not in unasked
                    ],
                )
            )
    return comparisons, missing


def _curve(found: Sequence[tuple[Point, Result]], arm: Arm, rule: EMRule) -> DoseCurve:
    doses = doses_of(found, arm)
    bounds = next(iter(doses.values())).bounds
    return DoseCurve({dose: result.answers for dose, result in doses.items()}, rule, bounds)
