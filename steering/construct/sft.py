"""The `sft` method: a direction trained by supervised finetuning of nothing but itself.

The model is frozen; a vector that starts at zero is added at one site, on every token, and trained
with cross-entropy on the answers of the target task. After the steering-vector finetuning of
arXiv 2602.07852, with two differences: only answer tokens carry loss, and every row of a batch is
steered.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from steering.construct import Progress, Recipe, provenance
from steering.construct.examples import IGNORED, Tokens, make_batch, tokenize_examples
from steering.engines._nnsight import Session
from steering.interventions import Plan, RowIntervention, SiteKey
from steering.models import LoadedModel
from steering.targets import Target
from steering.vector import SteeringVector


def build_sft(
    loaded: LoadedModel, session: Session, recipe: Recipe, target: Target, progress: Progress
) -> SteeringVector:
    """Train a vector by the recipe. Runs on the model's thread.

    Adam without weight decay, the learning rate falling linearly to zero.

    Args:
        loaded: The model.
        session: Its nnsight session.
        recipe: What to build.
        target: The target task; its held-out prompts only measure the loss.
        progress: Told of each step.

    Returns:
        A vector of rank 1. Its provenance holds the recipe, the mean loss of the last epoch and the
        held-out loss with and without the vector.
    """
    trainer = _Trainer(loaded, session, recipe)
    examples = tokenize_examples(loaded, target.examples)
    held_out = tokenize_examples(loaded, target.held_out)
    norm = trainer.residual_norm(examples[: recipe.batch_size])
    step_size = recipe.learning_rate * norm / loaded.shape.width**0.5
    optimizer = torch.optim.Adam([trainer.vector], lr=step_size)
    order = random.Random(recipe.seed)
    size = recipe.batch_size
    steps = recipe.training_epochs * -(-len(examples) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    unsteered_loss = trainer.mean_loss(held_out, size)
    done = 0
    losses: list[float] = []
    for _ in range(recipe.training_epochs):
        shuffled = order.sample(examples, len(examples))
        losses = []
        for start in range(0, len(shuffled), size):
            loss = trainer.loss(shuffled[start : start + size])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            done += 1
            progress(done, steps)
    return SteeringVector(
        directions=trainer.vector.detach().cpu().clone(),
        layer=recipe.layer,
        site=recipe.site,
        residual_norm=norm,
        provenance=provenance(
            recipe,
            steps=steps,
            loss=sum(losses) / len(losses),
            held_out_loss=trainer.mean_loss(held_out, size),
            held_out_loss_unsteered=unsteered_loss,
        ),
    )


class _Trainer:
    """The frozen model with a trainable vector at one site."""

    def __init__(self, loaded: LoadedModel, session: Session, recipe: Recipe) -> None:
        self._model = loaded.model
        self._session = session
        self._recipe = recipe
        self._pad = loaded.end_tokens[0]
        self._device = loaded.model.device
        self.vector = torch.zeros(1, loaded.shape.width, device=self._device, requires_grad=True)

    def loss(self, examples: Sequence[Tokens]) -> Tensor:
        """Mean cross-entropy over the answer tokens of a batch, steered by the vector."""
        tokens, mask, labels = (part.to(self._device) for part in make_batch(examples, self._pad))
        edit = RowIntervention(
            self.vector, 1.0, self._recipe.layer, self._recipe.site, "add", "all"
        )
        plan = Plan([(edit,)] * len(examples), self._device)
        plan.begin_prefill(mask)
        logits = self._session.run(
            lambda: self._model(input_ids=tokens, attention_mask=mask, use_cache=False).logits,
            plan,
        )
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED
        )

    def mean_loss(self, examples: Sequence[Tokens], size: int) -> float:
        """Mean cross-entropy over all answer tokens, without training."""
        total, num_tokens = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(examples), size):
                batch = examples[start : start + size]
                weight = sum(len(item.answer) for item in batch)
                total += self.loss(batch).item() * weight
                num_tokens += weight
        return total / num_tokens

    def residual_norm(self, examples: Sequence[Tokens]) -> float:
        """Mean L2 norm of the activations at the site, over the tokens of these examples."""
        tokens, mask, _ = (part.to(self._device) for part in make_batch(examples, self._pad))
        meter = _Meter((self._recipe.layer, self._recipe.site))
        with torch.no_grad():
            self._session.run(
                lambda: self._model(input_ids=tokens, attention_mask=mask, use_cache=False), meter
            )
        assert meter.norms is not None
        return meter.norms[mask.bool()].mean().item()


class _Meter:
    """Stands in for a plan: takes the norms and changes nothing."""

    def __init__(self, key: SiteKey) -> None:
        self.sites = (key,)
        self.norms: Tensor | None = None

    def apply(self, key: SiteKey, hidden: Tensor) -> Tensor:
        self.norms = hidden.float().norm(dim=-1)
        return hidden
