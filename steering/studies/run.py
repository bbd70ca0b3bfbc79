"""A whole study in one call: checked, costed, run, judged and written down."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from steering.api.vectors import vector_file, with_vector_files
from steering.models import find_model
from steering.results import left_out, read_all_results
from steering.studies.arms import ArmComparison, compare_arms
from steering.studies.errors import StudyError
from steering.studies.eval_sets import (
    Cost,
    EvalOptions,
    check_judges,
    cost_of,
    num_choices,
    run_conditions,
    unfinished,
)
from steering.studies.finetuned import FinetunedStudy
from steering.studies.grid import FACTORS, NO_GRADER, Study
from steering.studies.report import Report, figures_of, write_report
from steering.studies.shards import Shard, read_shard
from steering.studies.study_file import keep_study, make_study, read_study
from steering.training.progress import progress_bar

LOGS = Path("logs/studies")

Tell = Callable[[str], None]
"""Told what is about to be run and what it costs, line by line."""


def quiet(line: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class StudyResult:
    """What a call of `run_study` came to.

    Attributes:
        study: With its defaults filled in.
        folder: Of its logs.
        shard: Which part was run.
        num_conditions: Of that part.
        num_unfinished: How many of them had not been run before.
        cost: Of each condition.
        is_done: Whether all conditions of that part are finished now.
        report: Answers, figures, verdicts and pages; None after a dry run, and for a shard.
        comparisons: Both arms at the levels that they share; of the study `finetuned`.
        not_compared: Why the arms were not compared, where they were not.
    """

    study: Study
    folder: Path
    shard: Shard
    num_conditions: int
    num_unfinished: int
    cost: Cost
    is_done: bool = False
    report: Report | None = None
    comparisons: Sequence[ArmComparison] = ()
    not_compared: Sequence[str] = ()


def run_study(
    study: str | Path | Study,
    model: str | Sequence[str] | None = None,
    *,
    logs: str | Path | None = None,
    shard: str | None = None,
    dry_run: bool = False,
    display: str | None = None,
    tell: Tell = quiet,
    **fields: Any,
) -> StudyResult:
    """Run what has not been run of a study, and say what came of it.

    Everything is checked before a model is loaded or anything is trained. A study that was stopped
    goes on where it was; values that are added later join those that are there.

    Args:
        study: A factor (`steering.studies.grid.FACTORS`), a study file, or a `Study`.
        model: The model, or several; None for the factor's own, which are toys.
        logs: The study's folder; None for a folder of the factor's name in `logs/studies`.
        shard: "2/4" runs the second of four parts, on one machine of several.
        dry_run: Check everything, say what it would cost, and write nothing.
        display: As Inspect's --display.
        tell: Told what is about to be run and what it costs.
        **fields: Of the study: `axes={"magnitude": [1, 2]}`, `options` (as -M), `task` (as -T),
            `grader`, `seed`; `tasks`, other Inspect tasks in place of em_freeform and em_choice
            (`task` has their options; `task="evals/mine.py"` is the same as `tasks=`), `also`,
            others besides them, and `limit` of their samples; of the study `rank` also `top` and
            `top_of`; of the study `finetuned` `target`, `magnitudes`, `training_epochs`, `scales`,
            `build_seeds`, `settings` and `rule`; of the study `arms` these and `arms`, `examples`,
            `contrasts` and `control_magnitudes`.

    Raises:
        SteeringError: Something about the study is impossible, or a condition did not finish.
    """
    study = _study(study, model, fields)
    folder = Path(logs) if logs is not None else LOGS / study.factor
    part = read_shard(shard)
    options, choices = study.eval_options(), study.choice_sets()
    cost = cost_of(options) if study.is_judged else Cost(0, 0, leak=False)
    planned = study.conditions(folder, part)
    files = {(each.model, each.options.get("gguf_file")) for each in planned.ready}
    toys = {find_model(name, gguf_file=gguf_file).is_toy for name, gguf_file in files}
    for toy in toys if study.is_judged else ():
        check_judges(options, toy=toy)
    prompts = sum(num_choices(each, toy=toys == {True}) for each in choices)
    cost = replace(cost, num_choices=prompts)
    others = study.other_tasks()
    if any(each.is_judged for each in others):
        for toy in toys:
            check_judges(EvalOptions(grader=study.grader), toy=toy)
    elif others and study.grader not in (None, NO_GRADER):
        check_judges(EvalOptions(grader=study.grader), toy=False)
    tasks = [
        *([options] if study.is_judged else []),
        *choices,
        *(each.options for each in others),
    ]
    if not tasks:
        raise StudyError(
            "--grader none and -T choices=none leave nothing to ask: leave one of them out, or "
            "name a task as --task"
        )
    left = {each.name for task in tasks for each in unfinished(planned.ready, task, folder)}
    num_unfinished = planned.num_missing + len(left)
    result = StudyResult(study, folder, part, len(planned), num_unfinished, cost)
    if planned.note:
        tell(planned.note)
    of = "" if part.is_whole else f", shard {part}"
    tell(f"Study {study.factor}{of}: {FACTORS[study.factor].varies}.")
    if "method" in study.options:
        tell(f"Vectors are built by method={study.options['method']}.")
    if not planned:
        tell("No conditions fall in this shard: nothing to run.")
        return result
    tell(cost.summary(num_unfinished) if num_unfinished else "Every condition has been run.")
    for each in others if num_unfinished else ():
        for line in each.lines():
            tell(line)
    if choices and not all(map(choices[0].asks, planned.ready)):
        tell("em_choice is left out where the engine is vllm, which can't score given answers.")
    if dry_run:
        return result
    keep_study(study, folder)
    ready = study.conditions(folder, part, progress_bar).ready
    paths = run_conditions(study.factor, ready, tasks, folder, display=display)
    result = replace(result, is_done=True)
    if not part.is_whole:
        return result
    frames = read_all_results(paths)
    for frame in frames:
        for note in left_out(frame):
            tell(str(note))
    report = figures_of(*frames, logs=folder)
    page = folder / "report" / "index.html"
    # Nothing is new, and pictures take seconds.
    is_new = num_unfinished or not page.exists()
    pages = write_report(report, folder) if is_new else [page]
    result = replace(result, report=replace(report, files=pages))
    if study.factor == "finetuned" and isinstance(study, FinetunedStudy) and study.is_judged:
        comparisons, reasons = compare_arms(report.answers, study.rule)
        result = replace(result, comparisons=comparisons, not_compared=reasons)
    return result


def _study(
    study: str | Path | Study, model: str | Sequence[str] | None, fields: dict[str, Any]
) -> Study:
    if isinstance(fields.get("task"), str | PathLike):
        if "tasks" in fields:
            raise StudyError(f"task={fields['task']!r} and tasks= both name tasks: leave task= out")
        fields = {name: value for name, value in fields.items() if name != "task"} | {
            "tasks": fields["task"]
        }
    if isinstance(study, str) and (study in FACTORS or not Path(study).is_file()):
        if "options" in fields:
            fields = {**fields, "options": with_vector_files(fields["options"] or {})}
        if isinstance(axes := fields.get("axes"), Mapping) and "vector" in axes:
            vectors = axes["vector"]
            several = vectors if isinstance(vectors, list | tuple) else [vectors]
            fields = {**fields, "axes": {**axes, "vector": list(map(vector_file, several))}}
        return make_study(study, model, **fields)
    if model is not None or fields:
        names = ", ".join(["model"] * (model is not None) + sorted(fields))
        raise StudyError(f"{study} says all of the study: leave out {names}, or change the file")
    return study if isinstance(study, Study) else read_study(Path(study))


def run_studies(
    model: str = "toy",
    *,
    logs: str | Path = LOGS,
    tell: Tell = quiet,
    **arguments: Any,
) -> Iterator[StudyResult]:
    """Run every study in turn but those that are long (`StudyFactor.is_long`).

    Studies that compare models are run on the toys only, and left out for any other model. The logs
    of each go into a folder of its factor's name. Other arguments are as `run_study` takes them.
    """
    options = arguments.get("options") or {}
    toy = find_model(model, gguf_file=options.get("gguf_file")).is_toy
    for factor, entry in FACTORS.items():
        if entry.is_long:
            tell(f"Study {factor}: left out, since it is long; run steering study {factor}.")
            continue
        if entry.compares_models and not toy:
            tell(f"Study {factor}: left out; run it with --model first,second.")
            continue
        models = None if entry.compares_models else model
        yield run_study(factor, models, logs=Path(logs) / factor, tell=tell, **arguments)
