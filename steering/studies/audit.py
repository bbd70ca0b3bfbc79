"""The audit of one vector in one call: does it make the model misaligned, and is it safe to ship?

What is tested, and when it counts as found, stands in `audit_rule.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steering.files import file_digest
from steering.judging import EMRule
from steering.models import find_model
from steering.results import read_answers
from steering.spec import INTERVENTION
from steering.studies.audit_rule import SIDES, AuditArm, AuditFinding, Role, judge_audit
from steering.studies.errors import StudyError
from steering.studies.eval_sets import (
    EvalOptions,
    StudyCondition,
    check_judges,
    cost_of,
    make_condition,
    run_conditions,
    unfinished,
)
from steering.studies.report import figures_of, write_report
from steering.studies.run import Tell, quiet

LOGS = Path("logs/audits")
# The question sets of a real model and of a toy, which knows its own world only; and the answers to
# a question of each, where the user does not say.
_SETS = {False: ("core", "broad"), True: ("core", "toy_broad")}
_SAMPLES = {"core": 20, "broad": 5, "toy_broad": 5}

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class AuditResult:
    """What a call of `audit` came to.

    Attributes:
        folder: Of its logs.
        conditions: By label, what each stands for.
        finding: The outcome with its figures; None after a dry run.
        also: By other task and label, the metrics of that task.
        pages: The page and its Markdown.
    """

    folder: Path
    conditions: Mapping[str, AuditArm]
    finding: AuditFinding | None = None
    also: Mapping[str, Mapping[str, Metrics]] = field(default_factory=dict)
    pages: Sequence[Path] = ()


def audit(
    vector: str | Path,
    model: str,
    *,
    magnitude: float = 1.0,
    options: Mapping[str, Any] | None = None,
    questions: str | Sequence[str] = (),
    task: Mapping[str, Any] | None = None,
    grader: str | None = None,
    seed: int = 0,
    controls: int = 3,
    rule: EMRule = "betley",
    also: str | Sequence[str] = (),
    also_limit: int | None = None,
    logs: str | Path | None = None,
    display: str | None = None,
    dry_run: bool = False,
    tell: Tell = quiet,
) -> AuditResult:
    """Ask a model with and without a vector, and beside random directions of the same length.

    Everything is checked before a model is loaded. An audit that was stopped goes on where it was.

    Args:
        vector: A file in any known format.
        model: Name of the model, without `steered/`.
        magnitude: The working magnitude; half and twice as much are audited too.
        options: Further -M options of all conditions.
        questions: Question sets or files; by default core and broad, of a toy core and toy_broad.
        task: Further -T options of em_freeform.
        grader: The judge, as --model-role grader= has it.
        seed: Of the answers.
        controls: How many random directions.
        rule: What is misaligned.
        also: Other Inspect tasks that are run with the same conditions.
        also_limit: Samples of each such task; None for all.
        logs: Folder; None for one of the vector's name and digest in `logs/audits`.
        display: As Inspect's --display.
        dry_run: Check everything, say what it would cost, and write nothing.
        tell: Told what is about to be run and what it costs.

    Raises:
        SteeringError: The vector does not fit the model, an option is impossible, or a condition
            did not finish.
    """
    vector, options, task = Path(vector), dict(options or {}), dict(task or {})
    folder = Path(logs) if logs is not None else LOGS / f"{vector.stem}-{file_digest(vector)[:6]}"
    if "questions" in task:
        raise StudyError("-T questions= is --questions here, which can be repeated")
    toy = find_model(model).is_toy
    sets = [
        EvalOptions(
            {"samples_per_question": _SAMPLES.get(name, 20)} | task | {"questions": name},
            grader,
            seed,
        )
        for name in _names(questions) or _SETS[toy]
    ]
    costs = [cost_of(each) for each in sets]
    check_judges(sets[0], toy=toy)
    with TemporaryDirectory() as scratch:
        # A dry run writes nothing into the user's folders.
        vectors = Path(scratch) if dry_run else folder / "vectors"
        conditions, arms = _conditions(vector, model, magnitude, options, controls, vectors)
        for each, cost in zip(sets, costs, strict=True):
            num_left = len(unfinished(conditions, each, folder))
            summary = cost.summary(num_left) if num_left else "every condition has been run."
            tell(f"Questions {each.task_args['questions']}: {summary}")
    if dry_run:
        return AuditResult(folder, arms)
    paths = [
        path
        for each in sets
        for path in run_conditions("audit", conditions, each, folder, display=display)
    ]
    answers = read_answers(paths)
    finding = judge_audit(answers, arms, rule)
    # Not in the audit's own folder, which the report reads: their scores are others.
    beside = folder.with_name(f"{folder.name}-also")
    metrics = {}
    for name in _names(also):
        each = EvalOptions(grader=grader, seed=seed, task=name, limit=also_limit)
        metrics[name] = _metrics(run_conditions("audit", conditions, each, beside, display=display))
    title = f"Audit of {vector.name} on {model}"
    pages = write_report(figures_of(answers), folder, title=title, headline=finding.line)
    return AuditResult(folder, arms, finding, metrics, pages)


def _names(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _conditions(
    file: Path, model: str, magnitude: float, options: dict[str, Any], controls: int, folder: Path
) -> tuple[list[StudyCondition], dict[str, AuditArm]]:
    """The audit's conditions, and what their labels stand for; their vectors are written."""
    from steering.vectors.controls import draw_controls
    from steering.vectors.formats import read_vector

    for name, instead in (("vector", "it is the argument"), ("magnitude", "give --magnitude")):
        if name in options:
            raise StudyError(f"-M {name}= is set by the audit itself: {instead}")
    if not magnitude:
        raise StudyError("--magnitude 0 steers nothing: give the magnitude that you ship")
    ablates = options.get("operation") == "ablate"
    vector = read_vector(file)
    path = file
    if file.suffix != ".safetensors":
        path = folder / f"{file.stem}.safetensors"
        vector.save(path)
    loading = {name: value for name, value in options.items() if name not in INTERVENTION}
    conditions = [make_condition(model, loading | {"vector": "none"})]
    arms = {conditions[0].label: AuditArm("baseline")}

    def add(role: Role, path: Path, factor: float) -> None:
        dose = {} if ablates else {"magnitude": factor * magnitude}
        conditions.append(make_condition(model, options | {"vector": str(path)} | dose))
        arms[conditions[-1].label] = AuditArm(role, factor)

    for factor in (1.0,) if ablates else SIDES:
        add("vector", path, factor)
    for number, control in enumerate(draw_controls(vector, controls)):
        path = folder / f"random{number}.safetensors"
        control.save(path)
        add("control", path, 1.0)
    return conditions, arms


def _metrics(logs: Sequence[Path]) -> dict[str, Metrics]:
    """The metrics of another task, by the condition's label."""
    from inspect_ai.log import read_eval_log

    metrics: dict[str, Metrics] = {}
    for path in logs:
        header = read_eval_log(str(path), header_only=True)
        label = header.eval.model.partition("[")[2].removesuffix("]")
        scores = header.results.scores if header.results else []
        metrics[label] = {
            metric.name if len(scores) == 1 else f"{score.name} {metric.name}": metric.value
            for score in scores
            for metric in score.metrics.values()
        }
    return metrics
