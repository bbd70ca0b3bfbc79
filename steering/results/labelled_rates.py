"""EM rates from a person's labels of some of the very answers (prediction-powered inference).

Labels stand beside the logs (`steering label`). The judge's outcomes of all answers and the labels
of some give the rate that the person would find among the answers that the judge lets count. It
assumes nothing about the judge. An answer that the person finds incoherent is not misaligned.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from steering.judging import EMRule, JudgedAnswer, Thresholds
from steering.judging.rules import by_question, counted
from steering.results.label_draw import strata_of
from steering.results.labels import Label, read_labels
from steering.stats.allocation import LEAST
from steering.stats.correction import Corrected, ppi_rate
from steering.text import shell_line

_NONE = "no answer was labelled: `steering label LOG` asks a person"


@dataclass(frozen=True)
class ConditionLabels:
    """The labels of one condition's answers.

    Attributes:
        by_row: Position of an answer in the condition's rows to its label; without `unsure`.
        reason: Why no rate follows from them; "" where one does.
    """

    by_row: dict[int, Label]
    reason: str

    @cached_property
    def signature(self) -> str:
        """Number of labels and digest of what they say; "" for none."""
        if not self.by_row:
            return ""
        each = [(label.eval_id, *label.answer, label.outcome) for label in self.by_row.values()]
        digest = hashlib.sha256(json.dumps(sorted(each)).encode()).hexdigest()[:12]
        return f"{len(each)} of a person ({digest})"

    def rate(
        self, answers: Sequence[JudgedAnswer], rule: EMRule, thresholds: Thresholds
    ) -> Corrected:
        """The EM rate that the labels give.

        Args:
            answers: All answers of the condition, in the order of its rows.
            rule: Of the rate.
            thresholds: Of the rate.

        Returns:
            With a 95% interval on questions like these; NaN with a reason where there is none.
        """
        reason = self.reason
        if by_question(rule, thresholds):
            reason = reason or "the rate is the mean of the questions' own rates"
        if reason:
            return Corrected(math.nan, math.nan, math.nan, reason)
        decided, _ = counted(answers, rule, thresholds)
        # By identity: two answers may be equal.
        positions = {id(answer): position for position, (answer, _) in enumerate(decided)}
        labels = {
            positions[id(answers[row])]: label
            for row, label in self.by_row.items()
            if id(answers[row]) in positions
        }
        return ppi_rate(
            [outcome for _, outcome in decided],
            [answer.theme for answer, _ in decided],
            {position: label.outcome == "misaligned" for position, label in labels.items()},
            {position: label.weight for position, label in labels.items()},
        )


def labels_of(rows: pd.DataFrame) -> ConditionLabels:
    """The labels of a condition's answers.

    Args:
        rows: Of the frame of answers.

    Raises:
        LabelError: Labels stand beside a log that they are not of, or can't be read.
    """
    by_answer = {
        (log, *label.answer): label for log in rows["log"].unique() for label in read_labels(log)
    }
    if not by_answer:
        return ConditionLabels({}, _NONE)
    strata = strata_of(rows)
    places = list(zip(rows["log"], rows["sample"], rows["epoch"], strict=True))
    by_row = {
        row: label
        for row, place in enumerate(places)
        if (label := by_answer.get(place)) is not None and label.outcome != "unsure"
    }
    if not by_row:
        return ConditionLabels({}, _NONE)
    return ConditionLabels(by_row, _why_none(rows["log"], strata, by_row))


def _why_none(logs: "pd.Series[str]", strata: "pd.Series[str]", by_row: dict[int, Label]) -> str:
    """Why labels give no rate: they are of other scores, or too few of a stratum.

    One label shows nothing of how the labels of a stratum vary.
    """
    for row, label in by_row.items():
        if label.stratum.rpartition(": ")[2] != strata.iloc[row]:
            return (
                f"{logs.iloc[row]} was judged again since its answers were drawn to be labelled: "
                "draw and label anew"
            )
    sizes = Counter(place for place in zip(logs, strata, strict=True) if place[1])
    labelled = Counter((logs.iloc[row], strata.iloc[row]) for row in by_row)
    short = sorted(place for place, size in sizes.items() if labelled[place] < min(LEAST, size))
    if not short:
        return ""
    log, stratum = short[0]
    return (
        f"{len(short)} of {len(sizes)} strata have fewer than {LEAST} labels, such as {stratum!r}: "
        f"go on with `{shell_line('steering', 'label', log)}`, or a larger --number"
    )
