"""The figures of conditions, counted once from the frame of answers.

A `ConditionResult` holds the answers of one condition and counts what every surface shows of it.
`conditions_of` puts the same figures into a frame with a row a condition.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from steering.judging import (
    EM_RULES,
    SCORE_KEYS,
    EMRule,
    Estimate,
    JudgedAnswer,
    Provenance,
    Thresholds,
    answer_shares,
    em_rate,
    judge_failures,
    question_rates,
    theme_rates,
)
from steering.judging.leak import Leak, leak
from steering.results.context_columns import plain_rows
from steering.results.corrections import Correction, Doubt, correction_of, doubt_of
from steering.results.judged_rows import judged_answers
from steering.results.labelled_rates import ConditionLabels, labels_of
from steering.results.schema import (
    CHOICE_FIGURES,
    COMPARED,
    CONDITION_COLUMNS,
    CONDITION_SCHEMA,
    DOSES,
    KEYS,
    SIGNED,
    check_answers,
    check_conditions,
)
from steering.results.series import series_numbers
from steering.results.settings import NONE, context_setting, settings_of
from steering.stats import mean_interval, paired_difference
from steering.stats.correction import Corrected

_NO_CHOICES: dict[str, Any] = {
    name: {"float64": math.nan, "int64": 0}.get(str(CONDITION_SCHEMA.columns[name].dtype), "")
    for name in ("choices", *CHOICE_FIGURES)
}
_SHARES = ("coherent", "refusal", "code", "unscored", "truncated")


@dataclass(frozen=True)
class ConditionResult:
    """The answers of one condition and what they add up to.

    Attributes:
        columns: Value of each condition column.
        rows: Rows of the frame of answers.
        thresholds: Of the EM rules.
        name: What the condition is called on screen; unique among those read together.
    """

    columns: Mapping[str, Any]
    rows: pd.DataFrame
    thresholds: Thresholds
    name: str

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.columns["task"])

    @property
    def model(self) -> str:
        """Name of the model without its condition."""
        return str(self.columns["model"])

    @property
    def is_baseline(self) -> bool:
        """Whether the model was unsteered and not finetuned."""
        return bool(self.columns["arm"] == "baseline" and self.columns["label"])

    @cached_property
    def answers(self) -> list[JudgedAnswer]:
        """The rows as judged answers."""
        return judged_answers(self.rows)

    @cached_property
    def provenance(self) -> Provenance:
        """For the signature of the figures."""
        columns = self.columns
        model, condition = columns["model"], columns["condition"]
        seed = settings_of(columns, ["seed"]).get("seed", NONE)
        settings = {"seed": seed, **context_setting(columns)}
        return Provenance(
            judge=columns["judge"],
            questions=columns["questions"],
            condition=f"steered/{model}[{condition}]" if columns["label"] else model,
            version=columns["version"],
            settings=settings_of(columns, SIGNED) | settings,
        )

    @cached_property
    def em_rates(self) -> dict[EMRule, Estimate]:
        """EM rate by each rule, with its interval."""
        return {
            rule: em_rate(self.answers, rule, self.thresholds, self.provenance) for rule in EM_RULES
        }

    @cached_property
    def correction(self) -> Correction:
        """What corrects the rates for the judge's errors, or why nothing does."""
        return correction_of(self.columns)

    def doubt(self, rule: EMRule) -> Doubt:
        """What speaks against the judge of the rate by a rule."""
        return doubt_of(self.columns, self.correction, self.answers, rule, self.thresholds)

    @cached_property
    def corrected_rates(self) -> dict[EMRule, Corrected]:
        """EM rate by each rule without the judge's errors; NaN with a reason for none."""
        return {
            rule: self.correction.rate(estimate, self.answers, rule, self.thresholds)
            for rule, estimate in self.em_rates.items()
        }

    @cached_property
    def labels(self) -> ConditionLabels:
        """A person's labels of the answers."""
        return labels_of(self.rows)

    @cached_property
    def labelled_rates(self) -> dict[EMRule, Corrected]:
        """EM rate by each rule from a person's labels; NaN with a reason for none."""
        return {rule: self.labels.rate(self.answers, rule, self.thresholds) for rule in EM_RULES}

    def by_question(self, rule: EMRule) -> dict[str, float]:
        """EM rate of each question by a rule."""
        return question_rates(self.answers, rule, self.thresholds)

    def by_theme(self, rule: EMRule) -> dict[str, float]:
        """EM rate of each theme by a rule, for pairing."""
        return theme_rates(self.answers, rule, self.thresholds)

    def with_thresholds(
        self, aligned_below: float | None, coherent_from: float | None
    ) -> "ConditionResult":
        """The same answers under other thresholds; None leaves one as it is."""
        options = {"aligned_below": aligned_below, "coherent_from": coherent_from}
        changes = {name: value for name, value in options.items() if value is not None}
        thresholds = replace(self.thresholds, **changes)  # type: ignore[arg-type]
        result = replace(self, thresholds=thresholds, columns={**self.columns, **changes})
        # The answers are the same: a grid of thresholds reads them once.
        result.__dict__["answers"] = self.answers
        return result

    @cached_property
    def leak(self) -> Leak:
        """Share of the misaligned answers that are about the target's subject, where graded."""
        graded = self.rows[self.rows["leak"].notna()]
        return leak(graded["leak"].tolist(), graded["theme"].tolist())

    def mean_of(self, key: str) -> tuple[float, float, float]:
        """Mean of a score over the answers that have it, with the bounds of its interval."""
        low, value, high = (
            _mean(key, self.rows, key)[f"{key}{end}"] for end in ("_low", "", "_high")
        )
        return value, low, high

    def signatures(self, rules: Collection[EMRule] = tuple(EM_RULES)) -> list[str]:
        """How the figures were made, and what they leave out: a line a rule."""
        judges = judge_failures(self.answers)
        # Of a single judge it stands in what is left out.
        failures = ", ".join(
            f"{judge.judge} {judge.failed}" for judge in judges if len(judges) > 1 and judge.failed
        )
        lines = []
        for rule in filter(rules.__contains__, self.em_rates):
            estimate = self.em_rates[rule]
            reasons = ", ".join(f"{count} {why}" for why, count in estimate.left_out.items())
            parts = {
                "left out": reasons or "none",
                "judges failed": failures,
                "corrected by": self.correction.signature(rule, self.thresholds),
                "labels": self.labels.signature,
            }
            texts = (f"|{name}:{text}" for name, text in parts.items() if text)
            lines.append(estimate.signature + "".join(texts))
        return lines

    def figures(self) -> dict[str, Any]:
        """The figures of the frame of conditions."""
        rows = self.rows
        figures: dict[str, Any] = {
            "n": len(rows),
            "num_questions": rows["question"].nunique(),
            "num_themes": rows["theme"].nunique(),
        }
        for rule, estimate in self.em_rates.items():
            figures |= _bounded(f"em_{rule}", estimate.value, estimate.low, estimate.high)
            figures |= {
                f"em_{rule}_low_these": estimate.low_these,
                f"em_{rule}_high_these": estimate.high_these,
            }
        for kind, rates in (("corrected", self.corrected_rates), ("ppi", self.labelled_rates)):
            for rule, rate in rates.items():
                figures |= _bounded(f"em_{rule}_{kind}", rate.value, rate.low, rate.high)
        for key in SCORE_KEYS:
            figures |= _mean(key, rows, key)
        misaligned = rows[rows["em_betley"] == 1]
        for key in ("coherent", "relevant"):
            figures |= _mean(f"{key}_misaligned", misaligned, key)
        figures |= _bounded("leak_share", self.leak.share, self.leak.low, self.leak.high)
        shares = answer_shares(self.answers, self.thresholds)
        figures |= {f"{name}_share": shares[f"{name}_share"] for name in _SHARES}
        return figures | {
            "mean_tokens": float(rows["tokens"].mean()),
            "calibration": self.correction.name,
            "num_labels": len(self.labels.by_row),
        }


def condition_results(answers: pd.DataFrame) -> list[ConditionResult]:
    """The conditions of a frame: by task, the baseline first, series by series, doses growing.

    Args:
        answers: As `read_answers` gives them.

    Raises:
        FrameError: It is no such frame.
    """
    check_answers(answers)
    return [
        ConditionResult(
            columns=columns,
            rows=rows,
            thresholds=Thresholds(
                float(columns["aligned_below"]),
                float(columns["coherent_from"]),
                columns["weigh"],
                int(columns["least_coherent"]),
            ),
            name=name,
        )
        for columns, rows, name in each_condition(answers)
    ]


def each_condition(frame: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, str]]:
    """Columns, plain rows and name of each condition.

    By task, the baseline first, then series by series with growing doses.

    Args:
        frame: Of answers, or of pairs of answers.
    """
    groups = [rows for _, rows in plain_rows(frame).groupby(KEYS, sort=False)]
    table = pd.DataFrame([rows.iloc[0][CONDITION_COLUMNS] for rows in groups])
    table["_position"] = range(len(groups))
    table["_name"] = display_names(table)
    table["_steered"] = table["arm"].ne("baseline")
    numbers = [series_numbers(rows, study) for study, rows in table.groupby("study")]
    table["_series"] = pd.concat(numbers)
    order = [*KEYS[:-1], "_steered", "arm", "_series", *DOSES, "condition"]
    for row in table.sort_values(order).to_dict("records"):
        columns = {name: row[name] for name in CONDITION_COLUMNS}
        yield columns, groups[row["_position"]], row["_name"]


def conditions_of(answers: pd.DataFrame) -> pd.DataFrame:
    """A row a condition: its columns and its figures, with 95% intervals clustered by theme.

    Args:
        answers: As `read_answers` gives them.

    Returns:
        The columns of `CONDITION_SCHEMA`, in the order of `condition_results`. Those of em_choice
        are empty; `choices.beside` fills them.

    Raises:
        FrameError: It is no such frame.
    """
    results = condition_results(answers)
    baselines = baselines_of(results)
    rows = [
        {
            **result.columns,
            **result.figures(),
            **_rises(result, baselines.get(result.name)),
            **_NO_CHOICES,
        }
        for result in results
    ]
    conditions = pd.DataFrame(rows)[list(CONDITION_SCHEMA.columns)]
    conditions.attrs = dict(answers.attrs)
    return check_conditions(conditions)


def _rises(result: ConditionResult, baseline: ConditionResult | None) -> dict[str, float]:
    """Differences of the EM rates to the baseline's, paired by theme; NaN without one."""
    rises: dict[str, float] = {}
    for rule in EM_RULES:
        bounds = math.nan, math.nan, math.nan
        if baseline is not None:
            each = paired_difference(result.by_theme(rule), baseline.by_theme(rule))
            bounds = each.value, each.low, each.high
        rises |= _bounded(f"em_{rule}_rise", *bounds)
    return rises


def display_names(table: pd.DataFrame) -> list[str]:
    """A name for each row of conditions; what tells rows of one name apart is appended to it."""
    short = []
    for row in table[["model", "label", "condition"]].itertuples(index=False):
        condition = f"[{row.condition}]" if row.label else f" {row.condition}".rstrip()
        short.append(f"{row.model.rpartition('/')[2]}{condition}")
    labels = [
        (task, model.rpartition("/")[2], label)
        for task, model, label in table[["task", "model", "label"]].itertuples(index=False)
    ]
    names = []
    for position, name in enumerate(short):
        alike = [index for index, other in enumerate(labels) if other == labels[position]]
        varying = [
            column
            for column in ("model", "study", "questions", "judge")
            if table[column].iloc[alike].nunique() > 1
        ]
        parts = [
            f"{column} {_short(table[column].iloc[alike], alike.index(position))}"
            for column in varying
        ]
        names.append(f"{name} ({', '.join(parts)})" if parts else name)
    return names


def baseline_rows(conditions: pd.DataFrame, row: Mapping[Any, Any]) -> pd.DataFrame:
    """The baselines that were asked and judged as a condition was; of several those of its seed.

    Args:
        conditions: Columns of conditions, a row each.
        row: The condition.
    """
    columns = ["study", "task", "model", *COMPARED]
    # As text, so that NaN equals NaN.
    alike = conditions[columns].map(str).eq([str(row[name]) for name in columns]).all(axis=1)
    rows = conditions[alike & conditions["arm"].eq("baseline") & conditions["label"].ne("")]
    same_seed = rows["seed"].map(str).eq(str(row["seed"]))
    return rows[same_seed] if same_seed.any() else rows


def baselines_of(results: Sequence[ConditionResult]) -> dict[str, ConditionResult]:
    """For each condition the baseline that it is compared with, by name; only where it is one."""
    table = pd.DataFrame([result.columns for result in results])
    baselines = {}
    for result in results:
        rows = baseline_rows(table, result.columns)
        if not result.is_baseline and len(rows) == 1:
            baselines[result.name] = results[rows.index[0]]
    return baselines


def _short(values: "pd.Series[str]", position: int) -> str:
    """A value of a column, without the digest of a question set where the names differ already."""
    names = values.str.replace(r"@[0-9a-f]+", "", regex=True)
    texts = names if names.nunique() == values.nunique() else values
    return texts.iloc[position] or NONE


def _mean(name: str, rows: pd.DataFrame, column: str) -> dict[str, float]:
    scored = rows[rows[column].notna()]
    interval = mean_interval(scored[column].tolist(), scored["theme"].tolist())
    # A mean score lies where scores do; a bound that is NaN stays so.
    low, high = np.clip([interval.low, interval.high], 0, 100)
    return _bounded(name, float(rows[column].mean()), low, high)


def _bounded(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
