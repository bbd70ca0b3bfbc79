"""The log of a training run: the parameters after each training epoch, and what it takes to go on.

Written whole after each epoch beside the cache of vectors, in a format of its own, so that a run
that was stopped leaves nothing that could be taken for a finished vector.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor
from tqdm import tqdm

from steering.files import write_whole
from steering.vectors import VectorError
from steering.vectors.steering_vector import pack, unpack

logger = logging.getLogger(__name__)

FORMAT = "steering-training/1"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")

Progress = Callable[[int, int], None]
"""Told (steps done, steps in all) after each step."""


def cache_folder() -> Path:
    """Where built vectors are kept; the environment variable STEERING_CACHE moves it."""
    root = os.environ.get("STEERING_CACHE")
    return Path(root) if root else user_cache_path("steering", appauthor=False)


def progress_bar(caption: str) -> Progress:
    """A bar on stderr, made with the first step."""
    bar: list[tqdm[Any]] = []

    def advance(done: int, total: int) -> None:
        if not bar:
            bar.append(tqdm(desc=caption, unit="step", mininterval=1))
        # A method that builds another's vector first counts anew.
        bar[0].total = total
        bar[0].update(done - bar[0].n)
        if done == total:
            bar.pop().close()

    return advance


class TrainingCheckpoint:
    """What a run has come to, epoch by epoch.

    Attributes:
        losses: Mean loss of each training epoch.
        held_out_losses: Held-out loss after each.
        unsteered_loss: Held-out loss before the first.
    """

    def __init__(self, run: str, unsteered_loss: "Callable[..., float]") -> None:
        """Take note of the run's digest; the unsteered loss is measured when there is no file."""
        self._path = cache_folder() / "training" / f"{run}.safetensors"
        self._measure = unsteered_loss
        self._epochs: list[dict[str, Tensor]] = []
        self.losses: list[float] = []
        self.held_out_losses: list[float] = []
        self.unsteered_loss = 0.0

    def resume(self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Set parameters and optimizer to where the run stands: its last whole epoch."""
        if not self._path.exists():
            self.unsteered_loss = self._measure(steered=False)
            return
        try:
            header, tensors = unpack(FORMAT, self._path)
        except VectorError as error:
            logger.warning("%s; the run starts again", error)
            self.unsteered_loss = self._measure(steered=False)
            return
        self.losses, self.held_out_losses = header["losses"], header["held_out_losses"]
        self.unsteered_loss = header["unsteered_loss"]
        self._epochs = [
            {name: tensors[f"epoch {epoch} {name}"] for name in parameters}
            for epoch in range(1, len(self.losses) + 1)
        ]
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._epochs[-1][name])
                device = {"exp_avg": parameter.device, "exp_avg_sq": parameter.device}
                optimizer.state[parameter] = {
                    moment: tensors[f"adam {name} {moment}"].reshape(
                        () if moment == "step" else parameter.shape
                    ).to(device.get(moment, "cpu"))
                    for moment in _MOMENTS
                }  # fmt: skip

    def note(
        self,
        loss: float,
        held_out_loss: float,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """A training epoch is over."""
        self.losses.append(loss)
        self.held_out_losses.append(held_out_loss)
        self._epochs.append(
            {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
        )
        tensors = {
            f"epoch {epoch} {name}": part
            for epoch, parts in enumerate(self._epochs, start=1)
            for name, part in parts.items()
        } | {
            f"adam {name} {moment}": optimizer.state[parameter][moment].reshape(-1)
            for name, parameter in parameters.items()
            for moment in _MOMENTS
        }
        header = {
            "losses": self.losses,
            "held_out_losses": self.held_out_losses,
            "unsteered_loss": self.unsteered_loss,
        }
        write_whole(self._path, pack(FORMAT, header, tensors))

    def parameters_after(self, epoch: int) -> dict[str, Tensor]:
        """The parameters as they were after a training epoch, counted from 1."""
        return self._epochs[epoch - 1]
