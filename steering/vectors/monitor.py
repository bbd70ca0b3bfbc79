"""What a monitor reads: projections of the residual stream on directions, at each answer token.

A token is read where it is the model's input. So the last token of an answer, which is never an
input, is not read, and neither are those of the prompt. Reading changes no activation. Hidden
states are [rows, tokens, width]. Never knows engines, tokenizers or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from steering.vectors.batch import SiteKey, in_order
from steering.vectors.errors import VectorError
from steering.vectors.interventions import check_width, resolve
from steering.vectors.steering_vector import SteeringVector
from steering.vocabulary import Site

# Most activations that wait to be projected, so that they take little memory.
_MOST_ACTIVATIONS = 2**22
# Axes of a reading behind those of tokens and directions.
SIDES = ("before", "after")
"""Either side of the interventions at the site; the same where there are none."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction that is read.

    Attributes:
        name: Which vector it is of.
        layer: Block, from 0.
        site: Where in the block.
        unit: Float32 [width], of length 1.
        steers: Whether the condition's own interventions act with it there.
    """

    name: str
    layer: int
    site: Site
    unit: Tensor
    steers: bool = False


Monitor = tuple[Direction, ...]


def directions_of(
    vector: SteeringVector,
    name: str,
    *,
    layer: int | None = None,
    site: Site | None = None,
    steers: bool = False,
) -> Monitor:
    """The direction of a vector at each of its layers: what `add` would add, at length 1.

    Raises:
        VectorError: It is a low-rank map, which has no one direction; or see `resolve`.
    """
    if vector.map is not None:
        raise VectorError(
            f"{name} is a low-rank map, which has no one direction to project on: monitor a vector "
            "of another method"
        )
    return tuple(
        Direction(
            name=name,
            layer=item.layer,
            site=item.site,
            unit=torch.nn.functional.normalize(item.basis[0].float(), dim=0),
            steers=steers,
        )
        for item in resolve(vector, layer=layer, site=site)
    )


class Applied(Protocol):
    """The interventions of the batch that is read."""

    @property
    def sites(self) -> tuple[SiteKey, ...]: ...

    def apply(self, key: SiteKey, hidden: Tensor) -> Tensor: ...


class MonitorBatch:
    """The interventions of a batch, read from either side while they are applied.

    It stands in for them in decoding passes. What it reads stays on the device until `collect`, so
    that no pass waits for it. Without a monitored row it reads nothing.

    Attributes:
        sites: (layer, site) of every direction and intervention, in the order of a forward pass.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Monitor, list[Tensor]]],
        interventions: Applied,
        device: torch.device | str = "cpu",
    ) -> None:
        """Lay out the directions.

        Args:
            rows: Of each row its directions, and the list that `collect` appends to.
            interventions: Of the same rows.
            device: Where the directions stand.
        """
        self._rows = list(rows)
        self._interventions: Applied | None = interventions
        by_site: dict[SiteKey, list[Direction]] = {}
        for item in {id(item): item for monitor, _ in rows for item in monitor}.values():
            by_site.setdefault((item.layer, item.site), []).append(item)
        # Every row is projected on every direction of a site, and takes its own when collected.
        self._places = {
            id(item): (key, place)
            for key, items in by_site.items()
            for place, item in enumerate(items)
        }
        self._bases = {
            key: torch.stack([item.unit for item in items], 1).to(device)
            for key, items in by_site.items()
        }
        self._tokens: dict[SiteKey, list[Tensor]] = {key: [] for key in by_site}
        self._values: dict[SiteKey, list[Tensor]] = {key: [] for key in by_site}
        self._num_activations = 0
        self.sites = in_order({*by_site, *interventions.sites})

    def apply(self, key: SiteKey, hidden: Tensor) -> Tensor:
        """The activations at one site as the interventions leave them; reads its last tokens."""
        assert self._interventions is not None
        sides = [hidden[:, -1]]
        if key in self._interventions.sites:
            hidden = self._interventions.apply(key, hidden)
            sides.append(hidden[:, -1])
        if key in self._tokens:
            # A copy, and nothing else: in a small model each operation of a pass takes time.
            tokens = torch.stack(sides)
            self._tokens[key].append(tokens)
            self._num_activations += tokens.numel()
            if self._num_activations > _MOST_ACTIVATIONS:
                self._project()
        return hidden

    def _project(self) -> None:
        """Reduce activations to their projections, with the norm behind them."""
        for key, passes in self._tokens.items():
            if passes:
                tokens = torch.stack(passes).float()  # [passes, sides, rows, width]
                basis = self._bases[key].to(tokens.device)
                check_width(len(basis), tokens.shape[-1])
                norms = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
                self._values[key].append(torch.cat([tokens @ basis, norms], -1))
                passes.clear()
        self._num_activations = 0

    def collect(self) -> None:
        """Append what was read since the last time to the lists of the rows.

        Of each row float32 [tokens, directions, 2, 2]: for either of `SIDES` the projection and the
        norm of the residual stream.
        """
        self._project()
        if not any(self._values.values()):
            return
        passes = {
            key: torch.cat(parts).expand(-1, len(SIDES), -1, -1).cpu()
            for key, parts in self._values.items()
        }  # [passes, sides, rows, directions + 1]
        for parts in self._values.values():
            parts.clear()
        values: dict[int, Tensor] = {}
        for row, (monitor, readings) in enumerate(self._rows):
            if not monitor:
                continue
            if id(monitor) not in values:
                places = [self._places[id(item)] for item in monitor]
                values[id(monitor)] = torch.stack(
                    [passes[key][..., [place, -1]].transpose(1, 2) for key, place in places], 2
                )  # [passes, rows, directions, sides, 2]
            readings.append(values[id(monitor)][:, row])

    def end(self) -> None:
        """There is no further pass: what was read alone is left, for a later `collect`."""
        self._project()
        self._interventions = None

    def keep(self, order: Sequence[int]) -> None:
        """Go on with the rows `order` (indices into the present batch), in that order."""
        self.collect()
        self._rows = [self._rows[index] for index in order]
