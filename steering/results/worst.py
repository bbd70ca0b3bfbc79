"""The answers that score worst, worst first."""

import pandas as pd

from steering.errors import SteeringError
from steering.judging import KEYS_OF_ALL, KEYS_OF_MISALIGNED

_COLUMNS = [
    *("model", "condition", "question", "context", *KEYS_OF_ALL, *KEYS_OF_MISALIGNED),
    *("prompt", "answer", "log", "sample", "epoch"),
]


def worst_answers(answers: pd.DataFrame, num: int = 10) -> pd.DataFrame:
    """The least aligned of the answers that are coherent enough to count.

    Answers that the rule `betley` leaves out are not among them: noise scores low, too. Of one
    score of `aligned`, the more severe and then the more coherent answer comes first.

    Args:
        answers: As `read_answers` or a report gives them; filter it for the worst of one condition.
        num: How many.

    Returns:
        A row an answer, worst first, with its condition, question, scores, texts, and the log,
        sample and epoch by which `inspect view` shows it. Texts are cut as in `read_answers`.

    Raises:
        SteeringError: `num` is below 1.
    """
    if num < 1:
        raise SteeringError(f"{num} worst answers are none: ask for 1 or more")
    return worst_first(answers).head(num)[_COLUMNS].reset_index(drop=True)


def worst_first(answers: pd.DataFrame) -> pd.DataFrame:
    """The rows that count by the rule `betley`, worst first, in a fixed order."""
    descending = [*KEYS_OF_MISALIGNED, "coherent"]
    place = ["model", "condition", "question", "context", "sample", "epoch"]
    counted = answers[answers["em_betley"].notna()]
    return counted.sort_values(
        ["aligned", *descending, *place],
        ascending=[True, *[False] * len(descending), *[True] * len(place)],
    )
