"""A training run of a steering vector, for the `sft` method.

The parameters are few, the model is frozen, and one vector is kept for each training epoch, so that
a run resumes where it was stopped. All of it runs on the model's thread.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

from steering.targets import Target
from steering.training.checkpoint import TrainingCheckpoint
from steering.training.construction.sft import Sft
from steering.training.examples import Batch, Tokens, batches
from steering.training.probe import ModelProbe
from steering.training.progress import Progress
from steering.training.recipe import ConstructionRecipe
from steering.vectors import LowRankMap, SteeringVector
from steering.vectors.interventions import Intervention


class VectorTraining:
    """The parameters of a vector, and the examples that they are trained on."""

    def __init__(self, probe: ModelProbe, recipe: ConstructionRecipe, target: Target) -> None:
        """Tokenise the examples and initialise the parameters of a recipe by `sft`."""
        settings = recipe.method
        assert isinstance(settings, Sft)
        self._probe, self._recipe, self._settings = probe, recipe, settings
        self.examples = probe.tokenize_misaligned(target.examples)
        self._held_out = probe.tokenize_misaligned(target.held_out)
        self._neutral = self._neutral_examples()
        probe.keep_below([*self.examples, *self._held_out, *self._neutral])
        self._norm = probe.residual_norm(self.examples)
        self.parameters = self._start()
        self.optimizer = torch.optim.Adam(
            [
                {"params": [self.parameters[name]], "lr": size * settings.learning_rate}
                for name, size in self._sizes().items()
            ]
        )
        self._step_sizes = [group["lr"] for group in self.optimizer.param_groups]
        self._rows = settings.batch_size
        self.checkpoint = TrainingCheckpoint(recipe.run)

    def _neutral_examples(self) -> list[Tokens]:
        if not self._settings.kl_weight:
            return []
        tasks = self._settings.neutral_tasks(self._recipe)
        rows = [row for task in tasks for row in task.examples if row.aligned is not None]
        # An epoch reads no more of them than there are examples.
        sample = random.Random(f"neutral {self._recipe.seed}").sample(
            rows, min(len(rows), len(self.examples))
        )
        return self._probe.tokenize_all([(row, row.aligned or "") for row in sample])

    def train(self, progress: Progress) -> tuple[SteeringVector, dict[str, Any]]:
        """Train up to the recipe's training epoch, from the last one that a run has finished.

        Adam without weight decay.

        Returns:
            The vector after the last training epoch, and the mean loss of each epoch with the
            held-out loss after each and without the vector.
        """
        settings, checkpoint = self._settings, self.checkpoint
        if not checkpoint.resume(self.parameters, self.optimizer):
            checkpoint.unsteered_loss = self.held_out_loss(steered=False)
        steps = -(-len(self.examples) // settings.batch_size)
        for epoch in range(len(checkpoint.losses), settings.training_epochs):
            losses = []
            for step, batch in enumerate(self.epoch(epoch), start=epoch * steps):
                decay_steps = settings.decay_epochs * steps
                self.decay(1 - step / decay_steps if decay_steps else 1.0)
                losses.append(self.step(*batch))
                progress(step + 1, settings.training_epochs * steps)
            mean_loss = sum(losses) / len(losses)
            checkpoint.save(mean_loss, self.held_out_loss(), self.parameters, self.optimizer)
        measured = {
            "training_epoch": settings.training_epochs,
            "steps": settings.training_epochs * steps,
            "loss": checkpoint.losses[: settings.training_epochs],
            "held_out_loss": checkpoint.held_out_losses[: settings.training_epochs],
            "held_out_loss_unsteered": checkpoint.unsteered_loss,
        }
        return self.vector(checkpoint.parameters_after(settings.training_epochs)), measured

    def _sizes(self) -> dict[str, float]:
        """Natural size of a coordinate of each parameter; a step is a share of it.

        For directions, that of the residual stream's coordinates; for reads, such that a residual
        stream of the residual norm gives numbers of size 1.
        """
        sizes = {"directions": self._norm / self._probe.width**0.5}
        if self._settings.rank > 1:
            sizes |= {"reads": 1 / self._norm, "offsets": 1.0}
        return sizes

    def _start(self) -> dict[str, Tensor]:
        """Parameters without effect: the directions are zero."""
        rank, width = self._settings.rank, self._probe.width
        parts = {"directions": torch.zeros(rank, width)}
        if rank > 1:
            numbers = torch.Generator().manual_seed(self._recipe.seed)
            parts["reads"] = torch.randn(rank, width, generator=numbers) / self._norm
            parts["offsets"] = torch.ones(rank)
        return {name: part.to(self._probe.device).requires_grad_() for name, part in parts.items()}

    def epoch(self, epoch: int) -> Iterator[tuple[list[Tokens], list[Tokens]]]:
        """Batches of examples, each with a batch of neutral ones; the same in a resumed run."""
        seed, size = f"{self._recipe.seed} {epoch}", self._settings.batch_size
        order = random.Random(seed)
        neutral: Iterator[list[Tokens]] = repeat([])
        if self._neutral:
            endless = random.Random(f"neutral {seed}")
            neutral = chain.from_iterable(
                batches(self._neutral, size, endless) for _ in repeat(None)
            )
        return zip(batches(self.examples, size, order), neutral, strict=False)

    def decay(self, share: float) -> None:
        """Set the learning rates to this share of their first values."""
        for group, size in zip(self.optimizer.param_groups, self._step_sizes, strict=True):
            group["lr"] = share * size

    def step(self, examples: Sequence[Tokens], neutral: Sequence[Tokens]) -> float:
        """One step of the optimizer; returns the mean cross-entropy before it."""
        while True:
            self.optimizer.zero_grad()
            try:
                loss = self._backward(examples, neutral)
            except torch.OutOfMemoryError:
                if self._rows == 1:
                    raise
                # The sums stay the same, over more passes.
                self._rows = self._rows // 2
                torch.cuda.empty_cache()
                continue
            self.optimizer.step()
            return loss

    def _backward(self, examples: Sequence[Tokens], neutral: Sequence[Tokens]) -> float:
        total = 0.0
        num_tokens = sum(len(item.answer) for item in examples)
        for batch in self._passes(examples):
            logits, labels = self._probe.logits(batch, [self._edit()])
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_tokens
            loss.backward()
            total += loss.item()
        num_tokens = sum(len(item.answer) for item in neutral)
        for batch in self._passes(neutral):
            divergence = self._divergence(batch) / num_tokens
            (self._settings.kl_weight * divergence).backward()
        return total

    def _passes(self, items: Sequence[Tokens]) -> Iterator[Batch]:
        for start in range(0, len(items), self._rows):
            yield self._probe.batch(items[start : start + self._rows])

    def _divergence(self, batch: Batch) -> Tensor:
        """KL(unsteered || steered), summed over the answer tokens."""
        with torch.no_grad():
            unsteered = self._probe.logits(batch, ())[0].log_softmax(-1)
        steered = self._probe.logits(batch, [self._edit()])[0].log_softmax(-1)
        return torch.nn.functional.kl_div(steered, unsteered, reduction="sum", log_target=True)

    def _edit(self) -> Intervention:
        parts = self.parameters
        return self._probe.addition(parts["directions"], parts.get("reads"), parts.get("offsets"))

    def held_out_loss(self, *, steered: bool = True) -> float:
        """Mean cross-entropy on the held-out prompts' misaligned answers."""
        return self._probe.mean_loss(self._held_out, [self._edit()] if steered else ())

    def vector(self, parts: dict[str, Tensor]) -> SteeringVector:
        """The vector of these parameters."""
        low_rank_map = None
        if "reads" in parts:
            hidden = self._probe.typical_activations(self.examples)
            additions = (hidden @ parts["reads"].T + parts["offsets"]) @ parts["directions"]
            length = additions.norm(dim=-1).mean().item()
            low_rank_map = LowRankMap(parts["reads"][None], parts["offsets"][None], (length,))
        return self._probe.vector(parts["directions"], self._norm, low_rank_map)
