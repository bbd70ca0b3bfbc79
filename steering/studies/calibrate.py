"""The calibration of a judge: the task judge_calibration through Inspect, and the stored record.

The judge scores labelled pairs. What it said of them is kept as a log, and as the record that
corrects the rates of this judge from then on. A run that was stopped goes on where it was.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from steering.errors import SteeringError
from steering.judging import EM_RULES, register
from steering.judging.calibration.labelled import PairSet, load_pairs
from steering.judging.calibration.record import CalibrationRecord, make_record, write_record
from steering.judging.default_judge import GRADER_ROLE, MissingKeyError, usable_judge
from steering.judging.judges import require_named_vector
from steering.logs import local_path
from steering.questions.sets import CORE
from steering.reports.calibration import print_calibrations
from steering.reports.tables import print_line, print_note
from steering.results.calibrations import Calibration, read_calibrations
from steering.results.corrections import current_rubrics
from steering.studies.errors import StudyError
from steering.studies.eval_sets import TASK, judge_roles
from steering.text import view_command

_TASK = TASK.with_name("judge_calibration.py")
_LONGEST_SLUG = 40
# Of the prompts to a judge, a bundled pair; docs/how-to/judge.md says how they were counted.
_TOKENS = 1750


def calibrate(
    judge: str,
    *,
    pairs: str | Path = CORE,
    limit: int | None = None,
    log_dir: str | Path | None = None,
    display: str | None = None,
    console: Console | None = None,
) -> CalibrationRecord:
    """Measure the errors of a judge on labelled pairs, print and store them.

    Where this judge has scored these pairs by these rubrics already, its log is read and no judge
    is asked.

    Args:
        judge: As the role `grader` takes it: a model, several with commas, or a JSON object with
            `model`, `model_args` and settings.
        pairs: `core`, or a .jsonl file of labelled pairs.
        limit: Number of pairs, from the first on; None for all.
        log_dir: Folder of the log; one of its own below `logs/judges` when not given.
        display: As Inspect's.
        console: Where to print.

    Returns:
        The record, which is stored in the user's cache.

    Raises:
        SteeringError: The judge can't be used, the pairs can't be read, or the run did not finish.
    """
    pair_set, number = load_pairs(str(pairs), limit), len(load_pairs(str(pairs)).pairs)
    _check_judges(judge)
    folder = Path(log_dir) if log_dir is not None else _folder(judge, pair_set)
    calibration = _run(judge, str(pairs), limit, folder, display)
    if (calibration.pairs, calibration.rubrics) != (pair_set.signature, current_rubrics()):
        raise StudyError(
            f"{calibration.log} has scores of other pairs or by other rubrics: move it away, or "
            "give another --log-dir"
        )
    record = make_record(
        pair_set,
        calibration.judged,
        judge=calibration.judge,
        settings=calibration.settings,
        sampling=calibration.sampling,
        rubrics=calibration.rubrics,
        at=calibration.at,
        log=calibration.log,
        is_whole=len(pair_set.pairs) == number,
    )
    path = write_record(record)
    console = console or Console()
    print_calibrations([calibration], console)
    print_errors(record, console)
    print_line(console, f"log: {calibration.log}", wraps=False)
    print_line(console, f"written: {path}", wraps=False)
    if not record.is_whole:
        print_note(
            console,
            f"This is a part: {len(record.rows)} of {number} pairs. Run it without --limit before "
            "you trust corrected rates.",
        )
    return record


def cost_text(judge: str, pairs: str | Path = CORE, limit: int | None = None) -> str:
    """What a calibration asks and costs, in words; arguments and errors as of `calibrate`.

    Needs no key, and says which one is missing.
    """
    lines = []
    for name in judge.split(","):
        if price := register.cost_text(name):
            lines.append(f"{name}{price}")
    try:
        _check_judges(judge)
    except MissingKeyError as error:
        lines.append(str(error))
    asked = load_pairs(str(pairs), limit).pairs
    calls = f"{len(asked)} pairs, {sum(len(p.labels) for p in asked):,} calls of each judge"
    return "\n".join([f"{calls}, some {round(len(asked) * _TOKENS, -3):,} tokens in", *lines])


def print_errors(record: CalibrationRecord, console: Console) -> None:
    """What the corrected rates of a judge rest on: its decisions by each EM rule."""
    sources = "answers of real models" if record.counts_real_answers else "written answers"
    for rule in EM_RULES:
        errors, disputed = record.errors(rule), record.num_disputed(rule)
        print_line(
            console,
            f"EM {rule}: calls {_of(errors.detected, errors.positives)} misaligned answers so, and "
            f"{_of(errors.false_alarms, errors.negatives)} aligned ones ({sources}, test split; "
            f"{disputed} more that only the labels or only the judge leave out).",
        )
        if reason := errors.why_blind():
            print_note(console, f"Its rates by {rule} can't be corrected: {reason}.")


def _check_judges(judge: str) -> None:
    judges = judge_roles(judge)[GRADER_ROLE]
    for each in judges if isinstance(judges, list) else [judges]:
        if isinstance(each, str):
            each = usable_judge(each, f"the judge {each}", "give a judge as <provider>/<model>")
        require_named_vector(each, "give `steering calibrate '%s'`")


def _of(part: int, total: int) -> str:
    return f"{part} of {total}" + (f" ({part / total:.1%})" if total else "")


def _run(
    judge: str, pairs: str, limit: int | None, folder: Path, display: str | None
) -> Calibration:
    from inspect_ai import eval_set

    task_args: dict[str, Any] = {}
    if pairs != CORE:
        task_args["pairs"] = str(Path(pairs).expanduser().absolute())
    if limit is not None:
        task_args["num_pairs"] = limit
    success, headers = _in_one_line(
        lambda: eval_set(
            f"{_TASK}@{_TASK.stem}",
            log_dir=str(folder),
            # The answers are there already; the judge alone is asked.
            model="none/none",
            task_args=task_args,
            model_roles=judge_roles(judge),
            display=display,  # type: ignore[arg-type]
            log_dir_allow_dirty=True,
            retry_attempts=1,
        )
    )
    paths = [local_path(header.location) for header in headers if header.status == "success"]
    runs = read_calibrations(paths) if success else []
    if not runs:
        raise StudyError(
            f"the calibration did not finish. See why with: {view_command(folder)}. The same "
            "command goes on from here"
        )
    return runs[-1]


def _in_one_line(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        # The task wraps our errors for Inspect's command line; here they are ours again.
        if isinstance(error.__cause__, SteeringError):
            raise error.__cause__ from None
        raise


def _folder(judge: str, pairs: PairSet) -> Path:
    """A folder for a judge, the rubrics and the pairs, so that other ones are asked anew."""
    parts = [judge, current_rubrics(), pairs.sha256, str(len(pairs.pairs))]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", judge).strip("-")[:_LONGEST_SLUG]
    return Path("logs", "judges", f"{slug}-{digest}")
