"""What a gate comes to: each bound on each condition, in records that every output is made from."""

from collections.abc import Sequence
from dataclasses import dataclass

from steering.reports.bounds import Bound, BoundStatus, remarks_on
from steering.reports.ci import Check, CheckOutcome
from steering.reports.figures import Measured, Result
from steering.reports.tables import apart_notes, dead_judge_notes
from steering.results.choices import ChoiceResult
from steering.results.conditions import ConditionResult
from steering.results.contexts import ChoiceContextResult, ContextResult
from steering.results.document import Document
from steering.results.frame import LeftOut
from steering.results.task_metrics import TaskResult

_OUTCOMES: dict[BoundStatus, CheckOutcome] = {
    BoundStatus.KEPT: "passed",
    BoundStatus.BROKEN: "failed",
    BoundStatus.UNKNOWN: "undecided",
}


@dataclass(frozen=True)
class JudgedBound:
    """A bound on one figure of one condition, in one context.

    Attributes:
        bound: The bound.
        result: What was measured; its `name` has the context, where it is in one.
        context: `plain` for none.
        num_contexts: Contexts of which this is the worst; 0 for plain questions.
        measured: The figure.
        status: Whether it keeps the bound.
    """

    bound: Bound
    result: Result
    context: str
    num_contexts: int
    measured: Measured
    status: BoundStatus

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.result.columns["task"])

    @property
    def name(self) -> str:
        """What the row is called on screen."""
        worst = f", worst of {self.num_contexts} contexts" if self.num_contexts else ""
        return f"{self.result.name}{worst}"

    @property
    def cells(self) -> list[str]:
        """Of the table on screen."""
        return [self.name, self.bound.name, self.measured.text, str(self.bound), self.status.value]

    @property
    def remarks(self) -> list[str]:
        """What the interval does not cover, and how much more would have to be asked."""
        return remarks_on(self.bound, self.measured, self.status)


@dataclass(frozen=True)
class GateVerdict:
    """Every condition of some logs beside bounds on its figures.

    Attributes:
        rows: A row a bound and condition, and its worst context.
        results: The conditions.
        choices: Those of em_choice.
        tasks: Those of other tasks, where a bound is on a metric of one.
        contexts: Each condition in each context.
        notes: Runs that were left out.
        on_these_questions: Whether intervals are on exactly the questions that were asked.
    """

    rows: Sequence[JudgedBound]
    results: Sequence[ConditionResult]
    choices: Sequence[ChoiceResult]
    tasks: Sequence[TaskResult]
    contexts: Sequence[ContextResult | ChoiceContextResult]
    notes: Sequence[LeftOut]
    on_these_questions: bool

    @property
    def asked(self) -> list[ConditionResult | TaskResult]:
        """The conditions that may have been asked apart."""
        return [*self.results, *self.tasks]

    @property
    def status(self) -> BoundStatus:
        """BROKEN where one bound is; else UNKNOWN where one is not decided; else KEPT."""
        statuses = {row.status for row in self.rows}
        order = (BoundStatus.BROKEN, BoundStatus.UNKNOWN)
        return next((status for status in order if status in statuses), BoundStatus.KEPT)

    @property
    def line(self) -> str:
        """How many bounds are kept, and not."""
        statuses = [row.status for row in self.rows]
        words = {
            BoundStatus.KEPT: "kept",
            BoundStatus.BROKEN: "broken",
            BoundStatus.UNKNOWN: "can't be decided",
        }
        return ", ".join(
            f"{statuses.count(status)} {text}"
            for status, text in words.items()
            if status in statuses or status is BoundStatus.KEPT
        )

    def document(self) -> Document:
        """For other programs."""
        rows = [
            {
                "task": row.task,
                "condition": row.result.name,
                "context": row.context,
                "figure": row.bound.name,
                "unit": row.bound.figure.unit,
                "value": float(row.measured.value),
                "low": float(row.measured.interval.low),
                "high": float(row.measured.interval.high),
                "side": row.bound.side,
                "limit": row.bound.limit,
                "status": row.status.value,
                "on_these_questions": self.on_these_questions,
                "remarks": " ".join(row.remarks),
            }
            for row in self.rows
        ]
        notes = [*apart_notes(self.asked), *dead_judge_notes(self.results)]
        notes += [f"left out: {note}" for note in self.notes]
        return Document("gate", self.status.value, self.line, {"bounds": rows}, notes)

    def checks(self) -> list[Check]:
        """For CI: a check a row, which says what its interval is on."""
        estimand = "these questions" if self.on_these_questions else "questions like these"
        checks = []
        for row in self.rows:
            # A mean or an exact count has one interval or none.
            on = f" on {estimand}" if row.measured.counts is not None else ""
            checks.append(
                Check(
                    row.task,
                    f"{row.name}: {row.bound.name} {row.bound}",
                    _OUTCOMES[row.status],
                    f"{row.bound.name} is {row.measured.text}{on}; the bound is {row.bound}",
                    [f"{row.name}: {remark}" for remark in row.remarks],
                )
            )
        return checks
