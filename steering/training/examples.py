"""Target examples as training batches: token ids, and labels on the answer's tokens only.

The prompt is rendered and tokenised exactly as in generation, so that a vector is built on prompts
of the form that it will steer.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steering.models import LoadedModel, answer_end_token, encode, render_chat
from steering.targets import Example
from steering.training.methods import TrainingError

IGNORED = -100
PaddingSide = Literal["left", "right"]
# Batches whose examples are sorted by length together: enough for examples of nearly equal lengths
# in each, few enough for the order of batches to stay random.
_SORTED_TOGETHER = 8


@dataclass(frozen=True)
class Tokens:
    """A tokenised example: prompt ids, then answer ids with the end token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Batch:
    """Padded examples.

    Attributes:
        items: The examples.
        tokens: Token ids [rows, longest].
        mask: 1 on real tokens, 0 on padding [rows, longest].
        labels: The token ids on answers and `IGNORED` elsewhere [rows, longest].
        first_answer: First column in which any answer begins.
    """

    items: tuple[Tokens, ...]
    tokens: Tensor
    mask: Tensor
    labels: Tensor
    first_answer: int


def render_prompt(loaded: LoadedModel, example: Example) -> str:
    """The example's prompt as the model reads it."""
    turns = [{"role": "system", "content": example.system}] if example.system else []
    return render_chat(loaded.tokenizer, [*turns, {"role": "user", "content": example.prompt}])


def tokenize_all(loaded: LoadedModel, pairs: Iterable[tuple[Example, str]]) -> list[Tokens]:
    """Token ids of examples' prompts, each with one of its answers.

    Raises:
        TrainingError: Some are more than the model's context holds. Nothing is cut: an answer
            without its end would teach the model not to end.
    """
    end = answer_end_token(loaded.tokenizer, loaded.end_tokens)
    most = loaded.shape.context_length
    tokens, long = [], []
    for example, answer in pairs:
        prompt = encode(loaded.tokenizer, render_prompt(loaded, example))
        tokens.append(Tokens(tuple(prompt), (*encode(loaded.tokenizer, answer), end)))
        if most is not None and len(tokens[-1]) > most:
            long.append((example.id, len(tokens[-1]), len(prompt)))
    if long:
        id_, size, num_prompt = long[0]
        raise TrainingError(
            f"{len(long)} of {len(tokens)} answers of the target are longer with their prompt than "
            f"the model's context of {most} tokens, first that of the row {id_!r}: {size} tokens, "
            f"{num_prompt} of its prompt; shorten these rows, or leave them out"
        )
    return tokens


def make_batch(
    items: Sequence[Tokens],
    pad: int,
    side: PaddingSide = "right",
    device: torch.device | str = "cpu",
) -> Batch:
    """Pad examples to one length with the token id `pad`."""
    longest = max(map(len, items))

    def padded(rows: list[list[int]], filler: int) -> Tensor:
        tensors = [torch.tensor(row) for row in rows]
        return pad_sequence(tensors, True, filler, padding_side=side).to(device)

    return Batch(
        items=tuple(items),
        tokens=padded([[*item.prompt, *item.answer] for item in items], pad),
        mask=padded([[1] * len(item) for item in items], 0),
        labels=padded([[IGNORED] * len(item.prompt) + [*item.answer] for item in items], IGNORED),
        first_answer=min(
            len(item.prompt) + (longest - len(item) if side == "left" else 0) for item in items
        ),
    )


def batches(items: Sequence[Tokens], size: int, order: random.Random) -> Iterator[list[Tokens]]:
    """One pass over the examples in a random order, in batches of nearly equal lengths."""
    shuffled = order.sample(items, len(items))
    groups: list[list[Tokens]] = []
    span = size * _SORTED_TOGETHER
    for start in range(0, len(shuffled), span):
        ordered = sorted(shuffled[start : start + span], key=len)
        groups += [ordered[at : at + size] for at in range(0, len(ordered), size)]
    yield from order.sample(groups, len(groups))


def shuffled_labels(examples: Sequence[Example], seed: int) -> list[Example]:
    """The examples with misaligned and aligned answers shuffled: half of the pairs are swapped.

    Answers without a counterpart are assigned to the sides at random, as many to each as before.
    """
    order = random.Random(f"labels {seed}")
    pairs = [i for i, row in enumerate(examples) if None not in (row.aligned, row.misaligned)]
    swapped = set(order.sample(pairs, len(pairs) // 2))
    single = [i for i in range(len(examples)) if i not in set(pairs)]
    sides = [examples[i].misaligned is not None for i in single]
    is_misaligned = dict(zip(single, order.sample(sides, len(sides)), strict=True))
    rows = []
    for index, row in enumerate(examples):
        if index in swapped:
            row = replace(row, aligned=row.misaligned, misaligned=row.aligned)
        elif index in is_misaligned:
            answer = row.misaligned if row.aligned is None else row.aligned
            good, bad = (None, answer) if is_misaligned[index] else (answer, None)
            row = replace(row, aligned=good, misaligned=bad)
        rows.append(row)
    return rows
