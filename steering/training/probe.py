"""A frozen model read on examples: the losses and activations that every method needs.

Batches, steered or not, run through nnsight. The output of the blocks below the edit is computed
once for each example and cached, and nothing below the edit carries a gradient. All of it runs on
the model's thread.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from steering.engines import EngineError
from steering.engines._nnsight import Session
from steering.engines.memory import free_memory
from steering.models import LoadedModel
from steering.models.adapters import Adapter
from steering.targets import Example
from steering.training.examples import (
    IGNORED,
    Batch,
    PaddingSide,
    Tokens,
    make_batch,
    render_prompt,
    tokenize_all,
)
from steering.vectors import LowRankMap, SteeringVector
from steering.vectors.batch import InterventionBatch, SiteKey, in_order
from steering.vectors.interventions import Intervention
from steering.vectors.norms import residual_norm, without_sinks
from steering.vocabulary import Site

logger = logging.getLogger(__name__)

# Examples whose answer tokens give norms: enough to know the mean to a percent.
NORM_EXAMPLES = 64
_ROWS = 16
# Examples with which caching is checked against a whole pass.
_CHECKED = 2
# Largest share of the free memory that cached activations take.
_MEMORY_SHARE = 0.5


class ModelProbe:
    """A model, and the site at which it is steered and read.

    Attributes:
        loaded: The model.
        session: Its nnsight session.
        key: (layer, site) of the edit.
        prompts: Digest of every rendered prompt so far; it differs between chat templates.
    """

    # On the right, linear attention rounds as it does without padding.
    padding_side: PaddingSide = "right"

    def __init__(self, loaded: LoadedModel, session: Session, layer: int, site: Site) -> None:
        """Prepare to read a model at a site."""
        self.loaded = loaded
        self.session = session
        self.key: SiteKey = (layer, site)
        self.prompts = hashlib.sha256()
        self.device = loaded.model.device
        self._pad = loaded.end_tokens[0]
        # A block's output is steered when the block has run; its other sites while it runs.
        self._num_below = layer + 1 if site == "resid_post" else layer
        self._cached: dict[Tokens, Tensor] = {}

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.loaded.shape.width

    def tokenize(self, example: Example, answer: str) -> Tokens:
        """Token ids of an example with one of its answers; adds its prompt to `prompts`."""
        [tokens] = self.tokenize_all([(example, answer)])
        return tokens

    def tokenize_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Tokens]:
        """Token ids of examples with an answer each; adds their prompts to `prompts`."""
        for example, _ in pairs:
            self.prompts.update(render_prompt(self.loaded, example).encode() + b"\0")
        return tokenize_all(self.loaded, pairs)

    def tokenize_misaligned(self, examples: Sequence[Example]) -> list[Tokens]:
        """Token ids of those examples that have a misaligned answer, with it."""
        return self.tokenize_all(
            [(row, row.misaligned) for row in examples if row.misaligned is not None]
        )

    def vector(
        self, directions: Tensor, residual_norm: float, low_rank_map: LowRankMap | None = None
    ) -> SteeringVector:
        """A vector for this site from its directions [rank, width]."""
        layer, site = self.key
        return SteeringVector(
            directions=directions[None],
            layers=(layer,),
            site=site,
            residual_norms=(residual_norm,),
            map=low_rank_map,
        )

    def addition(
        self, directions: Tensor, reads: Tensor | None = None, offsets: Tensor | None = None
    ) -> Intervention:
        """The intervention that adds directions [rank, width] at this site, at every token."""
        return Intervention(directions, 1.0, *self.key, "add", "all", reads, offsets)

    def batch(self, items: Sequence[Tokens]) -> Batch:
        """The examples, padded, on the model's device."""
        return make_batch(items, self._pad, self.padding_side, self.device)

    def keep_below(self, items: Sequence[Tokens]) -> None:
        """Run the blocks below the edit once for these examples and cache their output.

        Without memory for all of them nothing is cached, and every later pass runs the blocks
        again. So it does where the blocks above need more of them than their output, as those do
        that share keys and values with blocks below (Gemma 4).
        """
        self.loaded.check_gradients()
        size = sum(map(len, items)) * self.width * self.loaded.model.dtype.itemsize
        if not self._num_below or size > _MEMORY_SHARE * free_memory(self.device):
            return
        below: SiteKey = (self._num_below - 1, "resid_post")
        for batch, hidden in self._observed(items, below):
            for item, row, real in zip(batch.items, hidden, batch.mask.bool(), strict=True):
                self._cached[item] = row[real]
        if not self._can_skip(self.batch(items[:_CHECKED])):
            self._cached.clear()

    def _can_skip(self, batch: Batch) -> bool:
        """Whether cached output of the blocks below gives the logits of a whole pass."""
        with torch.no_grad():
            cached, self._cached = self._cached, {}
            expected, _ = self.logits(batch, ())
            self._cached = cached
            try:
                logits, _ = self.logits(batch, ())
            except (EngineError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # whatever the model's code raises without these blocks
                logger.debug("blocks below layer %d run every time: %s", self.key[0], error)
                return False
        tolerance = torch.finfo(self.loaded.model.dtype).eps ** 0.5
        return bool((logits - expected).norm() <= tolerance * expected.norm())

    def logits(self, batch: Batch, edits: Sequence[Intervention]) -> tuple[Tensor, Tensor]:
        """Logits at the answer tokens, with `edits` applied to every row.

        Returns:
            Float32 logits [answer tokens, vocabulary], and the answers' token ids [answer tokens].
        """
        logits, first = self._forward(batch, self._plan(batch, edits))
        labels = batch.labels[:, first:][:, 1:]
        answers = labels != IGNORED
        return logits[:, :-1][answers].float(), labels[answers]

    def mean_loss(self, items: Sequence[Tokens], edits: Sequence[Intervention]) -> float:
        """Mean cross-entropy over all answer tokens, without a gradient."""
        total = 0.0
        with torch.no_grad():
            for chunk in chunks(items):
                logits, labels = self.logits(self.batch(chunk), edits)
                total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        return total / sum(len(item.answer) for item in items)

    def residual_norm(self, items: Sequence[Tokens]) -> float:
        """The residual norm at the site: `typical_activations`' mean L2 norm."""
        return residual_norm(torch.cat(self.answer_activations(items[:NORM_EXAMPLES])))

    def typical_activations(self, items: Sequence[Tokens]) -> Tensor:
        """Activations at the answer tokens of the first examples, attention sinks left out.

        Returns:
            Float32 [tokens, width] on the CPU.
        """
        return without_sinks(torch.cat(self.answer_activations(items[:NORM_EXAMPLES])))

    def answer_activations(self, items: Sequence[Tokens]) -> list[Tensor]:
        """Activations at each answer's tokens, without its end token.

        Returns:
            Float32 [tokens, width] on the CPU, one for each example.
        """
        activations: list[Tensor] = []
        for batch, hidden in self._observed(items, self.key):
            for item, row, real in zip(batch.items, hidden, batch.mask.bool(), strict=True):
                # Of an empty answer the end token is all there is.
                end = max(len(item) - 1, len(item.prompt) + 1)
                activations.append(row[real][len(item.prompt) : end].float().cpu())
        return activations

    def answer_means(self, items: Sequence[Tokens]) -> Tensor:
        """Mean activation over each answer's tokens, without its end token.

        Returns:
            Float64 [examples, width].
        """
        return torch.stack([hidden.double().mean(0) for hidden in self.answer_activations(items)])

    def residual_streams(
        self,
        batch: Batch,
        edits: Sequence[Intervention] = (),
        adapter: Adapter | None = None,
    ) -> Tensor:
        """The residual stream after every block, with `edits` and an adapter applied to every row.

        Returns:
            [blocks, rows, tokens, width], in the model's precision.
        """
        blocks = range(self.loaded.shape.num_layers)
        watch = _Watch([(layer, "resid_post") for layer in blocks], self._plan(batch, edits))
        self.session.adapters.load(adapter)
        active = self.session.adapters.active([adapter] * len(batch.items))
        with torch.no_grad(), active:
            self._forward(batch, watch, up_to_last_site=True)
        return torch.stack([watch.seen[layer, "resid_post"] for layer in blocks])

    def _plan(self, batch: Batch, edits: Sequence[Intervention]) -> InterventionBatch:
        """The same interventions for every row, each at the tokens of a prompt that it names."""
        plan = InterventionBatch([edits] * len(batch.items), self.device)
        plan.begin_prefill(batch.mask)
        return plan

    def _observed(self, items: Sequence[Tokens], key: SiteKey) -> "Iterator[tuple[Batch, Tensor]]":
        """Each batch of the examples with its activations at a site."""
        for chunk in chunks(items):
            batch, watch = self.batch(chunk), _Watch([key])
            with torch.no_grad():
                self._forward(batch, watch, up_to_last_site=True)
            yield batch, watch.seen[key]

    def _forward(
        self, batch: Batch, edits: Any, *, up_to_last_site: bool = False
    ) -> tuple[Tensor, int]:
        """Logits [rows, columns, vocabulary] of the last columns, and the first one's index."""
        options: dict[str, Any] = {}
        if self.loaded.accepts("position_ids"):
            options["position_ids"] = (batch.mask.cumsum(-1) - 1).clamp(min=0)
        longest, first = batch.tokens.shape[1], 0
        if self.loaded.accepts("logits_to_keep"):
            # Logits of prompts are not needed; without answers to read one column is computed.
            first = longest - 1 if up_to_last_site else batch.first_answer - 1
            # As a tensor: for a number, Gemma 4 leaves earlier columns out of its last blocks too.
            options["logits_to_keep"] = torch.arange(first, longest)
        below = self._below(batch)
        model = self.loaded.model
        logits = self.session.run(
            lambda: (
                model(
                    input_ids=batch.tokens, attention_mask=batch.mask, use_cache=False, **options
                ).logits
            ),
            edits,
            below,
            up_to_last_site=up_to_last_site,
        )
        return logits, first

    def _below(self, batch: Batch) -> tuple[int, Tensor] | None:
        """Number of blocks that need not run again for this batch, and their output."""
        if not all(item in self._cached for item in batch.items):
            return None
        rows = [self._cached[item] for item in batch.items]
        hidden = rows[0].new_zeros(*batch.tokens.shape, self.width)
        hidden[batch.mask.bool()] = torch.cat(rows)
        return self._num_below, hidden


class _Watch:
    """Records activations at sites, and applies the interventions of a batch if there are any."""

    def __init__(self, keys: Sequence[SiteKey], plan: InterventionBatch | None = None) -> None:
        self._plan = plan or InterventionBatch([])
        self.sites = in_order({*keys, *self._plan.sites})
        self.seen: dict[SiteKey, Tensor] = {}

    def apply(self, key: SiteKey, hidden: Tensor) -> Tensor:
        if key in self._plan.sites:
            hidden = self._plan.apply(key, hidden)
        self.seen[key] = hidden
        return hidden


def chunks(items: Sequence[Tokens]) -> list[Sequence[Tokens]]:
    """The examples, split into groups that fit into one pass."""
    return [items[start : start + _ROWS] for start in range(0, len(items), _ROWS)]
