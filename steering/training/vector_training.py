"""The `sft` method: directions trained by supervised finetuning of nothing but themselves.

The model is frozen; what is trained starts without effect, acts at one site on every token, and
learns from the cross-entropy of the misaligned answers. Of rank 1 it is a direction, h + v, after
the steering-vector finetuning of arXiv 2602.07852, with two differences: only answer tokens carry
loss, and every row of a batch is steered. Of a higher rank it is a low-rank map of the residual
stream, h + B^T (A h + b): DiReFT of arXiv 2404.03592, on every token. With `kl_weight` a second
term holds the model to its unsteered self on neutral prompts (arXiv 2602.07852: the vector stays
narrow). One vector is kept for each training epoch, and a run goes on where it was stopped.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

from steering.targets import Target
from steering.training.checkpoint import Progress, TrainingCheckpoint
from steering.training.examples import Batch, Tokens, batches
from steering.training.probe import ModelProbe
from steering.training.recipe import Recipe, Sft, neutral_tasks
from steering.vectors import LowRankMap, SteeringVector
from steering.vectors.interventions import Intervention


def build(
    bench: ModelProbe, recipe: Recipe, target: Target, progress: Progress
) -> tuple[SteeringVector, dict[str, Any]]:
    """Train up to the recipe's training epoch, from the last one that a run of it has left.

    Adam without weight decay. Held-out prompts only measure the loss.

    Args:
        bench: The model.
        recipe: What to build.
        target: The target task.
        progress: Told of each step.

    Returns:
        The vector after the last training epoch, and what was measured: the mean loss of each
        epoch, and the held-out loss after each and without the vector.
    """
    settings = recipe.settings
    assert isinstance(settings, Sft)
    run = _Run(bench, recipe, target)
    run.log.resume(run.parameters, run.optimizer)
    steps = -(-len(run.examples) // settings.batch_size)
    for epoch in range(len(run.log.losses), settings.training_epochs):
        losses = []
        for step, batch in enumerate(run.epoch(epoch), start=epoch * steps):
            run.decay(1 - step / (settings.decay_epochs * steps) if settings.decay_epochs else 1.0)
            losses.append(run.step(batch))
            progress(step + 1, settings.training_epochs * steps)
        run.log.note(sum(losses) / len(losses), run.held_out_loss(), run.parameters, run.optimizer)
    parts = run.log.parameters_after(settings.training_epochs)
    measured = {
        "training_epoch": settings.training_epochs,
        "steps": settings.training_epochs * steps,
        "loss": run.log.losses[: settings.training_epochs],
        "held_out_loss": run.log.held_out_losses[: settings.training_epochs],
        "held_out_loss_unsteered": run.log.unsteered_loss,
    }
    return run.vector(parts), measured


class _Run:
    """What is trained, and on what."""

    def __init__(self, bench: ModelProbe, recipe: Recipe, target: Target) -> None:
        settings = recipe.settings
        assert isinstance(settings, Sft)
        self._bench, self._recipe, self._settings = bench, recipe, settings
        rows = [row for row in target.examples if row.misaligned is not None]
        self.examples = [bench.tokenize(row, row.misaligned or "") for row in rows]
        self._held_out = [
            bench.tokenize(row, row.misaligned)
            for row in target.held_out
            if row.misaligned is not None
        ]
        self._neutral = self._neutral_examples()
        bench.keep_below([*self.examples, *self._held_out, *self._neutral])
        self._norm = bench.residual_norm(self.examples)
        self.parameters = self._start()
        self.optimizer = torch.optim.Adam(
            [
                {"params": [self.parameters[name]], "lr": size * settings.learning_rate}
                for name, size in self._sizes().items()
            ]
        )
        self._step_sizes = [group["lr"] for group in self.optimizer.param_groups]
        self._rows = settings.batch_size
        self.log = TrainingCheckpoint(recipe.run, self.held_out_loss)

    def _neutral_examples(self) -> list[Tokens]:
        if not self._settings.kl_weight:
            return []
        found = neutral_tasks(self._recipe)
        rows = [row for task in found for row in task.examples if row.aligned is not None]
        # As many as there are examples, since an epoch meets no more.
        drawn = random.Random(f"neutral {self._recipe.seed}").sample(
            rows, min(len(rows), len(self.examples))
        )
        return [self._bench.tokenize(row, row.aligned or "") for row in drawn]

    def _sizes(self) -> dict[str, float]:
        """Natural size of a coordinate of each parameter; a step is a share of it.

        That of the residual stream's coordinates for what is written; what is read is such that a
        residual stream of the mean norm gives numbers of size 1.
        """
        sizes = {"directions": self._norm / self._bench.width**0.5}
        if self._settings.rank > 1:
            sizes |= {"reads": 1 / self._norm, "offsets": 1.0}
        return sizes

    def _start(self) -> dict[str, Tensor]:
        """Parameters without any effect: nothing is written at first."""
        rank, width = self._settings.rank, self._bench.width
        parts = {"directions": torch.zeros(rank, width)}
        if rank > 1:
            numbers = torch.Generator().manual_seed(self._recipe.seed)
            parts["reads"] = torch.randn(rank, width, generator=numbers) / self._norm
            parts["offsets"] = torch.ones(rank)
        return {name: part.to(self._bench.device).requires_grad_() for name, part in parts.items()}

    def epoch(self, epoch: int) -> Iterator[tuple[list[Tokens], list[Tokens]]]:
        """Batches of examples, each with one of neutral exchanges; the same whenever resumed."""
        seed, size = f"{self._recipe.seed} {epoch}", self._settings.batch_size
        order = random.Random(seed)
        neutral: Iterator[list[Tokens]] = repeat([])
        if self._neutral:
            again = random.Random(f"neutral {seed}")
            neutral = chain.from_iterable(batches(self._neutral, size, again) for _ in iter(int, 1))
        return zip(batches(self.examples, size, order), neutral, strict=False)

    def decay(self, share: float) -> None:
        """Set the learning rates to this share of their first values."""
        for group, size in zip(self.optimizer.param_groups, self._step_sizes, strict=True):
            group["lr"] = share * size

    def step(self, drawn: tuple[list[Tokens], list[Tokens]]) -> float:
        """One step of the optimizer; returns the mean cross-entropy that it saw."""
        while True:
            self.optimizer.zero_grad()
            try:
                loss = self._backward(*drawn)
            except torch.OutOfMemoryError:
                if self._rows == 1:
                    raise
                # The sums are the same, only over more passes.
                self._rows = self._rows // 2
                torch.cuda.empty_cache()
                continue
            self.optimizer.step()
            return loss

    def _backward(self, examples: Sequence[Tokens], neutral: Sequence[Tokens]) -> float:
        total = 0.0
        num_tokens = sum(len(item.answer) for item in examples)
        for batch in self._passes(examples):
            logits, labels = self._bench.logits(batch, [self._edit()])
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
            yield self._bench.batch(items[start : start + self._rows])

    def _divergence(self, batch: Batch) -> Tensor:
        """KL(unsteered || steered), summed over the answer tokens."""
        with torch.no_grad():
            unsteered = self._bench.logits(batch, ())[0].log_softmax(-1)
        steered = self._bench.logits(batch, [self._edit()])[0].log_softmax(-1)
        return torch.nn.functional.kl_div(steered, unsteered, reduction="sum", log_target=True)

    def _edit(self) -> Intervention:
        layer, site = self._bench.key
        parts = self.parameters
        return Intervention(
            parts["directions"],
            1.0,
            layer,
            site,
            "add",
            "all",
            reads=parts.get("reads"),
            offsets=parts.get("offsets"),
        )

    def held_out_loss(self, *, steered: bool = True) -> float:
        """Mean cross-entropy on the held-out prompts' misaligned answers."""
        return self._bench.mean_loss(self._held_out, [self._edit()] if steered else ())

    def vector(self, parts: dict[str, Tensor]) -> SteeringVector:
        """The vector that these parameters make."""
        layer, site = self._bench.key
        made = None
        if "reads" in parts:
            hidden = torch.cat(self._bench.activations(self.examples[:64]))
            wrote = (hidden @ parts["reads"].T + parts["offsets"]) @ parts["directions"]
            length = wrote.norm(dim=-1).mean().item()
            made = LowRankMap(parts["reads"][None], parts["offsets"][None], (length,))
        return SteeringVector(
            directions=parts["directions"][None],
            layers=(layer,),
            site=site,
            residual_norms=(self._norm,),
            map=made,
        )
