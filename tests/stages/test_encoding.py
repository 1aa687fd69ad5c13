"""Reading ahead: in order, and bounded by numbers and by bytes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmrec.stages.encoding import prefetched


@pytest.mark.parametrize(("size", "most"), [(100, 8), (300, 3), (5000, 1), (1, 8)])
def test_what_is_ahead_is_bounded_by_its_number_and_by_its_size(size: int, most: int) -> None:
    begun, taken, lock = [], [], threading.Lock()

    def work(item: int) -> int:
        with lock:
            begun.append(item)
        return item

    with ThreadPoolExecutor(2) as pool:
        for item in prefetched(pool, work, range(40), ahead=8, size=lambda _: size, room=1000):
            taken.append(item)
            if len(taken) > 10:  # sizes are known by now
                assert len(begun) - len(taken) <= most
    assert taken == list(range(40))
