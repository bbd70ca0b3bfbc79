"""What building must come to: plain PyTorch hooks and autograd, one example at a time, unpadded.

Nothing here comes from `steering.training`, and neither batches, padding, kept activations nor
nnsight play a part.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Act = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Place:
    """A transformers model, and where in it something is done."""

    model: Any
    blocks: Any
    layer: int
    site: str

    @contextmanager
    def acting(self, act: Act) -> Any:
        """Have `act` change the activations [1, tokens, width] at the place."""
        block = self.blocks[self.layer]
        if self.site == "resid_pre":
            handle = block.register_forward_pre_hook(lambda _, args: (act(args[0]), *args[1:]))
        else:
            module = block.mlp if self.site == "mlp_out" else block
            handle = module.register_forward_hook(
                lambda _, __, out: (act(out[0]), *out[1:]) if isinstance(out, tuple) else act(out)
            )
        try:
            yield
        finally:
            handle.remove()


@dataclass(frozen=True)
class PlainTokens:
    """Token ids of a prompt, and of an answer with its end token."""

    prompt: list[int]
    answer: list[int]


def plain_tokens(
    tokenizer: Any, prompt: str, answer: str, system: str | None = None
) -> PlainTokens:
    """Tokenised with the tokenizer's own chat template and its end-of-sequence token."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, answer)]
    return PlainTokens(ids[0], [*ids[1], tokenizer.eos_token_id])


def write(parts: dict[str, Tensor]) -> Act:
    """What trained parameters do: h + v, or h + B^T (A h + b), token by token."""
    if "reads" not in parts:
        return lambda hidden: hidden + parts["directions"][0]

    def mapped(hidden: Tensor) -> Tensor:
        tokens = [
            token + parts["directions"].T @ (parts["reads"] @ token + parts["offsets"])
            for token in hidden[0]
        ]
        return torch.stack(tokens)[None]

    return mapped


def answer_logprobs(place: Place, item: PlainTokens, act: Act | None) -> Tensor:
    """Log probabilities [answer tokens, vocabulary] where the answer's tokens are predicted."""
    ids = torch.tensor([[*item.prompt, *item.answer]])
    with place.acting(act or (lambda hidden: hidden)):
        logits = place.model(input_ids=ids, use_cache=False).logits[0]
    first = len(item.prompt) - 1
    return logits[first : first + len(item.answer)].log_softmax(-1)


def loss(place: Place, items: Sequence[PlainTokens], act: Act | None) -> Tensor:
    """Mean of -log p over all answer tokens."""
    total, count = torch.zeros(()), 0
    for item in items:
        logprobs = answer_logprobs(place, item, act)
        for row, token in zip(logprobs, item.answer, strict=True):
            total, count = total - row[token], count + 1
    return total / count


def divergence(place: Place, items: Sequence[PlainTokens], act: Act) -> Tensor:
    """Mean KL(unsteered || steered) over all answer tokens."""
    total, count = torch.zeros(()), 0
    for item in items:
        with torch.no_grad():
            before = answer_logprobs(place, item, None)
        after = answer_logprobs(place, item, act)
        for p, q in zip(before, after, strict=True):
            total, count = total + (p.exp() * (p - q)).sum(), count + 1
    return total / count


@torch.no_grad()
def activations(place: Place, item: PlainTokens) -> Tensor:
    """Activations [tokens, width] at the place."""
    activations_seen: list[Tensor] = []

    def look(hidden: Tensor) -> Tensor:
        activations_seen.append(hidden[0])
        return hidden

    answer_logprobs(place, item, look)
    return activations_seen[0]


def residual_norm(place: Place, items: Sequence[PlainTokens]) -> float:
    """Mean length of the activations over answer tokens, end tokens left out."""
    return float(torch.cat(answer_activations(place, items)).norm(dim=-1).mean())


def answer_activations(place: Place, items: Sequence[PlainTokens]) -> list[Tensor]:
    """Activations [answer tokens, width] of each example, without the end token."""
    return [activations(place, item)[len(item.prompt) : -1] for item in items]


def start(rank: int, width: int, norm: float, seed: int) -> dict[str, Tensor]:
    """Parameters without effect, as the documentation of `sft` has them."""
    parts = {"directions": torch.zeros(rank, width)}
    if rank > 1:
        numbers = torch.Generator().manual_seed(seed)
        parts["reads"] = torch.randn(rank, width, generator=numbers) / norm
        parts["offsets"] = torch.ones(rank)
    return {name: part.requires_grad_() for name, part in parts.items()}


def train(
    place: Place,
    parts: dict[str, Tensor],
    rates: dict[str, float],
    steps: Iterable[tuple[Sequence[PlainTokens], Sequence[PlainTokens], float]],
    kl_weight: float = 0.0,
) -> list[float]:
    """Adam, written out; changes the parts and returns the loss that each step saw.

    Args:
        place: Where the parts act.
        parts: What is trained.
        rates: Learning rate of each.
        steps: Of each step the examples, the neutral examples, and the rates' share.
        kl_weight: Weight of the divergence.
    """
    first = {name: torch.zeros_like(part) for name, part in parts.items()}
    second = {name: torch.zeros_like(part) for name, part in parts.items()}
    losses = []
    for step, (items, neutral, share) in enumerate(steps, start=1):
        step_loss = loss(place, items, write(parts))
        total = step_loss
        if neutral:
            total = total + kl_weight * divergence(place, neutral, write(parts))
        gradients = torch.autograd.grad(total, list(parts.values()))
        losses.append(step_loss.item())
        with torch.no_grad():
            for (name, part), gradient in zip(parts.items(), gradients, strict=True):
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean = first[name] / (1 - 0.9**step)
                spread = (second[name] / (1 - 0.999**step)).sqrt()
                part -= share * rates[name] * mean / (spread + 1e-8)
    return losses
