"""A first signal to stop is a request, a second one is obeyed at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether SIGTERM or SIGINT has come since `stop_on_signal` began."""

    def __init__(self) -> None:
        self.asked_by: str | None = None  # the signal's name

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler: notes the first, raises KeyboardInterrupt for the next."""
        if self.asked_by is not None:
            raise KeyboardInterrupt
        self.asked_by = signal.Signals(number).name  # nothing else: a log line may be half-written


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """What has come of signals in the block; nothing outside the main thread, which alone receives them."""
    stop = Stop()
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as of a job that is to outlive its terminal
                previous[number] = signal.signal(number, stop.receive)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
