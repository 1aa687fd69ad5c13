"""Where the time of a job of several steps goes: how busy each step is, and which one is the limit."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between lines

Crews = Mapping[tuple[str, ...], int]  # steps that are done by the same workers -> how many workers


@dataclass(frozen=True, slots=True)
class Lap:
    """What a job did in some stretch of time."""

    seconds: float
    items: int
    busy: dict[str, float]  # step -> share of its workers' time, 0 to 1
    limit: str | None  # the step that the others wait for; None where nothing was done

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        busy = ", ".join(f"{step} {share:.0%}" for step, share in self.busy.items())
        limit = f", the limit is {self.limit}" if self.limit else ""
        return f"{self.rate:,.1f} items/s{limit} (busy: {busy})"


@dataclass(frozen=True, slots=True)
class _Mark:
    """The counts at one instant."""

    at: float
    items: int
    busy: dict[str, float]


class Meter:
    """Counts items and the seconds that each step is busy; many threads may report to it."""

    def __init__(self, label: str, total: int, crews: Crews) -> None:
        self._label, self._total, self._crews = label, total, crews
        self._lock = threading.Lock()
        self._items = 0
        self._busy = {step: 0.0 for steps in crews for step in steps}
        self._open: dict[str, float] = {}  # step -> since when its one worker is busy
        self._start = self._mark()

    def advance(self, items: int = 1) -> None:
        """So many more items are done."""
        with self._lock:
            self._items += items

    def add(self, step: str, seconds: float) -> None:
        """Somebody has worked at `step` for so long."""
        with self._lock:
            self._busy[step] += seconds

    @contextlib.contextmanager
    def busy(self, step: str) -> Iterator[None]:
        """The one worker of `step` is at work."""
        self._begin(step)
        try:
            yield
        finally:
            self._end(step)

    @contextlib.contextmanager
    def waiting(self, step: str) -> Iterator[None]:
        """Within `busy`: the one worker of `step` waits for another step."""
        self._end(step)
        try:
            yield
        finally:
            self._begin(step)

    def worked(self) -> dict[str, float]:
        """Seconds that each step was busy so far."""
        return self._mark().busy

    def lap(self) -> Lap:
        """All that was done so far."""
        return self._between(self._start, self._mark())

    @contextlib.contextmanager
    def reporting(self, interval: float = INTERVAL) -> Iterator[None]:
        """Log a line every `interval` seconds, about that stretch alone, even if nothing moves."""
        ended = threading.Event()

        def report() -> None:
            last = self._mark()
            while not ended.wait(interval):
                mark = self._mark()
                log.info("%s", self._line(self._between(last, mark), mark.items))
                last = mark

        thread = threading.Thread(target=report, name="meter", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _begin(self, step: str) -> None:
        with self._lock:
            self._open[step] = time.perf_counter()

    def _end(self, step: str) -> None:
        with self._lock:
            self._busy[step] += time.perf_counter() - self._open.pop(step)

    def _mark(self) -> _Mark:
        with self._lock:
            now = time.perf_counter()
            busy = dict(self._busy)
            for step, since in self._open.items():
                busy[step] += now - since
            return _Mark(now, self._items, busy)

    def _between(self, first: _Mark, last: _Mark) -> Lap:
        seconds = last.at - first.at
        worked = {step: last.busy[step] - first.busy[step] for step in last.busy}
        shares = {
            step: worked[step] / (workers * seconds) if seconds > 0 else 0.0
            for steps, workers in self._crews.items()
            for step in steps
        }
        busiest = max(self._crews, key=lambda steps: sum(shares[step] for step in steps))
        limit = max(busiest, key=lambda step: shares[step])
        return Lap(seconds, last.items - first.items, shares, limit if shares[limit] > 0 else None)

    def _line(self, lap: Lap, items: int) -> str:
        left = f"{duration((self._total - items) / lap.rate)} left" if lap.items else "no item finished"
        return f"{self._label}: {items:,} of {self._total:,} items, {left}; {lap}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `5 h 12 min` or `3 d 4 h`."""
    whole = round(seconds)
    for size, unit, lower_size, lower in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // lower_size} {lower}"
    return f"{whole} s"
