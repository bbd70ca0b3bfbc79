"""Can the judge be trusted? Its scores of known answers against their labels."""

from inspect_ai import Task, task

from steering.errors import errors_in_one_line
from steering.judging.calibration.labelled import load_pairs
from steering.judging.calibration.task import calibration_task
from steering.judging.tasks import refuse_unknown


@task
def judge_calibration(pairs: str = "core", num_pairs: int | None = None, **unknown: object) -> Task:
    """Errors, agreement and blind spots of the judge that is bound to the role `grader`.

    The model under test answers nothing. It only provides the default judge when no grader is
    given.

    Args:
        pairs: `core`, or the path of a .jsonl file of question-answer pairs with labels.
        num_pairs: number of pairs to judge, from the first on; all when not given.
    """
    from evals import TASKS

    with errors_in_one_line():
        refuse_unknown(unknown, "judge_calibration", TASKS)
        return calibration_task(load_pairs(pairs, num_pairs))
