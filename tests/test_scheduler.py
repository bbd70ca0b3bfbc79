"""Who is decoded next: integers stand for requests."""

import itertools
import math
import random
from collections import deque

import pytest

from steering.engines.scheduler import BURST_S, MAX_TURNS, WINDOW_S, Scheduler

WIDTH = 10


def _filled(max_sequences: int, requests: int, tokens: int = WIDTH) -> Scheduler[int]:
    scheduler: Scheduler[int] = Scheduler(max_sequences)
    for request in range(requests):
        scheduler.add(request, tokens)
    return scheduler


def _taken(scheduler: Scheduler[int]) -> list[list[int]]:
    """Batches, each of which ends before the next begins."""
    batches: list[list[int]] = []
    while len(scheduler):
        batches.append(scheduler.take())
    return batches


def test_requests_leave_in_the_order_in_which_they_came():
    assert _taken(_filled(3, 7)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_batch_is_never_larger_than_allowed_and_never_smaller_than_need_be():
    for waiting in range(9):
        for running in range(5):
            admitted = _filled(4, waiting).take([WIDTH] * running)
            assert len(admitted) == min(4 - running, waiting)


def test_raising_the_limit_counts_for_those_who_wait_already():
    scheduler = _filled(2, 5)
    scheduler.max_sequences = 4
    assert scheduler.take() == [0, 1, 2, 3]


def test_a_small_request_does_not_overtake_a_large_one_that_has_no_room_yet():
    scheduler = _filled(8, 0)
    scheduler.set_budget(100)
    scheduler.add(0, 60)
    scheduler.add(1, 10)
    assert scheduler.take([40]) == []
    assert not any(scheduler.admits([40]) for _ in range(3 * MAX_TURNS))
    assert scheduler.take() == [0]


@pytest.mark.parametrize(
    ("budget", "row_tokens", "running", "waiting", "expected"),
    [
        (100, 0, [], [25] * 6, 4),  # 4 x 25
        (99, 0, [], [25] * 6, 3),
        (100, 25, [], [25] * 6, 2),  # 2 x (25 + 25)
        (100, 0, [25], [25] * 6, 3),
        (100, 0, [10, 10], [40], 0),  # 3 x 40: all are as wide as the newcomer
        (120, 0, [10, 10], [40], 1),
        (100, 0, [50], [5, 5], 1),  # 2 x 50: the newcomer is as wide as they are
        (100, 0, [], [10, 50, 10], 2),  # 2 x 50
        (100, 0, [10], [101], 0),
    ],
)
def test_rows_times_the_widest_stay_within_the_budget(
    budget, row_tokens, running, waiting, expected
):
    scheduler: Scheduler[int] = Scheduler(max_sequences=64)
    scheduler.set_budget(budget, row_tokens)
    for request, tokens in enumerate(waiting):
        scheduler.add(request, tokens)
    assert scheduler.take(running) == list(range(expected))


def test_a_request_that_exceeds_the_budget_by_itself_is_let_in_alone():
    scheduler: Scheduler[int] = Scheduler(max_sequences=8)
    scheduler.set_budget(100)
    for request, tokens in enumerate([10, 500, 10, 10]):
        scheduler.add(request, tokens)
    assert _taken(scheduler) == [[0], [1], [2, 3]]


@pytest.mark.parametrize("max_sequences", [8, 16, 64])
def test_newcomers_are_let_in_at_once_when_a_sixteenth_of_the_batch_is_free(max_sequences):
    sixteenth = max(1, max_sequences // 16)
    scheduler = _filled(max_sequences, max_sequences)
    assert scheduler.admits([WIDTH] * (max_sequences - sixteenth))
    assert len(scheduler.take([WIDTH] * (max_sequences - sixteenth))) == sixteenth


def test_less_than_a_sixteenth_waits_and_no_longer_than_so_many_turns():
    # Rows free, and rows that want them: either may be what is less than a sixteenth of 64.
    for free, waiting in [(1, 50), (3, 50), (60, 1), (60, 3)]:
        scheduler = _filled(64, waiting)
        running = [WIDTH] * (64 - free)
        answers = [scheduler.admits(running) for _ in range(MAX_TURNS)]
        assert answers == [False] * (MAX_TURNS - 1) + [True]
        assert len(scheduler.take(running)) == min(free, waiting)


def test_turns_count_from_when_there_is_room_and_again_after_each_time():
    scheduler = _filled(64, 50)
    full, room = [WIDTH] * 64, [WIDTH] * 63
    for running in (room, full):  # what was counted before the batch was full does not count
        assert not any(scheduler.admits(running) for _ in range(MAX_TURNS - 1))
    for _ in range(2):
        turns = 1
        while not scheduler.admits(room):
            turns += 1
        assert turns == MAX_TURNS
        assert len(scheduler.take(room)) == 1


def test_nobody_is_let_in_who_is_not_there():
    scheduler = _filled(64, 0)
    assert not any(scheduler.admits([WIDTH]) for _ in range(3 * MAX_TURNS))
    assert scheduler.take([WIDTH]) == []
    assert scheduler.take() == []


@pytest.mark.parametrize(("failed", "together"), [(2, 1), (3, 1), (7, 3), (8, 4)])
def test_a_batch_that_failed_goes_on_in_halves_and_what_follows_in_full(failed, together):
    scheduler = _filled(8, 30)
    suspects = scheduler.take()[:failed]
    scheduler.put_back([(request, WIDTH) for request in suspects])
    while suspects:
        admitted = scheduler.take()
        assert len(admitted) <= together, "somebody was put at risk beside a suspect"
        assert set(admitted) <= set(suspects)
        suspects = suspects[len(admitted) :]
    assert scheduler.take() == list(range(8, 16))


def test_nobody_joins_suspects_while_they_run():
    scheduler = _filled(8, 0)
    scheduler.put_back([(request, WIDTH) for request in range(6)])
    assert scheduler.take() == [0, 1, 2]
    assert scheduler.take([WIDTH]) == []
    assert not any(scheduler.admits([WIDTH]) for _ in range(3 * MAX_TURNS))
    assert scheduler.take() == [3, 4, 5]


def test_a_request_alone_that_comes_back_is_taken_again():
    scheduler = _filled(8, 0)
    scheduler.put_back([(5, WIDTH)])
    assert scheduler.take() == [5]


def test_who_comes_back_is_in_front_and_in_order():
    scheduler = _filled(8, 12)
    failed = scheduler.take()
    scheduler.put_back([(request, WIDTH) for request in failed])
    assert [request for batch in _taken(scheduler) for request in batch] == list(range(12))


def test_the_one_to_blame_ends_up_alone_in_few_batches():
    """A batch fails when request 11 is in it; everyone else is through once, and soon."""
    for num_rows in (2, 5, 16, 64):
        scheduler = _filled(num_rows, 80)
        finished: list[int] = []
        batches = 0
        while len(scheduler):
            batch = scheduler.take()
            batches += 1
            if 11 not in batch:
                finished += batch
            elif len(batch) > 1:
                scheduler.put_back([(request, WIDTH) for request in batch])
        assert sorted(finished) == [request for request in range(80) if request != 11]
        # log2(rows) halvings, each with a half that gets by, besides what there is to do anyway.
        assert batches <= 80 // num_rows + 2 * math.log2(num_rows) + 3


@pytest.mark.parametrize("budget", [None, 40, 10_000])
def test_after_running_out_of_memory_batches_are_half_as_large_for_good(budget):
    scheduler = _filled(16, 60)
    if budget is not None:
        scheduler.set_budget(budget, 2)
    sizes = [len(scheduler.take())]
    for _ in range(4):
        scheduler.halve([WIDTH] * sizes[-1])
        sizes.append(len(scheduler.take()))
    assert all(after == max(1, before // 2) for before, after in itertools.pairwise(sizes))
    assert len(scheduler.take()) == sizes[-1]


def test_halving_counts_the_widest_and_what_a_row_takes_besides():
    scheduler: Scheduler[int] = Scheduler(max_sequences=64)
    scheduler.set_budget(10_000, 5)
    scheduler.halve([10, 15, 5, 5])  # 2 rows x (15 + 5)
    for request in range(8):
        scheduler.add(request, 5)
    assert len(scheduler.take()) == 4  # x (5 + 5)


def test_a_full_batch_is_not_kept_waiting_and_one_with_room_is():
    assert _filled(4, 3).window(0) == WINDOW_S > 0
    assert _filled(4, 4).window(0) == 0
    assert _filled(4, 5).window(0) == 0


def test_a_burst_that_does_not_end_is_not_waited_for():
    scheduler = _filled(64, 1)
    waited = 0.0
    while window := scheduler.window(waited):
        assert 0 < window <= WINDOW_S
        waited += window
    assert waited == pytest.approx(BURST_S)
    assert scheduler.window(BURST_S + 1) == 0


def test_the_window_opens_again_for_what_a_batch_leaves_behind():
    scheduler = _filled(4, 6)
    scheduler.take()
    assert len(scheduler) == 2
    assert scheduler.window(0) == WINDOW_S


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nobody_is_lost_taken_twice_overtaken_or_kept_waiting(seed):
    """A year in the life: arrivals, ends, failures of the whole batch or of its newcomers."""
    rng = random.Random(seed)
    max_sequences, budget, row_tokens = rng.choice([1, 4, 9, 32]), rng.choice([200, 900]), 3
    scheduler: Scheduler[int] = Scheduler(max_sequences)
    scheduler.set_budget(budget, row_tokens)
    tokens = {request: rng.choice([5, 20, 60, 300]) for request in range(300)}
    coming = deque(tokens)
    expected: deque[int] = deque()  # who waits, in the order in which they must leave
    running: list[int] = []
    ended: list[int] = []
    turns = 0
    while coming or expected or running:
        for _ in range(min(len(coming), rng.choice([0, 0, 1, 5]))):
            scheduler.add(coming[0], tokens[coming[0]])
            expected.append(coming.popleft())
        assert len(scheduler) == len(expected)
        widths = [tokens[request] for request in running]
        turns += 1
        if not running or scheduler.admits(widths):
            admitted = scheduler.take(widths)
            assert admitted == [expected.popleft() for _ in admitted]
            assert admitted or not running or not len(scheduler), "an empty turn"
            running += admitted
            turns = 0
            widest = max((tokens[request] for request in running), default=0)
            assert len(running) <= max_sequences
            assert len(running) * (widest + row_tokens) <= budget or len(running) == 1
            if len(admitted) > 1 and rng.random() < 0.2:
                missing = rng.choice([admitted, running])
                running = [request for request in running if request not in missing]
                scheduler.put_back([(request, tokens[request]) for request in missing])
                expected.extendleft(reversed(missing))
        # Rows end: some at once, or none for a while.
        for request in list(running):
            if rng.random() < 0.1:
                running.remove(request)
                ended.append(request)
    assert sorted(ended) == list(tokens)
