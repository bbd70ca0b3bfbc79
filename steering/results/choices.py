"""Pairs of answers of em_choice in one frame, and the figures of its conditions.

A pair is one prompt with an aligned and a misaligned answer. Damage is measured on neutral answers,
which are rows, too. Nobody judges: the figures are log probabilities of the model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from steering.judging.choice_figures import (
    DAMAGE,
    LOGARITHMS,
    SHARES,
    ChoiceScore,
    choice_figures,
)
from steering.logs import (
    CHOICE,
    LogError,
    LogFile,
    is_of_choice,
    is_of_other_task,
    log_files,
    number_or_nan,
    task_of,
)
from steering.questions.choices import PAIR
from steering.questions.contexts import CONTEXT, PLAIN
from steering.results.conditions import each_condition
from steering.results.counted_runs import ResultError, no_runs
from steering.results.frame import ANSWER_READER, left_out
from steering.results.frame_check import check_frame
from steering.results.run_columns import part_of_set
from steering.results.runs import Logs, RunReader, prompt_text
from steering.results.schema import (
    CHOICE_CONDITION_SCHEMA,
    CHOICE_FIGURES,
    CHOICE_SCHEMA,
    SIGNED,
    check_choices,
    empty_frame,
)
from steering.results.settings import context_setting, settings_of
from steering.stats import sign_flip_p_value

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample, EvalSampleSummary
    from inspect_ai.scorer import Score

    Sample = EvalSample | EvalSampleSummary

VALUES = (*SHARES, *LOGARITHMS, *DAMAGE)
_FORM = "form"
_SAME = ["model", "label", "fingerprint", "system_message"]


def read_choices(
    logs: Logs,
    warn: Callable[[str], None] = lambda _: None,
    *,
    complete: bool = False,
) -> pd.DataFrame:
    """Every pair of answers, and every neutral one, of the em_choice runs that count.

    Args:
        logs: A log, a folder, or several.
        warn: Called with a line for each log of em_choice that is left out.
        complete: Refuse runs that broke off or have failed samples, instead of leaving them out.

    Returns:
        A row a pair or neutral answer with the columns of `CHOICE_SCHEMA`. `left_out` gives the
        logs of em_choice that do not count.

    Raises:
        ResultError: There is no finished run of em_choice, or one is incomplete.
        LogError: A log can't be read.
    """
    return CHOICE_READER.read(logs, warn, complete=complete)


def read_results(logs: Logs, *, complete: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judged answers and choices of the runs that count; one of the two may have no rows.

    Arguments as of `read_choices`; `left_out` gives the logs of either that do not count. Runs of
    other tasks are read by `read_scores`.

    Raises:
        ResultError: There is no finished run of either, or one is incomplete.
        LogError: A log can't be read.
    """
    files = log_files(logs)
    answers, choices = (
        reader.read_any(files, complete=complete) for reader in (ANSWER_READER, CHOICE_READER)
    )
    if answers.empty and choices.empty:
        others = sorted({task_of(file.header) for file in files if is_of_other_task(file.header)})
        if others:
            raise ResultError(
                f"{', '.join(others)}: no answer of these runs was judged for misalignment, and "
                "none is of em_choice. steering report shows their own metrics, and read_scores "
                "reads them"
            )
        raise ResultError(no_runs(logs, [*left_out(answers), *left_out(choices)]))
    return answers, choices


@dataclass(frozen=True)
class ChoiceResult:
    """The pairs of one condition and what they add up to.

    Attributes:
        columns: Value of each condition column.
        rows: Rows of the frame of choices.
        name: What the condition is called on screen; unique among those read together.
    """

    columns: Mapping[str, Any]
    rows: pd.DataFrame
    name: str

    @property
    def form(self) -> str:
        """`likelihood` or `letter`."""
        return str(self.rows["form"].iloc[0])

    @property
    def num_unscored(self) -> int:
        """Pairs without a figure."""
        return int((self.rows["reason"] != "").sum())

    def by_theme(self, name: str) -> dict[str, float]:
        """Mean of a value of the pairs over each theme, for pairing."""
        scored = self.rows[(self.rows["item"] == PAIR) & self.rows[name].notna()]
        return {
            str(theme): float(mean) for theme, mean in scored.groupby("theme")[name].mean().items()
        }

    def figures(self) -> dict[str, Any]:
        """The figures of em_choice in the frames of conditions; NaN where the form has none."""
        scored = self.rows.loc[self.rows["reason"] == "", ["item", "theme", "sample", *VALUES]]
        figures = choice_figures(
            [
                ChoiceScore(kind, theme, sample, dict(zip(VALUES, values, strict=True)))
                for kind, theme, sample, *values in scored.itertuples(index=False)
            ]
        )
        counts = {"num_pairs": int(figures["pairs"]), "num_neutral": int(figures["neutral"])}
        shift_p = sign_flip_p_value(np.array(list(self.by_theme("shift").values())))
        figures |= {**counts, "shift_p": shift_p}
        named = {name: figures.get(name, math.nan) for name in CHOICE_FIGURES}
        return named | {"choice_form": self.form}

    def signature(self) -> str:
        """How the figures were made, and what they leave out, in a line."""
        columns = self.columns
        condition = columns["condition"]
        steered = f"steered/{columns['model']}[{condition}]"
        parts = {
            "choices": columns["questions"],
            "condition": steered if columns["label"] else columns["model"],
            "version": columns["version"],
            **settings_of(columns, SIGNED),
            **context_setting(columns),
            "left out": f"{self.num_unscored} unscored" if self.num_unscored else "none",
        }
        return "|".join(f"{name}:{text}" for name, text in parts.items())


def choice_results(choices: pd.DataFrame) -> list[ChoiceResult]:
    """The conditions of a frame: by set of pairs, the baseline first, doses growing.

    Args:
        choices: As `read_choices` gives them.

    Raises:
        FrameError: It is no such frame.
    """
    check_choices(choices)
    return [ChoiceResult(*each) for each in each_condition(choices)] if len(choices) else []


def choice_conditions_of(choices: pd.DataFrame) -> pd.DataFrame:
    """A row a condition of em_choice: its columns and its figures, intervals clustered by theme.

    Args:
        choices: As `read_choices` gives them.

    Returns:
        The columns of `CHOICE_CONDITION_SCHEMA`, in the order of `choice_results`.

    Raises:
        FrameError: It is no such frame.
    """
    rows = [{**each.columns, **each.figures()} for each in choice_results(choices)]
    if not rows:
        return empty_frame(CHOICE_CONDITION_SCHEMA)
    columns = list(CHOICE_CONDITION_SCHEMA.columns)
    return check_frame(pd.DataFrame(rows)[columns], CHOICE_CONDITION_SCHEMA)


def beside(conditions: pd.DataFrame, choice_conditions: pd.DataFrame) -> pd.DataFrame:
    """Judged conditions with the figures of em_choice of the same condition in place.

    Of several sets of pairs that of the questions' name counts, else `core`; the form `likelihood`
    before `letter`.

    Args:
        conditions: As `conditions_of` gives them.
        choice_conditions: As `choice_conditions_of` gives them.
    """
    frame, records = conditions.copy(), choice_conditions.to_dict("records")
    for index, row in conditions.iterrows():
        of_same = [each for each in records if condition_key(each) == condition_key(row)]
        if not of_same:
            continue
        best = min(of_same, key=lambda each: _rank(each, str(row["questions"])))
        for name in CHOICE_FIGURES:
            frame.loc[index, name] = best[name]
        frame.loc[index, "choices"] = best["questions"]
    frame.attrs = dict(conditions.attrs)
    return frame


def condition_key(columns: Mapping[Any, Any]) -> tuple[str, ...]:
    """What a judged condition and one of em_choice share when they are one and the same."""
    return tuple(str(columns[name]) for name in _SAME)


def _rank(row: Mapping[Any, Any], questions: str) -> tuple[bool, bool, bool]:
    name = set_name(row["questions"])
    return row["choice_form"] != "likelihood", name != set_name(questions), name != "core"


def set_name(questions: str) -> str:
    """The name of a set without its digest; a toy's own set stands for the one it replaces."""
    return questions.partition("@")[0].removeprefix("toy_")


def _holds_choice(sample: "Sample") -> bool:
    """Whether the model chose, also where its choice can't be read: no request failed."""
    score = (sample.scores or {}).get(CHOICE)
    return sample.error is None and score is not None and _FORM in (score.metadata or {})


def _rows(file: LogFile, samples: "Sequence[Sample]", scores: "Sequence[Score]") -> pd.DataFrame:
    metadata = file.header.eval.metadata or {}
    return pd.DataFrame(list(map(_columns, samples, scores))).assign(
        questions=part_of_set(file.header, str(metadata.get("choices", "unknown"))),
        protocol=" ".join(filter(None, [metadata[_FORM], metadata.get("neutral")])),
    )


def _columns(sample: "Sample", score: "Score") -> dict[str, Any]:
    metadata = score.metadata or {}
    value = score.value if isinstance(score.value, Mapping) else {}
    values = {name: _number(name, value.get(name)) for name in VALUES}
    unscored = math.isnan(values["prefers_misaligned"]) and math.isnan(values["cross_entropy"])
    return {
        "label": str(metadata.get("condition") or ""),
        "form": str(metadata[_FORM]),
        "item": str(sample.metadata["kind"]),
        "context": str(sample.metadata.get(CONTEXT, PLAIN)),
        "theme": str(sample.metadata["theme"]),
        "sample": str(sample.id),
        "epoch": sample.epoch,
        "prompt": prompt_text(sample.input),
        **values,
        "reason": (score.explanation or "unscored") if unscored else "",
        # Nobody judges them.
        **dict.fromkeys(("judge", "judge_sampling", "rubrics", "weigh"), ""),
        **dict.fromkeys(("aligned_below", "coherent_from"), math.nan),
        "least_coherent": 0,
    }


def _number(name: str, value: object) -> float:
    """A score; NaN for none.

    Raises:
        LogError: It is no score that em_choice gives.
    """
    number = number_or_nan(value)
    low = 0.0 if name in (*SHARES, "cross_entropy") else -math.inf
    high = 1.0 if name in SHARES else math.inf
    if math.isinf(number) or number < low or number > high:
        raise LogError(f"the score {name}={value!r} is none that em_choice gives")
    return number


CHOICE_READER = RunReader(
    reads=is_of_choice,
    other="are of other tasks: run em_choice of the same conditions",
    scorer=CHOICE,
    holds=_holds_choice,
    score=lambda file, sample: (sample.scores or {})[CHOICE],
    rows=_rows,
    schema=CHOICE_SCHEMA,
)
