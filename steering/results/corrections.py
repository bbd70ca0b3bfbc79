"""Rates corrected for the errors of the judge that gave them.

A condition's rates are corrected by the stored calibration of its very judge, with its settings and
rubrics (`steering calibrate`); without one there are none, and a line says why. The judge of the
toys makes no errors on their answers, so its rates are the corrected ones.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from inspect_ai.model import GenerateConfig

from steering.judging import EMRule, Estimate, JudgedAnswer, Thresholds
from steering.judging.calibration.record import CalibrationRecord, find_record
from steering.judging.judges import TOY_JUDGE
from steering.judging.recalibration import RECALIBRATED, recalibrated
from steering.judging.rubric import SCORE_OF, load_rubric
from steering.judging.rules import by_question, counted
from steering.results.run_columns import json_text
from steering.stats.correction import Corrected, corrected_rate
from steering.text import shell_line
from steering.toy import TOYS

EXACT = "exact"
"""Name of the correction of a judge that makes no errors."""


@dataclass(frozen=True)
class Correction:
    """What corrects the rates of a condition.

    Attributes:
        name: `EXACT`, or the signature of the record; "" where there is none.
        record: The calibration of the judge, where it has errors and they were measured.
        missing: Why there is no correction; "" where there is one.
    """

    name: str
    record: CalibrationRecord | None = None
    missing: str = ""

    def rate(
        self,
        estimate: Estimate,
        answers: Sequence[JudgedAnswer],
        rule: EMRule,
        thresholds: Thresholds,
    ) -> Corrected:
        """An EM rate without the judge's errors.

        Args:
            estimate: The rate as the judge has it.
            answers: That it was counted from.
            rule: Of the rate.
            thresholds: Of the rate.

        Returns:
            With a 95% interval on questions like these; NaN with a reason where there is none.
        """
        if self.name == EXACT:
            return Corrected(estimate.value, estimate.low, estimate.high, estimate.note)
        if self.record is None:
            return Corrected(math.nan, math.nan, math.nan, self.missing)
        if by_question(rule, thresholds):
            reason = "the rate is the mean of the questions' own rates, which are not corrected"
            return Corrected(math.nan, math.nan, math.nan, reason)
        decided, _ = counted(answers, rule, thresholds)
        return corrected_rate(
            [outcome for _, outcome in decided],
            [answer.theme for answer, _ in decided],
            self.record.errors(rule, thresholds),
        )

    def signature(self, rule: EMRule, thresholds: Thresholds) -> str:
        """What corrects a rate by a rule, with the judge's errors; "" for no correction."""
        if self.record is None:
            return ""
        errors = self.record.errors(rule, thresholds)
        return (
            f"{self.name}, {errors.detected} of {errors.positives} detected, "
            f"{errors.false_alarms} of {errors.negatives} false alarms"
        )


def correction_of(columns: Mapping[Any, Any]) -> Correction:
    """What corrects the rates of a condition.

    Args:
        columns: Of the condition: `model`, `judge`, `judge_settings`, `judge_sampling` and
            `rubrics`.

    Raises:
        JudgingError: A stored calibration of its judge can't be read.
    """
    judge, rubrics = str(columns["judge"]), str(columns["rubrics"])
    if judge == TOY_JUDGE and columns["model"] in TOYS:
        return Correction(EXACT)
    judge, _, signature = judge.partition(RECALIBRATED)
    settings, sampling = str(columns["judge_settings"]), str(columns["judge_sampling"])
    record = find_record(judge, settings, sampling, rubrics)
    if signature:
        if record is None or record.signature != signature:
            return Correction("", missing=f"the calibration {signature} is not stored here")
        record = recalibrated(record)
    if record is not None:
        return Correction(record.signature, record)
    return Correction("", missing=_missing(judge, settings, rubrics))


@dataclass(frozen=True)
class Doubt:
    """What speaks against the judge of an EM rate.

    Attributes:
        notes: One line each.
        is_blind: Whether the rate shows nothing, be it high or low.
    """

    notes: Sequence[str] = ()
    is_blind: bool = False


NO_DOUBT = Doubt()


def doubt_of(
    columns: Mapping[Any, Any],
    correction: Correction,
    answers: Sequence[JudgedAnswer],
    rule: EMRule,
    thresholds: Thresholds,
) -> Doubt:
    """What speaks against the judge of a condition, by its calibration and by its scores.

    Args:
        columns: Of the condition: `model` and `judge`.
        correction: That of the condition.
        answers: Of the condition.
        rule: Of the rate.
        thresholds: Of the rate.
    """
    if correction.name == EXACT:
        return NO_DOUBT
    judge, notes, is_blind = str(columns["judge"]), [], False
    if TOY_JUDGE in judge.split(" + ") and columns["model"] not in TOYS:
        notes.append(f"{TOY_JUDGE} knows only the toy's world, and {columns['model']} is no toy")
        is_blind = judge == TOY_JUDGE
    record = correction.record
    if record and not record.is_whole:
        notes.append(
            f"{judge} was calibrated on only {len(record.rows)} of the pairs, which do not show "
            "whether it is good enough: `steering calibrate` without --limit"
        )
    elif record:
        if failing := record.failing_figures:
            notes.append(
                f"{judge} is not good enough by its stored calibration: {', '.join(failing)}"
            )
        if reason := record.errors(rule, thresholds).why_blind():
            notes.append(f"{judge}'s calibration shows nothing: {reason}")
            is_blind = True
    # To this rule an incoherent answer is one that is not misaligned.
    decided = counted(answers, rule, thresholds)[0] if rule == "moem" else []
    if decided and all((a.coherent or 0) <= thresholds.coherent_from for a, _ in decided):
        notes.append(
            f"{judge} called none of the {len(decided)} answers coherent, so none could count as "
            "misaligned"
        )
        is_blind = True
    return Doubt(notes, is_blind)


def current_rubrics() -> str:
    """Digests of the bundled rubrics, as the column `rubrics` has them."""
    rubrics = [load_rubric(dimension) for dimension in SCORE_OF]
    return json_text({rubric.score: rubric.sha256[:12] for rubric in rubrics})


def _missing(judge: str, settings: str, rubrics: str) -> str:
    if "question file" in rubrics:
        return (
            f"{judge} judged by the question file's own prompts, which no calibration pairs are "
            "labelled for"
        )
    if rubrics != current_rubrics():
        return (
            f"{judge} judged by rubrics of another version of this suite: judge the answers again "
            "(`inspect score LOG --scorer steering/em_judge`), and calibrate the judge"
        )
    command = shell_line("steering", "calibrate", _grader(judge, settings))
    several = " + " in judge
    return (
        f"{judge} {'were' if several else 'was'} not calibrated: `{command}` measures "
        f"{'their' if several else 'its'} errors"
    )


def _grader(judge: str, settings: str) -> str:
    """Judges with their options, as the role `grader` takes them."""
    labels = judge.split(" + ")
    options = json.loads(settings) if settings else [{}] * len(labels)
    judges = [_with_options(*each) for each in zip(labels, options, strict=False)]
    if all(each.keys() == {"model"} for each in judges):
        return ",".join(each["model"] for each in judges)
    role = judges[0] if len(judges) == 1 else judges
    return yaml.safe_dump(role, default_flow_style=True, sort_keys=False, width=math.inf).strip()


def _with_options(label: str, options: Mapping[str, Any]) -> dict[str, Any]:
    # The label of a steered judge follows from its options; without any it would be steered.
    name, _, condition = label.partition("[")
    config = {key: value for key, value in options.items() if key in GenerateConfig.model_fields}
    args = {key: value for key, value in options.items() if key not in config}
    if condition == "baseline]":
        args.setdefault("vector", "none")
    return {"model": name, **config, **({"model_args": args} if args else {})}
