"""Answers to be scored as rows, and rows in passes: counts only, no tensors, no model.

A row is one answer under one condition. Rows of all conditions share passes, prompts and answers of
similar length together.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from steering.engines import ScoreOutput, ScoreRequest, check_change
from steering.models.adapters import Adapter

if TYPE_CHECKING:
    from steering.vectors.interventions import Intervention

# Most tokens of one pass, with those of an expanded cache, so that activations stay small.
_PASS_TOKENS = 8192


@dataclass(eq=False)
class Scoring:
    """A request on its way.

    Attributes:
        request: The request.
        future: Receives the output.
        arrived: When it was submitted, on the clock of `time.monotonic`.
        started: When its first pass began, on the same clock.
        rows: One for each of its answers.
    """

    request: ScoreRequest
    future: "Future[ScoreOutput]"
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    rows: "list[Row]" = field(default_factory=list)

    def output(self) -> ScoreOutput:
        """The output, once every row has its scores or failed.

        Raises:
            EngineError: A row failed, or steering changed nothing in it.
        """
        request = self.request
        for row in self.rows:
            if row.failure is not None:
                raise row.failure
        change = max(row.change for row in self.rows)
        check_change(request.interventions, change, max(map(len, request.answers)))
        return ScoreOutput(
            logprobs=[row.logprobs for row in self.rows],
            divergences=[row.divergences for row in self.rows] if request.divergence else [],
            reference=[row.unsteered for row in self.rows] if request.divergence else [],
            change=change if request.interventions else None,
            waited_s=(self.started or self.arrived) - self.arrived,
            took_s=time.monotonic() - (self.started or self.arrived),
            alternatives=[row.others for row in self.rows] if request.alternatives else [],
        )


@dataclass(eq=False)
class Row:
    """One answer under one condition; requests that ask for the same share it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    adapter: Adapter | None
    interventions: "tuple[Intervention, ...]"
    alternatives: tuple[int, ...] = ()  # to its last token
    reference: "Row | None" = None  # the same answer without any of these, if it is to be compared
    logprobs: list[float] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    unsteered: list[float] = field(default_factory=list)  # log probabilities of the reference
    others: list[float] = field(default_factory=list)  # log probabilities of the alternatives
    change: float = 0.0
    failure: Exception | None = None
    finished: bool = False

    @property
    def on_prompt(self) -> "list[Intervention]":
        return [item for item in self.interventions if item.on_prompt]

    @property
    def on_response(self) -> "list[Intervention]":
        return [item for item in self.interventions if item.on_response]

    @property
    def condition(self) -> Any:
        return self.adapter, *map(id, self.interventions)

    @property
    def differs(self) -> bool:
        """Whether it is compared with anything but itself."""
        other = self.reference
        return other is not None and (
            (other.prompt, other.condition) != (self.prompt, self.condition)
        )

    @property
    def prefix(self) -> Any:
        """What rows must have in common to go on from one cache."""
        return self.prompt, self.adapter, *map(id, self.on_prompt)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The tokens of the answer that the model reads."""
        return self.answer[:-1]


def rows_of(scorings: Sequence[Scoring]) -> list[Row]:
    """The distinct rows of requests, which get theirs."""
    rows: dict[Any, Row] = {}

    def row(
        request: ScoreRequest,
        answer: tuple[int, ...],
        alternatives: tuple[int, ...] = (),
        *,
        plain: bool = False,
    ) -> Row:
        prompt, adapter, interventions = request.prompt, request.adapter, request.interventions
        compared = request.reference_prompt or prompt
        if plain:
            prompt, adapter, interventions = compared, None, ()
        new = Row(prompt, answer, adapter, interventions, alternatives)
        other = compared if request.divergence and compared != prompt else None
        return rows.setdefault((new.prompt, answer, new.condition, alternatives, other), new)

    asked: dict[int, Row] = {}
    for scoring in scorings:
        request = scoring.request
        others = request.alternatives or ((),) * len(request.answers)
        scoring.rows = [
            row(request, answer, alternatives)
            for answer, alternatives in zip(request.answers, others, strict=True)
        ]
        for item in scoring.rows:
            asked[id(item)] = item
            if request.divergence:
                item.reference = row(request, item.answer, plain=True)
    return list(asked.values())


def in_chunks(rows: Sequence[Row], max_rows: int) -> list[list[Row]]:
    """Rows in chunks, prompts of similar length together; a chunk computes its prompts once.

    A chunk has at most as many conditions of one prompt as fit into a pass, of `max_rows` at most,
    with their reference.
    """
    by_prompt: dict[tuple[int, ...], dict[Any, list[Row]]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt, {}).setdefault(row.condition, []).append(row)
    units: list[list[Row]] = []
    for prompt, conditions in by_prompt.items():
        together = list(conditions.values())
        compares = any(row.reference for rows in together for row in rows)
        count = max(1, min(max_rows, _PASS_TOKENS // len(prompt)) - compares)
        parts = (together[at : at + count] for at in range(0, len(together), count))
        units += [list(chain.from_iterable(part)) for part in parts]
    chunks: list[list[Row]] = []
    used = 0
    for unit in sorted(units, key=_order):
        cost = len({row.prefix for row in with_references(unit)})
        width = len(unit[0].prompt)
        if (
            not chunks
            or used + cost > max_rows
            or (used + cost) * width > _PASS_TOKENS
            or shares(unit) != shares(chunks[-1])
        ):
            chunks.append([])
            used = 0
        chunks[-1] += unit
        used += cost
    return chunks


def in_passes(
    rows: Sequence[Row], max_rows: int, max_logits: int, *, whole: bool
) -> list[list[Row]]:
    """Rows in passes, answers of similar length together, each answer with all its conditions.

    Args:
        rows: Of one chunk.
        max_rows: Most of them in a pass, with those that they are compared with.
        max_logits: Most tokens of a pass that have logits.
        whole: Whether the pass covers prompts too.
    """
    cells: dict[Any, list[Row]] = {}
    for row in rows:
        cells.setdefault((row.prompt, row.answer), []).append(row)

    def most_rows(prompt: int, answer: int) -> int:
        width = prompt + answer
        by_logits = max_logits // (width if whole else answer)
        return min(max_rows, _PASS_TOKENS // width, by_logits)

    parts: list[list[Row]] = []
    for (prompt, answer), cell in cells.items():
        compares = any(row.reference for row in cell)
        count = max(1, most_rows(len(prompt), len(answer)) - compares)
        parts += [cell[at : at + count] for at in range(0, len(cell), count)]
    passes: list[list[Row]] = []
    for part in sorted(parts, key=lambda part: len(part[0].answer)):
        together = [*(passes[-1] if passes else []), *part]
        longest = max(len(row.prompt) for row in together), len(part[0].answer)
        if not passes or len(with_references(together)) > most_rows(*longest):
            passes.append([])
        passes[-1] += part
    return passes


def with_references(rows: Sequence[Row]) -> list[Row]:
    """The rows, and those that they are compared with."""
    references = [row.reference for row in rows if row.reference is not None]
    return list(dict.fromkeys([*rows, *references]))


def shares(rows: Sequence[Row]) -> bool:
    """Whether any of the rows go on from one prompt."""
    everything = with_references(rows)
    return len({row.prefix for row in everything}) < len(everything)


def _order(unit: Sequence[Row]) -> tuple[bool, int]:
    """Units that share prompts by the length of the prompt, others by that of the whole row."""
    shared = shares(unit)
    return shared, len(unit[0].prompt) + (0 if shared else len(unit[0].answer))
