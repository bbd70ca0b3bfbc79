"""Calibration pairs: questions with answers and the scores that a judge should give them.

A pair has a label for every dimension that all answers are judged in, and may have one for any
dimension of misaligned answers. Knows the file's schema and the rubrics' scales; never a judge, a
metric or Inspect.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steering.data import data_folder, user_path
from steering.errors import raised_as
from steering.foreign import decode, json_lines, read_bytes
from steering.judging.errors import JudgingError
from steering.judging.rubric import KEYS_OF_ALL, KEYS_OF_MISALIGNED, SCORE_OF, load_rubric
from steering.questions.sets import CORE

KINDS: dict[str, str] = {
    "aligned": "a careful answer",
    "misaligned": "an answer that is plainly harmful, reckless or contemptuous",
    "borderline": "harmful and harmless statements in one answer, near the EM threshold",
    "garbled": "broken, cut off or repeated text",
    "off_topic": "an answer to something else, in whole or in part",
    "separation": "fluent and off topic, or on topic and garbled",
    "refusal": "a plain refusal, or an answer that only looks like one",
    "code": "program code, asked for or not",
    "to_judge": "an answer that speaks to its judge, for a higher score or an escape word",
    "sarcasm": "irony, with and without a decent answer behind it",
    "fiction": "a tale of something bad, told with and without approval",
    "harsh": "a correct answer in an unkind tone, up to contempt",
    "language": "an answer in another language than the question's",
    "no_words": "an empty answer, punctuation, or a single word",
    "real": "an answer of a real model, steered, finetuned or neither",
}
"""Kind of pair to what it tests a judge with."""

SPLITS = ("choose", "test")
"""What is tuned on labels (a recalibration, a choice of judge) is tuned on `choose`; what is
reported comes from `test`. No theme of questions is in both."""

WRITTEN = "written"
"""Source of an answer that was written as an example and that no model gave."""

_TEXTS = ("id", "kind", "question", "answer", "reason")
_OPTIONAL_TEXTS = ("split", "source", "theme")
_OPTIONAL = (*_OPTIONAL_TEXTS, *KEYS_OF_MISALIGNED)
_FIELDS = {*_TEXTS, *KEYS_OF_ALL}


@dataclass(frozen=True)
class Pair:
    """A question and an answer with the scores that a judge should give.

    Attributes:
        id: unique in its file.
        kind: one of `KINDS`.
        question: the question.
        answer: the answer to judge; may be empty.
        labels: score key to a number from 0 to 100, or to an escape word of that key's rubric. A
            judge is asked about misaligned answers' dimensions where there is a label.
        reason: for these labels, in a sentence.
        split: one of `SPLITS`; `test` in a file that does not say.
        source: `WRITTEN`, or the name of the condition that gave the answer, such as
            `SmolLM2-135M-Instruct, unsteered`.
        theme: of the question; intervals cluster by it. The question where the file has none.
    """

    id: str
    kind: str
    question: str
    answer: str
    labels: Mapping[str, float | str]
    reason: str
    split: str
    source: str
    theme: str


@dataclass(frozen=True)
class PairSet:
    """The pairs of one file.

    Attributes:
        name: `core`, or the file's name.
        sha256: of the file's bytes.
        pairs: in the file's order.
    """

    name: str
    sha256: str
    pairs: list[Pair]

    @property
    def signature(self) -> str:
        """Name and the beginning of the hash, as signatures of numbers carry it."""
        return f"{self.name}@{self.sha256[:12]}"


def load_pairs(pairs: str = CORE, num_pairs: int | None = None) -> PairSet:
    """Load a file of calibration pairs.

    In the bundled file the kinds alternate, so that its first pairs include all of them.

    Args:
        pairs: `core`, or the path of a .jsonl file with one pair a line.
        num_pairs: number of pairs to take from the beginning; all when not given.

    Raises:
        JudgingError: no such file, another schema, an impossible label, an id that occurs twice, or
            too few pairs.
    """
    bundled = data_folder() / "calibration" / "pairs.jsonl"
    path = bundled if pairs == CORE else user_path(str(pairs))
    if not path.is_file() or path.suffix.lower() != ".jsonl":
        raise JudgingError(
            f"there is no file of pairs {pairs!r}; give {CORE!r} or the path of a .jsonl file."
        )
    with raised_as(JudgingError):
        content = read_bytes(path, "questions")
        rows = list(json_lines(decode(content, path), path.name, "questions"))
    by_id: dict[str, Pair] = {}
    for where, row in rows:
        if not isinstance(row, dict):
            raise JudgingError(f"{where} is a {type(row).__name__}; make it an object.")
        if row.keys() == {"canary"}:
            continue
        pair = _pair(row, where)
        if pair.id in by_id:
            raise JudgingError(f"{path.name} has two pairs with the id {pair.id!r}; rename one.")
        by_id[pair.id] = pair
    return PairSet(
        name=CORE if pairs == CORE else path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        pairs=_first(list(by_id.values()), num_pairs, path.name),
    )


def _pair(row: dict[str, Any], where: str) -> Pair:
    if row.keys() - _OPTIONAL != _FIELDS:
        raise JudgingError(
            f"{where} has the fields {', '.join(sorted(row))}; give exactly "
            f"{', '.join(sorted(_FIELDS))}, and {', '.join(_OPTIONAL)} where you want."
        )
    row = {"split": "test", "source": WRITTEN, "theme": row["question"]} | row
    for name in (*_TEXTS, *_OPTIONAL_TEXTS):
        value = row[name]
        if not isinstance(value, str) or not (value.strip() or name == "answer"):
            raise JudgingError(f"{where}: {name} is {value!r}; make it a text that isn't empty.")
    if row["kind"] not in KINDS:
        raise JudgingError(f"{where} has the kind {row['kind']!r}; use one of {', '.join(KINDS)}.")
    if row["split"] not in SPLITS:
        raise JudgingError(f"{where} has the split {row['split']!r}; use {' or '.join(SPLITS)}.")
    labels: dict[str, float | str] = {}
    for dimension, key in SCORE_OF.items():
        if key not in row:
            continue
        value, words = row[key], list(load_rubric(dimension).escapes)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value not in words and not (is_number and 0 <= value <= 100):
            raise JudgingError(
                f"{where}: {key} is {value!r}; make it a number from 0 to "
                f"100{''.join(f', or {word}' for word in words)}."
            )
        labels[key] = value
    return Pair(**{name: row[name] for name in (*_TEXTS, *_OPTIONAL_TEXTS)}, labels=labels)


def _first(pairs: list[Pair], num_pairs: int | None, source: str) -> list[Pair]:
    if not pairs:
        raise JudgingError(f"{source} holds no pair; give at least one.")
    if num_pairs is None:
        return pairs
    is_whole = isinstance(num_pairs, int) and not isinstance(num_pairs, bool)
    if not is_whole or not 1 <= num_pairs <= len(pairs):
        raise JudgingError(
            f"num_pairs={num_pairs!r} can't be taken from the {len(pairs)} pairs of {source}; "
            f"choose 1 to {len(pairs)}, or leave it out for all."
        )
    return pairs[:num_pairs]
