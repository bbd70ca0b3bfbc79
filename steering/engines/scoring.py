"""Answers that are given, scored under any condition, as if the model had generated them.

A row is one answer under one condition. Rows of all conditions share passes. The prompt of several
rows is computed once, and its cache is expanded; where it can't be, or where each prompt has one
row, a row is one sequence of prompt and answer. The last token of an answer is never an input. What
prompts that are not steered begin with in common is computed once, for these and for later passes.
Runs on the model's thread, between passes of the decoder.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steering.engines import EngineError
from steering.engines._nnsight import check_visits
from steering.engines.beginnings import Beginnings
from steering.engines.cache import BatchCache, begun, cache_of, expanded
from steering.engines.decoder import Decoder
from steering.engines.memory import free_cached_memory, is_out_of_memory
from steering.engines.score_rows import (
    Row,
    Scoring,
    in_chunks,
    in_passes,
    rows_of,
    shares,
    with_references,
)
from steering.engines.sequences import NAN_LOGITS, RELEASED, fail, settle
from steering.models.adapters import Adapter
from steering.vectors.batch import InterventionBatch

# Most bytes of a pass's logits, in the model's precision.
_LOGIT_BYTES = 2**30
# Most passes of one token, where a state of linear attention takes no more, before it is cheaper to
# read the prompt again with each answer.
_MOST_STEPS = 4
# Most logits that are converted to float32 at a time.
_CONVERTED = 2**25


@dataclass
class _Prompt:
    """A prompt that was read: a row of a cache."""

    cache: Any
    masks: Tensor  # [rows, tokens], of the cache
    row: int
    logits: Tensor  # [vocabulary], that predict the first token of an answer
    change: float

    @property
    def mask(self) -> Tensor:  # [tokens]
        return self.masks[self.row]


class Scorer:
    """Scores the answers of many requests, some rows in each pass."""

    def __init__(self, decoder: Decoder) -> None:
        """Score on the decoder's model."""
        self._decoder = decoder
        self._device = decoder.loaded.model.device
        self._waiting: list[Scoring] = []
        self._planned: deque[list[Row]] = deque()
        self._running: list[Scoring] = []
        self._most_rows: int | None = None
        self._beginnings = Beginnings(decoder.most_beginning)
        self.num_requests = self.num_tokens = 0
        self.seconds = 0.0

    @property
    def _one_at_a_time(self) -> bool:
        """Whether a pass has one row, so that its shape depends on no other."""
        return self._decoder.most_rows is not None or self._max_rows == 1

    def __bool__(self) -> bool:
        return bool(self._waiting or self._planned)

    def add(self, scorings: Iterable[Scoring]) -> None:
        """Queue requests."""
        self._waiting += scorings

    def fail(self, error: Exception) -> None:
        """Give every request the error."""
        for scoring in [*self._waiting, *self._running]:
            fail(scoring.future, error)
        self._waiting, self._running = [], []
        self._planned.clear()

    def run(self, max_rows: int) -> None:
        """Run the next passes, of at most `max_rows` rows each, and settle what they complete."""
        start = time.monotonic()
        self._max_rows = min(max_rows, self._most_rows or max_rows)
        if not self._planned:
            self._running, self._waiting = self._waiting, []
            self._planned.extend(in_chunks(rows_of(self._running), self._max_rows))
        if self._planned:
            self._run(self._planned.popleft(), start)

    def _run(self, chunk: list[Row], start: float) -> None:
        awaited = {row for item in self._running if not item.future.done() for row in item.rows}
        rows = [row for row in chunk if row in awaited]
        for scoring in self._running:
            if scoring.started is None and not set(rows).isdisjoint(scoring.rows):
                scoring.started = start
        try:
            with torch.inference_mode():
                if rows:
                    self._score(rows)
            for row in rows:
                row.finished = True
        except Exception as error:
            if self._decoder.session.is_stopping:
                self.fail(EngineError(RELEASED))
                return
            self._halve(rows, error)
        self.seconds += time.monotonic() - start
        for scoring in self._running:
            if all(row.finished for row in scoring.rows):
                settle(scoring.future, scoring.output)
                self.num_requests += 1
        self._running = [item for item in self._running if not item.future.done()]

    def _halve(self, rows: list[Row], error: Exception) -> None:
        """Plan rows whose passes failed again, in halves; a row that was alone fails."""
        out_of_memory = is_out_of_memory(error)
        if out_of_memory:
            self._beginnings.forget()
            free_cached_memory()
            can_halve = self._max_rows > 1
            self._most_rows = self._max_rows = max(1, self._max_rows // 2)
            if can_halve:
                later = [row for chunk in self._planned for row in chunk]
                self._planned = deque(in_chunks([*rows, *later], self._max_rows))
                return
        if len(rows) == 1:
            rows[0].failure, rows[0].finished = error, True
            return
        half = (len(rows) + 1) // 2
        parts = [*in_chunks(rows[:half], self._max_rows), *in_chunks(rows[half:], self._max_rows)]
        self._planned.extendleft(reversed(parts))

    def _score(self, rows: list[Row]) -> None:
        """Score the rows of a chunk."""
        everything = with_references(rows)
        for row in everything:
            self._decoder.session.adapters.load(row.adapter)
        invariant = self._decoder.most_rows is not None
        begins = self._read_beginnings(everything)
        whole = not (shares(everything) or invariant or begins)
        if not self._decoder.most_beginning:
            steps = max(len(row.inputs) for row in everything)
            whole = whole or invariant or steps > _MOST_STEPS
        prompts = {} if whole else self._read_prompts(everything)
        logit_bytes = self._decoder.num_logits * self._decoder.loaded.model.dtype.itemsize
        max_logits = _LOGIT_BYTES // logit_bytes
        for group in in_passes(rows, self._max_rows, max_logits, whole=whole):
            logits: dict[int, Tensor] = {}
            for part in self._of_one_cache(with_references(group), prompts):
                for row, predicted in zip(part, self._logits(part, prompts), strict=True):
                    logits[id(row)] = predicted
            self._record(group, prompts, logits)

    def _of_one_cache(
        self, rows: Sequence[Row], prompts: dict[Any, _Prompt]
    ) -> Iterable[Sequence[Row]]:
        """Rows in groups whose prompts were read in one pass."""
        if self._one_at_a_time:
            return [[row] for row in rows]
        groups: dict[int, list[Row]] = {}
        for row in rows:
            groups.setdefault(id(prompts[row.prefix].cache) if prompts else 0, []).append(row)
        return groups.values()

    def _read_beginnings(self, rows: Sequence[Row]) -> bool:
        """Read what unsteered prompts begin with in common; whether any is remembered."""
        prompts: dict[Adapter | None, dict[tuple[int, ...], None]] = {}
        for row in rows:
            if not (row.on_prompt or self._one_at_a_time):
                prompts.setdefault(row.adapter, {})[row.prompt] = None
        for adapter, distinct in prompts.items():
            for tokens in self._beginnings.worth_reading(adapter, list(distinct)):
                output, _ = self._read([Row(tokens, (), adapter, ())])
                self._beginnings.remember(adapter, tokens, cache_of(output))
        return any(self._beginning(row)[1] for row in rows)

    def _beginning(self, row: Row) -> tuple[Any, int]:
        """A remembered cache that begins as the row's prompt does, and by how many tokens."""
        if row.on_prompt or self._one_at_a_time:
            return None, 0
        return self._beginnings.longest(row.adapter, row.prompt)

    def _read_prompts(self, rows: Sequence[Row]) -> dict[Any, _Prompt]:
        """Read each distinct prompt once."""
        firsts = list({row.prefix: row for row in rows}.values())
        begin = {row: bool(self._beginning(row)[1]) for row in firsts}
        parts = [[row for row in firsts if begin[row] is begins] for begins in (True, False)]
        if self._one_at_a_time:
            parts = [[row] for row in firsts]
        prompts: dict[Any, _Prompt] = {}
        for part in filter(None, parts):
            output, mask = self._read(part)
            for index, row in enumerate(part):
                prompts[row.prefix] = _Prompt(
                    cache_of(output), mask, index, output.logits[index, -1], row.change
                )
        return prompts

    def _read(self, rows: Sequence[Row]) -> tuple[Any, Tensor]:
        """A pass over prompts, from where their remembered beginnings end; its output and mask."""
        tokens, mask = self._decoder.pad_left([row.prompt for row in rows])
        width = tokens.shape[1]
        caches, counts = zip(*map(self._beginning, rows), strict=True)
        lengths = [len(row.prompt) for row in rows]
        # All rows go on from one column: padding between tokens of a row would count as distance in
        # a sliding window.
        num_new = max(length - count for length, count in zip(lengths, counts, strict=True))
        cache = None
        if num_new < width:
            parts = [max(0, length - num_new) for length in lengths]
            cache = begun(list(zip(caches, parts, strict=True)), width - num_new)
        interventions = InterventionBatch([row.on_prompt for row in rows], self._device)
        interventions.begin_prefill(mask[:, -num_new:])
        positions = _positions(mask)[:, -num_new:]
        output = self._pass(rows, interventions, tokens[:, -num_new:], mask, positions, cache, 1)
        for row, change in zip(rows, interventions.change.tolist(), strict=True):
            row.change = change
        return output, mask

    def _logits(self, rows: Sequence[Row], prompts: dict[Any, _Prompt]) -> list[Tensor]:
        """The logits that predict each row's answer, but its first token if prompts are given."""
        if not prompts:
            return self._whole(rows)
        longest = max(len(row.inputs) for row in rows)
        read = [prompts[row.prefix] for row in rows]
        for row, prompt in zip(rows, read, strict=True):
            row.change = prompt.change
        if not longest:
            return [prompt.logits.new_zeros((0, len(prompt.logits))) for prompt in read]
        tokens, answers = self._pad_right([row.inputs for row in rows])
        if not self._decoder.most_beginning:
            return self._stepped(rows, read, tokens)
        interventions = InterventionBatch([row.on_response for row in rows], self._device)
        mask = torch.cat([torch.stack([prompt.mask for prompt in read]), answers], 1)
        interventions.begin_prefill(torch.zeros_like(answers), answers)
        picked = torch.tensor([prompt.row for prompt in read], device=self._device)
        cache = expanded(read[0].cache, picked)
        positions = _positions(mask)[:, -longest:]
        output = self._pass(rows, interventions, tokens, mask, positions, cache, longest)
        changes = interventions.change.tolist()
        for row, change in zip(rows, changes, strict=True):
            row.change = max(row.change, change)
        logits = output.logits[:, -longest:]
        return [logits[index, : len(row.inputs)] for index, row in enumerate(rows)]

    def _stepped(
        self, rows: Sequence[Row], read: Sequence[_Prompt], tokens: Tensor
    ) -> list[Tensor]:
        """The same, one token of each row a pass, for caches that go on by no more than that."""
        cache = BatchCache()
        lengths = read[0].masks.sum(1).tolist()
        cache.join(read[0].cache, read[0].masks.bool(), lengths, [prompt.row for prompt in read])
        interventions = InterventionBatch([row.on_response for row in rows], self._device)
        starts = torch.tensor([lengths[prompt.row] for prompt in read], device=self._device)
        logits = []
        for step, token in enumerate(tokens.unbind(1)):
            interventions.begin_decode()
            mask, positions = cache.begin_step(), (starts + step)[:, None]
            output = self._pass(rows, interventions, token[:, None], mask, positions, cache, 1)
            cache.end_step()
            logits.append(output.logits[:, -1])
        for row, change in zip(rows, interventions.change.tolist(), strict=True):
            row.change = max(row.change, change)
        return [
            logits_of[: len(row.inputs)]
            for row, logits_of in zip(rows, torch.stack(logits, 1), strict=True)
        ]

    def _whole(self, rows: Sequence[Row]) -> list[Tensor]:
        """The logits that predict each row's answer, of prompts with their answers."""
        tokens, mask = self._pad_right([row.prompt + row.inputs for row in rows])
        starts = torch.tensor([len(row.prompt) for row in rows], device=self._device)[:, None]
        is_prompt = torch.arange(tokens.shape[1], device=self._device) < starts
        interventions = InterventionBatch([row.interventions for row in rows], self._device)
        interventions.begin_prefill(mask.bool() & is_prompt, mask.bool() & ~is_prompt)
        first = min(len(row.prompt) for row in rows) - 1
        count = tokens.shape[1] - first
        output = self._pass(rows, interventions, tokens, mask, _positions(mask), None, count)
        for row, change in zip(rows, interventions.change.tolist(), strict=True):
            row.change = change
        logits = output.logits[:, -count:]
        begins = [len(row.prompt) - 1 - first for row in rows]
        return [
            logits[index, begin : begin + len(row.answer)]
            for index, (row, begin) in enumerate(zip(rows, begins, strict=True))
        ]

    def _pass(
        self,
        rows: Sequence[Row],
        interventions: InterventionBatch,
        tokens: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any,
        num_logits: int,
    ) -> Any:
        session = self._decoder.session
        forward = partial(self._decoder.forward, tokens, mask, positions, cache, num_logits)
        with session.adapters.active([row.adapter for row in rows]):
            output = session.run(forward, interventions)
        check_visits(interventions, 1)
        interventions.visits = dict.fromkeys(interventions.visits, 0)
        return output

    def _pad_right(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both [rows, longest]."""
        parts = [torch.tensor(row, dtype=torch.long) for row in rows]
        tokens = pad_sequence(parts, True, self._decoder.pad_token)
        mask = pad_sequence([torch.ones_like(part) for part in parts], True)
        return tokens.to(self._device), mask.to(self._device)

    def _record(
        self, rows: Sequence[Row], prompts: dict[Any, _Prompt], logits: dict[int, Tensor]
    ) -> None:
        """Give rows their scores, of the logits that predict their answers."""
        scores = []
        for row in rows:
            own = [prompts[row.prefix].logits[None]] if prompts else []
            parts = [[*own, logits[id(row)]]]
            if (reference := row.reference) is not None and row.differs:
                own = [prompts[reference.prefix].logits[None]] if prompts else []
                parts.append([*own, logits[id(reference)]])
            scores.append(_scores(row.answer, *parts))
        sizes = [len(row.answer) for row in rows]
        values = torch.cat(scores, 1).cpu()  # the one synchronisation with the device
        for row, part in zip(rows, values.split(sizes, 1), strict=True):
            row.logprobs, row.divergences, row.unsteered = part.tolist()
            if not part.isfinite().all():
                row.failure = EngineError(NAN_LOGITS)
        self.num_tokens += sum(sizes)
        for row in rows:
            if row.alternatives:
                last = logits[id(row)] if len(logits[id(row)]) else prompts[row.prefix].logits[None]
                log_p = last[-1].float().log_softmax(-1)
                row.others = log_p[list(row.alternatives)].tolist()


def _scores(
    answer: Sequence[int], logits: Sequence[Tensor], reference: Sequence[Tensor] | None = None
) -> Tensor:
    """Of each token its log probability, the divergence and the other log probability: [3, tokens].

    The logits, and those to compare with, are parts [tokens, vocabulary] of one answer. Without the
    latter the divergence is 0, and the other log probability the same.
    """
    device = logits[0].device
    tokens = torch.tensor(answer, device=device)
    values = torch.zeros((3, len(answer)), device=device)
    step = max(1, _CONVERTED // logits[0].shape[-1])
    starts = [0, *accumulate(map(len, logits))]
    for part, (first, predicted) in enumerate(zip(starts, logits, strict=False)):
        for at in range(0, len(predicted), step):
            log_p = predicted[at : at + step].float().log_softmax(-1)
            place = slice(first + at, first + at + len(log_p))
            values[[0, 2], place] = log_p.gather(1, tokens[place, None])[:, 0]
            if reference is not None:
                log_q = reference[part][at : at + step].float().log_softmax(-1)
                p = log_p.exp()
                terms = torch.where(p > 0, p * (log_p - log_q), 0.0)
                # Rounding may leave a sum of nearly equal terms just below 0.
                values[1, place] = terms.sum(-1).clamp(min=0)
                values[2, place] = log_q.gather(1, tokens[place, None])[:, 0]
    return values


def _positions(mask: Tensor) -> Tensor:
    """Positions of tokens in their own sequence; padding has that of the token before it."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
