"""The running batch of one loaded model: sequences join, are decoded one token a pass, and leave.

Runs on the model's thread. The scheduler decides which sequences join when.
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
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache
from transformers.utils.import_utils import is_flash_linear_attention_available

from steering.engines import EngineError, Telemetry
from steering.engines._nnsight import Session, check_visits
from steering.engines.cache import BatchCache, bytes_of, cache_of, most_beginning
from steering.engines.invariance import RowByRow, decoding, rows_together
from steering.engines.memory import free_memory, is_out_of_memory, last_columns
from steering.engines.sampling import BROKEN, Sampler, token_logprobs
from steering.engines.sequences import NAN_LOGITS, RELEASED, Sequence, in_chunks
from steering.models import LoadedModel, family_of
from steering.vectors.batch import InterventionBatch
from steering.vectors.monitor import MonitorBatch

# Share of the free memory for caches: the rest is for activations.
_SHARE = 0.7
# Copies of the logits in memory while a token is drawn; a float64 copy counts twice.
_LOGIT_COPIES = 8


@dataclass
class _Prefill:
    """The result of reading prompts, and the n sequences that go on from it."""

    sequences: list[Sequence]  # that have not ended with their first token
    sampler: Sampler
    tokens: Tensor  # [n], the first token of each sequence
    prompts: list[int]  # [n], index of each sequence's prompt
    lengths: list[int]  # tokens of each prompt
    mask: Tensor  # [prompts, tokens], True on real tokens
    cache: Any  # the model's cache of the prompts


class Decoder:
    """Sequences that are decoded together.

    Attributes:
        loaded: The model.
        session: Its nnsight session.
        sequences: The present batch; sequence i is row i of every tensor.
        preempted: Sequences that a failed pass has removed, to be started again.
        out_of_memory: Whether the last failed pass ran out of memory.
        most_rows: Sequences that may be decoded together; None for any number.
        most_beginning: Most first tokens of a prompt whose cache several sequences can go on from.
        num_logits: Size of the vocabulary.
        pad_token: Id of the token that fills rows up.
    """

    def __init__(
        self, loaded: LoadedModel, stopping: threading.Event, *, batch_invariant: bool = False
    ) -> None:
        """Wrap a model. Once `stopping` is set, no further pass runs."""
        self.loaded = loaded
        self.session = Session(loaded, stopping)
        self.sequences: list[Sequence] = []
        self.preempted: list[Sequence] = []
        self.out_of_memory = False
        self._device = loaded.model.device
        # Counted before adapters are loaded into the model.
        self._parameters = sum(weights.numel() for weights in loaded.model.parameters())
        self._takes_positions = loaded.accepts("position_ids")
        self._takes_num_logits = loaded.accepts("logits_to_keep")
        self._cache_argument = loaded.cache_argument
        padding = loaded.tokenizer.pad_token_id
        self.pad_token = loaded.end_tokens[0] if padding is None else padding
        self._stopping = stopping
        self._max_sequences = 1
        self._busy_s = self._occupancy = 0.0
        self._num_requests = self._num_tokens = self._num_passes = 0
        self.most_rows = rows_together(loaded.model) if batch_invariant else None
        self.most_beginning = self.num_logits = 0
        self._clear()

    def memory_budget(self) -> tuple[int, int]:
        """Tokens that fit into the free memory, and the fixed cost of a sequence in tokens."""
        prompt = torch.full((1, 2), self.pad_token, device=self._device)
        with torch.inference_mode():
            output = self.forward(
                prompt, torch.ones_like(prompt), torch.arange(2, device=self._device)[None], None
            )
        cache = cache_of(output)
        if cache is None:
            raise EngineError(
                f"{type(self.loaded.model).__name__} keeps no cache like that of other models, so "
                "sequences could not join or leave a batch: it is not supported"
            )
        self.most_beginning, self.num_logits = most_beginning(cache), output.logits.shape[-1]
        per_token, per_sequence = bytes_of(cache)
        per_sequence += _LOGIT_COPIES * 4 * output.logits.shape[-1]
        per_token = max(1, per_token)
        return int(_SHARE * free_memory(self._device)) // per_token, -(-per_sequence // per_token)

    def telemetry(self, waiting: int) -> Telemetry:
        """Counts and times so far, with the number of requests that wait now."""
        config = self.loaded.model.config
        family, linear = family_of(config.get_text_config())
        return Telemetry(
            requests=self._num_requests,
            tokens=self._num_tokens,
            busy_s=self._busy_s,
            passes=self._num_passes,
            occupancy=self._occupancy / self._num_passes if self._num_passes else 0.0,
            waiting=waiting,
            attention=config._attn_implementation,
            kernels=self._device.type == "cuda" and is_flash_linear_attention_available()
            if linear
            else None,
            family=family,
            parameters=self._parameters,
        )

    def _clear(self) -> None:
        """Make the batch empty and free its memory."""
        self.sequences = []
        self._cache = BatchCache(self.most_rows or 0)
        self._sampler = Sampler()
        self._tokens = torch.zeros(0, dtype=torch.long, device=self._device)
        self._positions = self._tokens
        # While newcomers join, the tables of the batch differ in length.
        self._joining = False
        self._monitor = MonitorBatch([], InterventionBatch([]))
        self._lay_out()

    def _lay_out(self) -> None:
        """Make the tables of the interventions of the present batch."""
        kind = RowByRow if self.most_rows else InterventionBatch
        self._interventions = kind(
            [sequence.on_response for sequence in self.sequences], self._device
        )
        self._monitor.collect()
        rows = [(sequence.request.monitor, sequence.readings) for sequence in self.sequences]
        self._monitor = MonitorBatch(rows, self._interventions, self._device)
        self._passes = 0

    def admit(self, sequences: abc.Sequence[Sequence], max_sequences: int) -> None:
        """Read the prompts of newcomers and add them to the batch.

        The largest allowed batch, `max_sequences`, is for telemetry.
        """
        start = time.monotonic()
        for sequence in sequences:
            sequence.started = start
        self._max_sequences = max_sequences
        chunks = in_chunks([sequences[index] for index in self._settle(sequences)])
        if self.most_rows:
            chunks = [[sharing] for chunk in chunks for sharing in chunk]
        if not chunks:
            return
        while chunks:
            chunk = chunks.pop(0)
            try:
                with torch.inference_mode():
                    prefill = self._prefill(chunk)
                    if prefill.sequences:
                        self._join(prefill)
            except Exception as error:
                newcomers = [sequence for sharing in chunk for sequence in sharing]
                if self._joining or is_out_of_memory(error):
                    later = [item for rest in chunks for sharing in rest for item in sharing]
                    self._preempt(error, newcomers)
                    self.preempted += [sequence.restarted() for sequence in later]
                    break
                if len(newcomers) == 1:
                    newcomers[0].fail(error)
                    continue
                again = [item.restarted() for item in newcomers if not item.settled]
                half = (len(again) + 1) // 2
                chunks[:0] = [*in_chunks(again[:half]), *in_chunks(again[half:])]
        self._guarded(self._lay_out)
        self._busy_s += time.monotonic() - start

    def run(self, interrupted: Callable[[], bool]) -> None:
        """Decode until the batch is empty or, after a pass, `interrupted` is true."""
        if self.sequences:
            start = time.monotonic()
            work = partial(self._decode, interrupted)
            steered = bool(self._interventions.sites)
            run = self.session.run if steered else self.session.read
            self._guarded(lambda: run(work, self._monitor))
            self._busy_s += time.monotonic() - start

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run work for the batch; if it fails, the batch is preempted."""
        try:
            with torch.inference_mode():
                work()
        except Exception as error:
            self._preempt(error, [])

    def fail(self, error: Exception) -> None:
        """Empty the batch and give every sequence the error."""
        for sequence in [*self.sequences, *self.preempted]:
            sequence.fail(error)
        self.preempted = []
        self._clear()

    def _preempt(self, error: Exception, newcomers: abc.Sequence[Sequence]) -> None:
        """Empty the batch. A sequence that was alone fails; of several, each starts again."""
        joined = set(map(id, self.sequences))
        removed = [*self.sequences, *(item for item in newcomers if id(item) not in joined)]
        self.out_of_memory = is_out_of_memory(error)
        self._clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._stopping.is_set():
            error = EngineError(RELEASED)  # without a traceback, which would hold on to the model
        if len(removed) == 1 or self._stopping.is_set():
            for sequence in removed:
                sequence.fail(error)
        else:
            self.preempted += [item.restarted() for item in removed if not item.settled]

    def _prefill(self, chunk: abc.Sequence[abc.Sequence[Sequence]]) -> _Prefill:
        """One pass over prompts, each with the sequences that share it, and their first tokens."""
        newcomers = [sequence for sharing in chunk for sequence in sharing]
        prompts = [index for index, sharing in enumerate(chunk) for _ in sharing]
        firsts = [sharing[0] for sharing in chunk]
        adapters = [first.request.adapter for first in firsts]
        for adapter in adapters:
            self.session.adapters.load(adapter)
        tokens, mask = self.pad_left([first.request.prompt for first in firsts])
        interventions = InterventionBatch([first.on_prompt for first in firsts], self._device)
        interventions.begin_prefill(mask)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with self.session.adapters.active(adapters):
            output = self.session.run(
                lambda: self.forward(tokens, mask, positions, None), interventions
            )
        check_visits(interventions, 1)
        if interventions.sites:
            changes = interventions.change.tolist()
            for sequence, prompt in zip(newcomers, prompts, strict=True):
                sequence.change = changes[prompt]
        sampler = Sampler([sequence.request.sampling for sequence in newcomers])
        rows = torch.tensor(prompts, device=self._device)
        first_tokens = self._draw(newcomers, sampler, output.logits[:, -1][rows])
        running = self._settle(newcomers)
        sampler.keep(running)
        return _Prefill(
            sequences=[newcomers[index] for index in running],
            sampler=sampler,
            tokens=first_tokens[torch.tensor(running, dtype=torch.long, device=self._device)],
            prompts=[prompts[index] for index in running],
            lengths=[len(first.request.prompt) for first in firsts],
            mask=mask.bool(),
            cache=cache_of(output),
        )

    def _join(self, prefill: _Prefill) -> None:
        """Add the sequences of a prefill to the batch."""
        self._joining = True
        self.sequences += prefill.sequences
        self._cache.join(prefill.cache, prefill.mask, prefill.lengths, prefill.prompts)
        self._sampler.join(prefill.sampler)
        self._tokens = torch.cat([self._tokens, prefill.tokens])
        lengths = torch.tensor([prefill.lengths[prompt] for prompt in prefill.prompts])
        self._positions = torch.cat([self._positions, lengths.to(self._device)])
        self._joining = False

    def _decode(self, interrupted: Callable[[], bool]) -> None:
        """Passes of one token a sequence."""
        while self.sequences:
            self.session.check_running()
            self._interventions.begin_decode()
            mask = self._cache.begin_step()
            dummies = (0, len(mask) - len(self.sequences))
            adapters = [item.request.adapter for item in self.sequences] + [None] * dummies[1]
            lengths = self._cache.lengths if self.most_rows else None
            with self.session.adapters.active(adapters), decoding(lengths):
                output = self.forward(
                    pad(self._tokens, dummies, value=self.pad_token)[:, None],
                    mask,
                    pad(self._positions, dummies)[:, None],
                    self._cache,
                )
            self._cache.end_step()
            self._passes += 1
            self._num_passes += 1
            batch_size = len(self.sequences)
            self._occupancy += batch_size / max(self._max_sequences, batch_size)
            check_visits(self._interventions, self._passes)
            if self._passes == 1 and self._interventions.sites:
                changes = self._interventions.change.tolist()
                for sequence, change in zip(self.sequences, changes, strict=True):
                    if sequence.num_generated == 1:
                        sequence.change = max(sequence.change, change)
            logits = output.logits[:batch_size, -1]
            self._tokens = self._draw(self.sequences, self._sampler, logits)
            self._positions = self._positions + 1
            running = self._settle(self.sequences)
            if len(running) < batch_size:
                self._keep(running)
            if interrupted():
                return

    def _keep(self, running: abc.Sequence[int]) -> None:
        """Remove all other sequences; the last ones move into their rows."""
        if not running:
            self._clear()
            return
        order = list(range(len(running)))
        staying = set(running)
        free = [index for index in order if index not in staying]
        movers = [index for index in running if index >= len(running)]
        for place, mover in zip(free, movers, strict=True):
            order[place] = mover
        self.sequences = [self.sequences[index] for index in order]
        self._cache.keep(order)
        self._sampler.keep(order)
        self._interventions.keep(order)
        self._monitor.keep(order)
        rows = torch.tensor(order, device=self._device)
        self._tokens, self._positions = self._tokens[rows], self._positions[rows]

    def pad_left(self, prompts: abc.Sequence[abc.Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both [rows, longest prompt]."""
        rows = [torch.tensor(prompt) for prompt in prompts]
        tokens = pad_sequence(rows, True, self.pad_token, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], True, padding_side="left")
        return tokens.to(self._device), mask.to(self._device)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Cache | None,
        num_logits: int = 1,
    ) -> Any:
        """One pass. Positions count a sequence's own tokens, so padding moves none of them.

        The logits of the last `num_logits` columns are needed; those of all would cost rows x
        tokens x vocabulary. A few models give them all the same.
        """
        options: dict[str, Any] = {"use_cache": True, self._cache_argument: cache}
        if self._takes_positions:
            options["position_ids"] = positions
        if self._takes_num_logits:
            options["logits_to_keep"] = last_columns(tokens, num_logits)
        return self.loaded.model(input_ids=tokens, attention_mask=mask, **options)

    def _draw(self, sequences: abc.Sequence[Sequence], sampler: Sampler, logits: Tensor) -> Tensor:
        """Draw the next token of every sequence and append it; returns the tokens, [rows]."""
        tokens = sampler.draw(logits, [sequence.tokens for sequence in sequences])
        ids = tokens.tolist()  # the one synchronisation with the device in a pass
        counts = {
            index: sequence.request.top_logprobs
            for index, sequence in enumerate(sequences)
            if sequence.request.top_logprobs is not None
        }
        logprobs = token_logprobs(logits, tokens, counts)
        context_length = self.loaded.shape.context_length
        for index, (sequence, token) in enumerate(zip(sequences, ids, strict=True)):
            if token == BROKEN:
                sequence.failure = EngineError(NAN_LOGITS)
                continue
            length = len(sequence.tokens)
            sequence.append(token, self.loaded.end_tokens, context_length, self._text)
            if index in logprobs and len(sequence.tokens) > length:
                sequence.logprobs.append(logprobs[index])
        self._num_tokens += len(sequences)
        return tokens

    def _settle(self, sequences: abc.Sequence[Sequence]) -> list[int]:
        """Give the futures of sequences that have ended their outputs; indices of the others."""
        # Read once: a request may be cancelled at any moment.
        finished = [sequence.finished for sequence in sequences]
        if any(finished):
            self._monitor.collect()
        for sequence, ended in zip(sequences, finished, strict=True):
            if ended:
                self._num_requests += not sequence.cancelled
                sequence.settle(self._text)
        return [index for index, ended in enumerate(finished) if not ended]

    def _text(self, tokens: abc.Sequence[int]) -> str:
        # Special tokens within an answer are kept: hiding them would hide incoherence.
        text = self.loaded.tokenizer.decode(list(tokens), skip_special_tokens=False)
        assert isinstance(text, str)
        return text
