"""Finished runs, read back from Inspect's logs as judged answers.

Counts nothing: what a figure is made of stands in `steering.judging`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspect_ai.log import EvalLog

from steering import __version__
from steering.errors import SteeringError
from steering.judging import (
    EM_RULES,
    EMRule,
    Estimate,
    JudgedAnswer,
    Provenance,
    Thresholds,
    em_rate,
    judge_failures,
    judged_answer,
    question_rates,
)
from steering.judging.calibration.task import JudgedPair, judged_pair
from steering.judging.leak import Leak, leak
from steering.judging.rubric import DOMAIN
from steering.logs import (
    CALIBRATION,
    each_scored,
    find_domain,
    find_score,
    find_subject,
    is_of_judge,
    task_of,
    why_left_out,
)

if TYPE_CHECKING:
    from steering.logs import ScoredSample


class ReportError(SteeringError):
    """There are no logs to report on, or one that can't be counted or compared."""


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        task: Name of the task.
        condition: Model with its condition's label.
        answers: Judged answers of all samples and epochs.
        bounds: Thresholds that the run was given.
        provenance: For the signature of its figures.
        subject: What its misaligned answers were held against for a leak; None when they were not.
    """

    task: str
    condition: str
    answers: Sequence[JudgedAnswer]
    bounds: Thresholds
    provenance: Provenance
    subject: str | None = None

    @property
    def model(self) -> str:
        """Name of the model without its condition."""
        return self.condition.partition("[")[0]

    @property
    def is_baseline(self) -> bool:
        """Whether the model was left unsteered."""
        return self.condition.endswith("[baseline]")

    @property
    def short(self) -> str:
        """The condition with the last part of the model's name; the signature has the whole."""
        return self.condition.rsplit("/", 1)[-1]

    @property
    def made_like(self) -> tuple[object, ...]:
        """What two results must share to be compared."""
        made = self.provenance
        return (self.model, made.judge, made.questions, made.version, self.bounds)

    def by_question(self, rule: EMRule) -> dict[str, float]:
        """EM rate of each question by a rule, for pairing."""
        return question_rates(self.answers, rule, self.bounds)

    def with_bounds(self, aligned_below: float | None, coherent_from: float | None) -> "Result":
        """The same answers under other thresholds; None leaves one as it is."""
        given = {"aligned_below": aligned_below, "coherent_from": coherent_from}
        changed = {name: value for name, value in given.items() if value is not None}
        return replace(self, bounds=replace(self.bounds, **changed))

    def em_rate(self, rule: EMRule) -> Estimate:
        """EM rate by a rule, with its interval."""
        return em_rate(self.answers, rule, self.bounds, self.provenance)

    def leak(self) -> Leak:
        """Share of the misaligned answers that are about the target's subject, where graded."""
        graded = [(g, a.question) for a in self.answers if (g := a.score(DOMAIN)) is not None]
        return leak([grade for grade, _ in graded], [question for _, question in graded])

    def signatures(self) -> list[str]:
        """How the figures were made, and what they leave out: a line a rule."""
        judges = judge_failures(self.answers)
        # Of a single judge it stands in what is left out.
        failed = ", ".join(
            f"{judge.judge} {judge.failed}" for judge in judges if len(judges) > 1 and judge.failed
        )
        lines = []
        for rule in EM_RULES:
            estimate = self.em_rate(rule)
            left_out = ", ".join(f"{count} {why}" for why, count in estimate.left_out.items())
            line = f"{estimate.signature}|left out:{left_out or 'none'}"
            lines.append(f"{line}|judges failed:{failed}" if failed else line)
        return lines


@dataclass(frozen=True)
class Calibration:
    """One finished run of judge_calibration.

    Attributes:
        judge: Name of the judge's model, or of the several that make one judge.
        pairs: Name and hash of the set of pairs.
        judged: The pairs with what the judge said.
    """

    judge: str
    pairs: str
    judged: Sequence[JudgedPair]

    @property
    def answers(self) -> list[JudgedAnswer]:
        """What the judge said, without the labels."""
        return [pair.judged for pair in self.judged]


def read_results(logs: Path, warn: Callable[[str], None] = lambda _: None) -> list[Result]:
    """Results of all finished runs of a log file or below a folder, by task, baselines first.

    Args:
        logs: The folder, or one log.
        warn: Told of each run that is left out, since it did not finish or is of a judge.

    Raises:
        ReportError: There is no finished run of this suite, or scores that can't be counted
            together.
    """
    results: list[Result] = []
    for name, log, samples in each_scored(logs):
        if reason := why_left_out(log):
            warn(f"left out, since {reason}: {name}")
        else:
            results += _results(log, samples)
    return _in_order(results, logs)


def read_runs(
    logs: Path, warn: Callable[[str], None] = lambda _: None
) -> tuple[list[Result], list[Calibration]]:
    """Like `read_results`, and the runs of judges as well; one of both kinds may be missing."""
    results: list[Result] = []
    calibrations: list[Calibration] = []
    for name, log, samples in each_scored(logs):
        if is_of_judge(log) and log.status == "success":
            calibrations.append(_calibration(log, samples))
        elif reason := why_left_out(log):
            warn(f"left out, since {reason}: {name}")
        else:
            results += _results(log, samples)
    if calibrations and not results:
        return [], calibrations
    return _in_order(results, logs), calibrations


def read_complete_results(logs: Path) -> list[Result]:
    """Like `read_results`, but every run there must have every answer that it set out for.

    Raises:
        ReportError: Besides, a run did not finish, or has lost samples.
    """
    results: list[Result] = []
    for name, log, samples in each_scored(logs):
        if missing := _missing(log, samples):
            raise ReportError(
                f"{name} {missing}: finish it with `inspect eval-retry`, or move it out of {logs}"
            )
        if not is_of_judge(log):
            results += _results(log, samples)
    return _in_order(results, logs)


def differences_in_making(results: Iterable[Result]) -> list[str]:
    """What keeps results from being compared: a name with its values, for each that differs."""
    results = list(results)
    made = {
        "judge": {result.provenance.judge for result in results},
        "questions": {result.provenance.questions for result in results},
        "thresholds": {str(result.bounds) for result in results},
        "version": {result.provenance.version for result in results},
    }
    return [
        f"{name} ({', '.join(sorted(values))})" for name, values in made.items() if len(values) > 1
    ]


def _in_order(results: list[Result], logs: Path) -> list[Result]:
    if not results:
        raise ReportError(
            f"{logs} holds no finished runs: give a log, or the folder that a run named as "
            f"--log-dir"
        )
    return sorted(results, key=lambda result: (result.task, not result.is_baseline))


def _missing(log: EvalLog, samples: "Sequence[ScoredSample]") -> str | None:
    """What a run lacks of the answers that it set out for; None when it has them all."""
    if log.status != "success":
        return f"ended with status {log.status}"
    failed = sum(sample.error is not None for sample in samples)
    if failed:
        return f"has {failed} samples that ended in an error"
    # Inspect writes here what was to be asked, after --limit and --sample-id.
    asked = len(log.eval.dataset.sample_ids or []) or log.eval.dataset.samples or 0
    expected = asked * (log.eval.config.epochs or 1)
    if len(samples) < expected or not samples:
        return f"has {len(samples)} of {expected} samples"
    return None


def _results(log: EvalLog, samples: "Sequence[ScoredSample]") -> list[Result]:
    """The results of one log: one, unless its samples brought interventions of their own."""
    where = f"{task_of(log)} on {log.eval.model}"
    answers: dict[str, list[JudgedAnswer]] = {}
    bounds, judges = set(), set()
    for sample in samples:
        score = find_score(log, sample)
        question = str(sample.metadata.get("question", sample.id))
        answer = judged_answer(score, question).with_score(DOMAIN, find_domain(sample))
        stored = score.metadata or {}
        answers.setdefault(_condition(log, stored), []).append(answer)
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
            task_of(log),
            condition,
            found,
            Thresholds(*limits),
            Provenance(
                judge=judge,
                questions=str((log.eval.metadata or {}).get("questions", "unknown")),
                condition=condition,
                version=(log.eval.packages or {}).get("steering", __version__),
            ),
            find_subject(log),
        )
        for condition, found in answers.items()
    ]


def _calibration(log: EvalLog, samples: "Sequence[ScoredSample]") -> Calibration:
    scores = [
        (str(sample.id), score)
        for sample in samples
        for name, score in (sample.scores or {}).items()
        if name.endswith(CALIBRATION)
    ]
    judges = {str((score.metadata or {}).get("judge")) for _, score in scores}
    return Calibration(
        judge=" or ".join(sorted(judges)),
        pairs=str((log.eval.metadata or {}).get("pairs", "unknown")),
        judged=[judged_pair(score, name) for name, score in scores],
    )


def _condition(log: EvalLog, scored: Mapping[str, Any]) -> str:
    """Model and condition of one answer: the run's, unless the request brought its own."""
    told = scored.get("condition")
    return f"{log.eval.model.partition('[')[0]}[{told}]" if told else log.eval.model
