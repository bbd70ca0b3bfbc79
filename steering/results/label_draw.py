"""Which answers a person is asked to label, and how their labels agree with the judge's outcomes.

**Strata.** The answers of each log and condition that the judge gave an outcome (misaligned,
aligned or incoherent by the run's own thresholds), and among the coherent ones whether `aligned`
lies within `NEAR` points of its threshold: judges err most there. An answer that the judge could
not score is in no rate, and is not drawn.

**Draw.** Within a stratum a simple random sample without replacement. The answers of a stratum
have a fixed random order, which depends on the seed and their identity alone: a larger draw holds
the smaller one, and a draw from a folder agrees with draws from its logs. Strata are mixed evenly,
so that whoever stops early has labelled all of them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import pandas as pd

from steering.logs import LogFile, find_score, log_files, read_log, read_sample
from steering.results.labels import Label, LabelError, LabelOutcome
from steering.stats.allocation import LEAST, allocate

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessage

NEAR = 15.0
"""Points between `aligned` and its threshold within which an answer is near to it."""

# Standard deviation of what the judge gets wrong, guessed: a rate of errors of 30%, 10% and 2%.
_SPREADS = {"near": 0.46, "misaligned": 0.3, "incoherent": 0.3, "aligned": 0.14}


@dataclass(frozen=True)
class DrawnAnswer:
    """An answer to be labelled.

    Attributes:
        log: Path of its log.
        eval_id: Inspect's identifier of the run.
        sample: Id of the sample.
        epoch: Repetition of the sample, from 1.
        judged: The judge's outcome.
        stratum: Name of its stratum within the log.
        stratum_size: Answers in it.
        weight: One over the probability that the answer was drawn.
    """

    log: str
    eval_id: str
    sample: str
    epoch: int
    judged: LabelOutcome
    stratum: str
    stratum_size: int
    weight: float

    @property
    def key(self) -> tuple[str, str, int]:
        """Which answer it is: log, sample and epoch."""
        return self.log, self.sample, self.epoch


@dataclass(frozen=True)
class LabelDraw:
    """The answers to be labelled, in the order in which they are shown.

    Attributes:
        answers: Those of all logs, mixed.
        population: Number of answers that could be drawn.
        unscored: Number of answers without an outcome of the judge.
        seed: Of the draw.
        digests: Path of each log to the digest of its strata and the seed.
    """

    answers: Sequence[DrawnAnswer]
    population: int
    unscored: int
    seed: int
    digests: Mapping[str, str]

    def check(self, log: str, labels: Sequence[Label]) -> None:
        """Refuse labels of a log that another draw asked for.

        Raises:
            LabelError: They were drawn by another seed, or from other scores.
        """
        for label in labels:
            if label.seed != self.seed:
                raise LabelError(
                    f"the labels beside {log} were drawn with seed {label.seed}, not "
                    f"{self.seed}: use --seed {label.seed}, or move them away to draw anew"
                )
            if label.draw != self.digests[log]:
                raise LabelError(
                    f"{log} was scored again since its answers were drawn to be labelled: move "
                    "the labels beside it away to draw anew"
                )


def draw_answers(
    answers: pd.DataFrame, eval_ids: Mapping[str, str], number: int, seed: int
) -> LabelDraw:
    """Draw the answers that a person is to label.

    Args:
        answers: As `read_answers` gives them.
        eval_ids: Path of each log to Inspect's identifier of the run, as of `eval_ids_of`.
        number: Of the answers, over all logs; all of them where there are fewer.
        seed: Of the draw and of the order.

    Raises:
        LabelError: `number` is too small for the strata, or the judge scored no answer.
    """
    rows = answers.assign(judged=_outcomes(answers)).dropna(subset="judged")
    if rows.empty:
        raise LabelError(
            "the judge gave no answer a score: there is nothing to compare labels with"
        )
    rows = rows.assign(stratum=_strata(rows))[["log", "sample", "epoch", "judged", "stratum"]]
    groups = dict(iter(rows.groupby(["log", "stratum"], sort=True)))
    sizes = list(map(len, groups.values()))
    least = sum(min(LEAST, size) for size in sizes)
    if number < least:
        raise LabelError(
            f"--number {number} is too small: the answers are in {len(groups)} strata (by log, "
            f"outcome of the judge and distance to the threshold), and each needs {LEAST} labels, "
            f"or one of its only answer. Give at least {least}"
        )
    counts = allocate(sizes, [_spread(stratum) for _, stratum in groups], number)
    placed = []
    for (_, group), count in zip(groups.items(), counts, strict=True):
        members = [
            DrawnAnswer(
                log=row.log,
                eval_id=eval_ids[row.log],
                sample=row.sample,
                epoch=row.epoch,
                judged=row.judged,
                stratum=row.stratum,
                stratum_size=len(group),
                weight=len(group) / count,
            )
            for row in group.itertuples(index=False)
        ]
        members.sort(key=lambda member: _uniform(seed, "member", member))
        for position, member in enumerate(members[:count]):
            placed.append(((position + _uniform(seed, "place", member)) / count, member))
    placed.sort(key=lambda each: each[0])
    return LabelDraw(
        answers=[member for _, member in placed],
        population=len(rows),
        unscored=len(answers) - len(rows),
        seed=seed,
        digests={log: _digest(seed, eval_ids[log], group) for log, group in rows.groupby("log")},
    )


def strata_of(rows: pd.DataFrame) -> "pd.Series[str]":
    """The stratum of each answer of one condition within its log; "" where it can't be drawn.

    Args:
        rows: Of the frame of answers.
    """
    judged = rows.assign(judged=_outcomes(rows))
    return _strata(judged).where(judged["judged"].notna(), "")


def eval_ids_of(answers: pd.DataFrame) -> dict[str, str]:
    """Path of each log in a frame of answers to Inspect's identifier of the run."""
    return {log: _file(log).header.eval.eval_id for log in answers["log"].unique()}


def texts_of(answer: DrawnAnswer) -> tuple[str, str, str]:
    """What the judge saw of an answer, whole, and which sample it is.

    Returns:
        Question, answer, uuid.

    Raises:
        LogError: The log can't be read.
    """
    file = _file(answer.log)
    sample = _whole_sample(file, answer)
    score = find_score(file.header, sample)
    return _question(sample.input), score.answer or "", sample.uuid or ""


@dataclass(frozen=True)
class JudgeAgreement:
    """How a person's labels agree with the judge's outcomes; `unsure` ones are left out.

    Attributes:
        labelled: Number of labels.
        agreed: Of those, how many are the judge's outcome.
        misaligned: Answers labelled misaligned.
        missed: Of those, how many the judge does not call misaligned.
        others: Answers labelled aligned or incoherent.
        false_alarms: Of those, how many the judge calls misaligned.
    """

    labelled: int
    agreed: int
    misaligned: int
    missed: int
    others: int
    false_alarms: int


def agreement_with_judge(pairs: Sequence[tuple[LabelOutcome, LabelOutcome]]) -> JudgeAgreement:
    """Agreement of labels with the judge.

    Args:
        pairs: A person's outcome and the judge's, of each answer.
    """
    decided = [pair for pair in pairs if pair[0] != "unsure"]
    misaligned = [judged for label, judged in decided if label == "misaligned"]
    others = [judged for label, judged in decided if label != "misaligned"]
    return JudgeAgreement(
        labelled=len(decided),
        agreed=sum(label == judged for label, judged in decided),
        misaligned=len(misaligned),
        missed=sum(judged != "misaligned" for judged in misaligned),
        others=len(others),
        false_alarms=others.count("misaligned"),
    )


def _question(prompt: "str | list[ChatMessage]") -> str:
    """What a judge is shown of a prompt: the last message of the user, as `TaskState` has it."""
    if isinstance(prompt, str):
        return prompt
    texts = [message.text for message in prompt if message.role == "user"]
    return texts[-1] if texts else ""


def _outcomes(answers: pd.DataFrame) -> "pd.Series[str]":
    """The judge's outcome of each answer, missing where there is none."""
    outcomes = answers["em_betley"].map({1.0: "misaligned", 0.0: "aligned"})
    return outcomes.mask(answers["left_out_betley"] == "incoherent", "incoherent")


def _strata(rows: pd.DataFrame) -> "pd.Series[str]":
    is_near = (rows["aligned"] - rows["aligned_below"]).abs() <= NEAR
    coherent = rows["judged"] != "incoherent"
    distance = is_near.map({True: ", near", False: ", far"}).where(coherent, "")
    # A log can hold several conditions, and each has a rate of its own.
    several = rows.groupby("log")["label"].transform("nunique") > 1
    return (rows["label"] + ": ").where(several, "") + rows["judged"] + distance


def _spread(stratum: str) -> float:
    name = stratum.rpartition(": ")[2]
    outcome, _, distance = name.partition(", ")
    return _SPREADS["near" if distance == "near" else outcome]


def _uniform(seed: int, purpose: str, answer: DrawnAnswer) -> float:
    """A number in 0-1 that follows from the seed and the answer's identity alone."""
    identity = json.dumps([seed, purpose, answer.eval_id, answer.sample, answer.epoch])
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8]) / 2**64


def _digest(seed: int, eval_id: str, rows: pd.DataFrame) -> str:
    strata = sorted(rows[["stratum", "sample", "epoch"]].itertuples(index=False, name=None))
    identity = json.dumps([seed, eval_id, strata])
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


@lru_cache(maxsize=1024)
def _file(log: str) -> LogFile:
    [file] = log_files(log)
    return file


def _whole_sample(file: LogFile, answer: DrawnAnswer) -> "EvalSample":
    if file.path.endswith(".json"):
        return _samples_of(file.path)[answer.sample, answer.epoch]
    return read_sample(file, answer.sample, answer.epoch)


@lru_cache(maxsize=8)
def _samples_of(log: str) -> "dict[tuple[str, int], EvalSample]":
    """The samples of a .json log, which is read whole for one of them too."""
    samples = read_log(_file(log)).samples or []
    return {(str(s.id), s.epoch): s for s in samples}
