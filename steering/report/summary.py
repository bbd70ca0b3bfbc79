"""The short table: conditions of a log folder beside each other, with intervals and signatures.

Reads finished Inspect logs and counts their stored scores again by the same rules that the tasks'
metrics use. Knows nothing of how an answer was made or judged.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steering import __version__
from steering.errors import SteeringError
from steering.judging import (
    EM_RULES,
    Bounds,
    EMRule,
    Estimate,
    JudgedAnswer,
    Provenance,
    em_rate,
    judged_answer,
    mean_scores,
    paired_difference,
    question_rates,
)

_SCORER = "em_judge"
# Of the task judge_calibration, which says nothing of a model under test.
_CALIBRATION = "calibration"


class ReportError(SteeringError):
    """A folder holds no logs to report on, or one that can't be counted."""


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        task: Name of the task.
        condition: Model with its condition's label.
        answers: Judged answers of all samples and epochs.
        bounds: Thresholds that the run was given.
        provenance: For the signature of its figures.
    """

    task: str
    condition: str
    answers: Sequence[JudgedAnswer]
    bounds: Bounds
    provenance: Provenance

    @property
    def model(self) -> str:
        """Name of the model without its condition."""
        return self.condition.partition("[")[0]

    @property
    def is_baseline(self) -> bool:
        """Whether the model was left unsteered."""
        return self.condition.endswith("[baseline]")

    @property
    def made_like(self) -> tuple[object, ...]:
        """What two results must share to be compared."""
        made = self.provenance
        return (self.model, made.judge, made.questions, made.version, self.bounds)

    def betley_by_question(self) -> dict[str, float]:
        """EM rate of each question, for pairing."""
        return question_rates(self.answers, "betley", self.bounds)

    def em_rate(self, rule: EMRule) -> Estimate:
        """EM rate by a rule, with its interval."""
        return em_rate(self.answers, rule, self.bounds, self.provenance)


def read_results(log_dir: Path, warn: Callable[[str], None] = lambda _: None) -> list[Result]:
    """Results of all finished runs below a folder, by task, baselines first.

    Args:
        log_dir: The folder.
        warn: Told of each run that is left out, since it did not finish or is of a judge.

    Raises:
        ReportError: The folder holds no finished run of this suite, or scores that can't be
            counted together.
    """
    paths = list_eval_logs(str(log_dir), descending=False) if log_dir.is_dir() else []
    results: list[Result] = []
    for path in paths:
        log = read_eval_log(path)
        if log.status != "success":
            warn(f"left out, since it ended with status {log.status}: {path.name}")
        elif any(scorer.name.endswith(_CALIBRATION) for scorer in log.eval.scorers or []):
            warn(f"left out, since it is of a judge and not of a model: {path.name}")
        else:
            results += _results(log)
    if not results:
        raise ReportError(
            f"{log_dir} holds no finished runs: give the folder that a run named as --log-dir"
        )
    return sorted(results, key=lambda result: (result.task, not result.is_baseline))


def _results(log: EvalLog) -> list[Result]:
    """The results of one log: one, unless its samples brought interventions of their own."""
    where = f"{log.eval.task} on {log.eval.model}"
    answers: dict[str, list[JudgedAnswer]] = {}
    bounds, judges = set(), set()
    for sample in log.samples or []:
        score = (sample.scores or {}).get(_SCORER)
        if score is None:
            raise ReportError(
                f"sample {sample.id} of {where} has no {_SCORER} score: run "
                f"`inspect score LOG --scorer steering/{_SCORER} --action overwrite`"
            )
        question = str(sample.metadata.get("question", sample.id))
        answers.setdefault(_condition(log, sample), []).append(judged_answer(score, question))
        stored = score.metadata or {}
        judges.add(str(stored.get("judge")))
        bounds.add(tuple(stored["bounds"].values()) if "bounds" in stored else ())
    if len(judges) != 1 or len(bounds) != 1:
        raise ReportError(
            f"the scores of {where} come from several judges or thresholds "
            f"({sorted(judges)}, {sorted(bounds)}): score the log again with one"
        )
    [judge], [limits] = judges, bounds
    return [
        Result(
            log.eval.task,
            condition,
            found,
            Bounds(*limits),
            Provenance(
                judge=judge,
                questions=str((log.eval.metadata or {}).get("questions", "unknown")),
                condition=condition,
                version=(log.eval.packages or {}).get("steering", __version__),
            ),
        )
        for condition, found in answers.items()
    ]


def _condition(log: EvalLog, sample: EvalSample) -> str:
    """Model and condition of one answer: the run's, unless the request brought its own."""
    told = (sample.output.metadata or {}).get("steering", {}).get("condition")
    return f"{log.eval.model.partition('[')[0]}[{told}]" if told else log.eval.model


def print_summary(results: Sequence[Result], console: Console | None = None) -> None:
    """Print a table a task, a row a condition, and the signatures that its figures carry."""
    console = console or Console()
    for task in sorted({result.task for result in results}):
        chosen = [result for result in results if result.task == task]
        console.print(_table(task, chosen))
        for line in _differences(chosen):
            console.print(line, highlight=False, markup=False)
        for note in _notes(chosen):
            console.print(note, style="yellow", highlight=False, markup=False)
        for result in chosen:
            for rule in EM_RULES:
                estimate = result.em_rate(rule)
                left_out = ", ".join(f"{count} {why}" for why, count in estimate.left_out.items())
                said = f"{estimate.signature}|left out:{left_out or 'none'}"
                console.print(said, style="dim", highlight=False, markup=False, soft_wrap=True)


def _differences(results: Sequence[Result]) -> list[str]:
    """Each condition against the baseline that was made like it, paired by question."""
    baselines = {result.made_like: result for result in results if result.is_baseline}
    lines = []
    for result in results:
        baseline = baselines.get(result.made_like)
        if result.is_baseline or baseline is None:
            continue
        found = paired_difference(result.betley_by_question(), baseline.betley_by_question())
        if not math.isnan(found.value):
            value, low, high = (100 * part for part in (found.value, found.low, found.high))
            lines.append(
                f"{_short(result)} - baseline: EM betley {value:+.0f} points "
                f"[{low:.0f}, {high:.0f}], p = {found.p_value:.2g} (paired)"
            )
    return lines


def _short(result: Result) -> str:
    """The condition with the last part of the model's name; the signature has the whole."""
    return result.condition.rsplit("/", 1)[-1]


def _notes(results: Sequence[Result]) -> list[str]:
    """What keeps the rows of one table from being compared, or an interval from being trusted."""
    made = {
        "judge": {result.provenance.judge for result in results},
        "questions": {result.provenance.questions for result in results},
        "thresholds": {str(result.bounds) for result in results},
        "version": {result.provenance.version for result in results},
    }
    notes = [
        f"These rows can't be compared: they differ in {name} ({', '.join(sorted(values))})."
        for name, values in made.items()
        if len(values) > 1
    ]
    told = {estimate.note for result in results if (estimate := result.em_rate("betley")).note}
    return notes + [f"Note: {note}" for note in sorted(told)]


def _table(task: str, results: Sequence[Result]) -> Table:
    table = Table(
        title=f"\n{task}: EM rates with 95% intervals by question; mean scores, 0-100",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("condition", overflow="fold")
    for heading in ("EM betley", "EM moem", "aligned", "coherent", "relevant", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        means = mean_scores(result.answers)
        table.add_row(
            escape(_short(result)),
            _rate(result.em_rate("betley")),
            _rate(result.em_rate("moem")),
            *(f"{means[key]:.1f}" for key in ("aligned", "coherent", "relevant")),
            str(len(result.answers)),
        )
    return table


def _rate(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "none counts"
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    return escape(
        f"{value:.1f}% [{low:.0f}, {high:.0f}]"
        if value < 10
        else f"{value:.0f}% [{low:.0f}, {high:.0f}]"
    )
