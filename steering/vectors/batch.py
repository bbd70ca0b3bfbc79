"""The interventions of a batch: what is done to which rows and tokens of its activations.

Hidden states are [rows, tokens, width], a row a sequence, each with interventions of its own. Owns
the position masks and the tables of a batch. Never knows engines, tokenizers or scheduling.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from steering.vectors.errors import VectorError
from steering.vectors.interventions import Intervention, change, check_width
from steering.vocabulary import SITES, Operation, Positions, Site

SiteKey = tuple[int, Site]
# Place of the intervention among those of its site, operation, whether it is a low-rank map.
_Kind = tuple[int, Operation, bool]
# Which tokens of a pass are of the prompt, and which of the answer: both [rows, tokens].
_Masks = tuple[Tensor, Tensor]


@dataclass
class _Group:
    """The rows of one site that share an operation.

    Plain additions have a row for every row of the batch, with zeros where nothing is added: one
    addition then serves the batch, where selecting rows and writing them back takes several.
    """

    operation: Operation
    rows: list[int]  # of the batch, n of them
    index: Tensor  # [n], the same
    basis: Tensor  # [n, rank, width]; lower ranks are padded with zero directions, which do nothing
    amount: Tensor  # [n]
    prompt: Tensor  # [n] bool: every prompt token is steered
    last: Tensor  # [n] bool: the last prompt token is steered
    response: Tensor  # [n] bool: generated tokens are steered
    reads: Tensor | None  # [n, rank, width], what activations are projected on
    offsets: Tensor | None  # [n, rank] of low-rank maps
    everywhere: bool  # whether `rows` are all rows of the batch, in their order
    decode_change: Tensor | None = None  # [n, 1, width], what a plain addition adds in decode steps

    def steer(self, hidden: Tensor, masks: _Masks | None) -> Tensor:
        """The activations of the group's rows, [n, tokens, width], steered at the named tokens."""
        if masks is not None or self.reads is not None:
            return (hidden + self._change(hidden, masks)).to(hidden.dtype)
        return (hidden + self.addition()).to(hidden.dtype)

    def addition(self) -> Tensor:
        """What a plain addition adds in a decode step, float32 [n, 1, width]."""
        if self.decode_change is None:
            self.decode_change = self._change(self.basis, None)
        return self.decode_change

    def _change(self, hidden: Tensor, masks: _Masks | None) -> Tensor:
        """Float32 [n, tokens, width], 0 at tokens that are not steered."""
        if masks is None:
            mask = self.response[:, None]
        else:
            real, answer = masks if self.everywhere else (part[self.index] for part in masks)
            is_last = real & (real.flip(1).cumsum(1).flip(1) == 1)
            mask = (real & self.prompt[:, None]) | (is_last & self.last[:, None])
            mask = mask | (answer & self.response[:, None])
        parts = self.basis, self.amount, self.reads, self.offsets
        return torch.where(mask[:, :, None], change(self.operation, hidden.float(), *parts), 0.0)

    def mapped(self, function: Callable[[Tensor], Tensor], **changed: Any) -> "_Group":
        """The group with a function applied to each of its tables."""
        tables: dict[str, Any] = {
            name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tables | changed)

    def keep(self, order: Sequence[int]) -> "_Group | None":
        """The group in a batch whose row i was row order[i], or None when no row is left."""
        places = {row: place for place, row in enumerate(self.rows)}
        rows = [row for row, previous in enumerate(order) if previous in places]
        if not rows:
            return None
        device = self.index.device
        picked = torch.tensor([places[order[row]] for row in rows], device=device)
        return self.mapped(
            lambda table: table[picked], rows=rows, index=torch.tensor(rows, device=device)
        )


def in_order(keys: Iterable[SiteKey]) -> tuple[SiteKey, ...]:
    """Sites in the order in which a forward pass meets them."""
    depth = list(SITES)
    return tuple(sorted(keys, key=lambda key: (key[0], depth.index(key[1]))))


class InterventionBatch:
    """The interventions of each row of a batch, site by site.

    An engine makes one for a batch, says before each forward pass what the pass covers
    (`begin_prefill`, `begin_decode`), calls `apply` at each of `sites` during the pass, and `keep`
    when rows leave.

    Attributes:
        sites: (layer, site) of every intervention, in the order in which a forward pass meets them.
        change: Float32 [rows]. Largest absolute change that steering made to a row's activations
            in prefills and in the first decode step: 0 means that steering did nothing.
        visits: How often each site was met; a count below that of the passes shows an engine that
            was unsteered without an error.
    """

    def __init__(
        self, interventions: Sequence[Sequence[Intervention]], device: torch.device | str = "cpu"
    ) -> None:
        """Lay out the tables.

        Args:
            interventions: Those of each row; an unsteered row has none. Of several at one site each
                acts on what the one before it has left.
            device: Where the tables stand.

        Raises:
            VectorError: Vectors differ in width.
        """
        self._device = torch.device(device)
        widths = {item.basis.shape[1] for row in interventions for item in row}
        if len(widths) > 1:
            raise VectorError(f"vectors of widths {sorted(widths)} can't steer one model")
        members: dict[SiteKey, dict[_Kind, dict[int, Intervention]]] = {}
        for index, row in enumerate(interventions):
            counts: Counter[SiteKey] = Counter()
            for item in row:
                key = (item.layer, item.site)
                kind = (counts[key], item.operation, item.reads is not None)
                counts[key] += 1
                members.setdefault(key, {}).setdefault(kind, {})[index] = item
        self.sites = in_order(members)
        self._groups = {
            key: [self._group(by_row, len(interventions)) for _, by_row in sorted(kinds.items())]
            for key, kinds in ((key, members[key]) for key in self.sites)
        }
        self.change = torch.zeros(len(interventions), device=self._device)
        self.visits = dict.fromkeys(self.sites, 0)
        self._masks: _Masks | None = None
        self._decode_steps = 0

    def _group(self, by_row: dict[int, Intervention], num_rows: int) -> _Group:
        # Sequences of one condition share their interventions: each is laid out once.
        distinct = list({id(item): item for item in by_row.values()}.values())
        slots = {id(item): slot for slot, item in enumerate(distinct)}
        operation, is_map = distinct[0].operation, distinct[0].reads is not None
        rank = max(item.basis.shape[0] for item in distinct)
        is_plain_addition = operation == "add" and not is_map
        rows = list(range(num_rows)) if is_plain_addition else list(by_row)
        # The last slot, of zeros, is for rows without an intervention.
        picked = torch.tensor(
            [slots[id(by_row[row])] if row in by_row else len(distinct) for row in rows],
            device=self._device,
        )

        def table(parts: Sequence[Tensor]) -> Tensor:
            """Part of each row, with zeros for the ranks that it does not have."""
            stacked = torch.stack(
                [pad(part, (0, 0) * (part.ndim - 1) + (0, rank - len(part))) for part in parts]
                + [parts[0].new_zeros((rank, *parts[0].shape[1:]))]
            )
            return stacked.to(self._device, torch.float32)[picked]

        def flags(*positions: Positions) -> Tensor:
            values = [*(item.positions in positions for item in distinct), False]
            return torch.tensor(values, device=self._device)[picked]

        basis = table([item.basis for item in distinct])
        amounts = torch.tensor([*(item.amount for item in distinct), 0.0], device=self._device)
        reads = [item.reads for item in distinct if item.reads is not None]
        offsets = [item.offsets for item in distinct if item.offsets is not None]
        return _Group(
            operation=operation,
            rows=rows,
            index=torch.tensor(rows, device=self._device),
            basis=basis,
            amount=amounts[picked],
            prompt=flags("all", "prompt"),
            last=flags("last"),
            response=flags("all", "response"),
            reads=table(reads) if reads else None if is_plain_addition else basis,
            offsets=table(offsets) if offsets else None,
            everywhere=len(rows) == num_rows,
        )

    def begin_prefill(self, prompt_mask: Tensor, answer_mask: Tensor | None = None) -> None:
        """The next pass covers prompts, answers, or prompts with their answers.

        Both masks are [rows, tokens]: True on the tokens of a prompt, and on those of an answer.
        """
        real = prompt_mask.bool()
        answer = torch.zeros_like(real) if answer_mask is None else answer_mask.bool()
        self._masks = real, answer

    def begin_decode(self) -> None:
        """The next pass covers one generated token a row."""
        self._masks = None
        self._decode_steps += 1

    def keep(self, order: Sequence[int]) -> None:
        """Go on with the rows `order` (indices into the present batch), in that order."""
        for key, groups in self._groups.items():
            self._groups[key] = [smaller for group in groups if (smaller := group.keep(order))]
        self.change = self.change[torch.tensor(order, dtype=torch.long, device=self._device)]

    def addition(self, key: SiteKey) -> Tensor | None:
        """What this decode step adds at a site, whatever its activations are.

        It counts as no visit, and `change` does not have it.

        Returns:
            Float32 [rows, width]; None where it depends on the activations, which `apply` steers.
        """
        groups = self._groups[key]
        if self._masks is not None or any(group.reads is not None for group in groups):
            return None
        first, *others = (group.addition()[:, 0] for group in groups)
        return sum(others, start=first)

    def apply(self, key: SiteKey, hidden: Tensor) -> Tensor:
        """The activations at one site, steered.

        Args:
            key: (layer, site), one of `sites`.
            hidden: [rows, tokens, width].

        Returns:
            A new tensor of the same shape and dtype. Rows and tokens that no intervention names are
            bit-equal to the input.

        Raises:
            VectorError: The vector's width is not that of the model.
        """
        self.visits[key] += 1
        if any(group.index.device != hidden.device for group in self._groups[key]):
            # Of a model on several devices each block has its tables on its own.
            self._groups[key] = [
                group.mapped(lambda table: table.to(hidden.device)) for group in self._groups[key]
            ]
        masks = self._masks
        if masks is not None:
            masks = masks[0].to(hidden.device), masks[1].to(hidden.device)
        for group in self._groups[key]:
            check_width(group.basis.shape[-1], hidden.shape[-1])
            before = hidden if group.everywhere else hidden[group.index]
            after = group.steer(before, masks)
            if masks is not None or self._decode_steps == 1:
                largest = (after.detach() - before.detach()).abs().amax(dim=(1, 2)).float()
                index = group.index.to(self._device)
                self.change[index] = torch.maximum(self.change[index], largest.to(self._device))
            hidden = after if group.everywhere else hidden.index_copy(0, group.index, after)
        return hidden
