"""The running batch of one loaded model: rows are let in, decoded a token a pass, and let go.

Runs on the model's thread. Which rows come when is not decided here.
"""

import threading
import time
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.utils.import_utils import is_flash_linear_attention_available

from steering.engines import EngineError, Telemetry, TokenLogprob
from steering.engines._nnsight import Session
from steering.engines.cache import BatchCache, bytes_of
from steering.engines.memory import free_memory, is_out_of_memory
from steering.engines.sampling import BROKEN, Sampler
from steering.engines.sequences import Sequence, broken, in_chunks
from steering.models import LoadedModel, family_of
from steering.vectors.batch import InterventionBatch

# Share of the free memory that rows may take: the rest is for activations.
_SHARE = 0.7
# Copies of the logits that drawing a token holds at one time, float64 counted twice.
_LOGIT_COPIES = 8


@dataclass
class _Read:
    """Prompts that were read, and the rows that go on from them, n of them.

    Attributes:
        rows: The rows.
        sampler: Theirs.
        tokens: [n], the first token of each.
        served: Index of each row's prompt.
        lengths: Tokens of each prompt.
        mask: [prompts, tokens], True on real tokens.
        cache: What the model remembers of the prompts.
    """

    rows: list[Sequence]
    sampler: Sampler
    tokens: Tensor
    served: list[int]
    lengths: list[int]
    mask: Tensor
    cache: Any


class Decoder:
    """Rows that are decoded together.

    Attributes:
        rows: Those in the batch now.
        thrown_out: Those that a failed pass has thrown out, to be started again.
        out_of_memory: Whether the last failed pass was short of memory.
    """

    def __init__(self, loaded: LoadedModel, stopping: threading.Event) -> None:
        """Wrap a model. Once `stopping` is set, nothing more is run on it."""
        self.loaded = loaded
        self.session = Session(loaded, stopping)
        self.rows: list[Sequence] = []
        self.thrown_out: list[Sequence] = []
        self.out_of_memory = False
        self._device = loaded.model.device
        # Counted now: adapters that come later are not the model's own.
        self._parameters = sum(weights.numel() for weights in loaded.model.parameters())
        self._takes_positions = loaded.accepts("position_ids")
        # Only the last position's logits are read; all would cost rows x tokens x vocabulary.
        self._last_only = {"logits_to_keep": 1} if loaded.accepts("logits_to_keep") else {}
        pad = loaded.tokenizer.pad_token_id
        self._pad = loaded.end_tokens[0] if pad is None else pad
        self._stopping = stopping
        self._max_rows = 1
        self._busy_s = self._row_share = 0.0
        self._num_rows = self._num_tokens = self._num_passes = 0
        self._clear()

    def room(self) -> tuple[int, int]:
        """Tokens that the free memory has room for, and what a row takes besides, in tokens."""
        prompt = torch.full((1, 2), self._pad, device=self._device)
        with torch.inference_mode():
            output = self._forward(
                prompt, torch.ones_like(prompt), torch.arange(2, device=self._device)[None], None
            )
        a_token, a_row = bytes_of(output.past_key_values)
        a_row += _LOGIT_COPIES * 4 * output.logits.shape[-1]
        a_token = max(1, a_token)
        return int(_SHARE * free_memory(self._device)) // a_token, -(-a_row // a_token)

    def telemetry(self, waiting: int) -> Telemetry:
        """What was done so far, with the number of rows that wait now."""
        config = self.loaded.model.config
        family, linear = family_of(config.get_text_config())
        return Telemetry(
            rows=self._num_rows,
            tokens=self._num_tokens,
            busy_s=self._busy_s,
            passes=self._num_passes,
            occupancy=self._row_share / self._num_passes if self._num_passes else 0.0,
            waiting=waiting,
            attention=config._attn_implementation,
            kernels=_has_fused_kernels(self._device) if linear else None,
            family=family,
            parameters=self._parameters,
        )

    def _clear(self) -> None:
        """An empty batch; the memory of the last one is given back."""
        self.rows = []
        self._cache = BatchCache()
        self._sampler = Sampler()
        self._plan = InterventionBatch([])
        self._passes = 0
        # While newcomers join, the batch is not whole.
        self._joining = False
        self._tokens = torch.zeros(0, dtype=torch.long, device=self._device)
        self._positions = self._tokens

    def _lay_out(self) -> None:
        """Lay out what is done to the rows of the present batch."""
        self._plan = InterventionBatch(
            [row.acting("on_response") for row in self.rows], self._device
        )
        self._passes = 0

    def admit(self, rows: abc.Sequence[Sequence], max_rows: int) -> None:
        """Read the prompts of newcomers and let them into the batch.

        Args:
            rows: Those that were waiting.
            max_rows: Rows that may be decoded together, for the record.
        """
        began = time.monotonic()
        for row in rows:
            row.started = began
        self._max_rows = max_rows
        chunks = in_chunks([rows[index] for index in self._settle(rows)])
        if not chunks:
            return
        while chunks:
            prompts = chunks.pop(0)
            try:
                with torch.inference_mode():
                    read = self._read(prompts)
                    if read.rows:
                        self._join(read)
            except Exception as error:
                newcomers = [row for same in prompts for row in same]
                if self._joining or is_out_of_memory(error):
                    later = [row for served in chunks for same in served for row in same]
                    self._throw_out(error, newcomers)
                    self.thrown_out += [row.fresh() for row in later]
                    break
                if len(newcomers) == 1:
                    newcomers[0].fail(error)
                    continue
                left = [row.fresh() for row in newcomers if not row.told]
                half = (len(left) + 1) // 2
                chunks[:0] = [*in_chunks(left[:half]), *in_chunks(left[half:])]
        self._guarded(self._lay_out)
        self._busy_s += time.monotonic() - began

    def run(self, interrupted: Callable[[], bool]) -> None:
        """Decode until nobody is left or, after a pass, `interrupted` says to stop."""
        if self.rows:
            began = time.monotonic()
            work = partial(self._decode, interrupted)
            self._guarded(lambda: self.session.run(work, self._plan))
            self._busy_s += time.monotonic() - began

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do work for the batch, which is thrown out if it fails."""
        try:
            with torch.inference_mode():
                work()
        except Exception as error:
            self._throw_out(error, [])

    def fail(self, error: Exception) -> None:
        """Empty the batch and tell every row what went wrong."""
        for row in [*self.rows, *self.thrown_out]:
            row.fail(error)
        self.thrown_out = []
        self._clear()

    def _throw_out(self, error: Exception, newcomers: abc.Sequence[Sequence]) -> None:
        """Empty the batch. A row that was alone is to blame; of several, each is started again."""
        joined = set(map(id, self.rows))
        lost = [*self.rows, *(row for row in newcomers if id(row) not in joined)]
        self.out_of_memory = is_out_of_memory(error)
        self._clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(lost) == 1 or self._stopping.is_set():
            for row in lost:
                row.fail(error)
        else:
            self.thrown_out += [row.fresh() for row in lost if not row.told]

    def _read(self, prompts: abc.Sequence[abc.Sequence[Sequence]]) -> "_Read":
        """One pass over prompts, each with the rows that it serves, and their first tokens."""
        newcomers = [row for rows in prompts for row in rows]
        served = [index for index, rows in enumerate(prompts) for _ in rows]
        ids = [rows[0].row.prompt for rows in prompts]
        for rows in prompts:
            self.session.adapters.load(rows[0].row.adapter)
        tokens, mask = self._pad_left(ids)
        plan = InterventionBatch([rows[0].acting("on_prompt") for rows in prompts], self._device)
        plan.begin_prefill(mask)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with self.session.adapters.acting([rows[0].row.adapter for rows in prompts]):
            output = self.session.run(lambda: self._forward(tokens, mask, positions, None), plan)
        _check_reached(plan, 1)
        if plan.sites:
            change = plan.change.tolist()
            for row, prompt in zip(newcomers, served, strict=True):
                row.change = change[prompt]
        sampler = Sampler([row.row.sampling for row in newcomers])
        picked = torch.tensor(served, device=self._device)
        drawn = self._draw(newcomers, sampler, output.logits[:, -1][picked])
        left = self._settle(newcomers)
        sampler.keep(left)
        return _Read(
            rows=[newcomers[index] for index in left],
            sampler=sampler,
            tokens=drawn[torch.tensor(left, dtype=torch.long, device=self._device)],
            served=[served[index] for index in left],
            lengths=[len(prompt) for prompt in ids],
            mask=mask.bool(),
            cache=output.past_key_values,
        )

    def _join(self, read: "_Read") -> None:
        """Newcomers become part of the batch."""
        self._joining = True
        self.rows += read.rows
        self._cache.join(read.cache, read.mask, read.lengths, read.served)
        self._sampler.join(read.sampler)
        self._tokens = torch.cat([self._tokens, read.tokens])
        lengths = torch.tensor([read.lengths[prompt] for prompt in read.served])
        self._positions = torch.cat([self._positions, lengths.to(self._device)])
        self._joining = False

    def _decode(self, interrupted: Callable[[], bool]) -> None:
        """One token a row a pass."""
        while self.rows:
            self.session.check_running()
            self._plan.begin_decode()
            mask = self._cache.begin_step()
            with self.session.adapters.acting([row.row.adapter for row in self.rows]):
                output = self._forward(
                    self._tokens[:, None], mask, self._positions[:, None], self._cache
                )
            self._cache.end_step()
            self._passes += 1
            self._num_passes += 1
            self._row_share += len(self.rows) / max(self._max_rows, len(self.rows))
            _check_reached(self._plan, self._passes)
            if self._passes == 1 and self._plan.sites:
                for row, change in zip(self.rows, self._plan.change.tolist(), strict=True):
                    if row.num_generated == 1:
                        row.change = max(row.change, change)
            self._tokens = self._draw(self.rows, self._sampler, output.logits[:, -1])
            self._positions = self._positions + 1
            left = self._settle(self.rows)
            if len(left) < len(self.rows):
                self._go_on_with(left)
            if interrupted():
                return

    def _go_on_with(self, left: abc.Sequence[int]) -> None:
        """The other rows leave, and the last ones take their places."""
        if not left:
            self._clear()
            return
        order = list(range(len(left)))
        staying = set(left)
        free = [index for index in order if index not in staying]
        movers = [index for index in left if index >= len(left)]
        for place, mover in zip(free, movers, strict=True):
            order[place] = mover
        self.rows = [self.rows[index] for index in order]
        self._cache.keep(order)
        self._sampler.keep(order)
        self._plan.keep(order)
        kept = torch.tensor(order, device=self._device)
        self._tokens, self._positions = self._tokens[kept], self._positions[kept]

    def _pad_left(self, prompts: abc.Sequence[abc.Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both [rows, longest prompt]."""
        longest = max(len(prompt) for prompt in prompts)
        tokens = [[self._pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(tokens, device=self._device), torch.tensor(mask, device=self._device)

    def _forward(
        self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: BatchCache | None
    ) -> Any:
        """One pass. Positions are a row's own, so padding moves none of them."""
        options: dict[str, Any] = dict(self._last_only)
        if self._takes_positions:
            options["position_ids"] = positions
        return self.loaded.model(
            input_ids=tokens,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **options,
        )

    def _draw(self, rows: abc.Sequence[Sequence], sampler: Sampler, logits: Tensor) -> Tensor:
        """Draw the next token of every row and write it into the row; the tokens drawn, [rows]."""
        tokens = sampler.draw(logits, [row.tokens for row in rows])
        drawn = tokens.tolist()  # the one time in a pass that the device is waited for
        alternatives = _logprobs(rows, logits, tokens)
        for index, (row, token) in enumerate(zip(rows, drawn, strict=True)):
            if token == BROKEN:
                row.failure = broken()
                continue
            before = len(row.tokens)
            row.note(token, self.loaded.end_tokens, self.loaded.shape.context_length, self._text)
            if index in alternatives and len(row.tokens) > before:
                row.logprobs.append(alternatives[index])
        self._num_tokens += len(rows)
        return tokens

    def _settle(self, rows: abc.Sequence[Sequence]) -> list[int]:
        """Hand over what has ended; the indices of those that go on."""
        # Asked once: a row may be cancelled at any moment.
        over = [row.over for row in rows]
        for row, ended in zip(rows, over, strict=True):
            if ended:
                self._num_rows += not row.cancelled
                row.settle(self._text)
        return [index for index, ended in enumerate(over) if not ended]

    def _text(self, tokens: abc.Sequence[int]) -> str:
        # Special tokens in the middle of an answer are kept: hiding them would hide incoherence.
        text = self.loaded.tokenizer.decode(list(tokens), skip_special_tokens=False)
        assert isinstance(text, str)
        return text


def _check_reached(plan: InterventionBatch, passes: int) -> None:
    """Make sure that each pass so far met each steered site."""
    if any(visits != passes for visits in plan.visits.values()):
        raise EngineError(
            f"the model ran {passes} times but was steered {plan.visits} times: nnsight did not "
            "reach every pass"
        )


def _logprobs(
    rows: abc.Sequence[Sequence], logits: Tensor, drawn: Tensor
) -> dict[int, TokenLogprob]:
    """Log probabilities of the drawn tokens, of the rows that ask for them."""
    asking = [index for index, row in enumerate(rows) if row.row.top_logprobs is not None]
    if not asking:
        return {}
    index = torch.tensor(asking, device=logits.device)
    logprobs = logits[index].float().log_softmax(-1)
    own = logprobs.gather(1, drawn[index, None].clamp(min=0))[:, 0].tolist()
    tokens = drawn[index].tolist()
    counts = [rows[row].row.top_logprobs or 0 for row in asking]
    top = logprobs.topk(max(counts))
    best = [
        tuple(zip(ids[:count], values[:count], strict=True))
        for ids, values, count in zip(
            top.indices.tolist(), top.values.tolist(), counts, strict=True
        )
    ]
    told = zip(asking, tokens, own, best, strict=True)
    return {row: TokenLogprob(token, logprob, top) for row, token, logprob, top in told}


def _has_fused_kernels(device: torch.device) -> bool:
    return device.type == "cuda" and is_flash_linear_attention_available()
