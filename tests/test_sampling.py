"""How a token is drawn: by the row's own settings and numbers, and with the right frequencies."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from steering.engines.sampling import BROKEN, Sampler
from steering.engines.settings import Sampling

VOCABULARY = 12
DRAWS = 4000


def _logits(rows: int = 1, seed: int = 0, vocabulary: int = VOCABULARY) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator) * 1.5


def _softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(value / temperature) for value in logits]
    return [weight / sum(weights) for weight in weights]


def _best_first(probabilities: Sequence[float]) -> list[int]:
    return sorted(range(len(probabilities)), key=lambda token: -probabilities[token])


def _nucleus(probabilities: Sequence[float], top_p: float) -> list[int]:
    """The fewest of the likeliest tokens that together have a probability of at least top_p."""
    nucleus: list[int] = []
    for token in _best_first(probabilities):
        nucleus.append(token)
        if sum(probabilities[member] for member in nucleus) >= top_p:
            break
    return nucleus


def _only(probabilities: Sequence[float], tokens: Sequence[int]) -> list[float]:
    total = sum(probabilities[token] for token in tokens)
    return [p / total if token in tokens else 0.0 for token, p in enumerate(probabilities)]


def _penalised(
    logits: Sequence[float],
    generated: Sequence[int],
    frequency: float,
    presence: float,
    bias: Mapping[int, float],
) -> list[float]:
    return [
        value
        - frequency * generated.count(token)
        - (presence if token in generated else 0.0)
        + bias.get(token, 0.0)
        for token, value in enumerate(logits)
    ]


def _count(settings: Mapping[str, Any], generated: Sequence[int] = ()) -> Counter[int]:
    """The first token of many rows that differ in nothing but their seeds: 0, 1, 2, ..."""
    sampler = Sampler([Sampling(**settings, seed=seed) for seed in range(DRAWS)])
    draws = sampler.draw(_logits().expand(DRAWS, -1).clone(), [generated] * DRAWS)
    return Counter(draws.tolist())


def _assert_frequencies(counts: Mapping[int, int], expected: Sequence[float]) -> None:
    impossible = {token for token in counts if expected[token] == 0}
    assert not impossible
    cells = [token for token, probability in enumerate(expected) if probability * DRAWS >= 5]
    observed = [counts.get(token, 0) for token in cells]
    predicted = [expected[token] * DRAWS for token in cells]
    if (rest := DRAWS - sum(observed)) or sum(predicted) < DRAWS - 5:
        observed.append(rest)
        predicted.append(DRAWS - sum(predicted))
    if len(cells) > 1:
        assert stats.chisquare(observed, predicted, sum_check=False).pvalue > 1e-3


def test_temperature_zero_takes_the_likeliest_token():
    logits = _logits(rows=20)
    draws = Sampler([Sampling(temperature=0, seed=i) for i in range(20)]).draw(logits, [[]] * 20)
    assert draws.tolist() == [
        max(range(VOCABULARY), key=row.__getitem__) for row in logits.tolist()
    ]


def test_a_greedy_row_stays_greedy_beside_sampled_rows():
    logits = _logits().expand(30, -1)
    rows = [Sampling(temperature=0 if i % 2 else 1.5, seed=i) for i in range(30)]
    draws = Sampler(rows).draw(logits, [[]] * 30).tolist()
    best = int(logits[0].argmax())
    assert draws[1::2] == [best] * 15
    assert set(draws[::2]) != {best}


ROWS = [
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.7, top_p=0.9),
    Sampling(seed=3, temperature=0),
    Sampling(seed=4, top_k=3),
    Sampling(seed=5, frequency_penalty=0.5, presence_penalty=0.3),
    Sampling(seed=6, logit_bias={2: 3.0}, temperature=1.4),
]


def _generate(rows: Sequence[Sampling], logits: Tensor, drop: Mapping[int, int]) -> list[list[int]]:
    """Tokens of every row; `drop` says after how many steps a row leaves the batch.

    Args:
        rows: Settings.
        logits: [steps, rows, vocabulary].
        drop: By row.
    """
    sampler, alive = Sampler(rows), list(range(len(rows)))
    tokens: list[list[int]] = [[] for _ in rows]
    for step, now in enumerate(logits):
        rest = [row for row in alive if drop.get(row, len(logits)) > step]
        if rest != alive:
            sampler.keep([alive.index(row) for row in rest])
            alive = rest
        draws = sampler.draw(now[alive].clone(), [tokens[row] for row in alive])
        for row, token in zip(alive, draws.tolist(), strict=True):
            tokens[row].append(token)
    return tokens


def test_a_row_draws_the_same_alone_as_in_any_batch_and_order():
    steps = 30
    logits = torch.stack([_logits(len(ROWS), seed) for seed in range(steps)])
    together = _generate(ROWS, logits, {})
    for index, row in enumerate(ROWS):
        assert _generate([row], logits[:, [index]], {}) == [together[index]]
    order = [4, 0, 5, 2, 1, 3]
    shuffled = _generate([ROWS[i] for i in order], logits[:, order], {})
    assert shuffled == [together[i] for i in order]


def test_a_row_draws_on_as_before_when_its_neighbours_leave():
    steps = 30
    logits = torch.stack([_logits(len(ROWS), seed) for seed in range(steps)])
    drop = {0: 5, 3: 5, 5: 20}
    together, thinned = _generate(ROWS, logits, {}), _generate(ROWS, logits, drop)
    assert thinned == [tokens[: drop.get(row, steps)] for row, tokens in enumerate(together)]


def test_keep_can_reorder_rows():
    logits = torch.stack([_logits(len(ROWS), seed) for seed in range(10)])
    expected = _generate(ROWS, logits, {})
    sampler, tokens = Sampler(ROWS), [list[int]() for _ in ROWS]
    order = list(range(len(ROWS)))
    for now in logits:
        draws = sampler.draw(now[order].clone(), [tokens[row] for row in order])
        for row, token in zip(order, draws.tolist(), strict=True):
            tokens[row].append(token)
        sampler.keep([2, 0, 1, 5, 3, 4])
        order = [order[i] for i in (2, 0, 1, 5, 3, 4)]
    assert tokens == expected


def _generate_as_they_come(
    rows: Sequence[Sampling], logits: Tensor, comes: Sequence[int], goes: Sequence[int]
) -> list[list[int]]:
    """Tokens of rows each of which joins the batch before one step and leaves it before another.

    Args:
        rows: Settings.
        logits: [steps, rows, vocabulary]; a row reads its own from its own first step on.
        comes: Step by row.
        goes: Step by row.
    """
    sampler, alive = Sampler(), list[int]()
    tokens: list[list[int]] = [[] for _ in rows]
    for step in range(max(goes)):
        rest = [row for row in alive if goes[row] > step]
        sampler.keep([alive.index(row) for row in rest])
        new = [row for row in range(len(rows)) if comes[row] == step]
        sampler.join(Sampler([rows[row] for row in new]))
        alive = rest + new
        if not alive:
            continue
        single = torch.stack([logits[step - comes[row], row] for row in alive])
        draws = sampler.draw(single, [tokens[row] for row in alive])
        for row, token in zip(alive, draws.tolist(), strict=True):
            tokens[row].append(token)
    return tokens


@pytest.mark.parametrize(
    "comes",
    [[0, 0, 0, 0, 0, 0], [0, 3, 3, 7, 90, 8], [9, 7, 5, 3, 1, 0], [0, 0, 70, 70, 70, 1]],
    ids=["together", "one by one", "the last first", "while others are far ahead"],
)
def test_a_row_that_joins_draws_what_it_draws_alone_and_disturbs_nobody(comes):
    """Longer than the numbers that a row draws ahead."""
    steps = 150
    logits = torch.stack([_logits(len(ROWS), seed) for seed in range(steps)])
    expected = _generate(ROWS, logits, {})
    goes = [newcomers + steps - 10 * row for row, newcomers in enumerate(comes)]
    share = _generate_as_they_come(ROWS, logits, comes, goes)
    assert share == [tokens[: steps - 10 * row] for row, tokens in enumerate(expected)]


@pytest.mark.parametrize("first", ROWS, ids=[f"row {row.seed}" for row in ROWS])
def test_a_join_brings_the_settings_of_whoever_comes(first):
    """The batch was greedy, or truncated nobody, until somebody came."""
    logits = torch.stack([_logits(2, seed) for seed in range(12)])
    for second in ROWS:
        expected = _generate([first], logits[:, [0]], {}) + _generate([second], logits[:, [1]], {})
        assert _generate_as_they_come([first, second], logits, [0, 5], [12, 17]) == expected


def test_who_joins_leaves_the_batch_that_it_came_from_as_it_was():
    logits = torch.stack([_logits(2, seed) for seed in range(9)])
    expected = _generate(ROWS[:2], logits, {})
    waiting, running = Sampler(ROWS[1:2]), Sampler(ROWS[:1])
    running.join(waiting)
    running.keep([0])
    tokens: list[list[int]] = [[], []]
    for now in logits:  # both draw, side by side, from what was parted again
        tokens[0] += running.draw(now[[0]], [tokens[0]]).tolist()
        tokens[1] += waiting.draw(now[[1]], [tokens[1]]).tolist()
    assert tokens == expected


def test_the_same_seed_draws_the_same_and_another_seed_draws_others():
    logits = torch.stack([_logits(3, seed)[[0, 0, 0]] for seed in range(40)])
    one, same, other = _generate([Sampling(seed=7), Sampling(seed=7), Sampling(seed=8)], logits, {})
    assert one == same
    assert one != other


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.7},
    {"top_k": 3},
    {"top_k": 1},
    {"top_k": 50},
    {"top_p": 0.8},
    {"top_p": 0.05},
    {"temperature": 1.7, "top_p": 0.6},
    {"temperature": 0.6, "top_k": 4},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_first_tokens_of_many_seeds_have_the_frequencies_of_the_settings(settings):
    expected = _softmax(_logits()[0].tolist(), settings.get("temperature", 1.0))
    if "top_k" in settings:
        expected = _only(expected, _best_first(expected)[: settings["top_k"]])
    if "top_p" in settings:
        expected = _only(expected, _nucleus(expected, settings["top_p"]))
    _assert_frequencies(_count(settings), expected)


def test_tokens_of_one_seed_have_the_frequencies_of_the_settings():
    sampler, counts = Sampler([Sampling(seed=11, top_p=0.9)]), Counter[int]()
    for _ in range(DRAWS):
        counts[int(sampler.draw(_logits(), [[]]))] += 1
    probabilities = _softmax(_logits()[0].tolist())
    _assert_frequencies(counts, _only(probabilities, _nucleus(probabilities, 0.9)))


def test_successive_tokens_of_a_row_do_not_depend_on_each_other():
    sampler, flat = Sampler([Sampling(seed=3)]), torch.zeros(1, 4)
    tokens = [int(sampler.draw(flat, [[]])) for _ in range(DRAWS)]
    table = [[0] * 4 for _ in range(4)]
    for one, next_one in itertools.pairwise(tokens):
        table[one][next_one] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_top_p_is_taken_of_what_top_k_leaves():
    probabilities = _softmax(_logits()[0].tolist())
    of_four = _only(probabilities, _best_first(probabilities)[:4])
    expected = _only(of_four, _nucleus(of_four, 0.7))
    assert expected != _only(probabilities, _nucleus(probabilities, 0.7)), "the order is not seen"
    _assert_frequencies(_count({"top_k": 4, "top_p": 0.7}), expected)


PENALTIES: list[dict[str, Any]] = [
    {"frequency_penalty": 0.8},
    {"presence_penalty": 1.1},
    {"frequency_penalty": 0.4, "presence_penalty": -0.6},
    {"logit_bias": {0: 2.0, 5: -100.0}},
    {"frequency_penalty": 0.3, "logit_bias": {3: 1.0}, "temperature": 0.8},
]


@pytest.mark.parametrize("settings", PENALTIES, ids=str)
def test_penalties_and_bias_move_the_frequencies_as_defined(settings):
    generated = [3, 3, 3, 7, 1, 3, 7]
    logits = _penalised(
        _logits()[0].tolist(),
        generated,
        settings.get("frequency_penalty", 0.0),
        settings.get("presence_penalty", 0.0),
        settings.get("logit_bias", {}),
    )
    _assert_frequencies(
        _count(settings, generated), _softmax(logits, settings.get("temperature", 1.0))
    )


@pytest.mark.parametrize("settings", PENALTIES, ids=str)
def test_penalties_and_bias_count_for_greedy_rows_too(settings):
    logits, generated = [1.0, 1.2, 0.9, 1.3, 1.0, 1.1] + [0.0] * 6, [3, 3, 1]
    shifted = _penalised(
        logits,
        generated,
        settings.get("frequency_penalty", 0.0),
        settings.get("presence_penalty", 0.0),
        settings.get("logit_bias", {}),
    )
    row = Sampling(**{**settings, "temperature": 0})
    assert Sampler([row]).draw(torch.tensor([logits]), [generated]).tolist() == [
        max(range(VOCABULARY), key=shifted.__getitem__)
    ]


def test_a_penalty_is_for_its_own_row_only():
    rows = [Sampling(temperature=0, frequency_penalty=2.0), Sampling(temperature=0)]
    logits = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert Sampler(rows).draw(logits, [[1], [1]]).tolist() == [0, 1]


@pytest.mark.parametrize("settings", [{}, *PENALTIES, {"top_p": 0.5}], ids=str)
def test_drawing_leaves_the_logits_of_the_caller_as_they_were(settings):
    """Log probabilities are read from the same tensor."""
    logits = _logits()
    Sampler([Sampling(**settings)]).draw(logits, [[1, 2]])
    assert torch.equal(logits, _logits())


@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, 0.5, 1 - 2.0**-53])
@pytest.mark.parametrize("vocabulary", [3, 50, 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_never_draws_a_token_that_can_not_be_or_does_not_exist(
    monkeypatch, uniform, vocabulary, dtype
):
    """Softmax sums to a little less or more than 1, and the uniform number comes as close to 1."""
    monkeypatch.setattr(
        torch, "rand", lambda *size, **_: torch.full(size, uniform, dtype=torch.float64)
    )
    logits = _logits(8, seed=1, vocabulary=vocabulary)
    logits[:, [0, -1]] = -math.inf
    settings = [{}, {"top_p": 0.9}, {"top_k": 1}, {"temperature": 0.3}]
    rows = [Sampling(**settings[i % len(settings)]) for i in range(8)]  # type: ignore[arg-type]
    draws = Sampler(rows).draw(logits.to(dtype), [[]] * 8).tolist()
    for row, token in enumerate(draws):
        assert 0 < token < vocabulary - 1
        if rows[row].top_k == 1:
            assert logits.to(dtype)[row, token] == logits.to(dtype)[row].max()


@pytest.mark.parametrize("top_p", [1e-30, 1e-9])
def test_a_nucleus_smaller_than_any_token_still_holds_the_likeliest(top_p):
    assert set(_count({"top_p": top_p})) == {int(_logits().argmax())}


@pytest.mark.parametrize("row", ROWS, ids=[f"row {row.seed}" for row in ROWS])
@pytest.mark.parametrize("where", [slice(None), 0, -1], ids=["all", "the first", "the last"])
def test_logits_that_are_no_numbers_give_no_token_and_only_to_their_own_row(row, where):
    for neighbour in ROWS:
        logits, rows = _logits(3), [neighbour, row, neighbour]
        expected = Sampler(rows).draw(logits, [[1, 2]] * 3).tolist()
        logits[1, where] = math.nan
        draws = Sampler(rows).draw(logits, [[1, 2]] * 3).tolist()
        assert draws == [expected[0], BROKEN, expected[2]]


def test_no_token_of_any_vocabulary_can_be_mistaken_for_a_broken_one():
    assert BROKEN < 0


@pytest.mark.parametrize("row", ROWS, ids=[f"row {row.seed}" for row in ROWS])
def test_a_token_that_can_not_be_drawn_is_no_fault(row):
    """Minus infinity is how a model rules a token out."""
    logits = torch.full((1, VOCABULARY), -math.inf)
    logits[0, 4] = 1.0
    assert Sampler([row]).draw(logits, [[]]).tolist() == [4]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("row", [[0.0, math.inf, 1.0], [-math.inf] * 3])
def test_infinite_logits_choose_no_token(temperature: float, row: list[float]) -> None:
    sampler = Sampler([Sampling(temperature=temperature)] * 2)
    draws = sampler.draw(torch.tensor([row, [0.0, -math.inf, 200.0]]), [[], []]).tolist()
    assert draws == [BROKEN, 2]
