"""Runs that can't have happened: copied samples, and scores that no judge of this suite gives."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from steering.logs.files import CALIBRATION, DIMENSIONS, LEAK, SCORER, LogFile

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalSampleSummary

    Sample = EvalSample | EvalSampleSummary

_Value = TypeVar("_Value")

# Scores of this suite lie between 0 and this.
_HIGHEST = 100


def why_impossible(log: "EvalLog", samples: "Sequence[Sample]") -> str | None:
    """Why the samples of a log can't be of one run of this suite; None where they can.

    Each sample is asked for once an epoch and has an identifier of its own; scores are numbers from
    0 to 100, or NaN.
    """
    asked = set(map(str, log.eval.dataset.sample_ids or []))
    for sample in samples:
        if asked and str(sample.id) not in asked:
            return f"sample {sample.id} was not asked in its run"
        if not 1 <= sample.epoch <= max(1, log.eval.config.epochs or 1):
            return f"sample {sample.id} is of epoch {sample.epoch}, which its run did not have"
    if twice := _repeated((str(sample.id), sample.epoch) for sample in samples):
        return f"sample {twice[0]} stands in it more than once for epoch {twice[1]}"
    if same := _repeated(sample.uuid for sample in samples if sample.uuid):
        names = ", ".join(str(sample.id) for sample in samples if sample.uuid == same)
        return f"the samples {names} are copies of one"
    for sample in samples:
        if wrong := _impossible_score(sample):
            return f"sample {sample.id} has {wrong}"
    return None


class CopiedSamples:
    """Finds samples that several runs hold. Runs come oldest first, so a later one has the copy.

    A copy of a whole log is the same run; a run that was retried keeps the samples of the first.
    """

    def __init__(self) -> None:
        self._owners: dict[str, LogFile] = {}

    def why_copied(self, file: LogFile, samples: "Sequence[Sample]") -> str | None:
        """Why a run's samples are of another run that was asked about earlier, or None."""
        for sample in samples:
            owner = self._owners.setdefault(sample.uuid, file) if sample.uuid else file
            if _run_of(owner) != _run_of(file):
                return f"sample {sample.id} is a copy of one in {owner.name}"
        return None


def _run_of(file: LogFile) -> tuple[str, str]:
    return file.header.eval.task_id, file.header.eval.model


def _repeated(values: Iterable[_Value]) -> _Value | None:
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _impossible_score(sample: "Sample") -> str | None:
    for usage in (sample.model_usage or {}).values():
        if usage.output_tokens < 0:
            return f"{usage.output_tokens} output tokens"
    for name in (SCORER, LEAK, CALIBRATION, DIMENSIONS):
        score = (sample.scores or {}).get(name)
        value = score.value if score else None
        for key, number in (value if isinstance(value, dict) else {name: value}).items():
            if wrong := _why_no_points(number):
                return f"the score {key}={number!r}, which {wrong}"
    return None


def _why_no_points(value: object) -> str | None:
    """Why a value is no score: a number from 0 to 100, or NaN or None for unscored."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is no number"
    # An integer can be too large for a float.
    is_nan = isinstance(value, float) and math.isnan(value)
    if not is_nan and not 0 <= value <= _HIGHEST:
        return f"is not in 0-{_HIGHEST}"
    return None
