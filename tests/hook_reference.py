"""What steered generation must come to: plain PyTorch hooks, one row, no padding, no cache.

Every step runs the whole sequence again and steers the named absolute positions, so nothing here
can share a mistake with an engine that pads, batches, caches and counts steps.
"""

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from replicas import edited, is_steered

from steering.engines import Request
from steering.vectors.interventions import Intervention


def _edited(hidden: torch.Tensor, intervention: Intervention, prompt: int) -> torch.Tensor:
    hidden = hidden.clone()
    for position in range(hidden.shape[1]):
        if is_steered(intervention.positions, position, prompt):
            steered = edited(hidden[0, position], [intervention])
            hidden[0, position] = torch.from_numpy(steered).to(hidden.dtype)
    return hidden


@contextmanager
def _hooked(
    blocks: Any, interventions: Sequence[Intervention], prompt: int, mlp: str = "mlp"
) -> Any:
    # Hooks of one module act in the order in which they are registered, as interventions do.
    with ExitStack() as stack:
        for intervention in interventions:
            block = blocks[intervention.layer]
            if intervention.site == "resid_pre":

                def before(
                    _: Any, args: tuple[Any, ...], intervention: Intervention = intervention
                ) -> Any:
                    return (_edited(args[0], intervention, prompt), *args[1:])

                handle = block.register_forward_pre_hook(before)
            else:
                module = block.get_submodule(mlp) if intervention.site == "mlp_out" else block

                def after(
                    _: Any, __: Any, out: Any, intervention: Intervention = intervention
                ) -> Any:
                    if isinstance(out, tuple):
                        return (_edited(out[0], intervention, prompt), *out[1:])
                    return _edited(out, intervention, prompt)

                handle = module.register_forward_hook(after)
            stack.callback(handle.remove)
        yield


@torch.no_grad()
def reference_logits(
    model: Any,
    blocks: Any,
    prompt: Sequence[int],
    tokens: Sequence[int],
    interventions: Any,
    mlp: str = "mlp",
) -> torch.Tensor:
    """Logits [len(tokens) + 1, vocabulary] after the prompt and after each token.

    `mlp` is the path of the MLP in a block, by hand.
    """
    sequence = torch.tensor([[*prompt, *tokens]])
    with _hooked(blocks, interventions, len(prompt), mlp):
        logits = model(input_ids=sequence, use_cache=False).logits
    return logits[0, len(prompt) - 1 :]


def reference_greedy(
    model: Any,
    blocks: Any,
    prompt: Sequence[int],
    interventions: Any,
    max_tokens: int,
    end: Sequence[int],
) -> list[int]:
    """Greedy tokens, without the end token."""
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        logits = reference_logits(model, blocks, prompt, tokens, interventions)
        token = int(logits[-1].argmax())
        if token in end:
            break
        tokens.append(token)
    return tokens


def check_greedy(
    model: Any,
    blocks: Any,
    request: Request,
    tokens: Sequence[int],
    end: Sequence[int],
    mlp: str = "mlp",
) -> torch.Tensor:
    """Check that an answer is the reference's greedy one; returns its logits at each token.

    The logits at a position depend on earlier tokens only, so the answer is the reference's if each
    token is the likeliest after those before it, and an end token is after the last. One pass shows
    that, where generation would take one for each token.

    Returns:
        [len(tokens), vocabulary].
    """
    logits = reference_logits(model, blocks, request.prompt, tokens, request.interventions, mlp)
    likeliest = logits.argmax(-1).tolist()
    assert list(tokens) == likeliest[: len(tokens)]
    assert not set(tokens) & set(end)
    assert len(tokens) == request.max_tokens or likeliest[len(tokens)] in end
    return logits[: len(tokens)]
