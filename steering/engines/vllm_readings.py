"""What monitors read in the steps of a vLLM worker, put together as the readings of each answer.

vLLM computes tokens again where it preempts a request, and some in vain behind the end of an
answer. So a reading belongs to a position of an answer, and the last one there counts.
"""

from collections.abc import Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from steering.vectors.monitor import Applied, Monitor, MonitorBatch

# Most batches whose readings stay on the device.
_MOST_BATCHES = 64
Place = tuple[str, int]
"""A token: the name of its request, and its position in the answer, which is below 0 in prompts."""


class Readings:
    """The readings of the requests of one worker process."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._batch: MonitorBatch | None = None
        self._interventions: Applied | None = None
        self._monitors: list[Monitor] = []
        self._places: list[Place] = []
        self._ended: list[MonitorBatch] = []
        # Of each request where its parts begin; a part has a tensor for each `collect` of a batch.
        self._parts: dict[str, list[tuple[int, list[Tensor]]]] = {}

    def begin(
        self, monitors: list[Monitor], places: list[Place], interventions: Applied
    ) -> MonitorBatch | None:
        """What reads a step; None if nothing is read in it.

        Steps in which every row is one token further share a batch, so that none of them waits.

        Args:
            monitors: Of each token of the step the directions on which it is read.
            places: Of each token its place.
            interventions: Of the same tokens.
        """
        is_next = (
            self._batch is not None
            and interventions is self._interventions
            and monitors == self._monitors
            and places == [(name, position + 1) for name, position in self._places]
        )
        self._places = places
        if is_next:
            return self._batch
        self.end()
        if not any(monitors):
            return None
        self._interventions, self._monitors = interventions, monitors
        rows: list[tuple[Monitor, list[Tensor]]] = []
        for monitor, (name, position) in zip(monitors, places, strict=True):
            rows.append((monitor, []))
            if monitor:
                self._parts.setdefault(name, []).append((position, rows[-1][1]))
        self._batch = MonitorBatch(rows, interventions, self._device)
        return self._batch

    def end(self) -> None:
        """The next step, if any, has another batch."""
        if self._batch is not None:
            self._batch.end()
            self._ended.append(self._batch)
        self.drop()
        if len(self._ended) > _MOST_BATCHES:
            self._collect()

    def drop(self) -> None:
        """The same, without what was read in the present batch: one of its steps failed."""
        self._batch = self._interventions = None

    def _collect(self) -> None:
        for batch in self._ended:
            batch.collect()
        self._ended.clear()
        if self._batch is not None:
            self._batch.collect()

    def take(self, names: Sequence[str]) -> list[bytes]:
        """The readings of each request as safetensors, none as nothing; they are then forgotten.

        They end before the first token that was not read.
        """
        self._collect()
        packed = []
        for name in names:
            rows: list[Tensor] = []
            for first, tensors in self._parts.pop(name, ()):
                if first > len(rows):
                    break
                values = torch.cat(tensors).unbind() if tensors else ()
                rows[first : first + len(values)] = values
            packed.append(save({"readings": torch.stack(rows)}) if rows else b"")
        return packed
