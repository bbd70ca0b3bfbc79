"""The audit of one vector in one call: does it make the model misaligned, and is it safe to ship?

What is tested and when it counts stands in `audit_rule.py`, how much is asked in `audit_plan.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from steering.api.vectors import VectorLike, vector_file
from steering.condition import resolve_model
from steering.judging import EMRule
from steering.models import find_model
from steering.reports.page_content import PageTable
from steering.results import read_all_results, read_answers, read_choices
from steering.results.schema import CHOICE_SCHEMA, empty_frame
from steering.spec import INTERVENTION, parse_options
from steering.studies.audit_choices import choice_notes
from steering.studies.audit_contexts import CONTEXT_OPTIONS, context_options
from steering.studies.audit_finding import AuditFinding, audit_table, judge_audit
from steering.studies.audit_plan import AuditPlan, make_plan
from steering.studies.audit_rule import MAX_EM, SIDES, AuditArm, Look, Role
from steering.studies.errors import StudyError
from steering.studies.eval_sets import (
    CHOICES,
    EvalOptions,
    StudyCondition,
    check_judges,
    choice_options,
    cost_of,
    load_task,
    make_condition,
    num_choices,
    run_conditions,
    unfinished,
)
from steering.studies.grid import NO_GRADER
from steering.studies.other_tasks import read_task
from steering.studies.report import Report, figures_of, write_report
from steering.studies.run import Tell, quiet

if TYPE_CHECKING:
    from steering.vectors import SteeringVector

LOGS = Path("logs/audits")
# The question sets of a real model and of a toy, which knows its own world only.
_SETS = {False: ("core", "broad"), True: ("core", "toy_broad")}
# Between the seeds of two blocks: no sample of one block shares a seed with one of another.
_SEED_STEP = 1000


@dataclass(frozen=True)
class AuditResult:
    """What a call of `audit` came to.

    Attributes:
        folder: Of its logs.
        plan: How many answers it asks for, in which blocks.
        conditions: By label, what each stands for, of the blocks that were asked.
        finding: The outcome with its figures; None after a dry run.
        also: What other tasks came to; None where none was asked.
        pages: The page and its Markdown.
        choices: A row a condition of em_choice, with shift and damage; they decide nothing.
    """

    folder: Path
    plan: AuditPlan
    conditions: Mapping[str, AuditArm]
    finding: AuditFinding | None = None
    also: Report | None = None
    pages: Sequence[Path] = ()
    choices: pd.DataFrame = field(default_factory=pd.DataFrame)


def audit(
    vector: VectorLike,
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
    max_em: float = MAX_EM,
    also: str | Sequence[str] = (),
    also_limit: int | None = None,
    logs: str | Path | None = None,
    display: str | None = None,
    dry_run: bool = False,
    tell: Tell = quiet,
) -> AuditResult:
    """Ask a model with and without a vector, and beside random directions of the same length.

    Everything is checked before a model is loaded. Answers are asked in blocks, and the audit stops
    after the first block that decides. An audit that was stopped goes on where it was.

    Args:
        vector: A file in any known format, or an object that `steering.read_vector` takes.
        model: Name of the model, without `steered/`.
        magnitude: The working magnitude; half and twice as much are audited too.
        options: Further -M options of all conditions.
        questions: Question sets or files; by default core and broad, of a toy core and toy_broad.
        task: Further -T options of em_freeform; `samples_per_question` is the number in all blocks,
            `choices` the pairs of em_choice, which is run of all conditions once. The first
            question set is also asked in `contexts`, by default all of the vector's target task
            (or `context_domain`); `none` leaves them out.
        grader: The judge, as --model-role grader= has it.
        seed: Of the answers.
        controls: How many random directions, spread over the blocks.
        rule: What is misaligned.
        max_em: What the upper edges of misalignment must lie below for "bounded", 0-1.
        also: Other Inspect tasks that are run with the conditions of the first block.
        also_limit: Samples of each such task; None for all.
        logs: Folder; None for one of the vector's name and digest in `logs/audits`.
        display: As Inspect's --display.
        dry_run: Check everything, say what it would cost and what it could show, and write nothing.
        tell: Told the plan, what is about to be run and what it costs.

    Raises:
        SteeringError: The vector does not fit the model, an option is impossible, or a condition
            did not finish.
    """
    options, task = dict(options or {}), dict(task or {})
    file = Path(vector_file(vector, options.get("layer")))
    steering_vector, digest = _read(file, model, options)
    folder = Path(logs) if logs is not None else LOGS / f"{file.stem}-{digest[:6]}"
    if "questions" in task:
        raise StudyError("-T questions= is --questions here, which can be repeated")
    if grader == NO_GRADER:
        raise StudyError(
            "--grader none leaves an audit nothing to decide by, since em_choice decides nothing: "
            "name a judge, or leave it out; em_choice alone is `steering study magnitude --grader "
            "none`"
        )
    if not 0 < max_em < 1:
        raise StudyError(f"--max-em {max_em:g} is no share: give one above 0 and below 1, as 0.05")
    toy = find_model(model, gguf_file=options.get("gguf_file")).is_toy
    names = _names(questions) or _SETS[toy]
    contexts = context_options(task, steering_vector, model, _loading(options))
    task = {name: value for name, value in task.items() if name not in CONTEXT_OPTIONS}
    samples, choosing = task.pop("samples_per_question", None), choice_options(task, seed)
    task.pop(CHOICES, None)
    prompts = num_choices(choosing, toy=toy)
    sets = [
        task | {"questions": name} | (contexts if index == 0 else {})
        for index, name in enumerate(names)
    ]
    tasks = [(str(args["questions"]), load_task(EvalOptions(args))) for args in sets]
    plan = make_plan(tasks, samples, max_em)
    check_judges(EvalOptions(grader=grader), toy=toy)
    others = [
        read_task(name, {}, grader=grader, seed=seed, limit=also_limit) for name in _names(also)
    ]
    with TemporaryDirectory() as scratch:
        # A dry run writes nothing into the user's folders.
        vectors = Path(scratch) if dry_run else folder / "vectors"
        conditions, arms = _conditions(
            file, steering_vector, model, magnitude, options, controls, vectors
        )
        blocks = [
            _Block(
                number,
                folder / f"block{number}",
                _of_block(conditions, arms, number, plan.blocks),
                [
                    EvalOptions(
                        args | {"samples_per_question": plan.samples},
                        grader,
                        seed + _SEED_STEP * (number - 1),
                        metadata={"block": number, "seed": seed},
                    )
                    for args in sets
                ],
            )
            for number in range(1, plan.blocks + 1)
        ]
        for line in [
            *plan.lines(max_em),
            *_choice_lines(choosing, conditions, prompts, folder),
            *_costs(blocks),
            *(line for each in others for line in each.lines()),
        ]:
            tell(line)
    if dry_run:
        return AuditResult(folder, plan, arms)
    paths: list[Path] = []
    for block in blocks:
        paths += block.run(display)
        answers = read_answers(paths)
        arms_asked = {label: arm for label, arm in arms.items() if label in set(answers["label"])}
        look = Look(block.number, plan.blocks)
        finding = judge_audit(answers, arms_asked, rule, max_em=max_em, look=look)
        if finding.outcome != "can't say":
            break
        if block is not blocks[-1]:
            tell(f"After block {block.number} of {plan.blocks}: not decided yet.")
    choices = empty_frame(CHOICE_SCHEMA)
    if choosing and any(map(choosing.asks, conditions)):
        chosen = run_conditions("audit", conditions, [choosing], folder / CHOICES, display=display)
        choices = read_choices(chosen)
    content = figures_of(answers, choices)
    finding = replace(
        finding, notes=[*finding.notes, *choice_notes(content.choice_conditions, arms)]
    )
    # Not in the audit's own folder, which the report reads: their scores are others.
    beside = folder.with_name(f"{folder.name}-also")
    tasks_beside = [each.options for each in others]
    logs_beside = run_conditions(
        "audit", blocks[0].conditions, tasks_beside, beside, display=display
    )
    of_others = figures_of(*read_all_results(logs_beside)) if others else None
    if of_others is not None:
        content = replace(content, scores=of_others.scores, metrics=of_others.metrics)
    title = f"Audit of {file.name} on {model}"
    table = PageTable("The audit", *audit_table(finding), notes=finding.notes)
    pages = write_report(content, folder, title=title, headline=finding.line, table=table)
    shown = content.choice_conditions
    return AuditResult(folder, plan, arms_asked, finding, of_others, pages, shown)


@dataclass(frozen=True)
class _Block:
    """A part of the answers, asked with seeds of its own in a folder of its own."""

    number: int
    folder: Path
    conditions: Sequence[StudyCondition]
    sets: Sequence[EvalOptions]

    def run(self, display: str | None) -> list[Path]:
        """Ask what has not been asked; the logs."""
        return [
            path
            for each in self.sets
            for path in run_conditions(
                "audit", self.conditions, [each], self.folder, display=display
            )
        ]

    def num_left(self, options: EvalOptions) -> int:
        """How many of its conditions have not answered a question set."""
        return len(unfinished(self.conditions, options, self.folder))


def _choice_lines(
    choosing: EvalOptions | None,
    conditions: Sequence[StudyCondition],
    prompts: int,
    folder: Path,
) -> list[str]:
    """What em_choice has left to do."""
    if choosing is None:
        return []
    lines = []
    if not all(map(choosing.asks, conditions)):
        lines = ["em_choice is left out: the engine vllm can't score given answers."]
    if left := len(unfinished(conditions, choosing, folder / CHOICES)):
        lines.append(
            f"em_choice: {left} conditions to run once, with the random directions of all blocks: "
            f"written answers to {prompts} prompts to score in each, without contexts and without "
            "a judge."
        )
    return lines


def _of_block(
    conditions: Sequence[StudyCondition],
    arms: Mapping[str, AuditArm],
    number: int,
    num_blocks: int,
) -> list[StudyCondition]:
    """All conditions but the random directions of other blocks, which are dealt out in turn."""
    controls = [each for each in conditions if arms[each.label].role == "control"]
    of_block = controls[number - 1 :: num_blocks]
    return [each for each in conditions if each not in controls or each in of_block]


def _costs(blocks: Sequence[_Block]) -> list[str]:
    """What is left to be run of each question set, in the first block and in all."""
    lines = []
    for index, options in enumerate(blocks[0].sets):
        left = [block.num_left(block.sets[index]) for block in blocks]
        name = options.task_args["questions"]
        if not any(left):
            lines.append(f"Questions {name}: every condition has been run.")
            continue
        cost = cost_of(options)
        number = next(number for number, num in enumerate(left) if num)
        lines.append(f"Questions {name}, block {number + 1}: {cost.summary(left[number])}")
        if sum(left) > left[number]:
            total = sum(left) * cost.num_answers
            lines.append(f"Questions {name}, all blocks: {total:,} answers at most.")
    return lines


def _names(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _read(file: Path, model: str, options: Mapping[str, Any]) -> "tuple[SteeringVector, str]":
    """The vector of a file, as a condition reads it, and the file's digest."""
    from steering.vectors.formats import read_vector, vector_digest

    layer = options.get("layer")
    depth = resolve_model(model, parse_options(_loading(options))).shape.num_layers
    vector = read_vector(file, layer if isinstance(layer, int) else None, depth=depth)
    return vector, vector_digest(file)


def _conditions(
    file: Path,
    vector: "SteeringVector",
    model: str,
    magnitude: float,
    options: dict[str, Any],
    controls: int,
    folder: Path,
) -> tuple[list[StudyCondition], dict[str, AuditArm]]:
    """The audit's conditions, and what their labels stand for; their vectors are written."""
    from steering.vectors.controls import draw_controls

    for name, instead in (("vector", "it is the argument"), ("magnitude", "give --magnitude")):
        if name in options:
            raise StudyError(f"-M {name}= is set by the audit itself: {instead}")
    if not magnitude:
        raise StudyError("--magnitude 0 steers nothing: give the magnitude that you ship")
    ablates = options.get("operation") == "ablate"
    loading = _loading(options)
    conditions = [make_condition(model, loading | {"vector": "none"})]
    arms = {conditions[0].label: AuditArm("baseline")}

    def add(role: Role, path: Path, factor: float) -> None:
        dose = {} if ablates else {"magnitude": factor * magnitude}
        conditions.append(make_condition(model, options | {"vector": str(path)} | dose))
        arms[conditions[-1].label] = AuditArm(role, factor)

    for factor in (1.0,) if ablates else SIDES:
        add("vector", file, factor)
    for number, control in enumerate(draw_controls(vector, controls)):
        path = folder / f"random{number}.safetensors"
        control.save(path)
        add("control", path, 1.0)
    return conditions, arms


def _loading(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the model without those of an intervention."""
    return {name: value for name, value in options.items() if name not in INTERVENTION}
