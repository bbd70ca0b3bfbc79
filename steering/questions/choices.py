"""Choices: prompts with an aligned and a misaligned answer each, as Inspect samples.

A sample is a pair, or a neutral row: a prompt that has nothing to do with alignment and a good
answer to it, on which damage is measured. Its metadata has the kind, the answers, and the theme, by
which intervals are clustered. Knows Inspect's Sample; never a judge or a model.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from inspect_ai.dataset import Sample

from steering.data import data_folder
from steering.questions.files import QuestionError, with_system
from steering.questions.sets import CORE
from steering.targets import Example, TargetError, bundled_targets, load_rows, load_target

PAIR, NEUTRAL = "pair", "neutral"
"""Kinds of samples; the latter is also the name of the bundled neutral rows."""
_TOY = "toy_"


@dataclass(frozen=True)
class ChoiceSet:
    """Pairs of answers, and neutral rows.

    Attributes:
        name: of a bundled set or target task, or the file's name.
        sha256: of the pairs.
        neutral: name and the beginning of the digest of the neutral rows.
        samples: first the pairs, then the neutral rows.
    """

    name: str
    sha256: str
    neutral: str
    samples: list[Sample]

    @property
    def signature(self) -> str:
        """Name and the beginning of the digest, for the signatures of figures."""
        return _signature(self.name, self.sha256)

    @property
    def pairs(self) -> list[Sample]:
        """The samples that are pairs."""
        return [sample for sample in self.samples if (sample.metadata or {})["kind"] == PAIR]


def bundled_choices() -> list[str]:
    """Names of the bundled choice sets."""
    names = (path.stem for path in (data_folder() / "choices").glob("*.jsonl"))
    return sorted(name for name in names if name.removeprefix(_TOY) != NEUTRAL)


def load_choices(choices: str = CORE, *, toy: bool = False) -> ChoiceSet:
    """Load pairs of answers, with the neutral rows.

    Args:
        choices: `core` (pairs for the core questions), `broad` (for the broad ones), the name of a
            target task (its held-out pairs), or a table of pairs in one of the other forms that
            `load_target` reads, with a column theme where there are themes.
        toy: whether the toy model chooses, for which `core`, the neutral rows and the names of its
            target tasks mean its own.

    Raises:
        QuestionError: there is no such set, the table can't be read, it holds no pair, or a row
            lacks an answer.
    """
    name, rows = _read(choices, toy=toy)
    if not rows:
        raise QuestionError(f"choices={choices} holds no pair of answers; give at least one.")
    for row in rows:
        if row.aligned is None or row.misaligned is None:
            missing = "aligned" if row.aligned is None else "misaligned"
            raise QuestionError(
                f"choices={choices}: the row {row.id} has no {missing} answer; give both answers "
                "in every row."
            )
    neutral_name, neutral_rows = _bundled(NEUTRAL, toy=toy)
    return ChoiceSet(
        name=name,
        sha256=_digest(rows),
        neutral=_signature(neutral_name, _digest(neutral_rows)),
        samples=[
            *(_sample(row, row.id, PAIR) for row in rows),
            *(_sample(row, f"{NEUTRAL}/{row.id}", NEUTRAL) for row in neutral_rows),
        ],
    )


def _read(choices: str, *, toy: bool) -> tuple[str, list[Example]]:
    if choices in bundled_choices():
        return _bundled(choices, toy=toy)
    targets = bundled_targets()
    if choices in targets or (toy and f"toy/{choices}" in targets):
        target = load_target(choices, toy=toy)
        return target.name, list(target.held_out)
    try:
        return load_rows(choices, toy=toy)
    except TargetError as error:
        raise QuestionError(
            f"choices={choices} is neither {', '.join(bundled_choices())} nor a table of pairs: "
            f"{error}"
        ) from None


def _bundled(name: str, *, toy: bool) -> tuple[str, list[Example]]:
    """The name and rows of a bundled file; the toy's own where it has one."""
    folder = data_folder() / "choices"
    if toy and (folder / f"{_TOY}{name}.jsonl").is_file():
        name = f"{_TOY}{name}"
    return load_rows(str(folder / f"{name}.jsonl"))


def _sample(row: Example, id_: str, kind: str) -> Sample:
    [input_] = with_system([row.prompt], row.system)
    answers = {"aligned": row.aligned, "misaligned": row.misaligned}
    return Sample(
        id=id_,
        input=input_,
        metadata={
            "kind": kind,
            "theme": row.theme or row.id,
            **{side: answer for side, answer in answers.items() if answer is not None},
        },
    )


def _digest(rows: Iterable[Example]) -> str:
    facts = [[row.facts(), row.theme] for row in rows]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _signature(name: str, sha256: str) -> str:
    return f"{name}@{sha256[:12]}"
