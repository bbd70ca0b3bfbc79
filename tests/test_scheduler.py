"""When requests become a batch: integers stand for requests."""

from steering.engines.scheduler import WINDOW_S, Scheduler


def _filled(max_rows: int, requests: int) -> Scheduler[int]:
    scheduler: Scheduler[int] = Scheduler(max_rows)
    for request in range(requests):
        scheduler.add(request)
    return scheduler


def test_requests_leave_in_the_order_in_which_they_came():
    scheduler = _filled(3, 7)
    assert [scheduler.take() for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_no_request_is_lost_or_taken_twice_when_arrivals_and_batches_mix():
    scheduler: Scheduler[int] = Scheduler(4)
    taken: list[int] = []
    for arriving in range(20):
        scheduler.add(arriving)
        if arriving % 3 == 2:
            taken += scheduler.take()
    while len(scheduler):
        taken += scheduler.take()
    assert taken == list(range(20))


def test_a_batch_is_never_larger_than_allowed_and_never_smaller_than_need_be():
    for waiting in range(9):
        assert len(_filled(4, waiting).take()) == min(4, waiting)


def test_taking_from_nothing_gives_an_empty_batch():
    assert _filled(4, 0).take() == []


def test_a_full_batch_is_not_kept_waiting_and_one_with_room_is():
    assert _filled(4, 3).window() == WINDOW_S > 0
    assert _filled(4, 4).window() == 0
    assert _filled(4, 5).window() == 0


def test_the_window_opens_again_for_what_a_batch_leaves_behind():
    scheduler = _filled(4, 6)
    scheduler.take()
    assert len(scheduler) == 2
    assert scheduler.window() == WINDOW_S


def test_raising_the_limit_counts_for_those_who_wait_already():
    scheduler = _filled(2, 5)
    scheduler.max_rows = 4
    assert scheduler.take() == [0, 1, 2, 3]
