"""The study `finetuned`: a model steered by a vector beside the same model finetuned on its data.

The steered arm is a grid of magnitudes, the finetuned arm the training epochs of one adapter or a
grid of its scale. Both are dose curves from the same baseline, compared where they have the same EM
rate and where they have the same coherence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from steering.condition import resolve_condition, resolve_model
from steering.judging import EMRule, Thresholds
from steering.models import find_model
from steering.results import judged_answers
from steering.spec import INTERVENTION, parse_options
from steering.studies.dose_matching import (
    DoseCurve,
    Match,
    MatchedDifference,
    MatchError,
    Quantity,
    matched_difference,
    shared_levels,
)
from steering.studies.grid import Point, StudyError
from steering.targets import Target, load_target
from steering.training.finetune import missing_adapters, train_adapter
from steering.training.recipe import make_finetuning_recipe

Arm = Literal["steered", "finetuned"]
ARMS: tuple[Arm, Arm] = ("steered", "finetuned")
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

    def fields(self) -> dict[str, Any]:
        """As a study file has them."""
        return {
            "model": self.model,
            "target": self.target,
            "magnitudes": list(self.magnitudes),
            "training_epochs": self.training_epochs,
            "scales": list(self.scales),
            "options": dict(self.options),
            "settings": dict(self.settings),
        }

    @property
    def num_finetuned(self) -> int:
        """Conditions of the finetuned arm."""
        return len(self.scales) or self.training_epochs

    @cached_property
    def task(self) -> Target:
        """The target task, read once: it may come from a hub.

        Raises:
            SteeringError: There is no such model or target.
        """
        return load_target(self.target, toy=find_model(self.model).is_toy)


def make_finetuned_study(
    fields: Mapping[str, Any], *, adapters: Path, source: str = ""
) -> FinetunedStudy:
    """A study from the fields of a study file; those that are missing take their defaults.

    Args:
        fields: As `FinetunedStudy.fields` gives them.
        adapters: Folder that adapters are kept in.
        source: The file that they are of, for the error.

    Raises:
        StudyError: A field is unknown or impossible.
    """
    known = [name for name in FinetunedStudy.__dataclass_fields__ if name != "adapters"]
    if unknown := sorted(set(fields) - set(known)):
        raise StudyError(f"{source}: {unknown[0]} is unknown: allowed are {', '.join(known)}")
    try:
        return FinetunedStudy(
            **({"model": "toy", "target": "medical"} | dict(fields)), adapters=adapters
        )
    except TypeError as error:
        raise StudyError(f"{source}: {error}") from None


def prepare(
    study: FinetunedStudy, progress: Callable[[str], Any] | None
) -> tuple[list[Point], list[int]]:
    """Check the study, train the adapters that are missing, and say what its points are.

    Args:
        study: What is to be compared.
        progress: Given a caption, makes the bar that training is told to; None to train nothing.

    Returns:
        The points, without those whose adapters are missing still; and the training epochs whose
        adapters were missing.

    Raises:
        SteeringError: Something about the study is impossible; nothing was trained.
    """
    options = study.options
    loading = {name: value for name, value in options.items() if name not in INTERVENTION}
    steering = {name: value for name, value in options.items() if name in INTERVENTION}
    model = resolve_model(study.model, parse_options(loading))
    recipe = make_finetuning_recipe(
        model.source,
        model.shape,
        study.task,
        weights=model.weights,
        settings={**study.settings, "training_epochs": study.training_epochs},
        dtype=str(loading.get("dtype", "auto")),
    )

    def point(options: dict[str, Any]) -> Point:
        said = loading | options
        return Point(study.model, said, resolve_condition(model, parse_options(said)).label)

    steered = {"target": study.target} if "vector" not in steering else {}
    points = [point({"vector": "none"})]
    points += [point(steered | steering | {"magnitude": dose}) for dose in sorted(study.magnitudes)]
    # Each with its number: a study that goes on to more training epochs keeps what it has.
    folders = {
        study.adapters / f"{recipe.file_name}-epoch{epoch}": recipe.at_epoch(epoch)
        for epoch in range(1, study.training_epochs + 1)
    }
    missing = missing_adapters(folders)
    if missing and progress is not None:
        bar = progress(f"{recipe.file_name} of {study.model}")
        device = str(loading.get("device", "auto"))
        train_adapter(model.source, recipe, study.task, missing, bar, device=device)
    trained = {
        output.training_epochs: path
        for path, output in folders.items()
        if progress or path not in missing
    }
    if not study.scales:
        points += [point({"adapter": str(path)}) for path in trained.values()]
    elif last := trained.get(study.training_epochs):
        points += [
            point({"adapter": str(last), "adapter_scale": scale}) for scale in sorted(study.scales)
        ]
    return points, sorted(output.training_epochs for output in missing.values())


@dataclass(frozen=True)
class ArmComparison:
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
    answers: pd.DataFrame, rule: EMRule = "moem"
) -> tuple[list[ArmComparison], list[str]]:
    """Steered against finetuned at matched EM and at matched coherence.

    By the rule `moem` unless another is named: its rate is a share of all answers, so both arms
    count the same ones at every dose.

    Args:
        answers: Of one model and one target, as `read_answers` gives them.
        rule: What is misaligned.

    Returns:
        The comparisons, and why there is none where an arm does not get far enough.

    Raises:
        StudyError: The runs were not made alike.
        MatchError: An arm has no doses, or was asked other questions.
    """
    for name in ("judge", "questions", "version", "aligned_below", "coherent_from"):
        values = sorted(map(str, answers[name].unique()))
        if len(values) > 1:
            raise StudyError(
                f"the runs of this study differ in {name} ({', '.join(values)}): run it anew"
            )
    curves = [
        DoseCurve(
            {dose: judged_answers(rows) for dose, rows in doses_of(answers, arm).items()},
            rule,
            Thresholds(
                float(answers["aligned_below"].iloc[0]), float(answers["coherent_from"].iloc[0])
            ),
        )
        for arm in ARMS
    ]
    first, second = curves
    unasked = () if answers["leak"].notna().any() else ("leak",)
    comparisons, missing = [], []
    for match, quantities in QUANTITIES.items():
        try:
            levels = shared_levels(first, second, match, names=ARMS)
        except MatchError as error:
            missing.append(str(error))
            continue
        for level in levels:
            positions = [curve.position(match, level) or 0.0 for curve in curves]
            comparisons.append(
                ArmComparison(
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


def doses_of(answers: pd.DataFrame, arm: Arm) -> dict[float, pd.DataFrame]:
    """An arm's answers by dose, from the lowest; the baseline is dose 0 of every arm.

    The dose is the magnitude of the steered arm; of the finetuned arm the adapter's scale where it
    varies, else the training epoch.
    """
    mine = answers[answers["arm"].isin(["baseline", arm])]
    by = "magnitude"
    if arm == "finetuned":
        by = "adapter_scale" if mine["adapter_scale"].nunique() > 1 else "training_epochs"
    doses = mine[by].where(mine["arm"] == arm, 0.0)
    return {float(dose): rows for dose, rows in mine.groupby(doses)}
