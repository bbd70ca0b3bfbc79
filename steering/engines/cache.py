"""The cache of a running batch: rows, one a sequence, join it and leave it in place.

Keys and values are right-aligned in stores with spare room, so that a step appends a column without
a copy, a row that leaves is overwritten by the last one, and a row that joins is padded on the
left. The states of linear attention have no columns: one a row.
"""

import sys
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from steering.engines import EngineError

_SPARE_COLUMNS = 64


def cache_of(output: Any) -> Any:
    """The cache in a model's output, whose name transformers 5.24 changed; None without one."""
    cache = getattr(output, "cache", None)
    return getattr(output, "past_key_values", None) if cache is None else cache


@dataclass
class _Window:
    """The rows and columns of the stores that are in use."""

    rows: int = 0
    start: int = 0
    end: int = 0


class _Attention(DynamicLayer):
    """Keys and values of one attention layer, [rows, heads, columns, head width].

    Sliding-window layers keep all columns too: the model's mask hides what lies outside of the
    window.
    """

    def __init__(self, window: _Window, like: DynamicLayer) -> None:
        super().__init__()
        assert like.keys is not None
        assert like.values is not None
        self.lazy_initialization(like.keys, like.values)
        self._window = window
        self.stores = [
            tensor.new_zeros((0, tensor.shape[1], 0, tensor.shape[3]))
            for tensor in (like.keys, like.values)
        ]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the columns behind the window; returns the window with them."""
        window = self._window
        end = window.end + key_states.shape[2]
        for store, new in zip(self.stores, (key_states, value_states), strict=True):
            store[: window.rows, :, window.end : end] = new[: window.rows]
        keys, values = (store[: window.rows, :, window.start : end] for store in self.stores)
        return keys, values

    def get_seq_length(self) -> int:
        return self._window.end - self._window.start


class _AttentionAndStates(_Attention, LinearAttentionLayer):  # type: ignore[misc]
    """A layer that has keys and values, and states of linear attention besides (Falcon-H1)."""

    def __init__(self, window: _Window, like: Any) -> None:
        super().__init__(window, like)
        for name in vars(LinearAttentionLayer()):
            setattr(self, name, copy(getattr(like, name)))


class BatchCache(Cache):
    """The cache that a model's forward pass takes, for rows that join and leave."""

    def __init__(self, least_rows: int = 0) -> None:
        """Start without rows. The model is shown `least_rows` at least, some of them dummies."""
        super().__init__(layers=[])
        self._window = _Window()
        self._least_rows = least_rows
        self._num_rows = 0
        self._lengths: list[int] = []
        self._num_columns = 0
        self._real = torch.zeros((0, 0), dtype=torch.bool)
        self._states: list[tuple[dict[int, Tensor | None], int, Tensor]] = []

    def begin_step(self) -> Tensor:
        """Open a column for the next input token of each row.

        Returns:
            True where a row has a token: [rows, columns], the new one included.
        """
        window = self._window
        if window.end == self._num_columns:
            self._resize(window.rows, window.end - window.start)
        self._real[window.rows : self._shown] = False
        self._real[: self._shown, window.end] = True
        return self._real[: self._shown, window.start : window.end + 1]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row in the step that has begun."""
        return [length + 1 for length in self._lengths]

    @property
    def _shown(self) -> int:
        """Rows that the model is shown."""
        return max(self._window.rows, self._least_rows)

    def end_step(self) -> None:
        """The forward pass has filled the column."""
        self._window.end += 1
        self._lengths = [length + 1 for length in self._lengths]

    def join(
        self, prefilled: Cache, mask: Tensor, lengths: Sequence[int], rows: Sequence[int]
    ) -> None:
        """Take rows in.

        Args:
            prefilled: The cache after a forward pass over prompts, padded on the left.
            mask: [prompts, tokens], True on real tokens.
            lengths: Real tokens of each prompt.
            rows: For each row that joins, its index in `prefilled`; one prompt may serve several.

        Raises:
            EngineError: The model has a kind of cache that is not supported.
        """
        if not self.layers:
            if type(prefilled) not in (
                Cache,
                DynamicCache,
            ):  # which may keep more than its layers do
                raise _unsupported(prefilled)
            self.layers = [self._like(layer) for layer in prefilled.layers]
            self._real = torch.zeros((0, 0), dtype=torch.bool, device=mask.device)
        window, width = self._window, max(lengths[row] for row in rows)
        size = window.rows + len(rows), max(width, window.end - window.start)
        if size[0] > self._num_rows or size[1] > window.end:
            self._resize(*size)
        joined = slice(window.rows, size[0])
        opened = slice(window.end - size[1], window.start)
        columns = slice(window.end - width, window.end)
        picked = torch.tensor(rows, device=mask.device)
        self._real[: window.rows, opened] = False
        self._real[joined, : window.end] = False
        self._real[joined, columns] = mask[picked, -width:]
        for attention, layer in zip(self.layers, prefilled.layers, strict=True):
            if isinstance(attention, _Attention):
                assert isinstance(layer, DynamicLayer)
                for store, new in zip(attention.stores, (layer.keys, layer.values), strict=True):
                    assert new is not None
                    # Padding is masked, but masked values must be finite too.
                    store[: window.rows, :, opened] = 0
                    store[joined, :, : window.end] = 0
                    # A sliding window may hold fewer columns, and other prompts may be longer.
                    count = min(width, new.shape[2])
                    last = slice(window.end - count, window.end)
                    store[joined, :, last] = new[picked.to(new.device), :, -count:]
        for (_, _, store), (_, _, state) in zip(
            self._states, _states_of(prefilled.layers), strict=True
        ):
            store[joined] = state[picked.to(store.device)]
        window.rows, window.start = size[0], opened.start
        self._lengths += [lengths[row] for row in rows]
        self._expose_states()

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows, in this order; only rows that change places are moved."""
        window = self._window
        moved = [(to, origin) for to, origin in enumerate(order) if to != origin]
        columns = slice(window.start, window.end)
        if moved:
            to, origin = torch.tensor(moved, device=self._real.device).unbind(1)
            self._real[to] = self._real[origin]
            for layer in self.layers:
                for store in layer.stores if isinstance(layer, _Attention) else ():
                    target = to.to(store.device), slice(None), columns
                    store[target] = store[origin.to(store.device), :, columns]
            for _, _, store in self._states:
                store[to.to(store.device)] = store[origin.to(store.device)]
        self._lengths = [self._lengths[row] for row in order]
        window.rows = len(order)
        window.start = window.end - max(self._lengths, default=0)
        self._expose_states()

    def _like(self, layer: Any) -> Any:
        """An empty layer of the batch for a layer of transformers' cache."""
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
            return _Attention(self._window, layer)
        # Older transformers lack some kinds.
        both = type(layer).__name__ == "LinearAttentionAndFullAttentionLayer"
        if type(layer) is LinearAttentionLayer or both:
            has_keys = both and layer.keys is not None
            linear = _AttentionAndStates(self._window, layer) if has_keys else copy(layer)
            linear.conv_states = copy(layer.conv_states)
            linear.recurrent_states = copy(layer.recurrent_states)
            for states, index, tensor in _states_of([linear]):
                self._states.append((states, index, tensor.new_zeros((0, *tensor.shape[1:]))))
            return linear
        if type(layer).__name__ == "DummyLayer":  # which is empty
            return layer
        raise _unsupported(layer)

    def _resize(self, rows: int, columns: int) -> None:
        """Move to stores with room for this many rows, and for this many columns and spare ones."""
        window = self._window
        used = slice(window.start, window.end)
        start, end = columns - (window.end - window.start), columns
        self._num_rows, shown = rows, max(rows, self._least_rows)
        self._num_columns = columns + max(_SPARE_COLUMNS, columns // 4)

        def moved(store: Tensor, at: int, rows: int) -> Tensor:
            shape = list(store.shape)
            shape[0] = rows
            if at:
                shape[at] = self._num_columns
            new = store.new_zeros(shape)
            if at:
                content = store[: window.rows].narrow(at, used.start, used.stop - used.start)
                new[: window.rows].narrow(at, start, end - start).copy_(content)
            else:
                new[: window.rows] = store[: window.rows]
            return new

        self._real = moved(self._real, 1, shown)
        for layer in self.layers:
            if isinstance(layer, _Attention):
                layer.stores = [moved(store, 2, rows) for store in layer.stores]
        if self._states and shown != len(self._states[0][2]):
            self._states = [
                (table, index, moved(store, 0, shown)) for table, index, store in self._states
            ]
        window.start, window.end = start, end
        self._expose_states()

    def _expose_states(self) -> None:
        """Give the model, which updates its states in place, those of the present rows."""
        for table, index, store in self._states:
            table[index] = store[: self._shown]


def _unsupported(part: Any) -> EngineError:
    return EngineError(
        f"a model whose cache holds {type(part).__name__} is not supported: sequences could not "
        "join or leave a batch"
    )


def expanded(cache: Cache, rows: Tensor) -> Cache:
    """A new cache whose row i is row rows[i] of a model's own cache, which stays as it is."""
    new = copy(cache)
    new.layers = [copy(layer) for layer in cache.layers]
    new.batch_select_indices(rows)
    return new


def most_beginning(cache: Cache) -> int:
    """Most columns of such a cache that `expanded` and `begun` can go on from; 0 for none.

    It must have keys and values only: most models with states of linear attention start anew in a
    pass of several tokens, and a state can't be cut. A sliding window forgets columns.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    if type(cache) not in (Cache, DynamicCache) or not all(
        type(layer) in kinds or type(layer).__name__ == "DummyLayer" for layer in cache.layers
    ):
        return 0
    windows = [layer.sliding_window for layer in cache.layers if hasattr(layer, "sliding_window")]
    return max(1, min(windows, default=sys.maxsize) - 1)


def begun(beginnings: Sequence[tuple[Cache | None, int]], columns: int) -> Cache:
    """A new cache whose row i holds the first tokens of another cache, which has one row.

    Args:
        beginnings: That cache, and the number of tokens, for each row; None for a row that holds
            nothing.
        columns: Of the new cache; a row that holds fewer is padded on the left.
    """
    new = copy(next(cache for cache, _ in beginnings if cache is not None))
    new.layers = [copy(layer) for layer in new.layers]
    for index, layer in enumerate(new.layers):
        if not isinstance(layer, DynamicLayer):
            continue
        for name in ("keys", "values"):
            like = getattr(layer, name)
            store = like.new_zeros((len(beginnings), like.shape[1], columns, like.shape[3]))
            for row, (cache, count) in enumerate(beginnings):
                if cache is not None:
                    part = getattr(cache.layers[index], name)[0, :, :count]
                    store[row, :, columns - count :] = part
            setattr(layer, name, store)
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = columns
    return new


def bytes_of(cache: Cache) -> tuple[int, int]:
    """Bytes of one token of one row in a model's own cache, and of one row besides."""
    attention = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    tensors = [tensor for layer in attention for tensor in (layer.keys, layer.values)]
    per_token = sum(tensor[0, :, 0].nbytes for tensor in tensors if tensor is not None)
    return per_token, sum(tensor[0].nbytes for _, _, tensor in _states_of(cache.layers))


def _states_of(layers: Iterable[Any]) -> list[tuple[dict[int, Tensor | None], int, Tensor]]:
    """Every state of linear attention, with the table and the index at which it stands."""
    return [
        (table, index, tensor)
        for layer in layers
        if isinstance(layer, LinearAttentionLayer)
        for table in (layer.conv_states, layer.recurrent_states)
        for index, tensor in table.items()
        if tensor is not None
    ]
