"""How a token is drawn: each row by its own settings and from its own random numbers.

A draw depends on the row's logits, settings, seed and step alone, never on its neighbours in the
batch. Knows no model and no tokenizer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Settings of one row.

    Attributes:
        temperature: 0 is greedy.
        top_p: Draw from the likeliest tokens that together reach this probability.
        top_k: Draw from this many likeliest tokens; 0 is all.
        frequency_penalty: Subtracted from a token's logit for each time it was generated.
        presence_penalty: Subtracted once if it was generated at all.
        logit_bias: Added to the logits of these token ids.
        seed: Of the row's own random numbers.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0


class Sampler:
    """Draws the next token of every row of a batch."""

    def __init__(self, rows: Sequence[Sampling]) -> None:
        self._rows = list(rows)
        self._generators = [torch.Generator().manual_seed(row.seed) for row in rows]

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows, in this order."""
        self._rows = [self._rows[index] for index in order]
        self._generators = [self._generators[index] for index in order]

    def draw(self, logits: Tensor, generated: Sequence[Sequence[int]]) -> Tensor:
        """Next token of every row.

        Args:
            logits: [rows, vocabulary].
            generated: Ids that each row has generated so far.

        Returns:
            Token ids [rows], on the device of `logits`.
        """
        logits = logits.float()
        moved = {
            index: _penalised(logits[index], row, generated[index])
            for index, row in enumerate(self._rows)
            if row.logit_bias or row.frequency_penalty or row.presence_penalty
        }
        if moved:
            logits = logits.clone()  # the caller still reads log probabilities from its own
            for index, row_logits in moved.items():
                logits[index] = row_logits
        greedy = logits.argmax(-1)
        if all(row.temperature == 0 for row in self._rows):
            return greedy
        temperature = torch.tensor([row.temperature or 1.0 for row in self._rows])
        probabilities = (logits / temperature.to(logits)[:, None]).softmax(-1)
        for index, row in enumerate(self._rows):
            if row.top_p < 1 or row.top_k:
                probabilities[index] = _truncated(probabilities[index], row)
        drawn = self._inverse_cdf(probabilities)
        is_greedy = torch.tensor([row.temperature == 0 for row in self._rows])
        return torch.where(is_greedy.to(logits.device), greedy, drawn)

    def _inverse_cdf(self, probabilities: Tensor) -> Tensor:
        """One uniform number a row decides: cheaper than a noise vector over the vocabulary."""
        uniform = torch.stack(
            [torch.rand((), generator=g, dtype=torch.float64) for g in self._generators]
        )
        cumulative = probabilities.double().cumsum(-1)
        # Scaled by the total, since rounding and truncation leave it short of 1.
        threshold = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp(
            max=probabilities.shape[-1] - 1
        )


def _penalised(logits: Tensor, row: Sampling, generated: Sequence[int]) -> Tensor:
    logits = logits.clone()
    for token, bias in row.logit_bias.items():
        logits[token] += bias
    if generated:
        tokens, counts = torch.tensor(generated).unique(return_counts=True)
        penalty = row.frequency_penalty * counts + row.presence_penalty
        logits[tokens.to(logits.device)] -= penalty.to(logits)
    return logits


def _truncated(probabilities: Tensor, row: Sampling) -> Tensor:
    """Zero outside of the nucleus of the top k, the order in which other engines cut.

    The likeliest token always stays.
    """
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    if row.top_k:
        ordered[row.top_k :] = 0
    before = ordered.cumsum(-1) - ordered
    keep = (before < row.top_p * ordered.sum()) & (ordered > 0)
    keep[0] = True
    return torch.zeros_like(probabilities).index_put((tokens[keep],), ordered[keep])
