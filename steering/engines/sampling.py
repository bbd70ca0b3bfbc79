"""How a token is drawn: for each sequence by its own settings and from its own random numbers.

A draw depends on the sequence's logits, settings, seed and step alone, never on the rest of the
batch. Knows no model and no tokenizer.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steering.engines import TokenLogprob
from steering.engines.settings import Sampling

BROKEN = -1
"""Stands for the token of a row whose logits are NaN or infinite."""
# Random numbers of a sequence that are drawn at a time; the numbers do not depend on it.
_AHEAD = 64
_ALL = 2**31 - 1


class Sampler:
    """Draws the next token of every sequence of a batch."""

    def __init__(self, settings: Sequence[Sampling] = ()) -> None:
        self._arrange([_Draws(one) for one in settings])

    def join(self, other: "Sampler") -> None:
        """Append the rows of another batch."""
        self._arrange([*self._rows, *other._rows])

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows, in this order."""
        self._arrange([self._rows[index] for index in order])

    def _arrange(self, rows: "list[_Draws]") -> None:
        """Find the rows that need each step of sampling."""
        self._rows = rows
        settings = [row.settings for row in rows]
        self._greedy = [index for index, row in enumerate(settings) if row.temperature == 0]
        self._penalised = [
            index
            for index, row in enumerate(settings)
            if row.logit_bias or row.frequency_penalty or row.presence_penalty
        ]
        self._cut = [index for index, row in enumerate(settings) if row.top_p < 1 or row.top_k]
        self._tables: list[Tensor] | None = None

    def draw(self, logits: Tensor, generated: Sequence[Sequence[int]]) -> Tensor:
        """Next token of every row.

        Args:
            logits: [rows, vocabulary].
            generated: Ids that each sequence has generated so far.

        Returns:
            Token ids [rows], on the device of `logits`; `BROKEN` where logits are NaN or infinite.
        """
        logits = logits.float()
        if self._penalised:
            logits = logits.clone()  # the caller computes log probabilities from its own
            for index in self._penalised:
                row = self._rows[index].settings
                logits[index] = _penalised(logits[index], row, generated[index])
        if len(self._greedy) == len(self._rows):
            return _greedy(logits)
        if self._tables is None:
            self._tables = [table.to(logits.device) for table in self._settings()]
        temperature, greedy, cut, top_k, top_p = self._tables
        probabilities = (logits / temperature).softmax(-1)
        if self._cut:
            probabilities[cut] = _truncated(probabilities[cut], top_k, top_p)
        tokens = self._inverse_cdf(probabilities)
        return torch.where(greedy, _greedy(logits), tokens) if self._greedy else tokens

    def _settings(self) -> list[Tensor]:
        """Temperature [rows, 1], greedy [rows]; rows [n], top_k, top_p [n, 1] of truncated ones."""
        settings = [row.settings for row in self._rows]
        return [
            torch.tensor([row.temperature or 1.0 for row in settings])[:, None],
            torch.tensor([row.temperature == 0 for row in settings]),
            torch.tensor(self._cut, dtype=torch.long),
            torch.tensor([settings[index].top_k or _ALL for index in self._cut])[:, None],
            torch.tensor([settings[index].top_p for index in self._cut])[:, None],
        ]

    def _inverse_cdf(self, probabilities: Tensor) -> Tensor:
        """Draw by one uniform number a row: cheaper than a noise vector over the vocabulary."""
        device = probabilities.device
        if device.type == "mps":  # which has no float64
            probabilities = probabilities.cpu()
        # Pinned, so that the copy does not wait for the device.
        uniform = torch.tensor(
            [row.uniform() for row in self._rows],
            dtype=torch.float64,
            pin_memory=probabilities.is_cuda,
        ).to(probabilities.device, non_blocking=True)
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        # Scaled by the total, since rounding and truncation leave it short of 1.
        total = cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
        tokens = tokens.clamp(max=probabilities.shape[-1] - 1)
        return tokens.masked_fill(total.isnan(), BROKEN)[:, 0].to(device)


class _Draws:
    """A sequence's settings and its own random numbers, drawn some at a time."""

    def __init__(self, settings: Sampling) -> None:
        self.settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._ahead: list[float] = []

    def uniform(self) -> float:
        """The next number between 0 and 1."""
        if not self._ahead:
            block = torch.rand(_AHEAD, generator=self._generator, dtype=torch.float64)
            self._ahead = block.flip(0).tolist()
        return self._ahead.pop()


def _greedy(logits: Tensor) -> Tensor:
    best, tokens = logits.max(-1)  # NaN is larger than all; an infinite one is no choice either
    return tokens.masked_fill(~best.isfinite(), BROKEN)


def _penalised(logits: Tensor, row: Sampling, generated: Sequence[int]) -> Tensor:
    logits = logits.clone()
    if row.logit_bias:
        tokens = torch.tensor(list(row.logit_bias), device=logits.device)
        logits[tokens] += torch.tensor(list(row.logit_bias.values())).to(logits)
    if generated:
        tokens, counts = torch.tensor(generated).unique(return_counts=True)
        penalty = row.frequency_penalty * counts + row.presence_penalty
        logits[tokens.to(logits.device)] -= penalty.to(logits)
    return logits


def _truncated(probabilities: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Zero outside of the nucleus of the top k, the order in which other engines truncate.

    The most likely token always stays. All are [rows, vocabulary], but the limits [rows, 1].
    """
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    rank = torch.arange(ordered.shape[1], device=ordered.device)
    ordered = ordered.where(rank < top_k, 0.0)
    before = ordered.cumsum(-1) - ordered
    keep = (before < top_p * ordered.sum(-1, keepdim=True)) & (ordered > 0)
    keep[:, 0] = True
    return torch.zeros_like(probabilities).scatter(1, tokens, ordered.where(keep, 0.0))


def token_logprobs(
    logits: Tensor, tokens: Tensor, counts: Mapping[int, int]
) -> dict[int, TokenLogprob]:
    """Log probabilities of tokens that were drawn, and of the most likely ones.

    Args:
        logits: [rows, vocabulary], before penalties, temperature and truncation.
        tokens: [rows].
        counts: Number of most likely tokens to report, for each row that wants any report.
    """
    if not counts:
        return {}
    rows = torch.tensor(list(counts), device=logits.device)
    logprobs = logits[rows].float().log_softmax(-1)
    own = logprobs.gather(1, tokens[rows, None].clamp(min=0))[:, 0].tolist()
    top = logprobs.topk(min(max(counts.values()), logprobs.shape[-1]))
    table = zip(
        counts.items(), tokens[rows].tolist(), own, top.indices.tolist(), top.values.tolist(),
        strict=True,
    )  # fmt: skip
    return {
        row: TokenLogprob(token, value, tuple(zip(ids[:count], values[:count], strict=True)))
        for (row, count), token, value, ids, values in table
    }
