"""Work done ahead of who needs it, in a thread of its own and within bounds."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """The results of `source`, in order, which a thread works out while the last ones are made use of.

    `source` yields each result with its weight; as long as those that wait weigh more than `room`, the thread
    waits too. An error in `source` is raised where its result would have come. Use it in a `with` statement:
    leaving that ends the thread at the next result.
    """

    def __init__(self, source: Iterator[tuple[T, int]], room: int) -> None:
        self._source, self._room = source, room
        self._waiting: deque[tuple[T, int]] = deque()
        self._weight = 0
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._executor = ThreadPoolExecutor(1, "ahead")
        self._thread = self._executor.submit(self._work)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._waiting:
                result, weight = self._waiting.popleft()
                self._weight -= weight
                self._changed.notify_all()
                return result
        self._thread.result()
        raise StopIteration

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._executor.shutdown()

    def _work(self) -> None:
        try:
            for entry in self._source:
                with self._changed:
                    self._changed.wait_for(lambda: self._weight <= self._room or self._closed)
                    if self._closed:
                        return
                    self._waiting.append(entry)
                    self._weight += entry[1]
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
