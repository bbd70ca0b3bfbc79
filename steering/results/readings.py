"""What a monitor read of judged answers: a long frame, a row an answer and direction.

Runs with `-M monitor=` record it in the output of each sample. It never decides which runs count.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pandera.pandas as pa

from steering.judging import EM_RULES
from steering.logs import log_files, number_or_nan, read_log
from steering.results.counted_runs import ResultError
from steering.results.frame import read_answers
from steering.results.frame_check import check_frame
from steering.results.monitor_records import KINDS, SIDES, readings_in, record_in
from steering.results.runs import Logs
from steering.results.schema import ANSWER_SCHEMA, KEYS

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample

_OF_ANSWERS = [
    *KEYS,
    *("arm", "target", "label", "fingerprint", "version", "log"),
    *("question", "theme", "sample", "epoch"),
    *(f"em_{rule}" for rule in EM_RULES),
    *(f"left_out_{rule}" for rule in EM_RULES),
]
_PLACE = ["log", "sample", "epoch"]
_VALUES = {
    f"{kind}{side}{'_max' if how == 'max' else ''}": pa.Column(
        float,
        nullable=True,
        description=f"{meaning}: {word} over the answer's tokens, {when} the interventions",
        metadata={"unit": unit},
    )
    for kind, (meaning, unit) in KINDS.items()
    for side, when in SIDES.items()
    for how, word in (("mean", "mean"), ("max", "maximum"))
}
READING_SCHEMA = pa.DataFrameSchema(
    {
        **{name: ANSWER_SCHEMA.columns[name] for name in _OF_ANSWERS},
        "direction": pa.Column(
            str,
            description="vector that the direction is of; `steers` of one that is not named",
            metadata={"unit": ""},
        ),
        "direction_layer": pa.Column(
            int, description="block where it is read", metadata={"unit": "block index"}
        ),
        "direction_site": pa.Column(
            str, description="where in the block it is read", metadata={"unit": ""}
        ),
        "steers": pa.Column(
            bool, description="whether the condition is steered with it", metadata={"unit": ""}
        ),
        "tokens_read": pa.Column(
            int,
            pa.Check.ge(0),
            description="tokens of the answer that were read: all but the last",
            metadata={"unit": "count"},
        ),
        **_VALUES,
    },
    strict=True,
    name="readings",
)
DIRECTION = ["direction", "direction_layer", "direction_site"]


def read_readings(logs: Logs, warn: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """What was read of every judged answer of the monitored runs that count.

    Args:
        logs: A log, a folder, or several.
        warn: Called with a line for each log that is left out.

    Returns:
        The columns of `READING_SCHEMA`, a row an answer and direction; values are NaN where no
        token was read.

    Raises:
        ResultError: There is no finished run, or none was monitored.
        LogError: A log can't be read, or was not judged by this suite.
    """
    return readings_of(read_answers(logs, warn))


def readings_of(answers: pd.DataFrame) -> pd.DataFrame:
    """As `read_readings`, of answers that are read already."""
    rows: list[dict[str, Any]] = []
    monitored = answers[answers["monitor"] != ""]
    if monitored.empty:
        raise ResultError(
            "no answer here was monitored: run the task with -M monitor=default, or with the path "
            "of a vector"
        )
    for log, of_log in monitored.groupby("log", sort=False):
        columns = {
            (row["sample"], row["epoch"]): row for row in of_log[_OF_ANSWERS].to_dict("records")
        }
        try:
            for sample in _samples(str(log)):
                if (of_answer := columns.get((str(sample.id), sample.epoch))) is not None:
                    rows += [{**of_answer, **reading} for reading in readings_in(sample)]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ResultError(
                f"{Path(str(log)).name}: what a monitor recorded can't be read "
                f"({type(error).__name__}): run the task again"
            ) from None
    frame = pd.DataFrame(rows)[list(READING_SCHEMA.columns)]
    return check_frame(frame, READING_SCHEMA)


def read_token_lines(answers: pd.DataFrame) -> "dict[tuple[str, str, int], list[Any]]":
    """Tokens of answers with the projection of each on the first direction.

    Args:
        answers: Rows of the frame of answers.

    Returns:
        By log, sample and epoch a list of (token, projection after the interventions), of answers
        whose tokens were recorded.
    """
    lines = {}
    for log, rows in answers[answers["monitor"] != ""].groupby("log", sort=False):
        places = set(rows[_PLACE].itertuples(index=False, name=None))
        for sample in _samples(str(log)):
            place = (str(log), str(sample.id), sample.epoch)
            answer = record_in(sample)["answers"][0]
            if place in places and "spelling" in answer:
                values = map(number_or_nan, answer["projections"][0])
                lines[place] = list(zip(map(str, answer["spelling"]), values, strict=True))
    return lines


def _samples(log: str) -> "list[EvalSample]":
    (file,) = log_files(Path(log))
    return read_log(file).samples or []
