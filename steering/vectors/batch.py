"""What is done to which rows and tokens of a batch of activations.

Hidden states are [rows, tokens, width]; every row has its own interventions. Owns the position
masks and the tables of a batch. Never knows engines, tokenizers, or how rows are scheduled.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from steering.vectors.interventions import (
    OPERATIONS,
    InterventionError,
    Intervention,
    check_width,
    low_rank_map,
)
from steering.vocabulary import SITES, Operation, Positions, Site

SiteKey = tuple[int, Site]
# Order of the edit within its site, operation, whether it is a low-rank map.
_Kind = tuple[int, Operation, bool]


@dataclass
class _Group:
    """The rows of one site that share an operation.

    Plain additions hold every row of the batch, with zeros for those that they leave alone: one
    addition then serves the batch, where picking rows out and putting them back takes several.
    """

    operation: Operation
    rows: list[int]  # of the batch, n of them
    index: Tensor  # [n], the same
    basis: Tensor  # [n, rank, width]; lower ranks are padded with zero directions, which do nothing
    amount: Tensor  # [n]
    prompt: Tensor  # [n] bool: every prompt token is steered
    last: Tensor  # [n] bool: the last prompt token is steered
    response: Tensor  # [n] bool: generated tokens are steered
    reads: Tensor | None  # [n, rank, width] of low-rank maps
    offsets: Tensor | None  # [n, rank]
    everywhere: bool  # whether `rows` are all rows of the batch, in their order
    added: Tensor | None = None  # [n, 1, width], what an addition adds to generated tokens

    @property
    def is_map(self) -> bool:
        """Whether what is added depends on the activations."""
        return self.reads is not None

    def act(self, hidden: Tensor) -> Tensor:
        """Float32 [n, tokens, width], every token edited."""
        if self.reads is not None and self.offsets is not None:
            return low_rank_map(hidden, self.basis, self.amount, self.reads, self.offsets)
        return OPERATIONS[self.operation](hidden, self.basis, self.amount)

    def steer(self, hidden: Tensor, prompt_mask: Tensor | None) -> Tensor:
        """The activations of the group's rows, [n, tokens, width], steered at the named tokens."""
        if prompt_mask is None and self.everywhere and self.operation == "add" and not self.is_map:
            if self.added is None:
                delta = self.amount[:, None, None] * self.basis[:, :1]
                self.added = torch.where(self.response[:, None, None], delta, 0.0)
            return (hidden + self.added).to(hidden.dtype)
        mask = self.token_mask(prompt_mask)[:, :, None]
        return torch.where(mask, self.act(hidden.float()).to(hidden.dtype), hidden)

    def on(self, device: torch.device) -> "_Group":
        """The group with its tables on a device."""
        tables: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **tables)

    def kept(self, order: Sequence[int]) -> "_Group | None":
        """The group in a batch whose row i was row order[i], or None when no row is left."""
        at = {row: position for position, row in enumerate(self.rows)}
        new_rows = [row for row, was in enumerate(order) if was in at]
        if not new_rows:
            return None
        picked = torch.tensor([at[order[row]] for row in new_rows], device=self.index.device)
        tables: dict[str, Any] = {
            name: value[picked] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        index = torch.tensor(new_rows, device=self.index.device)
        return replace(self, **tables | {"rows": new_rows, "index": index})

    def token_mask(self, prompt_mask: Tensor | None) -> Tensor:
        """True where a token is steered: [n, tokens] in the prefill, [n, 1] in a decode step."""
        if prompt_mask is None:
            return self.response[:, None]
        mask = prompt_mask if self.everywhere else prompt_mask[self.index]
        is_last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        return (mask & self.prompt[:, None]) | (is_last & self.last[:, None])


def in_order(keys: Iterable[SiteKey]) -> tuple[SiteKey, ...]:
    """Sites in the order in which a forward pass meets them."""
    depth = list(SITES)
    return tuple(sorted(keys, key=lambda key: (key[0], depth.index(key[1]))))


class InterventionBatch:
    """What is done to each row of a batch, site by site.

    An engine makes one for a batch, says before each forward pass what the pass covers
    (`begin_prefill`, `begin_decode`), calls `apply` at each of `sites` during the pass, and `keep`
    when rows leave.

    Attributes:
        sites: (layer, site) of every edit, in the order in which a forward pass meets them.
        change: Float32 [rows]. Largest absolute change that steering made to a row's activations
            in the prefill and in the first decode step: 0 means that steering did nothing.
        visits: How often each site was met; an engine whose count falls short was silently
            unsteered.
    """

    def __init__(
        self, rows: Sequence[Sequence[Intervention]], device: torch.device | str = "cpu"
    ) -> None:
        """Lay out the tables.

        Args:
            rows: The interventions of each row; an unsteered row has none. Of several at one site
                each acts on what the one before it has left.
            device: Where the tables stand.

        Raises:
            InterventionError: Vectors differ in width.
        """
        self._device = torch.device(device)
        widths = {edit.basis.shape[1] for edits in rows for edit in edits}
        if len(widths) > 1:
            raise InterventionError(f"vectors of widths {sorted(widths)} can't steer one model")
        members: dict[SiteKey, dict[_Kind, list[tuple[int, Intervention]]]] = {}
        for index, edits in enumerate(rows):
            met: Counter[SiteKey] = Counter()
            for edit in edits:
                key = (edit.layer, edit.site)
                kind = (met[key], edit.operation, edit.reads is not None)
                met[key] += 1
                members.setdefault(key, {}).setdefault(kind, []).append((index, edit))
        self.sites = in_order(members)
        self._groups = {
            key: [self._group(found, len(rows)) for _, found in sorted(members[key].items())]
            for key in self.sites
        }
        self.change = torch.zeros(len(rows), device=self._device)
        self.visits = dict.fromkeys(self.sites, 0)
        self._prompt_mask: Tensor | None = None
        self._decode_steps = 0

    def _group(self, found: list[tuple[int, Intervention]], num_rows: int) -> _Group:
        # Conditions share their edits: each is laid out once.
        distinct = list({id(edit): edit for _, edit in found}.values())
        at = {id(edit): index for index, edit in enumerate(distinct)}
        slots = {row: at[id(edit)] for row, edit in found}
        operation, is_map = distinct[0].operation, distinct[0].reads is not None
        rank = max(edit.basis.shape[0] for edit in distinct)
        spread = operation == "add" and not is_map
        rows = list(range(num_rows)) if spread else [row for row, _ in found]
        # Behind the last slot stands the row that is left alone.
        picked = torch.tensor([slots.get(row, len(distinct)) for row in rows], device=self._device)

        def table(parts: Sequence[Tensor]) -> Tensor:
            """Of each row, with zeros in place of the ranks that it does not have."""
            stacked = torch.stack(
                [pad(part, (0, 0) * (part.ndim - 1) + (0, rank - len(part))) for part in parts]
                + [parts[0].new_zeros((rank, *parts[0].shape[1:]))]
            )
            return stacked.to(self._device, torch.float32)[picked]

        def flags(*positions: Positions) -> Tensor:
            values = [*(edit.positions in positions for edit in distinct), False]
            return torch.tensor(values, device=self._device)[picked]

        amounts = torch.tensor([*(edit.amount for edit in distinct), 0.0], device=self._device)
        reads = [edit.reads for edit in distinct if edit.reads is not None]
        offsets = [edit.offsets for edit in distinct if edit.offsets is not None]
        return _Group(
            operation=operation,
            rows=rows,
            index=torch.tensor(rows, device=self._device),
            basis=table([edit.basis for edit in distinct]),
            amount=amounts[picked],
            prompt=flags("all", "prompt"),
            last=flags("last"),
            response=flags("all", "response"),
            reads=table(reads) if reads else None,
            offsets=table(offsets) if offsets else None,
            everywhere=len(rows) == num_rows,
        )

    def begin_prefill(self, prompt_mask: Tensor) -> None:
        """The next pass covers the prompts; `prompt_mask` [rows, tokens] is True on real tokens."""
        self._prompt_mask = prompt_mask.bool()

    def begin_decode(self) -> None:
        """The next pass covers one generated token a row."""
        self._prompt_mask = None
        self._decode_steps += 1

    def keep(self, order: Sequence[int]) -> None:
        """Go on with the rows `order` (indices into the present batch), in that order."""
        for key, groups in self._groups.items():
            self._groups[key] = [kept for group in groups if (kept := group.kept(order))]
        self.change = self.change[torch.tensor(order, dtype=torch.long, device=self._device)]

    def apply(self, key: SiteKey, hidden: Tensor) -> Tensor:
        """The activations at one site, steered.

        Args:
            key: (layer, site), one of `sites`.
            hidden: [rows, tokens, width].

        Returns:
            A new tensor of the same shape and dtype. Rows and tokens that no edit names are
            bit-equal to the input.

        Raises:
            InterventionError: The vector's width is not that of the model.
        """
        self.visits[key] += 1
        if any(group.index.device != hidden.device for group in self._groups[key]):
            # Of a model on several devices each block has its tables on its own.
            self._groups[key] = [group.on(hidden.device) for group in self._groups[key]]
        prompt_mask = self._prompt_mask
        if prompt_mask is not None:
            prompt_mask = prompt_mask.to(hidden.device)
        for group in self._groups[key]:
            check_width(group.basis.shape[-1], hidden.shape[-1])
            before = hidden if group.everywhere else hidden[group.index]
            after = group.steer(before, prompt_mask)
            if prompt_mask is not None or self._decode_steps == 1:
                moved = (after.detach() - before.detach()).abs().amax(dim=(1, 2)).float()
                self._note_change(group.index, moved)
            hidden = after if group.everywhere else hidden.index_copy(0, group.index, after)
        return hidden

    def _note_change(self, rows: Tensor, moved: Tensor) -> None:
        index = rows.to(self._device)
        self.change[index] = torch.maximum(self.change[index], moved.to(self._device))
