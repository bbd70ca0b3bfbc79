"""The arithmetic of steering: what is done to which rows and tokens of a batch of activations.

Hidden states are [rows, tokens, width]; every row has its own interventions. Owns the operations,
the position masks, the units, and the `Plan` that holds a batch's tables. Never knows engines,
tokenizers, files, or how rows are scheduled.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from steering.errors import SteeringError
from steering.vector import SteeringVector
from steering.vocabulary import SITES, Operation, Positions, Site, Unit

# Directions that differ by less, relative to length 1, differ by rounding alone.
_SAME_DIRECTION = 1e-5


class InterventionError(SteeringError):
    """A vector can't be applied in the way that was asked for."""


@dataclass(frozen=True)
class RowIntervention:
    """One edit of one row at one site, with all units resolved.

    Attributes:
        basis: Float32 [rank, width]. For `add` the one direction, or what a low-rank map writes;
            else an orthonormal basis.
        amount: Multiplier of the direction or map for `add`; target projection for `clamp`, bound
            for `cap`, both in the residual stream's own units; unused by `ablate`.
        layer: Block, from 0.
        site: Where in the block.
        operation: What is done.
        positions: Which tokens.
        reads: Float32 [rank, width], what a low-rank map reads; None for all else.
        offsets: Float32 [rank], what it adds to that.
    """

    basis: Tensor
    amount: float
    layer: int
    site: Site
    operation: Operation
    positions: Positions
    reads: Tensor | None = None
    offsets: Tensor | None = None

    @property
    def must_change(self) -> bool:
        """Whether an edit that leaves the activations as they are would be a fault."""
        return self.operation in ("ablate", "clamp") or (
            self.operation == "add" and self.amount != 0
        )


def resolve(
    vector: SteeringVector,
    *,
    magnitude: float = 1.0,
    unit: Unit = "raw",
    operation: Operation = "add",
    positions: Positions = "all",
    layer: int | None = None,
    site: Site | None = None,
) -> tuple[RowIntervention, ...]:
    """Turn a vector and the options of one condition into an edit for each of its layers.

    Args:
        vector: The vector.
        magnitude: Multiplier, in `unit`.
        unit: `raw`: of the stored vector; `norm`: of the vector scaled to length 1; `residual`: of
            the mean residual norm at the site.
        operation: What is done.
        positions: Which tokens.
        layer: The one layer to act on: of a vector with several, one of them; a vector with a
            single layer may be moved to any.
        site: Site to act on, if not the vector's own.

    Raises:
        InterventionError: The vector is zero, has a rank that the operation can't use, has
            directions that depend on each other, or lacks the norm that the unit needs at the
            place where it acts.
        VectorError: A vector of several layers has nothing for that one.
    """
    if layer is not None and len(vector.layers) > 1:
        vector = vector.at(layer)
    if operation in ("clamp", "cap") and (vector.rank != 1 or vector.map is not None):
        held = "a low-rank map" if vector.map is not None else f"{vector.rank} directions"
        raise InterventionError(
            f"operation={operation} takes one direction, this vector holds {held}: "
            "use operation=ablate or add, or a vector of rank 1"
        )
    if not all(vector.lengths) or not vector.directions.flatten(1).any(1).all():
        raise InterventionError("the vector is zero: it would steer nothing. Build it again")
    if unit == "residual" and vector.residual_norms is None:
        raise InterventionError(
            "unit=residual needs the mean residual norm, which this vector's file does not hold: "
            "use unit=raw or unit=norm"
        )
    if unit == "residual" and (
        site not in (None, vector.site) or layer not in (None, *vector.layers)
    ):
        layers = ", ".join(map(str, vector.layers))
        raise InterventionError(
            f"unit=residual is known only where the vector was built, layer {layers} "
            f"{vector.site}: use unit=raw or unit=norm elsewhere"
        )
    return tuple(
        _resolve_layer(vector.at(own), magnitude, unit, operation, positions, layer, site)
        for own in vector.layers
    )


def _resolve_layer(
    vector: SteeringVector,
    magnitude: float,
    unit: Unit,
    operation: Operation,
    positions: Positions,
    layer: int | None,
    site: Site | None,
) -> RowIntervention:
    """The edit of a vector of one layer."""
    [length], [directions] = vector.lengths, vector.directions
    [residual_norm] = vector.residual_norms or (0.0,)
    # Length, in the residual stream's own units, that a magnitude of 1 stands for.
    of_unit = {"raw": length, "norm": 1.0, "residual": residual_norm}[unit]
    amount = magnitude if unit == "raw" else magnitude * of_unit / length
    reads = offsets = None
    if operation != "add":
        basis, amount = _orthonormal(directions), magnitude * of_unit
    elif vector.map is None:
        basis = directions.sum(0, keepdim=True)
    else:
        basis, [reads], [offsets] = directions, vector.map.reads, vector.map.offsets
    return RowIntervention(
        basis=basis,
        amount=amount,
        layer=vector.layers[0] if layer is None else layer,
        site=vector.site if site is None else site,
        operation=operation,
        positions=positions,
        reads=reads,
        offsets=offsets,
    )


def _orthonormal(directions: Tensor) -> Tensor:
    """Orthonormal basis of the span, [rank, width]; a single direction keeps its sign."""
    if directions.shape[0] == 1:
        return (directions.double() / torch.linalg.vector_norm(directions.double())).float()
    units = torch.nn.functional.normalize(directions.double(), dim=1)
    spanned = int(torch.linalg.matrix_rank(units, rtol=_SAME_DIRECTION))
    if spanned < len(units):
        raise InterventionError(
            f"the vector's {len(units)} directions span only {spanned} dimensions, and the rest of "
            f"its basis would be arbitrary: build it with rank {spanned}"
        )
    return torch.linalg.qr(units.T)[0].T.float()


def _add(hidden: Tensor, basis: Tensor, amount: Tensor) -> Tensor:
    """h + amount * v (Turner et al., arXiv 2308.10248)."""
    return hidden + amount[:, None, None] * basis[:, :1]


def _ablate(hidden: Tensor, basis: Tensor, amount: Tensor) -> Tensor:
    """h - U^T U h, U orthonormal (Arditi et al., arXiv 2406.11717)."""
    return hidden - _projection(hidden, basis) @ basis


def _clamp(hidden: Tensor, basis: Tensor, amount: Tensor) -> Tensor:
    """h + (amount - u.h) u: the projection becomes `amount`."""
    return hidden + (amount[:, None, None] - _projection(hidden, basis)) @ basis


def _cap(hidden: Tensor, basis: Tensor, amount: Tensor) -> Tensor:
    """h + min(amount - u.h, 0) u: the projection becomes at most `amount` (arXiv 2601.10387)."""
    return hidden + (amount[:, None, None] - _projection(hidden, basis)).clamp(max=0) @ basis


def _map(hidden: Tensor, basis: Tensor, amount: Tensor, reads: Tensor, offsets: Tensor) -> Tensor:
    """h + amount * B^T (A h + b): `reads` is A, `offsets` b (DiReFT, arXiv 2404.03592)."""
    return hidden + amount[:, None, None] * (_projection(hidden, reads) + offsets[:, None]) @ basis


def _projection(hidden: Tensor, basis: Tensor) -> Tensor:
    return hidden @ basis.transpose(1, 2)


# (hidden [rows, tokens, width], basis [rows, rank, width], amount [rows]) -> hidden, in float32
OPERATIONS: dict[Operation, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "add": _add,
    "ablate": _ablate,
    "clamp": _clamp,
    "cap": _cap,
}

SiteKey = tuple[int, Site]
# Order of the edit within its site, operation, whether it is a low-rank map.
_Kind = tuple[int, Operation, bool]


@dataclass
class _Group:
    """The rows of one site that share an operation; row indices are into the batch."""

    operation: Operation
    rows: Tensor  # [n]
    basis: Tensor  # [n, rank, width]; lower ranks are padded with zero directions, which do nothing
    amount: Tensor  # [n]
    prompt: Tensor  # [n] bool: every prompt token is steered
    last: Tensor  # [n] bool: the last prompt token is steered
    response: Tensor  # [n] bool: generated tokens are steered
    reads: Tensor | None  # [n, rank, width] of low-rank maps
    offsets: Tensor | None  # [n, rank]

    def act(self, hidden: Tensor) -> Tensor:
        """Float32 [n, tokens, width], every token edited."""
        if self.reads is not None and self.offsets is not None:
            return _map(hidden, self.basis, self.amount, self.reads, self.offsets)
        return OPERATIONS[self.operation](hidden, self.basis, self.amount)

    def kept(self, order: Tensor) -> "_Group | None":
        """The group in a batch whose row i was row order[i], or None when no row is left."""
        match = order[:, None] == self.rows[None, :]
        new_rows, old = match.nonzero(as_tuple=True)
        if not len(new_rows):
            return None
        tables = {name: value[old] for name, value in vars(self).items() if _is_table(name, value)}
        return replace(self, **tables | {"rows": new_rows})

    def token_mask(self, prompt_mask: Tensor | None) -> Tensor:
        """True where a token is steered: [n, tokens] in the prefill, [n, 1] in a decode step."""
        if prompt_mask is None:
            return self.response[:, None]
        mask = prompt_mask[self.rows]
        is_last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        return (mask & self.prompt[:, None]) | (is_last & self.last[:, None])


def _is_table(name: str, value: object) -> bool:
    return isinstance(value, Tensor) and name != "rows"


class Plan:
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
        self, rows: Sequence[Sequence[RowIntervention]], device: torch.device | str = "cpu"
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
        members: dict[SiteKey, dict[_Kind, list[tuple[int, RowIntervention]]]] = {}
        for index, edits in enumerate(rows):
            met: Counter[SiteKey] = Counter()
            for edit in edits:
                key = (edit.layer, edit.site)
                kind = (met[key], edit.operation, edit.reads is not None)
                met[key] += 1
                members.setdefault(key, {}).setdefault(kind, []).append((index, edit))
        depth = list(SITES)
        self.sites = tuple(sorted(members, key=lambda key: (key[0], depth.index(key[1]))))
        self._groups = {
            key: [self._group(found) for _, found in sorted(members[key].items())]
            for key in self.sites
        }
        self.change = torch.zeros(len(rows), device=self._device)
        self.visits = dict.fromkeys(self.sites, 0)
        self._prompt_mask: Tensor | None = None
        self._decode_steps = 0

    def _group(self, found: list[tuple[int, RowIntervention]]) -> _Group:
        edits = [edit for _, edit in found]
        rank = max(edit.basis.shape[0] for edit in edits)

        def table(parts: Sequence[Tensor]) -> Tensor:
            """Stacked, with zeros in place of the ranks that a row does not have."""
            return torch.stack(
                [pad(part, (0, 0) * (part.ndim - 1) + (0, rank - len(part))) for part in parts]
            ).to(self._device)

        def flags(*positions: Positions) -> Tensor:
            return torch.tensor(
                [edit.positions in positions for edit in edits], device=self._device
            )

        reads = [edit.reads for edit in edits if edit.reads is not None]
        offsets = [edit.offsets for edit in edits if edit.offsets is not None]
        return _Group(
            operation=edits[0].operation,
            rows=torch.tensor([index for index, _ in found], device=self._device),
            basis=table([edit.basis for edit in edits]),
            amount=torch.tensor([edit.amount for edit in edits], device=self._device),
            prompt=flags("all", "prompt"),
            last=flags("last"),
            response=flags("all", "response"),
            reads=table(reads) if reads else None,
            offsets=table(offsets) if offsets else None,
        )

    def begin_prefill(self, prompt_mask: Tensor) -> None:
        """The next pass covers the prompts; `prompt_mask` [rows, tokens] is True on real tokens."""
        self._prompt_mask = prompt_mask.bool()

    def begin_decode(self) -> None:
        """The next pass covers one generated token a row."""
        self._prompt_mask = None
        self._decode_steps += 1

    def keep(self, order: Tensor) -> None:
        """Go on with the rows `order` (indices into the present batch), in that order."""
        for key, groups in self._groups.items():
            self._groups[key] = [kept for group in groups if (kept := group.kept(order))]
        self.change = self.change[order]

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
        for group in self._groups[key]:
            if group.basis.shape[-1] != hidden.shape[-1]:
                raise InterventionError(
                    f"a vector of width {group.basis.shape[-1]} can't steer a residual stream of "
                    f"width {hidden.shape[-1]}"
                )
            before = hidden[group.rows]
            after = group.act(before.float())
            mask = group.token_mask(self._prompt_mask)[:, :, None]
            after = torch.where(mask, after.to(hidden.dtype), before)
            if self._prompt_mask is not None or self._decode_steps == 1:
                moved = (after.detach() - before.detach()).abs().amax(dim=(1, 2)).float()
                self.change[group.rows] = torch.maximum(self.change[group.rows], moved)
            hidden = hidden.index_copy(0, group.rows, after)
        return hidden
