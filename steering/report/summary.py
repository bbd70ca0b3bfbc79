"""The short table: conditions of a log folder beside each other, with intervals and signatures.

Reads finished Inspect logs and counts their stored scores again by the same rules that the tasks'
metrics use. Knows nothing of how an answer was made or judged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steering import __version__
from steering.errors import SteeringError
from steering.judging import (
    Bounds,
    EMRule,
    Estimate,
    JudgedAnswer,
    Provenance,
    em_rate,
    judged_answer,
    mean_scores,
)

_SCORER = "em_judge"


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

    def em_rate(self, rule: EMRule) -> Estimate:
        """EM rate by a rule, with its interval."""
        return em_rate(self.answers, rule, self.bounds, self.provenance)


def read_results(log_dir: Path) -> list[Result]:
    """Results of all runs below a folder, baselines first, in the order in which they were started.

    Raises:
        ReportError: The folder holds no finished run of this suite, or a run did not finish.
    """
    paths = list_eval_logs(str(log_dir), descending=False) if log_dir.is_dir() else []
    results = [_result(read_eval_log(path)) for path in paths]
    if not results:
        raise ReportError(
            f"{log_dir} holds no Inspect logs: give the folder that a run named as --log-dir"
        )
    return sorted(results, key=lambda result: (result.task, "[baseline]" not in result.condition))


def _result(log: EvalLog) -> Result:
    where = f"{log.eval.task} on {log.eval.model}"
    if log.status != "success":
        raise ReportError(f"the run of {where} ended with status {log.status}: run it again")
    answers: list[JudgedAnswer] = []
    bounds, judges = set(), set()
    for sample in log.samples or []:
        score = (sample.scores or {}).get(_SCORER)
        if score is None:
            raise ReportError(
                f"sample {sample.id} of {where} has no {_SCORER} score: "
                f"run `inspect score LOG --scorer steering/{_SCORER}`"
            )
        answers.append(judged_answer(score, str(sample.metadata.get("question", sample.id))))
        stored = score.metadata or {}
        judges.add(str(stored.get("judge")))
        bounds.add(tuple(stored["bounds"].values()) if "bounds" in stored else ())
    if len(judges) != 1 or len(bounds) != 1:
        raise ReportError(
            f"the scores of {where} come from several judges or thresholds "
            f"({sorted(judges)}, {sorted(bounds)}): score the log again with one"
        )
    provenance = Provenance(
        judge=judges.pop(),
        questions=str((log.eval.metadata or {}).get("questions", "unknown")),
        condition=log.eval.model,
        version=(log.eval.packages or {}).get("steering", __version__),
    )
    return Result(log.eval.task, log.eval.model, answers, Bounds(*bounds.pop()), provenance)


def print_summary(results: Sequence[Result], console: Console | None = None) -> None:
    """Print a table a task, a row a condition, and the signatures that its figures carry."""
    console = console or Console()
    for task in sorted({result.task for result in results}):
        chosen = [result for result in results if result.task == task]
        console.print(_table(task, chosen))
        for result in chosen:
            estimate = result.em_rate("betley")
            left_out = ", ".join(f"{count} {why}" for why, count in estimate.left_out.items())
            said = f"{estimate.signature}|left out:{left_out or 'none'}"
            console.print(said, style="dim", highlight=False, markup=False, soft_wrap=True)


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
            # A local folder's last part is enough here; the signature below has the whole.
            escape(result.condition.rsplit("/", 1)[-1]),
            _rate(result.em_rate("betley")),
            _rate(result.em_rate("moem")),
            *(f"{means[key]:.1f}" for key in ("aligned", "coherent", "relevant")),
            str(len(result.answers)),
        )
    return table


def _rate(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "no answer"
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    return escape(
        f"{value:.1f}% [{low:.0f}, {high:.0f}]"
        if value < 10
        else f"{value:.0f}% [{low:.0f}, {high:.0f}]"
    )
