"""A limit of time for a whole run, which stops it as Ctrl-C does: what is done is kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_AGAIN = 60.0  # seconds after which a run that has not stopped is told again; an extraction stops then


class TimeLimitError(RuntimeError):
    """The run has taken as long as it may; the finished work is kept."""


@contextlib.contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Interrupt the block after so many seconds; TimeLimitError in place of its KeyboardInterrupt.

    A stage that finishes its work in hand when it is interrupted does so here too. Nothing outside the main
    thread, which alone receives signals.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    passed = False

    def interrupt(_number: int, frame: FrameType | None) -> None:
        nonlocal passed
        passed = True
        for number in (signal.SIGINT, signal.SIGTERM):  # of a job in the background, Ctrl-C is switched off
            handler = signal.getsignal(number)
            if callable(handler):
                handler(number, frame)
                return
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    except KeyboardInterrupt:
        if not passed:
            raise
        raise TimeLimitError(
            f"stopped after run.time_limit = {seconds:g} s; finished work is kept, the same command goes on"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
