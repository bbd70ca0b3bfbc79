"""Labels that people gave to the answers of a run: one file beside each log, a line a label.

A line is appended as soon as a label is given, and reaches the disk before the next answer is
shown. Within a stratum the answers that are labelled are always a simple random sample, however
far a labeller came: `read_labels` computes the weights from that.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from steering.errors import SteeringError
from steering.foreign import decode, json_lines, read_bytes, reason_of
from steering.logs import LogFile, log_files

LabelOutcome = Literal["misaligned", "aligned", "incoherent", "unsure"]
OUTCOMES: tuple[LabelOutcome, ...] = get_args(LabelOutcome)


class LabelError(SteeringError):
    """Answers can't be labelled, or a file of labels does not belong to a log."""


@dataclass(frozen=True)
class Label:
    """A person's label of one answer.

    Attributes:
        eval_id: Inspect's identifier of the run.
        sample: Id of the sample.
        epoch: Repetition of the sample, from 1.
        uuid: Inspect's identifier of the sample's run; empty in logs without one.
        outcome: What the answer is; `unsure` counts as no label in every estimate.
        weight: One over the probability that the answer was drawn. In a file, by the draw that was
            planned; as `read_labels` gives it, by what is labelled.
        stratum: Of the draw: the judge's outcome, and how near to the threshold.
        stratum_size: Answers in the stratum.
        seed: Of the draw.
        draw: Digest of the seed and the strata of all answers of the run.
        labeller: Who gave the label.
        seconds: From when the answer was shown to the label.
        at: When, in ISO 8601, UTC.
    """

    eval_id: str
    sample: str
    epoch: int
    uuid: str
    outcome: LabelOutcome
    weight: float
    stratum: str
    stratum_size: int
    seed: int
    draw: str
    labeller: str
    seconds: float
    at: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or self.weight < 1 or self.stratum_size < 1:
            raise ValueError("weight and stratum_size are at least 1")

    @property
    def answer(self) -> tuple[str, int]:
        """Which answer of the run: sample and epoch."""
        return self.sample, self.epoch


_LABEL = TypeAdapter(Label)


def labels_path(log: str | Path) -> Path:
    """The file of labels of a log: `NAME.labels.jsonl` beside `NAME.eval`."""
    return Path(log).with_suffix(".labels.jsonl")


def read_labels(log: str | Path | LogFile) -> list[Label]:
    """The labels of a log's answers, one an answer; none where nobody has labelled.

    Where several people labelled an answer, the outcome of most of them counts; without a majority
    it is `unsure`. The weight is the number of answers in the stratum over those of it with a label
    other than `unsure`.

    Args:
        log: One log.

    Raises:
        LabelError: The file is of another run, or a line is no label.
        LogError: The log can't be read.
    """
    return weigh(_majority(read_label_lines(log)))


def read_label_lines(log: str | Path | LogFile) -> list[Label]:
    """Each labeller's last label of each answer, weighted as planned.

    Raises:
        LabelError, LogError: As of `read_labels`.
    """
    path = labels_path(log.path if isinstance(log, LogFile) else os.path.realpath(log))
    if not path.exists():
        return []
    [file] = log_files(log)
    whole, _ = _split_tail(read_bytes(path, "questions"))
    eval_id = file.header.eval.eval_id
    labels = {}
    for where, row in json_lines(decode(whole, path), path, "questions"):
        label = _label_of(row, where)
        if label.eval_id != eval_id:
            raise LabelError(
                f"{path} has labels of run {label.eval_id}, and {file.name} is run {eval_id}: put "
                "it beside the log that it belongs to, or move it away"
            )
        # A label that was changed stands where it was first given.
        labels[label.labeller, label.answer] = label
    return list(labels.values())


def weigh(labels: Sequence[Label]) -> list[Label]:
    """Labels of one log, one an answer, with the weights that follow from what is labelled."""
    counts = Counter(label.stratum for label in labels if label.outcome != "unsure")
    return [
        replace(label, weight=label.stratum_size / max(1, counts[label.stratum]))
        for label in labels
    ]


def append_label(log: str | Path, label: Label) -> None:
    """Store a label; it is on the disk when this returns.

    A last line that a killed process left half-written is removed first.

    Raises:
        OSError: The file can't be written.
    """
    path = labels_path(log)
    line = _LABEL.dump_json(label) + b"\n"
    if path.exists():
        whole, tail = _split_tail(path.read_bytes())
        if tail:
            os.truncate(path, len(whole))
        elif whole and not whole.endswith(b"\n"):
            line = b"\n" + line
    # One write to the end of the file: those of several labellers don't mix.
    with path.open("ab", buffering=0) as file:
        file.write(line)
        os.fsync(file.fileno())


def _split_tail(content: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and a last line that was not written to its end."""
    end = content.rfind(b"\n") + 1
    # The last character of a line closes it: with less it is no JSON.
    tail = content[end:]
    return (content, b"") if tail.rstrip().endswith(b"}") else (content[:end], tail)


def _label_of(row: Any, where: str) -> Label:
    try:
        return _LABEL.validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        column = ".".join(map(str, first["loc"])) or "the line"
        raise LabelError(
            f"{where} is no label ({column}: {reason_of(ValueError(first['msg']))}): correct the "
            "line or remove it"
        ) from None


def _majority(labels: Iterable[Label]) -> list[Label]:
    """One label an answer: what most of its labellers said, or `unsure`."""
    by_answer: dict[tuple[str, int], list[Label]] = {}
    for label in labels:
        by_answer.setdefault(label.answer, []).append(label)
    settled = []
    for each in by_answer.values():
        decided = Counter(label.outcome for label in each if label.outcome != "unsure")
        winners = [one for one, count in decided.items() if 2 * count > decided.total()]
        settled.append(replace(each[0], outcome=winners[0] if winners else "unsure"))
    return settled
