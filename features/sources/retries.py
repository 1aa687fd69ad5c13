"""Failures that may pass are met with further attempts, after growing pauses."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable

from ..errors import ImageFailure

_FIRST_PAUSE = 0.5  # seconds, doubled after every attempt
_LONGEST_PAUSE = 60.0  # a server that asks for more is left alone
_DEAD = 5  # images in a row that a host failed to give


class MayPass(Exception):
    """A failure that another attempt may not meet."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause  # seconds that the other side asks for


class Retries:
    """Exponential back-off with jitter for every read; many threads may share it.

    A host that has failed `_DEAD` images in a row gets one attempt for each, until it answers: else a
    catalogue whose host is gone would take the pauses and timeouts of every item.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failed: Counter[str] = Counter()  # host -> images in a row
        self._stopped = threading.Event()

    def call(self, read: Callable[[], bytes], name: str, host: str) -> bytes:
        """What `read` returns in the end; ImageFailure when it raises that, or MayPass every time."""
        attempt = 0
        while True:
            try:
                content = read()
            except ImageFailure:  # an answer, if not the one that was hoped for
                self._failed.pop(host, None)
                raise
            except MayPass as error:
                retries = 0 if self._failed[host] >= _DEAD else self._retries
                pause = max(_FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1), error.pause)
                given_up = attempt >= retries or error.pause > _LONGEST_PAUSE
                if given_up or self._stopped.wait(min(pause, _LONGEST_PAUSE)):
                    self._failed[host] += 1
                    raise ImageFailure("unreachable", f"{name}: {error}") from error
                attempt += 1
            else:
                self._failed.pop(host, None)
                return content

    def stop(self) -> None:
        """End all pauses, and all attempts after them."""
        self._stopped.set()
