"""What a model remembers of rows that join and leave, against a list of columns for each row."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    StaticLayer,
)

from steering.engines import EngineError
from steering.engines.cache import BatchCache, bytes_of

HEADS, WIDTH, WINDOW, KERNEL = 2, 3, 6, 4
FULL, LINEAR, SLIDING = 0, 1, 2  # which layer is what


@dataclass
class _Remembered:
    """What the cache must hold of one row, and nothing shared with it."""

    keys: list[Tensor] = field(default_factory=list)  # [HEADS, WIDTH] a token
    values: list[Tensor] = field(default_factory=list)
    states: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal, NaN included."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(
        one.nan_to_num(), other.nan_to_num()
    )


class _Batch:
    """The cache under test beside its replica; plays the part of the model and of the decoder."""

    def __init__(self, seed: int = 0) -> None:
        self.cache = BatchCache()
        self.rows: list[_Remembered] = []
        self._random = torch.Generator().manual_seed(seed)
        self.mask = torch.zeros(0, 0)

    def _new(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self._random)

    def join(
        self, lengths: Sequence[int], served: Sequence[int] | None = None, filled: float = 0
    ) -> None:
        """Prompts of these lengths were read; `filled` is what a model left in the padding."""
        served = range(len(lengths)) if served is None else served
        count, width = len(lengths), max(lengths)
        mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths]).bool()
        keys, values = (self._new(count, HEADS, width, WIDTH) for _ in range(2))
        for tensor in (keys, values):
            tensor.masked_fill_(~mask[:, None, :, None], filled)
        full, linear = DynamicLayer(), LinearAttentionLayer()
        sliding = DynamicSlidingWindowLayer(WINDOW)
        full.update(keys, values)
        sliding.update(keys + 1, values + 1)
        convolution, recurrent = self._new(count, 5, KERNEL), self._new(count, HEADS, 3, 3)
        linear.update_conv_state(convolution)
        linear.update_recurrent_state(recurrent)
        self.cache.join(Cache(layers=[full, linear, sliding]), mask, lengths, list(served))
        for prompt in served:
            real = range(width - lengths[prompt], width)
            self.rows.append(
                _Remembered(
                    [keys[prompt, :, column] for column in real],
                    [values[prompt, :, column] for column in real],
                    (convolution[prompt], recurrent[prompt]),
                )
            )

    def step(self, broken: Sequence[int] = ()) -> None:
        """One token a row, NaN for broken rows; all that the model gets to see is looked at."""
        mask = self.mask = self.cache.begin_step()
        keys, values = (self._new(len(self.rows), HEADS, 1, WIDTH) for _ in range(2))
        for row in broken:
            keys[row] = values[row] = math.nan
        visible = self.cache.update(keys, values, FULL)
        near = self.cache.update(keys + 1, values + 1, SLIDING)
        new_column = self._new(len(self.rows), 5, 1)
        context = self.cache.layers[LINEAR].update_conv_state(new_column)
        recurrent = self._new(len(self.rows), HEADS, 3, 3)
        before = self.cache.layers[LINEAR].recurrent_states[0].clone()
        self.cache.layers[LINEAR].update_recurrent_state(recurrent)
        self.cache.end_step()
        for index, row in enumerate(self.rows):
            row.keys.append(keys[index, :, 0])
            row.values.append(values[index, :, 0])
            convolution, was = row.states
            wide = torch.cat([convolution, new_column[index]], -1)
            assert torch.equal(context[index], wide)
            assert torch.equal(before[index], was)
            row.states = (wide[:, -KERNEL:], recurrent[index])
        self._check_attention(mask, visible, near)

    def _check_attention(self, mask: Tensor, visible: Any, near: Any) -> None:
        width = max(len(row.keys) for row in self.rows)
        assert mask.shape == (len(self.rows), width), "columns that nobody needs"
        for tensor in (*visible, *near):
            assert tensor.shape == (len(self.rows), HEADS, width, WIDTH)
        for index, row in enumerate(self.rows):
            length = len(row.keys)
            assert mask[index].tolist() == [False] * (width - length) + [True] * length
            for stored, expected in ((visible[0], row.keys), (visible[1], row.values)):
                real = stored[index][:, mask[index]]
                assert _same(real, torch.stack(expected, 1))
                # What is masked is multiplied by 0 all the same.
                assert stored[index][:, ~mask[index]].isfinite().all()
            for stored, expected in ((near[0], row.keys), (near[1], row.values)):
                recent = torch.stack(expected[-WINDOW:], 1) + 1
                assert _same(stored[index, :, -recent.shape[1] :], recent)
                assert stored[index][:, ~mask[index]].isfinite().all()

    def keep(self, order: Sequence[int]) -> None:
        self.cache.keep(order)
        self.rows = [self.rows[index] for index in order]

    @property
    def held(self) -> int:
        """Columns times rows that the first layer's store has room for."""
        [keys, _] = self.cache.layers[FULL].stores
        return keys.shape[0] * keys.shape[2]


def test_rows_of_any_lengths_are_remembered_as_they_were():
    batch = _Batch()
    batch.join([3, 1, 7, 12, 2], filled=9.0)
    for _ in range(5):
        batch.step()


@pytest.mark.parametrize("lengths", [[2], [9, 3], [5], [40], [1, 30, 2]])
def test_newcomers_longer_or_shorter_than_all_that_runs_move_nobody(lengths):
    batch = _Batch()
    batch.join([4, 5])
    batch.step()
    batch.join(lengths, filled=math.nan if len(lengths) == 1 else 9.0)
    batch.step()
    batch.step()


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3], [0, 1], [3, 1, 2], [3], [0, 2, 1, 3], [1, 2, 3, 0], [2, 0]]
)
def test_those_who_stay_keep_what_is_theirs_in_the_order_asked_for(order):
    batch = _Batch()
    batch.join([4, 9, 2, 5])
    batch.step()
    batch.keep(order)
    batch.step()
    batch.join([3, 11])
    batch.step()


def test_columns_that_only_those_who_left_had_are_gone_and_come_back_empty():
    batch = _Batch()
    batch.join([30, 3, 4])
    batch.step()
    batch.keep([2, 1])
    batch.step()
    assert batch.mask.shape == (2, 6)
    batch.join([28])
    batch.step()


def test_a_row_of_nan_that_left_does_not_haunt_its_place():
    batch = _Batch()
    batch.join([8, 3, 3, 6])
    batch.step(broken=[0, 2])
    batch.keep([3, 1])
    batch.step()
    batch.join([2, 12])
    batch.step()
    batch.step(broken=[3])
    batch.keep([0, 1, 2])
    batch.join([15])
    batch.step()


def test_several_rows_go_on_from_one_prompt():
    batch = _Batch()
    batch.join([4, 9], served=[0, 0, 1, 0])
    batch.step()
    batch.join([2, 5, 3], served=[2, 2, 0])  # nobody goes on from the longest
    batch.step()


def test_a_prompt_that_nobody_goes_on_from_takes_no_columns():
    """The one answer to the long prompt was over with its first token."""
    batch = _Batch()
    batch.join([3, 200], served=[0])
    batch.step()


def test_a_long_answer_outgrows_the_spare_columns_again_and_again():
    batch = _Batch()
    batch.join([3, 8])
    moves, before = 0, None
    for step in range(400):
        batch.step()
        [store, _] = batch.cache.layers[FULL].stores
        moves += store.data_ptr() != before
        before = store.data_ptr()
        if step == 200:
            batch.join([5])
    # Once for the start, once for the newcomer; each time the store grows by a quarter or by 64.
    assert moves <= 2 + 6


def test_rows_come_and_go_without_their_stores_being_made_again():
    batch = _Batch()
    batch.join([20] * 4)
    batch.step()
    places = {store.data_ptr() for store in batch.cache.layers[FULL].stores}
    for _ in range(10):
        batch.keep([3, 1, 2])
        batch.join([15])
        batch.step()
    assert {store.data_ptr() for store in batch.cache.layers[FULL].stores} == places


def test_what_is_held_is_about_what_present_rows_take():
    """64 short rows, then one long one: 64 long rows never were in the batch."""
    batch = _Batch()
    batch.join([10] * 64)
    batch.step()
    batch.keep([0])
    batch.join([1000])
    batch.step()
    assert batch.held <= 2 * 2 * 1002


@pytest.mark.parametrize("seed", range(25))
def test_any_mixture_of_joins_steps_and_leaves(seed):
    rng, batch = random.Random(seed), _Batch(seed)
    for _ in range(60):
        count = len(batch.rows)
        action = rng.choice(["join", "step", "step", "keep", "permute"])
        if action == "join" or not count:
            lengths = [rng.choice([1, 2, 5, 9, 40]) for _ in range(rng.randrange(1, 5))]
            served = [index for index in range(len(lengths)) for _ in range(rng.randrange(3))]
            batch.join(lengths, [*served, lengths.index(max(lengths))], filled=9.0)
        elif action == "step":
            broken = [row for row in range(count) if rng.random() < 0.05]
            batch.step(broken)
            if broken and len(broken) < count:
                batch.keep([row for row in range(count) if row not in broken])
        else:
            order = rng.sample(range(count), count)
            if action == "keep":
                order = order[: rng.randrange(1, count + 1)]
            batch.keep(order)
    batch.step([])


def test_a_model_that_remembers_in_an_unknown_way_is_refused_by_name():
    layer = StaticLayer(max_cache_len=8)
    with pytest.raises(EngineError, match=r"StaticLayer.*not supported"):
        BatchCache().join(Cache(layers=[layer]), torch.ones(1, 2).bool(), [2], [0])


def test_what_a_token_and_a_row_take_is_counted_over_all_layers():
    """Two layers of attention and one of linear attention, float32."""
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.zeros(1, HEADS, 7, WIDTH), torch.zeros(1, HEADS, 7, WIDTH), layer)
    linear = LinearAttentionLayer()
    linear.update_conv_state(torch.zeros(1, 5, KERNEL))
    linear.update_recurrent_state(torch.zeros(1, HEADS, 3, 3))
    cache.layers.append(linear)
    a_token = 2 * 2 * HEADS * WIDTH * 4
    assert bytes_of(cache) == (a_token, (5 * KERNEL + HEADS * 3 * 3) * 4)
