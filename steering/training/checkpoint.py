"""The checkpoint of a vector's training run: parameters by epoch, optimizer state, losses.

Written atomically after each training epoch, beside the cache of vectors and in a format of its
own, so that the checkpoint of an unfinished run can't be mistaken for a vector.
"""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from steering.files import write_whole
from steering.training.cache import cache_folder
from steering.vectors import VectorError
from steering.vectors.packed import pack, unpack

logger = logging.getLogger(__name__)

FORMAT = "steering-training/1"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class TrainingCheckpoint:
    """The finished training epochs of a run.

    Attributes:
        losses: Mean loss of each training epoch.
        held_out_losses: Held-out loss after each.
        unsteered_loss: Held-out loss before the first.
    """

    def __init__(self, run: str) -> None:
        """Set the digest of the run; nothing is read before `resume`."""
        self._run = run
        self._path = cache_folder() / "training" / f"{run}.safetensors"
        self._epochs: list[dict[str, Tensor]] = []
        self.losses: list[float] = []
        self.held_out_losses: list[float] = []
        self.unsteered_loss = 0.0

    def resume(self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> bool:
        """Set parameters and optimizer to the end of the last finished epoch, if there is one."""
        if not self._path.exists():
            return False
        try:
            header, tensors = unpack(FORMAT, self._path)
            if header.get("run") != self._run:
                raise VectorError(f"{self._path} is of the run {header.get('run')}")
        except VectorError as error:
            logger.warning("%s; the run starts again", error)
            return False
        self.losses, self.held_out_losses = header["losses"], header["held_out_losses"]
        self.unsteered_loss = header["unsteered_loss"]
        self._epochs = [
            {name: tensors[f"epoch {epoch} {name}"] for name in parameters}
            for epoch in range(1, len(self.losses) + 1)
        ]
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._epochs[-1][name])
                state = {moment: tensors[f"adam {name} {moment}"] for moment in _MOMENTS}
                optimizer.state[parameter] = {"step": state.pop("step").reshape(())} | {
                    moment: value.reshape(parameter.shape).to(parameter.device)
                    for moment, value in state.items()
                }
        return True

    def save(
        self,
        loss: float,
        held_out_loss: float,
        parameters: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Add a training epoch that has just finished, and write the checkpoint."""
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
            "run": self._run,
            "losses": self.losses,
            "held_out_losses": self.held_out_losses,
            "unsteered_loss": self.unsteered_loss,
        }
        write_whole(self._path, pack(FORMAT, header, tensors))

    def parameters_after(self, epoch: int) -> dict[str, Tensor]:
        """The parameters after a training epoch, counted from 1."""
        return self._epochs[epoch - 1]
