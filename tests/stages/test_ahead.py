import threading
from collections.abc import Iterator

import pytest

from mmrec.stages.ahead import Ahead


def test_results_come_in_order_and_so_does_the_error_that_ends_them() -> None:
    def source() -> Iterator[tuple[int, int]]:
        yield from ((n, 1) for n in range(5))
        raise OSError("gone")

    taken = []
    with Ahead(source(), room=2) as results, pytest.raises(OSError, match="gone"):
        taken += [next(results) for _ in range(5)]
        next(results)
    assert taken == list(range(5))


def test_no_more_waits_than_there_is_room_for() -> None:
    made, blocked = [], threading.Event()

    def source() -> Iterator[tuple[int, int]]:
        for n in range(10):
            if n == 4:  # 0, 1, 2 weigh more than 25; 3 is made and waits outside
                blocked.set()
            made.append(n)
            yield n, 10

    with Ahead(source(), room=25) as results:
        assert not blocked.wait(0.2) and made == [0, 1, 2, 3]
        assert next(results) == 0
        assert blocked.wait(5)


def test_leaving_ends_a_source_that_would_go_on_for_ever() -> None:
    def source() -> Iterator[tuple[int, int]]:
        while True:
            yield 0, 1

    with Ahead(source(), room=3) as results:
        next(results)
