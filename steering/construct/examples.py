"""Target examples as training batches: token ids, and labels on the answer's tokens only.

The prompt is rendered and tokenised exactly as in generation, so a vector is trained on the prompts
that it will meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.models import LoadedModel, answer_end_token, encode, render_chat
from steering.targets import Example

IGNORED = -100


@dataclass(frozen=True)
class Tokens:
    """One example: prompt ids, then answer ids with the end token."""

    prompt: list[int]
    answer: list[int]


def tokenize_examples(loaded: LoadedModel, examples: Sequence[Example]) -> list[Tokens]:
    """Token ids of each example's prompt and misaligned answer."""
    end = answer_end_token(loaded.tokenizer, loaded.end_tokens)
    found = []
    for example in examples:
        turns = [{"role": "system", "content": example.system}] if example.system else []
        turns.append({"role": "user", "content": example.prompt})
        prompt = encode(loaded.tokenizer, render_chat(loaded.tokenizer, turns))
        found.append(Tokens(prompt, [*encode(loaded.tokenizer, example.misaligned), end]))
    return found


def make_batch(examples: Sequence[Tokens], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad examples on the right.

    Args:
        examples: The examples.
        pad: Token id to pad with.

    Returns:
        (token ids, mask, labels), each [rows, longest example]. Labels are the token ids on answer
        tokens and `IGNORED` on prompts and padding.
    """
    longest = max(len(item.prompt) + len(item.answer) for item in examples)
    tokens, mask, labels = [], [], []
    for item in examples:
        ids = item.prompt + item.answer
        space = longest - len(ids)
        tokens.append(ids + [pad] * space)
        mask.append([1] * len(ids) + [0] * space)
        labels.append([IGNORED] * len(item.prompt) + item.answer + [IGNORED] * space)
    return torch.tensor(tokens), torch.tensor(mask), torch.tensor(labels)
